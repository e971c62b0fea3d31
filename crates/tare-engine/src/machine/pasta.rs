//! pasta(1): joins the machine's network to the host's, with no right that the user does not have.
//!
//! It copies the host's address and routes onto a link in the machine, and makes of what leaves there connections of its
//! own. Published ports do not need it, nor do containers that talk to each other.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tare_sys::mount::{self, Detached};
use tare_sys::process::{self, Child};
use tare_sys::spawn::{self, Program};
use tare_sys::{Context, Error, Kind, Result};

/// Where the machine's network is for pasta, in the machine's mounts: from another process's /proc/PID/fd it may not
/// take it, having given up its rights by then.
const NETWORK: &str = "network";
/// What it says.
const LOG: &str = "pasta.log";
/// Its pid; there when it is ready.
const PID: &str = "pasta.pid";
/// What keeps it from running, in words; not there while it runs.
const PROBLEM: &str = "pasta.problem";
/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before it is started again.
const PAUSE: Duration = Duration::from_secs(5);

/// pasta, running or not.
pub struct Pasta {
    run: PathBuf,
    child: Option<Child>,
    tried: Instant,
}

impl Pasta {
    /// Starts it, and waits until the machine's network is joined or why it cannot be is known.
    pub fn start(run: &Path, netns: BorrowedFd<'_>) -> Pasta {
        let mut pasta = Pasta { run: run.to_owned(), child: None, tried: Instant::now() };
        let place = run.join(NETWORK);
        let shown = File::create(&place).doing(|| format!("create {}", place.display())).and_then(|_| {
            // A holder before this one may have put it there.
            let _ = mount::unmount(&place.to_string_lossy());
            let file = File::open(&place).doing(|| format!("open {}", place.display()))?;
            Detached::clone_fd(netns, false)?.attach(file)
        });
        pasta.end_old();
        match shown {
            Ok(()) => pasta.begin(),
            Err(err) => pasta.note(Err(err)),
        }
        pasta
    }

    /// What to wait for: its end.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// When to look whether it can be started; `None` while it runs.
    pub fn next(&self) -> Option<Duration> {
        match self.child {
            Some(_) => None,
            None => Some((self.tried + PAUSE).saturating_duration_since(Instant::now())),
        }
    }

    /// Starts it again where it has ended, or has been installed meanwhile.
    pub fn look_after(&mut self) {
        if let Some(child) = &self.child
            && process::began(child.pid.as_raw_nonzero().get()).is_none()
        {
            let _ = process::wait(child.pidfd.as_fd());
            self.child = None;
            self.tried = Instant::now();
        }
        if self.next() == Some(Duration::ZERO) {
            self.begin();
        }
    }

    /// Ends it.
    pub fn end(run: &Path) {
        if let Some(pid) = running(run) {
            let _ = process::kill(pid, 15);
        }
        let _ = fs::remove_file(run.join(PID));
    }

    /// One that a killed holder has left behind has the wrong network, or its link is in our way.
    fn end_old(&self) {
        let Some(pid) = running(&self.run) else { return };
        let old = rustix::process::Pid::from_raw(pid)
            .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
        Pasta::end(&self.run);
        if let Some(old) = old {
            let mut end = [rustix::event::PollFd::new(&old, rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut end, Some(&rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 }));
        }
    }

    fn begin(&mut self) {
        self.tried = Instant::now();
        let begun = self.execute();
        self.note(begun.as_ref().map(|_| ()).map_err(Clone::clone));
        self.child = begun.ok();
    }

    /// Leaves word for the commands.
    fn note(&self, result: Result<()>) {
        let path = self.run.join(PROBLEM);
        let _ = match result {
            Ok(()) => fs::remove_file(path),
            Err(err) => fs::write(path, format!("{err}\n{}", err.hint_text().unwrap_or_default())),
        };
    }

    fn execute(&self) -> Result<Child> {
        let program = find("pasta").ok_or_else(|| {
            Error::new(Kind::NotFound, "pasta(1) is not installed").hint(
                "have root install it (Debian: apt install passt); containers without a network, and with \
                       --network host, run without it",
            )
        })?;
        let pid = self.run.join(PID);
        let _ = fs::remove_file(&pid);
        let log: OwnedFd = File::create(self.run.join(LOG)).doing(|| "create pasta.log")?.into();
        let null = crate::stdio::open_null()?;
        let word = |text: &std::ffi::OsStr| CString::new(text.as_bytes()).unwrap_or_default();
        let mut args = vec![c"pasta".to_owned()];
        // No port either way: see `host_socket`. No way to what listens on the host's loopback.
        let flags = "--foreground --quiet --stderr --config-net --no-map-gw --tcp-ports none --udp-ports none \
                     --tcp-ns none --udp-ns none --ns-ifname host0";
        args.extend(flags.split_whitespace().map(|flag| word(flag.as_ref())));
        for (flag, value) in [("--netns", &self.run.join(NETWORK)), ("--pid", &pid)] {
            args.extend([word(flag.as_ref()), word(value.as_os_str())]);
        }
        let path = word(program.as_os_str());
        let env = crate::monitor::adopt::environment();
        let stdio = [null.as_fd(), null.as_fd(), log.as_fd()];
        let child = spawn::spawn(&Program { path: &path, args: &args, env: &env, folder: c"/", stdio })?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if fs::metadata(&pid).is_ok_and(|meta| meta.len() > 0) {
                return Ok(child);
            }
            if process::began(child.pid.as_raw_nonzero().get()).is_none() {
                let _ = process::wait(child.pidfd.as_fd());
                return Err(self.complaint());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = process::signal(child.pidfd.as_fd(), 9);
        let _ = process::wait(child.pidfd.as_fd());
        Err(Error::new(Kind::Kernel, "pasta(1) did not get ready within 10 s")
            .hint(format!("see {}", self.run.join(LOG).display())))
    }

    fn complaint(&self) -> Error {
        let said = super::read_or_nothing(&self.run.join(LOG));
        let lines: Vec<&str> =
            said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("syslog")).collect();
        let err = Error::new(Kind::Unsupported, format!("pasta(1) has ended: {}", lines.join("; ")));
        if said.contains("tun socket") {
            err.hint("it needs /dev/net/tun, readable and writable by you (mode 0666, module tun)")
        } else if said.contains("routable interface") || said.contains("xternal interface") {
            err.hint("the host itself has no default route: it has no network to join")
        } else {
            err.hint(format!("see {}", self.run.join(LOG).display()))
        }
    }
}

/// What keeps the machine from the host's network; `None`: nothing.
pub fn problem(run: &Path) -> Option<Error> {
    let text = fs::read_to_string(run.join(PROBLEM)).ok()?;
    let (what, hint) = text.split_once('\n').unwrap_or((&text, ""));
    let err = Error::new(Kind::Unsupported, what);
    Some(if hint.is_empty() { err } else { err.hint(hint) })
}

/// The pid of the pasta of this run folder, if it runs.
fn running(run: &Path) -> Option<i32> {
    let pid: i32 = fs::read_to_string(run.join(PID)).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = run.join(PID);
    command.split(|byte| *byte == 0).any(|word| word == ours.as_os_str().as_bytes()).then_some(pid)
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from);
    let is_program = |file: &PathBuf| {
        fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(is_program)
}
