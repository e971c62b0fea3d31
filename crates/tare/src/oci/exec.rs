//! `exec`: one more process in a container, described by options, by a file, or by both.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, Process};
use tare_runtime::container::{Container, ExecOptions};
use tare_runtime::exe;
use tare_sys::{Context, Error, Kind, Result};

use super::create::{CONSOLE_SOCKET, DETACH, NO_SUBREAPER, PID_FILE, PIDFD_SOCKET, PRESERVE_FDS};
use super::{Call, create, foreground};
use crate::words::flag::{Flag, Given};

pub static EXEC: [Flag; 19] = [
    Flag::many("additional-gids", "20", "Add a group").short('g'),
    Flag::one("apparmor", "string", "my-profile", "AppArmor profile"),
    Flag::many("cap", "CAP_NET_RAW", "Add a capability").short('c'),
    Flag::many("cgroup", "/worker", "Start it in this cgroup below the container's ([controller,...:]path)"),
    CONSOLE_SOCKET,
    Flag::one("cwd", "dir", "/srv", "Working directory in the container"),
    DETACH,
    Flag::many("env", "NAME=value", "Set an environment variable").short('e'),
    Flag::switch("ignore-paused", "Start it even in a paused container, where it waits for resume"),
    Flag::switch("no-new-privs", "Let it gain no privileges by executing programs"),
    NO_SUBREAPER,
    PID_FILE,
    PIDFD_SOCKET,
    PRESERVE_FDS,
    Flag::one(
        "process",
        "file",
        "/run/process.json",
        "Read the process from this file; other options change what it says",
    )
    .short('p'),
    Flag::one("process-label", "string", "system_u:system_r:svirt_t:s0", "SELinux label"),
    Flag::switch("tty", "Give it a terminal").short('t'),
    Flag::one("user", "uid[:gid]", "1000:1000", "User and group by number").short('u'),
    Flag::one("umask", "octal", "022", "File mode creation mask"),
];

pub fn exec(call: &Call) -> Result<u8> {
    let given = &call.given;
    let options = ExecOptions {
        console_socket: call.path("console-socket")?,
        pid_file: call.path("pid-file")?,
        pidfd_socket: call.path("pidfd-socket")?,
        preserve_fds: create::preserve_fds(given)?,
        cgroups: given.strings("cgroup"),
        ignore_paused: given.on("ignore-paused")?,
    };
    let detach = given.on("detach")?;
    let container = call.container()?;
    let process = process(given, &container)?;
    create::terminal_rules(process.terminal().unwrap_or(false), detach, options.console_socket.as_deref())?;
    if detach {
        let started = container.exec(&process, &options)?;
        call.warn(&started.warnings);
        return Ok(0);
    }
    let foreground = foreground::prepare(!given.on("no-subreaper")?)?;
    let started = container.exec(&process, &options)?;
    call.warn(&started.warnings);
    let ended = foreground.relay(started)?;
    call.log.debug(|| format!("the process has ended: {ended:?}"));
    Ok(ended.code())
}

/// The process: the file's, or the container's own with another command; then what the options say.
fn process(given: &Given, container: &Container) -> Result<Process> {
    let mut process = match given.text("process") {
        Some(file) => {
            // What can be read only once has to wait until we have executed ourselves again.
            if !Path::new(file).is_file() {
                exe::protect(&container.spec()?)?;
            }
            let bytes = std::fs::read(file).doing(|| format!("read the process from {file}"))?;
            serde_json::from_slice(&bytes)
                .map_err(|err| Error::new(Kind::Corrupt, format!("read the process from {file}: {err}")))?
        }
        None => own_process(container)?,
    };
    change(given, &mut process)?;
    check(&process)?;
    Ok(process)
}

/// The container's process, as a base: its arguments and its terminal are its own.
fn own_process(container: &Container) -> Result<Process> {
    let spec = container.spec()?;
    let mut process = spec.process().clone().ok_or_else(|| {
        Error::new(Kind::Usage, "the container has no process to take after")
            .hint("describe one with --process FILE")
    })?;
    process.set_args(None).set_terminal(None).set_console_size(None);
    Ok(process)
}

fn change(given: &Given, process: &mut Process) -> Result<()> {
    let mut args = given.strings_after(1);
    // `exec ID -- ls`
    if args.first().is_some_and(|word| word == "--") {
        args.remove(0);
    }
    if !args.is_empty() {
        process.set_args(Some(args));
    }
    if let Some(tty) = given.maybe("tty")? {
        process.set_terminal(Some(tty));
    }
    if let Some(cwd) = given.text("cwd") {
        process.set_cwd(cwd.into());
    }
    let variables = given.values("env", |text| match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("it is not NAME=value".to_owned()),
    })?;
    process.env_mut().get_or_insert_with(Vec::new).extend(variables);
    if let Some((uid, gid)) = given.value("user", user)? {
        let own = process.user_mut();
        own.set_uid(uid);
        // As runc has it: without a group the process keeps the container's.
        if let Some(gid) = gid {
            own.set_gid(gid);
        }
    }
    let groups = given.values("additional-gids", id)?;
    if !groups.is_empty() {
        let mut all = process.user().additional_gids().clone().unwrap_or_default();
        all.extend(groups);
        process.user_mut().set_additional_gids(Some(all));
    }
    if let Some(mask) = given.value("umask", |text| {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mask| *mask <= 0o777)
            .ok_or_else(|| "it is not an octal number up to 777".to_owned())
    })? {
        process.user_mut().set_umask(Some(mask));
    }
    if let Some(on) = given.maybe("no-new-privs")? {
        process.set_no_new_privileges(Some(on));
    }
    if let Some(profile) = given.text("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = given.text("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    let added = given.values("cap", capability)?;
    if !added.is_empty() {
        let own = process.capabilities().clone();
        process.set_capabilities(Some(with_capabilities(own, &added)));
    }
    Ok(())
}

