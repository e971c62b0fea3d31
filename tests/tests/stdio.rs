//! What goes in and comes out: pipes, terminals, signals.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tare_tests::{Host, Tare, Terminal, eventually, stretched};

/// Says `on`, then answers signals until it is ended.
const TRAPS: &str =
    "trap 'echo term; exit 3' TERM; trap 'echo int; exit 4' INT; echo on; while :; do sleep 0.1; done";

fn interactive(host: &Host, flags: &[&str], script: &str) -> Tare {
    host.busybox();
    host.tare(["run", "--rm"]).args(flags).args(["-it", "busybox", "sh", "-c", script])
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let host = Host::new();
    let out = host.sh(&[], "echo out; echo err >&2");
    out.prints("out");
    assert_eq!(out.stderr(), "err\n");
}

#[test]
fn a_pipe_runs_through_the_host_image() {
    let host = Host::new();
    host.tare(["run", "--rm", "-i", "host", "cat"]).stdin("hi\n").run().prints("hi");
}

#[test]
fn without_i_there_is_nothing_to_read() {
    let host = Host::new();
    host.busybox();
    host.tare(["run", "--rm", "busybox", "cat"]).stdin("not for you").run().prints("");
}

#[test]
fn a_lot_of_any_bytes_comes_through_unchanged() {
    let host = Host::new();
    host.busybox();
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = host.tare(["run", "--rm", "-i", "busybox", "cat"]).stdin(&bytes).run();
    out.fails(0);
    assert!(out.bytes() == bytes, "{} bytes went in, {} came out, or others", bytes.len(), out.bytes().len());
}

#[test]
fn a_long_write_behind_the_beginning_of_a_line_comes_through() {
    let host = Host::new();
    host.busybox();
    // As much as a monitor looks at: a line and the beginning of the next. Once that was seen, more than fits into a pipe.
    let beginning = [vec![b'x'; 16_000], b"\n".to_vec(), vec![b'y'; 383]].concat();
    let rest = vec![b'y'; 200_000];
    let (first, second) = (host.file("beginning", &beginning), host.file("rest", &rest));
    let script = "dd if=/beginning bs=16384 count=1; sleep 0.1; dd if=/rest bs=200000 count=1";
    let out = host
        .tare(["run", "--rm", "-v"])
        .arg(format!("{}:/beginning", first.display()))
        .args(["-v", &format!("{}:/rest", second.display())])
        .args(["busybox", "sh", "-c", script])
        .run();
    out.fails(0);
    assert!(out.bytes() == [beginning, rest].concat());
}

#[test]
fn the_last_words_before_the_exit_are_not_lost() {
    let host = Host::new();
    host.busybox();
    for _ in 0..20 {
        host.tare(["run", "--rm", "busybox", "sh", "-c", "echo last; echo words >&2; exit 5"]).run().fails(5);
        let out = host.sh(&[], "printf last; printf words >&2; kill -9 $$; exit 0");
        assert_eq!((out.stdout().as_str(), out.stderr()), ("last", "words"));
    }
}

#[test]
fn a_reader_that_stops_early_does_not_hang_the_run() {
    let host = Host::new();
    host.busybox();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "\"$0\" run --rm busybox yes | head -1"]).arg(tare_tests::host::binary());
    command.env("TARE_ROOT", host.root()).env("TARE_RUN_ROOT", host.run_root());
    Tare::of(command).run().prints("y");
}

#[test]
fn a_command_that_does_not_read_does_not_hang_the_run() {
    let host = Host::new();
    host.busybox();
    host.tare(["run", "--rm", "-i", "busybox", "true"]).stdin(vec![b'x'; 1_000_000]).run().ok();
}

#[test]
fn a_terminal_is_one_inside_and_has_the_size_of_the_window() {
    let host = Host::new();
    let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal; stty size; tty; echo $TERM";
    let mut terminal = Terminal::start(interactive(&host, &[], script), 24, 80);
    terminal.expect("terminal");
    terminal.expect("24 80");
    terminal.expect("/dev/pts/0");
    terminal.expect("xterm");
    assert_eq!(terminal.wait(), 0);
    terminal.is_restored();
}

#[test]
fn a_window_that_changes_its_size_changes_it_inside() {
    let host = Host::new();
    let script = "trap 'stty size' WINCH; trap 'exit 0' INT; echo on; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(interactive(&host, &[], script), 24, 80);
    terminal.expect("on");
    terminal.resize(50, 132);
    terminal.expect("50 132");
    terminal.resize(10, 20);
    terminal.expect("10 20");
    terminal.types("\x03");
    terminal.wait();
    terminal.is_restored();
}

