//! Docker with the runtime as its default: what `docker` says and does is what it does on runc.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use tare_tests::engine::{self, Client, Docker, Steps, shared};
use tare_tests::process::Process;
use tare_tests::{Host, eventually};

#[test]
fn docker_runs_its_containers() {
    if !engine::installed(&["dockerd", "docker", "containerd"]) {
        return;
    }
    let docker = Docker::start();
    let client = &docker.client;
    let mut steps = Steps::new();
    steps.add("a container of many tries becomes healthy", || healthy(client));
    shared::add(&mut steps, client, docker.scratch.path());
    steps.add("a kill for want of memory is told as one", || a_kill_for_want_of_memory(client));
    steps.add("docker knows the runtime", || docker_knows_the_runtime(client));
    steps.add("a runtime is chosen for one container", || a_runtime_is_chosen(client));
    steps.add("update changes limits of a running container", || update(client));
    steps.add("the default profile refuses user namespaces", || user_namespaces_need_a_capability(client));
    steps.add("a wrong working folder is an error", || a_wrong_working_folder(client));
    steps.add("a mount that makes no sense is an error", || a_mount_that_makes_no_sense(client));
    steps.add("the terminal has its size from the beginning", || the_terminal_has_its_size(client));
    steps.add("cgroup namespaces are private or the host's", || cgroup_namespaces(client));
    steps.add("images go to tare and come back", || images(client, docker.scratch.path()));
    let mut failures = steps.run();
    failures.extend(docker.left().into_iter().map(|thing| format!("left behind: {thing}")));
    assert!(failures.is_empty(), "{} do not hold:\n{}", failures.len(), failures.join("\n\n"));
}

/// Images by `save` and `load`, both ways: with a layer that takes away, by commit.
fn images(client: &Client, folder: &Path) {
    let host = Host::new();
    host.busybox();
    let change = "echo data >/data; rm /bin/ls; mkdir /new; touch /bin/made; chown 7:8 /data";
    host.tare(["run", "--name", "maker", "busybox", "sh", "-c", change]).run().ok();
    host.tare(["commit", "-c", "CMD [\"cat\", \"/data\"]", "maker", "tare/made:1"]).run().ok();
    let file = folder.join("made.tar");
    host.tare(["save", "-o"]).arg(&file).arg("tare/made:1").run().ok();
    client.call(["load", "-q", "-i"]).arg(&file).run().prints("Loaded image: tare/made:1");
    client.call(["run", "--rm", "--network=none", "tare/made:1"]).run().prints("data");
    let script =
        ["sh", "-c", "stat -c '%u %g' /data; test -e /bin/ls || echo gone; test -d /new && echo new"];
    client.call(["run", "--rm", "--network=none", "tare/made:1"]).args(script).run().prints("7 8\ngone\nnew");

    let (back, other) = (folder.join("back.tar"), Host::new());
    client.call(["save", "-o"]).arg(&back).arg("tare/made:1").run().ok();
    other.tare(["load", "-i"]).arg(&back).run().prints("Loaded image: tare/made:1");
    let id = |host: &Host| host.tare(["inspect", "-f", "{{.Id}}", "tare/made:1"]).run().ok();
    assert_eq!(id(&host), id(&other), "the same image, whoever carried it");
    other.tare(["run", "--rm", "tare/made:1"]).args(script).run().prints("7 8\ngone\nnew");
    other.tare(["image", "verify"]).run().ok();
    client.call(["rmi", "tare/made:1"]).run().ok();
}

fn docker_knows_the_runtime(client: &Client) {
    let out = client.call(["info", "--format", "{{.DefaultRuntime}} {{.CgroupDriver}}"]).run();
    out.prints("tare cgroupfs");
    // Docker asks for `--version`, and looks for "runtime version" and "commit" in the answer of runc only.
    client.call(["version"]).run().ok();
}

fn a_kill_for_want_of_memory(client: &Client) {
    // Podman has the same field; its conmon of Debian 12 never sets it on cgroup version 1, with runc neither.
    let flags = ["--memory", "24m", "--memory-swap", "24m"];
    let hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    // Docker hears of the kill and of the end by two ways, and of a kill that it hears of after the end it says nothing.
    let is_told = || {
        let boxed = client.background(&flags, &hog);
        assert_eq!(boxed.wait(), 137);
        boxed.fact("/State/OOMKilled") == true
    };
    assert!((0..5).any(|_| is_told()));
}

