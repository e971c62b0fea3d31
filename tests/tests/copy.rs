//! `tare cp`: into and out of containers, by Docker's rules, and safe against what is in them.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tare_tests::{Host, eventually, fault};

/// A container with a small tree in `/t`, that runs until it is removed.
fn running(host: &Host, name: &str, flags: &[&str]) {
    // Once only: after another start it is what was copied into it.
    let script = "[ -e /t/ready ] || { mkdir -p /t/d/sub; echo one > /t/d/file; echo two > /t/d/sub/deep; \
        ln -s file /t/d/link; chmod 640 /t/d/file; chown 5:6 /t/d/file; touch /t/ready; }; sleep 600";
    let flags = [&["--name", name], flags].concat();
    host.detached(&flags, script);
    eventually("its tree is made", || host.tare(["cp", &format!("{name}:/t/ready"), "-"]).run().code() == 0);
}

fn stopped(host: &Host, name: &str, flags: &[&str]) {
    running(host, name, flags);
    host.tare(["stop", "-t", "0", name]).run().ok();
}

#[test]
fn files_and_folders_come_out_by_dockers_rules() {
    let host = Host::new();
    running(&host, "runs", &[]);
    stopped(&host, "stopped", &[]);
    for name in ["runs", "stopped"] {
        let to = host.folder(name);
        let cp =
            |from: &str, rest: &str| host.tare(["cp", &format!("{name}:{from}")]).arg(to.join(rest)).run();
        cp("/t/d/file", "new").ok();
        assert_eq!(fs::read_to_string(to.join("new")).unwrap(), "one\n");
        let meta = fs::metadata(to.join("new")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 0, 0o640), "the caller's");
        cp("/t/d/file", ".").ok();
        assert!(to.join("file").exists());
        cp("/t/d/file", "nowhere/").fails(1).complains_of(&["no such directory"]);
        cp("/t/d/file", "no/where").fails(1).complains_of(&["no such file"]);
        cp("/t/d", "made").ok();
        assert_eq!(fs::read_to_string(to.join("made/sub/deep")).unwrap(), "two\n");
        assert_eq!(fs::read_link(to.join("made/link")).unwrap(), Path::new("file"));
        cp("/t/d", "made").ok();
        assert!(to.join("made/d/sub/deep").exists(), "into a folder that is there");
        cp("/t/d/.", "made").ok();
        cp("/t/d", "file").fails(1).complains_of(&["cannot copy directory"]);
        cp("/t/d/file/", "x").fails(1).complains_of(&["not a directory"]);
        cp("/nosuch", "x").fails(1).complains_of(&["Could not find the file /nosuch in container"]);
        cp("/t/d/link", "as-link").ok();
        assert!(to.join("as-link").is_symlink());
        host.tare(["cp", "-L", &format!("{name}:/t/d/link")]).arg(to.join("as-file")).run().ok();
        assert_eq!(fs::read_to_string(to.join("as-file")).unwrap(), "one\n");
        host.tare(["cp", "-a", &format!("{name}:t/d/file")]).arg(to.join("owned")).run().ok();
        let meta = fs::metadata(to.join("owned")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (5, 6));
    }
    host.tare(["rm", "-f", "runs", "stopped"]).run().ok();
}

