//! The name server of a running container: its monitor opens it, and who connects the container to another
//! network tells it.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use tare_network::Connection;
use tare_network::host_socket::HostSockets;
use tare_network::names::{Attachment, Config, Directory, Server, Sockets};
use tare_sys::Result;

use crate::container::{Folders, Record, Roots};
use crate::links;

/// Opens it. `led`: see [`Config::led`]; `sockets`: those of the server that this
/// one goes on for.
pub fn open(
    roots: &Roots,
    record: &Record,
    connections: &[Connection],
    netns: BorrowedFd<'_>,
    led: bool,
    sockets: Option<Sockets>,
) -> Result<Server> {
    let folders = tare_network::Folders::new(&roots.state, &roots.run);
    let named: Vec<IpAddr> =
        record.request.host_config.dns.iter().filter_map(|address| address.parse().ok()).collect();
    let config = Config {
        netns,
        led,
        directory: Directory::new(folders, attachments(connections), changes(roots, &record.id))
            .linked(links::of(record)),
        named: &named,
        resolv_conf: Path::new("/etc/resolv.conf"),
        host: HostSockets::of(&roots.run),
    };
    match sockets {
        Some(sockets) => Server::go_on(config, sockets),
        None => Server::open(config),
    }
}

/// Tells the name server of a running container on which networks it is from now on.
pub fn tell(roots: &Roots, id: &str, connections: &[Connection]) -> Result<()> {
    Directory::write_changes(&changes(roots, id), &attachments(connections))
}

/// Whether a container that runs was given a name server at its start.
pub fn answers(folders: &Folders) -> bool {
    let line = format!("nameserver {}", tare_network::names::ADDRESS);
    let text = std::fs::read_to_string(folders.run.join("resolv.conf")).unwrap_or_default();
    text.lines().any(|found| found == line)
}

/// For a container that starts, perhaps again: it is on what it starts on.
pub fn forget(roots: &Roots, id: &str) {
    let _ = std::fs::remove_file(changes(roots, id));
}

/// Whether a container that runs was put on other networks since its start.
pub fn was_told(roots: &Roots, id: &str) -> bool {
    changes(roots, id).exists()
}

fn changes(roots: &Roots, id: &str) -> PathBuf {
    roots.folders(id).run.join("networks.json")
}

fn attachments(connections: &[Connection]) -> Vec<Attachment> {
    let attachment = |Connection { network, .. }: &Connection| Attachment {
        network_id: network.id.clone(),
        name: network.name.clone(),
        internal: network.internal,
    };
    connections.iter().map(attachment).collect()
}
