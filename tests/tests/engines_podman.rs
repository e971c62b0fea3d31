//! Podman and conmon on the runtime.
#![forbid(unsafe_code)]

use std::fs;

use tare_tests::engine::{self, Client, Podman, Steps, shared};
use tare_tests::process::Process;

#[test]
fn podman_runs_its_containers() {
    if !engine::installed(&["podman", "conmon"]) {
        return;
    }
    let podman = Podman::start();
    let client = &podman.client;
    let mut steps = Steps::new();
    shared::add(&mut steps, client, podman.scratch.path());
    steps.add("podman knows the runtime", || podman_knows_the_runtime(client));
    steps.add("a health check runs in the container", || a_health_check_runs(client));
    steps.add("update changes limits of a running container", || update(client));
    steps.add("a wrong working folder is an error", || a_wrong_working_folder(client));
    steps.add("a file is kept open for the container", || preserved_files(client));
    steps.add("a user namespace maps its users", || a_user_namespace(client));
    let mut failures = steps.run();
    failures.extend(podman.left().into_iter().map(|thing| format!("left behind: {thing}")));
    assert!(failures.is_empty(), "{} do not hold:\n{}", failures.len(), failures.join("\n\n"));
}

fn podman_knows_the_runtime(client: &Client) {
    let out = client.call(["info", "--format", "{{.Host.OCIRuntime.Path}}"]).run();
    out.prints(&engine::runtime().display().to_string());
}

fn a_health_check_runs(client: &Client) {
    // Without systemd there is no timer: the check is run by hand.
    let flags = ["--health-cmd", "test -e /well", "--health-interval", "disable"];
    let boxed = client.detached(&flags, "exec sleep 100");
    boxed.does(&["healthcheck", "run"]).fails(1);
    boxed.sh(&[], "touch /well").ok();
    boxed.does(&["healthcheck", "run"]).ok();
}

fn update(client: &Client) {
    let boxed = client.detached(&["--memory", "64m"], "exec sleep 100");
    boxed.does(&["update", "--memory", "96m", "--cpus", "0.5"]).ok();
    let process = Process::by_id(boxed.pid()).expect("the first process");
    let text = process.file("cgroup");
    let path = |name: &str| {
        let line = text.lines().find(|line| line.split(':').nth(1) == Some(name));
        line.and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or_default().to_owned()
    };
    let old = fs::read_to_string(format!("/sys/fs/cgroup/memory{}/memory.limit_in_bytes", path("memory")));
    let limit = old.or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup{}/memory.max", path(""))));
    assert_eq!(limit.expect("a limit").trim(), "100663296");
}

fn a_wrong_working_folder(client: &Client) {
    let out = client.sh(&["-w", "/etc/passwd"], "pwd");
    assert!([126, 127].contains(&out.code()), "{out:#?}");
    out.complains_of(&["/etc/passwd"]);
}

fn preserved_files(client: &Client) {
    let mut command = std::process::Command::new("sh");
    let inner = client.run(&["--preserve-fds", "1"], &["sh", "-c", "cat <&3"]).into_command();
    command
        .args(["-c", "exec 3</etc/os-release; exec \"$0\" \"$@\""])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = tare_tests::Tare::of(command).run();
    out.prints(fs::read_to_string("/etc/os-release").expect("a file").trim_end());
}

fn a_user_namespace(client: &Client) {
    let flags = ["--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"];
    let boxed = client.detached(&flags, "exec sleep 100");
    let status = Process::by_id(boxed.pid()).expect("the first process").file("status");
    let uid = status.lines().find(|line| line.starts_with("Uid:")).expect("a Uid line").to_owned();
    assert!(uid.contains("200000"), "{uid}");
    boxed.sh(&[], "id -u; stat -c %u /etc/passwd; touch /file && stat -c %u /file").prints("0\n0\n0");
}