#[test]
fn files_and_folders_go_in_by_dockers_rules() {
    let host = Host::new();
    running(&host, "runs", &[]);
    stopped(&host, "stopped", &[]);
    let from = host.folder("from");
    host.folder("from/d/sub");
    host.file("from/d/sub/deep", "deep");
    let file = host.file("from/file", "hello");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(&file, Some(1000), Some(1001)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("file", from.join("link")).unwrap();
    for name in ["runs", "stopped"] {
        let cp = |flags: &[&str], rest: &str, to: &str| {
            host.tare(["cp"]).args(flags).arg(from.join(rest)).arg(format!("{name}:{to}")).run()
        };
        let said = cp(&["--quiet=false"], "file", "/t/new");
        assert!(said.stderr().contains("Successfully copied 5B"), "{said:?}");
        // Nobody looks at a pipe.
        assert_eq!(cp(&[], "file", "/t/d").stderr(), "");
        cp(&["-a"], "file", "/t/owned").ok();
        cp(&[], "d", "/t/tree").ok();
        cp(&[], "d", "/t/tree").ok();
        cp(&[], "d/.", "/t/d").ok();
        cp(&[], "link", "/t/a-link").ok();
        cp(&["-L"], "link", "/t/a-file").ok();
        cp(&[], "file", "/no/where").fails(1).complains_of(&["no such directory"]);
        cp(&[], "file", "/t/nowhere/").fails(1).complains_of(&["no such directory"]);
        cp(&[], "d", "/t/new").fails(1).complains_of(&["cannot copy directory"]);
        cp(&[], "nosuch", "/t").fails(1).complains_of(&["nosuch", "no such file"]);
        // Through a link in the container, to where the container sees it leading.
        cp(&[], "file", "/t/d/link").ok();
        if name == "stopped" {
            host.tare(["start", "stopped"]).run().ok();
        }
        let root = format!("/proc/{}/root", host.pid(name));
        let root = Path::new(&root);
        let base = fs::metadata(root.join("t")).unwrap().uid();
        let look = |path: &str| {
            let meta = fs::symlink_metadata(root.join(path)).unwrap();
            (meta.uid() - base, meta.gid() - base, meta.mode() & 0o7777)
        };
        assert_eq!(look("t/new"), (0, 0, 0o4751), "the container's root's");
        assert_eq!(look("t/owned"), (1000, 1001, 0o4751));
        assert_eq!(look("t/d/file").0, 0);
        assert_eq!(fs::read_to_string(root.join("t/d/file")).unwrap(), "hello");
        assert!(root.join("t/d/link").is_symlink());
        assert_eq!(fs::read_to_string(root.join("t/tree/sub/deep")).unwrap(), "deep");
        assert!(root.join("t/tree/d/sub/deep").exists() && root.join("t/d/sub/deep").exists());
        assert!(root.join("t/a-link").is_symlink() && !root.join("t/a-file").is_symlink());
    }
    host.tare(["rm", "-f", "runs", "stopped"]).run().ok();
}

#[test]
fn archives_go_both_ways() {
    let host = Host::new();
    running(&host, "runs", &[]);
    let out = host.tare(["cp", "runs:/t/d", "-"]).run();
    let archive = host.file("out.tar", out.bytes());
    let listed = Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&archive).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.contains("d/sub/deep") && listed.contains("5/6") && listed.contains("link -> file"),
        "{listed}"
    );
    for compress in ["cat", "gzip"] {
        let bytes =
            Command::new("sh").arg("-c").arg(format!("{compress} < {}", archive.display())).output().unwrap();
        let to = format!("/t/{compress}");
        host.tare(["cp", "-"])
            .arg("runs:/nosuch")
            .stdin(&bytes.stdout)
            .run()
            .fails(1)
            .complains_of(&["could not find"]);
        host.tare(["cp", "-"])
            .arg("runs:/t/ready")
            .stdin(&bytes.stdout)
            .run()
            .fails(1)
            .complains_of(&["must be a directory"]);
        host.tare(["cp", "-"]).arg("runs:/t").stdin(&bytes.stdout).run().ok();
        let back = host.tare(["cp", "runs:/t/d/file", "-"]).run();
        assert!(back.bytes().windows(4).any(|bytes| bytes == b"one\n"), "{to}");
    }
    host.tare(["cp", "-", "runs:/t"]).stdin("no archive at all").run().fails(1).complains_of(&["archive"]);
    host.tare(["cp", "a", "b"]).run().fails(1).complains_of(&["at least one container"]);
    host.tare(["cp", "runs:/a", "runs:/b"]).run().fails(1).complains_of(&["between containers"]);
    host.tare(["rm", "-f", "runs"]).run().ok();
}

#[test]
fn a_container_that_was_never_started_and_its_volumes_are_there_too() {
    let host = Host::new();
    host.busybox();
    let bind = host.folder("bind");
    let flags = ["-v", "data:/data", "-v", &format!("{}:/bind", bind.display())].map(str::to_owned);
    host.tare(["create", "--name", "new"]).args(&flags).args(["busybox", "cat", "/data/f", "/x"]).run().ok();
    let file = host.file("f", "hello");
    host.tare(["cp"]).arg(&file).arg("new:/data").run().ok();
    host.tare(["cp"]).arg(&file).arg("new:/x").run().ok();
    host.tare(["cp"]).arg(&file).arg("new:/bind/").run().ok();
    assert_eq!(fs::read_to_string(bind.join("f")).unwrap(), "hello");
    assert_eq!(fs::read_to_string(host.root().join("volumes/data/_data/f")).unwrap(), "hello");
    host.tare(["start", "-a", "new"]).run().prints("hellohello");
    host.tare(["cp"]).arg(&file).arg("new:/etc/hosts").run().ok();
    let out = host.work().join("again");
    host.tare(["cp", "new:/data/f"]).arg(&out).run().ok();
    assert_eq!(fs::read_to_string(out).unwrap(), "hello");
    host.tare(["rm", "-v", "new"]).run().ok();
}

