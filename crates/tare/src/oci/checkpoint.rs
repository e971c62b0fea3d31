//! `checkpoint` and `restore`: read as runc reads them, and refused, for now.

use tare_sys::{Error, Kind, Result};

use super::Call;
use super::create::{CONSOLE_SOCKET, DETACH, NO_SUBREAPER, PID_FILE};
use crate::flag::Flag;

const AUTO_DEDUP: Flag = Flag::switch("auto-dedup", "Keep each page of memory once");
const CGROUPS: Flag = Flag::one(
    "manage-cgroups-mode",
    "string",
    "soft",
    "What is done about cgroups: soft, full, strict or ignore",
);
const EMPTY_NS: Flag = Flag::many("empty-ns", "network", "Make this namespace, but do not fill it");
const EXT_UNIX_SK: Flag = Flag::switch("ext-unix-sk", "Allow unix sockets to the outside");
const FILE_LOCKS: Flag = Flag::switch("file-locks", "Save file locks");
const IMAGE_PATH: Flag = Flag::one("image-path", "dir", "/srv/image", "Folder of the saved files");
const LAZY_PAGES: Flag = Flag::switch("lazy-pages", "Fetch memory when it is used");
const NETWORK_LOCK: Flag = Flag::one("network-lock", "string", "nftables", "How packets are held back");
const SHELL_JOB: Flag = Flag::switch("shell-job", "Allow a process under a terminal of somebody else");
const TCP_CLOSE: Flag = Flag::switch("tcp-close", "Close tcp connections");
const TCP_ESTABLISHED: Flag = Flag::switch("tcp-established", "Save open tcp connections");
const TCP_SKIP: Flag = Flag::switch("tcp-skip-in-flight", "Leave out tcp connections that are being made");
const LINK_REMAP: Flag = Flag::switch("link-remap", "Save files that have been removed but are open");
const WORK_PATH: Flag = Flag::one("work-path", "dir", "/srv/work", "Folder for logs of the work");

pub static CHECKPOINT: [Flag; 20] = [
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
    Flag::one("page-server", "address:port", "192.0.2.1:27", "Send memory to this server"),
    Flag::one("parent-path", "dir", "../before", "Saved files that these ones add to"),
    Flag::switch("pre-dump", "Save memory alone, and let the container run"),
    SHELL_JOB,
    Flag::one("status-fd", "int", "3", "Write a zero byte there when the pages can be fetched"),
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_SKIP,
    Flag::switch("print-stats", "Print what it cost"),
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
    Flag::one("lsm-mount-context", "string", "system_u:object_r:x_t:s0", "SELinux context of its mounts"),
    Flag::one("lsm-profile", "type:name", "apparmor:web", "Its security profile"),
    CGROUPS,
    NETWORK_LOCK,
    Flag::switch("no-pivot", "Move the root over / instead of pivoting"),
    NO_SUBREAPER,
    PID_FILE,
    SHELL_JOB,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_SKIP,
    WORK_PATH,
];

pub fn checkpoint(call: &Call) -> Result<u8> {
    // What would be wrong in any case is said first.
    call.container()?;
    Err(unsupported("checkpoint a container"))
}

pub fn restore(_: &Call) -> Result<u8> {
    Err(unsupported("restore a container"))
}

fn unsupported(what: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{what}: this runtime does not work with CRIU yet"))
        .hint("use runc or crun for containers that shall be saved")
}
