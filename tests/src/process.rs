//! Looking at the machine's processes through /proc, and waiting for things to happen.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::patience::stretched;

/// One process of the machine.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its number on the host.
    pub id: i32,
    folder: PathBuf,
}

impl Process {
    /// Every process there is.
    pub fn all() -> Vec<Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| Process::by_id(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    /// The process with that number, if there is one.
    pub fn by_id(id: i32) -> Option<Process> {
        let folder = Path::new("/proc").join(id.to_string());
        folder.is_dir().then_some(Process { id, folder })
    }

    /// A file of its /proc folder; empty if the process has gone.
    pub fn file(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join(name)).unwrap_or_default()).into_owned()
    }

    /// A link of its /proc folder, such as `ns/net`.
    pub fn link(&self, name: &str) -> String {
        fs::read_link(self.folder.join(name)).map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// Is it still doing something, rather than waiting to be reaped?
    pub fn is_alive(&self) -> bool {
        let stat = self.file("stat");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// The processor time that it has used.
    pub fn busy(&self) -> Duration {
        let stat = self.file("stat");
        let words = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        // The 14th and 15th, in hundredths of a second (proc_pid_stat(5)).
        let ticks: u64 = words.skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Its command line, for messages.
    pub fn command(&self) -> String {
        let line = self.file("cmdline").replace('\0', " ");
        format!("{} {}", self.id, line.trim())
    }

    /// Sends SIGKILL; a process that has gone meanwhile is as good.
    pub fn kill(&self) {
        signal(self.id, Signal::KILL);
    }
}

/// Sends a signal to a process by number.
pub fn signal(id: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(id) {
        let _ = kill_process(pid, signal);
    }
}

/// Asks for the end of a process that somebody else has reaped (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, linux/pidfd.h).
const ASK_FOR_AN_END: &str = "
import fcntl, os, struct
pid = os.fork()
if pid == 0:
    os._exit(7)
fd = os.pidfd_open(pid)
os.waitpid(pid, 0)
info = bytearray(struct.pack('=Q56x', 8))
fcntl.ioctl(fd, 0xC040FF0B, info)
mask, status = struct.unpack('=Q52xi', info)
raise SystemExit(mask & 8 == 0 or os.waitstatus_to_exitcode(status) != 7)
";

/// Does this kernel tell how a process has ended that somebody else has reaped? Linux does since 6.15. Before, a monitor that
/// took over knows the exit code only if it was faster than the machine's init.
pub fn ends_are_told() -> bool {
    static TOLD: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TOLD.get_or_init(|| {
        let out = Command::new("python3").args(["-c", ASK_FOR_AN_END]).output().expect("python3");
        let told = out.status.success();
        if !told {
            eprintln!("exit codes may be unknown: this kernel does not tell how processes of others ended");
        }
        told
    })
}

/// Waits until `condition` holds, at most ten seconds (more on a slow machine); fails with `what` otherwise.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_or_tell(what, condition, String::new);
}

/// The same; a failure also tells how things are.
#[track_caller]
pub fn eventually_or_tell(what: &str, mut condition: impl FnMut() -> bool, tell: impl FnOnce() -> String) {
    let limit = stretched(Duration::from_secs(10));
    let start = Instant::now();
    while !condition() {
        if start.elapsed() >= limit {
            panic!("did not happen within {} s: {what}\n{}", limit.as_secs(), tell());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
