//! The host's root for an ordinary user: put together from pieces.
//!
//! In a user's machine everything that is mounted below the host's `/` is locked in its place, so that nobody can look
//! underneath, and overlayfs takes no folder as a layer that has such mounts in it (kernel: `clone_private_mount`). So
//! `/` itself is a small one in memory, and each of the host's own folders is an overlay of its own. A folder with mounts
//! in it, as `/etc` has in some containers, is shown as it is, read-only.

use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tare_sys::mount::{Change, Detached, NewFs, Propagation, attr};
use tare_sys::{Context, Result};

use super::{Cover, Veiled, attach_on_top, cover, in_own_namespace, make_folder, open_folder, overlay};

/// Builds it.
pub fn build(veil: &[Veiled]) -> Result<Detached> {
    // The pieces are attached to a mount, and that has to be attached itself before Linux 6.15.
    in_own_namespace(|| {
        let memory = NewFs::open("tmpfs")?.string("mode", "755")?.mount(0)?;
        let root = NewFs::open("tmpfs")?.string("mode", "755")?.mount(0)?;
        attach_on_top(&memory)?;
        attach_on_top(&root)?;
        for name in ["veil", "upper", "work"] {
            make_folder(memory.as_fd(), Path::new(name), 0o755)?;
        }
        let (shown, links) = shown(veil)?;
        let covers = memory.open("veil", OFlags::PATH | OFlags::DIRECTORY)?;
        for name in &shown {
            make_folder(covers.as_fd(), Path::new(name), 0o755)?;
        }
        for veiled in veil {
            match (is_in(&veiled.path, &shown), veiled.cover) {
                (true, Cover::Parent(_)) if veiled.path.components().count() == 1 => {}
                (true, _) => cover(covers.as_fd(), veiled)?,
                (false, Cover::Empty(mode) | Cover::Parent(mode)) => {
                    make_folder(root.as_fd(), &veiled.path, mode)?;
                }
                (false, Cover::Gone) => {}
            }
        }
        for (name, target) in &links {
            rustix::fs::symlinkat(target, root.as_fd(), name.as_str())
                .doing(|| format!("symlink /{name}"))?;
        }
        for name in &shown {
            make_folder(root.as_fd(), Path::new(name), 0o755)?;
            let piece = piece(&memory, name).doing(|| format!("show /{name}"))?;
            piece.attach(root.open(name, OFlags::PATH | OFlags::DIRECTORY)?)?;
        }
        Detached::clone_fd(root.as_fd(), true)
    })
}

/// What the veil lets through of the host's `/`: its folders, and its links with where they lead.
#[expect(clippy::type_complexity, reason = "used once")]
fn shown(veil: &[Veiled]) -> Result<(Vec<String>, Vec<(String, PathBuf)>)> {
    let hidden = |name: &str| {
        veil.iter().any(|veiled| veiled.path == Path::new(name) && !matches!(veiled.cover, Cover::Parent(_)))
    };
    let (mut folders, mut links) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir("/").doing(|| "list /")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if hidden(&name) {
            continue;
        }
        match std::fs::read_link(entry.path()) {
            Ok(target) => links.push((name, target)),
            Err(_) if entry.path().is_dir() => folders.push(name),
            Err(_) => {}
        }
    }
    Ok((folders, links))
}

fn is_in(path: &Path, shown: &[String]) -> bool {
    let first = path.components().next();
    matches!(first, Some(Component::Normal(first)) if shown.iter().any(|name| first == name.as_str()))
}

fn piece(memory: &Detached, name: &str) -> Result<Detached> {
    let path = Path::new("/").join(name);
    for folder in ["upper", "work"] {
        make_folder(memory.as_fd(), &Path::new(folder).join(name), 0o755)?;
    }
    let part = |folder: &str| memory.open(&format!("{folder}/{name}"), OFlags::PATH | OFlags::DIRECTORY);
    let lower = [part("veil")?, open_folder(&path)?];
    match overlay(&lower, &part("upper")?, &part("work")?, true, None) {
        Err(err) if err.errno() == Some(Errno::INVAL) => {
            let tree = Detached::clone_path(&path, true)?;
            let slave = Some(Propagation::Slave);
            tree.change(&Change {
                set: attr::RDONLY,
                propagation: slave,
                recursive: true,
                ..Change::default()
            })?;
            Ok(tree)
        }
        built => built,
    }
}
