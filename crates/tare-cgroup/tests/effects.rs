//! Limits and verbs by their effect, in the kernel this runs on. Needs root; prints why it skips otherwise.
//!
//! Every test makes cgroups of its own, named after it and this process, and takes them away even if it panics.
#![forbid(unsafe_code)]

#[path = "effects/cage.rs"]
mod cage;
#[path = "effects/devices.rs"]
mod devices;
#[path = "effects/life.rs"]
mod life;
#[path = "effects/limits.rs"]
mod limits;
#[path = "effects/oci.rs"]
mod oci;
#[path = "effects/systemd.rs"]
mod systemd;
#[path = "effects/unified.rs"]
mod unified;
