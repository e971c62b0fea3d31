//! Fuzz targets for what strangers send: archives, layers, documents, names. `cargo xtask soak fuzz` runs them.
#![forbid(unsafe_code)]

pub mod harness;
