//! What is packed is what anybody unpacks.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::*;

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

fn packed(path: &Path, content: Content) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Packer::new(open(path), content, &mut bytes).pack()?;
    Ok(bytes)
}

#[test]
fn gnu_tar_makes_the_same_tree_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, out) = (folder.path().join("tree"), folder.path().join("out"));
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(200));
    fs::create_dir_all(tree.join("d".repeat(90))).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(tree.join(&long), vec![7; 1000]).unwrap();
    fs::write(tree.join("exact"), vec![1; 512]).unwrap();
    fs::write(tree.join("empty"), "").unwrap();
    fs::hard_link(tree.join("exact"), tree.join("second")).unwrap();
    symlink("x".repeat(150), tree.join("link")).unwrap();
    fs::write(tree.join(OsStr::from_bytes(b"odd\xff\n")), "odd").unwrap();
    fs::set_permissions(tree.join("empty"), fs::Permissions::from_mode(0o4751)).unwrap();
    let has_attributes =
        rustix::fs::setxattr(tree.join("exact"), "user.note", b"a=\nb", rustix::fs::XattrFlags::empty())
            .is_ok();
    let bytes = packed(&tree, Content::Root).unwrap();
    assert_eq!(bytes, packed(&tree, Content::Root).unwrap(), "the same tree makes the same bytes");
    let archive = folder.path().join("tree.tar");
    fs::write(&archive, bytes).unwrap();
    let tar =
        Command::new("tar").arg("-C").arg(&out).args(["--xattrs", "-xpf"]).arg(&archive).output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    assert_eq!(fs::read(out.join(&long)).unwrap(), vec![7; 1000]);
    assert_eq!(fs::metadata(out.join("second")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(out.join("link")).unwrap().as_os_str().len(), 150);
    assert_eq!(fs::read(out.join(OsStr::from_bytes(b"odd\xff\n"))).unwrap(), b"odd");
    assert_eq!(fs::metadata(out.join("empty")).unwrap().mode() & 0o7777, 0o4751);
    let time = |root: &Path| fs::metadata(root.join("exact")).unwrap().mtime();
    assert_eq!(time(&tree), time(&out));
    if has_attributes {
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(out.join("exact"), "user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"a=\nb");
    }
}

#[test]
fn ids_and_times_beyond_ustar_are_kept() {
    let entry =
        Entry { path: b"f", uid: u32::MAX - 1, gid: 2_097_152, mtime: -5, size: 1 << 34, ..Entry::default() };
    let mut bytes = entry.bytes();
    bytes.resize(bytes.len() + 1024, 0);
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let records: Vec<(String, String)> = entry
        .pax_extensions()
        .unwrap()
        .unwrap()
        .map(|record| record.unwrap())
        .map(|record| (record.key().unwrap().to_owned(), record.value().unwrap().to_owned()))
        .collect();
    let wanted = [("uid", "4294967294"), ("gid", "2097152"), ("size", "17179869184"), ("mtime", "-5")];
    let wanted: Vec<_> = wanted.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(records, wanted);
}

#[test]
fn a_layer_says_what_is_gone_and_a_root_does_not() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let tree = folder.path();
    fs::create_dir(tree.join("new")).unwrap();
    fs::write(tree.join("new/file"), "x").unwrap();
    let opaque = "trusted.overlay.opaque";
    rustix::fs::setxattr(tree.join("new"), opaque, b"y", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::mknodat(open(tree), "gone", FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    let names = |content| {
        let bytes = packed(tree, content).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let names =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(Content::Layer), ["./", ".wh.gone", "new/", "new/.wh..wh..opq", "new/file"]);
    assert_eq!(names(Content::Root), ["./", "new/", "new/file"]);

    fs::write(tree.join(".wh.trick"), "").unwrap();
    let refused = packed(tree, Content::Layer).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    assert!(names(Content::Root).contains(&".wh.trick".to_owned()));
    fs::remove_file(tree.join(".wh.trick")).unwrap();
    let redirect = "trusted.overlay.redirect";
    rustix::fs::setxattr(tree.join("new"), redirect, b"/old", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(packed(tree, Content::Layer).unwrap_err().kind(), Kind::Unsupported);
}
