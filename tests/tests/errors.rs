//! Bad input: a clear message, the right exit code, and nothing left behind.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use tare_tests::disk::{Disk, apart};
use tare_tests::{Host, Outcome, busybox, eventually, stretched};

/// `tare run --rm WORDS`, which has to leave no trace.
fn run(host: &Host, words: &[&str]) -> Outcome {
    host.leaves_no_trace(|| host.tare(["run", "--rm"]).args(words).run())
}

#[test]
fn an_unknown_image_is_125_and_says_how_to_get_one() {
    let host = Host::new();
    let begun = Instant::now();
    let out = run(&host, &["nosuch", "true"]);
    out.fails(125).complains_of(&[
        "Unable to find image 'nosuch:latest' locally",
        "registry-1.docker.io",
        "import",
    ]);
    run(&host, &["busybox:nosuch", "true"]).fails(125).complains_of(&["busybox:nosuch"]);
    // Nobody listens, a proxy leads nowhere, the name is nobody's (RFC 6761): none of that gets better by waiting.
    let out = run(&host, &["127.0.0.1:1/nosuch", "true"]);
    out.fails(125).complains_of(&["127.0.0.1:1/nosuch:latest", "refused", "hint:", "import"]);
    let straight = host.tare(["run", "--rm", "registry.invalid/nosuch", "true"]);
    let out = straight.env("HTTPS_PROXY", "").env("ALL_PROXY", "").run();
    out.fails(125).complains_of(&["registry.invalid", "is the name right", "import"]);
    assert!(begun.elapsed() < stretched(Duration::from_secs(20)), "{:?}", begun.elapsed());
    let out = run(&host, &["--pull", "never", "nosuch", "true"]);
    out.fails(125).complains_of(&["nosuch", "no such image", "import"]);
}

#[test]
fn an_image_name_that_makes_no_sense_is_125() {
    let host = Host::new();
    for name in ["Upper", "a b", "../../etc", "x:y:z", ":"] {
        run(&host, &[name, "true"]).fails(125).complains_of(&[name]);
    }
}

#[test]
fn a_command_that_is_not_in_the_image_is_127() {
    let host = Host::new();
    run(&host, &["busybox", "nosuch"]).fails(127).complains_of(&["nosuch", "not found"]);
    run(&host, &["busybox", "/bin/nosuch"]).fails(127).complains_of(&["/bin/nosuch"]);
}

