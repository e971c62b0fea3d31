//! `--storage-opt size=`: a writable layer that cannot grow beyond a size.
//!
//! ```text
//! <state>/containers/<id>/rw        has a project quota where the file system can
//! <state>/containers/<id>/rw.img    else: an ext4 of that size, mounted on rw while the container exists
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use tare_sys::mount::{NewFs, attr};
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Folders, explain_full};
use crate::volume;

/// Smallest size that an ext4 of its own and overlayfs's folders fit into, bytes.
const LEAST: u64 = 8 << 20;

/// The size that is asked for; 0: none.
pub fn size(options: &BTreeMap<String, String>) -> Result<u64> {
    for key in options.keys() {
        if key != "size" {
            return Err(Error::new(Kind::Usage, format!("--storage-opt {key}: unknown option"))
                .hint("the option of the overlay driver is size=, as in size=10g"));
        }
    }
    let Some(text) = options.get("size") else { return Ok(0) };
    match volume::parse_size(text)? {
        size if size < LEAST => {
            Err(Error::new(Kind::Usage, format!("--storage-opt size={text}: too small"))
                .hint("the least is 8m"))
        }
        size => Ok(size),
    }
}

/// Prepares the folder of the writable layer, before anything is in it.
pub fn limit(folders: &Folders, size: u64) -> Result<()> {
    if size == 0 {
        return Ok(());
    }
    let rw = folders.writable_layer();
    match tare_sys::quota::limit(&rw, size) {
        Err(err) if err.kind() == Kind::Unsupported => {}
        limited => return limited,
    }
    make_image(&image(folders), size).map_err(explain_full).map_err(|err| {
        err.context(
            "--storage-opt size: this file system has no project quotas, so the layer needs one of its own",
        )
    })?;
    mount(folders)
}

fn image(folders: &Folders) -> std::path::PathBuf {
    folders.state.join("rw.img")
}

fn make_image(path: &Path, size: u64) -> Result<()> {
    let what = || format!("make {}", path.display());
    File::create(path).and_then(|file| file.set_len(size)).doing(what)?;
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"])
        .arg(path)
        .stdin(Stdio::null())
        .output();
    match made {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::new(Kind::Kernel, format!("{}: mkfs.ext4: {said}", what())))
        }
        Err(_) => Err(Error::new(Kind::Unsupported, format!("{}: there is no mkfs.ext4", what()))
            .hint("install e2fsprogs; or mount the file system of tare's folder with project quotas (prjquota, pquota)")),
    }
}

/// Mounts the layer's own file system, where it has one and that is not mounted: after a reboot it is not.
pub fn mount(folders: &Folders) -> Result<()> {
    let (image, rw) = (image(folders), folders.writable_layer());
    if !image.exists() || volume::is_mounted(&rw)? {
        return Ok(());
    }
    let what = || format!("mount {}", image.display());
    let device = tare_sys::loop_device::attach(&image).doing(what)?;
    let tree =
        NewFs::open("ext4")?.string("source", &device.path).doing(what)?.mount(attr::NODEV).doing(what)?;
    // From here on the mount keeps the device; with the mount it goes.
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let place = rustix::fs::open(&rw, flags, rustix::fs::Mode::empty()).doing(what)?;
    tree.attach(place).doing(what)
}

/// Unmounts it, at once, whoever still looks at it: namespaces of a container that has ended go when the kernel likes.
pub fn unmount(folder: &Path) {
    let rw = folder.join("rw");
    if volume::is_mounted(&rw).unwrap_or(false) {
        let _ = tare_sys::mount::unmount(&rw.to_string_lossy());
    }
}

/// Gives up what limits the layer, if anything does, of a container whose folder, on its way out, is `folder`.
pub fn release(folder: &Path) {
    unmount(folder);
    // A quota is given back when nothing is in it.
    let _ = fs::remove_dir_all(folder.join("rw/upper"));
    tare_sys::quota::forget(&folder.join("rw"));
}
