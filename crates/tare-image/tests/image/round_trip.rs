//! What GNU tar puts into an archive comes out of the store as it was.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::archive::{Entry, Place, Tar};

fn sh(script: &str, cwd: &Path) -> String {
    let out = Command::new("sh").arg("-ec").arg(script).current_dir(cwd).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// All of a tree that matters, times of folders included.
fn look(tree: &Path) -> String {
    sh(
        "find . -printf '%p|%y|%m|%U:%G|%n|%l|%T@\\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum",
        tree,
    )
}

#[test]
fn a_tree_by_gnu_tar() {
    let place = Place::new();
    let from = place.folder.path().join("canary/from");
    std::fs::create_dir(&from).unwrap();
    let long = "n".repeat(200);
    sh(
        &format!(
            "umask 022
            mkdir -p usr/bin usr/lib etc tmp var/empty ro; chmod 1777 tmp; chmod 2750 var/empty; chown 12:34 var/empty
            ln -s usr/bin bin; ln -s ../../etc/passwd usr/lib/link; ln -s nowhere/at/all dead
            printf 'root:x:0:0\\n' > etc/passwd; head -c 300000 /dev/urandom > usr/bin/tool; chmod 4755 usr/bin/tool
            ln usr/bin/tool usr/bin/same; ln etc/passwd usr/lib/hard; ln -P usr/lib/link usr/lib/link2
            : > empty; chown 1000:4294967294 empty; chmod 0 empty
            mkfifo -m 0622 etc/fifo; mknod -m 0666 etc/null c 1 3; mknod -m 0660 etc/disk b 8 0; chown 0:6 etc/disk
            mkdir -p {long}/{long}; echo deep > {long}/{long}/{long}; ln -s {long}/{long} long; ln {long}/{long}/{long} {long}/h
            printf x > \"$(printf 'odd \\n\\377 name')\"; printf y > '-dash'; printf z > 'back\\slash'; printf w > 'ünï'
            touch -h -d '2001-02-03 04:05:06.123456789 UTC' usr/lib/link usr/bin/tool etc/fifo
            touch -d '1999-12-31 UTC' usr/bin tmp; chmod 0555 ro; touch -d '1960-01-01 UTC' ro"
        ),
        &from,
    );
    let before = look(&from);
    for format in ["gnu", "pax", "posix"] {
        // GNU format has whole seconds only.
        let archive = place.folder.path().join("canary/a.tar");
        sh(&format!("tar --format={format} --sort=name -cf ../a.tar ."), &from);
        let layer = place.unpack(&std::fs::read(&archive).unwrap());
        let after = look(&layer);
        if format == "gnu" {
            let cut = |text: &str| -> String {
                text.lines()
                    .map(|line| line.rsplit_once('.').map_or(line, |(head, _)| head).to_owned() + "\n")
                    .collect()
            };
            assert_eq!(cut(&after), cut(&before), "{format}");
        } else {
            assert_eq!(after, before, "{format}");
        }
        place.store.remove("test").unwrap();
    }
    // Plain v7, which has neither long names nor devices.
    sh("tar --format=v7 -cf ../a.tar usr etc/passwd bin empty || true", &from);
    let layer = place.unpack(&std::fs::read(place.folder.path().join("canary/a.tar")).unwrap());
    assert_eq!(
        std::fs::read(layer.join("bin/tool")).unwrap(),
        std::fs::read(from.join("usr/bin/tool")).unwrap()
    );
}

#[test]
fn attributes_and_devices() {
    let place = Place::new();
    // A v2 capability, cap_dac_override and cap_fowner: 0x0a, a newline in the middle of a PAX record.
    let capability: &[u8] = &[1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = Tar::new()
        .add(Entry {
            name: b"bin/ping",
            data: b"program",
            mode: 0o755,
            uid: 5,
            pax: &[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.user.note", b"a\n\0b")],
            ..Entry::default()
        })
        .add(Entry {
            kind: b'5',
            name: b"d",
            mode: 0o750,
            pax: &[("SCHILY.xattr.user.on", b"dir")],
            ..Entry::default()
        })
        .add(Entry {
            kind: b'2',
            name: b"l",
            link: b"d",
            pax: &[("SCHILY.xattr.trusted.on", b"link")],
            ..Entry::default()
        })
        .add(Entry {
            kind: b'3',
            name: b"dev/null",
            mode: 0o666,
            device: (1, 3),
            uid: 1,
            gid: 2,
            ..Entry::default()
        })
        .add(Entry { kind: b'4', name: b"dev/sda", mode: 0o660, device: (8, 0), ..Entry::default() })
        .add(Entry { kind: b'6', name: b"dev/fifo", mode: 0o622, ..Entry::default() });
    let layer = place.unpack(&tar.end());
    let xattr = |path: &str, name: &str| {
        let mut value = vec![0u8; 100];
        let n = rustix::fs::lgetxattr(layer.join(path), name, value.as_mut_slice()).unwrap();
        value.truncate(n);
        value
    };
    assert_eq!(xattr("bin/ping", "security.capability"), capability);
    assert_eq!(xattr("bin/ping", "user.note"), b"a\n\0b");
    assert_eq!(xattr("d", "user.on"), b"dir");
    assert_eq!(xattr("l", "trusted.on"), b"link");
    let null = layer.join("dev/null").metadata().unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.uid(), null.gid(), null.mode() & 0o7777), (0x103, 1, 2, 0o666));
    let disk = layer.join("dev/sda").metadata().unwrap();
    assert!(disk.file_type().is_block_device());
    assert_eq!((disk.rdev(), disk.mode() & 0o7777), (0x800, 0o660));
    let fifo = layer.join("dev/fifo").metadata().unwrap();
    assert!(fifo.file_type().is_fifo() && fifo.permissions().mode() & 0o7777 == 0o622);
    // A folder that no entry names.
    let dev = layer.join("dev").metadata().unwrap();
    assert_eq!((dev.mode() & 0o7777, dev.uid()), (0o755, 0));
}

/// Debian's own shape: entries below a link that an earlier entry made.
#[test]
fn entries_below_a_link() {
    let place = Place::new();
    let tar = Tar::new()
        .dir("./")
        .dir("./usr/")
        .dir("./usr/bin/")
        .symlink("./bin", "usr/bin")
        .file("./bin/sh", b"shell")
        .add(Entry { kind: b'5', name: b"./bin/sub", mode: 0o700, mtime: 1000, ..Entry::default() })
        .hard_link("./bin/dash", "./usr/bin/sh")
        .hard_link("./usr/bin/ash", "/bin/sh");
    let layer = place.unpack(&tar.end());
    assert_eq!(std::fs::read_link(layer.join("bin")).unwrap(), Path::new("usr/bin"));
    assert_eq!(layer.join("usr/bin/sh").metadata().unwrap().nlink(), 3);
    let sub = layer.join("usr/bin/sub").metadata().unwrap();
    assert_eq!((sub.mode() & 0o7777, sub.mtime()), (0o700, 1000));
}

/// More folders than their attributes are kept in memory for.
#[test]
fn many_folders() {
    let place = Place::new();
    let mut tar = Tar::new();
    let pad = "p".repeat(60);
    for n in 0..50_000 {
        let name = format!("{pad}/{}/{pad}{n}", n % 50);
        tar = tar.add(Entry {
            kind: b'5',
            name: name.as_bytes(),
            mode: 0o751,
            mtime: 1000 + n,
            ..Entry::default()
        });
    }
    let layer = place.unpack(&tar.end());
    for n in [0u64, 25_000, 49_999] {
        let folder = layer.join(format!("{pad}/{}/{pad}{n}", n % 50)).metadata().unwrap();
        assert_eq!((folder.mode() & 0o7777, folder.mtime()), (0o751, 1000 + n as i64));
    }
}

#[test]
fn an_empty_archive_is_an_empty_image() {
    let place = Place::new();
    let layer = place.unpack(&Tar::new().end());
    assert_eq!(layer.metadata().unwrap().mode() & 0o7777, 0o755);
    let layer = place.unpack(
        &Tar::new().add(Entry { kind: b'5', name: b"./", mode: 0o1700, uid: 3, ..Entry::default() }).end(),
    );
    assert_eq!((layer.metadata().unwrap().mode() & 0o7777, layer.metadata().unwrap().uid()), (0o1700, 3));
}
