//! The same archives and images, unpacked by GNU tar, by umoci, and by us: the same trees.

use std::path::{Path, PathBuf};
use std::process::Command;

use tare_image::Platform;
use tare_image::archive::ImageArchive;
use tare_image::archive::save::{Saved, save};
use tare_image::store::TakeOptions;

use crate::archive::{Entry, Place, Tar};

/// Prints every attribute that is an image's.
const XATTRS: &str = "
import os
for folder, folders, files in os.walk(b'.'):
    for path in [folder] + [os.path.join(folder, name) for name in folders + files]:
        for name in os.listxattr(path, follow_symlinks=False):
            if not name.startswith('trusted.overlay.'):
                print(path, name, os.getxattr(path, name, follow_symlinks=False))
";

fn sh(script: &str, cwd: &Path) -> String {
    let out =
        Command::new("sh").arg("-ec").arg(script).env("XATTRS", XATTRS).current_dir(cwd).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Names, types, modes, owners, link counts, targets, sizes, times, devices, attributes and contents.
fn look(tree: &Path) -> String {
    sh(
        "find . ! -type d -printf '%p|%y|%m|%U:%G|%n|%l|%s|%T@\\n' -o -printf '%p|%y|%m|%U:%G|%T@\\n' | sort
         find . -type b -print0 -o -type c -print0 | sort -z | xargs -0 -r stat -c '%n %t:%T'
         python3 -c \"$XATTRS\" | sort
         find . -type f -print0 | sort -z | xargs -0 -r sha256sum",
        tree,
    )
}

/// The first line in which two trees differ, which says more than both of them whole.
#[track_caller]
fn same(case: &str, ours: &str, theirs: &str) {
    let (mut a, mut b) = (ours.lines(), theirs.lines());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return,
            (a, b) => assert_eq!(a, b, "{case}: ours, theirs"),
        }
    }
}

/// An archive of all that there is.
fn of_everything() -> Vec<u8> {
    let capability: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = "l".repeat(180);
    let deep = format!("{long}/{long}/file");
    Tar::new()
        .add(Entry { kind: b'5', name: b"./", mode: 0o755, mtime: 1_500_000_000, ..Entry::default() })
        .dir("./usr/")
        .dir("./usr/bin")
        .add(Entry {
            name: b"usr/bin/ping",
            data: b"program",
            mode: 0o755,
            pax: &[("SCHILY.xattr.security.capability", capability), ("mtime", b"1234567890.987654321")],
            ..Entry::default()
        })
        .add(Entry { name: b"usr/bin/su", data: b"su", mode: 0o4755, ..Entry::default() })
        .add(Entry { name: b"usr/bin/wall", data: b"w", mode: 0o2755, gid: 5, ..Entry::default() })
        .add(Entry { name: b"last-id", uid: 0xffff_fffe, gid: 0xffff_fffe, mode: 0, ..Entry::default() })
        .add(Entry { name: b"old", pax: &[("mtime", b"-12345.25")], ..Entry::default() })
        .add(Entry { name: b"noted", pax: &[("SCHILY.xattr.user.note", b"a b")], ..Entry::default() })
        .symlink("bin", "usr/bin")
        .symlink("dead", "/no/where")
        .hard_link("usr/bin/ping6", "usr/bin/ping")
        .hard_link("dead2", "dead")
        .dir(&long)
        .dir(&format!("{long}/{long}"))
        .add(Entry { name: deep.as_bytes(), data: b"deep", ..Entry::default() })
        .symlink("to-long", &deep)
        .add(Entry { kind: b'5', name: b"tmp", mode: 0o1777, uid: 1, gid: 2, ..Entry::default() })
        .add(Entry { kind: b'5', name: b"closed", mode: 0o500, mtime: 1000, ..Entry::default() })
        .file("closed/in", b"x")
        .add(Entry { kind: b'3', name: b"null", device: (1, 3), mode: 0o666, ..Entry::default() })
        .add(Entry {
            kind: b'4',
            name: b"disk",
            device: (259, 70_000),
            mode: 0o660,
            gid: 6,
            ..Entry::default()
        })
        .add(Entry { kind: b'6', name: b"fifo", mode: 0o622, ..Entry::default() })
        // The second of two counts.
        .file("twice", b"first")
        .add(Entry { name: b"twice", data: b"second", mode: 0o600, ..Entry::default() })
        .end()
}

