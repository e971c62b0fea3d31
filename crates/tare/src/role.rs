//! Which of its programs this process is: told by the name that it was called by, before anything else is looked at.

use std::ffi::OsString;

use tare_sys::arena::Arena;

use crate::oci;
use crate::words::tree;

/// Does what the words ask for; the value is the exit code.
pub fn play(words: Vec<OsString>, arena: &Arena) -> u8 {
    let is = |name| words.first().is_some_and(|word| word == name);
    if is(tare_engine::MONITOR) {
        // It lives as long as its container.
        arena.close();
        tare_engine::recognize();
        u8::from(tare_engine::monitor_main(&words).is_err())
    } else if is(tare_engine::PROBE) {
        tare_engine::recognize();
        tare_engine::probe_main(&words)
    } else if is(tare_engine::HOLDER) {
        arena.close();
        u8::from(tare_engine::holder_main(&words).is_err())
    } else if is(tare_engine::TERMINAL) {
        arena.close();
        u8::from(tare_engine::terminal_main(&words).is_err())
    } else if oci::is_called(&words) {
        oci::dispatch(words)
    } else {
        tree::dispatch(words)
    }
}
