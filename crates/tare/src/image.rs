//! The verbs on images, and on registries, where they come from.

pub mod carry;
pub mod copy;
pub mod filters;
pub mod images;
pub mod import;
pub mod login;
pub mod pull;
pub mod registry;
pub mod verify;
