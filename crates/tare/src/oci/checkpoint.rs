//! `checkpoint` and `restore`, with the options of runc and crun.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;

use tare_runtime::container::{CgroupsMode, CheckpointOptions, CriuOptions, NetworkLock, RestoreOptions};
use tare_sys::{Context, Error, Kind, Result};

use super::create::{CONSOLE_SOCKET, DETACH, NO_SUBREAPER, PID_FILE, terminal_rules};
use super::{Call, foreground};
use crate::words::flag::Flag;

const AUTO_DEDUP: Flag = Flag::switch("auto-dedup", "Punch out of earlier files what is newer here");
const CGROUPS: Flag = Flag::one(
    "manage-cgroups-mode",
    "string",
    "soft",
    "What is done about cgroups: soft, full, strict or ignore (default soft)",
);
const EMPTY_NS: Flag =
    Flag::many("empty-ns", "network", "Do not save this namespace (network, which never is)");
const EXT_UNIX_SK: Flag = Flag::switch("ext-unix-sk", "Allow unix sockets to the outside");
const FILE_LOCKS: Flag = Flag::switch("file-locks", "Save file locks");
const IMAGE_PATH: Flag =
    Flag::one("image-path", "dir", "/srv/image", "Folder of the saved files (default: checkpoint)");
const LAZY_PAGES: Flag = Flag::switch("lazy-pages", "Fetch memory when it is used");
const NETWORK_LOCK: Flag =
    Flag::one("network-lock", "string", "nftables", "How packets are held back: iptables, nftables or skip");
const SHELL_JOB: Flag = Flag::switch("shell-job", "Allow a process under a terminal of somebody else");
const TCP_CLOSE: Flag = Flag::switch("tcp-close", "Close tcp connections");
const TCP_ESTABLISHED: Flag = Flag::switch("tcp-established", "Save open tcp connections");
const TCP_SKIP: Flag = Flag::switch("tcp-skip-in-flight", "Leave out tcp connections that are being made");
const LINK_REMAP: Flag = Flag::switch("link-remap", "Save files that have been removed but are open");
const WORK_PATH: Flag =
    Flag::one("work-path", "dir", "/srv/work", "Folder of criu's logs (default: that of the saved files)");

pub static CHECKPOINT: [Flag; 19] = [
    AUTO_DEDUP,
    EMPTY_NS,
    EXT_UNIX_SK,
    FILE_LOCKS,
    IMAGE_PATH,
    LAZY_PAGES,
    Flag::switch("leave-running", "Do not stop the container"),
    LINK_REMAP,
    CGROUPS,
    NETWORK_LOCK,
    Flag::one(
        "page-server",
        "address:port",
        "192.0.2.1:27",
        "Send memory to this server; with --lazy-pages, serve it there",
    ),
    Flag::one("parent-path", "dir", "../before", "Saved files that these add to, relative to --image-path"),
    Flag::switch("pre-dump", "Save memory alone, and let the container run"),
    SHELL_JOB,
    Flag::one("status-fd", "int", "3", "Write a zero byte there when the pages can be fetched"),
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_SKIP,
    WORK_PATH,
];

pub static RESTORE: [Flag; 21] = [
    AUTO_DEDUP,
    Flag::one("bundle", "dir", "/srv/bundle", "Folder of the bundle (default: the current one)").short('b'),
    CONSOLE_SOCKET,
    DETACH,
    EMPTY_NS,
    EXT_UNIX_SK,
    FILE_LOCKS,
    IMAGE_PATH,
    LAZY_PAGES,
    Flag::one(
        "lsm-mount-context",
        "string",
        "system_u:object_r:x_t:s0",
        "SELinux context of its mounts, in place of the saved one",
    ),
    Flag::one("lsm-profile", "type:name", "apparmor:web", "Its security profile, in place of the saved one"),
    CGROUPS,
    NETWORK_LOCK,
    Flag::switch("no-pivot", "Refused: criu always pivots"),
    NO_SUBREAPER,
    PID_FILE,
    SHELL_JOB,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_SKIP,
    WORK_PATH,
];

pub fn checkpoint(call: &Call) -> Result<u8> {
    let given = &call.given;
    // What would be wrong in any case is said first.
    let container = call.container()?;
    let options = CheckpointOptions {
        criu: criu_options(call)?,
        parent: given.text("parent-path").filter(|path| !path.is_empty()).map(PathBuf::from),
        leave_running: given.on("leave-running")?,
        pre_dump: given.on("pre-dump")?,
        link_remap: given.on("link-remap")?,
        page_server: given.value("page-server", address)?,
        status: given.value("status-fd", writable)?,
    };
    if options.status.is_some() && !options.criu.lazy_pages {
        return Err(Error::new(
            Kind::Usage,
            "--status-fd tells when memory can be fetched, which only --lazy-pages does",
        ));
    }
    if options.criu.lazy_pages && options.page_server.is_none() {
        return Err(Error::new(Kind::Usage, "--lazy-pages wants to know where memory is to be fetched")
            .hint("add --page-server ADDRESS:PORT"));
    }
    call.warn(&container.checkpoint(&options)?);
    Ok(0)
}

