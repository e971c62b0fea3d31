//! What the image store does to real files: archives are made byte by byte, imported into a store in a
//! temporary folder, and the tree that comes out is looked at. Most of it needs root, for owners and devices.
#![forbid(unsafe_code)]

mod archive;
mod compressed;
mod differential;
mod documents;
mod faults;
mod hostile;
mod mutations;
mod round_trip;
mod sparse;
mod store;
mod take;