/// Root file systems: one of everything, busybox's and Debian's where the suite has made them.
fn archives(place: &Place) -> Vec<(&'static str, PathBuf)> {
    let everything = place.folder.path().join("canary/everything.tar");
    std::fs::write(&everything, of_everything()).unwrap();
    let mut archives = vec![("everything", everything)];
    let cache = std::env::var_os("TARE_TEST_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-cache"), PathBuf::from);
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        match name.as_str() {
            "debian.tar" => archives.push(("Debian", entry.path())),
            name if name.starts_with("busybox-") && name.ends_with(".tar") => {
                archives.push(("busybox", entry.path()));
            }
            _ => {}
        }
    }
    archives
}

#[test]
fn an_archive_is_the_same_tree_as_gnu_tar_makes_of_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: owners and devices need root");
        return;
    }
    let place = Place::in_memory();
    for (case, archive) in archives(&place) {
        let theirs = place.folder.path().join("canary/theirs");
        std::fs::create_dir(&theirs).unwrap();
        let flags = "--xattrs --xattrs-include='*' --numeric-owner --same-owner --same-permissions --delay-directory-restore";
        sh(&format!("tar -x {flags} -f '{}' -C theirs", archive.display()), theirs.parent().unwrap());
        let file = std::fs::File::open(&archive).unwrap();
        let name = tare_image::Reference::parse("test").unwrap();
        let image = place.store.import(file, &name, &tare_image::ImportOptions::default()).unwrap();
        same(case, &look(&place.store.layer_path(&image.layers[0])), &look(&theirs));
        place.store.remove("test").unwrap();
        std::fs::remove_dir_all(&theirs).unwrap();
    }
}

#[test]
fn an_image_is_the_same_tree_as_umoci_makes_of_it() {
    if !rustix::process::geteuid().is_root() || Command::new("umoci").arg("--version").output().is_err() {
        eprintln!("not run: needs root and umoci");
        return;
    }
    let place = Place::in_memory();
    let work = place.folder.path().join("canary/work");
    std::fs::create_dir(&work).unwrap();
    for (case, archive) in archives(&place).into_iter().filter(|(case, _)| *case != "Debian") {
        let file = std::fs::File::open(&archive).unwrap();
        let name = tare_image::Reference::parse("example.org/test:1").unwrap();
        let image = place.store.import(file, &name, &tare_image::ImportOptions::default()).unwrap();
        let saved = std::fs::File::create(work.join("image.tar")).unwrap();
        save(&place.store, &[Saved { image: image.clone(), names: vec![name] }], saved).unwrap();
        let ours = look(&place.store.layer_path(&image.layers[0]));
        sh(
            "rm -rf layout bundle; mkdir layout; tar -xf image.tar -C layout
             skopeo --insecure-policy copy --quiet oci:layout oci:one:1
             umoci unpack --image one:1 bundle >/dev/null 2>&1",
            &work,
        );
        let theirs = look(&work.join("bundle/rootfs"));
        // umoci sets the time of the root itself when it is done.
        let without_root = |text: &str| -> String {
            text.lines().filter(|line| !line.starts_with(".|d|")).map(|line| format!("{line}\n")).collect()
        };
        same(case, &without_root(&ours), &without_root(&theirs));
        // And back again, with what another tool made of it.
        sh(
            "printf new > bundle/rootfs/new; rm -rf bundle/rootfs/usr; umoci repack --image one:2 bundle >/dev/null 2>&1
             rm -rf two; skopeo --insecure-policy copy --quiet oci:one:2 oci:two
             tar -C two -cf two.tar .; rm -rf bundle; umoci unpack --image one:2 bundle >/dev/null 2>&1",
            &work,
        );
        let mut archive = ImageArchive::open(std::fs::File::open(work.join("two.tar")).unwrap()).unwrap();
        let found = archive.images(&Platform::host()).unwrap();
        let image = place.store.take(&found[0].incoming, &archive, &[], &TakeOptions::default()).unwrap();
        let layers: Vec<String> = image
            .layers
            .iter()
            .rev()
            .map(|layer| place.store.layer_path(layer).display().to_string())
            .collect();
        let script = "mount -t overlay overlay -o lowerdir=$0 $1 && cd $1 && \
             find . ! -type d -printf '%p|%y|%m|%U:%G|%l|%s|%T@\\n' -o -printf '%p|%y|%m|%U:%G\\n' | sort";
        let at = work.join("seen");
        std::fs::create_dir_all(&at).unwrap();
        let out = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(layers.join(":"))
            .arg(&at)
            .output()
            .unwrap();
        let ours = String::from_utf8(out.stdout).unwrap();
        let theirs = sh(
            "find . ! -type d -printf '%p|%y|%m|%U:%G|%l|%s|%T@\\n' -o -printf '%p|%y|%m|%U:%G\\n' | sort",
            &work.join("bundle/rootfs"),
        );
        same(case, &ours, &theirs);
        place.store.remove(image.id.as_str()).unwrap();
        place.store.remove("example.org/test:1").unwrap();
    }
}
