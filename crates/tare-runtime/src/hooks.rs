//! Hooks: programs that a spec has run at points of a container's life (runtime-spec, config.md, "POSIX-platform
//! Hooks"). Run here in whichever namespaces the caller is in; which hook belongs where is the caller's to know.
//!
//! A hook gets exactly the arguments and variables that the spec gives it, and none of ours or of the image's
//! (CVE-2025-23266), the container's state on stdin, and no other file. What it writes is read and, but for the end
//! of it in the error of one that fails, forgotten.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use serde::Serialize;
use tare_sys::process::{self, Child, Ended};
use tare_sys::spawn::{Program, spawn};
use tare_sys::{Context, Error, Kind, Result};

use crate::annotations;

/// The container as a hook, or a seccomp agent, is told of it (runtime-spec, runtime.md, "State").
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState<'a> {
    /// The version of the specification that this follows.
    pub oci_version: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'a str,
    /// Its process, as numbered where the reader is; 0 when it has ended, and then not written.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    /// The bundle's folder, absolute.
    pub bundle: &'a Path,
    /// Those of the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<&'a HashMap<String, String>>,
}

fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

/// Runs the hooks of one kind (`createRuntime`, …) in their order, each in `folder`, until one fails: it could
/// not be run, its time was up, or it did not answer 0. A hook that is out of time is killed with its process
/// group; what a hook that ended leaves running goes on.
pub fn run(kind: &str, hooks: &[Hook], state: &HookState<'_>, folder: &Path) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let json = serde_json::to_vec(state)
        .map_err(|err| Error::new(Kind::Usage, format!("{kind} hooks: write the state as JSON: {err}")))?;
    // In the container's own root the path would be another file.
    let file = |name: &str| match (kind, state.annotations) {
        ("startContainer", _) | (_, None) => None,
        (_, Some(all)) => all.get(name).map(PathBuf::from),
    };
    let (out, err) = (file(annotations::HOOKS_OUT), file(annotations::HOOKS_ERR));
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, &json, folder, [&out, &err])
            .map_err(|err| err.context(format!("{kind} hook {index} ({})", hook.path().display())))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &[u8], folder: &Path, files: [&Option<PathBuf>; 2]) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(Kind::Usage, why));
    if !hook.path().is_absolute() {
        return refuse("its path has to be absolute");
    }
    let limit = match hook.timeout() {
        None => None,
        Some(seconds @ 1..) => Some(Duration::from_secs(seconds.unsigned_abs())),
        Some(_) => return refuse("its timeout has to be above 0"),
    };
    let path = c_string(hook.path().as_os_str().as_bytes())?;
    let folder = c_string(folder.as_os_str().as_bytes())?;
    let args = match hook.args().as_deref() {
        Some(args @ [_, ..]) => c_strings(args)?,
        _ => vec![path.clone()],
    };
    let env = c_strings(hook.env().as_deref().unwrap_or_default())?;
    let stdin = file_of(state)?;
    let (mut out, out_end) = Tail::of(files[0].as_deref())?;
    let (mut err, err_end) = Tail::of(files[1].as_deref())?;
    let stdio = [stdin.as_fd(), out_end.as_fd(), err_end.as_fd()];
    // Later than the clock can say is never.
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let child = spawn(&Program { path: &path, args: &args, env: &env, folder: &folder, stdio })?;
    drop((stdin, out_end, err_end));
    let result = attend(&child, deadline, &mut [&mut out, &mut err]);
    let why = match result {
        Ok(Some(Ended::Exited(0))) => return Ok(()),
        Ok(Some(Ended::Exited(status))) => format!("exit status {status}"),
        Ok(Some(Ended::Killed(signal))) => format!("killed by {}", tare_sys::signal::name(signal)),
        Ok(None) => {
            stop(&child);
            format!("not done after its {} s, and killed", limit.unwrap_or_default().as_secs())
        }
        Err(err) => {
            stop(&child);
            return Err(err);
        }
    };
    let said = [err.text(), out.text()].into_iter().find(|text| !text.is_empty());
    Err(Error::new(
        Kind::Kernel,
        match said {
            Some(said) => format!("{why}; it said: {said}"),
            None => why,
        },
    ))
}

