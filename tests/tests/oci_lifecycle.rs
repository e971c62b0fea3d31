//! A container's life under the runtime's own commands: what may follow what, and what passes in the foreground.
#![forbid(unsafe_code)]

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tare_tests::bundle::{is_ours, runtime};
use tare_tests::process::Process;
use tare_tests::{Bundle, Receiver, Tare, Terminal, eventually};

#[test]
fn created_started_killed_deleted() {
    let bundle = Bundle::sh("echo started; exec sleep 600");
    bundle.created(&["--pid-file", "../files/pid"]);
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    let pid = state["pid"].as_i64().expect("a pid");
    assert_eq!(fs::read_to_string(bundle.work("pid")).expect("the pid file"), pid.to_string());
    assert_eq!(bundle.printed(), "", "nothing of the program runs yet");

    bundle.verb("start", &[]).run().ok();
    assert_eq!((bundle.status().as_str(), &bundle.state()["pid"]), ("running", &json!(pid)));
    eventually("the program prints", || bundle.printed() == "started\n");

    bundle.verb("kill", &["KILL"]).run().ok();
    bundle.becomes("stopped");
    assert_eq!(bundle.state()["pid"], 0);
    bundle.verb("delete", &[]).run().ok();
    assert!(!bundle.exists());
}

#[test]
fn before_its_program_the_process_executes_from_a_read_only_mount() {
    let bundle = Bundle::new();
    bundle.created(&[]);
    let path = format!("/proc/{}/exe", bundle.state()["pid"]);
    let flags = rustix::fs::statvfs(&path).expect("its own program").f_flag;
    let read_only = rustix::fs::StatVfsMountFlags::RDONLY;
    assert!(flags.contains(read_only), "{flags:?}");
    if rustix::fs::statvfs(runtime()).expect("the runtime").f_flag.contains(read_only) {
        // Its own mount will do, as in a guest.
        return;
    }
    let maps = fs::read_to_string(format!("/proc/{}/maps", bundle.state()["pid"])).expect("its memory");
    let ours = runtime().canonicalize().expect("the runtime");
    let ours = ours.to_str().expect("a plain path");
    assert!(!maps.contains(ours), "nothing is mapped from the host's mount: {maps}");
}

#[test]
fn each_command_has_its_states() {
    let bundle = Bundle::new();
    let refused = |verb: &str, more: &[&str], words: &[&str]| {
        let out = bundle.verb(verb, more).run();
        out.fails(if verb == "exec" { 255 } else { 1 }).complains_of(words);
    };
    for (verb, more) in [
        ("start", &[] as &[&str]),
        ("state", &[]),
        ("kill", &[]),
        ("pause", &[]),
        ("resume", &[]),
        ("delete", &[]),
        ("ps", &[]),
        ("events", &["--stats"]),
        ("update", &["--pids-limit", "5"]),
        ("exec", &["true"]),
    ] {
        refused(verb, more, &["does not exist"]);
    }

    bundle.detached(&[]);
    refused("run", &[], &["already exists"]);
    refused("create", &[], &["already exists"]);
    refused("start", &[], &["cannot start an already running container"]);
    refused("resume", &[], &["not paused"]);
    refused("delete", &[], &["is not stopped", "running"]);
    refused("kill", &["NOPE"], &["unknown signal"]);
    assert_eq!(bundle.status(), "running");

    bundle.verb("pause", &[]).run().ok();
    refused("exec", &["true"], &["paused container"]);
    refused("pause", &[], &["not running"]);
    bundle.verb("resume", &[]).run().ok();

    bundle.verb("kill", &["KILL"]).run().ok();
    bundle.becomes("stopped");
    refused("kill", &[], &["container not running"]);
    refused("start", &[], &["cannot start a container that has stopped"]);
    refused("exec", &["true"], &["stopped container"]);
    refused("pause", &[], &["not running"]);
    refused("events", &["--stats"], &["is not running"]);
}

#[test]
fn a_paused_container_stands_still() {
    let bundle = Bundle::sh("n=0; while :; do n=$((n+1)); echo $n; sleep 0.02; done");
    bundle.detached(&[]);
    eventually("it counts", || bundle.printed().lines().count() > 3);
    bundle.verb("pause", &[]).run().ok();
    assert_eq!(bundle.status(), "paused");
    let before = bundle.printed();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(bundle.printed(), before);
    bundle.verb("resume", &[]).run().ok();
    assert_eq!(bundle.status(), "running");
    eventually("it counts on", || bundle.printed().len() > before.len());
}

