//! The end of the child's way: wait for `start` where it is held, hooks, label, filter, exec.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Hook;
use rustix::fs::OFlags;
use tare_sys::channel::Channel;
use tare_sys::{Context, Error, Kind, Result};

use super::command::Command;
use super::identity::Identity;
use super::message::{self, FromChild, ToChild};
use crate::hooks::{self, HookState};
use crate::seccomp::Compiled;
use crate::{init, label};

/// What is left to be done once everything is set up.
pub struct Finish<'a> {
    pub command: Command,
    pub program: CString,
    pub identity: Identity,
    pub filter: Option<&'a Compiled>,
    /// The security module's label for the program, and the host's procfs to write it through.
    pub label: Option<Label<'a>>,
    /// What of ours stays beside the program.
    pub init: Init,
    /// The hooks that belong just before exec, and what they are told.
    pub hooks: Option<(&'a [Hook], HookState<'a>)>,
}

/// What of ours stays beside the program.
pub enum Init {
    /// Nothing.
    None,
    /// An init, as PID 1.
    First,
    /// A reaper, which tells here how the program ended.
    Reaper(OwnedFd),
}

/// A label that exec shall give.
pub struct Label<'a> {
    pub apparmor: Option<&'a str>,
    pub selinux: Option<&'a str>,
    pub proc: OwnedFd,
}

impl<'a> Label<'a> {
    /// Reads the labels; opens `/proc` while that is still the host's, which nobody in the container can have
    /// changed (CVE-2019-16884, CVE-2025-52881).
    pub fn of(process: &'a oci_spec::runtime::Process) -> Result<Option<Label<'a>>> {
        let apparmor = process.apparmor_profile().as_deref().filter(|name| !name.is_empty());
        let selinux = process.selinux_label().as_deref().filter(|name| !name.is_empty());
        if apparmor.is_none() && selinux.is_none() {
            return Ok(None);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc", flags, rustix::fs::Mode::empty()).doing(|| "open(\"/proc\")")?;
        Ok(Some(Label { apparmor, selinux, proc }))
    }
}

/// Closes all but what the program gets (`preserve_fds`, from 3 upwards) and what the last steps need. Nothing after
/// this uses another file, nor drops one.
///
/// Not left to exec: the kernel closes files after it has looked the program up, so an image that names
/// `/proc/self/fd/7/../bin/sh`, or has a link to it, would run a program of the host's (CVE-2024-21626).
pub fn close_the_rest(preserve_fds: u32, needed: &[BorrowedFd<'_>], label: Option<&Label<'_>>) -> Result<()> {
    let label = label.map(|label| label.proc.as_fd());
    let kept: Vec<BorrowedFd<'_>> = needed.iter().copied().chain(label).collect();
    tare_sys::process::close_from_but(3 + preserve_fds as i32, &kept)
}

/// Waits until someone says start. A `start` that dies half way is as if it had not been.
pub fn wait_for_start(socket: BorrowedFd<'_>) -> Result<Channel> {
    loop {
        let channel = Channel::accept(socket)?;
        match message::receive::<ToChild>(&channel) {
            Ok(Some((ToChild::Start, _))) => return Ok(channel),
            _ => continue,
        }
    }
}

/// Comes back only with the reason why not.
pub fn finish(channel: &Channel, work: Finish<'_>) -> Error {
    match until_exec(channel, &work) {
        Ok(()) => work.command.execute(&work.program),
        Err(err) => err,
    }
}

fn until_exec(channel: &Channel, work: &Finish<'_>) -> Result<()> {
    if let Some((list, state)) = &work.hooks {
        hooks::run("startContainer", list, state, Path::new("/"))?;
    }
    if let Some(label) = &work.label {
        label::set_exec_label(&label.proc, label.apparmor, label.selinux)?;
    }
    if let Some(filter) = work.filter {
        if filter.needs_listener {
            message::send(channel, &FromChild::Listener(next_fd()?), &[])?;
        }
        // From here on only what the filter allows.
        message::send(channel, &FromChild::Ready, &[])?;
        if filter.needs_listener {
            let listener = tare_sys::seccomp::load_with_listener(&filter.program, filter.flags)?;
            // Exec would close it; the parent takes it first. If the filter asks the listener about our waiting,
            // it is there to be asked by then.
            match message::receive::<ToChild>(channel)? {
                Some((ToChild::Go, _)) => drop(listener),
                _ => tare_sys::process::exit_now(1),
            }
        } else {
            tare_sys::seccomp::load(&filter.program, filter.flags)?;
        }
    } else {
        message::send(channel, &FromChild::Ready, &[])?;
    }
    work.identity.settle()?;
    match &work.init {
        Init::None => {}
        Init::First => init::split()?,
        Init::Reaper(tell) => init::watch_over(tell, &mut || {
            let failed = work.command.execute(&work.program);
            let _ = message::send(channel, &FromChild::Failed(failed), &[]);
            tare_sys::process::exit_now(1)
        })?,
    }
    Ok(())
}

/// The number that the next opened file will get: the lowest that is free (open(2)).
fn next_fd() -> Result<i32> {
    use std::os::fd::AsRawFd;
    let probe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .map_err(|errno| Error::syscall("fcntl(0, F_DUPFD_CLOEXEC)", errno).with_kind(Kind::Exhausted))?;
    Ok(probe.as_raw_fd())
}
