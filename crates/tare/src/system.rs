//! The verbs on tare itself, and on the machine that it runs on.

pub mod boot;
pub mod disk;
pub mod events;
pub mod info;
pub mod prune;
pub mod warm;
