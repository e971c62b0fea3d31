//! Archives that try to get out, in a table: each is refused or contained, and the canary stays as it was.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use tare_sys::Kind;

use crate::archive::{Entry, Place, Tar, names, pax};

/// What an archive must lead to.
enum Must {
    /// Refused as [`Kind::Corrupt`], with this in the message.
    Refuse(&'static str),
    /// Unpacked, with these files (path in the layer, content; a content of `/…` means a symbolic link there).
    Hold(&'static [(&'static str, &'static str)]),
}
use Must::{Hold, Refuse};

/// Makes an archive, told where the canary is.
type Make = Box<dyn Fn(&str) -> Tar>;

fn data(name: &'static str) -> Entry<'static> {
    Entry { name: name.as_bytes(), data: b"evil", ..Entry::default() }
}

#[test]
fn breakouts() {
    // `@` stands for the absolute path of the canary.
    let table: Vec<(&str, Make, Must)> = vec![
        ("dotdot", Box::new(|_| Tar::new().add(data("../canary/passwd"))), Refuse("'..'")),
        ("dotdot deep", Box::new(|_| Tar::new().add(data("a/b/../../../../canary/passwd"))), Refuse("'..'")),
        ("dotdot alone", Box::new(|_| Tar::new().dir("..")), Refuse("'..'")),
        ("dotdot link name", Box::new(|_| Tar::new().symlink("..", "/etc")), Refuse("'..'")),
        ("absolute file", Box::new(|_| Tar::new().add(data("/etc/passwd"))), Hold(&[("etc/passwd", "evil")])),
        (
            "symlink absolute, then through it",
            Box::new(|canary| Tar::new().symlink("out", canary).add(data("out/passwd"))),
            Refuse("leads nowhere"),
        ),
        (
            "symlink absolute to a folder that is in the image too",
            Box::new(|_| Tar::new().dir("etc").symlink("out", "/etc").add(data("out/passwd"))),
            Hold(&[("etc/passwd", "evil"), ("out", "/etc")]),
        ),
        (
            "symlink up and out",
            Box::new(|_| Tar::new().symlink("out", "../../../../canary").add(data("out/passwd"))),
            Refuse("leads nowhere"),
        ),
        (
            "symlink up, which stops at the root",
            Box::new(|_| Tar::new().dir("canary").symlink("out", "../../../canary").add(data("out/passwd"))),
            Hold(&[("canary/passwd", "evil")]),
        ),
        (
            "symlinks in a chain",
            Box::new(|_| {
                Tar::new()
                    .dir("a")
                    .symlink("a/b", "..")
                    .symlink("c", "a/b/../../..")
                    .symlink("d", "c/canary")
                    .add(data("d/passwd"))
            }),
            Refuse("leads nowhere"),
        ),
        (
            "symlink loop",
            Box::new(|_| Tar::new().symlink("a", "b").symlink("b", "a").add(data("a/x"))),
            Refuse("loop"),
        ),
        ("symlink to itself", Box::new(|_| Tar::new().symlink("a", "a").add(data("a/x"))), Refuse("loop")),
        ("symlink without target", Box::new(|_| Tar::new().symlink("a", "")), Refuse("no target")),
        ("symlink as root", Box::new(|canary| Tar::new().symlink("./", canary)), Refuse("root of an image")),
        ("file as root", Box::new(|_| Tar::new().add(data("/."))), Refuse("root of an image")),
        (
            "file that is a folder by its name",
            Box::new(|_| Tar::new().add(data("d/")).add(data("d/f"))),
            Hold(&[("d/f", "evil")]),
        ),
        (
            "file over a symlink replaces the link",
            Box::new(|canary| Tar::new().symlink("f", &format!("{canary}/passwd")).add(data("f"))),
            Hold(&[("f", "evil")]),
        ),
        (
            "folder over a symlink replaces the link",
            Box::new(|canary| Tar::new().symlink("d", canary).dir("d").add(data("d/passwd"))),
            Hold(&[("d/passwd", "evil")]),
        ),
        (
            "folder over a symlink, slash at the end",
            Box::new(|canary| Tar::new().symlink("d", canary).dir("d/").add(data("d/passwd"))),
            Hold(&[("d/passwd", "evil")]),
        ),
        (
            "symlink over a folder replaces the folder",
            Box::new(|canary| {
                Tar::new().dir("d").add(data("d/x")).symlink("d", canary).add(data("d/passwd"))
            }),
            Refuse("leads nowhere"),
        ),
        (
            "symlink over a folder that is still open, and deep within it",
            Box::new(|canary| {
                Tar::new().dir("d").dir("d/e").add(data("d/e/x")).symlink("d", canary).add(data("d/dir/x"))
            }),
            Refuse("leads nowhere"),
        ),
        (
            "symlink to a file, then as a folder",
            Box::new(|_| Tar::new().add(data("f")).symlink("l", "f").add(data("l/x"))),
            Refuse("folder and a file"),
        ),
        (
            "file as a folder",
            Box::new(|_| Tar::new().add(data("f")).add(data("f/x"))),
            Refuse("folder and a file"),
        ),
        (
            "proc's magic",
            Box::new(|_| Tar::new().symlink("l", "/proc/self/root").add(data("l/tmp/x"))),
            Refuse("leads nowhere"),
        ),
        (
            "hard link dotdot",
            Box::new(|_| Tar::new().hard_link("l", "../../../canary/passwd")),
            Refuse("'..'"),
        ),
        (
            "hard link absolute",
            Box::new(|canary| Tar::new().hard_link("l", &format!("{canary}/passwd")).add(data("l"))),
            Refuse("not in the archive"),
        ),
        (
            "hard link through a symlink",
            Box::new(|canary| Tar::new().symlink("out", canary).hard_link("l", "out/passwd").add(data("l"))),
            Refuse("not in the archive"),
        ),
        (
            "hard link to a symlink, then written",
            Box::new(|canary| {
                Tar::new().symlink("s", &format!("{canary}/passwd")).hard_link("l", "s").add(data("l"))
            }),
            Hold(&[("l", "evil")]),
        ),
        (
            "hard link to a symlink, with mode, owner and time",
            Box::new(|canary| {
                let link = format!("{canary}/passwd");
                Tar::new().symlink("s", &link).add(Entry {
                    kind: b'1',
                    name: b"l",
                    link: b"s",
                    mode: 0o7777,
                    uid: 7,
                    ..Entry::default()
                })
            }),
            Hold(&[]),
        ),
        (
            "hard link before its target",
            Box::new(|_| Tar::new().hard_link("l", "later").add(data("later"))),
            Hold(&[("l", "evil"), ("later", "evil")]),
        ),
        (
            "hard link to a hard link before its target",
            Box::new(|_| Tar::new().hard_link("a", "d/b").hard_link("d/b", "d/c").dir("d").add(data("d/c"))),
            Hold(&[("a", "evil"), ("d/b", "evil")]),
        ),
        (
            "hard link before its target, and then replaced",
            Box::new(|_| Tar::new().hard_link("l", "later").file("l", b"newer").add(data("later"))),
            Hold(&[("l", "newer"), ("later", "evil")]),
        ),
        (
            "hard links to each other",
            Box::new(|_| Tar::new().hard_link("a", "b").hard_link("b", "a")),
            Refuse("not in the archive"),
        ),
        (
            "hard link before a symlink that leads out",
            Box::new(|canary| Tar::new().hard_link("l", "out/passwd").symlink("out", canary)),
            Refuse("not in the archive"),
        ),
        (
            "hard link in a folder that became a symlink out",
            Box::new(|canary| {
                Tar::new().dir("d").hard_link("d/passwd", "later").add(data("later")).symlink("d", canary)
            }),
            Refuse("leads nowhere"),
        ),
        (
            "hard link to a folder",
            Box::new(|_| Tar::new().dir("d").hard_link("l", "d")),
            Refuse("which is a folder"),
        ),
        ("hard link to the root", Box::new(|_| Tar::new().hard_link("l", "/")), Refuse("no target")),
        (
            "hard link to itself",
            Box::new(|_| Tar::new().add(data("f")).hard_link("f", "f")),
            Hold(&[("f", "evil")]),
        ),
        (
            "hard link down and back by name",
            Box::new(|_| Tar::new().dir("d").add(data("d/f")).hard_link("l", "./d//f")),
            Hold(&[("l", "evil")]),
        ),
        (
            "hard link over the folder of its target",
            Box::new(|_| Tar::new().dir("d").add(data("d/f")).hard_link("d", "d/f")),
            Refuse("not in the archive"),
        ),
        (
            "file over a hard link leaves the other name alone",
            Box::new(|_| Tar::new().file("a", b"first").hard_link("b", "a").add(data("b"))),
            Hold(&[("a", "first"), ("b", "evil")]),
        ),
        (
            "overlay whiteout",
            Box::new(|_| Tar::new().add(Entry { kind: b'3', name: b"etc", ..Entry::default() })),
            Refuse("0:0"),
        ),
        (
            "overlay whiteout by a major that mknod cuts off",
            Box::new(|_| {
                Tar::new().add(Entry { kind: b'3', name: b"etc", device: (4096, 0), ..Entry::default() })
            }),
            Refuse("device number"),
        ),
        (
            "overlay whiteout by a minor that mknod cuts off",
            Box::new(|_| {
                Tar::new().add(Entry { kind: b'3', name: b"etc", device: (0, 1 << 20), ..Entry::default() })
            }),
            Refuse("device number"),
        ),
        (
            "whiteout names are plain names here",
            Box::new(|_| {
                Tar::new()
                    .file("keep", b"kept")
                    .add(data(".wh.keep"))
                    .add(data(".wh..wh..opq"))
                    .dir(".wh.dir")
                    .add(data("a/.wh..."))
                    .symlink("l", "/")
                    .add(data("l/.wh.canary"))
            }),
            Hold(&[("keep", "kept"), (".wh.keep", "evil"), (".wh..wh..opq", "evil"), (".wh.canary", "evil")]),
        ),
        (
            "NUL in a PAX path",
            Box::new(|_| Tar::new().add(Entry { pax: &[("path", b"a\0/../b")], ..Entry::default() })),
            Refuse("NUL"),
        ),
        (
            "PAX path with dotdot",
            Box::new(|_| Tar::new().add(Entry { pax: &[("path", b"../canary/x")], ..Entry::default() })),
            Refuse("'..'"),
        ),
        (
            "PAX link with dotdot",
            Box::new(|_| {
                Tar::new().add(Entry {
                    kind: b'1',
                    pax: &[("linkpath", b"../canary/passwd")],
                    ..Entry::default()
                })
            }),
            Refuse("'..'"),
        ),
        (
            "uid beyond 32 bits",
            Box::new(|_| Tar::new().add(Entry { pax: &[("uid", b"4294967296")], ..Entry::default() })),
            Refuse("uid 4294967296"),
        ),
        (
            "uid -1",
            Box::new(|_| Tar::new().add(Entry { uid: 0xffff_ffff, ..Entry::default() })),
            Refuse("out of range"),
        ),
        (
            "sparse, GNU, of nothing",
            Box::new(|_| Tar::new().add(Entry { kind: b'S', ..Entry::default() })),
            Hold(&[("file", "")]),
        ),
        (
            "sparse, GNU, with data that have no place",
            Box::new(|_| Tar::new().add(Entry { kind: b'S', data: b"evil", ..Entry::default() })),
            Refuse("sparse"),
        ),
        (
            "sparse, in two ways",
            Box::new(|_| {
                Tar::new().add(Entry {
                    kind: b'S',
                    pax: &[("GNU.sparse.realsize", b"5")],
                    ..Entry::default()
                })
            }),
            Refuse("two ways"),
        ),
        (
            "sparse, a link",
            Box::new(|_| {
                Tar::new().add(Entry {
                    kind: b'2',
                    link: b"x",
                    pax: &[("GNU.sparse.size", b"5"), ("GNU.sparse.map", b"0,5")],
                    ..Entry::default()
                })
            }),
            Refuse("two ways"),
        ),
        (
            "sparse, pieces over each other",
            Box::new(|_| {
                Tar::new().add(Entry {
                    data: b"evil",
                    pax: &[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,2,1,2")],
                    ..Entry::default()
                })
            }),
            Refuse("no sense"),
        ),
        (
            "sparse, a piece beyond the end",
            Box::new(|_| {
                Tar::new().add(Entry {
                    data: b"evil",
                    pax: &[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"18446744073709551615,4")],
                    ..Entry::default()
                })
            }),
            Refuse("no sense"),
        ),
        (
            "sparse, a name that leads out",
            Box::new(|_| {
                Tar::new().add(Entry {
                    data: b"evil",
                    pax: &[
                        ("GNU.sparse.name", b"../canary/passwd"),
                        ("GNU.sparse.size", b"9"),
                        ("GNU.sparse.map", b"0,4"),
                    ],
                    ..Entry::default()
                })
            }),
            Refuse("'..'"),
        ),
        (
            "sparse, a map without end",
            Box::new(|_| {
                Tar::new().add(Entry {
                    data: &[b'1'; 4096],
                    pax: &[
                        ("GNU.sparse.major", b"1"),
                        ("GNU.sparse.minor", b"0"),
                        ("GNU.sparse.realsize", b"9"),
                    ],
                    ..Entry::default()
                })
            }),
            Refuse("sparse"),
        ),
        (
            "sparse, of a version to come",
            Box::new(|_| {
                Tar::new().add(Entry {
                    data: b"evil",
                    pax: &[("GNU.sparse.major", b"2"), ("GNU.sparse.realsize", b"9")],
                    ..Entry::default()
                })
            }),
            Refuse("unknown form"),
        ),
        (
            "sparse, 8 EiB",
            Box::new(|_| {
                Tar::new().add(Entry {
                    pax: &[("GNU.sparse.realsize", b"9223372036854775807")],
                    ..Entry::default()
                })
            }),
            Refuse("beyond the limit"),
        ),
        (
            "multi-volume",
            Box::new(|_| Tar::new().add(Entry { kind: b'M', ..Entry::default() })),
            Refuse("type 'M'"),
        ),
        (
            "8 EiB file",
            Box::new(|_| {
                Tar::new().add(Entry { pax: &[("size", b"9223372036854775807")], ..Entry::default() })
            }),
            Refuse("missing"),
        ),
        (
            "size beyond 63 bits",
            Box::new(|_| {
                Tar::new().add(Entry { pax: &[("size", b"18446744073709551615")], ..Entry::default() })
            }),
            Refuse("out of range"),
        ),
        (
            "two PAX headers",
            Box::new(|_| {
                let mut tar = Tar::new();
                for _ in 0..2 {
                    let data = pax(&[("path", b"a")]);
                    tar.raw(
                        &crate::archive::header(&Entry { kind: b'x', ..Entry::default() }, data.len()),
                        &data,
                    );
                }
                tar.add(data("b"))
            }),
            Refuse("two extension headers"),
        ),
        (
            "PAX header of 1 GiB",
            Box::new(|_| {
                let mut tar = Tar::new();
                tar.raw(
                    &crate::archive::header(
                        &Entry { kind: b'x', size: Some(1 << 30), ..Entry::default() },
                        0,
                    ),
                    b"",
                );
                tar
            }),
            Refuse("beyond the limit"),
        ),
        (
            "long name of 2 MiB",
            Box::new(|_| {
                let mut tar = Tar::new();
                tar.raw(
                    &crate::archive::header(
                        &Entry { kind: b'L', size: Some(2 << 20), ..Entry::default() },
                        0,
                    ),
                    &vec![b'a'; 2 << 20],
                );
                tar
            }),
            Refuse("beyond the limit"),
        ),
        (
            "path of 5,000 bytes",
            Box::new(|_| Tar::new().add(Entry { name: &b"a/".repeat(2500), ..Entry::default() })),
            Refuse("longer than 4096"),
        ),
        (
            "2,000 folders deep",
            Box::new(|_| Tar::new().add(Entry { name: &b"a/".repeat(2000), ..Entry::default() })),
            Refuse("1024 folders deep"),
        ),
        (
            "a name of 300 bytes",
            Box::new(|_| Tar::new().add(Entry { name: &[b'a'; 300], ..Entry::default() })),
            Refuse("255"),
        ),
    ];
    let place = Place::new();
    for (case, tar, must) in table {
        let canary = place.folder.path().join("canary").to_str().unwrap().to_owned();
        let result = place.import(&tar(&canary).end(), "test");
        place.assert_canary(case);
        match (must, result) {
            (Refuse(why), Err(err)) => {
                assert!(err.to_string().contains(why), "{case}: {err}");
                assert_eq!(err.kind(), Kind::Corrupt, "{case}: {err}");
                assert_eq!(place.left_over(), Vec::<String>::new(), "{case}");
                assert!(place.store.resolve("test").is_err(), "{case}");
            }
            (Hold(files), Ok(image)) => {
                let layer = place.store.layer_path(&image.layers[0]);
                for (path, content) in files {
                    let path = layer.join(path);
                    if content.starts_with('/') {
                        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new(content), "{case}");
                    } else {
                        assert!(path.symlink_metadata().unwrap().is_file(), "{case}");
                        assert_eq!(std::fs::read_to_string(&path).unwrap(), *content, "{case}");
                    }
                }
                place.store.remove("test").unwrap();
            }
            (Refuse(why), Ok(_)) => panic!("{case}: was taken, should be refused with {why:?}"),
            (Hold(_), Err(err)) => panic!("{case}: was refused: {err}"),
        }
    }
}

/// I02, CVE-2021-32760: attributes of a folder entry that later became a link must not go where the link leads.
#[test]
fn attributes_of_folders_do_not_follow_links() {
    let place = Place::new();
    let canary = place.folder.path().join("canary/dir");
    let attributes = Entry { kind: b'5', mode: 0o4777, uid: 99, gid: 99, ..Entry::default() };
    let tar = Tar::new()
        .add(Entry { name: b"d", pax: &[("SCHILY.xattr.user.x", b"y")], ..attributes.clone() })
        .symlink("d", canary.to_str().unwrap())
        .dir("e")
        .add(Entry { name: b"e/f", ..attributes })
        .symlink("e", canary.parent().unwrap().to_str().unwrap());
    let layer = place.unpack(&tar.end());
    assert!(layer.join("d").is_symlink() && layer.join("e").is_symlink());
    place.assert_canary("folder attributes");
}

/// I03: nothing that overlayfs reads as its own, no labels of the host; what is the image's stays.
#[test]
fn overlay_and_host_attributes_are_dropped() {
    let place = Place::new();
    let xattrs: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("SCHILY.xattr.security.ima", b"hash"),
        ("SCHILY.xattr.user.mine", b"kept"),
    ];
    let tar = Tar::new()
        .add(Entry { kind: b'5', name: b"d", mode: 0o755, pax: xattrs, ..Entry::default() })
        .add(Entry { name: b"f", pax: xattrs, ..Entry::default() });
    let layer = place.unpack(&tar.end());
    for name in ["d", "f"] {
        let mut list = vec![0u8; 4096];
        let n = rustix::fs::listxattr(layer.join(name), list.as_mut_slice()).unwrap();
        assert_eq!(&list[..n], b"user.mine\0", "{name}");
    }
}

/// I04: set-id bits and file capabilities are kept, under a root that nobody else can enter.
#[test]
fn setuid_is_kept_behind_a_closed_door() {
    let place = Place::new();
    let layer = place.unpack(&Tar::new().add(Entry { name: b"su", mode: 0o4755, ..Entry::default() }).end());
    assert_eq!(layer.join("su").metadata().unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(place.root().metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(place.root().join("layers").metadata().unwrap().permissions().mode() & 0o7777, 0o700);
}

/// I06: folders deeper than any path, built through links that were there before; removal copes with it.
#[test]
fn deeper_than_a_path() {
    let place = Place::new();
    let deep = vec!["d"; 900].join("/");
    let mut tar = Tar::new();
    let mut here = "l0".to_owned();
    tar = tar.dir("l0");
    for level in 1..6 {
        // The bottom of what is there, by a short name.
        tar = tar.dir(&format!("{here}/{deep}"));
        let next = format!("l{level}");
        tar = tar.symlink(&next, &format!("{here}/{deep}"));
        here = next;
    }
    place.import(&tar.end(), "deep").unwrap();
    place.store.remove("deep").unwrap();
    place.assert_canary("deep");
    assert_eq!(place.left_over(), Vec::<String>::new());
    assert!(names(&place.root().join("layers")).is_empty());
}

/// I16: times out of range are clamped.
#[test]
fn odd_times() {
    let place = Place::new();
    let tar = Tar::new()
        .add(Entry { name: b"zero", mtime: 0, ..Entry::default() })
        .add(Entry { name: b"before", pax: &[("mtime", b"-12345.5")], ..Entry::default() })
        .add(Entry { name: b"huge", pax: &[("mtime", b"9223372036854775808")], ..Entry::default() })
        .add(Entry { name: b"never", mtime: u64::MAX >> 1, ..Entry::default() });
    let layer = place.unpack(&tar.end());
    assert_eq!(layer.join("zero").metadata().unwrap().mtime(), 0);
    assert_eq!(layer.join("before").metadata().unwrap().mtime(), -12346);
    assert!(layer.join("huge").metadata().unwrap().mtime() > 1 << 31);
}
