//! A root filesystem of one program: Debian's busybox-static with its links.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// Users of the image, as tests of `--user` want them: `app` is in `staff` by the group file.
const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nstaff:x:50:app\napp:x:1000:\nnogroup:x:65534:\n";

/// Writes the root filesystem as a tar to `file`.
pub fn archive(file: &Path) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("tare-busybox-").tempdir()?;
    tree(folder.path())?;
    pack(folder.path(), file)
}

/// The archive, made once per machine and kept among cargo's own files.
///
/// Its name tells from what it was made, so one made from another program or by an older form of this module is
/// never taken for it. Once it is there nothing is written: for users in a guest the folder is read-only.
pub fn cached_archive() -> PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| cached_archive_in(&crate::debian::cache())).clone()
}

/// The same in a cache that is named.
pub fn cached_archive_in(cache: &Path) -> PathBuf {
    let file = cache.join(format!("busybox-{:016x}.tar", made_from()));
    if !file.exists() {
        let fresh = file.with_extension(format!("new-{}", std::process::id()));
        fs::create_dir_all(cache).expect("making the folder for test inputs");
        archive(&fresh).expect("making a busybox root");
        fs::rename(&fresh, &file).expect("putting the busybox root in place");
    }
    file
}

/// A number for all that the archive depends on: this file, and the program.
fn made_from() -> u64 {
    let mut hasher = DefaultHasher::new();
    include_str!("busybox.rs").hash(&mut hasher);
    let program = program().and_then(|file| Ok(fs::metadata(file)?)).expect("looking at busybox");
    (program.len(), program.mtime()).hash(&mut hasher);
    hasher.finish()
}

/// Lays out the root filesystem in `root`.
pub fn tree(root: &Path) -> Result<()> {
    let busybox = program()?;
    for folder in ["bin", "dev", "etc", "home/app", "proc", "root", "sys", "tmp", "usr", "var/tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    for folder in ["tmp", "var/tmp"] {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(0o1777))?;
    }
    let inside = root.join("bin/busybox");
    fs::copy(&busybox, &inside).with_context(|| format!("copying {}", busybox.display()))?;
    fs::set_permissions(&inside, fs::Permissions::from_mode(0o755))?;
    let list = Command::new(&busybox).arg("--list").output().context("running busybox")?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), PASSWD)?;
    fs::write(root.join("etc/group"), GROUP)?;
    Ok(())
}

/// Packs a folder as the tar of a root filesystem: everything belongs to root.
pub fn pack(folder: &Path, file: &Path) -> Result<()> {
    let status = Command::new("tar")
        .args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-C"])
        .arg(folder)
        .arg("-cf")
        .arg(file)
        .arg(".")
        .status()
        .context("starting tar")?;
    ensure!(status.success(), "tar of {} failed ({status})", folder.display());
    Ok(())
}

fn program() -> Result<PathBuf> {
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|file| file.exists());
    let busybox = busybox.context("there is no busybox: install Debian's busybox-static")?;
    let bytes = fs::read(&busybox)?;
    // A dynamic program names its loader, and would find none in a root of one file.
    let dynamic = bytes.windows(8).any(|window| window == b"/ld-linu" || window == b"/ld-musl");
    ensure!(!dynamic, "{} is not static: install Debian's busybox-static", busybox.display());
    Ok(busybox)
}
