//! `exec`: one more process in a container that runs.
//!
//! ```text
//! command ──join──▶ reaper (inside) ──▶ program        stdout, stderr: pipes, or a terminal of the container's
//!    ▲                 │
//!    └── how it ended ─┘   the reaper stays for what the program leaves behind
//! ```
//!
//! The command is the parent and passes input and output itself; no monitor has anything to do with it. With `-d` its
//! [`keeper`] is.

mod keeper;
mod list;
pub mod probe;
mod relay;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{BoxBuilder, Process};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;
use tare_cgroup::{Cgroup, Hierarchies};
use tare_runtime::Running;
use tare_runtime::launch::{Join, Joined, join};
use tare_runtime::seccomp::{self, Compiled};
use tare_runtime::user::UserRequest;
use tare_sys::process::{self, Ended};
use tare_sys::{Context, Error, Kind, Result, tty};

pub use list::running;

use crate::attach::Keys;
use crate::container::{Folders, Record, State, Status};
use crate::engine::{Engine, not_running};
use crate::events::Event;
use crate::policy::{self, ImageSays, Plan};
use crate::range::Range;
use crate::{facts, links, stdio};

/// What is to run.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub cmd: Vec<String>,
    /// `KEY=value`, on top of the container's.
    pub env: Vec<String>,
    /// `name|uid[:group|gid]`; empty: the container's.
    pub user: String,
    /// Absolute path inside; empty: the container's.
    pub working_dir: String,
    /// With all capabilities.
    pub privileged: bool,
    /// With a terminal of its own.
    pub tty: bool,
    /// With the caller's stdin.
    pub stdin: bool,
    /// Do not wait for it.
    pub detach: bool,
    /// Keys that leave its terminal.
    pub keys: Keys,
}

impl Engine {
    /// Runs it, standing between it and the caller; answers its exit code, or 0 once the caller has left.
    pub fn exec(&self, container: &str, request: &ExecRequest) -> Result<u8> {
        let folders = self.find(container)?;
        let record = folders.record()?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        let Some(target) = status.process() else {
            return Err(not_running(container));
        };
        if status.state == State::Paused {
            return Err(paused(&record));
        }
        let (plan, hierarchies) = self.decided(&record, &folders, &status)?;
        tare_runtime::exe::protect(&plan.spec)?;
        let command = request.cmd.join(" ");
        self.emit(&Event::container(&record, format!("exec_create: {command}")));
        let outside = Outside::open(request, status.base)?;
        let cgroup = crate::cgroup::open(&hierarchies, &record);
        let place =
            Place { folders: &folders, record: &record, status: &status, plan: &plan, cgroup: &cgroup };
        let start = || {
            let joined =
                place.start(target.as_fd(), request, outside.theirs()).map_err(|err| match err.kind() {
                    // Nobody gets in any more, for one reason or another.
                    _ if is_ending(status.pid) => not_running(container),
                    Kind::CommandNotFound | Kind::Conflict => err,
                    // An unknown user, a folder that is none: to Docker that is a command that cannot be executed.
                    _ => err.with_kind(Kind::CommandNotExecutable),
                })?;
            self.emit(&Event::container(&record, format!("exec_start: {command}")));
            Ok(joined)
        };
        let ended = |code| self.emit(&Event::container(&record, "exec_die").with("exitCode", code));
        if request.detach {
            return keeper::start(&start, &ended).map(|()| 0);
        }
        let code = relay::relay(start()?, outside, request)?;
        ended(code);
        Ok(code)
    }

    /// What was decided for the container when it was started.
    fn decided(&self, record: &Record, folders: &Folders, status: &Status) -> Result<(Plan, Hierarchies)> {
        let hierarchies = Hierarchies::discover()?;
        let mut facts = facts::gather(&record.request, &hierarchies)?;
        // A spec that was taken away since, or a linked container that has ended, is no reason not to get in.
        let _ = facts::add_cdi(&record.request, &mut facts);
        let _ = links::add(&self.roots, record, &mut facts);
        facts.id.clone_from(&record.id);
        facts.files.clone_from(&folders.run);
        // Wherever its namespaces came from, it is in them.
        for kind in ["net", "ipc", "pid", "user"] {
            facts.joined.push((kind, format!("/proc/{}/ns/{kind}", status.pid).into()));
        }
        let mut plan = policy::plan(&record.request, &ImageSays::of(&record.image), &facts)?;
        if let Some(base) = status.base {
            plan.map_ids(Range::based(&self.roots.run, base).maps()?)?;
        }
        Ok((plan, hierarchies))
    }
}

/// The container that a process is started in.
struct Place<'a> {
    folders: &'a Folders,
    record: &'a Record,
    status: &'a Status,
    plan: &'a Plan,
    cgroup: &'a Cgroup,
}

impl Place<'_> {
    fn start(
        &self,
        target: BorrowedFd<'_>,
        request: &ExecRequest,
        stdio: Option<[BorrowedFd<'_>; 3]>,
    ) -> Result<Joined> {
        let Place { folders, record, status, plan, cgroup } = self;
        let process = process_of(plan, request)?;
        let user = match (&plan.user, request.user.as_str()) {
            (own, "") => own.clone(),
            (_, user) => UserRequest::Words {
                user: user.to_owned(),
                groups: record.request.host_config.group_add.clone(),
            },
        };
        join(&Join {
            spec: &plan.spec,
            id: &record.id,
            bundle: std::path::Path::new("/"),
            target,
            first: status.pid,
            process: &process,
            user: &user,
            entrance: &cgroup.entrance()?,
            filter: filter(folders, plan)?.as_ref(),
            preserve_fds: 0,
            stdio,
            stuck: &|pid| match cgroup.kill_if_frozen(pid)? {
                true => Err(paused(record)),
                false => Ok(()),
            },
            reaps: true,
        })
    }
}

