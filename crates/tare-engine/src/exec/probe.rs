//! One check of a container's health, by a process of its own: so its monitor stays small, and waits for nothing.
//!
//! ```text
//! tare-probe STATE RUN ID      exit code: a `Word`'s where the result was written down, else another
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use tare_runtime::launch::Joined;
use tare_sys::process;
use tare_sys::time::Moment;
use tare_sys::{Context, Error, Kind, Result};

use super::{ExecRequest, Place, how_it_ended};
use crate::container::{Folders, Record, Roots, State, Status};
use crate::engine::Engine;
use crate::health::{self, Check, Health, Outcome};
use crate::stdio;

/// The name that this program is called by to make a check.
pub const NAME: &str = "tare-probe";
/// Bytes of output that are kept, as Docker keeps them.
const KEPT: usize = 4096;
/// How long the processes of a check that took too long may take to die.
const DYING: Duration = Duration::from_secs(2);

/// Makes one check, and writes down what came of it; answers the exit code.
pub fn main(words: &[OsString]) -> u8 {
    let [_, state, run, id] = words else { return 2 };
    let roots = Roots { state: PathBuf::from(state), run: PathBuf::from(run) };
    let folders = roots.folders(&id.to_string_lossy());
    match Engine::new(roots).probe(&folders) {
        Ok(Some(word)) => word.code(),
        Ok(None) => 1,
        Err(_) => 2,
    }
}

impl Engine {
    /// `None`: there is nothing to check, or nobody to write it down for.
    fn probe(&self, folders: &Folders) -> Result<Option<health::Word>> {
        let record = folders.record()?;
        let before = folders.status()?.unwrap_or_else(Status::created);
        let Some(check) = health::check(&record) else { return Ok(None) };
        let began = Moment::now();
        let (exit_code, output) = match self.try_probe(&record, &before, folders, &check) {
            Ok((Some(code), output)) => (i32::from(code), output.text()),
            Ok((None, output)) => {
                let text = output.text();
                let text = if text.is_empty() { text } else { format!(": {text}") };
                (-1, format!("Health check exceeded timeout ({}){text}", seconds(check.timeout)))
            }
            Err(err) => (-1, err.to_string()),
        };
        // One that has ended or was frozen meanwhile did not fail for being ill.
        let after = folders.status()?.unwrap_or_else(Status::created);
        let same = (after.pid, after.pid_began) == (before.pid, before.pid_began);
        if !same || after.state != State::Running || after.process().is_none() {
            return Ok(None);
        }
        let mut health = Health::of(folders, &record).unwrap_or_else(Health::starting);
        let since = began.0 - Moment::parse(&before.started).map_or(0, |started| started.0);
        let since_start = Duration::from_nanos(u64::try_from(since).unwrap_or(0));
        let (start, end) = (began.to_string(), Moment::now().to_string());
        health.add(Outcome { start, end, exit_code, output }, &check, since_start);
        health.note(folders);
        Ok(Some(health.status))
    }

    /// The exit code; `None`: it took too long.
    fn try_probe(
        &self,
        record: &Record,
        status: &Status,
        folders: &Folders,
        check: &Check,
    ) -> Result<(Option<u8>, Output)> {
        let deadline = Instant::now().checked_add(check.timeout);
        let target =
            status.process().ok_or_else(|| Error::new(Kind::Conflict, "the container is not running"))?;
        let (plan, hierarchies) = self.decided(record, folders, status)?;
        tare_runtime::exe::protect(&plan.spec)?;
        let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "pipe2(O_CLOEXEC)")?;
        let theirs = stdio::give(theirs, status.base)?;
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK).doing(|| "fcntl(O_NONBLOCK)")?;
        let null = stdio::open_null()?;
        let request = ExecRequest { cmd: check.command.clone(), ..ExecRequest::default() };
        let stdio = [null.as_fd(), theirs.as_fd(), theirs.as_fd()];
        let cgroup = crate::cgroup::open(&hierarchies, record);
        let joined = Place { folders, record, status, plan: &plan, cgroup: &cgroup }.start(
            target.as_fd(),
            &request,
            Some(stdio),
        )?;
        drop(theirs);
        let mut output = Output { file: Some(ours), kept: Vec::new(), cut: false };
        let code = output.follow(&joined, deadline)?;
        output.drain();
        Ok((code, output))
    }
}

/// What a check writes.
struct Output {
    file: Option<OwnedFd>,
    kept: Vec<u8>,
    cut: bool,
}

impl Output {
    /// Until the command ends, or the time is up.
    fn follow(&mut self, joined: &Joined, deadline: Option<Instant>) -> Result<Option<u8>> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left
                .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
            let mut fds = vec![PollFd::new(&joined.told, PollFlags::IN)];
            fds.extend(self.file.as_ref().map(|file| PollFd::new(file, PollFlags::IN)));
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).doing(|| "poll(health check)"),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            if ready[0] {
                return Ok(Some(how_it_ended(joined)));
            }
            // Before the output: one that writes without end has no more time than another.
            if left.is_some_and(|left| left.is_zero()) {
                kill_tree(joined);
                return Ok(None);
            }
            if ready.get(1) == Some(&true) {
                self.read();
            }
        }
    }

    /// Takes one piece; whether there was one.
    fn read(&mut self) -> bool {
        let Some(file) = &self.file else { return false };
        let mut buffer = [0; KEPT];
        match rustix::io::read(file, &mut buffer) {
            Ok(length @ 1..) => {
                let room = KEPT - self.kept.len();
                self.kept.extend_from_slice(&buffer[..length.min(room)]);
                self.cut |= length > room;
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            Ok(_) | Err(_) => {
                self.file = None;
                false
            }
        }
    }

    /// What is left of a command that has ended; something that it left behind may go on writing.
    fn drain(&mut self) {
        while !self.cut && self.read() {}
    }

    fn text(&self) -> String {
        let dots = if self.cut { "..." } else { "" };
        format!("{}{dots}", String::from_utf8_lossy(&self.kept))
    }
}

/// Kills all that its reaper looks after; that ends with the last of them.
fn kill_tree(joined: &Joined) {
    let child = &joined.running.child;
    let deadline = Instant::now() + DYING;
    while Instant::now() < deadline {
        for pid in descendants(child.pid.as_raw_nonzero().get()) {
            let _ = process::kill(pid, 9);
        }
        let moment = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let mut ended = [PollFd::new(&child.pidfd, PollFlags::IN)];
        if rustix::event::poll(&mut ended, Some(&moment)) == Ok(1) {
            // Not left to the host's init, which may be slow, or none: the end of the container waits for it.
            let _ = process::wait(child.pidfd.as_fd());
            return;
        }
    }
    let _ = process::signal(child.pidfd.as_fd(), 9);
}

fn descendants(top: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name in brackets may hold anything (proc_pid_stat(5)): after it come the state and the parent.
        let parent =
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&top).unwrap_or_default();
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    found
}

/// `30s`, `1.5s`, as Go writes a length of time.
fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{}ms", time.as_secs_f64() * 1000.0),
        seconds @ 60.. => {
            format!("{}m{}s", seconds / 60, (time - Duration::from_secs(seconds / 60 * 60)).as_secs_f64())
        }
        _ => format!("{}s", time.as_secs_f64()),
    }
}
