//! tare: words in, containers out. What an empty field of a request means is the engine's affair, not decided here.
//!
//! `words ─▶ tree (which command) ─▶ flag (what was given) ─▶ run, ps, … ─▶ tare-engine ─▶ table, template ─▶ stdout`
//!
//! Called as `tare-oci` it is an OCI runtime instead, a drop-in for runc: see `oci`.
#![forbid(unsafe_code)]

mod attach;
mod carry;
mod containers;
mod copy;
mod disk;
mod events;
mod exec;
mod export;
mod failure;
mod flag;
mod help;
mod human;
mod image_copy;
mod image_filters;
mod images;
mod import;
mod info;
mod inspect;
mod life;
mod login;
mod network;
mod oci;
mod parse;
mod progress;
mod prompt;
mod prune;
mod ps;
mod pull;
mod registry;
mod run;
mod start;
mod stats;
mod system;
mod table;
mod template;
mod terminal;
mod tree;
mod update;
mod verify;
mod volume;
mod why;

#[global_allocator]
static ARENA: tare_sys::arena::Arena = tare_sys::arena::Arena::new();

fn main() -> std::process::ExitCode {
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let code = if words.first().is_some_and(|name| name == tare_engine::MONITOR) {
        // It lives as long as its container.
        ARENA.close();
        tare_engine::recognize();
        u8::from(tare_engine::monitor_main(&words).is_err())
    } else if words.first().is_some_and(|name| name == tare_engine::PROBE) {
        tare_engine::recognize();
        tare_engine::probe_main(&words)
    } else if words.first().is_some_and(|name| name == tare_engine::HOLDER) {
        ARENA.close();
        u8::from(tare_engine::holder_main(&words).is_err())
    } else if words.first().is_some_and(|name| name == tare_engine::TERMINAL) {
        ARENA.close();
        u8::from(tare_engine::terminal_main(&words).is_err())
    } else if oci::is_called(&words) {
        oci::dispatch(words)
    } else {
        tree::dispatch(words)
    };
    std::process::ExitCode::from(code)
}
