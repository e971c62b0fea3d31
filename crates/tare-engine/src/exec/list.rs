//! Which programs run in a container by `exec`, for `inspect`. Nobody writes them down: each has a reaper of ours beside
//! it, which is found among the container's processes.

use std::fs;
use std::os::unix::fs::MetadataExt;

use tare_image::Digest;
use tare_sys::process;

use crate::container::Record;

/// What a reaper calls itself: see `tare_runtime::init::watch_over`.
const REAPER: &str = "tare-reaper";

/// Ids of those that run, in no order: made from what names a process for good.
pub fn running(record: &Record) -> Vec<String> {
    let Ok(hierarchies) = tare_cgroup::Hierarchies::discover() else { return Vec::new() };
    let pids = crate::cgroup::open(&hierarchies, record).processes().unwrap_or_default();
    let of_file = |path: &str| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let Some(own) = of_file("/proc/self/exe") else { return Vec::new() };
    let id = |pid: i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        // Any process can take the name, and none inside can be this program.
        if name.trim_end() != REAPER || of_file(&format!("/proc/{pid}/exe")) != Some(own) {
            return None;
        }
        // One whose program has ended, and which stays for what that left behind, has no file open any more.
        fs::read_dir(format!("/proc/{pid}/fd")).ok()?.next()?.ok()?;
        let began = process::began(pid)?;
        Some(Digest::of(format!("{} {pid} {began}", record.id).as_bytes()).hex().to_owned())
    };
    pids.into_iter().filter_map(|pid| id(pid.as_raw_nonzero().get())).collect()
}