/// Reads what the hook says until it ends; `None`: its time is up.
fn attend(child: &Child, deadline: Option<Instant>, tails: &mut [&mut Tail; 2]) -> Result<Option<Ended>> {
    loop {
        let left = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
            None => None,
            Some(None) => return Ok(None),
            // Longer than the kernel can count is for ever.
            Some(Some(left)) => Timespec::try_from(left).ok(),
        };
        let mut fds = vec![PollFd::new(&child.pidfd, PollFlags::IN)];
        fds.extend(
            tails.iter().filter_map(|tail| tail.pipe.as_ref()).map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "poll(hook)"),
        }
        let ended = !fds[0].revents().is_empty();
        drop(fds);
        for tail in tails.iter_mut() {
            tail.read()?;
        }
        if ended {
            return process::wait(child.pidfd.as_fd()).map(Some);
        }
    }
}

/// Kills the hook and what it started, and reaps it.
fn stop(child: &Child) {
    const SIGKILL: i32 = 9;
    // It has not been reaped yet, so nobody else can have got its number.
    let _ = process::kill(-child.pid.as_raw_nonzero().get(), SIGKILL);
    // In case it has left its group.
    let _ = process::signal(child.pidfd.as_fd(), SIGKILL);
    let _ = process::wait(child.pidfd.as_fd());
}

/// The end of what is written into a pipe, however much that is.
struct Tail {
    pipe: Option<OwnedFd>,
    bytes: Vec<u8>,
}

/// What an error shows of it.
const SHOWN: usize = 4096;

impl Tail {
    /// Nothing, where all goes to a file. Answers the end to write into, too.
    fn of(file: Option<&Path>) -> Result<(Tail, OwnedFd)> {
        let Some(file) = file else { return Tail::new() };
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let end = rustix::fs::open(file, flags, Mode::from_raw_mode(0o644))
            .doing(|| format!("open {} for the output of hooks", file.display()))?;
        Ok((Tail { pipe: None, bytes: Vec::new() }, end))
    }

    /// Answers the end to write into, too.
    fn new() -> Result<(Tail, OwnedFd)> {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "pipe2(O_CLOEXEC)")?;
        // Only ours: a program may not expect its own end to be so.
        rustix::io::ioctl_fionbio(&read, true).doing(|| "ioctl(FIONBIO)")?;
        Ok((Tail { pipe: Some(read), bytes: Vec::new() }, write))
    }

    /// Takes what is there now. At most a pipe's worth, so that nobody who writes on and on can hold us here.
    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..4 {
            let Some(pipe) = &self.pipe else { return Ok(()) };
            match rustix::io::read(pipe, &mut buffer[..]) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.bytes.extend(&buffer[..length]);
                    self.bytes.drain(..self.bytes.len().saturating_sub(SHOWN));
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).doing(|| "read(output of the hook)"),
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).trim().to_owned()
    }
}

/// A file in memory with this content, to be read from its start. Not a pipe: no hook can make us wait for it,
/// or break it, by not reading.
fn file_of(content: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create("state", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3, which made it the law on some hosts (vm.memfd_noexec).
        Err(Errno::INVAL) => rustix::fs::memfd_create("state", flags),
        result => result,
    }
    .doing(|| "memfd_create(state)")?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest).doing(|| "write(state)")?;
        rest = &rest[written..];
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).doing(|| "lseek(state, 0)")?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals).doing(|| "fcntl(state, F_ADD_SEALS)")?;
    Ok(file)
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| {
        let text = String::from_utf8_lossy(bytes);
        Error::new(Kind::Usage, format!("{text:?} has a NUL byte in it"))
    })
}

fn c_strings(list: &[String]) -> Result<Vec<CString>> {
    list.iter().map(|text| c_string(text.as_bytes())).collect()
}

#[cfg(test)]
mod tests;
