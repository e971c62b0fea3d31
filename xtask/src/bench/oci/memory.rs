//! Memory: the smallest limit that a container starts under, and what is charged to its cgroup.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tare_tests::engine::bundle;

use crate::bench::oci::runtime::Runtime;
use crate::bench::oci::scenario::write_bundle;

/// No limit below this is tried: a container has page tables and a stack.
const LEAST: u64 = 64 << 10;
/// Every runtime starts under this, or there is something else wrong.
const MOST: u64 = 256 << 20;
/// The bisection ends when it is as exact as this.
const EXACT: u64 = 16 << 10;
/// A start must go well so many times in a row.
const TIMES: usize = 3;

/// What was found for one runtime, in bytes.
pub struct Memory {
    /// Whose it is.
    pub runtime: String,
    /// The smallest limit under which `true` runs; none if it does not under 256 MiB.
    pub smallest_limit: Option<u64>,
    /// The most that was charged to the container's cgroup from `create` to the end of `true`.
    pub charged: Option<u64>,
}

/// For all runtimes.
pub fn measure(runtimes: &[Runtime], scratch: &Path) -> Result<Vec<Memory>> {
    println!("\nmemory");
    let folder = scratch.join("memory");
    runtimes
        .iter()
        .map(|runtime| {
            Ok(Memory {
                runtime: runtime.name.clone(),
                smallest_limit: smallest(|limit| starts(runtime, &folder, limit))?,
                charged: charged(runtime, &folder)?,
            })
        })
        .collect()
}

fn spec(id: &str, limit: u64) -> Value {
    let mut spec = bundle::spec(&["/true"]);
    spec["linux"]["resources"]["memory"] = json!({ "limit": limit });
    spec["linux"]["cgroupsPath"] = json!(format!("/{id}"));
    spec
}

fn smallest(works: impl Fn(u64) -> Result<bool>) -> Result<Option<u64>> {
    if !works(MOST)? {
        return Ok(None);
    }
    let (mut fails, mut good) = (LEAST, MOST);
    while good - fails > EXACT {
        let middle = (fails + good) / 2 / 4096 * 4096;
        if works(middle)? {
            good = middle;
        } else {
            fails = middle;
        }
    }
    Ok(Some(good))
}

fn starts(runtime: &Runtime, folder: &Path, limit: u64) -> Result<bool> {
    for _ in 0..TIMES {
        let id = runtime.id();
        let bundle = write_bundle(folder, &spec(&id, limit))?;
        // One that is killed for want of memory may leave its caller waiting.
        let inner = runtime.command(&["run", "--bundle", &bundle, &id]);
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "10"]).arg(inner.get_program()).args(inner.get_args());
        let went_well = quiet(&mut command)?;
        if !went_well {
            quiet(&mut runtime.command(&["delete", "--force", &id]))?;
            remove_cgroups(&id);
            return Ok(false);
        }
    }
    Ok(true)
}

fn charged(runtime: &Runtime, folder: &Path) -> Result<Option<u64>> {
    let id = runtime.id();
    let bundle = write_bundle(folder, &spec(&id, MOST))?;
    let mut create = runtime.command(&["create", "--bundle", &bundle, &id]);
    if !quiet(&mut create)? || !quiet(&mut runtime.command(&["start", &id]))? {
        return Ok(None);
    }
    // A cgroup keeps its figures until it is removed.
    crate::bench::measure::reap_the_rest()?;
    let places = [
        format!("/sys/fs/cgroup/memory/{id}/memory.max_usage_in_bytes"),
        format!("/sys/fs/cgroup/{id}/memory.peak"),
    ];
    let text = places.iter().find_map(|place| fs::read_to_string(place).ok());
    let charged = text.map(|text| text.trim().parse().context("the kernel's figure")).transpose()?;
    quiet(&mut runtime.command(&["delete", "--force", &id]))?;
    Ok(charged)
}

fn quiet(command: &mut Command) -> Result<bool> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status().context("starting a runtime")?.success())
}

/// A runtime that was killed has not removed them.
fn remove_cgroups(id: &str) {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    let all: Vec<PathBuf> = hierarchies.chain([top.to_owned()]).map(|folder| folder.join(id)).collect();
    for folder in all.iter().filter(|folder| folder.is_dir()) {
        // Not ours to insist: what cannot be removed has a process in it.
        let _ = fs::remove_dir(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_is_found_and_what_never_works_is_none() {
        let found = smallest(|limit| Ok(limit >= 3 << 20)).unwrap().unwrap();
        assert!((3 << 20..=(3 << 20) + EXACT).contains(&found), "{found}");
        assert_eq!(smallest(|_| Ok(false)).unwrap(), None);
    }
}
