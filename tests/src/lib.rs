//! Support for the behaviour tests: they drive the real binary on a real kernel, as a user would.
//!
//! It never calls into the crates of the house. A test makes a [`Host`] (state roots of its own, so tests run
//! side by side), brings an image, runs commands, looks at what came out:
//!
//! ```no_run
//! let host = tare_tests::Host::new();
//! host.busybox();
//! host.tare(["run", "--rm", "busybox", "sh", "-c", "exit 7"]).run().fails(7);
//! ```
//!
//! A test runs in a network of its own ([`machine`]), from its first `Host`, registry or other host on: what it
//! publishes is published there, and the real machine's links and firewall stay as they are.
//!
//! When the `Host` goes, it checks that its containers left nothing on the machine: no process, mount or cgroup.
#![forbid(unsafe_code)]

pub mod attack;
pub mod bundle;
pub mod busybox;
pub mod command;
pub mod debian;
pub mod disk;
pub mod engine;
pub mod fault;
pub mod host;
pub mod machine;
pub mod patience;
pub mod process;
pub mod reboot;
pub mod registry;
pub mod resolver;
pub mod terminal;
pub mod user;

pub use bundle::{Bundle, Receiver};
pub use command::{Outcome, Running, Tare};
pub use host::Host;
pub use patience::stretched;
pub use process::eventually;
pub use reboot::reboot;
pub use terminal::Terminal;
pub use user::User;
