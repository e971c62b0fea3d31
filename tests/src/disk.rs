//! A small disk of one's own: ext4, or xfs, on a loop device. Its power can be cut, it can be full, and it can have quotas.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::eventually;

/// What happens to a file system when its power is cut: nothing more is written, not even what the journal holds
/// (EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH, linux/ext4.h).
const CUT: &str = "
import fcntl, os, struct, sys
disk = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.readline()
fcntl.ioctl(disk, 0x8004587D, struct.pack('I', 2))
";

/// Prints the number, the limit in bytes and the bytes in use of each project that a disk knows (Q_GETNEXTQUOTA of PRJQUOTA,
/// linux/quota.h, by quotactl_fd(2)).
const QUOTAS: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
disk, project = os.open(sys.argv[1], os.O_RDONLY), 1
while True:
    quota = ctypes.create_string_buffer(72)
    if libc.syscall(443, disk, 0x80000902, project, quota) != 0:
        break
    hard, _, space, project = struct.unpack_from('=3Q44xI', quota.raw)
    print(project, hard * 1024, space)
    project += 1
if ctypes.get_errno() not in (2, 3):
    sys.exit('Q_GETNEXTQUOTA: ' + os.strerror(ctypes.get_errno()))
";

/// Says to a test that it is alone with its mounts.
const APART: &str = "TARE_TEST_APART";

/// Runs a test again in a process with mounts of its own, and tells it so by `true`. In the mount namespace that all share,
/// any process may take a copy of a mount along, and keep a disk from being unmounted.
#[track_caller]
pub fn apart(test: &str) -> bool {
    if std::env::var_os(APART).is_some() {
        return true;
    }
    let exe = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(exe).args(["--exact", test, "--nocapture"]);
    let status = command.env(APART, "1").status().expect("unshare");
    assert!(status.success(), "{test}, apart: {status}");
    false
}

/// A mounted disk. It is unmounted when this goes.
#[derive(Debug)]
pub struct Disk {
    file: PathBuf,
    at: PathBuf,
    options: &'static str,
}

impl Disk {
    /// Makes a disk of so many megabytes and inodes in `folder`, and mounts it there.
    #[track_caller]
    pub fn new(folder: &Path, megabytes: u64, inodes: u64) -> Disk {
        let (file, at) = (folder.join("disk.ext4"), folder.join("disk"));
        fs::create_dir_all(&at).expect("a folder");
        fs::File::create(&file).and_then(|file| file.set_len(megabytes << 20)).expect("a file");
        let inodes = inodes.to_string();
        // No blocks kept for root, who would never see the disk full.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-N", &inodes]).arg(&file));
        let disk = Disk { file, at, options: "loop" };
        disk.mount();
        disk
    }

    /// The same with quotas for projects, of the file system `kind`, ext4 or xfs; of xfs 300 megabytes are the least. `None`
    /// where the kernel has no quotas for it (CONFIG_QFMT_V2, CONFIG_XFS_QUOTA): the guests' has.
    #[track_caller]
    pub fn with_quotas(folder: &Path, kind: &str, megabytes: u64) -> Option<Disk> {
        let (file, at) = (folder.join(format!("quotas.{kind}")), folder.join(format!("quotas-{kind}")));
        fs::create_dir_all(&at).expect("a folder");
        fs::File::create(&file).and_then(|file| file.set_len(megabytes << 20)).expect("a file");
        match kind {
            "ext4" => run(Command::new("mkfs.ext4")
                .args(["-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"])
                .arg(&file)),
            _ => run(Command::new("mkfs.xfs").arg("-q").arg(&file)),
        }
        let disk = Disk { file, at, options: "loop,prjquota" };
        let out = disk.mounting().output().expect("mount");
        if !out.status.success() {
            eprintln!("not tried: no quotas on {kind} here: {}", String::from_utf8_lossy(&out.stderr).trim());
            return None;
        }
        Some(disk)
    }

