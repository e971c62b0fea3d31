//! Who takes part, and with what command line. All run `/bin/true` of the same busybox root.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tare_tests::busybox;

use crate::bench::measure::{Stopwatch, Work};
use crate::workspace::{self, output, program};

/// A runtime under measurement.
pub struct Contender {
    /// As it is called.
    pub name: &'static str,
    /// The first line of what it says about itself.
    pub version: String,
    how: How,
}

/// So many of tare's words name its state roots.
const ROOT_WORDS: usize = 4;

enum How {
    Tare { words: Vec<String>, binary: PathBuf },
    Runtime { binary: PathBuf, state: PathBuf, bundle: PathBuf, next: Cell<u32> },
}

impl Contender {
    /// The command of one run. A bundle runtime wants a fresh id each time.
    pub fn command(&self) -> Command {
        match &self.how {
            How::Tare { words, binary } => {
                let mut command = Command::new(binary);
                command.args(words);
                command
            }
            How::Runtime { binary, state, bundle, next } => {
                let number = next.replace(next.get() + 1);
                let mut command = Command::new(binary);
                command.arg("--root").arg(state).arg("run").arg("--bundle").arg(bundle);
                command.arg(format!("tare-bench-{}-{number}", std::process::id()));
                command
            }
        }
    }

    /// The command line for the report: without folders that nobody will find again.
    pub fn line(&self) -> String {
        match &self.how {
            How::Tare { words, .. } => format!("tare {}", words[ROOT_WORDS..].join(" ")),
            How::Runtime { .. } => format!("{} run ID (bare bundle, /bin/true)", self.name),
        }
    }
}

impl Work for Contender {
    fn once(&self, stopwatch: &mut Stopwatch<'_>) -> Result<()> {
        stopwatch.time(self.command())
    }
}

/// tare first, then the peers that are installed; and the names of those that are not.
pub fn all(scratch: &Path, binary: &Path, image: &str) -> Result<(Vec<Contender>, Vec<&'static str>)> {
    let archive = scratch.join("busybox.tar");
    busybox::archive(&archive).context("making a busybox root")?;
    let mut contenders = vec![tare(scratch, binary, image, &archive)?];
    let mut absent = Vec::new();
    for name in ["crun", "runc"] {
        match program(name) {
            Some(binary) => contenders.push(runtime(name, &binary, scratch, &archive)?),
            None => absent.push(name),
        }
    }
    Ok((contenders, absent))
}

/// crun does not start where a hybrid cgroup tree has controllers in its v2 half, as kernels with hugetlb do.
pub fn peers_need_plain_v1() -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    program("crun").is_some() && !controllers.trim().is_empty()
}

fn tare(scratch: &Path, binary: &Path, image: &str, archive: &Path) -> Result<Contender> {
    let roots: [String; ROOT_WORDS] = [
        "--root".to_owned(),
        scratch.join("root").display().to_string(),
        "--run-root".to_owned(),
        scratch.join("run").display().to_string(),
    ];
    output(Command::new(binary).args(&roots).args(["image", "import"]).arg(archive).arg(image))?;
    let version = first_line(&output(Command::new(binary).arg("--version"))?);
    let mut words = roots.to_vec();
    words.extend(["run", "--network", "none", "--rm", image, "/bin/true"].map(str::to_owned));
    Ok(Contender { name: "tare", version, how: How::Tare { words, binary: binary.to_owned() } })
}

/// A bare bundle of an OCI runtime.
pub fn runtime(name: &'static str, binary: &Path, scratch: &Path, archive: &Path) -> Result<Contender> {
    let bundle = scratch.join(name);
    let rootfs = bundle.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    workspace::run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&rootfs))?;
    output(Command::new(binary).arg("spec").current_dir(&bundle)).with_context(|| format!("{name} spec"))?;
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_str(&fs::read_to_string(&config)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/true"]);
    fs::write(&config, spec.to_string())?;
    let version = first_line(&output(Command::new(binary).arg("--version"))?);
    let state = scratch.join(format!("{name}-state"));
    let how = How::Runtime { binary: binary.to_owned(), state, bundle, next: Cell::new(0) };
    Ok(Contender { name, version, how })
}

/// What a program says about itself begins with its name and version.
pub fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}