#[test]
fn what_is_typed_arrives_and_is_echoed_once() {
    let host = Host::new();
    let mut terminal =
        Terminal::start(interactive(&host, &[], "echo on; read line; echo \"got $line\"; exit 6"), 24, 80);
    terminal.expect("on");
    // The container's terminal echoes; if ours did as well, it would be there twice.
    terminal.types("hello\n");
    let screen = terminal.expect("got hello");
    assert_eq!(screen.matches("hello").count(), 2, "{screen:?}");
    assert_eq!(terminal.wait(), 6);
    terminal.is_restored();
}

#[test]
fn control_c_goes_to_the_container_under_a_terminal() {
    let host = Host::new();
    let mut terminal = Terminal::start(interactive(&host, &[], TRAPS), 24, 80);
    terminal.expect("on");
    terminal.types("\x03");
    terminal.expect("int");
    assert_eq!(terminal.wait(), 4);
    terminal.is_restored();
}

#[test]
fn the_terminal_is_restored_when_the_command_or_the_run_is_killed() {
    let host = Host::new();
    let mut terminal = Terminal::start(interactive(&host, &["--name", "one"], "echo on; sleep 60"), 24, 80);
    terminal.expect("on");
    host.tare(["kill", "one"]).run().ok();
    assert_eq!(terminal.wait(), 137);
    terminal.is_restored();

    let mut terminal = Terminal::start(interactive(&host, &["--name", "two"], TRAPS), 24, 80);
    terminal.expect("on");
    tare_tests::process::signal(terminal.id(), Signal::TERM);
    terminal.wait();
    terminal.is_restored();
}

#[test]
fn the_terminal_is_restored_when_the_start_fails() {
    let host = Host::new();
    host.busybox();
    let mut terminal = Terminal::start(host.tare(["run", "--rm", "-it", "busybox", "/nosuch"]), 24, 80);
    assert_eq!(terminal.wait(), 127);
    terminal.is_restored();
}

#[test]
fn a_terminal_without_one_outside_is_an_error() {
    let host = Host::new();
    host.busybox();
    let out = host.tare(["run", "--rm", "-it", "busybox", "true"]).stdin("x").run();
    assert_ne!(out.code(), 0);
    out.complains_of(&["TTY"]);
}

#[test]
fn signals_to_the_run_reach_the_container() {
    let host = Host::new();
    host.busybox();
    for (signal, word, code) in [(Signal::TERM, "term", 3), (Signal::INT, "int", 4)] {
        let name = format!("traps-{word}");
        let flags = ["run", "--rm", "--name", &name, "busybox", "sh", "-c", TRAPS];
        let running = host.tare(flags).start();
        eventually("it is on", || host.tare(["logs", &name]).run().stdout().contains("on"));
        running.signal(signal);
        let out = running.wait();
        out.fails(code);
        assert!(out.stdout().ends_with(word), "{out:#?}");
    }
}

#[test]
fn without_sig_proxy_signals_end_the_run_and_not_the_container() {
    let host = Host::new();
    host.busybox();
    let flags = ["run", "--sig-proxy=false", "--name", "traps", "busybox", "sh", "-c", TRAPS];
    let running = host.tare(flags).start();
    eventually("it is on", || host.tare(["logs", "traps"]).run().stdout().contains("on"));
    running.signal(Signal::TERM);
    running.wait().fails(143);
    assert_eq!(host.status("traps"), "running");
}

#[test]
fn killing_the_run_does_not_kill_the_container() {
    let host = Host::new();
    host.busybox();
    let flags = ["run", "--name", "survivor", "busybox", "sh", "-c", "echo on; sleep 60"];
    let running = host.tare(flags).start();
    eventually("it is on", || host.tare(["logs", "survivor"]).run().stdout() == "on");
    running.signal(Signal::KILL);
    running.wait().fails(137);
    assert_eq!(host.status("survivor"), "running");
}

#[test]
fn a_detached_run_returns_at_once_and_keeps_no_pipe() {
    let host = Host::new();
    host.busybox();
    let start = Instant::now();
    host.detached(&[], "sleep 60");
    assert!(start.elapsed() < stretched(Duration::from_secs(5)), "it took {:?}", start.elapsed());
}

#[test]
fn what_its_caller_had_open_is_let_go_of_by_a_container_in_the_background() {
    let host = Host::new();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let image = host.busybox();
    let lock = host.file("lock", "");
    let script = format!("exec 9<{}; flock 9; exec \"$@\"", lock.display());
    let words = ["run", "-d", "--name", "cron", image, "sleep", "600"];
    host.wrapped(&["sh", "-c", &script, "sh"], words).run().ok();
    let free = || {
        let file = std::fs::File::open(&lock).expect("a file of our own");
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    };
    eventually("the lock is free", free);
    assert_eq!(host.status("cron"), "running");
}
