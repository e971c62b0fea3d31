//! What is measured: pieces of work that a caller of a runtime would wait for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, mount, mount_bind, unmount};
use serde_json::{Value, json};
use tare_tests::engine::bundle;

use crate::bench::measure::{Stopwatch, Work, reap_the_rest, ticks_of_children};
use crate::bench::oci::MANY;
use crate::bench::oci::runtime::Runtime;
use crate::workspace;

/// The filter that Docker 20.10 hands to a runtime for a container with its default capabilities.
const DOCKERS_SECCOMP: &str = include_str!("seccomp-docker.json");
/// How long a container that was told to end may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Mounts on the host that have nothing to do with the container.
const OTHER_MOUNTS: usize = 1000;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `run`.
    Run,
    /// `run` with Docker's seccomp profile.
    RunSeccomp,
    /// `exec` of the program in a running container.
    Exec,
    /// `create`, `start`, `delete`.
    CreateStartDelete,
    /// `run`, on a host with many other mounts.
    RunAmongMounts,
    /// A hundred `run`, one after the other.
    Sequence,
    /// A hundred `run`, all started at once.
    SideBySide,
}

impl Kind {
    /// All, in the order of the report.
    pub const ALL: [Kind; 7] = [
        Kind::Run,
        Kind::RunSeccomp,
        Kind::Exec,
        Kind::CreateStartDelete,
        Kind::RunAmongMounts,
        Kind::Sequence,
        Kind::SideBySide,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Run => "run",
            Kind::RunSeccomp => "run with Docker's seccomp profile",
            Kind::Exec => "exec",
            Kind::CreateStartDelete => "create + start + delete",
            Kind::RunAmongMounts => "run among 1,000 other mounts",
            Kind::Sequence => "100 in sequence, for each",
            Kind::SideBySide => "100 side by side, for each",
        }
    }

    /// For a path and for JSON.
    pub fn folder(self) -> &'static str {
        match self {
            Kind::Run => "run",
            Kind::RunSeccomp => "run_seccomp",
            Kind::Exec => "exec",
            Kind::CreateStartDelete => "create_start_delete",
            Kind::RunAmongMounts => "run_among_mounts",
            Kind::Sequence => "sequence",
            Kind::SideBySide => "side_by_side",
        }
    }

    /// How many times faster than a peer it is meant to be.
    pub fn goal(self, peer: &str) -> Option<f64> {
        match (self, peer) {
            (Kind::Run, "crun") => Some(2.5),
            (Kind::Run, "runc") => Some(8.0),
            (Kind::RunSeccomp, "crun") => Some(4.0),
            (Kind::Exec | Kind::CreateStartDelete, "crun") => Some(2.0),
            _ => None,
        }
    }

    /// The number of containers, where it is measured for many at a time.
    pub fn many(self) -> Option<usize> {
        matches!(self, Kind::Sequence | Kind::SideBySide).then_some(MANY)
    }

    fn spec(self) -> Result<Value> {
        let mut spec = bundle::spec(&["/true"]);
        if self == Kind::RunSeccomp {
            spec["linux"]["seccomp"] = serde_json::from_str(DOCKERS_SECCOMP).context("Docker's profile")?;
        }
        Ok(spec)
    }
}

/// One kind of work for one runtime.
pub struct Scenario<'a> {
    kind: Kind,
    runtime: &'a Runtime,
    bundle: String,
    /// The container that `exec` works in.
    running: Option<String>,
    mounts: Option<Mounts>,
}

/// Writes a bundle with this spec; the root folder is the same for all.
pub fn write_bundle(folder: &Path, spec: &Value) -> Result<String> {
    fs::create_dir_all(folder)?;
    let mut spec = spec.clone();
    let root = folder.parent().context("the folder lies in the scratch folder")?.join("root");
    spec["root"]["path"] = json!(root);
    fs::write(folder.join("config.json"), spec.to_string())?;
    Ok(folder.display().to_string())
}

