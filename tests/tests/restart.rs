//! What is started again, by whom, and when not.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tare_tests::{Host, Tare, eventually, stretched};

#[test]
fn always_starts_it_again_until_somebody_stops_it() {
    let host = Host::new();
    host.detached(&["--name", "box", "--restart", "always"], "echo life; sleep 0.1; exit 2");
    eventually("it lives three times", || {
        host.tare(["logs", "box"]).run().stdout().matches("life").count() >= 3
    });
    assert!(host.inspect("box")["RestartCount"].as_u64().unwrap() >= 2);
    assert_eq!(host.inspect("box")["HostConfig"]["RestartPolicy"]["Name"], "always");
    host.tare(["stop", "-t", "1", "box"]).run().ok();
    assert_eq!(host.status("box"), "exited");
    let lives = host.tare(["logs", "box"]).run().ok();
    std::thread::sleep(Duration::from_millis(1000));
    assert_eq!(host.tare(["logs", "box"]).run().ok(), lives, "it stays stopped");
}

#[test]
fn on_failure_counts_and_a_good_end_is_one() {
    let host = Host::new();
    host.detached(&["--name", "bad", "--restart", "on-failure:2"], "echo life; exit 7");
    eventually("it gives up", || host.status("bad") == "exited");
    assert_eq!(host.tare(["logs", "bad"]).run().ok(), "life\nlife\nlife");
    let object = host.inspect("bad");
    assert_eq!((&object["RestartCount"], &object["State"]["ExitCode"]), (&2.into(), &7.into()));
    host.detached(&["--name", "good", "--restart", "on-failure"], "echo life");
    eventually("it ends", || host.status("good") == "exited");
    assert_eq!(host.tare(["logs", "good"]).run().ok(), "life");
}

#[test]
fn a_killed_one_is_started_again_and_one_killed_by_command_is_not() {
    let host = Host::new();
    host.detached(&["--name", "box", "--restart", "unless-stopped"], "sleep 60");
    let first = host.pid("box");
    tare_tests::process::signal(first, Signal::KILL);
    eventually("it runs again", || ![0, first].contains(&host.pid("box")));
    host.tare(["kill", "box"]).run().ok();
    assert_eq!(host.status("box"), "exited");
    assert_eq!(host.inspect("box")["State"]["ExitCode"], 137);
}

#[test]
fn a_policy_that_is_changed_while_it_runs_counts_for_this_run() {
    let host = Host::new();
    host.detached(&["--name", "box", "--restart", "always"], "sleep 60");
    host.tare(["update", "--restart", "no", "box"]).run().ok();
    tare_tests::process::signal(host.pid("box"), Signal::KILL);
    eventually("it ends for good", || host.status("box") == "exited");
}

#[test]
fn a_restart_keeps_the_container_and_changes_the_process() {
    let host = Host::new();
    host.detached(&["--name", "box"], "echo life >> /lives; wc -l < /lives; exec sleep 60");
    eventually("it is on", || host.tare(["logs", "box"]).run().stdout() == "1");
    let first = host.pid("box");
    host.tare(["restart", "-t", "0", "box"]).run().prints("box");
    assert_ne!(host.pid("box"), first);
    eventually("it is on", || host.tare(["logs", "box"]).run().stdout() == "1\n2");
    host.tare(["stop", "-t", "0", "box"]).run().ok();
    host.tare(["restart", "box"]).run().ok();
    assert_eq!(host.status("box"), "running");
    host.tare(["run", "--rm", "--restart", "always", "busybox", "true"])
        .run()
        .fails(125)
        .complains_of(&["--rm"]);
}

/// Lets a monitor find an order of a connection that it knows at the same moment as the end of its container.
const AT_THE_END: &str = r#"
import os, signal, socket, sys, time
folder, monitor, container, order = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
state = lambda pid: open(f'/proc/{pid}/stat').read().rsplit(') ')[1][0]
os.chdir(folder)
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
end.settimeout(20)
end.connect('control')
end.send(b'"Nonsense"')
assert end.recv(1 << 15).startswith(b'f')
os.kill(monitor, signal.SIGSTOP)
try:
    while state(monitor) != 'T':
        time.sleep(0.001)
    os.kill(container, signal.SIGKILL)
    while state(container) != 'Z':
        time.sleep(0.001)
    end.send(order.encode())
finally:
    os.kill(monitor, signal.SIGCONT)
print('answer:', end.recv(1 << 15))
"#;

