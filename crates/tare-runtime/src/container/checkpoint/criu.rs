//! One run of `criu swrk`: the program, what is asked of it, what it asks back, and what it says when it fails.
//!
//! ```text
//! we                                            criu swrk 3
//! clone ──────────────────────────────────────▶ a copy of us: cgroup, files, exec
//! DUMP, PRE_DUMP or RESTORE with options ─────▶
//!           ◀────────────────────────────────── NOTIFY "setup-namespaces", "post-restore", …
//! NOTIFY: go on, or do not ───────────────────▶
//!           ◀────────────────────────────────── the answer
//! ```
//!
//! Messages are those of CRIU's `images/rpc.proto`, one to a packet of a `SOCK_SEQPACKET` socket. The command line
//! would not do: it has no option for a terminal whose other side is outside (`orphan_pts_master`).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use tare_cgroup::Entrance;
use tare_sys::channel::Channel;
use tare_sys::process::{self, Child, Ended, Side};
use tare_sys::{Context, Error, Kind, Result, signal};

use super::cgroup_tree::KeptTree;
use super::wire::{self, Message, Value};

/// Where criu finds the socket to us.
const SOCKET: RawFd = 3;
/// Where it finds the first of the files that it is given beside that.
pub const FIRST_FILE: RawFd = 4;
/// Above all files that a run is given.
const ASIDE: RawFd = 64;

/// What is asked of criu: `criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
}

/// `criu_req_type`: a moment has come.
const NOTIFY: u64 = 6;

/// What a run is given beside its request.
#[derive(Default)]
pub struct Setup<'a> {
    /// Its own files, from [`FIRST_FILE`] upwards.
    pub files: Vec<BorrowedFd<'a>>,
    /// The cgroup that it is to be in, and with it all that it restores.
    pub entrance: Option<&'a Entrance>,
}

/// A moment in criu's work at which it waits for us.
pub struct Moment<'a> {
    /// Its name: `post-restore`.
    pub name: &'a str,
    /// The restored first process, where the moment is about it.
    pub pid: Option<Pid>,
    /// Files that came with it.
    pub files: Vec<OwnedFd>,
}

/// A criu that waits for its request.
pub struct Criu {
    child: Child,
    channel: Channel,
    /// What it writes to stderr: little, as there is a log, but all that it says before it knows of one.
    complaints: File,
    /// The host's, whose options criu loses.
    tree: Option<KeptTree>,
}

impl Criu {
    /// Starts it.
    ///
    /// Errors: [`Kind::Unsupported`] where it is not installed.
    pub fn start(setup: &Setup<'_>) -> Result<Criu> {
        let program = find()?;
        let tree = KeptTree::find()?;
        let what = || format!("start {}", program.display());
        let (channel, theirs) = Channel::pair()?;
        let (may_go, go) = pipe()?;
        let (told, low) = pipe()?;
        // Out of the way of the files that the child puts in their places.
        let tell = aside(low.as_fd())?;
        drop(low);
        let complaints = rustix::fs::memfd_create("criu", MemfdFlags::CLOEXEC).doing(|| "memfd_create()")?;
        let inside = match setup.entrance {
            Some(Entrance::V2(dir)) => Some(dir.as_fd()),
            _ => None,
        };
        let child = match process::clone(0, inside).doing(what)? {
            Side::Child => {
                drop((channel, go, told));
                let plan = Plan { setup, program: &program, socket: theirs, complaints: complaints.as_fd() };
                let err = plan.become_criu(may_go);
                let _ = rustix::io::write(&tell, &serde_json::to_vec(&err).unwrap_or_default());
                process::exit_now(1)
            }
            Side::Parent(child) => child,
        };
        drop((theirs, may_go, tell));
        let criu = Criu { child, channel, complaints: complaints.into(), tree };
        let executed = || {
            if let Some(entrance) = setup.entrance {
                entrance.admit(criu.child.pid)?;
            }
            rustix::io::write(&go, b"g").doing(|| "write(pipe to the child)")?;
            let mut said = Vec::new();
            File::from(told).read_to_end(&mut said).doing(|| "read(pipe of the child)")?;
            match said.as_slice() {
                // Exec has closed it.
                [] => Ok(()),
                said => Err(serde_json::from_slice(said)
                    .unwrap_or_else(|_| Error::new(Kind::Kernel, "its process died on the way"))),
            }
        };
        match executed() {
            Ok(()) => Ok(criu),
            Err(err) => {
                let _ = process::signal(criu.child.pidfd.as_fd(), 9);
                let _ = process::wait(criu.child.pidfd.as_fd());
                Err(err.context(what()))
            }
        }
    }

    /// criu's own process.
    pub fn pid(&self) -> Pid {
        self.child.pid
    }

