//! The floor of the house: every `unsafe` block, every raw syscall, and the one error type.
//!
//! It never decides anything: no defaults, no policy, no knowledge of containers or images.
//!
//! ```text
//! engine, image, runtime, cgroup
//!    │  values in, values or `Error` out
//!    ▼
//! tare-sys ── syscalls ──▶ kernel
//! ```

pub mod arena;
pub mod bpf;
pub mod channel;
pub mod disk;
pub mod error;
pub mod exe;
pub mod iptables;
pub mod link;
pub mod loop_device;
pub mod mount;
pub mod netlink;
pub mod path;
pub mod process;
pub mod quota;
pub mod rootless;
pub mod scheduler;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod time;
pub mod tty;

pub use error::{Context, Error, Kind, Result};