/// Adds capabilities to what the process has. Never to the inheritable ones: with those, any program could hand
/// them on (CVE-2022-29162).
fn with_capabilities(own: Option<LinuxCapabilities>, added: &[Capability]) -> LinuxCapabilities {
    let mut capabilities = own.unwrap_or_else(|| {
        let none = || LinuxCapabilitiesBuilder::default().build();
        none().unwrap_or_default()
    });
    let with = |set: &Option<HashSet<Capability>>| Some(set.iter().flatten().chain(added).copied().collect());
    let bounding = with(capabilities.bounding());
    let effective = with(capabilities.effective());
    let permitted = with(capabilities.permitted());
    capabilities.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    capabilities
}

fn check(process: &Process) -> Result<()> {
    let refuse = |what: &str| Err(Error::new(Kind::Usage, what));
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return refuse("process args cannot be empty");
    }
    if process.cwd().as_os_str().is_empty() {
        return refuse("Cwd property must not be empty");
    }
    if !process.cwd().is_absolute() {
        return refuse("Cwd must be an absolute path");
    }
    Ok(())
}

/// `uid` or `uid:gid`, both by number.
fn user(text: &str) -> Result<(u32, Option<u32>), String> {
    match text.split_once(':') {
        Some((uid, gid)) => Ok((id(uid)?, Some(id(gid)?))),
        None => Ok((id(text)?, None)),
    }
}

/// A user's or group's number, and nothing that only begins like one or wraps round to one (CVE-2026-30892).
fn id(text: &str) -> Result<u32, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("users and groups are given by number here: uid[:gid]".to_owned());
    }
    match text.parse::<u32>() {
        // The last one means "leave it as it is" to setuid(2)'s kin.
        Ok(u32::MAX) | Err(_) => Err(format!("it must be from 0 to {}", u32::MAX - 1)),
        Ok(id) => Ok(id),
    }
}

/// A capability with or without `CAP_`, in whatever case.
fn capability(text: &str) -> Result<Capability, String> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    serde_json::from_value(serde_json::Value::from(name))
        .map_err(|_| "there is no such capability".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::words;

    #[test]
    fn users_are_numbers_and_nothing_else() {
        assert_eq!(user("1"), Ok((1, None)));
        assert_eq!(user("1:2"), Ok((1, Some(2))));
        assert_eq!(user("0"), Ok((0, None)));
        assert_eq!(user("4294967294"), Ok((4_294_967_294, None)));
        for text in [
            "",
            "-1",
            "1:",
            ":1",
            "+1",
            " 1",
            "1 ",
            "4294967295",
            "4294967296",
            "1:4294967295",
            "1:2:3",
            "0x1",
            "root",
            "1:-1",
            "1:+1",
            "18446744073709551616",
            "١",
        ] {
            assert!(user(text).is_err(), "{text:?}");
        }
    }

    fn changed(typed: &[&str]) -> Result<Process> {
        let typed: Vec<String> = typed.iter().map(|word| (*word).to_owned()).collect();
        let sorted = words::sort(&typed, &EXEC, true)?;
        let mut process: Process = serde_json::from_value(serde_json::json!({
            "user": {"uid": 5, "gid": 6, "additionalGids": [7]}, "cwd": "/", "env": ["A=1"],
            "capabilities": {"bounding": ["CAP_KILL"], "effective": [], "inheritable": []},
        }))
        .unwrap();
        change(&Given::new(&sorted, &EXEC), &mut process)?;
        check(&process).map(|()| process)
    }

    #[test]
    fn options_change_what_they_name_and_nothing_else() {
        let process =
            changed(&["-u", "1", "-g", "8", "-eB=2", "--cwd=/x", "-t", "--umask", "027", "id", "ls", "-t"])
                .unwrap();
        let user = process.user();
        assert_eq!((user.uid(), user.gid(), user.umask()), (1, 6, Some(0o27)));
        assert_eq!(user.additional_gids(), &Some(vec![7, 8]));
        assert_eq!(process.env(), &Some(vec!["A=1".to_owned(), "B=2".to_owned()]));
        assert_eq!((process.terminal(), process.no_new_privileges()), (Some(true), None));
        assert_eq!(process.args(), &Some(vec!["ls".to_owned(), "-t".to_owned()]));
        assert_eq!(changed(&["id", "--", "-x"]).unwrap().args(), &Some(vec!["-x".to_owned()]));
    }

    #[test]
    fn added_capabilities_are_never_inheritable() {
        let process = changed(&["--cap", "CAP_NET_RAW", "-c", "sys_admin", "id", "ls"]).unwrap();
        let own = process.capabilities().as_ref().unwrap();
        let raw = |set: &Option<HashSet<Capability>>| set.as_ref().map(HashSet::len);
        assert_eq!(
            (raw(own.bounding()), raw(own.effective()), raw(own.permitted())),
            (Some(3), Some(2), Some(2))
        );
        assert_eq!((raw(own.inheritable()), raw(own.ambient())), (Some(0), None));
    }

    #[test]
    fn nonsense_is_refused() {
        for typed in [
            &["id"] as &[&str],
            &["id", "--"],
            &["--cwd", "x", "id", "ls"],
            &["--cwd", "", "id", "ls"],
            &["-e", "A", "id", "ls"],
            &["-e", "=1", "id", "ls"],
            &["--cap", "CAP_NOPE", "id", "ls"],
            &["-g", "staff", "id", "ls"],
            &["--umask", "999", "id", "ls"],
        ] {
            assert!(changed(typed).is_err(), "{typed:?}");
        }
    }
}
