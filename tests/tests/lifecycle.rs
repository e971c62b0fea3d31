//! What can be done with a container beside running it.
#![forbid(unsafe_code)]

use std::fs;

use tare_tests::host::is_id;
use tare_tests::{Host, eventually};

#[test]
fn a_paused_container_can_be_stopped_killed_and_removed() {
    let host = Host::new();
    let script = "trap 'exit 7' TERM; echo on; sleep 60 & wait";
    for (words, code) in [(&["stop"][..], 7), (&["kill", "-s", "TERM"], 7), (&["kill"], 137)] {
        host.detached(&["--name", "box"], script);
        eventually("it is on", || host.tare(["logs", "box"]).run().stdout() == "on");
        host.tare(["pause", "box"]).run().ok();
        host.tare(words.iter().copied()).arg("box").run().ok();
        eventually("it has ended", || host.status("box") == "exited");
        assert_eq!(host.inspect("box")["State"]["ExitCode"], code, "{words:?}");
        host.tare(["rm", "box"]).run().ok();
    }
    host.detached(&["--name", "box"], script);
    host.tare(["pause", "box"]).run().ok();
    host.tare(["rm", "-f", "box"]).run().ok();
}

/// Freezes the container behind the engine's back, as another tool may, or as `pause` does before it is written down.
fn freeze(host: &Host, name: &str, frozen: bool) {
    let cgroups =
        std::fs::read_to_string(format!("/proc/{}/cgroup", host.pid(name))).expect("cgroups of a process");
    let path = |line: &str| line.rsplit_once(':').map_or(String::new(), |(_, path)| path.to_owned());
    let (file, words) = match cgroups.lines().find(|line| line.contains(":freezer:")) {
        Some(line) => (format!("/sys/fs/cgroup/freezer{}/freezer.state", path(line)), ["THAWED", "FROZEN"]),
        None => {
            let line = cgroups.lines().find(|line| line.starts_with("0::")).expect("a cgroup of v2");
            (format!("/sys/fs/cgroup{}/cgroup.freeze", path(line)), ["0", "1"])
        }
    };
    std::fs::write(&file, words[usize::from(frozen)]).unwrap_or_else(|err| panic!("writing {file}: {err}"));
}

#[test]
fn one_that_is_paused_is_not_started_but_let_go_on() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    host.tare(["start", "box"]).run().prints("box");
    host.tare(["pause", "box"]).run().ok();
    host.tare(["start", "box"]).run().fails(1).complains_of(&["it is paused", "tare unpause box"]);
    assert_eq!(host.status("box"), "paused");
    host.tare(["unpause", "box"]).run().ok();
    host.tare(["start", "box"]).run().prints("box");
}

#[test]
fn forced_removal_names_only_what_it_removed() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    let out = host.tare(["rm", "-f", "nobody", "box"]).run();
    assert!(out.stderr().contains("no such container: nobody"), "{}", out.stderr());
    out.prints("box");
}

#[test]
fn exec_in_one_that_is_just_being_paused_is_refused_and_leaves_nothing() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    // On cgroup v1 it gets a freezer by the first pause.
    host.tare(["pause", "box"]).run().ok();
    host.tare(["unpause", "box"]).run().ok();
    freeze(&host, "box", true);
    for flags in [&["-t"][..], &["-d"], &[]] {
        let call = host.tare(["exec"]).args(flags).args(["box", "touch", "/done"]).run();
        call.fails(1).complains_of(&["container box is paused, unpause the container before exec"]);
    }
    freeze(&host, "box", false);
    let seen = host.tare(["exec", "box", "sh", "-c", "ls /done; echo /proc/[0-9]*"]).run().ok();
    assert_eq!(seen.split_whitespace().count(), 3, "init, the reaper, the shell and nothing else: {seen}");
}

