//! tare: words in, containers out. What an empty field of a request means is the engine's affair, not decided here.
//!
//! `words ─▶ tree (which command) ─▶ flag (what was given) ─▶ run, ps, … ─▶ tare-engine ─▶ table, template ─▶ stdout`
#![forbid(unsafe_code)]

mod containers;
mod failure;
mod flag;
mod help;
mod human;
mod images;
mod import;
mod info;
mod parse;
mod ps;
mod run;
mod table;
mod template;
mod terminal;
mod tree;

#[global_allocator]
static ARENA: tare_sys::arena::Arena = tare_sys::arena::Arena::new();

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(tree::dispatch(std::env::args_os().collect()))
}
