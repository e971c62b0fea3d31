//! One more process in a container that runs.
#![forbid(unsafe_code)]

use std::io::Read;
use std::time::Duration;

use rustix::process::Signal;
use tare_tests::{Host, Terminal, eventually};

#[test]
fn it_is_in_the_container_with_its_environment_user_and_folder() {
    let host = Host::new();
    host.detached(&["--name", "box", "-e", "A=own", "--hostname", "inside"], "sleep 60");
    let out =
        host.tare(["exec", "box", "sh", "-c", "hostname; echo $A; id -u; pwd; echo err >&2; exit 7"]).run();
    out.fails(7);
    assert_eq!((out.stdout().as_str(), out.stderr()), ("inside\nown\n0\n/", "err\n"));
    let flags = ["exec", "-e", "A=other", "-u", "1000", "-w", "/tmp", "box"];
    let out = host.tare(flags).args(["sh", "-c", "echo $A; id -u; pwd"]).run();
    assert_eq!(out.ok(), "other\n1000\n/tmp");
    let capabilities = "grep CapEff /proc/self/status | cut -f2";
    let plain = host.tare(["exec", "box", "sh", "-c", capabilities]).run().ok();
    let all = host.tare(["exec", "--privileged", "box", "sh", "-c", capabilities]).run().ok();
    assert_ne!(plain, all);
}

#[test]
fn the_filter_is_the_containers_whatever_became_of_the_one_that_was_kept() {
    let host = Host::new();
    let id = host.detached(&["--name", "box"], "sleep 60");
    let kept = host.run_root().join("containers").join(&id).join("filter");
    let filtered = || {
        let status = ["exec", "box", "grep", "^Seccomp", "/proc/self/status"];
        host.tare(status).run().prints("Seccomp:\t2\nSeccomp_filters:\t1");
        host.tare(["exec", "box", "unshare", "-U", "true"]).run().fails(1);
    };
    filtered();
    let compiled = std::fs::read(&kept).expect("it is kept");
    filtered();
    for damaged in [&compiled[..compiled.len() / 2], b"", b"not a filter"] {
        std::fs::write(&kept, damaged).expect("writing it");
        filtered();
        assert!(std::fs::read(&kept).expect("it is kept") == compiled);
    }
}

#[test]
fn input_is_passed_to_its_end_and_only_with_i() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = host.tare(["exec", "-i", "box", "cat"]).stdin(&bytes).run();
    out.fails(0);
    assert!(out.bytes() == bytes);
    host.tare(["exec", "box", "cat"]).stdin("not for you").run().prints("");
}

#[test]
fn failures_have_dockers_codes() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    host.tare(["exec", "box", "nosuch"])
        .run()
        .fails(127)
        .complains_of(&["executable file not found in $PATH"]);
    host.tare(["exec", "box", "/tmp"]).run().fails(126).complains_of(&["permission denied"]);
    host.tare(["exec", "nosuch", "true"]).run().fails(1).complains_of(&["no such container"]);
    host.tare(["exec", "box", "sh", "-c", "kill -9 $$"]).run().fails(137);
    host.tare(["pause", "box"]).run().ok();
    host.tare(["exec", "box", "true"]).run().fails(1).complains_of(&["paused"]);
    host.tare(["unpause", "box"]).run().ok();
    host.tare(["stop", "-t", "0", "box"]).run().ok();
    host.tare(["exec", "box", "true"]).run().fails(1).complains_of(&["not running"]);
}

#[test]
fn what_it_leaves_behind_is_reaped_though_pid_1_does_not_reap() {
    let host = Host::new();
    // PID 1 is a program that has no children and waits for none.
    host.busybox();
    let id = host.tare(["run", "-d", "busybox", "sleep", "60"]).run().ok();
    for _ in 0..5 {
        host.tare(["exec", &id, "sh", "-c", "sleep 0.2 & sleep 0.1 & exit 0"]).run().ok();
    }
    std::thread::sleep(Duration::from_millis(700));
    eventually("nothing is left", || {
        let out =
            host.tare(["exec", &id, "sh", "-c", "cat /proc/[0-9]*/stat | grep -c '(sleep) Z'; true"]).run();
        out.stdout() == "0"
    });
}