#[test]
fn ps_has_dockers_columns() {
    let host = Host::new();
    let id = host.detached(&["--name", "web"], "sleep 60");
    let table = host.tare(["ps"]).run().ok();
    let mut lines = table.lines();
    let head: Vec<&str> =
        lines.next().unwrap().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(head, ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    let row = lines.next().unwrap();
    for part in [&id[..12], "busybox", "\"sh -c 'sleep 60'\"", "ago", "Up ", "web"] {
        assert!(row.contains(part), "`{part}` in {table}");
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn ps_shows_what_runs_and_with_a_everything() {
    let host = Host::new();
    let up = host.detached(&[], "sleep 60");
    host.tare(["run", "--name", "over", "busybox", "sh", "-c", "exit 3"]).run().fails(3);
    host.tare(["ps", "-q"]).run().prints(&up[..12]);
    host.tare(["ps", "-q", "--no-trunc"]).run().prints(&up);
    assert_eq!(host.tare(["ps", "-aq"]).run().ok().lines().count(), 2);
    assert!(host.tare(["ps", "-a"]).run().ok().contains("Exited (3)"));
}

#[test]
fn ps_of_nothing_is_the_head_alone() {
    let host = Host::new();
    assert_eq!(host.tare(["ps"]).run().ok().lines().count(), 1);
    host.tare(["ps", "-q"]).run().prints("");
}

#[test]
fn a_container_that_ended_knows_how() {
    let host = Host::new();
    let id = host.detached(&[], "exit 4");
    eventually("it ends", || host.status(&id) == "exited");
    let state = host.inspect(&id)["State"].clone();
    assert_eq!(state["ExitCode"], 4);
    assert_eq!(state["Running"], false);
    assert_eq!(state["Pid"], 0);
    for field in ["StartedAt", "FinishedAt"] {
        let time = state[field].as_str().unwrap_or_default();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{field}: {state}");
    }
}

#[test]
fn inspect_prints_dockers_fields() {
    let host = Host::new();
    let id = host.detached(&["--name", "web", "--hostname", "box", "-e", "A=1", "-w", "/tmp"], "sleep 60");
    let object = host.inspect("web");
    assert_eq!(object["Id"], id);
    assert_eq!(object["Name"], "/web");
    assert_eq!(object["Config"]["Hostname"], "box");
    assert_eq!(object["Config"]["Image"], "busybox");
    assert_eq!(object["Config"]["WorkingDir"], "/tmp");
    assert_eq!(object["Config"]["Cmd"], serde_json::json!(["sh", "-c", "sleep 60"]));
    assert!(object["Config"]["Env"].as_array().unwrap().contains(&"A=1".into()), "{object}");
    assert_eq!(object["State"]["Status"], "running");
    assert_eq!(object["State"]["Running"], true);
    assert!(object["HostConfig"].is_object());
}

#[test]
fn a_container_answers_to_its_name_its_id_and_the_start_of_it() {
    let host = Host::new();
    let id = host.detached(&["--name", "web"], "sleep 60");
    for name in ["web", &id, &id[..12], &id[..5]] {
        assert_eq!(host.inspect(name)["Id"], id, "{name}");
    }
}

#[test]
fn a_container_without_a_name_gets_one() {
    let host = Host::new();
    let one = host.detached(&[], "sleep 60");
    let two = host.detached(&[], "sleep 60");
    let name = |id: &str| host.inspect(id)["Name"].as_str().unwrap().trim_start_matches('/').to_owned();
    assert_ne!(name(&one), name(&two));
    assert!(name(&one).contains('_'), "{}", name(&one));
    assert_eq!(host.inspect(&name(&one))["Id"], one);
}

#[test]
fn a_name_in_use_is_an_error_and_a_freed_one_is_not() {
    let host = Host::new();
    let id = host.detached(&["--name", "web"], "sleep 60");
    host.leaves_no_trace(|| {
        let out = host.tare(["run", "--name", "web", "busybox", "true"]).run();
        out.fails(125).complains_of(&["web", "in use"]);
        assert!(out.stderr().contains(&id[..12]), "who has it? {out:#?}");
    });
    host.tare(["rm", "-f", "web"]).run().prints("web");
    host.tare(["run", "--rm", "--name", "web", "busybox", "true"]).run().ok();
}

#[test]
fn names_that_make_no_sense_are_refused() {
    let host = Host::new();
    host.busybox();
    for name in ["a b", "../x", "-x", "a/b", "x"] {
        let out = host.tare(["run", "--rm", "--name", name, "busybox", "true"]).run();
        assert_eq!(out.code(), 125, "{name:?}: {out:#?}");
    }
}

#[test]
fn rm_refuses_what_runs_and_f_insists() {
    let host = Host::new();
    let id = host.detached(&["--name", "web"], "sleep 60");
    host.tare(["rm", "web"]).run().fails(1).complains_of(&["web", "running"]);
    host.tare(["rm", "-f", "web"]).run().prints("web");
    assert!(host.containers().is_empty());
    host.tare(["rm", &id]).run().fails(1).complains_of(&["no such container"]);
}

#[test]
fn rm_takes_several_and_goes_on_after_a_wrong_one() {
    let host = Host::new();
    host.busybox();
    for name in ["one", "two"] {
        host.tare(["run", "--name", name, "busybox", "true"]).run().ok();
    }
    let out = host.tare(["rm", "one", "nosuch", "two"]).run();
    out.fails(1).complains_of(&["nosuch"]);
    assert_eq!(out.stdout(), "one\ntwo");
    assert!(host.containers().is_empty());
}

#[test]
fn stop_asks_first_and_kills_after_the_time() {
    let host = Host::new();
    let traps = "trap 'exit 5' TERM; echo on; while :; do sleep 0.1; done";
    let polite = host.detached(&["--name", "polite"], traps);
    eventually("it is on", || host.tare(["logs", &polite]).run().stdout() == "on");
    host.tare(["stop", "polite"]).run().prints("polite");
    assert_eq!(host.inspect("polite")["State"]["ExitCode"], 5);

    host.detached(&["--name", "deaf"], "trap '' TERM; echo on; while :; do sleep 0.1; done");
    eventually("it is on", || host.tare(["logs", "deaf"]).run().stdout() == "on");
    host.tare(["stop", "-t", "1", "deaf"]).run().ok();
    assert_eq!(host.inspect("deaf")["State"]["ExitCode"], 137);
    host.tare(["stop", "deaf"]).run().prints("deaf");
}

#[test]
fn a_stop_that_comes_before_the_program_listens_is_not_lost() {
    let host = Host::new();
    // As PID 1 without a handler it is spared the signal by the kernel, pid_namespaces(7).
    let script = "until [ -e /go ]; do sleep 0.05; done; trap 'exit 5' TERM; while :; do sleep 0.05; done";
    host.detached(&["--name", "young"], script);
    let stop = host.tare(["stop", "-t", "60", "young"]).start();
    let killed = ["events", "--since", "0", "--until", "0s", "--filter", "event=kill"];
    eventually("the signal is sent", || !host.tare(killed).run().stdout().is_empty());
    host.tare(["exec", "young", "touch", "/go"]).run().ok();
    stop.wait().ok();
    assert_eq!(host.inspect("young")["State"]["ExitCode"], 5);
}

/// Blocks SIGTERM, unblocks it, has a handler for it: each when it is told to.
const SLOW_TO_LISTEN: &str = r#"
import os, signal, time
def when(name):
    while not os.path.exists(name):
        time.sleep(0.01)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print('blocked', flush=True)
when('/unblock')
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
print('open', flush=True)
when('/listen')
signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
while True:
    time.sleep(1)
"#;

#[test]
fn a_stop_that_comes_while_its_signal_is_blocked_is_not_lost_either() {
    let host = Host::new();
    host.tare(["run", "-d", "--name", "young", "--userns=host", "host", "python3", "-c", SLOW_TO_LISTEN])
        .run()
        .ok();
    let says = |word: &str| host.tare(["logs", "young"]).run().stdout().ends_with(word);
    eventually("it has blocked the signal", || says("blocked"));
    let stop = host.tare(["stop", "-t", "60", "young"]).start();
    let killed = ["events", "--since", "0", "--until", "0s", "--filter", "event=kill"];
    eventually("the signal is sent", || !host.tare(killed).run().stdout().is_empty());
    // What was pending is dropped here.
    host.tare(["exec", "young", "touch", "/unblock"]).run().ok();
    eventually("it has unblocked the signal", || says("open"));
    host.tare(["exec", "young", "touch", "/listen"]).run().ok();
    stop.wait().ok();
    assert_eq!(host.inspect("young")["State"]["ExitCode"], 5);
}

/// Waits for SIGTERM without a handler, as systemd does; its exit code is how often it comes in a second.
const ASKS_FOR_IT: &str = r#"
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print('on', flush=True)
signal.sigwait([signal.SIGTERM])
times = 1
until = time.monotonic() + 1
while time.monotonic() < until:
    # Most of the time it is not in there, and the signal is shown as blocked.
    time.sleep(0.005)
    times += signal.sigtimedwait([signal.SIGTERM], 0) is not None
raise SystemExit(times)
"#;

#[test]
fn who_waits_for_the_stop_signal_gets_it_once() {
    let host = Host::new();
    host.tare(["run", "-d", "--name", "box", "--userns=host", "host", "python3", "-c", ASKS_FOR_IT])
        .run()
        .ok();
    eventually("it is on", || host.tare(["logs", "box"]).run().stdout() == "on");
    host.tare(["stop", "-t", "60", "box"]).run().ok();
    assert_eq!(host.inspect("box")["State"]["ExitCode"], 1);
}

#[test]
fn a_container_whose_run_folder_was_removed_can_still_be_stopped() {
    let host = Host::new();
    let id = host.detached(&[], "exec sleep 300");
    std::fs::remove_dir_all(host.run_root().join("containers").join(&id)).expect("its run folder is there");
    host.tare(["ps", "-q", "--no-trunc"]).run().prints(&id);
    host.tare(["stop", "-t", "0", &id]).run().ok();
    eventually("it has ended", || host.status(&id) == "exited");
    host.tare(["rm", &id]).run().ok();
}

#[test]
fn stop_sends_the_containers_own_signal() {
    let host = Host::new();
    let traps = "trap 'exit 8' USR1; echo on; while :; do sleep 0.1; done";
    let id = host.detached(&["--stop-signal", "SIGUSR1"], traps);
    eventually("it is on", || host.tare(["logs", &id]).run().stdout() == "on");
    host.tare(["stop", &id]).run().ok();
    assert_eq!(host.inspect(&id)["State"]["ExitCode"], 8);
}

#[test]
fn kill_sends_any_signal_by_name_or_number() {
    let host = Host::new();
    let traps = "trap 'echo hup' HUP; trap 'exit 2' USR2; echo on; while :; do sleep 0.1; done";
    let id = host.detached(&[], traps);
    eventually("it is on", || host.tare(["logs", &id]).run().stdout() == "on");
    for signal in ["HUP", "SIGHUP", "1"] {
        host.tare(["kill", "-s", signal, &id]).run().prints(&id);
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    eventually("three hangups", || host.tare(["logs", &id]).run().stdout().matches("hup").count() == 3);
    host.tare(["kill", "--signal", "USR2", &id]).run().ok();
    eventually("it ends", || host.status(&id) == "exited");
    assert_eq!(host.inspect(&id)["State"]["ExitCode"], 2);
    host.tare(["kill", &id]).run().fails(1).complains_of(&["not running"]);
    host.tare(["kill", "-s", "NOSUCH", &id]).run().fails(1).complains_of(&["NOSUCH"]);
}

#[test]
fn logs_give_back_both_streams_apart() {
    let host = Host::new();
    let id = host.detached(&[], "echo out; echo err >&2; printf 'no end'");
    eventually("it ends", || host.status(&id) == "exited");
    let out = host.tare(["logs", &id]).run();
    assert_eq!(out.bytes(), b"out\nno end");
    assert_eq!(out.stderr(), "err\n");
    host.tare(["logs", "nosuch"]).run().fails(1).complains_of(&["no such container", "nosuch"]);
}

#[test]
fn a_detached_container_with_rm_goes_by_itself() {
    let host = Host::new();
    let id = host.detached(&["--rm"], "sleep 1");
    assert_eq!(host.status(&id), "running");
    eventually("it is removed", || host.containers().is_empty());
}

#[test]
fn the_id_can_be_written_to_a_file() {
    let host = Host::new();
    let file = host.work().join("cid");
    let id = host.detached(&["--cidfile", file.to_str().unwrap()], "sleep 60");
    assert_eq!(fs::read_to_string(&file).unwrap(), id);
    host.leaves_no_trace(|| {
        let out = host.sh(&["--cidfile", file.to_str().unwrap()], "true");
        out.fails(125).complains_of(&["cid"]);
    });
    assert_eq!(fs::read_to_string(&file).unwrap(), id, "the file that was there was overwritten");
}

#[test]
fn what_is_not_there_cannot_be_inspected() {
    let host = Host::new();
    let out = host.tare(["inspect", "nosuch"]).run();
    out.fails(1).complains_of(&["no such", "nosuch"]);
    assert_eq!(out.stdout(), "[]");
}

#[test]
fn version_and_info_say_where_one_is() {
    let host = Host::new();
    let version = host.tare(["version"]).run().ok();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let short = host.tare(["--version"]).run().ok();
    assert!(short.contains(env!("CARGO_PKG_VERSION")) && short.lines().count() == 1, "{short}");
    let info = host.tare(["info"]).run().ok();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(info.contains(kernel.trim()), "{info}");
    assert!(info.contains("Cgroup Version:"), "{info}");
    assert!(info.contains(&*host.root().to_string_lossy()), "{info}");
}

#[test]
fn every_command_has_help_that_names_its_flags() {
    let host = Host::new();
    let help = host.tare(["--help"]).run().ok();
    for word in ["run", "ps", "rm", "inspect", "kill", "stop", "logs", "info", "version", "image"] {
        assert!(help.contains(word), "{word} in {help}");
    }
    let help = host.tare(["run", "--help"]).run().ok();
    assert!(help.contains("Usage:  tare run [OPTIONS] IMAGE [COMMAND] [ARG...]"), "{help}");
    for flag in "--add-host --blkio-weight --cap-add --cap-drop --cgroupns --cidfile --cpu-shares --cpus --cpuset-cpus \
        --detach --device --device-read-bps --device-read-iops --device-write-bps --device-write-iops --entrypoint --env \
        --env-file --group-add --hostname --init --interactive --ipc --label --memory --memory-reservation \
        --memory-swap --mount --name --network --oom-score-adj --pid --pids-limit --privileged --read-only --rm \
        --rootfs --security-opt --sig-proxy --stop-signal --sysctl --time-offset --tmpfs --tty --ulimit --user \
        --userns --uts --volume --workdir"
        .split_whitespace()
    {
        assert!(help.contains(flag), "{flag} in {help}");
    }
    for command in ["ps", "rm", "inspect", "kill", "stop", "logs", "info", "version", "image"] {
        let help = host.tare([command, "--help"]).run().ok();
        assert!(help.contains(&format!("tare {command}")), "{help}");
    }
}

#[test]
fn ids_have_64_digits() {
    let host = Host::new();
    assert!(is_id(&host.detached(&[], "true")));
}

#[test]
fn a_created_container_stays_until_it_is_started_and_starts_again_as_the_same() {
    let host = Host::new();
    host.busybox();
    let script = "echo run >> /runs; wc -l < /runs; exit 3";
    let id = host.tare(["create", "--name", "box", "busybox", "sh", "-c", script]).run().ok();
    assert!(is_id(&id), "{id}");
    assert_eq!(host.status("box"), "created");
    assert_eq!(host.tare(["ps", "-q"]).run().ok(), "");
    for run in ["1", "2", "3"] {
        let out = host.tare(["start", "-a", "box"]).run();
        out.fails(3);
        assert_eq!(out.stdout(), run, "its writable layer stays");
    }
    assert_eq!(host.inspect("box")["Id"], id);
    assert_eq!(host.tare(["logs", "box"]).run().ok(), "1\n2\n3", "its log goes on");
    host.tare(["rm", "box"]).run().ok();
}

#[test]
fn a_start_that_fails_leaves_the_container_and_says_why() {
    let host = Host::new();
    host.busybox();
    host.tare(["create", "--name", "box", "busybox", "nosuch"]).run().ok();
    host.tare(["start", "box"]).run().fails(1).complains_of(&["nosuch", "not found"]);
    assert!(!host.run_root().join("containers").read_dir().unwrap().any(|entry| entry.is_ok()));
    let state = host.inspect("box")["State"].clone();
    assert_eq!((&state["Status"], &state["ExitCode"]), (&"created".into(), &127.into()), "{state}");
    assert!(state["Error"].as_str().unwrap().contains("not found"), "{state}");
}
