//! `events`: a line of JSON for what a container uses, each interval, and for each time it ran out of memory.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::Serialize;
use tare_cgroup::{Cgroup, OciStats, OomWatch};
use tare_runtime::container::Status;
use tare_sys::{Context, Error, Kind, Result};

use super::Call;
use crate::words::flag::Flag;
use crate::words::parse::clock;

pub static EVENTS: [Flag; 2] = [
    Flag::one("interval", "duration", "5s", "Time between two statistics (default 5s)"),
    Flag::switch("stats", "Print statistics once"),
];

const USUAL_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<OciStats>,
}

pub fn events(call: &Call) -> Result<u8> {
    let interval = call.given.value("interval", |text| match clock::duration(text)? {
        nanos @ 1.. => Ok(Duration::from_nanos(nanos.unsigned_abs())),
        _ => Err("it must be greater than 0".to_owned()),
    })?;
    let container = call.container()?;
    let state = container.state()?;
    let pid = Pid::from_raw(state.pid).filter(|_| state.status != Status::Stopped);
    let Some(pid) = pid else {
        let what = format!("container with id {} is not running", call.id());
        return Err(Error::new(Kind::Conflict, what));
    };
    let cgroup = container.cgroup()?;
    if call.given.on("stats")? {
        print(&Event { kind: "stats", id: call.id(), data: Some(cgroup.oci_stats()?) })?;
        return Ok(0);
    }
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        // It has ended since we looked.
        Err(Errno::SRCH) => return Ok(0),
        opened => opened.doing(|| format!("pidfd_open({})", state.pid))?,
    };
    // Its number may have become another's before we held it.
    if container.state()?.status == Status::Stopped {
        return Ok(0);
    }
    let oom = match cgroup.watch_oom() {
        Err(error) if error.kind() == Kind::Unsupported => {
            call.warn(&[format!("{error}; so there will be no oom events")]);
            None
        }
        watch => Some(watch?),
    };
    watch(call, &cgroup, pidfd.as_fd(), oom, interval.unwrap_or(USUAL_INTERVAL))?;
    Ok(0)
}

/// Prints until the process ends, or nobody reads any more.
fn watch(
    call: &Call,
    cgroup: &Cgroup,
    process: rustix::fd::BorrowedFd<'_>,
    mut oom: Option<OomWatch>,
    interval: Duration,
) -> Result<()> {
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::from_borrowed_fd(process, PollFlags::IN)];
        fds.extend(oom.as_ref().map(|oom| PollFd::from_borrowed_fd(oom.as_fd(), PollFlags::IN)));
        // A wait too long for the kernel ends early, which the clock then shows.
        let wait = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
        match rustix::event::poll(&mut fds, Some(&wait)) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).doing(|| "poll(the container's process)"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let fired = match &mut oom {
            Some(watch) if ready[0] || ready[1] => watch.fired()?,
            _ => false,
        };
        if fired && !print(&Event { kind: "oom", id: call.id(), data: None })? {
            return Ok(());
        }
        if ready[0] {
            return Ok(());
        }
        if oom.as_ref().is_some_and(OomWatch::gone) {
            // Nothing more comes from there; the process's own end is still to come.
            oom = None;
        }
        if Instant::now() < next {
            continue;
        }
        next += interval;
        let stats = match cgroup.oci_stats() {
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            stats => stats?,
        };
        if !print(&Event { kind: "stats", id: call.id(), data: Some(stats) })? {
            return Ok(());
        }
    }
}

/// Prints a line; false if nobody reads it.
fn print(event: &Event) -> Result<bool> {
    let text = serde_json::to_string(event)
        .map_err(|err| Error::new(Kind::Corrupt, format!("write JSON: {err}")))?;
    let mut out = io::stdout().lock();
    match out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.doing(|| "write to standard output").map(|()| true),
    }
}
