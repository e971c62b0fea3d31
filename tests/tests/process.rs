//! How the command is started: its environment, folder, user, capabilities, signals and init.
#![forbid(unsafe_code)]

use tare_tests::{Host, eventually};

/// Docker's default set, as bits.
const DOCKERS: u64 = 0xa804_25fb;
/// What images cannot do without: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
/// NET_BIND_SERVICE, SYS_CHROOT, SETFCAP.
const NEEDED: u64 = 0x8004_05fb;

fn status(host: &Host, flags: &[&str], field: &str) -> String {
    let out = host.sh(flags, &format!("grep ^{field}: /proc/self/status")).ok();
    out.split_whitespace().last().unwrap_or_default().to_owned()
}

#[test]
fn variables_are_set_and_dockers_defaults_are_there() {
    let host = Host::new();
    host.sh(&["-e", "A=1", "--env", "B=two words", "-e", "EMPTY="], "echo $A,$B,${EMPTY-unset}")
        .prints("1,two words,");
    host.sh(&[], "echo $PATH; echo $HOME")
        .prints("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/root");
    host.sh(&["--hostname", "box"], "echo $HOSTNAME").prints("box");
}

#[test]
fn a_variable_without_a_value_is_taken_from_the_caller() {
    let host = Host::new();
    host.busybox();
    let run = |value: Option<&str>| {
        let call = host.tare([
            "run",
            "--rm",
            "-e",
            "TEST_VARIABLE",
            "busybox",
            "sh",
            "-c",
            "echo ${TEST_VARIABLE-unset}",
        ]);
        match value {
            Some(value) => call.env("TEST_VARIABLE", value).run().ok(),
            None => call.run().ok(),
        }
    };
    assert_eq!(run(Some("passed on")), "passed on");
    assert_eq!(run(None), "unset");
}

#[test]
fn nothing_else_of_the_callers_environment_comes_in() {
    let host = Host::new();
    host.busybox();
    let out = host.tare(["run", "--rm", "--hostname", "x", "busybox", "env"]).env("SECRET", "x").run().ok();
    let mut names: Vec<&str> = out.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "HOSTNAME", "PATH"]);
}

#[test]
fn variables_can_come_from_a_file() {
    let host = Host::new();
    let file = host.file("env", "# a comment\n\nA=from file\nB='quoted'\nC=a=b\n");
    let file = file.to_str().unwrap();
    host.sh(&["--env-file", file], "echo \"$A|$B|$C\"").prints("from file|'quoted'|a=b");
    host.sh(&["--env-file", file, "-e", "A=from flag"], "echo $A").prints("from flag");
    host.sh(&["--env-file", "/nosuch/file"], "true").fails(125).complains_of(&["/nosuch/file"]);
    let wrong = host.file("wrong", "A B=c\n");
    host.sh(&["--env-file", wrong.to_str().unwrap()], "true").fails(125).complains_of(&["wrong"]);
}

#[test]
fn the_working_folder_is_as_asked_and_made_if_missing() {
    let host = Host::new();
    host.sh(&[], "pwd").prints("/");
    host.sh(&["-w", "/tmp"], "pwd").prints("/tmp");
    host.sh(&["--workdir", "/a/new/one"], "pwd").prints("/a/new/one");
    host.sh(&["-w", "relative"], "pwd").fails(125).complains_of(&["relative"]);
}

#[test]
fn users_are_looked_up_in_the_image() {
    let host = Host::new();
    host.sh(&["-u", "app"], "id -u; id -g; echo $HOME").prints("1000\n1000\n/home/app");
    host.sh(&["--user", "app:staff"], "id -u; id -g").prints("1000\n50");
    host.sh(&["-u", "1000"], "id -u; id -g").prints("1000\n1000");
    host.sh(&["-u", "4242"], "id -u; id -g; echo $HOME").prints("4242\n0\n/");
    host.sh(&["-u", "4242:4343"], "id -u; id -g").prints("4242\n4343");
    host.sh(&["-u", "nosuch"], "true").fails(125).complains_of(&["nosuch"]);
    host.sh(&["-u", "app:nosuch"], "true").fails(125).complains_of(&["nosuch"]);
}

