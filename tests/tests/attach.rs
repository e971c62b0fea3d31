//! Attaching to what runs, and leaving it.
#![forbid(unsafe_code)]

use std::time::Duration;

use tare_tests::{Host, Tare, Terminal, eventually};

#[test]
fn several_who_attach_see_the_same_and_the_end() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 1; echo out; echo err >&2; exit 6");
    let watching: Vec<_> = (0..3).map(|_| host.tare(["attach", "box"]).start()).collect();
    for running in watching {
        let out = running.wait();
        out.fails(6);
        assert_eq!((out.stdout().as_str(), out.stderr()), ("out", "err\n"));
    }
    host.tare(["attach", "box"]).run().fails(1).complains_of(&["not running"]);
}

/// Lets a monitor find the orders of three connections, all of which it knows already, at the same moment.
const ALL_AT_ONCE: &str = r#"
import os, signal, socket, sys, time
folder, monitor = sys.argv[1], int(sys.argv[2])
os.chdir(folder)
ends = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
for end in ends:
    end.settimeout(20)
    end.connect('control')
    end.send(b'"Nonsense"')
    assert end.recv(1 << 15).startswith(b'f')
os.kill(monitor, signal.SIGSTOP)
try:
    while open(f'/proc/{monitor}/stat').read().rsplit(') ')[1][0] != 'T':
        time.sleep(0.001)
    for end in ends:
        end.send(b'{"Attach":[true,true]}')
finally:
    os.kill(monitor, signal.SIGCONT)
for end in ends:
    assert end.recv(1 << 15).startswith(b's')
print('all are attached')
"#;

#[test]
fn several_who_attach_at_the_same_moment_are_all_heard() {
    let host = Host::new();
    let id = host.detached(&["--name", "box"], "sleep 600");
    let monitors = host.processes();
    let [monitor] = &monitors[..] else { panic!("one monitor, not {}", monitors.len()) };
    let mut ask = std::process::Command::new("python3");
    ask.args(["-c", ALL_AT_ONCE])
        .arg(host.run_root().join("containers").join(&id))
        .arg(monitor.id.to_string());
    Tare::of(ask).run().prints("all are attached");
}

/// Asks to be attached again and again, and reads nothing of what it is told, until the monitor has enough of it.
const DEAF: &str = r#"
import os, socket, sys
os.chdir(sys.argv[1])
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
end.settimeout(20)
end.connect('control')
try:
    while True:
        end.send(b'{"Attach":[true,true]}')
except (BrokenPipeError, ConnectionResetError):
    print('let go')
"#;

#[test]
fn one_who_asks_and_never_reads_does_not_hold_the_monitor_up() {
    let host = Host::new();
    let id = host.detached(&["--name", "box"], "sleep 600");
    let mut ask = std::process::Command::new("python3");
    ask.args(["-c", DEAF]).arg(host.run_root().join("containers").join(&id));
    Tare::of(ask).run().prints("let go");
    host.tare(["stop", "-t", "0", "box"]).run().ok();
}

#[test]
fn start_with_a_shows_the_first_byte_and_i_gives_the_input_to_its_end() {
    let host = Host::new();
    host.busybox();
    host.tare(["create", "-i", "--name", "box", "busybox", "sh", "-c", "echo first; cat; exit 3"]).run().ok();
    for _ in 0..10 {
        let out = host.tare(["start", "-ai", "box"]).stdin("and the rest\n").run();
        out.fails(3);
        assert_eq!(out.stdout(), "first\nand the rest");
    }
}

#[test]
fn the_input_of_a_detached_container_outlives_those_who_write_it() {
    let host = Host::new();
    host.detached(
        &["-i", "--name", "box"],
        "while read line; do echo got $line; [ $line != last ] || exit 5; done",
    );
    host.tare(["attach", "--sig-proxy=false", "box"])
        .stdin("one\n")
        .start()
        .signal(rustix::process::Signal::TERM);
    let first = host.tare(["attach", "box"]).stdin("two\n").start();
    eventually("it was read", || host.tare(["logs", "box"]).run().stdout().contains("got two"));
    let second = host.tare(["attach", "box"]).stdin("last\n").run();
    second.fails(5);
    first.wait().fails(5);
}

#[test]
fn the_keys_leave_a_terminal_and_the_container_goes_on() {
    let host = Host::new();
    host.busybox();
    let script = "echo on; while read line; do echo \"got $line\"; done";
    let call = host.tare(["run", "-it", "--name", "box", "busybox", "sh", "-c", script]);
    let mut terminal = Terminal::start(call, 24, 80);
    terminal.expect("on");
    terminal.types("\x10\x11");
    assert_eq!(terminal.wait(), 0);
    terminal.is_restored();
    assert_eq!(host.status("box"), "running");

    let mut terminal = Terminal::start(host.tare(["attach", "--detach-keys", "ctrl-a,d", "box"]), 24, 80);
    std::thread::sleep(Duration::from_millis(300));
    terminal.types("hello\n");
    terminal.expect("got hello");
    terminal.types("\x01d");
    assert_eq!(terminal.wait(), 0);
    assert_eq!(host.status("box"), "running");
    host.tare(["rm", "-f", "box"]).run().ok();
}

#[test]
fn one_who_attaches_and_does_not_read_holds_up_nobody() {
    let host = Host::new();
    let script = "sleep 1; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); echo line $i; done; echo over";
    let id = host.detached(&[], script);
    // It is stopped at once, so its side of the connection fills up.
    let stuck = host.tare(["attach", "--sig-proxy=false", &id]).start();
    std::thread::sleep(Duration::from_millis(200));
    stuck.signal(rustix::process::Signal::STOP);
    eventually("all is written", || host.tare(["logs", "--tail", "1", &id]).run().stdout() == "over");
    eventually("it has ended", || host.status(&id) == "exited");
    stuck.signal(rustix::process::Signal::KILL);
    stuck.signal(rustix::process::Signal::CONT);
    stuck.wait();
}

#[test]
fn the_user_can_open_stdout_and_stderr_again() {
    let host = Host::new();
    for flags in [&[] as &[&str], &["-u", "1000"], &["--userns", "host", "-u", "1000"], &["--init"]] {
        let out =
            host.sh(flags, "echo one > /dev/stdout; echo two > /dev/stderr; echo three >> /proc/self/fd/1");
        out.fails(0);
        assert_eq!((out.stdout().as_str(), out.stderr()), ("one\nthree", "two\n"), "{flags:?}");
    }
}