    /// The projects that its quotas know: number, limit in bytes (0: none), bytes in use. One that has neither is none.
    #[track_caller]
    pub fn projects(&self) -> Vec<(u32, u64, u64)> {
        let out = Command::new("python3").args(["-c", QUOTAS]).arg(&self.at).output().expect("python3");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).expect("numbers");
        let rows = text.lines().map(|line| {
            let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
            (u32::try_from(numbers[0]).expect("project numbers are small"), numbers[1], numbers[2])
        });
        rows.filter(|(_, limit, used)| *limit != 0 || *used != 0).collect()
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// What is on it now, for [`put_back`](Disk::put_back).
    #[track_caller]
    pub fn copy(&self) -> PathBuf {
        self.unmount();
        let copy = self
            .file
            .with_extension(format!("copy-{}", fs::read_dir(self.folder()).map_or(0, Iterator::count)));
        run(Command::new("cp").arg("--sparse=always").arg(&self.file).arg(&copy));
        self.mount();
        copy
    }

    /// Makes the disk what it was.
    #[track_caller]
    pub fn put_back(&self, copy: &Path) {
        self.unmount();
        run(Command::new("cp").arg("--sparse=always").arg(copy).arg(&self.file));
        self.mount();
    }

    /// A hand on its switch.
    #[track_caller]
    pub fn switch(&self) -> Switch {
        let mut child = Command::new("python3")
            .args(["-c", CUT])
            .arg(&self.at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "the disk's switch");
        Switch(child)
    }

    /// After a cut: reads the disk anew.
    #[track_caller]
    pub fn restart(&self) {
        self.unmount();
        self.mount();
    }

    /// Bytes free.
    #[track_caller]
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.at).expect("statvfs");
        stat.f_bavail * stat.f_frsize
    }

    /// Fills it, but for so many bytes.
    #[track_caller]
    pub fn fill(&self, but: u64) {
        let file = fs::File::create(self.at.join("filler")).expect("a file");
        // What has been written has its place only then.
        rustix::fs::syncfs(&file).expect("syncfs");
        let room = self.free().saturating_sub(but);
        let flags = rustix::fs::FallocateFlags::empty();
        // The file's own map takes a little: as much as there is, in smaller and smaller pieces.
        let (mut at, mut piece) = (0, room);
        while piece >= 4096 && at < room {
            match rustix::fs::fallocate(&file, flags, at, piece.min(room - at)) {
                Ok(()) => at += piece.min(room - at),
                Err(_) => piece /= 2,
            }
        }
    }

    /// Takes that away.
    #[track_caller]
    pub fn unfill(&self) {
        fs::remove_file(self.at.join("filler")).expect("the filler");
    }

    fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }

    #[track_caller]
    fn mount(&self) {
        run(&mut self.mounting());
    }

    fn mounting(&self) -> Command {
        let mut command = Command::new("mount");
        command.args(["-o", self.options]).arg(&self.file).arg(&self.at);
        command
    }

    #[track_caller]
    fn unmount(&self) {
        run(Command::new("umount").arg(&self.at));
        eventually("the loop device lets go of its file", || {
            let out = Command::new("losetup").arg("-j").arg(&self.file).output().expect("losetup");
            out.status.success() && out.stdout.is_empty()
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still uses it keeps it; the test has failed then.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).stderr(Stdio::null()).status();
    }
}

/// Cuts a disk's power when it is pressed.
#[derive(Debug)]
pub struct Switch(Child);

impl Switch {
    /// Now.
    #[track_caller]
    pub fn cut(mut self) {
        let mut pipe = self.0.stdin.take().expect("a pipe");
        pipe.write_all(b"\n").expect("writing to the switch");
        drop(pipe);
        assert!(self.0.wait().expect("the switch").success(), "the disk's power was not cut");
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|err| panic!("{command:?}: {err}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