#[test]
fn force_deletes_in_every_state_and_what_is_not_there() {
    let bundle = Bundle::new();
    bundle.verb("delete", &["--force"]).run().ok();
    bundle.detached(&[]);
    bundle.verb("delete", &["-f"]).run().ok();
    bundle.created(&[]);
    bundle.verb("delete", &["--force"]).run().ok();
    bundle.detached(&[]);
    bundle.verb("pause", &[]).run().ok();
    bundle.verb("delete", &["--force"]).run().ok();
    assert!(!bundle.exists());
}

#[test]
fn a_created_container_can_be_deleted_and_killed() {
    let bundle = Bundle::new();
    bundle.created(&[]);
    bundle.verb("kill", &["KILL"]).run().ok();
    bundle.becomes("stopped");
    bundle.verb("delete", &[]).run().ok();
}

#[test]
fn killing_all_reaches_those_that_the_first_process_left() {
    let bundle = Bundle::new();
    // Without a pid namespace of its own nothing dies with the first process.
    bundle.config(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        namespaces.retain(|namespace| namespace["type"] != "pid");
        config["process"]["args"] = json!(["sh", "-c", "sleep 601 & sleep 602 & wait"]);
    });
    bundle.detached(&[]);
    let listed = || -> usize {
        let out = bundle.oci(["ps", "--format", "json", bundle.id()]).run();
        serde_json::from_str::<Vec<i32>>(&out.stdout()).map_or(0, |pids| pids.len())
    };
    eventually("all three run", || listed() == 3);
    bundle.oci(["kill", "--all", bundle.id(), "KILL"]).run().ok();
    eventually("none runs", || listed() == 0);
}

#[test]
fn the_foreground_has_the_exit_code_and_leaves_nothing() {
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 0), ("sh -c 'kill -9 $$'; exit $?", 137)]
    {
        let bundle = Bundle::sh(script);
        let out = bundle.oci(["run", bundle.id()]).run();
        assert_eq!(out.code(), code, "{script}: {out:#?}");
        assert!(!bundle.exists());
    }
}

#[test]
fn a_process_that_a_signal_killed_is_128_and_its_number() {
    let bundle = Bundle::new();
    let run = bundle.oci(["run", bundle.id()]).start();
    eventually("it runs", || bundle.exists() && bundle.status() == "running");
    bundle.verb("kill", &["KILL"]).run().ok();
    run.wait().fails(128 + 9);
}

#[test]
fn keep_keeps_what_is_left() {
    let bundle = Bundle::sh("exit 3");
    bundle.oci(["run", "--keep", bundle.id()]).run().fails(3);
    assert_eq!(bundle.status(), "stopped");
    bundle.verb("delete", &[]).run().ok();
}

#[test]
fn input_and_output_are_the_callers_own() {
    let bundle = Bundle::sh("cat; echo error >&2");
    let input: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = bundle.oci(["run", bundle.id()]).stdin(&input).run();
    assert!(out.bytes() == input, "{} bytes came out", out.bytes().len());
    assert_eq!(out.stderr(), "error\n");
}

#[test]
fn signals_reach_the_process_in_the_foreground() {
    let script = "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'echo term; exit 5' TERM; echo on; while :; do sleep 0.05; done";
    let bundle = Bundle::sh(script);
    let file = fs::File::create(bundle.work("out")).expect("a file");
    let mut call = bundle.oci(["run", bundle.id()]).into_command();
    let mut run = call.stdout(file).spawn().expect("starting the runtime");
    let seen = |word: &str| fs::read_to_string(bundle.work("out")).expect("the output").contains(word);
    let id = run.id().cast_signed();
    for (signal, before, after) in
        [(Signal::USR1, "on", "usr1"), (Signal::HUP, "usr1", "hup"), (Signal::TERM, "hup", "term")]
    {
        eventually(before, || seen(before));
        tare_tests::process::signal(id, signal);
        eventually(after, || seen(after));
    }
    assert_eq!(run.wait().expect("its end").code(), Some(5));
    assert!(!bundle.exists());
}

#[test]
fn a_process_that_ends_at_once_does_not_hang_the_caller() {
    let bundle = Bundle::new();
    bundle.config(|config| config["process"]["args"] = json!(["true"]));
    for _ in 0..20 {
        bundle.oci(["run", bundle.id()]).within(Duration::from_secs(20)).run().ok();
    }
}