impl<'a> Scenario<'a> {
    /// Makes everything that is not measured.
    pub fn prepare(kind: Kind, runtime: &'a Runtime, folder: &Path) -> Result<Scenario<'a>> {
        let bundle = write_bundle(folder, &kind.spec()?)?;
        let mut scenario = Scenario { kind, runtime, bundle, running: None, mounts: None };
        if kind == Kind::RunAmongMounts {
            // Once for all runtimes: those of the first are there for the others as well.
            let place = folder.join("mounts");
            scenario.mounts = (!place.exists()).then(|| Mounts::make(&place)).transpose()?;
        }
        if kind == Kind::Exec {
            let mut spec = kind.spec()?;
            spec["process"]["args"] = json!(["/bin/sleep", "3600"]);
            let bundle = write_bundle(&folder.with_file_name("exec_running"), &spec)?;
            let id = runtime.id();
            // Its streams must be no pipe of ours, or we would wait for their end.
            let mut command = runtime.command(&["create", "--bundle", &bundle, &id]);
            workspace::run(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
            scenario.running = Some(id.clone());
            workspace::run(&mut runtime.command(&["start", &id]))?;
        }
        Ok(scenario)
    }

    /// So many containers; wall and processor time of all together.
    pub fn many(&self, count: usize) -> Result<(Duration, Duration)> {
        let quiet = |command: &mut Command| -> Result<Child> {
            let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().context("starting a runtime")
        };
        let before = ticks_of_children()?;
        let start = Instant::now();
        let mut codes = Vec::new();
        if self.kind == Kind::Sequence {
            for _ in 0..count {
                codes.push(quiet(&mut self.run())?.wait()?);
            }
        } else {
            let children: Vec<Child> = (0..count).map(|_| quiet(&mut self.run())).collect::<Result<_>>()?;
            for mut child in children {
                codes.push(child.wait()?);
            }
        }
        let wall = start.elapsed();
        reap_the_rest()?;
        let failed = codes.iter().filter(|code| !code.success()).count();
        ensure!(failed == 0, "{failed} of {count} containers of {} did not end with 0", self.runtime.name);
        let ticks = ticks_of_children()? - before;
        let cpu = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok((wall, Duration::from_secs_f64(cpu)))
    }

    fn run(&self) -> Command {
        self.runtime.command(&["run", "--bundle", &self.bundle, &self.runtime.id()])
    }
}

impl Work for Scenario<'_> {
    fn once(&self, stopwatch: &mut Stopwatch<'_>) -> Result<()> {
        match (self.kind, &self.running) {
            (Kind::Exec, Some(id)) => stopwatch.time(self.runtime.command(&["exec", id, "/true"])),
            (Kind::CreateStartDelete, _) => {
                let id = self.runtime.id();
                let pid_file = format!("{}/{id}.pid", self.bundle);
                let words = ["create", "--bundle", &self.bundle, "--pid-file", &pid_file, &id];
                stopwatch.time_and_leave(self.runtime.command(&words), Path::new(&pid_file))?;
                stopwatch.time(self.runtime.command(&["start", &id]))?;
                // The container's own end is not the runtime's work: its process is a child of ours now.
                reap_the_rest()?;
                stopwatch.time(self.runtime.command(&["delete", &id]))
            }
            _ => stopwatch.time(self.run()),
        }
    }

    fn ends(&self) -> bool {
        self.running.is_none()
    }
}

impl Drop for Scenario<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.running {
            let mut command = self.runtime.command(&["delete", "--force", id]);
            // If this fails the container stays, and `reap_the_rest` complains about it.
            let _ = command.stdin(Stdio::null()).status();
            let start = Instant::now();
            while reap_the_rest().is_err() && start.elapsed() < PATIENCE {}
        }
    }
}

/// Mounts that are in nobody's way; they go when this does.
struct Mounts(PathBuf);

impl Mounts {
    fn make(place: &Path) -> Result<Mounts> {
        fs::create_dir_all(place)?;
        mount("tare-bench", place, "tmpfs", rustix::mount::MountFlags::empty(), None)
            .context("mounting a tmpfs")?;
        let mounts = Mounts(place.to_owned());
        for number in 0..OTHER_MOUNTS {
            let folder = place.join(number.to_string());
            fs::create_dir(&folder)?;
            mount_bind(&folder, &folder).context("making other mounts")?;
        }
        Ok(mounts)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        // The mount namespace ends with this process anyway.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
