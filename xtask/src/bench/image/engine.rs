//! The engines: tare, Podman, and Docker with a daemon of its own. Each has folders of its own, and nothing of the machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::contender::first_line;
use crate::bench::image::Work;
use crate::bench::image::input::{Image, Inputs};
use crate::workspace::{output, program};

/// How long a daemon may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// One of them.
pub struct Engine {
    name: &'static str,
    /// The program and the words that name its folders.
    words: Vec<String>,
    daemon: Option<Child>,
    /// What dockerd mounts on itself, and leaves.
    mount: Option<PathBuf>,
}

/// A maker of tare's command lines, with state of its own.
pub fn tare_words(binary: &Path, folder: &Path) -> impl Fn() -> Command + use<> {
    let words = words(binary, &[("--root", folder.join("root")), ("--run-root", folder.join("run"))]);
    move || command(&words)
}

fn words(program: &Path, folders: &[(&str, PathBuf)]) -> Vec<String> {
    let mut words = vec![program.display().to_string()];
    for (flag, folder) in folders {
        words.extend([(*flag).to_owned(), folder.display().to_string()]);
    }
    words
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

impl Engine {
    /// tare, and those that are installed.
    pub fn all(binary: &Path, scratch: &Path) -> Result<Vec<Engine>> {
        let at = |name: &str| scratch.join(name);
        let tare = words(binary, &[("--root", at("tare/root")), ("--run-root", at("tare/run"))]);
        let mut engines = vec![Engine { name: "tare", words: tare, daemon: None, mount: None }];
        engines.extend(Engine::podman(scratch));
        if let (Some(docker), Some(dockerd)) = (program("docker"), program("dockerd")) {
            let network = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"];
            let network = [&network[..], &["--ip-masq=false"]].concat();
            engines.push(start_docker(&docker, &dockerd, &at("docker"), &network)?);
        }
        Ok(engines)
    }

    /// Podman; `None` where it is not installed.
    pub fn podman(scratch: &Path) -> Option<Engine> {
        let at = |name: &str| scratch.join("podman").join(name);
        let mut words = words(&program("podman")?, &[("--root", at("root")), ("--runroot", at("run"))]);
        words.extend(["--storage-driver=overlay", "--cgroup-manager=cgroupfs"].map(str::to_owned));
        Some(Engine { name: "podman", words, daemon: None, mount: None })
    }

    /// Docker with its bridge and its firewall, on the machine that the calling thread is on; `None` where it is not
    /// installed.
    pub fn docker_with_networks(folder: &Path) -> Result<Option<Engine>> {
        match (program("docker"), program("dockerd")) {
            (Some(docker), Some(dockerd)) => start_docker(&docker, &dockerd, folder, &[]).map(Some),
            _ => Ok(None),
        }
    }

    /// As it is called.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The first line of what it says about itself.
    pub fn version(&self) -> Result<String> {
        Ok(first_line(&output(command(&self.words[..1]).arg("--version"))?))
    }

    /// A call with these words.
    pub fn call(&self, words: &[&str]) -> Command {
        let mut command = command(&self.words);
        command.args(words);
        command
    }

    /// The command that brings an image in.
    pub fn command(&self, work: Work, image: &Image, inputs: &Inputs) -> Command {
        let mut command = command(&self.words);
        match work {
            Work::Pull => {
                command.args(["pull", "-q"]);
                if self.name == "podman" {
                    command.arg("--tls-verify=false");
                }
                command.arg(inputs.remote(image));
            }
            Work::Load => {
                command.args(["load", "-q", "-i"]).arg(&image.archive);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Removes an image, if it is there.
    pub fn forget(&self, image: &Image, inputs: &Inputs) -> Result<()> {
        for name in [inputs.remote(image), format!("tare-bench/{}:1", image.name)] {
            let mut command = command(&self.words);
            command.args(["rmi", "-f", &name]).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().with_context(|| format!("starting {}", self.name))?;
        }
        // Podman puts `localhost/` before names from archives.
        if self.name == "podman" {
            let name = format!("localhost/tare-bench/{}:1", image.name);
            let mut command = command(&self.words);
            command.args(["rmi", "-f", &name]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        }
        let left = output(command(&self.words).args(["images", "-q"]))?;
        ensure!(left.trim().is_empty(), "{} still has images: {left}", self.name);
        Ok(())
    }

    /// Processor time of its daemons so far, and of the processes that they had, in clock ticks.
    pub fn ticks(&self) -> Result<u64> {
        let Some(daemon) = &self.daemon else { return Ok(0) };
        let mut sum = 0;
        for pid in tree(daemon.id()) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
            // user, system, and both of the children that have ended
            sum +=
                fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(sum)
    }

    /// Runs a command, and tells the most memory that it, its children and the daemons had at once, in kilobytes. What the
    /// daemons had before does not count.
    pub fn peak(&self, command: &mut Command) -> Result<u64> {
        let daemons = || self.daemon.as_ref().map_or(0, |daemon| resident(daemon.id()));
        let before = daemons();
        let mut child = command.spawn()?;
        let mut most = 0;
        loop {
            most = most.max(resident(child.id()) + daemons().saturating_sub(before));
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "{} failed", self.name);
                return Ok(most);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends its daemon, and waits for it.
    pub fn end(mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let pid = rustix::process::Pid::from_raw(daemon.id().cast_signed()).context("a process number")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let start = Instant::now();
        while daemon.try_wait()?.is_none() {
            ensure!(start.elapsed() < PATIENCE, "dockerd does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            // Something has failed before; its containerd ends with it.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if let Some(mount) = &self.mount {
            // Or the folder could not be removed. It may be gone.
            let _ = Command::new("umount").arg("--lazy").arg(mount).stderr(Stdio::null()).status();
        }
    }
}

fn start_docker(docker: &Path, dockerd: &Path, folder: &Path, network: &[&str]) -> Result<Engine> {
    fs::create_dir_all(folder)?;
    let socket = format!("unix://{}", folder.join("docker.sock").display());
    // The key would go to /etc/docker otherwise.
    let config = folder.join("daemon.json");
    let key = folder.join("key.json").display().to_string();
    fs::write(&config, serde_json::json!({ "deprecated-key-path": key }).to_string())?;
    let folders = [
        ("--config-file", config),
        ("--data-root", folder.join("root")),
        ("--exec-root", folder.join("run")),
        ("--pidfile", folder.join("pid")),
    ];
    let mut words = words(dockerd, &folders);
    words.extend(["--host", &socket, "--storage-driver=overlay2"].map(str::to_owned));
    words.extend(network.iter().map(|word| (*word).to_owned()));
    let log = fs::File::create(folder.join("log"))?;
    let daemon = command(&words)
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting dockerd")?;
    let client = vec![docker.display().to_string(), "-H".to_owned(), socket];
    let mount = Some(folder.join("root"));
    let engine = Engine { name: "docker", words: client, daemon: Some(daemon), mount };
    let start = Instant::now();
    while output(command(&engine.words).arg("info")).is_err() {
        let log = folder.join("log");
        ensure!(
            start.elapsed() < PATIENCE,
            "dockerd does not answer: {}",
            fs::read_to_string(&log).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(engine)
}

/// A process and all below it.
fn tree(top: u32) -> Vec<u32> {
    let mut pids = vec![top];
    let mut at = 0;
    while let Some(pid) = pids.get(at) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    pids
}

/// Kilobytes of memory of a process and all below it.
fn resident(top: u32) -> u64 {
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    tree(top).into_iter().filter_map(of).sum()
}