#[test]
fn a_file_that_is_mounted_is_written_in_place() {
    let host = Host::new();
    running(&host, "runs", &[]);
    let file = host.file("hosts", "10.9.8.7 other\n");
    host.tare(["cp"]).arg(&file).arg("runs:/etc/hosts").run().ok();
    let out = host.work().join("out");
    host.tare(["cp", "runs:/etc/hosts"]).arg(&out).run().ok();
    assert_eq!(fs::read_to_string(out).unwrap(), "10.9.8.7 other\n");
    host.tare(["rm", "-f", "runs"]).run().ok();
}

#[test]
fn links_in_the_container_lead_nowhere_outside() {
    let host = Host::new();
    let secret = host.file("secret", "the host's");
    let outside = host.folder("outside");
    let script = format!(
        "ln -s {0} /abs; ln -s ../../../../../../../../../{0} /rel; ln -s {1} /dir; ln -s / /root-link; \
         ln -s /proc/1/root /magic; ln -s /proc/self/cwd /cwd; mknod /t-pipe p; touch /ready; sleep 600",
        secret.display(),
        outside.display()
    );
    host.detached(&["--name", "evil"], &script);
    eventually("it is ready", || host.tare(["cp", "evil:/ready", "-"]).run().code() == 0);
    let to = host.folder("to");
    for from in ["/abs", "/rel"] {
        host.tare(["cp", "-L", &format!("evil:{from}")]).arg(to.join("x")).run().fails(1);
    }
    for from in ["/dir/", "/magic/etc", "/cwd/", "/root-link/../../../etc/nosuch"] {
        host.tare(["cp", &format!("evil:{from}")]).arg(to.join("x")).run().fails(1);
    }
    assert!(!to.join("x").exists());
    let file = host.file("f", "x");
    host.tare(["cp"]).arg(&file).arg("evil:/dir/f").run().fails(1);
    host.tare(["cp"]).arg(&file).arg("evil:/magic/f").run().fails(1);
    host.tare(["cp"]).arg(&file).arg("evil:/abs").run().fails(1);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the host's");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    // A pipe does not hold us up, and comes as what it is.
    host.tare(["cp", "evil:/t-pipe"]).arg(to.join("pipe")).run().ok();
    // An archive whose entries go through links of its own.
    let tree = host.folder("tree");
    symlink(&outside, tree.join("way")).unwrap();
    let archive = host.work().join("links.tar");
    let pack =
        |words: &[&str]| Command::new("tar").arg("-C").arg(&tree).args(words).status().unwrap().success();
    assert!(pack(&["-cf", archive.to_str().unwrap(), "way"]));
    fs::remove_file(tree.join("way")).unwrap();
    host.folder("tree/way");
    host.file("tree/way/planted", "x");
    assert!(pack(&["-rf", archive.to_str().unwrap(), "way/planted"]));
    host.tare(["cp", "-", "evil:/"]).stdin(fs::read(&archive).unwrap()).run();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "an entry went through a link");
    host.tare(["rm", "-f", "evil"]).run().ok();
}

