//! Networks: bridges, addresses, the firewall, published ports, names and bandwidth.
//!
//! It never starts a container or a helper program, and never touches a rule of the host's own firewall. What
//! it knows of a container is its id, the names it goes by, and its network namespace.
//!
//! ```text
//! network create ─▶ network, pool: <state>/networks/<name>/network.json
//! start   ─▶ endpoint: an address (an exclusive link), names      ─▶ <run>/networks/<id>/…
//!          ▶ port: a bound socket for each published port
//!          ▶ attach ─▶ link: bridge, veth, addresses, routes       ─▶ rtnetlink
//!                  └─▶ firewall: elements of the table `tare`      ─▶ nf_tables, one transaction
//! monitor ─▶ proxy: published ports of IPv6 to a container without; of an ordinary user all
//! monitor ─▶ names: the server at 127.0.0.11; rate: tc
//! end     ─▶ detach; the links go with the network namespace
//! sweep   ─▶ list, compare, undo
//! ```
#![forbid(unsafe_code)]

pub mod attach;
mod client_address;
mod conntrack;
pub mod endpoint;
pub mod firewall;
pub mod folders;
pub mod host_socket;
pub mod link;
pub mod names;
pub mod network;
mod pool;
pub mod port;
pub mod proxy;
pub mod rate;
pub mod subnet;

pub use attach::Connection;
pub use endpoint::Endpoint;
pub use folders::Folders;
pub use network::{Network, Networks};
pub use subnet::Subnet;