/// Whether a process is about to end, or has. A PID 1 first waits for all others of its container.
fn is_ending(pid: i32) -> bool {
    /// `PF_EXITING` of linux/sched.h; the flags are field 9 (proc_pid_stat(5)), 6 behind the name.
    const EXITING: u32 = 4;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse().ok());
    flags.is_none_or(|flags: u32| flags & EXITING != 0)
}

/// The compiled filter. The first exec into a container keeps it for those that follow: compiling takes as long as a
/// tenth of all the rest.
fn filter(folders: &Folders, plan: &Plan) -> Result<Option<Compiled>> {
    let linux = plan.spec.linux().as_ref();
    let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else { return Ok(None) };
    let path = folders.run.join("filter");
    // One that is just being written, or of another version, is no filter: then it is compiled afresh.
    if let Ok(kept) = std::fs::read(&path)
        && let Ok(kept) = Compiled::from_bytes(&kept)
    {
        return Ok(Some(kept));
    }
    let compiled = seccomp::compile(profile)?;
    let _ = std::fs::write(&path, compiled.to_bytes());
    Ok(Some(compiled))
}

fn paused(record: &Record) -> Error {
    let name = &record.name;
    Error::new(Kind::Conflict, format!("container {name} is paused, unpause the container before exec"))
        .hint(format!("`tare unpause {name}`"))
}

/// The container's process, but for what the request says otherwise.
fn process_of(plan: &Plan, request: &ExecRequest) -> Result<Process> {
    let mut process =
        plan.spec.process().clone().ok_or_else(|| Error::new(Kind::Corrupt, "the plan has no process"))?;
    let mut env: Vec<String> = process.env().clone().unwrap_or_default();
    if request.tty && !env.iter().any(|pair| pair.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    for pair in &request.env {
        let key = pair.split('=').next().unwrap_or_default();
        env.retain(|known| known.split('=').next() != Some(key));
        if pair.contains('=') {
            env.push(pair.clone());
        }
    }
    process.set_args(Some(request.cmd.clone())).set_env(Some(env)).set_terminal(Some(request.tty));
    if !request.working_dir.is_empty() {
        process.set_cwd(request.working_dir.clone().into());
    }
    if request.privileged {
        let all = policy::security(&crate::request::HostConfig { privileged: true, ..Default::default() })?;
        process.set_capabilities(Some(all.capability_sets()?));
        process.set_no_new_privileges(Some(false));
    }
    if let (true, Some((columns, rows))) = (request.tty, tty::size(rustix::stdio::stdin())) {
        let size = BoxBuilder::default().width(u64::from(columns)).height(u64::from(rows)).build();
        process.set_console_size(size.ok());
    }
    Ok(process)
}

/// The caller's ends of what the process reads and writes, and the process's own.
struct Outside {
    stdin: Option<OwnedFd>,
    output: [Option<OwnedFd>; 2],
    theirs: Option<[OwnedFd; 3]>,
}

impl Outside {
    fn open(request: &ExecRequest, base: Option<u32>) -> Result<Outside> {
        if request.tty {
            return Ok(Outside { stdin: None, output: [None, None], theirs: None });
        }
        if request.detach {
            let theirs = [stdio::open_null()?, stdio::open_null()?, stdio::open_null()?];
            return Ok(Outside { stdin: None, output: [None, None], theirs: Some(theirs) });
        }
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "pipe2(O_CLOEXEC)");
        let (reader, writer) = match request.stdin {
            true => pipe().map(|(reader, writer)| (stdio::give(reader, base), Some(writer)))?,
            false => (stdio::open_null(), None),
        };
        let (out, their_out) = pipe()?;
        let (err, their_err) = pipe()?;
        let theirs = [reader?, stdio::give(their_out, base)?, stdio::give(their_err, base)?];
        Ok(Outside { stdin: writer, output: [Some(out), Some(err)], theirs: Some(theirs) })
    }

    fn theirs(&self) -> Option<[BorrowedFd<'_>; 3]> {
        self.theirs.as_ref().map(|files| files.each_ref().map(AsFd::as_fd))
    }
}

/// How the program ended, as its reaper tells it; `None`: that was killed.
fn word(told: BorrowedFd<'_>) -> Option<Ended> {
    let mut word = [0; 2];
    match rustix::io::read(told, &mut word) {
        Ok(2) if word[0] == 0 => Some(Ended::Exited(word[1])),
        Ok(2) => Some(Ended::Killed(word[1].into())),
        _ => None,
    }
}

/// How the program ended; of a reaper that was killed it is asked of the kernel.
fn how_it_ended(joined: &Joined) -> u8 {
    let Joined { told, running: Running { child, .. } } = joined;
    let Some(ended) = word(told.as_fd()) else {
        return process::wait(child.pidfd.as_fd()).map_or(255, Ended::code);
    };
    // One with nothing left to do ends now, and is ours to reap; another stays on its own.
    let moment = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    if rustix::event::poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&moment)) == Ok(1) {
        let _ = process::wait(child.pidfd.as_fd());
    }
    ended.code()
}
