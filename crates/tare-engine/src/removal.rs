//! Removing a container, in an order that a kill at any point leaves repairable: first its folder goes to the
//! trash, whole, then what it owned is undone, and the folder, which names all that, goes last.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use tare_cgroup::{Cgroup, Hierarchies};

use crate::container::{Folders, Record, Roots, State, Status, make_folder, read_json};
use crate::events::Event;
use crate::range::Range;
use crate::volume;

/// Removes the container and all that it owned. Nothing here can be refused: what does not go now is tried
/// again by the next sweep.
pub fn discard(roots: &Roots, record: &Record) {
    to_trash(roots, record);
    empty(roots, &record.id);
}

/// Removes a container that nobody was told of, with the volumes that were made for it.
pub fn undo(roots: &Roots, record: &Record) {
    mark_volumes(&roots.folders(&record.id));
    discard(roots, record);
}

/// Makes the container invisible: its id is unknown and its name free. In this order, because a name without a container
/// is swept up, and a container without its name could not be found any more.
pub fn to_trash(roots: &Roots, record: &Record) {
    move_folder(roots, &record.id);
    roots.release_name(&record.name, &record.id);
    crate::events::emit(roots, &Event::container(record, "destroy"));
}

/// Moves a container's folder to the trash, whatever is in it.
pub fn move_folder(roots: &Roots, id: &str) {
    let (from, trash) = (roots.folders(id).state, roots.state.join("trash"));
    if let Err(err) = fs::rename(&from, trash.join(id))
        && err.kind() == ErrorKind::NotFound
        && make_folder(&trash, 0o700).is_ok()
    {
        let _ = fs::rename(&from, trash.join(id));
    }
}

/// Undoes what a container in the trash owned, then deletes it. The caller is in charge of it.
pub fn empty(roots: &Roots, id: &str) {
    let folder = roots.state.join("trash").join(id);
    match read_json::<Record>(&folder.join("container.json")) {
        Ok(Some(record)) => {
            remove_cgroup(&record);
            match read_json::<Status>(&folder.join("status.json")) {
                Ok(Some(status)) if status.state != State::Created => release_range(roots, id, &status),
                // Killed on the way to its first start, when it may have had a range already.
                _ => release_claims(roots, id),
            }
            release_volumes(roots, &record);
        }
        // Killed before it was written down, but perhaps not before it had claimed something.
        _ => {
            crate::storage::release(&folder);
            // Or its record is damaged, and it runs.
            if let Ok(hierarchies) = Hierarchies::discover()
                && let Some(cgroup) = crate::cgroup::usual(&hierarchies, id)
            {
                kill_and_remove(&cgroup);
            }
            release_claims(roots, id);
            volume::discard_anonymous(roots, id, &folder);
        }
    }
    delete_trash(roots, id);
}

/// In a container's folder: its anonymous volumes go with it.
const WITH_VOLUMES: &str = "with-volumes";

/// Notes that the container's anonymous volumes are to go with it, so that a kill half way does not forget them.
pub fn mark_volumes(folders: &Folders) {
    let _ = fs::File::create(folders.state.join(WITH_VOLUMES));
}

/// Gives up the volumes of a container in the trash, and what limits its layer; those that were made for it go, if it or its remover said so.
pub fn release_volumes(roots: &Roots, record: &Record) {
    let folder = roots.state.join("trash").join(&record.id);
    if !record.request.host_config.storage_opt.is_empty() {
        crate::storage::release(&folder);
    }
    if record.mounts.is_empty() {
        return;
    }
    volume::unmount_unused(roots, &record.id, &record.mounts);
    if record.request.host_config.auto_remove || folder.join(WITH_VOLUMES).exists() {
        volume::discard_anonymous(roots, &record.id, &folder);
    }
    volume::leave(roots, record);
}

/// Deletes what is left of a container in the trash that owns nothing any more.
pub fn delete_trash(roots: &Roots, id: &str) {
    delete(&roots.state.join("trash").join(id), &LEAST);
    delete_run_folder(&roots.folders(id));
}

/// Deletes the run folder of a container that does not run. The caller is in charge of it.
pub fn delete_run_folder(folders: &Folders) {
    let names = ["control", "stdin", "stdout", "stderr", "hosts", "hostname", "resolv.conf", "networks.json"];
    delete(&folders.run, &names);
}

/// What a container that wrote nothing has in its folder, children before parents. Most short-lived ones are
/// like that, and naming it costs a tenth of listing it.
const LEAST: [&str; 10] = [
    "rw/work/work/incompat/volatile/dirty",
    "rw/work/work/incompat/volatile/",
    "rw/work/work/incompat/",
    "rw/work/work/",
    "rw/work/",
    "rw/upper/",
    "rw/",
    "container.json",
    "status.json",
    "log.json",
];

fn delete(folder: &Path, likely: &[&str]) {
    for name in likely {
        let path = folder.join(name);
        // One that is not there or not empty is left to the walk below.
        let _ = if name.ends_with('/') { fs::remove_dir(path) } else { fs::remove_file(path) };
    }
    if fs::remove_dir(folder).is_err() {
        let _ = fs::remove_dir_all(folder);
    }
}

/// Removes the container's cgroup, and whoever is still in it.
pub fn remove_cgroup(record: &Record) {
    let Ok(hierarchies) = Hierarchies::discover() else { return };
    kill_and_remove(&crate::cgroup::open(&hierarchies, record));
}

fn kill_and_remove(cgroup: &Cgroup) {
    let _ = cgroup.kill();
    let _ = cgroup.remove();
}

/// Finds and gives back what a container has claimed whose own record does not say.
fn release_claims(roots: &Roots, id: &str) {
    for name in names(&roots.state.join("names")) {
        roots.release_name(&name, id);
    }
    for range in names(&roots.run.join("ranges")) {
        if let Ok(number) = range.parse() {
            Range::numbered(&roots.run, number).release(id);
        }
    }
}

/// The names in a folder; none where there is no such folder.
pub fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default()
}

/// Gives its id range back.
pub fn release_range(roots: &Roots, id: &str, status: &Status) {
    if let Some(base) = status.base {
        Range::based(&roots.run, base).release(id);
    }
}