#[test]
fn groups_of_the_image_and_of_the_flags_are_joined() {
    let host = Host::new();
    host.sh(&["-u", "app"], "id -G").prints("1000 50");
    let out = host.sh(&["-u", "app", "--group-add", "daemon", "--group-add", "777"], "id -G").ok();
    let mut groups: Vec<&str> = out.split(' ').collect();
    groups.sort_unstable();
    assert_eq!(groups, ["1", "1000", "50", "777"]);
    // Its own is one of them, as under Docker: a setgid program does not take it away (CVE-2022-36109).
    let groups = "grep Groups: /proc/self/status | tr -s '\\t ' ' '";
    host.sh(&["-u", "4242:4343"], groups).prints("Groups: 4343");
    host.sh(&[], groups).prints("Groups: 0");
    host.sh(&["--group-add", "nosuch"], "true").fails(125).complains_of(&["nosuch"]);
}

#[test]
fn the_entry_point_can_be_replaced() {
    let host = Host::new();
    host.busybox();
    host.tare(["run", "--rm", "--entrypoint", "echo", "busybox", "a", "b"]).run().prints("a b");
    host.tare(["run", "--rm", "--entrypoint", "/bin/echo", "busybox"]).run().prints("");
}

#[test]
fn the_command_is_found_in_the_containers_path() {
    let host = Host::new();
    let script = "mkdir /opt; printf '#!/bin/sh\\necho mine' > /opt/mine; chmod +x /opt/mine; mine";
    host.sh(&["-e", "PATH=/opt:/bin"], script).prints("mine");
}

fn capabilities(host: &Host, flags: &[&str], field: &str) -> u64 {
    u64::from_str_radix(&status(host, flags, field), 16).expect("hexadecimal digits")
}

#[test]
fn capabilities_are_no_more_than_dockers_and_enough_for_images() {
    let host = Host::new();
    for field in ["CapBnd", "CapEff", "CapPrm"] {
        let set = capabilities(&host, &[], field);
        assert_eq!(set & !DOCKERS, 0, "{field} {set:x} has more than Docker's {DOCKERS:x}");
        assert_eq!(NEEDED & !set, 0, "{field} {set:x} lacks some of {NEEDED:x}");
    }
    assert_eq!(capabilities(&host, &[], "CapAmb"), 0);
    assert_eq!(capabilities(&host, &[], "CapInh"), 0);
}

#[test]
fn a_user_who_is_not_root_has_none_in_effect() {
    let host = Host::new();
    assert_eq!(capabilities(&host, &["-u", "1000"], "CapEff"), 0);
    assert_eq!(capabilities(&host, &["-u", "1000"], "CapBnd") & NEEDED, NEEDED);
}

#[test]
fn capabilities_can_be_dropped_and_added() {
    let host = Host::new();
    let default = capabilities(&host, &[], "CapBnd");
    assert_eq!(capabilities(&host, &["--cap-drop", "ALL"], "CapBnd"), 0);
    assert_eq!(
        capabilities(&host, &["--cap-drop", "all", "--cap-add", "NET_BIND_SERVICE"], "CapEff"),
        1 << 10
    );
    assert_eq!(capabilities(&host, &["--cap-drop", "CAP_CHOWN"], "CapBnd"), default & !1);
    assert_eq!(capabilities(&host, &["--cap-add", "sys_ptrace"], "CapBnd"), default | 1 << 19);
    host.sh(&["--cap-add", "NO_SUCH"], "true").fails(125).complains_of(&["NO_SUCH"]);
}

#[test]
fn privileged_has_every_capability_that_the_machine_gives() {
    let host = Host::new();
    let ours = std::fs::read_to_string("/proc/self/status").unwrap();
    let bound =
        ours.lines().find(|line| line.starts_with("CapBnd:")).unwrap().split_whitespace().last().unwrap();
    assert_eq!(status(&host, &["--privileged"], "CapBnd"), bound);
}