#[test]
fn an_order_that_comes_with_the_end_changes_nothing_of_it() {
    let host = Host::new();
    for order in [r#"{"Restart":[null,null]}"#, r#"{"Stop":[null,null]}"#, r#"{"Kill":9}"#] {
        let id = host.detached(&["--name", "box"], "sleep 600");
        let monitors = host.processes();
        let [monitor] = &monitors[..] else { panic!("one monitor, not {}", monitors.len()) };
        let mut ask = std::process::Command::new("python3");
        ask.args(["-c", AT_THE_END]).arg(host.run_root().join("containers").join(&id)).args([
            monitor.id.to_string(),
            host.pid("box").to_string(),
            order.to_owned(),
        ]);
        // Who asks sees that nobody is there any more, and looks at what became of it.
        Tare::of(ask).run().prints("answer: b''");
        let state = host.inspect("box")["State"].clone();
        assert_eq!((&state["ExitCode"], &state["Error"]), (&137.into(), &"".into()), "after {order}");
        host.tare(["restart", "box"]).run().ok();
        host.tare(["rm", "-f", "box"]).run().ok();
    }
}

#[test]
fn stop_takes_its_time_and_hardly_more() {
    let host = Host::new();
    let id = host.detached(&[], "trap '' TERM; echo on; while :; do sleep 0.1; done");
    eventually("it is on", || host.tare(["logs", &id]).run().stdout() == "on");
    let start = Instant::now();
    host.tare(["stop", "-t", "1", &id]).run().ok();
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1) && took < stretched(Duration::from_millis(1500)), "{took:?}");
}

#[test]
fn a_paused_container_stands_still_and_can_be_ended() {
    let host = Host::new();
    host.detached(&["--name", "box"], "while sleep 0.1; do echo tick; done");
    eventually("it ticks", || host.tare(["logs", "box"]).run().stdout().contains("tick"));
    host.tare(["pause", "box"]).run().prints("box");
    assert_eq!(host.status("box"), "paused");
    assert!(host.tare(["ps"]).run().ok().contains("(Paused)"));
    std::thread::sleep(Duration::from_millis(300));
    let ticks = host.tare(["logs", "box"]).run().ok();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(host.tare(["logs", "box"]).run().ok(), ticks);
    host.tare(["pause", "box"]).run().fails(1).complains_of(&["already paused"]);
    host.tare(["unpause", "box"]).run().ok();
    eventually("it ticks again", || host.tare(["logs", "box"]).run().stdout().len() > ticks.len());
    host.tare(["pause", "box"]).run().ok();
    host.tare(["stop", "-t", "1", "box"]).run().ok();
    assert_eq!(host.status("box"), "exited");
    host.tare(["unpause", "box"]).run().fails(1).complains_of(&["not running"]);
}

#[test]
fn wait_tells_how_each_ended() {
    let host = Host::new();
    let one = host.detached(&[], "sleep 0.3; exit 3");
    let two = host.detached(&["--rm"], "sleep 0.6; exit 4");
    assert_eq!(host.tare(["wait", &one, &two]).run().ok(), "3\n4");
    assert_eq!(host.tare(["wait", &one]).run().ok(), "3", "one that has ended");
    host.tare(["wait", "nosuch"]).run().fails(1).complains_of(&["no such container"]);
}

#[test]
fn a_renamed_container_has_its_new_name_and_no_other() {
    let host = Host::new();
    let id = host.detached(&["--name", "one"], "sleep 60");
    host.detached(&["--name", "two"], "sleep 60");
    host.tare(["rename", "one", "two"]).run().fails(1).complains_of(&["in use"]);
    host.tare(["rename", "one", "three"]).run().ok();
    assert_eq!(host.inspect("three")["Id"], id);
    assert_eq!(host.inspect("three")["Name"], "/three");
    host.tare(["inspect", "one"]).run().fails(1).complains_of(&["no such"]);
    host.detached(&["--name", "one"], "true");
}

#[test]
fn one_that_is_to_be_removed_is_started_again_and_removed_where_it_cannot_be() {
    let host = Host::new();
    host.busybox();
    let lost = |name: &str| {
        host.tare(["ps", "-aq"]).run().prints("");
        host.tare(["volume", "ls", "-q"]).run().prints("");
        host.tare(["inspect", name]).run().fails(1);
    };
    host.detached(&["--rm", "--name", "box", "-v", "/data"], "sleep 600");
    host.tare(["exec", "box", "touch", "/mine"]).run().ok();
    host.tare(["restart", "-t", "0", "box"]).run().ok();
    host.tare(["exec", "box", "test", "-e", "/mine"]).run().ok();
    host.tare(["exec", "box", "rm", "/bin/sh"]).run().ok();
    host.tare(["restart", "-t", "0", "box"]).run().fails(1).complains_of(&["sh"]);
    lost("box");
    // One that was only made.
    host.tare(["create", "--rm", "--name", "made", "busybox", "nonesuch"]).run().ok();
    host.tare(["start", "made"]).run().fails(1).complains_of(&["nonesuch"]);
    lost("made");
}
