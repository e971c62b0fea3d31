//! What a reboot does to tare's state, without one.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::eventually;
use crate::process::{Process, signal};

/// All `processes` of the engine and the containers' `pids` end at once, the runtime folder `run` is empty, and the boot has
/// another id than the containers in `state` know.
#[track_caller]
pub fn reboot(state: &Path, run: &Path, processes: impl Fn() -> Vec<Process>, pids: &[i32]) {
    for process in processes() {
        process.kill();
    }
    for pid in pids.iter().filter(|pid| **pid != 0) {
        signal(*pid, Signal::KILL);
    }
    eventually("all are dead", || processes().is_empty());
    for entry in fs::read_dir(run).expect("the runtime folder").flatten() {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.expect("emptying the runtime folder");
    }
    for container in fs::read_dir(state.join("containers")).expect("containers").flatten() {
        let path = container.path().join("status.json");
        let mut status: Value =
            serde_json::from_slice(&fs::read(&path).expect("its status")).expect("its status is JSON");
        status["Boot"] = "an earlier one".into();
        fs::write(&path, status.to_string()).expect("writing its status");
    }
}