#[test]
fn new_privileges_can_be_forbidden() {
    let host = Host::new();
    assert_eq!(status(&host, &[], "NoNewPrivs"), "0");
    assert_eq!(status(&host, &["--security-opt", "no-new-privileges"], "NoNewPrivs"), "1");
    assert_eq!(status(&host, &["--security-opt", "no-new-privileges:true"], "NoNewPrivs"), "1");
    host.sh(&["--security-opt", "nosuch=1"], "true").fails(125).complains_of(&["nosuch"]);
}

#[test]
fn sysctls_of_the_containers_own_namespaces_can_be_set() {
    let host = Host::new();
    host.sh(
        &["--sysctl", "net.ipv4.ip_unprivileged_port_start=80"],
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    )
    .prints("80");
    host.sh(&["--sysctl", "kernel.msgmax=4096"], "cat /proc/sys/kernel/msgmax").prints("4096");
    let out = host.sh(&["--sysctl", "vm.overcommit_memory=1"], "true");
    out.fails(125).complains_of(&["vm.overcommit_memory"]);
    let out = host.sh(&["--network", "host", "--sysctl", "net.ipv4.ip_forward=1"], "true");
    out.fails(125).complains_of(&["net.ipv4.ip_forward"]);
}

#[test]
fn a_device_can_be_given() {
    let host = Host::new();
    host.sh(&["--device", "/dev/zero:/dev/nil"], "head -c 3 /dev/nil | wc -c").prints("3");
    host.sh(&["--device", "/dev/zero:/dev/nil:r"], "head -c 3 /dev/nil | wc -c").prints("3");
    host.sh(&["--device", "/dev/nosuch"], "true").fails(125).complains_of(&["/dev/nosuch"]);
}

#[test]
fn the_mask_for_new_files_is_the_usual_one() {
    let host = Host::new();
    host.sh(&[], "umask").prints("0022");
}

#[test]
fn init_is_pid_1_and_reaps_what_others_leave() {
    let host = Host::new();
    let orphans = "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; sleep 1; \
        cat /proc/[0-9]*/stat | grep -c ' Z '; true";
    host.sh(&["--init"], orphans).prints("0");
    let pid: u32 = host.sh(&["--init"], "echo $$").ok().parse().unwrap();
    assert!(pid > 1, "the command is PID {pid}");
    host.sh(&["--init"], "exit 42").fails(42);
}

#[test]
fn init_passes_signals_on() {
    let host = Host::new();
    let id = host.detached(
        &["--init", "--name", "stopped"],
        "trap 'exit 9' TERM; echo on; while :; do sleep 0.1; done",
    );
    eventually("it runs", || host.tare(["logs", &id]).run().stdout() == "on");
    host.tare(["stop", &id]).run().ok();
    assert_eq!(host.inspect(&id)["State"]["ExitCode"], 9);
}

#[test]
fn labels_are_kept() {
    let host = Host::new();
    let file = host.file("labels", "from.file=yes\n");
    let flags = ["--name", "labelled", "-l", "a=1", "--label", "b", "--label-file", file.to_str().unwrap()];
    host.detached(&flags, "sleep 60");
    let labels = host.inspect("labelled")["Config"]["Labels"].clone();
    assert_eq!(labels["a"], "1");
    assert_eq!(labels["b"], "");
    assert_eq!(labels["from.file"], "yes");
}

#[test]
fn standard_signals_have_their_default_actions_in_the_command() {
    // What the engine ignores for itself must not be ignored by the command: `yes | head` would not end.
    // Not by way of a shell, which has ideas of its own.
    let host = Host::new();
    host.busybox();
    let out = host.tare(["run", "--rm", "busybox", "grep", "Sig", "/proc/self/status"]).run().ok();
    assert!(out.contains("SigIgn:\t0000000000000000"), "{out}");
    assert!(out.contains("SigBlk:\t0000000000000000"), "{out}");
    host.sh(&[], "yes | head -1").prints("y");
}

#[test]
fn cve_2019_5736_the_engine_itself_cannot_be_run_inside() {
    let host = Host::new();
    host.busybox();
    for flags in [&[][..], &["--userns", "host"]] {
        let out = host.tare(["run", "--rm"]).args(flags).args(["busybox", "/proc/self/exe", "version"]).run();
        out.fails(126).complains_of(&["engine itself"]);
    }
}
