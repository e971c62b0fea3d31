//! `exec`: one more process in a container.

use std::os::fd::AsFd;
use std::path::{Component, Path};

use oci_spec::runtime::Process;
use rustix::io::Errno;
use tare_cgroup::{Cgroup, Hierarchies};
use tare_sys::path::read_short;
use tare_sys::{Error, Kind, Result};

use super::create::{send_terminal, tell_pid};
use super::record::Record;
use super::{Container, ExecOptions, Started, Status, not_running};
use crate::exe;
use crate::launch::{Join, Running, join};
use crate::user::UserRequest;

impl Container {
    /// Starts one more process in it.
    ///
    /// Errors: [`Kind::Conflict`] for a container that does not run, or is paused; those of the program.
    pub fn exec(&self, process: &Process, options: &ExecOptions) -> Result<Started> {
        let record = self.record()?;
        match self.status()? {
            Status::Running | Status::Created => {}
            Status::Paused if options.ignore_paused => {}
            Status::Paused => {
                return Err(paused());
            }
            _ => return Err(not_running().context("cannot exec in a stopped container")),
        }
        if process.args().as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::new(Kind::Usage, "exec: process args cannot be empty"));
        }
        let target = record.pidfd().ok_or_else(not_running)?;
        let spec = self.spec()?;
        exe::protect(&spec)?;
        let filter = self.folder.filter()?;
        let user = UserRequest::of(process, spec.annotations());
        let start = |cgroup: &Cgroup| {
            join(&Join {
                spec: &spec,
                id: &record.id,
                bundle: &record.bundle,
                target: target.as_fd(),
                first: record.pid,
                process,
                user: &user,
                entrance: &cgroup.entrance()?,
                filter: filter.as_ref(),
                preserve_fds: options.preserve_fds,
                stdio: None,
                stuck: &|pid| match options.ignore_paused || !cgroup.kill_if_frozen(pid)? {
                    true => Ok(()),
                    false => Err(paused()),
                },
                reaps: false,
            })
            .map(|joined| joined.running)
        };
        let cgroup = self.cgroup()?;
        let running = match options.cgroups.as_slice() {
            [] => match start(&cgroup) {
                // Its first process has gone into a cgroup below, as systemd does: then we go there.
                Err(err) if err.errno() == Some(Errno::BUSY) => start(&cgroup_of_first(record)?),
                result => result,
            },
            paths => start(&self.cgroup_below(paths)?),
        }?;
        self.hand_over(running, options)
    }

    fn hand_over(&self, running: Running, options: &ExecOptions) -> Result<Started> {
        let Running { child, terminal, warnings, .. } = running;
        let handed = send_terminal(terminal, options.console_socket.as_deref()).and_then(|terminal| {
            let (file, socket) = (options.pid_file.as_deref(), options.pidfd_socket.as_deref());
            tell_pid(file, socket, child.pid, child.pidfd.as_fd()).map(|()| terminal)
        });
        match handed {
            Ok(terminal) => Ok(Started { child, terminal, warnings }),
            Err(err) => {
                let _ = tare_sys::process::signal(child.pidfd.as_fd(), 9);
                let _ = tare_sys::process::wait(child.pidfd.as_fd());
                Err(err)
            }
        }
    }

    /// The cgroups that the caller named, below the container's: `path`, or on v1 `controller,…:path`.
    fn cgroup_below(&self, paths: &[String]) -> Result<Cgroup> {
        let [path] = paths else {
            return Err(Error::new(Kind::Unsupported, "exec: --cgroup more than once")
                .hint("one path serves all controllers"));
        };
        let path = path.rsplit_once(':').map_or(path.as_str(), |(_, path)| path);
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::RootDir);
        if !Path::new(path).components().all(plain) {
            return Err(Error::new(Kind::Usage, format!("exec: --cgroup {path:?}: bad sub cgroup path")));
        }
        let mut location = self.record()?.cgroup.clone();
        location.path = format!("{}/{}", location.path.trim_end_matches('/'), path.trim_matches('/'));
        Ok(Cgroup::at(&Hierarchies::discover()?, &location))
    }
}

fn paused() -> Error {
    Error::new(Kind::Conflict, "cannot exec in a paused container")
        .hint("resume it first, or use --ignore-paused")
}

/// Where the container's first process is now, on v2.
fn cgroup_of_first(record: &Record) -> Result<Cgroup> {
    let text = read_short(&format!("/proc/{}/cgroup", record.pid))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    let path =
        path.ok_or_else(|| Error::new(Kind::Kernel, "the container's first process is in no cgroup"))?;
    let mut location = record.cgroup.clone();
    location.path = path.to_owned();
    Ok(Cgroup::at(&Hierarchies::discover()?, &location))
}