#[test]
fn inspect_lists_what_runs_and_nothing_else() {
    let host = Host::new();
    // A process of the container's own that only calls itself so.
    host.detached(
        &["--name", "box"],
        "cp /bin/busybox /tare-reaper; ln -s tare-reaper /sleep; exec /sleep 60",
    );
    let ids = || host.inspect("box")["ExecIDs"].clone();
    assert!(ids().is_null());
    let running = host.tare(["exec", "box", "sleep", "60"]).start();
    let detached = "sleep 30 & while [ ! -e /go ]; do sleep 0.1; done";
    host.tare(["exec", "-d", "box", "sh", "-c", detached]).run().ok();
    eventually("both are there", || ids().as_array().is_some_and(|ids| ids.len() == 2));
    let before = ids();
    assert!(
        before
            .as_array()
            .expect("a list")
            .iter()
            .all(|id| tare_tests::host::is_id(id.as_str().expect("text")))
    );
    assert_eq!(ids(), before);
    // What a program leaves behind is no exec.
    host.tare(["exec", "box", "touch", "/go"]).run().ok();
    eventually("one is over", || ids().as_array().is_some_and(|ids| ids.len() == 1));
    running.signal(rustix::process::Signal::KILL);
    running.wait().fails(137);
    host.tare(["rm", "-f", "box"]).run().ok();
}

#[test]
fn a_terminal_is_one_and_can_be_left() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    let mut terminal = Terminal::start(host.tare(["exec", "-it", "box", "sh"]), 24, 80);
    terminal.types("stty size; echo di''d\n");
    terminal.expect("24 80");
    terminal.expect("did");
    terminal.types("sleep 33 &\nexit 5\n");
    assert_eq!(terminal.wait(), 5);
    terminal.is_restored();
    let mut terminal =
        Terminal::start(host.tare(["exec", "-it", "box", "sh", "-c", "echo on; sleep 44"]), 24, 80);
    terminal.expect("on");
    terminal.types("\x10\x11");
    assert_eq!(terminal.wait(), 0);
    terminal.is_restored();
    let list = host.tare(["exec", "box", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).run().ok();
    assert!(list.contains("sleep 44"), "{list}");
}

/// A call whose output nobody takes out of the pipe, once that is full.
fn unread(host: &Host, script: &str) -> (std::process::Child, std::process::ChildStdout) {
    let mut command = host.tare(["exec", "box", "sh", "-c", script]).into_command();
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("the command starts");
    let output = child.stdout.take().expect("a pipe");
    let mut before = 0;
    eventually("the pipe is full", || {
        let now = rustix::io::ioctl_fionread(&output).expect("the pipe can be asked");
        std::mem::replace(&mut before, now) == now && now > 60_000
    });
    (child, output)
}

#[test]
fn a_reader_who_does_not_read_holds_up_no_signal() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    let (mut child, _output) = unread(&host, "exec yes");
    tare_tests::process::signal(child.id() as i32, Signal::TERM);
    let mut ended = None;
    eventually("it has ended", || {
        ended = child.try_wait().expect("it can be waited for");
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(143));
}

#[test]
fn what_it_leaves_behind_may_write_without_end() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    let many =
        "for i in 1 2 3 4 5 6 7 8; do cat /dev/zero & done; while [ ! -e /go ]; do sleep 0.1; done; exit 3";
    let (mut child, mut output) = unread(&host, many);
    host.tare(["exec", "box", "touch", "/go"]).run().ok();
    eventually("its reaper knows that it has ended", || host.inspect("box")["ExecIDs"].is_null());
    // Slowly: whoever would take what comes meanwhile never sees an end of it.
    let (mut buffer, mut length) = ([0; 4096], 0);
    loop {
        match output.read(&mut buffer).expect("the pipe can be read") {
            0 => break,
            more => length += more,
        }
        assert!(length < 1 << 20, "it takes more and more");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(child.wait().expect("it can be waited for").code(), Some(3));
}

