//! Recovery: what a killed tare process left half done is found and finished by the next command.
//!
//! A container whose run folder nobody has locked has nobody in charge. Its own files say what it had, so the
//! sweep needs no journal: *list, compare, undo*.
//!
//! | found | done |
//! |---|---|
//! | in the trash | removed to the end |
//! | half made: no `status.json` | removed: nobody was told of it |
//! | running, and its process is alive, or about to be started again | a new monitor takes over |
//! | running, and its process is gone | recorded as ended with an unknown exit code, its kernel objects undone; removed if it was to be |
//! | created or ended, with a run folder | killed on the way to a start or from an end: what the start made is undone |
//! | a name that no container has, or one that a rename has left to it beside its own | given back |
//! | a network in the pool that is half made, not as the network is now, or of a container that is gone | taken apart |
//! | an id range, an address, a published port held by one that does not run | given back |

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use tare_sys::process::{self, Side};
use tare_sys::{Kind, Result};

use crate::container::{Folders, Lock, Record, Roots, State, Status};
use crate::events;
use crate::monitor;
use crate::range::Range;
use crate::removal::{self, names};
use tare_sys::time::Moment;

/// Sweeps now.
pub fn sweep(roots: &Roots) -> Result<()> {
    if crate::machine::is_in_hosts_network() {
        // What is to be undone may be in the machine's network, out of our reach.
        return Ok(());
    }
    for id in names(&roots.state.join("trash")) {
        tend(roots, &id, true);
    }
    // Of thousands of containers few run, and only these have a run folder, unless a boot has taken them all.
    let stamp = stamp(roots);
    let booted = !stamp.exists();
    for id in names(&roots.state.join("containers")) {
        if booted || !rests(roots, &id) {
            tend(roots, &id, false);
        }
    }
    if booted {
        let _ = fs::write(&stamp, "");
    }
    sweep_names(roots);
    events::rotate(roots);
    // Before its claims.
    crate::warm::sweep(roots);
    sweep_ranges(roots);
    crate::volume::sweep(roots);
    crate::network::sweep_networks(roots);
    // A run folder without its container: killed between the two, or by a reboot that kept /run.
    for id in names(&roots.run.join("containers")) {
        let folders = roots.folders(&id);
        if !folders.state.exists()
            && !roots.state.join("trash").join(&id).exists()
            && let Ok(Some(_lock)) = folders.lock()
            && !folders.state.exists()
        {
            removal::delete_run_folder(&folders);
        }
    }
    Ok(())
}

/// Whether a container has neither been left half made nor half way to or from a run, told by two names alone.
fn rests(roots: &Roots, id: &str) -> bool {
    let folders = roots.folders(id);
    !folders.run.exists() && folders.has_status()
}

/// Tells when the last sweep was, and that there was one since the run folder was made.
fn stamp(roots: &Roots) -> PathBuf {
    roots.run.join("swept")
}

/// Sweeps, but at most once a second: for the start of a container, of which there may be hundreds.
pub fn sometimes(roots: &Roots) {
    let stamp = stamp(roots);
    if let Ok(then) = fs::metadata(&stamp).and_then(|meta| meta.modified()) {
        if SystemTime::now().duration_since(then).is_ok_and(|age| age < Duration::from_secs(1)) {
            return;
        }
        // Before, so that the others who start one just now do not sweep as well.
        let _ = fs::write(&stamp, "");
    }
    if has_much_to_do(roots) {
        aside(|| drop(sweep(roots)));
    } else {
        let _ = sweep(roots);
    }
}

/// Whether somebody was killed on the way: there may be a large layer to delete.
fn has_much_to_do(roots: &Roots) -> bool {
    let left = |id: &String| match roots.folders(id).lock() {
        Ok(lock) => lock.is_some(),
        Err(err) => err.kind() == Kind::NotFound,
    };
    let half_way = |id: &String| !rests(roots, id) && left(id);
    names(&roots.state.join("trash")).iter().any(left)
        || names(&roots.state.join("containers")).iter().any(half_way)
}

/// Does something that may take long in a process of its own, which nobody has to wait for: a monitor has others to serve.
fn aside(work: impl FnOnce()) {
    match process::clone(0, None) {
        Ok(Side::Parent(child)) => drop(process::wait(child.pidfd.as_fd())),
        Ok(Side::Child) => {
            // Nothing that the monitor holds may be held for longer.
            if matches!(process::fork(), Ok(None)) && process::close_from(3).is_ok() {
                work();
            }
            process::exit_now(0)
        }
        Err(_) => work(),
    }
}

