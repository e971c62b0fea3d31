use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use tare_sys::mount::{Detached, NewFs, Propagation, set_propagation_of_all};
use tare_sys::process::{namespace, unshare};

use super::*;

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// A tmpfs as a launch makes it, and a path that leads into it.
fn memory(size: &str) -> (Detached, std::path::PathBuf) {
    use std::os::fd::AsRawFd;
    let mount = NewFs::open("tmpfs").unwrap().string("size", size).unwrap().mount(0).unwrap();
    let path = format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd()).into();
    (mount, path)
}

#[test]
fn everything_comes_with_its_attributes() {
    let from = tempfile::tempdir().unwrap();
    let at = |name: &str| from.path().join(name);
    fs::create_dir_all(at("folder/below")).unwrap();
    fs::write(at("folder/below/file"), "content").unwrap();
    fs::write(at("suid"), "").unwrap();
    std::os::unix::fs::chown(at("suid"), Some(12), Some(34)).unwrap();
    fs::set_permissions(at("suid"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(at("folder"), fs::Permissions::from_mode(0o1770)).unwrap();
    std::os::unix::fs::chown(at("folder"), Some(56), Some(78)).unwrap();
    symlink("/etc/shadow", at("link")).unwrap();
    std::os::unix::fs::lchown(at("link"), Some(9), Some(10)).unwrap();
    let null = rustix::fs::makedev(1, 3);
    let here = open(from.path());
    for (name, kind, device) in [
        ("pipe", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, null),
    ] {
        rustix::fs::mknodat(&here, name, kind, Mode::from_raw_mode(0o640), device).unwrap();
        std::os::unix::fs::chown(at(name), Some(5), Some(6)).unwrap();
    }
    rustix::fs::setxattr(at("suid"), c"trusted.note", b"kept", XattrFlags::empty()).unwrap();
    // cap_net_raw+ep, as setcap(8) writes it.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(at("suid"), c"security.capability", &capability, XattrFlags::empty()).unwrap();
    let old = fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1_234_567_890_123_456_789));
    for name in ["folder", "folder/below/file", "suid"] {
        fs::File::open(at(name)).unwrap().set_times(old).unwrap();
    }

    let (mount, to) = memory("1m");
    copy_tree(here.as_fd(), mount.as_fd()).unwrap();

    assert_eq!(fs::read_to_string(to.join("folder/below/file")).unwrap(), "content");
    for name in ["folder", "folder/below", "folder/below/file", "suid", "link", "pipe", "socket", "null"] {
        let (a, b) = (fs::symlink_metadata(at(name)).unwrap(), fs::symlink_metadata(to.join(name)).unwrap());
        let seen = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.rdev(), m.mtime(), m.mtime_nsec());
        assert_eq!(seen(&a), seen(&b), "{name}");
    }
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc/shadow"));
    assert!(fs::symlink_metadata(to.join("null")).unwrap().file_type().is_char_device());
    let mut value = [0u8; 64];
    for (name, want) in [(c"trusted.note", &b"kept"[..]), (c"security.capability", &capability)] {
        let length = rustix::fs::getxattr(to.join("suid"), name, &mut value[..]).unwrap();
        assert_eq!(&value[..length], want, "{name:?}");
    }
}

#[test]
fn the_folder_itself_takes_over() {
    let from = tempfile::tempdir().unwrap();
    fs::set_permissions(from.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(from.path(), Some(3), Some(4)).unwrap();
    let (mount, to) = memory("1m");
    copy_tree(open(from.path()).as_fd(), mount.as_fd()).unwrap();
    let copy = fs::metadata(&to).unwrap();
    assert_eq!((copy.mode() & 0o7777, copy.uid(), copy.gid()), (0o1777, 3, 4));
}

#[test]
fn holes_stay_holes() {
    let from = tempfile::tempdir().unwrap();
    let file = fs::File::create(from.path().join("sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 1 << 39).unwrap();
    let (mount, to) = memory("1m");
    copy_tree(open(from.path()).as_fd(), mount.as_fd()).unwrap();
    let copy = fs::File::open(to.join("sparse")).unwrap();
    let mut text = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(&copy, &mut text, 1 << 39).unwrap();
    assert_eq!((copy.metadata().unwrap().len(), &text), (1 << 40, b"middle"));
}

#[test]
fn what_does_not_fit_says_what_to_do() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("big"), vec![1; 300_000]).unwrap();
    let (mount, _) = memory("64k");
    let err = copy_tree(open(from.path()).as_fd(), mount.as_fd()).unwrap_err();
    assert_eq!(err.errno(), Some(Errno::NOSPC), "{err}");
    assert!(err.to_string().contains("/big") && err.hint_text().unwrap().contains("size="), "{err:?}");
}

#[test]
fn links_are_copied_and_never_entered() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "host").unwrap();
    let from = tempfile::tempdir().unwrap();
    symlink(outside.path(), from.path().join("folder")).unwrap();
    symlink(outside.path().join("secret"), from.path().join("file")).unwrap();
    symlink(".", from.path().join("itself")).unwrap();
    let (mount, to) = memory("1m");
    copy_tree(open(from.path()).as_fd(), mount.as_fd()).unwrap();
    for name in ["folder", "file", "itself"] {
        assert!(fs::symlink_metadata(to.join(name)).unwrap().is_symlink(), "{name}");
    }
}

#[test]
fn a_tree_without_end_is_refused() {
    let from = tempfile::tempdir().unwrap();
    let mut folder = open(from.path());
    for _ in 0..300 {
        rustix::fs::mkdirat(&folder, "d", Mode::RWXU).unwrap();
        folder = rustix::fs::openat(&folder, "d", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    let (mount, _) = memory("4m");
    let err = copy_tree(open(from.path()).as_fd(), mount.as_fd()).unwrap_err();
    assert!(err.to_string().contains("more than 256 deep"), "{err}");
}

#[test]
fn what_is_mounted_below_is_not_copied() {
    std::thread::spawn(|| {
        unshare(namespace::MOUNT).unwrap();
        set_propagation_of_all(Propagation::Private).unwrap();
        let from = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("point")).unwrap();
        fs::write(from.path().join("file"), "x").unwrap();
        let (other, path) = memory("1m");
        fs::write(path.join("secret"), "x").unwrap();
        other.attach(open(&from.path().join("point"))).unwrap();
        assert!(from.path().join("point/secret").exists());
        let (mount, to) = memory("1m");
        copy_tree(open(from.path()).as_fd(), mount.as_fd()).unwrap();
        assert!(to.join("file").exists() && !to.join("point").exists());
        drop(other);
        rustix::mount::unmount(from.path().join("point"), rustix::mount::UnmountFlags::DETACH).unwrap();
    })
    .join()
    .unwrap();
}