#[test]
fn in_the_background_it_keeps_its_terminal() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    host.tare(["exec", "-d", "-t", "box", "sh", "-c", "sleep 0.5; test -t 1 && echo on && touch /done"])
        .run()
        .prints("");
    eventually("it was done", || host.tare(["exec", "box", "test", "-e", "/done"]).run().code() == 0);
}

#[test]
fn in_the_background_it_outlives_the_command() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 60");
    host.tare(["exec", "-d", "box", "sh", "-c", "sleep 0.5; touch /done"]).run().prints("");
    eventually("it was done", || host.tare(["exec", "box", "test", "-e", "/done"]).run().code() == 0);
}

/// A machine whose process 1 reaps nothing, like a development container with `sleep infinity` as its command.
struct Careless(std::process::Child);

impl Careless {
    fn new() -> Careless {
        let words = ["--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "600"];
        Careless(std::process::Command::new("unshare").args(words).spawn().expect("unshare(1) starts"))
    }

    fn first(&self) -> String {
        let path = format!("/proc/{0}/task/{0}/children", self.0.id());
        let mut first = String::new();
        eventually("it has a process 1", || {
            first = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            !first.is_empty()
                && std::fs::read_to_string(format!("/proc/{first}/comm")).is_ok_and(|name| name == "sleep\n")
        });
        first
    }

    fn tare(&self, host: &Host, words: &[&str]) -> tare_tests::Tare {
        host.wrapped(&["nsenter", "--target", &self.first(), "--pid", "--mount"], words)
    }
}

impl Drop for Careless {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_container_ends_after_it_where_the_hosts_process_1_reaps_nothing() {
    let (host, careless) = (Host::new(), Careless::new());
    let tare = |words: &[&str]| careless.tare(&host, words);
    host.busybox();
    let within = tare_tests::stretched(Duration::from_secs(8));
    for end in [&["stop", "-t", "0", "box"][..], &["kill", "box"], &["rm", "-f", "box"]] {
        tare(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).run().ok();
        tare(&["exec", "-d", "box", "true"]).run().ok();
        tare(&["exec", "-d", "box", "sleep", "600"]).run().ok();
        tare(&["exec", "-d", "-t", "box", "sleep", "600"]).run().ok();
        tare(end).within(within).run().ok();
        if end[0] != "rm" {
            tare(&["rm", "box"]).run().ok();
        }
    }
}

#[test]
fn who_waits_for_a_container_is_told_what_keeps_it_from_ending() {
    let (host, careless) = (Host::new(), Careless::new());
    let tare = |words: &[&str]| careless.tare(&host, words);
    host.busybox();
    tare(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).run().ok();
    // Its reaper stays for what it leaves behind.
    tare(&["exec", "box", "sh", "-c", "sleep 600 & exit 0"]).run().ok();
    for end in [&["stop", "-t", "0", "box"][..], &["kill", "box"], &["rm", "-f", "box"]] {
        let out = tare(end).within(tare_tests::stretched(Duration::from_secs(25))).run();
        out.fails(1);
        out.complains_of(&[
            "the container box was killed and has not ended",
            "(tare-reaper) has ended, but the parent of that does not wait for it: process 1 (sleep)",
            "process 1 of this machine has to reap orphans",
        ]);
    }
    // Nor can anybody get in.
    for flags in [&["exec", "box", "true"][..], &["exec", "-d", "box", "true"]] {
        tare(flags).run().fails(1).complains_of(&["container box is not running"]);
    }
    drop(careless);
    host.tare(["rm", "-f", "box"]).run().ok();
}
