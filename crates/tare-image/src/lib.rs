//! Images: names, the content store, and the safe unpacking of archives that strangers made.
//!
//! It never starts anything, never talks to a container, and never believes what an archive says: names,
//! links, numbers and sizes in it are checked before use, and paths are resolved by the kernel inside the
//! tree being unpacked ([`tare_sys::path::Root`]). What uses an image (a container) is the engine's to know.
//!
//! ```text
//! a root file system's tar ─▶ store::import ─┐
//! archive (docker save, OCI layout) ─┐       │  each layer: unpack::input (hash, inflate, limits)
//!                                    │       ├─▶            ├─▶ unpack (tar → tree)
//!      documents (manifest, config) ─┴▶ store::take         └─▶ the same bytes, as they came: a blob
//!                                            │
//!                     one syncfs, then renames ─▶ blobs/sha256/…, layers/<diff id>/ ─▶ ids/…, names/… ─▶ index.json
//! tare run NAME ─▶ ImageStore::resolve ─▶ one file of names/ ─▶ RunRecord
//! tare save     ─▶ archive::save: documents and blobs, as they are
//! ```
#![forbid(unsafe_code)]

pub mod archive;
pub mod config;
pub mod digest;
pub mod documents;
pub mod layout;
pub mod pack;
mod recipe;
pub mod reference;
pub mod registry;
pub mod store;
pub mod unpack;

pub use config::{Change, Healthcheck, ImageConfig, Platform};
pub use digest::Digest;
pub use reference::Reference;
pub use store::{Image, ImageStore, ImportOptions, Progress, Removed, RunRecord};
pub use unpack::{Compression, Limits};
