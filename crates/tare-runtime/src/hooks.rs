//! Hooks: programs of the host's that a bundle has run at points of a container's life.
//!
//! A hook gets the arguments and the environment that the bundle gives it and nothing else, least of all the
//! image's (CVE-2025-23266); the container's state on stdin; and none of our files. What it says on stderr is kept
//! for the error, up to a limit, and its stdout goes nowhere. One that outlives its timeout is killed with
//! everything that it started.
//!
//! Source: runtime-spec, config.md "POSIX-platform Hooks", runtime.md "Lifecycle".

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Serialize;
use tare_sys::process::{self, Child, Ended, Side};
use tare_sys::{Context, Error, Kind, Result, signal};

/// How much of a hook's last words are kept, bytes.
const LAST_WORDS: usize = 4096;

/// What a hook is told: the state of the container (runtime-spec, runtime.md "State").
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState<'a> {
    /// The version of the specification.
    pub oci_version: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'a str,
    /// Its first process.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    /// Its bundle's folder.
    pub bundle: &'a Path,
    /// Its annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<&'a HashMap<String, String>>,
}

fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

/// Runs hooks one after the other, in the folder `cwd`.
///
/// Errors: [`Kind::Usage`] for a hook without sense; else the first one that could not be executed, did not end in
/// time, or ended with another status than 0, and what it said about that.
pub fn run(kind: &str, hooks: &[Hook], state: &HookState<'_>, cwd: &Path) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = serde_json::to_vec(state)
        .map_err(|err| Error::new(Kind::Corrupt, format!("the state for {kind} hooks: {err}")))?;
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, &state, cwd)
            .doing(|| format!("error running {kind} hook #{index}: {}", hook.path().display()))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &[u8], cwd: &Path) -> Result<()> {
    if !hook.path().is_absolute() {
        return Err(Error::new(Kind::Usage, "its path is not absolute"));
    }
    let deadline = match hook.timeout() {
        Some(seconds @ 1..) => Some(Instant::now() + Duration::from_secs(seconds.unsigned_abs())),
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("its timeout is {other}"))
                .hint("a timeout is a number of seconds above zero"));
        }
        None => None,
    };
    // A socket, not a pipe, so that a hook which does not read its stdin gives an error and no SIGPIPE.
    let (ours, stdin) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .doing(|| "socketpair(AF_UNIX)")?;
    let (words, stderr) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).doing(|| "pipe2()")?;
    // Only our end must not block.
    rustix::fs::fcntl_setfl(&stderr, OFlags::empty()).doing(|| "fcntl(F_SETFL)")?;
    match process::clone(0, None)? {
        Side::Child => {
            let failed = execute(hook, cwd, &stdin, &stderr).err();
            if let Some(err) = failed {
                let _ = rustix::io::write(&stderr, err.to_string().as_bytes());
            }
            process::exit_now(127)
        }
        Side::Parent(child) => {
            drop((stdin, stderr));
            follow(&child, ours, &words, state, deadline)
        }
    }
}

/// The child's part; comes back only with a failure.
fn execute(hook: &Hook, cwd: &Path, stdin: &OwnedFd, stderr: &OwnedFd) -> Result<()> {
    // A session of its own, so that all that it starts can be killed with it.
    rustix::process::setsid().doing(|| "setsid()")?;
    let nul = |_| Error::new(Kind::Usage, "a word with a NUL byte in it");
    let path = CString::new(hook.path().as_os_str().as_bytes()).map_err(nul)?;
    let strings = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|word| CString::new(word.as_str()).map_err(nul)).collect::<Result<Vec<_>>>()
    };
    let mut args = strings(hook.args())?;
    if args.is_empty() {
        args.push(path.clone());
    }
    let env = strings(hook.env())?;
    rustix::process::chdir(cwd).doing(|| format!("chdir({cwd:?})"))?;
    let null = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    process::dup_onto(stdin.as_fd(), 0)?;
    // A container may lack the null device; then its stdout is where its errors go.
    process::dup_onto(null.as_ref().unwrap_or(stderr).as_fd(), 1)?;
    process::dup_onto(stderr.as_fd(), 2)?;
    process::close_on_exec_from(3)?;
    signal::reset(u64::MAX);
    signal::unblock_all()?;
    Err(Error::syscall(format!("exec {}", hook.path().display()), process::exec(&path, &args, &env)))
}