    /// Has it do what is asked, and waits for its end; `at` is called at each moment, and criu gives up where that
    /// fails. `log` is the file that the options name.
    pub fn perform(
        mut self,
        request: Request,
        options: &Message,
        log: &Path,
        at: &mut dyn FnMut(Moment<'_>) -> Result<()>,
    ) -> Result<()> {
        let message = Message::default().number(1, request as u64).bytes(2, options);
        let answer = self.channel.send(message.as_ref(), &[]).and_then(|()| self.attend(at));
        // Whatever it still does, it ends with the conversation.
        drop(self.channel);
        let ended = process::wait(self.child.pidfd.as_fd())?;
        let kept = self.tree.as_ref().map_or(Ok(()), KeptTree::restore);
        match answer {
            Ok(Answer::Done) => kept,
            Ok(Answer::Ours(err)) => Err(err),
            Ok(Answer::Refused(said)) => Err(failure(said, log)),
            // It went without a word on the socket.
            Ok(Answer::Gone) | Err(_) => {
                let mut said = String::new();
                let _ = self.complaints.rewind();
                let _ = self.complaints.read_to_string(&mut said);
                Err(died(ended, &said, log))
            }
        }
    }

    fn attend(&self, at: &mut dyn FnMut(Moment<'_>) -> Result<()>) -> Result<Answer> {
        let mut ours = None;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Some((length, files)) = self.channel.receive(&mut buffer)? else {
                return Ok(ours.map_or(Answer::Gone, Answer::Ours));
            };
            let response = Response::read(&buffer[..length])?;
            if response.kind != NOTIFY {
                return Ok(match (ours, response.success) {
                    (Some(err), _) => Answer::Ours(err),
                    (None, true) => Answer::Done,
                    (None, false) => Answer::Refused(response.said),
                });
            }
            let went = at(Moment { name: &response.moment, pid: response.pid, files });
            let reply = Message::default().number(1, NOTIFY).number(3, u64::from(went.is_ok()));
            // What kept the moment from going well is the reason for all that follows.
            ours = ours.or(went.err());
            self.channel.send(reply.as_ref(), &[])?;
        }
    }
}

/// How a conversation ended.
enum Answer {
    Done,
    /// criu could not; in its words, if it has any.
    Refused(String),
    /// Something of ours went wrong at a moment.
    Ours(Error),
    Gone,
}

/// `criu_resp`.
#[derive(Debug, Default)]
struct Response {
    kind: u64,
    success: bool,
    said: String,
    moment: String,
    pid: Option<Pid>,
}

impl Response {
    fn read(bytes: &[u8]) -> Result<Response> {
        let mut response = Response::default();
        for field in wire::fields(bytes)? {
            match field {
                (1, Value::Number(kind)) => response.kind = kind,
                (2, Value::Number(success)) => response.success = success != 0,
                (5, Value::Bytes(notify)) => {
                    for field in wire::fields(notify)? {
                        match field {
                            (1, Value::Bytes(name)) => {
                                response.moment = String::from_utf8_lossy(name).into_owned();
                            }
                            (2, Value::Number(pid)) => response.pid = Pid::from_raw(pid as i32),
                            _ => {}
                        }
                    }
                }
                (9, Value::Bytes(said)) => response.said = String::from_utf8_lossy(said).trim().to_owned(),
                // What a newer criu adds.
                _ => {}
            }
        }
        Ok(response)
    }
}

/// What the cloned copy of us needs to become criu.
struct Plan<'a> {
    setup: &'a Setup<'a>,
    program: &'a Path,
    socket: Channel,
    complaints: BorrowedFd<'a>,
}

impl Plan<'_> {
    /// Comes back only with the reason why not.
    fn become_criu(&self, may_go: OwnedFd) -> Error {
        match self.prepare(may_go) {
            Ok((program, args, env)) => {
                let errno = process::exec(&program, &args, &env);
                Error::syscall(format!("execve({program:?})"), errno)
            }
            Err(err) => err,
        }
    }

    fn prepare(&self, may_go: OwnedFd) -> Result<(CString, Vec<CString>, Vec<CString>)> {
        // When it says go, the parent has put us into our unit.
        if rustix::io::read(&may_go, &mut [0; 1]).doing(|| "read(pipe of the parent)")? == 0 {
            process::exit_now(1);
        }
        if let Some(entrance @ Entrance::V1(_)) = self.setup.entrance {
            entrance.join().doing(|| "join the container's cgroup")?;
        }
        let program = c_string(self.program.as_os_str())?;
        let args = [&program as &CString, &c"swrk".to_owned(), &c_string(OsStr::new(&SOCKET.to_string()))?]
            .map(CString::clone)
            .to_vec();
        let pairs = std::env::vars_os().map(|(name, value)| {
            let mut pair = name;
            pair.push("=");
            pair.push(value);
            c_string(&pair)
        });
        let env = pairs.collect::<Result<Vec<_>>>()?;
        // criu takes the caller's terminal for a shell's job from its stdin, so that and stdout stay ours.
        let mut wanted = vec![(self.complaints, 2), (self.socket.as_fd(), SOCKET)];
        wanted.extend(self.setup.files.iter().copied().zip(FIRST_FILE..));
        // First out of each other's way.
        let copies = wanted
            .iter()
            .map(|(fd, at)| Ok((aside(*fd)?, *at)))
            .collect::<Result<Vec<(OwnedFd, RawFd)>>>()?;
        process::close_on_exec_from(3)?;
        for (copy, at) in &copies {
            process::dup_onto(copy.as_fd(), *at)?;
        }
        signal::reset(u64::MAX);
        signal::unblock_all()?;
        Ok((program, args, env))
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "pipe2(O_CLOEXEC)")
}