pub fn restore(call: &Call) -> Result<u8> {
    let given = &call.given;
    if given.on("no-pivot")? {
        return Err(Error::new(
            Kind::Unsupported,
            "--no-pivot: criu always pivots into the root file system",
        )
        .hint("leave it out; on an initramfs, put the container's root on a mount of its own"));
    }
    let bundle = match call.path("bundle")? {
        Some(bundle) => bundle,
        None => std::env::current_dir().doing(|| "getcwd()")?,
    };
    let text = |long| given.text(long).filter(|text: &&str| !text.is_empty()).map(str::to_owned);
    let options = RestoreOptions {
        criu: criu_options(call)?,
        bundle,
        console_socket: call.path("console-socket")?,
        pid_file: call.path("pid-file")?,
        lsm_profile: text("lsm-profile"),
        lsm_mount_context: text("lsm-mount-context"),
    };
    let detach = given.on("detach")?;
    if detach || options.console_socket.is_some() {
        let terminal = has_terminal(&options).unwrap_or(options.console_socket.is_some());
        terminal_rules(terminal, detach, options.console_socket.as_deref())?;
    }
    let id = call.id();
    if detach {
        call.warn(&call.runtime.restore(id, &options)?.warnings);
        return Ok(0);
    }
    let foreground = foreground::prepare(!given.on("no-subreaper")?)?;
    let started = call.runtime.restore(id, &options)?;
    call.warn(&started.warnings);
    let ended = foreground.relay(started);
    match call.runtime.container(id).and_then(|container| container.delete(true)) {
        Ok(left) => call.warn(&left),
        // Somebody else deleted it meanwhile, or saved it once more.
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => call.warn(&[format!("delete the container: {error}")]),
    }
    Ok(ended?.code())
}

/// What both are told.
fn criu_options(call: &Call) -> Result<CriuOptions> {
    let given = &call.given;
    for namespace in given.texts("empty-ns") {
        if namespace != "network" {
            return Err(given.wrong("empty-ns", namespace, "only network can be left empty"));
        }
    }
    let images = match call.path("image-path")? {
        Some(images) => images,
        // As with runc.
        None => std::path::absolute("checkpoint").doing(|| "getcwd()")?,
    };
    Ok(CriuOptions {
        images,
        work: call.path("work-path")?,
        tcp_established: given.on("tcp-established")?,
        tcp_close: given.on("tcp-close")?,
        tcp_skip_in_flight: given.on("tcp-skip-in-flight")?,
        ext_unix_sk: given.on("ext-unix-sk")?,
        shell_job: given.on("shell-job")?,
        file_locks: given.on("file-locks")?,
        auto_dedup: given.on("auto-dedup")?,
        lazy_pages: given.on("lazy-pages")?,
        cgroups: given.value("manage-cgroups-mode", cgroups)?.unwrap_or_default(),
        network_lock: given.value("network-lock", network_lock)?,
    })
}

fn cgroups(text: &str) -> Result<CgroupsMode, String> {
    match text {
        "" | "soft" => Ok(CgroupsMode::Soft),
        "full" => Ok(CgroupsMode::Full),
        "strict" => Ok(CgroupsMode::Strict),
        "ignore" => Ok(CgroupsMode::Ignore),
        _ => Err("it can be soft, full, strict or ignore".to_owned()),
    }
}

fn network_lock(text: &str) -> Result<NetworkLock, String> {
    match text {
        "iptables" => Ok(NetworkLock::Iptables),
        "nftables" => Ok(NetworkLock::Nftables),
        "skip" => Ok(NetworkLock::Skip),
        _ => Err("it can be iptables, nftables or skip".to_owned()),
    }
}

/// `ADDRESS:PORT`; an IPv6 address may be in brackets.
fn address(text: &str) -> Result<(String, u16), String> {
    let (address, port) = text.rsplit_once(':').ok_or("it is ADDRESS:PORT")?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match port.parse() {
        Ok(port @ 1..) if !address.is_empty() => Ok((address.to_owned(), port)),
        _ => Err("it is ADDRESS:PORT".to_owned()),
    }
}

/// Opens a file of the caller's by its number. A number that is not the caller's may be that of a file of ours: those
/// are all closed on exec, and his cannot be, or they had not come to us.
fn writable(text: &str) -> Result<File, String> {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let number: u16 = text.parse().map_err(|_| "it is the number of an open file".to_owned())?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    match flags {
        None => Err("there is no such open file".to_owned()),
        Some(flags) if flags & CLOSE_ON_EXEC != 0 => Err("there is no such open file".to_owned()),
        Some(flags) if flags & 3 == 0 => Err("it is open for reading only".to_owned()),
        Some(_) => {
            let path = format!("/proc/self/fd/{number}");
            OpenOptions::new().append(true).open(&path).map_err(|err| format!("open {path}: {err}"))
        }
    }
}

/// `process.terminal` of the bundle; what is wrong with its file the runtime says better.
fn has_terminal(options: &RestoreOptions) -> Option<bool> {
    let bytes = std::fs::read(options.bundle.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    Some(config["process"]["terminal"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_server_has_an_address_and_a_port() {
        assert_eq!(address("192.0.2.1:27").unwrap(), ("192.0.2.1".to_owned(), 27));
        assert_eq!(address("[::1]:27").unwrap(), ("::1".to_owned(), 27));
        for wrong in ["27", ":27", "host:", "host:0", "host:65536", "host:x"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_to_tell_is_the_callers_own_and_writable() {
        // Ours, as all that Rust opens is closed on exec.
        let ours = File::options().write(true).open("/dev/null").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&ours).to_string();
        assert!(writable(&number).unwrap_err().contains("no such"));
        assert!(writable("9999").is_err() && writable("-1").is_err());
    }
}
