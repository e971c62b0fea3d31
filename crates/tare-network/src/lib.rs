//! Networks: bridges, addresses, the firewall, published ports, names and bandwidth.
//!
//! It never starts a container or a helper program, and never touches a rule of the host's own firewall. What
//! it knows of a container is its id, the names it goes by, and its network namespace.
//!
//! ```text
//! network create ─▶ network: <state>/networks/<name>/network.json
//! create ─▶ endpoint: an address (an exclusive link), names   ─▶ <run>/networks/<id>/…
//!        └▶ port: a reservation for each published port       ─▶ <run>/ports/…
//! start  ─▶ link: bridge, veth, addresses, routes             ─▶ rtnetlink
//!        └▶ firewall: table `tare`, elements of its maps      ─▶ nf_tables, one transaction
//! monitor ─▶ names: the server at 127.0.0.11; rate: tc
//! sweep  ─▶ list, compare, undo
//! ```
#![forbid(unsafe_code)]

pub mod endpoint;
pub mod folders;
pub mod names;
pub mod network;
pub mod rate;
pub mod subnet;

pub use endpoint::Endpoint;
pub use folders::Folders;
pub use network::Network;
pub use subnet::Subnet;