#[test]
fn a_script_without_its_interpreter_is_127_and_says_so() {
    let host = Host::new();
    let script = host.file("script", "#!/nosuch/interpreter\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mount = format!("{}:/script", script.display());
    run(&host, &["-v", &mount, "busybox", "/script"]).fails(127).complains_of(&["/script"]);
}

#[test]
fn a_command_that_cannot_be_executed_is_126() {
    let host = Host::new();
    run(&host, &["busybox", "/etc/passwd"]).fails(126).complains_of(&["/etc/passwd", "permission denied"]);
    run(&host, &["busybox", "/etc"]).fails(126).complains_of(&["/etc"]);
    let nonsense = host.file("nonsense", "\0\0\0\0");
    fs::set_permissions(&nonsense, fs::Permissions::from_mode(0o755)).unwrap();
    let mount = format!("{}:/nonsense", nonsense.display());
    run(&host, &["-v", &mount, "busybox", "/nonsense"]).fails(126).complains_of(&["/nonsense"]);
}

#[test]
fn an_image_without_a_command_wants_one() {
    let host = Host::new();
    run(&host, &["busybox"]).fails(125).complains_of(&["command"]);
}

#[test]
fn a_missing_or_wrong_root_folder_is_125() {
    let host = Host::new();
    let file = host.file("file", "");
    run(&host, &["--rootfs", "/nosuch/folder", "true"]).fails(125).complains_of(&["/nosuch/folder"]);
    run(&host, &["--rootfs", file.to_str().unwrap(), "true"]).fails(125).complains_of(&["file"]);
}

#[test]
fn wrong_flags_are_125_with_a_way_on() {
    let host = Host::new();
    let out = run(&host, &["--nosuch-flag", "busybox", "true"]);
    out.fails(125).complains_of(&["--nosuch-flag", "help"]);
    run(&host, &["--memori", "64m", "busybox", "true"]).fails(125).complains_of(&["--memori", "--memory"]);
    run(&host, &["--memory"]).fails(125).complains_of(&["--memory"]);
    // As Docker has it: too few words are no wrong option.
    run(&host, &[]).fails(1);
    run(&host, &["--network", "nosuch", "busybox", "true"]).fails(125).complains_of(&["nosuch"]);
    run(&host, &["--pid", "nosuch", "busybox", "true"]).fails(125).complains_of(&["nosuch"]);
    run(&host, &["-e", "=x", "busybox", "true"]).fails(125);
    run(&host, &["--stop-signal", "NOSUCH", "busybox", "true"]).fails(125).complains_of(&["NOSUCH"]);
}

#[test]
fn an_unknown_command_of_tare_is_an_error_with_a_way_on() {
    let host = Host::new();
    let out = host.tare(["rnu"]).run();
    assert_ne!(out.code(), 0);
    out.complains_of(&["rnu", "help"]);
}

#[test]
fn flags_that_exclude_each_other_are_said() {
    let host = Host::new();
    let out = run(&host, &["--network", "host", "--hostname", "x", "--uts", "host", "busybox", "true"]);
    out.fails(125).complains_of(&["hostname", "uts"]);
}

#[test]
fn a_wrong_option_is_125_whatever_the_command() {
    let host = Host::new();
    let options = [
        "ps --nosuch",
        "--nosuch ps",
        "ps --all=perhaps",
        "ps --last many",
        "ps --filter nonsense",
        "exec --nosuch x true",
        "exec --env =x box true",
        "stop --time soon box",
        "restart --time soon box",
        "update --memory much box",
        "create --memory much busybox",
        "create --rm --restart always busybox",
        "network ls --nosuch",
        "volume create --nosuch",
        "kill --signal",
    ];
    for words in options {
        host.tare(words.split(' ')).run().fails(125);
    }
    // Words that are missing, unknown or of no use are not.
    let others = [
        "stop",
        "create",
        "network nosuch",
        "ps word",
        "inspect --type nosuch x",
        "create --restart sometimes host",
        "kill --signal NOSUCH x",
    ];
    for words in others {
        host.tare(words.split(' ')).run().fails(1);
    }
}

#[test]
fn what_exec_cannot_begin_is_126_or_127() {
    let host = Host::new();
    host.detached(&["--name", "box"], "exec sleep 100");
    for (words, code) in [
        (&["-u", "nosuch", "box", "true"][..], 126),
        (&["-u", "0:nosuch", "box", "true"], 126),
        (&["-w", "/etc/passwd", "box", "true"], 126),
        (&["box", "/etc"], 126),
        (&["box", "nosuch"], 127),
        (&["nosuch", "true"], 1),
    ] {
        host.tare(["exec"]).args(words).run().fails(code);
    }
}

#[test]
fn a_failed_start_leaves_a_container_that_says_why() {
    let host = Host::new();
    host.busybox();
    let id_file = host.work().join("container.id");
    let flag = format!("--cidfile={}", id_file.display());
    let out = host.tare(["run", "-d", "--name", "web", &flag, "busybox", "nosuch"]).run();
    out.fails(127).complains_of(&["nosuch", "not found"]);
    // As Docker, which tells the id nevertheless.
    let id = out.stdout().trim().to_owned();
    assert_eq!(fs::read_to_string(&id_file).expect("the id"), id);
    host.tare(["ps", "-aq", "--no-trunc"]).run().prints(&id);
    let state = &host.inspect("web")["State"];
    assert_eq!((state["Status"].as_str(), state["ExitCode"].as_i64()), (Some("created"), Some(127)));
    let why = host.tare(["why", "web"]).run().ok();
    assert!(why.contains("could not be started") && why.contains("nosuch"), "{why}");
    host.tare(["run", "--name", "web", "busybox", "true"]).run().fails(125).complains_of(&["web", "rm"]);
    host.tare(["start", "web"]).run().fails(1).complains_of(&["nosuch"]);
    host.tare(["rm", "web"]).run().prints("web");

    // What was missing comes: the same container starts.
    let program = host.file("program", "#!/bin/sh\necho here\n");
    let mount = format!("{}:/program", program.display());
    host.tare(["run", "--name", "late", "-v", &mount, "busybox", "/program"]).run().fails(126);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    host.tare(["start", "-a", "late"]).run().prints("here");
}

#[test]
fn a_broken_archive_is_refused_and_leaves_nothing() {
    let host = Host::new();
    let whole = fs::read(busybox::cached_archive()).unwrap();
    let cases = [
        ("text.tar", b"this is no archive".repeat(100)),
        ("empty.tar", Vec::new()),
        ("short.tar", whole[..whole.len() / 2].to_vec()),
        ("broken.tar.gz", [&[0x1f, 0x8b, 8, 0][..], &whole[..5000]].concat()),
        ("broken.tar.zst", [&[0x28, 0xb5, 0x2f, 0xfd][..], &whole[..5000]].concat()),
    ];
    for (name, bytes) in cases {
        let file = host.file(name, bytes);
        host.leaves_no_trace(|| {
            let out = host.tare(["image", "import"]).arg(&file).arg("broken").run();
            out.fails(1).complains_of(&[name]);
        });
        host.tare(["run", "--rm", "broken", "true"]).run().fails(125);
    }
    let out = host.tare(["image", "import", "/nosuch.tar", "x"]).run();
    out.fails(1).complains_of(&["/nosuch.tar"]);
}

/// A tar with one member whose name GNU tar itself would not write.
fn hostile(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut member = header.to_vec();
    member.extend_from_slice(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

#[test]
fn an_archive_cannot_write_outside_the_image() {
    let host = Host::new();
    host.busybox();
    let outside = host.folder("outside");
    let target = outside.display().to_string();
    let end = vec![0_u8; 1024];
    let climbing = format!("{}{}/climbed", "../".repeat(40), target.trim_start_matches('/'));
    let archives = [
        vec![hostile(&climbing, b'0', "", b"x")],
        vec![hostile(&format!("{target}/absolute"), b'0', "", b"x")],
        vec![hostile("link", b'2', &target, b""), hostile("link/through", b'0', "", b"x")],
        vec![
            hostile("hard", b'1', "../../../../../../../../etc/passwd", b""),
            hostile("hard", b'0', "", b"x"),
        ],
        vec![
            hostile("a", b'2', "..", b""),
            hostile("a/a/a/a/a/a/a/a/a/a/tmp/tare-test-climbed", b'0', "", b"x"),
        ],
    ];
    for (number, members) in archives.into_iter().enumerate() {
        let file = host.file(&format!("hostile-{number}.tar"), [members.concat(), end.clone()].concat());
        // Refusing and cutting the path back to the root are both right.
        let out = host.tare(["image", "import"]).arg(&file).arg(format!("hostile-{number}")).run();
        assert!([0, 1].contains(&out.code()), "{out:#?}");
        out.complains_of(&[]);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "archive {number} wrote outside");
        assert!(!fs::exists("/tmp/tare-test-climbed").unwrap(), "archive {number} wrote to /tmp");
    }
    assert!(
        fs::read_to_string("/etc/passwd").unwrap().contains("root"),
        "the machine's own /etc/passwd was changed"
    );
}

#[test]
fn without_permission_it_says_so_and_what_to_do() {
    let host = Host::new();
    host.busybox();
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    // The binary may be where nobody may go: then a copy that everybody may run.
    let copy = host.work().join("tare");
    fs::copy(tare_tests::host::binary(), &copy).unwrap();
    let mut command = Command::new(nobody[0]);
    command.args(&nobody[1..]).arg(&copy).args(["run", "--rm", "busybox", "true"]);
    command.env("TARE_ROOT", host.root()).env("TARE_RUN_ROOT", host.run_root()).current_dir("/");
    let out = tare_tests::Tare::of(command).run();
    out.fails(125).complains_of(&["root", "hint"]);
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_half_done() {
    let host = Host::new();
    let small = host.folder("small");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "small"]).arg(&small).status().unwrap();
    assert!(mounted.success());
    let call = |words: &[&str]| host.tare(words).env("TARE_ROOT", &small).run();
    let first = call(&["ps"]);
    let archive = busybox::cached_archive();
    let out = call(&["image", "import", archive.to_str().unwrap(), "busybox"]);
    let image = call(&["run", "--rm", "busybox", "true"]);
    let space = Command::new("df").args(["--output=avail", "-k"]).arg(&small).output().unwrap();
    assert!(Command::new("umount").arg("-l").arg(&small).status().unwrap().success());
    first.ok();
    out.fails(1).complains_of(&["no space left"]);
    image.fails(125).complains_of(&["busybox"]);
    let free: u32 = String::from_utf8_lossy(&space.stdout).lines().last().unwrap().trim().parse().unwrap();
    assert!(free > 800, "of 1024 kB only {free} are free again");
}

#[test]
fn how_one_ends_is_known_though_the_disk_is_full() {
    if !apart("how_one_ends_is_known_though_the_disk_is_full") {
        return;
    }
    let host = Host::new();
    let disk = Disk::new(&host.work(), 32, 4000);
    let call = |words: &[&str]| host.tare(words).env("TARE_ROOT", disk.path().join("root")).run();
    call(&["image", "import", busybox::cached_archive().to_str().unwrap(), "busybox"]).ok();
    let script = "trap 'exit 7' TERM; echo on; while :; do sleep 0.1; done";
    for name in ["stopped", "killed"] {
        call(&["run", "-d", "--name", name, "busybox", "sh", "-c", script]).ok();
        eventually("it runs", || call(&["logs", name]).stdout() == "on");
    }
    disk.fill(0);
    assert!((0..10_000).any(|n| fs::write(disk.path().join(format!("more{n}")), [0; 4096]).is_err()));
    call(&["stop", "stopped"]).ok();
    call(&["kill", "killed"]).ok();
    for (name, code) in [("stopped", "7"), ("killed", "137")] {
        call(&["wait", name]).prints(code);
        let state = call(&["inspect", name, "--format", "{{.State.Status}} {{.State.ExitCode}}"]);
        state.prints(&format!("exited {code}"));
        call(&["rm", name]).ok();
    }
}

#[test]
fn a_limit_whose_controller_is_missing_is_an_error_that_names_it() {
    let host = Host::new();
    host.busybox();
    if !fs::exists("/sys/fs/cgroup/memory").unwrap() {
        eprintln!("not tried: on cgroup v2 a controller cannot be taken away for one process");
        return;
    }
    let without = "umount -l /sys/fs/cgroup/memory && exec \"$0\" \"$@\"";
    let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", without];
    let out = host.wrapped(&wrapper, ["run", "--rm", "--memory", "64m", "busybox", "true"]).run();
    out.fails(125).complains_of(&["memory", "cgroup"]);
    host.wrapped(&wrapper, ["run", "--rm", "busybox", "true"]).run().ok();
}

#[test]
fn a_state_root_that_cannot_hold_an_overlay_is_named() {
    let host = Host::new();
    // An overlay cannot lie on another whose upper folder it would have to be.
    let (lower, upper, work, merged) =
        (host.folder("lower"), host.folder("upper"), host.folder("overlay-work"), host.folder("merged"));
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let mounted =
        Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged).status();
    assert!(mounted.unwrap().success());
    let call = |words: &[&str]| host.tare(words).env("TARE_ROOT", &merged).run();
    let imported = call(&["image", "import", busybox::cached_archive().to_str().unwrap(), "busybox"]);
    let out = call(&["run", "--rm", "busybox", "true"]);
    let left = call(&["ps", "-aq"]);
    assert!(Command::new("umount").arg("-l").arg(&merged).status().unwrap().success());
    imported.ok();
    left.prints("");
    // A way round it (a copy, a tmpfs) is as good as a clear refusal.
    if out.code() != 0 {
        out.fails(125).complains_of(&["merged", "hint"]);
    }
}

#[test]
fn messages_have_one_form() {
    let host = Host::new();
    let out = run(&host, &["--pull", "never", "nosuch", "true"]);
    assert!(out.stderr().starts_with("tare: "), "{out:#?}");
    assert!(out.stderr().lines().any(|line| line.starts_with("hint: ")), "{out:#?}");
    assert_eq!(out.stdout(), "");
}
