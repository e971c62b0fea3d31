//! `create` and `run`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tare_runtime::container::CreateOptions;
use tare_sys::{Context, Error, Kind, Result};

use super::{Call, foreground};
use crate::words::flag::{Flag, Given};
use crate::words::parse;

const BUNDLE: Flag =
    Flag::one("bundle", "dir", "/srv/bundle", "Folder of the bundle (default: the current one)").short('b');
const CONFIG: Flag =
    Flag::one("config", "file", "/srv/config.json", "Read this instead of the bundle's config.json")
        .short('f');
pub const CONSOLE_SOCKET: Flag = Flag::one(
    "console-socket",
    "socket",
    "/run/console.sock",
    "Send our side of the terminal to this unix socket",
);
pub const DETACH: Flag = Flag::switch("detach", "Do not wait for the process").short('d');
const NO_NEW_KEYRING: Flag = Flag::switch("no-new-keyring", "Keep the caller's session keyring");
const NO_PIVOT: Flag = Flag::switch(
    "no-pivot",
    "Move the root over / instead of pivoting: for a host that runs from an initramfs",
);
pub const NO_SUBREAPER: Flag =
    Flag::switch("no-subreaper", "Do not adopt processes that the container leaves behind");
pub const PID_FILE: Flag =
    Flag::one("pid-file", "file", "/run/web.pid", "Write the number of the process to this file");
pub const PIDFD_SOCKET: Flag =
    Flag::one("pidfd-socket", "socket", "/run/pidfd.sock", "Send a pidfd of the process to this unix socket");
pub const PRESERVE_FDS: Flag = Flag::one(
    "preserve-fds",
    "int",
    "1",
    "Pass so many open files on, from 3 upwards, after those of $LISTEN_FDS",
);

pub static CREATE: [Flag; 9] = [
    BUNDLE,
    CONFIG,
    CONSOLE_SOCKET,
    NO_NEW_KEYRING,
    NO_PIVOT,
    PID_FILE,
    PIDFD_SOCKET,
    PRESERVE_FDS,
    // crun has it here too; `create` does not wait, so there is nobody to adopt for.
    NO_SUBREAPER,
];

pub static RUN: [Flag; 11] = [
    BUNDLE,
    CONFIG,
    CONSOLE_SOCKET,
    DETACH,
    Flag::switch("keep", "Do not delete the container when it has ended"),
    NO_NEW_KEYRING,
    NO_PIVOT,
    NO_SUBREAPER,
    PID_FILE,
    PIDFD_SOCKET,
    PRESERVE_FDS,
];

pub fn create(call: &Call) -> Result<u8> {
    let options = options(call)?;
    check_terminal(&options, true)?;
    let started = call.runtime.create(call.id(), &options)?;
    call.warn(&started.warnings);
    Ok(0)
}

pub fn run(call: &Call) -> Result<u8> {
    let (options, detach, keep) = (options(call)?, call.given.on("detach")?, call.given.on("keep")?);
    if detach || options.console_socket.is_some() {
        check_terminal(&options, detach)?;
    }
    let id = call.id();
    if detach {
        let started = call.runtime.run(id, &options)?;
        call.warn(&started.warnings);
        return Ok(0);
    }
    let foreground = foreground::prepare(!call.given.on("no-subreaper")?)?;
    let started = call.runtime.run(id, &options)?;
    call.warn(&started.warnings);
    let ended = foreground.relay(started);
    if !keep {
        let removed = call.runtime.container(id).and_then(|container| container.delete(true));
        match (&ended, removed) {
            (_, Ok(left)) => call.warn(&left),
            // Somebody else deleted it meanwhile.
            (_, Err(error)) if error.kind() == Kind::NotFound => {}
            // The process's exit code is worth more than that of clearing up.
            (_, Err(error)) => call.warn(&[format!("delete the container: {error}")]),
        }
    }
    let ended = ended?;
    call.log.debug(|| format!("the container has ended: {ended:?}"));
    Ok(ended.code())
}