/// A copy from a container that goes no further than a pipe takes, until that is read.
fn half_done(host: &Host) -> (std::process::Child, fs::File) {
    let pipe = host.work().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let first = host.tare(["cp", "box:/bin", "-"]).into_command();
    let mut sh = Command::new("sh");
    sh.args(["-c", "exec \"$@\" > \"$0\""]).arg(&pipe).arg(first.get_program()).args(first.get_args());
    sh.envs(first.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let first = sh.spawn().unwrap();
    let mut archive = fs::File::open(&pipe).unwrap();
    // It is at it, and goes no further than the pipe takes.
    archive.read_exact(&mut [0; 512]).unwrap();
    (first, archive)
}

/// Only one at a time can look into a container that does not run.
#[test]
fn who_copies_from_a_stopped_container_waits_for_another_who_does() {
    let host = Host::new();
    stopped(&host, "box", &[]);
    let (mut first, mut archive) = half_done(&host);
    let others = [host.tare(["cp", "box:/bin/busybox", "-"]).start(), host.tare(["start", "box"]).start()];
    std::thread::sleep(Duration::from_millis(500));
    archive.read_to_end(&mut Vec::new()).unwrap();
    assert!(first.wait().unwrap().success());
    for other in others {
        other.wait().ok();
    }
}

#[test]
fn a_copy_waits_as_long_as_another_takes_and_who_does_not_is_told_for_what() {
    let host = Host::new();
    stopped(&host, "box", &[]);
    let (mut first, mut archive) = half_done(&host);
    let copy = host.tare(["cp", "box:/bin/busybox", "-"]).start();
    let start = host.tare(["start", "box"]).within(tare_tests::stretched(Duration::from_secs(25))).run();
    start.fails(1);
    let pid = first.id();
    start.complains_of(&[&format!("wait for box: `tare cp` (process {pid}) is still at work on it")]);
    std::thread::sleep(Duration::from_millis(500));
    archive.read_to_end(&mut Vec::new()).unwrap();
    assert!(first.wait().unwrap().success());
    copy.wait().ok();
}

/// The container puts a link in the place of a pipe before that has got its permissions.
#[test]
fn a_link_in_place_of_a_pipe_changes_no_permissions_of_the_hosts() {
    let host = Host::new();
    let secret = host.file("secret", "the host's");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let script = format!(
        "mkdir /r; touch /ready; while [ ! -p /r/p ]; do :; done; ln -sf {} /r/p; touch /done; sleep 600",
        secret.display()
    );
    host.detached(&["--name", "races"], &script);
    eventually("it is ready", || host.tare(["cp", "races:/ready", "-"]).run().code() == 0);
    let pipe = host.folder("from").join("p");
    assert!(Command::new("mkfifo").args(["-m", "666"]).arg(&pipe).status().unwrap().success());
    let copy = host.tare(["cp", "-a"]).arg(&pipe).arg("races:/r/p");
    // It stands still for a second between the making of the pipe and what comes next.
    let slow = ["-f", "-e", "trace=mknodat,mknod", "-e", "inject=mknodat,mknod:delay_exit=1000000"];
    fault::traced(&slow, copy).run();
    host.tare(["cp", "races:/done", "-"]).run().ok();
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o7777, 0o600);
    host.tare(["rm", "-f", "races"]).run().ok();
}

/// CVE-2018-15664: the container renames a folder and a link to and fro while files are copied.
#[test]
fn a_racing_link_wins_nothing() {
    let host = Host::new();
    let outside = host.folder("outside");
    host.file("outside/secret", "the host's");
    let script = format!(
        "mkdir -p /r/a /r/keep; echo inside > /r/a/secret; ln -s {0} /r/b; touch /ready; \
         while :; do mv /r/a /r/keep/c; mv /r/b /r/a; mv /r/a /r/b; mv /r/keep/c /r/a; done",
        outside.display()
    );
    host.detached(&["--name", "races"], &script);
    eventually("it is ready", || host.tare(["cp", "races:/ready", "-"]).run().code() == 0);
    let to = host.folder("to");
    let file = host.file("planted", "x");
    for round in 0..100 {
        let out = to.join(format!("{round}"));
        host.tare(["cp", "races:/r/a/secret"]).arg(&out).run();
        assert!(fs::read_to_string(&out).is_ok_and(|text| text == "inside\n") || !out.exists());
        let out = to.join(format!("tree-{round}"));
        host.tare(["cp", "races:/r"]).arg(&out).run();
        host.tare(["cp"]).arg(&file).arg("races:/r/a/planted").run();
    }
    for entry in fs::read_dir(&to).unwrap().flatten() {
        let found = Command::new("grep").args(["-r", "the host's"]).arg(entry.path()).output().unwrap();
        assert!(found.stdout.is_empty(), "a file of the host came out: {found:?}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "something was written outside");
    host.tare(["rm", "-f", "races"]).run().ok();
}
