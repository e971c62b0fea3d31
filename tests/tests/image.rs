//! `tare image import`: a root filesystem becomes an image.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;

use tare_tests::{Host, busybox};

/// The busybox archive through a packing program.
fn packed(host: &Host, program: &str, name: &str) -> PathBuf {
    let out = Command::new(program).arg("-c").arg(busybox::cached_archive()).output().unwrap();
    assert!(out.status.success(), "{program}: {out:?}");
    host.file(name, out.stdout)
}

#[test]
fn plain_gzip_and_zstd_archives_are_told_apart_by_content() {
    let host = Host::new();
    let gzip = packed(&host, "gzip", "root.tar.gz");
    let zstd = packed(&host, "zstd", "root.tar.zst");
    let misnamed = host.file("misnamed.tar", fs::read(&gzip).unwrap());
    let archives = [("plain", busybox::cached_archive()), ("gz", gzip), ("zst", zstd), ("mis", misnamed)];
    for (name, archive) in archives {
        host.tare(["image", "import"]).arg(archive).arg(name).run().ok();
        host.tare(["run", "--rm", name, "echo", name]).run().prints(name);
    }
}

#[test]
fn an_archive_can_come_through_a_pipe() {
    let host = Host::new();
    let bytes = fs::read(busybox::cached_archive()).unwrap();
    host.tare(["image", "import", "-", "piped"]).stdin(&bytes).run().ok();
    host.tare(["run", "--rm", "piped", "echo", "ok"]).run().prints("ok");
    let gzip = fs::read(packed(&host, "gzip", "root.tar.gz")).unwrap();
    host.tare(["image", "import", "-", "piped-gz"]).stdin(&gzip).run().ok();
    host.tare(["run", "--rm", "piped-gz", "echo", "ok"]).run().prints("ok");
}

#[test]
fn import_prints_the_images_digest() {
    let host = Host::new();
    let out = host.tare(["image", "import"]).arg(busybox::cached_archive()).arg("named").run().ok();
    let digest = out.strip_prefix("sha256:").unwrap_or_else(|| panic!("{out}"));
    assert!(tare_tests::host::is_id(digest), "{out}");
}

#[test]
fn a_tag_is_part_of_the_name_and_latest_if_not_given() {
    let host = Host::new();
    let archive = busybox::cached_archive();
    for name in ["tagged:1.0", "plain", "registry.example:5000/team/app:v2"] {
        host.tare(["image", "import"]).arg(&archive).arg(name).run().ok();
    }
    host.tare(["run", "--rm", "tagged:1.0", "true"]).run().ok();
    host.tare(["run", "--rm", "tagged", "true"]).run().fails(125);
    host.tare(["run", "--rm", "plain:latest", "true"]).run().ok();
    host.tare(["run", "--rm", "registry.example:5000/team/app:v2", "true"]).run().ok();
}

#[test]
fn importing_a_name_again_replaces_it() {
    let host = Host::new();
    let tree = host.folder("tree");
    busybox::tree(&tree).unwrap();
    for version in ["one", "two"] {
        fs::write(tree.join("version"), version).unwrap();
        let archive = host.work().join("tree.tar");
        busybox::pack(&tree, &archive).unwrap();
        host.tare(["image", "import"]).arg(&archive).arg("app").run().ok();
        host.tare(["run", "--rm", "app", "cat", "/version"]).run().prints(version);
    }
}

#[test]
fn a_running_container_keeps_the_image_that_it_was_started_from() {
    let host = Host::new();
    let tree = host.folder("tree");
    busybox::tree(&tree).unwrap();
    let import = |version: &str| {
        fs::write(tree.join("version"), version).unwrap();
        let archive = host.work().join("tree.tar");
        busybox::pack(&tree, &archive).unwrap();
        host.tare(["image", "import"]).arg(&archive).arg("app").run().ok();
    };
    import("one");
    let wait = "while [ ! -e /go ]; do sleep 0.1; done; cat /version";
    let mount = format!("{}:/sign", host.folder("sign").display());
    let script = wait.replace("/go", "/sign/go");
    let running = host.tare(["run", "--rm", "-v", &mount, "app", "sh", "-c", &script]).start();
    tare_tests::eventually("it runs", || host.containers().len() == 1);
    import("two");
    host.file("sign/go", "");
    running.wait().prints("one");
}

