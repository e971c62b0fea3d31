//! Where networks lie on disk.
//!
//! ```text
//! <state>/networks/<name>/network.json                     what was asked for; lasts
//! <run>/networks/<network id>/addresses/<address> -> <id>  a link, made exclusively: an address has one owner
//!                             endpoints/<id>.json          what that container has there, and its names
//! <run>/ports/<protocol>-<port>/<address> -> <id>          a published port, reserved
//! <run>/networks.lock                                      flock(2)ed by who makes or removes a network
//! ```

use std::path::{Path, PathBuf};

/// The folders of all networks of one engine.
#[derive(Clone, Debug)]
pub struct Folders {
    /// What must last: the engine's state folder.
    pub state: PathBuf,
    /// What ends with the boot: the engine's run folder.
    pub run: PathBuf,
}

impl Folders {
    /// The folders below an engine's.
    pub fn new(state: &Path, run: &Path) -> Folders {
        Folders { state: state.to_owned(), run: run.to_owned() }
    }

    /// Where the network of this name is written down.
    pub fn network(&self, name: &str) -> PathBuf {
        self.state.join("networks").join(name)
    }

    /// Where the claimed addresses of a network are.
    pub fn addresses(&self, network_id: &str) -> PathBuf {
        self.run.join("networks").join(network_id).join("addresses")
    }

    /// Where the endpoints of a network are.
    pub fn endpoints(&self, network_id: &str) -> PathBuf {
        self.run.join("networks").join(network_id).join("endpoints")
    }

    /// Where reserved ports are.
    pub fn ports(&self) -> PathBuf {
        self.run.join("ports")
    }
}