fn a_runtime_is_chosen(client: &Client) {
    client.sh(&["--runtime", "tare"], "echo hi").prints("hi");
    client.sh(&["--runtime", "nosuch"], "true").fails(125).complains_of(&["runtime", "nosuch"]);
}

fn update(client: &Client) {
    let boxed = client.detached(&["--memory", "64m", "--memory-swap", "64m"], "exec sleep 100");
    let flags = ["update", "--memory", "96m", "--memory-swap", "96m", "--cpus", "0.5", "--pids-limit", "20"];
    boxed.does(&flags).ok();
    let process = Process::by_id(boxed.pid()).expect("the first process");
    let text = process.file("cgroup");
    let read = |v1: &str, v1_file: &str, v2_file: &str| {
        let path = |name: &str| {
            let line = text.lines().find(|line| line.split(':').nth(1) == Some(name));
            line.and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or_default().to_owned()
        };
        let old = fs::read_to_string(format!("/sys/fs/cgroup/{v1}{}/{v1_file}", path(v1)));
        let new = || fs::read_to_string(format!("/sys/fs/cgroup{}/{v2_file}", path("")));
        old.or_else(|_| new()).expect("a limit").trim().to_owned()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), "100663296");
    assert_eq!(read("pids", "pids.max", "pids.max"), "20");
    let quota = read("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota.starts_with("50000"), "{quota}");
    let out = boxed.sh(&[], "i=0; while test $i -lt 30; do sleep 1 & i=$((i + 1)); done; wait");
    assert!(out.stderr().contains("fork"), "{out:#?}");
}

fn user_namespaces_need_a_capability(client: &Client) {
    client.sh(&[], "unshare -U true").complains_of(&["not permitted"]);
}

fn healthy(client: &Client) {
    let flags = ["--health-cmd", "test -e /well", "--health-interval", "1s"];
    let boxed = client.detached(&flags, "sleep 1; touch /well; sleep 100");
    assert_eq!(boxed.fact("/State/Health/Status"), "starting");
    eventually("it is healthy", || boxed.fact("/State/Health/Status") == "healthy");
}

fn a_wrong_working_folder(client: &Client) {
    // Docker makes a folder that is missing; what is no folder it refuses itself.
    client.sh(&["-w", "/made/for/it"], "pwd").prints("/made/for/it");
    client.sh(&["-w", "/etc/passwd"], "pwd").fails(125);
    // One that only root may enter is entered, because the runtime goes there before it becomes the user.
    client.sh(&["--user", "app", "-v", "/root:/locked", "-w", "/locked"], "pwd").prints("/locked");
}

fn a_mount_that_makes_no_sense(client: &Client) {
    // A file onto a folder: Docker adds a hint of its own where it finds "not a directory".
    let out = client.sh(&["-v", "/etc/passwd:/tmp"], "true");
    assert!([125, 126, 127].contains(&out.code()), "{out:#?}");
    out.complains_of(&["not a directory", "Are you trying to mount a directory onto a file"]);
}

fn the_terminal_has_its_size(client: &Client) {
    let script = "stty size; sleep 0.2; stty size";
    let command = client.run(&["-it"], &["sh", "-c", script]);
    let mut terminal = tare_tests::Terminal::start(command, 41, 121);
    assert_eq!(terminal.wait(), 0);
    assert!(terminal.screen().contains("41 121"), "{}", terminal.screen());
}

fn cgroup_namespaces(client: &Client) {
    let host = fs::read_link("/proc/self/ns/cgroup").expect("a link");
    let look = "readlink /proc/self/ns/cgroup";
    client.sh(&["--cgroupns", "host"], look).prints(&host.to_string_lossy());
    assert_ne!(client.sh(&["--cgroupns", "private"], look).ok(), host.to_string_lossy());
    client.sh(&["--cgroupns", "private"], "grep -v ':/$' /proc/self/cgroup").fails(1);
}