/// Tells it the state, listens to it, and waits for its end.
fn follow(
    child: &Child,
    stdin: OwnedFd,
    words: &OwnedFd,
    state: &[u8],
    deadline: Option<Instant>,
) -> Result<()> {
    let mut said = VecDeque::new();
    let mut stdin = Some(stdin);
    let mut left = state;
    let mut hears = true;
    loop {
        let mut ready = vec![PollFd::new(&child.pidfd, PollFlags::IN)];
        if hears {
            ready.push(PollFd::new(words, PollFlags::IN));
        }
        if let Some(stdin) = &stdin {
            ready.push(PollFd::new(stdin, PollFlags::OUT));
        }
        let Some(timeout) = remaining(deadline) else {
            kill_session(child)?;
            return Err(Error::new(
                Kind::Exhausted,
                format!("it did not end in time and was killed{}", tail(&said)),
            )
            .hint("give the hook a longer timeout, or find out what it waits for"));
        };
        match poll(&mut ready, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno).doing(|| "poll(hook)"),
        }
        let ended = !ready[0].revents().is_empty();
        drop(ready);
        if let Some(socket) = &stdin
            && tell(socket.as_fd(), &mut left)?
        {
            stdin = None;
        }
        hears = hears && listen(words, &mut said);
        if ended {
            while hears && has_words(words) {
                hears = listen(words, &mut said);
            }
            // What its own children still hold open is not waited for.
            return match process::wait(child.pidfd.as_fd())? {
                Ended::Exited(0) => Ok(()),
                Ended::Exited(status) => {
                    Err(Error::new(Kind::Kernel, format!("exit status {status}{}", tail(&said))))
                }
                Ended::Killed(number) => Err(Error::new(
                    Kind::Kernel,
                    format!("killed by {}{}", signal::name(number), tail(&said)),
                )),
            };
        }
    }
}

/// `None`: too late. `Some(None)`: for ever.
#[expect(clippy::option_option, reason = "the inner one is poll's own")]
fn remaining(deadline: Option<Instant>) -> Option<Option<Timespec>> {
    let Some(deadline) = deadline else { return Some(None) };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return None;
    }
    Some(Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }))
}

/// Sends what fits; `true` when all is sent, or nobody reads it.
fn tell(socket: BorrowedFd<'_>, left: &mut &[u8]) -> Result<bool> {
    match rustix::net::send(socket, left, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Ok(sent) => *left = &left[sent..],
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(Errno::PIPE | Errno::CONNRESET) => return Ok(true),
        Err(errno) => return Err(errno).doing(|| "send(state)"),
    }
    Ok(left.is_empty())
}

/// Reads what there is; `false` at the end.
fn listen(words: &OwnedFd, said: &mut VecDeque<u8>) -> bool {
    let mut piece = [0u8; 4096];
    loop {
        match rustix::io::read(words, &mut piece[..]) {
            Ok(0) => return false,
            Ok(length) => {
                said.extend(&piece[..length]);
                said.drain(..said.len().saturating_sub(LAST_WORDS));
                // One piece a turn: who floods us must not keep us from its deadline.
                return true;
            }
            Err(Errno::INTR) => continue,
            Err(_) => return true,
        }
    }
}

fn has_words(words: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(words, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ready, Some(&now)).is_ok_and(|count| count > 0)
}

fn tail(said: &VecDeque<u8>) -> String {
    let bytes: Vec<u8> = said.iter().copied().collect();
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => String::new(),
        text => format!(", stderr: {text}"),
    }
}

fn kill_session(child: &Child) -> Result<()> {
    // It leads its own group; whoever left that is not ours to find.
    let _ = process::kill(-child.pid.as_raw_nonzero().get(), 9);
    process::signal(child.pidfd.as_fd(), 9)?;
    process::wait(child.pidfd.as_fd()).map(drop)
}