#[test]
fn orphans_come_to_the_foreground_and_are_reaped() {
    // In the host's pid namespace an orphan goes to the nearest subreaper, or to the host's init.
    let script = "(sleep 0.3 & echo $!) ; sleep 1";
    for (flag, ours) in [(None, true), (Some("--no-subreaper"), false)] {
        let bundle = Bundle::sh(script);
        bundle.config(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != "pid");
        });
        let file = fs::File::create(bundle.work("out")).expect("a file");
        let mut call = bundle.oci(["run"]).args(flag).arg(bundle.id()).into_command();
        let mut run = call.stdout(file).spawn().expect("starting the runtime");
        let mut parent = String::new();
        eventually("the orphan has another parent", || {
            let text = fs::read_to_string(bundle.work("out")).expect("the output");
            let Some(orphan) = text.trim().parse().ok().and_then(Process::by_id) else { return false };
            let status = orphan.file("status");
            let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default();
            parent = line.trim().to_owned();
            // One that is just ending is its parent still, and has no command any more.
            let command = Process::by_id(parent.parse().unwrap_or(0)).map(|parent| parent.file("cmdline"));
            command.is_some_and(|command| !command.is_empty() && !command.contains("sleep 0.3"))
        });
        assert_eq!(
            parent == run.id().to_string(),
            ours,
            "{flag:?}: the parent is {parent}, we started {}",
            run.id()
        );
        assert!(run.wait().expect("its end").success());
    }
}

/// Named by its folder: a terminal is started in the test's own.
fn run_in_terminal(bundle: &Bundle) -> Tare {
    bundle.oci(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id())
}

fn under_terminal(script: &str) -> Bundle {
    let bundle = Bundle::sh(script);
    bundle.config(|config| config["process"]["terminal"] = json!(true));
    bundle
}

#[test]
fn a_terminal_is_passed_with_its_size_and_given_back_as_it_was() {
    let bundle = under_terminal(
        "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; tty; trap 'stty size; exit 4' WINCH; echo on; while :; do sleep 0.1; done",
    );
    let mut terminal = Terminal::start(run_in_terminal(&bundle), 31, 99);
    terminal.expect("all");
    terminal.expect("/dev/");
    terminal.expect("on");
    terminal.resize(40, 120);
    terminal.expect("40 120");
    assert_eq!(terminal.wait(), 4);
    terminal.is_restored();
}

#[test]
fn a_terminal_has_the_size_of_the_callers_from_early_on() {
    let bundle = under_terminal("sleep 0.5; stty size");
    let mut terminal = Terminal::start(run_in_terminal(&bundle), 31, 99);
    terminal.expect("31 99");
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn what_is_typed_is_echoed_once_and_control_c_interrupts() {
    let bundle = under_terminal(
        "trap 'echo int; exit 6' INT; echo on; read line; echo got-$line; while :; do sleep 0.1; done",
    );
    let mut terminal = Terminal::start(run_in_terminal(&bundle), 24, 80);
    terminal.expect("on");
    terminal.types("words\r");
    terminal.expect("got-words");
    assert_eq!(terminal.screen().matches("words").count(), 2, "{}", terminal.screen());
    terminal.types("\x03");
    terminal.expect("int");
    assert_eq!(terminal.wait(), 6);
    terminal.is_restored();
}

#[test]
fn all_that_a_terminal_printed_comes_out() {
    let bundle = under_terminal("seq 1 20000; echo last");
    let mut terminal = Terminal::start(run_in_terminal(&bundle), 24, 80);
    assert_eq!(terminal.wait(), 0);
    terminal.expect("20000");
    terminal.expect("last");
}

#[test]
fn a_terminal_without_one_of_the_callers_ends_with_its_input() {
    if !is_ours() {
        return;
    }
    let bundle = under_terminal("cat; echo over");
    let out = bundle.oci(["run", bundle.id()]).stdin("words\n").run().ok();
    assert!(out.contains("words") && out.contains("over"), "{out}");
}

#[test]
fn a_console_socket_gets_the_terminal() {
    let bundle = under_terminal("tty; exec sleep 600");
    let receiver = Receiver::new(&bundle, "console");
    bundle.created(&["--console-socket", receiver.name()]);
    let (_, console) = receiver.receive();
    assert!(rustix::termios::isatty(&console));
    bundle.verb("start", &[]).run().ok();
    let mut text = String::new();
    let mut buffer = [0; 256];
    while !text.contains('\n') {
        let length = rustix::io::read(&console, &mut buffer).expect("reading the console");
        text += &String::from_utf8_lossy(&buffer[..length]);
    }
    assert!(text.starts_with("/dev/pts/") || text.starts_with("/dev/console"), "{text}");
    bundle.verb("delete", &["--force"]).run().ok();

    let receiver = Receiver::new(&bundle, "again");
    bundle.detached(&["--console-socket", receiver.name()]);
    assert!(rustix::termios::isatty(receiver.receive().1));
}

#[test]
fn files_are_passed_on_as_asked() {
    let bundle =
        Bundle::sh("cat <&3; [ -e /proc/self/fd/4 ] && cat <&4; [ -e /proc/self/fd/5 ] || echo no five");
    fs::write(bundle.work("three"), "three\n").expect("a file");
    fs::write(bundle.work("four"), "four\n").expect("a file");
    let script = "exec 3<../files/three 4<../files/four 5</etc/passwd; exec \"$@\"";
    let run =
        |flags: &[&str], script: &str| bundle.by_shell(script, ["run"]).args(flags).arg(bundle.id()).run();
    run(&["--preserve-fds", "2"], script).prints("three\nfour\nno five");
    run(&["--preserve-fds=1"], script).prints("three\nno five");
    // systemd's way, and both together.
    let listen =
        "exec 3<../files/three 4<../files/four 5</etc/passwd; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
    run(&[], listen).prints("three\nno five");
    run(&["--preserve-fds", "1"], listen).prints("three\nfour\nno five");
    if !is_ours() {
        // runc hands out files of its own.
        return;
    }
    let out = run(&["--preserve-fds", "3"], "exec 3<../files/three 4<../files/four; exec \"$@\"");
    assert_ne!(out.code(), 0, "{out:#?}");
    assert!(!bundle.exists());
}

#[test]
fn the_program_is_told_how_many_sockets_it_has() {
    let bundle = Bundle::sh("echo $LISTEN_FDS-$LISTEN_PID");
    let script = "exec 3</etc/passwd; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
    bundle.by_shell(script, ["run", bundle.id()]).run().prints("1-1");
}

#[test]
fn a_pidfd_is_sent_where_it_is_asked_for() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::new();
    let receiver = Receiver::new(&bundle, "pidfd");
    bundle.detached(&["--pidfd-socket", receiver.name()]);
    let (_, pidfd) = receiver.receive();
    rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).expect("a signal through the pidfd");
    bundle.becomes("stopped");
}

