//! tare: words in, containers out. What an empty field of a request means is the engine's affair, not decided here.
//!
//! `words ─▶ tree (which command) ─▶ flag (what was given) ─▶ run, ps, … ─▶ tare-engine ─▶ table, template ─▶ stdout`
//!
//! Called as `tare-oci` it is an OCI runtime instead, a drop-in for runc: see `oci`.
#![forbid(unsafe_code)]

mod container;
mod image;
mod network;
mod oci;
mod print;
mod role;
mod system;
mod volume;
mod words;

#[global_allocator]
static ARENA: tare_sys::arena::Arena = tare_sys::arena::Arena::new();

fn main() -> std::process::ExitCode {
    role::play(std::env::args_os().collect(), &ARENA).into()
}
