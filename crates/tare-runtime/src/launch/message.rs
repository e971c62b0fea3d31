//! What parent and child say to each other during a launch.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tare_sys::channel::Channel;
use tare_sys::{Error, Kind, Result};

/// Longest message, bytes: an error with two of the longest paths in it.
const LONGEST: usize = 12 * 1024;

/// From the parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToChild {
    /// The id maps are written, the cgroup is entered: root exists.
    Mapped,
    /// The mounts, as files: the root, then `/dev` and the binds in the spec's order.
    Mounts {
        /// `/dev` has no nodes: the parent may not make any, so the host's are to be bound there.
        without_nodes: bool,
    },
    /// The hooks have run.
    Go,
    /// From `start`: execute the program now.
    Start,
}

/// From the child.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromChild {
    /// The real child, cloned from inside the joined user namespace; its pidfd is the file.
    Cloned(i32),
    /// Our side of the container's terminal is the file.
    Terminal,
    /// All is mounted and the host still in sight: time for the hooks that come before pivot_root.
    Attached,
    /// All is set up but the program. What could not quite be given.
    Created(Vec<String>),
    /// The filter's listener will be this fd of the child in a moment.
    Listener(i32),
    /// The next thing is the filter and exec, which closes the channel.
    Ready,
    /// This went wrong.
    Failed(Error),
}

/// Sends one message.
pub fn send<M: Serialize>(channel: &Channel, message: &M, files: &[BorrowedFd<'_>]) -> Result<()> {
    let bytes = serde_json::to_vec(message)
        .map_err(|err| Error::new(Kind::Corrupt, format!("launch message: {err}")))?;
    channel.send(&bytes, files)
}

/// Receives one, over a channel with a patience: when that is over, `stuck` says whether to go on waiting.
pub fn receive_unless<M: DeserializeOwned>(
    channel: &Channel,
    stuck: &dyn Fn() -> Result<()>,
) -> Result<Option<(M, Vec<OwnedFd>)>> {
    loop {
        match receive(channel) {
            Err(err) if err.errno() == Some(Errno::AGAIN) => stuck()?,
            result => return result,
        }
    }
}

/// Receives one; `None` when the other side is gone.
pub fn receive<M: DeserializeOwned>(channel: &Channel) -> Result<Option<(M, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; LONGEST];
    let Some((length, files)) = channel.receive(&mut buffer)? else { return Ok(None) };
    let message = serde_json::from_slice(&buffer[..length])
        .map_err(|err| Error::new(Kind::Corrupt, format!("launch message: {err}")))?;
    Ok(Some((message, files)))
}