#[test]
fn limits_of_a_running_container_change() {
    let bundle = Bundle::new();
    bundle.detached(&[]);
    let forks = "for n in 1 2 3 4 5 6; do sleep 1 & done; wait; echo done";
    assert!(bundle.exec(&[], forks).stdout().contains("done"));
    bundle.oci(["update", "--pids-limit", "4", bundle.id()]).run().ok();
    let out = bundle.exec(&[], forks);
    assert!(!out.stdout().contains("done") || out.stderr().contains("fork"), "{out:#?}");
    bundle.oci(["update", "--resources", "-", bundle.id()]).stdin(r#"{"pids":{"limit":100}}"#).run().ok();
    assert!(bundle.exec(&[], forks).ok().contains("done"));
    bundle.oci(["update", "--memory", "5x", bundle.id()]).run().fails(1);
    bundle.oci(["update", "--resources", "/nonexistent", bundle.id()]).run().fails(1);
}

#[test]
fn many_are_killed_and_deleted_by_a_pattern() {
    if runtime().ends_with("runc") {
        return;
    }
    let bundle = Bundle::new();
    let names = ["a1", "a2", "b1"].map(|name| format!("{}-{name}", bundle.id()));
    for name in &names {
        bundle.apart(bundle.oci(["run", "--detach", name])).ok();
    }
    let pattern = format!("^{}-a[0-9]$", bundle.id());
    bundle.oci(["kill", "--regex", &pattern, "KILL"]).run().ok();
    eventually("two have ended", || bundle.oci(["list"]).run().ok().matches("stopped").count() == 2);
    bundle.oci(["delete", "--regex", &pattern]).run().ok();
    assert_eq!(bundle.oci(["list", "-q"]).run().ok(), names[2]);
    bundle.oci(["delete", "--force", "--regex", "b1$"]).run().ok();
    bundle.oci(["kill", "--regex", "["]).run().fails(1);
}

#[test]
fn two_that_want_one_id_do_not_both_get_it() {
    let bundle = Bundle::sh("sleep 2");
    let start = Instant::now();
    let both = [(); 2].map(|()| bundle.oci(["run", bundle.id()]).start());
    let codes: Vec<i32> = both.map(|run| run.wait().code()).into();
    assert!(codes.contains(&0) && codes.contains(&1), "{codes:?} after {:?}", start.elapsed());
}
