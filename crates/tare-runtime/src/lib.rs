//! From an OCI spec to a running process: the one launch sequence.
//!
//! It knows specs, namespaces, mounts and processes; it never knows names, images, labels or Docker, and it
//! decides nothing that a spec does not say.
//!
//! ```text
//! spec + rootfs + stdio ──▶ launch ──▶ clone3 ──▶ child: mounts, identity, filter ──▶ exec
//!                              │                        ▲
//!                              └── id maps, root, /dev ─┘
//! ```
#![forbid(unsafe_code)]

mod annotations;
pub mod capability;
pub mod container;
pub mod copy_up;
mod descriptors;
mod devices;
pub mod exe;
mod hooks;
mod idmap;
mod init;
mod label;
pub mod launch;
mod masks;
pub mod mounts;
mod namespaces;
mod netdevices;
mod notify;
mod number_list;
mod pid_file;
mod program;
mod rdt;
mod rlimit;
pub mod rootfs;
mod scheduling;
pub mod seccomp;
mod spec;
mod sysctl;
pub mod user;

pub use launch::{Launch, Running, launch};
