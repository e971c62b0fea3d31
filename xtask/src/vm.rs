//! `cargo xtask vm`: a command in a throw-away machine that is not like this one.
//!
//! This machine may have cgroup v1, no systemd and nobody but root. The guest has pure cgroup v2, a Debian kernel
//! of a chosen version and, if asked, a real systemd and an ordinary user in a login session. It needs no KVM:
//! qemu emulates the processor, so everything takes 15 to 30 times as long, and nothing is measured there.
//!
//! ```text
//! vm                          the kernel is fetched once (kernel.rs)
//!  └ vm-inside                process 1 of a pid and mount namespace of its own (share.rs, machine.rs)
//!     ├ virtiofsd             this machine's /, read-only
//!     └ qemu                  guest/init.sh puts the root together -> systemd or guest/pid1.sh
//!                              -> guest/session.sh -> COMMAND
//! ```
//!
//! The guest stands on this machine's own root file system: same programs, same paths, same working folder. What
//! it writes is thrown away. However the chore ends, by SIGKILL too, the two namespaces go with it, and with
//! them every process, mount and file.

mod kernel;
mod machine;
mod share;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{Workspace, is_root, option};

pub use kernel::Kernel;
pub use machine::{BROKEN_BY_EMULATION, is_passed};

/// The hidden chore that holds the machine.
pub const INSIDE: &str = "vm-inside";

/// What tests multiply their time limits by in a guest. Less than it is slower: the limits are generous.
pub const SLOWNESS: &str = "5";

/// What a caller may want of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// systemd as process 1, rather than a shell script that reaps.
    pub systemd: bool,
    /// The command runs in a login session of an ordinary user.
    pub user: bool,
    /// The kernel to boot.
    pub kernel: Kernel,
    /// How long the guest may live.
    pub timeout: Duration,
    /// What to run, and its words.
    pub command: Vec<String>,
}

impl Options {
    /// Reads `[--systemd] [--user] [--kernel K] [--timeout S] -- COMMAND…`.
    fn parse(mut words: &[&str]) -> Result<Options> {
        let mut options = Options {
            systemd: false,
            user: false,
            kernel: Kernel::default(),
            timeout: Duration::from_secs(600),
            command: Vec::new(),
        };
        while let Some((first, rest)) = words.split_first() {
            match *first {
                "--" => {
                    words = rest;
                    break;
                }
                "--systemd" => (options.systemd, words) = (true, rest),
                // Only a systemd makes login sessions.
                "--user" => (options.systemd, options.user, words) = (true, true, rest),
                _ => {
                    if let Some(name) = option(&mut words, "--kernel")? {
                        options.kernel = Kernel::named(name)?;
                    } else if let Some(seconds) = option(&mut words, "--timeout")? {
                        let seconds = seconds.parse().context("--timeout wants a number of seconds")?;
                        options.timeout = Duration::from_secs(seconds);
                    } else if first.starts_with('-') {
                        bail!("vm does not know `{first}`");
                    } else {
                        break;
                    }
                }
            }
        }
        options.command = words.iter().map(|word| (*word).to_owned()).collect();
        ensure!(!options.command.is_empty(), "vm wants a command: cargo xtask vm -- COMMAND…");
        Ok(options)
    }

    /// The options as words that [`parse`](Options::parse) reads.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.systemd.then(|| "--systemd".to_owned()));
        words.extend(self.user.then(|| "--user".to_owned()));
        words.extend([format!("--kernel={}", self.kernel), format!("--timeout={}", self.timeout.as_secs())]);
        words.push("--".to_owned());
        words.extend(self.command.iter().cloned());
        words
    }
}

/// `cargo xtask vm [OPTIONS] -- COMMAND…`: exits as the command does.
pub fn chore(words: &[&str]) -> Result<ExitCode> {
    let options = Options::parse(words)?;
    let status = match command(&Workspace::find()?, &options) {
        Ok(mut command) => command.status().context("starting the guest")?,
        Err(error) => {
            eprintln!("vm: {error:#}");
            return Ok(ExitCode::from(machine::BROKEN));
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(machine::BROKEN)))
}

/// The command that boots a guest and runs what `options` say, with stdout, stderr and exit status passed
/// through. Fetches the kernel, if that was never done.
pub fn command(workspace: &Workspace, options: &Options) -> Result<Command> {
    ensure!(is_root(), "a guest needs root: it gets a read-only view of / in a mount namespace");
    kernel::prepare(&cache(workspace), options.kernel)?;
    let mut command = Command::new("setpriv");
    // When we die, unshare is killed; when unshare dies, process 1 of the namespace; with that, all others.
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]);
    command.args(["--kill-child=KILL", "--mount-proc", "--propagation", "private"]);
    command.arg(std::env::current_exe()?).arg(INSIDE).args(options.words());
    Ok(command)
}

/// The hidden chore: called in namespaces of its own, which end with it.
pub fn inside_chore(words: &[&str]) -> Result<ExitCode> {
    ensure!(std::process::id() == 1, "{INSIDE} is for `cargo xtask vm` to call");
    let workspace = Workspace::find()?;
    let options = Options::parse(words)?;
    let code = machine::run(&workspace, &options).unwrap_or_else(|error| {
        eprintln!("vm: {error:#}");
        machine::BROKEN
    });
    Ok(ExitCode::from(code))
}

/// Where kernels are kept between runs.
fn cache(workspace: &Workspace) -> PathBuf {
    workspace.target.join("vm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_end_at_the_command_and_survive_being_passed_on() {
        let options =
            Options::parse(&["--user", "--kernel", "6.1", "--timeout=5", "--", "sh", "--systemd"]).unwrap();
        assert!(options.systemd && options.user);
        assert_eq!(options.timeout, Duration::from_secs(5));
        assert_eq!(options.command, ["sh", "--systemd"]);
        let words = options.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(Options::parse(&words).unwrap(), options);
    }

    #[test]
    fn what_vm_does_not_know_is_refused() {
        assert!(Options::parse(&["--kernel", "5.4", "true"]).is_err());
        assert!(Options::parse(&["--kvm", "true"]).is_err());
        assert!(Options::parse(&["--systemd", "--"]).is_err());
        assert_eq!(Options::parse(&["true"]).unwrap().command, ["true"]);
    }
}