/// Finds out what became of one container, and sees to it.
pub(crate) fn tend(roots: &Roots, id: &str, in_trash: bool) {
    let folders = roots.folders(id);
    let lock = match folders.lock() {
        Ok(Some(lock)) => lock,
        // Somebody is in charge, or it cannot be told: leave it.
        Ok(None) => return,
        // One that does not run needs no run folder; one that is said to run has lost it to a reboot.
        Err(err) if err.kind() == Kind::NotFound => {
            let rests = |status: Status| !status.runs() && status.state != State::Restarting;
            if !in_trash && folders.status().is_ok_and(|status| status.is_some_and(rests)) {
                return;
            }
            match folders.lock_or_make() {
                Ok(lock) => lock,
                Err(_) => return,
            }
        }
        Err(_) => return,
    };
    if !in_trash && !folders.state.exists() {
        return removal::delete_run_folder(&folders);
    }
    if in_trash {
        return removal::empty(roots, id);
    }
    let record = match folders.record() {
        Ok(record) => record,
        // Not even written down. One that is damaged is left for a person.
        Err(err) if err.kind() == Kind::NotFound => {
            removal::move_folder(roots, id);
            return removal::empty(roots, id);
        }
        Err(_) => return,
    };
    let Ok(status) = folders.status() else { return };
    match status {
        None => removal::undo(roots, &record),
        Some(status) if status.restarts() => {
            undo_start(roots, &record, &status);
            let _ = monitor::adopt::start(roots, id, &lock);
        }
        Some(status) if status.runs() || status.state == State::Restarting => {
            if status.remains().is_some() {
                // The container does not notice: what it wrote waits in its FIFOs.
                let _ = monitor::adopt::start(roots, id, &lock);
                return;
            }
            if record.request.host_config.auto_remove {
                return removal::discard(roots, &record);
            }
            let mut ended = Status {
                state: State::Exited,
                pid: 0,
                finished: Moment::now().to_string(),
                exit_code: None,
                error: "its monitor was killed, so nobody saw how it ended".to_owned(),
                ..status
            };
            // What is to be started again after a boot is `tare system boot`'s affair.
            let again = ended.boot == tare_sys::process::boot_id()
                && monitor::restart::after(
                    &record.request.host_config.restart_policy,
                    &mut ended,
                    None,
                    Instant::now(),
                )
                .is_some();
            if folders.note_status(&ended).is_err() {
                return;
            }
            // As in inspect: nobody saw it.
            events::emit(roots, &events::Event::container(&record, "die").with("exitCode", 255));
            if again {
                undo_start(roots, &record, &ended);
                let _ = monitor::adopt::start(roots, id, &lock);
            } else {
                put_away(&record, &folders);
                crate::volume::unmount_unused(roots, &record.id, &record.mounts);
            }
        }
        Some(_) => put_away(&record, &folders),
    }
}

/// Undoes what a life has left that nobody saw the end of: the next one wants the same address and ports.
fn undo_start(roots: &Roots, record: &Record, status: &Status) {
    removal::remove_cgroup(record);
    removal::release_range(roots, &record.id, status);
    crate::network::leave(roots, &record.id);
}

/// Undoes what a start has made, of a container that does not run.
fn put_away(record: &Record, folders: &Folders) {
    removal::remove_cgroup(record);
    removal::delete_run_folder(folders);
}

/// Lets go of names that their containers do not have. There are more names than containers then, so nothing else is
/// looked at where there are not.
fn sweep_names(roots: &Roots) {
    let links = names(&roots.state.join("names"));
    if links.len() <= names(&roots.state.join("containers")).len() {
        return;
    }
    for name in links {
        // Whoever sweeps may have it locked, or may be waited for by who has.
        free_name_with(roots, &name, Folders::try_change);
    }
}

/// Lets go of a name that its container does not have. The caller does not change a container just now.
pub(crate) fn free_name(roots: &Roots, name: &str) {
    free_name_with(roots, name, |folders| folders.change().map(Some));
}

fn free_name_with(roots: &Roots, name: &str, change: impl Fn(&Folders) -> Result<Option<Lock>>) {
    let Ok(id) = fs::read_link(roots.state.join("names").join(name)) else { return };
    let id = id.to_string_lossy();
    let folders = roots.folders(&id);
    let stale = match change(&folders) {
        // Who renames it has it locked.
        Ok(None) => false,
        // A container that is being made has no record yet.
        Ok(Some(_alone)) => folders.record().is_ok_and(|record| record.name != name),
        Err(err) => err.kind() == Kind::NotFound,
    };
    if stale {
        roots.release_name(name, &id);
    }
}

/// Whether a container runs, or somebody is in charge of it.
pub fn is_there(roots: &Roots, id: &str) -> bool {
    let folders = roots.folders(id);
    match folders.lock() {
        // Somebody is in charge of it.
        Ok(None) => true,
        Ok(Some(_)) | Err(_) => {
            folders.status().is_ok_and(|status| status.is_some_and(|status| status.process().is_some()))
        }
    }
}

/// Lets go of ranges whose holders do not run.
fn sweep_ranges(roots: &Roots) {
    let ranges = roots.run.join("ranges");
    for range in names(&ranges) {
        for id in names(&ranges.join(&range)) {
            let folders = roots.folders(&id);
            let _lock = match folders.lock() {
                Ok(None) => continue,
                Ok(Some(lock)) => Some(lock),
                Err(err) if err.kind() == Kind::NotFound => None,
                Err(_) => continue,
            };
            let runs =
                folders.status().is_ok_and(|status| status.is_some_and(|status| status.process().is_some()))
                    || crate::warm::holds(roots, &id);
            if let (false, Ok(number)) = (runs, range.parse()) {
                Range::numbered(&roots.run, number).release(&id);
            }
        }
        // One whose claimant was killed before it wrote its name there; one that is held is not empty.
        let _ = fs::remove_dir(ranges.join(range));
    }
}