fn options(call: &Call) -> Result<CreateOptions> {
    let given = &call.given;
    let bundle = match call.path("bundle")? {
        Some(bundle) => bundle,
        None => std::env::current_dir().doing(|| "getcwd()")?,
    };
    let config = call.path("config")?;
    if let Some(file) = config.as_ref().filter(|file| file.exists() && !file.is_file()) {
        // It is read again when the binary has executed itself again.
        let what = format!("--config {}: it is no regular file", file.display());
        return Err(Error::new(Kind::Usage, what).hint("write it to a file first"));
    }
    Ok(CreateOptions {
        bundle,
        config,
        console_socket: call.path("console-socket")?,
        pid_file: call.path("pid-file")?,
        pidfd_socket: call.path("pidfd-socket")?,
        no_pivot: given.on("no-pivot")?,
        no_new_keyring: given.on("no-new-keyring")?,
        preserve_fds: preserve_fds(given)?,
    })
}

/// How many files the caller wants to pass on.
pub fn preserve_fds(given: &Given) -> Result<u32> {
    let count = given.value("preserve-fds", parse::number(0, 1 << 20))?;
    Ok(count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0))
}

/// Checks that the files to pass on are open: the number of one that is not would soon be that of a file of ours.
pub fn check_files(given: &Given) -> Result<()> {
    let preserved = preserve_fds(given)?;
    let end = 3 + listening(std::process::id()).saturating_add(preserved);
    for fd in 3..end {
        if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
            let what =
                format!("unable to stat preserved-fd {fd}: it is not open (--preserve-fds {preserved})");
            return Err(Error::new(Kind::Usage, what));
        }
    }
    Ok(())
}

/// How many sockets systemd passes to process `pid` (sd_listen_fds(3)): those meant for another do not count.
fn listening(pid: u32) -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(meant), Some(count)) if meant == pid => count,
        _ => 0,
    }
}

/// Who holds our side of a terminal must be settled before the start: the caller through its socket, or we for as
/// long as we wait.
fn check_terminal(options: &CreateOptions, detach: bool) -> Result<()> {
    let config = options.config.clone().unwrap_or_else(|| options.bundle.join("config.json"));
    // What is wrong with the file the runtime says better.
    let terminal = has_terminal(&config).unwrap_or(options.console_socket.is_some());
    terminal_rules(terminal, detach, options.console_socket.as_deref())
}

/// runc's two rules, in its words.
pub fn terminal_rules(terminal: bool, detach: bool, socket: Option<&Path>) -> Result<()> {
    match socket {
        None if terminal && detach => Err(Error::new(
            Kind::Usage,
            "cannot allocate tty if tare-oci will detach without setting console socket",
        )
        .hint("give a --console-socket, or set process.terminal to false")),
        Some(_) if !detach || !terminal => Err(Error::new(
            Kind::Usage,
            "cannot use console socket if tare-oci will not detach or allocate tty",
        )),
        _ => Ok(()),
    }
}

/// `process.terminal` of a config file; `None` where that cannot be read.
fn has_terminal(config: &PathBuf) -> Option<bool> {
    #[derive(Deserialize)]
    struct Config {
        process: Option<Process>,
    }
    #[derive(Deserialize)]
    struct Process {
        #[serde(default)]
        terminal: bool,
    }
    let config: Config = serde_json::from_slice(&std::fs::read(config).ok()?).ok()?;
    Some(config.process.is_some_and(|process| process.terminal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_needs_somebody_to_hold_it() {
        let socket = Some(Path::new("/s"));
        // terminal, detach, socket, whether it goes
        let table = [
            (false, false, None, true),
            (true, false, None, true),
            (false, true, None, true),
            (true, true, None, false),
            (true, true, socket, true),
            (false, true, socket, false),
            (true, false, socket, false),
            (false, false, socket, false),
        ];
        for (terminal, detach, socket, goes) in table {
            assert_eq!(
                terminal_rules(terminal, detach, socket).is_ok(),
                goes,
                "{terminal} {detach} {socket:?}"
            );
        }
    }
}