#[test]
fn files_keep_owner_mode_time_and_links() {
    let host = Host::new();
    let tree = host.folder("tree");
    busybox::tree(&tree).unwrap();
    let file = tree.join("file");
    fs::write(&file, "content").unwrap();
    chown(&file, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(&file, tree.join("hard")).unwrap();
    symlink("../outside/of/it", tree.join("soft")).unwrap();
    fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(Command::new("mkfifo").arg(tree.join("fifo")).status().unwrap().success());
    assert!(
        Command::new("touch").args(["-d", "2001-02-03 04:05:06 UTC"]).arg(&file).status().unwrap().success()
    );
    let archive = host.work().join("tree.tar");
    let done = Command::new("tar")
        .arg("--numeric-owner")
        .arg("-C")
        .arg(&tree)
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(done.unwrap().success());
    host.tare(["image", "import"]).arg(&archive).arg("app").run().ok();
    let script = "stat -c '%u:%g %a %h %Y' /file; readlink /soft; [ -p /fifo ] && echo fifo; stat -c %a /tmp; \
        [ $(stat -c %i /file) = $(stat -c %i /hard) ] && echo same";
    let time = fs::metadata(&file).unwrap().mtime();
    host.tare(["run", "--rm", "app", "sh", "-c", script])
        .run()
        .prints(&format!("1234:4321 4751 2 {time}\n../outside/of/it\nfifo\n1777\nsame"));
}

#[test]
fn extended_attributes_are_kept() {
    let host = Host::new();
    let tree = host.folder("tree");
    busybox::tree(&tree).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    let path = tree.join("file");
    rustix::fs::setxattr(&path, "user.colour", b"red", rustix::fs::XattrFlags::empty()).unwrap();
    let archive = host.work().join("tree.tar");
    let mut pack = Command::new("tar");
    pack.args(["--xattrs", "--numeric-owner", "-C"]).arg(&tree).arg("-cf").arg(&archive).arg(".");
    assert!(pack.status().unwrap().success());
    host.tare(["image", "import"]).arg(&archive).arg("app").run().ok();
    // Nothing in busybox reads them; the container's root, seen from here, does.
    let id = host.tare(["run", "-d", "--name", "marked", "app", "sleep", "60"]).run().ok();
    let inside = format!("/proc/{}/root/file", host.pid(&id));
    let mut value = [0_u8; 16];
    let length = rustix::fs::getxattr(&inside, "user.colour", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"red");
}

#[test]
fn names_that_only_layers_know_are_plain_names_in_a_plain_archive() {
    // `.wh.` files delete in a layer; a root filesystem may not lose its /etc to one.
    let host = Host::new();
    let tree = host.folder("tree");
    busybox::tree(&tree).unwrap();
    fs::write(tree.join(".wh.etc"), "").unwrap();
    let archive = host.work().join("tree.tar");
    busybox::pack(&tree, &archive).unwrap();
    let out = host.tare(["image", "import"]).arg(&archive).arg("app").run();
    if out.code() == 0 {
        host.tare(["run", "--rm", "app", "cat", "/etc/group"]).run().ok();
    } else {
        out.fails(1).complains_of(&[".wh."]);
    }
}

#[test]
fn a_long_path_and_a_large_file_come_through() {
    let host = Host::new();
    let tree = host.folder("tree");
    busybox::tree(&tree).unwrap();
    let deep = ["a".repeat(80), "b".repeat(80), "c".repeat(80)].join("/");
    fs::create_dir_all(tree.join(&deep)).unwrap();
    fs::write(tree.join(&deep).join("file"), "deep").unwrap();
    fs::write(tree.join("large"), vec![b'x'; 30_000_000]).unwrap();
    let archive = host.work().join("tree.tar");
    busybox::pack(&tree, &archive).unwrap();
    host.tare(["image", "import"]).arg(&archive).arg("app").run().ok();
    host.tare(["run", "--rm", "app", "sh", "-c"])
        .arg(format!("cat /{deep}/file; stat -c ' %s' /large"))
        .run()
        .prints("deep 30000000");
}