fn aside(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, ASIDE).doing(|| "fcntl(F_DUPFD_CLOEXEC)")
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| Error::new(Kind::Usage, format!("{text:?}: a NUL byte in it")))
}

/// Looks criu up in `$PATH`, which is the way to choose another.
fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let runs = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let found = std::env::split_paths(&path).map(|folder| folder.join("criu")).find(runs);
    found.ok_or_else(|| {
        Error::new(Kind::Unsupported, "there is no criu in $PATH, which is what saves and restores processes")
            .hint("install it (Debian: apt install criu), or add its folder to $PATH")
    })
}

/// The error for what criu could not do: its own words, or the last errors of its log.
fn failure(said: String, log: &Path) -> Error {
    let errors = std::fs::read(log).map(|bytes| last_errors(&String::from_utf8_lossy(&bytes)));
    let said = match errors {
        Ok(errors) if !errors.is_empty() => errors,
        _ if said.is_empty() => "it does not say why".to_owned(),
        _ => said,
    };
    let whole = format!("the whole log is {}", log.display());
    // Learning what the kernel can do comes first (criu/kerndat.c).
    let (kind, hint) = match said.contains("kerndat") {
        true => (
            Kind::Unsupported,
            format!("this criu does not know this kernel (try `criu check`), a newer one may; {whole}"),
        ),
        false => (Kind::Kernel, whole),
    };
    Error::new(kind, format!("criu failed: {said}")).hint(hint)
}

/// The error for a criu that ended before its time.
fn died(ended: Ended, said: &str, log: &Path) -> Error {
    let how = match ended {
        Ended::Exited(status) => format!("exit status {status}"),
        Ended::Killed(signal) => format!("killed by {}", signal::name(signal)),
    };
    let mut said = last_errors(said);
    let mut hint = "`criu check` says whether it works on this kernel; a newer criu may".to_owned();
    if said.is_empty() {
        said = std::fs::read(log).map(|log| last_errors(&String::from_utf8_lossy(&log))).unwrap_or_default();
        hint = format!("the whole log is {}", log.display());
    }
    let colon = if said.is_empty() { "" } else { ": " };
    Error::new(Kind::Unsupported, format!("criu gave up ({how}){colon}{said}")).hint(hint)
}

/// The last lines with an error in them, or just the last, without their times.
fn last_errors(log: &str) -> String {
    const MOST: usize = 3;
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<&str> = lines.iter().copied().filter(|line| line.contains("Error")).collect();
    let chosen = if errors.is_empty() { lines } else { errors };
    let without_time = |line: &&str| match line.split_once(") ") {
        Some((time, rest)) if time.starts_with('(') => rest.trim().to_owned(),
        _ => (*line).to_owned(),
    };
    let last = chosen.iter().skip(chosen.len().saturating_sub(MOST));
    last.map(without_time).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_errors_of_a_log_are_told() {
        let log = "(00.1) one\n(00.2) Error (a.c:1): first\n(00.3) Error (a.c:2): second\n\
                   (00.4) two\n(00.5) Error (a.c:3): third\n(00.6) Error (a.c:4): fourth\n";
        let told = "Error (a.c:2): second; Error (a.c:3): third; Error (a.c:4): fourth";
        assert_eq!(last_errors(log), told);
        assert_eq!(last_errors("a\n\nb\n"), "a; b");
        assert_eq!(last_errors(""), "");
    }

    #[test]
    fn a_response_is_read() {
        let notify = Message::default().bytes(1, "post-restore").number(2, 77);
        let message = Message::default().number(1, NOTIFY).number(2, 1).bytes(5, notify).number(99, 1);
        let response = Response::read(message.as_ref()).unwrap();
        assert_eq!((response.kind, response.success, &*response.moment), (NOTIFY, true, "post-restore"));
        assert_eq!(response.pid, Pid::from_raw(77));
        let refusal = Message::default().number(1, 1).number(2, 0).number(7, 1).bytes(9, "no\n");
        let response = Response::read(refusal.as_ref()).unwrap();
        assert_eq!((response.success, &*response.said), (false, "no"));
    }
}
