//! One more process in a container: as whom, where, with what, and what comes back.
#![forbid(unsafe_code)]

use std::fs;

use rustix::process::Signal;
use serde_json::json;
use tare_tests::bundle::is_ours;
use tare_tests::{Bundle, Receiver, Terminal, eventually};

fn running() -> Bundle {
    let bundle = Bundle::new();
    bundle.detached(&[]);
    bundle
}

#[test]
fn exit_code_output_and_input_come_through() {
    let bundle = running();
    let out = bundle.exec(&[], "echo out; echo error >&2; exit 7");
    out.fails(7);
    assert_eq!((out.stdout().as_str(), out.stderr()), ("out", "error\n"));
    assert_eq!(bundle.exec(&[], "kill -9 $$").code(), 128 + 9);
    bundle.oci(["exec", bundle.id(), "cat"]).stdin("words").run().prints("words");
}

#[test]
fn words_after_the_id_belong_to_the_command() {
    let bundle = running();
    bundle
        .oci(["exec", bundle.id(), "echo", "-t", "--user", "5", "--", "-e"])
        .run()
        .prints("-t --user 5 -- -e");
    if is_ours() {
        bundle.oci(["exec", bundle.id(), "--", "echo", "x"]).run().prints("x");
    }
}

#[test]
fn what_cannot_be_started_is_told_in_the_words_that_engines_know() {
    let bundle = running();
    let table = [
        ("nope", &["nope", "executable file not found in $PATH"] as &[&str]),
        ("/nope", &["/nope", "no such file or directory"]),
        ("/etc/passwd", &["/etc/passwd", "permission denied"]),
    ];
    for (command, words) in table {
        bundle.oci(["exec", bundle.id(), command]).run().fails(255).complains_of(words);
    }
    let place = bundle.work("log");
    let global = ["--log", place.to_str().expect("text"), "--log-format", "json"];
    bundle.call(&global, ["exec", bundle.id(), "nope"]).run().fails(255);
    let text = fs::read_to_string(&place).expect("the log");
    assert!(
        text.contains("\"level\":\"error\"") && text.contains("executable file not found in $PATH"),
        "{text}"
    );
    bundle.oci(["exec", "--cwd", "/nope", bundle.id(), "true"]).run().fails(255).complains_of(&[
        "chdir to cwd",
        "/nope",
        "no such file or directory",
    ]);
    assert_eq!(bundle.status(), "running");
}

#[test]
fn options_say_who_and_where() {
    let bundle = running();
    let out = bundle.exec(&["--user", "1000:50", "-g", "20", "-g", "21"], "id -u; id -g; id -G");
    assert_eq!(out.ok(), "1000\n50\n50 20 21");
    assert_eq!(
        bundle.exec(&["-u", "1000"], "id -u; id -g").ok(),
        "1000\n0",
        "without a group it keeps the container's"
    );
    assert_eq!(bundle.exec(&["--cwd", "/tmp"], "pwd").ok(), "/tmp");
    assert_eq!(bundle.exec(&["--env", "A=1", "--env=B=two words"], "echo $A $B").ok(), "1 two words");
    assert!(bundle.exec(&["--no-new-privs"], "grep NoNewPrivs /proc/self/status").ok().ends_with('1'));
}

#[test]
fn users_are_given_by_number_alone() {
    let bundle = running();
    for user in ["nobody", "", "-1", "1:", ":1", "0x1", "1:2:3", "1.5"] {
        let out = bundle.oci(["exec", &format!("--user={user}"), bundle.id(), "true"]).run();
        // An empty one is as good as none for runc.
        assert!(out.code() != 0 || user.is_empty() && !is_ours(), "{user:?}: {out:#?}");
    }
    if is_ours() {
        // CVE-2026-30892: spaces and signs, numbers that wrap round to 0, and the one that means "as it is".
        for user in ["+1", " 1", "4294967295", "4294967296", "1:4294967296"] {
            bundle.oci(["exec", "--user", user, bundle.id(), "true"]).run().fails(255);
        }
    }
}

fn capability(text: &str, set: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(set)).expect("a line of capabilities");
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect("a number")
}

#[test]
fn capabilities_are_the_containers_and_those_that_are_added() {
    const RAW: u64 = 1 << 13;
    const KILL: u64 = 1 << 5;
    let bundle = running();
    let own = bundle.exec(&[], "cat /proc/self/status").ok();
    let more = bundle.exec(&["--cap", "CAP_NET_RAW"], "cat /proc/self/status").ok();
    for set in ["CapBnd", "CapEff", "CapPrm"] {
        assert_eq!(capability(&own, set) & (RAW | KILL), KILL, "{set}");
        assert_eq!(capability(&more, set) & (RAW | KILL), RAW | KILL, "{set}");
    }
    // CVE-2022-29162
    assert_eq!(capability(&more, "CapInh"), capability(&own, "CapInh"));
}

#[test]
fn the_containers_own_process_is_the_base() {
    let bundle = Bundle::new();
    bundle.config(|config| {
        config["process"]["user"] = json!({ "uid": 1000, "gid": 50, "additionalGids": [20], "umask": 0o27 });
        config["process"]["cwd"] = json!("/tmp");
        config["process"]["env"] = json!(["PATH=/bin", "OWN=yes"]);
        config["process"]["noNewPrivileges"] = json!(true);
    });
    bundle.detached(&[]);
    let out =
        bundle.exec(&[], "id -u; id -g; id -G; umask; pwd; echo $OWN; grep NoNewPrivs /proc/self/status");
    let text = out.ok();
    // runc 1.1 has its own umask here.
    let mask = if is_ours() { "0027" } else { "0022" };
    assert!(text.starts_with(&format!("1000\n50\n50 20\n{mask}\n/tmp\nyes\n")), "{text}");
    assert!(text.ends_with('1'), "{text}");
}

#[test]
fn a_file_describes_the_process() {
    let bundle = running();
    let process = json!({
        "user": { "uid": 1000, "gid": 50 },
        "args": ["sh", "-c", "id -u; pwd; echo $A; exit 5"],
        "env": ["PATH=/bin", "A=b"],
        "cwd": "/tmp",
    });
    let file = bundle.work("process.json");
    fs::write(&file, process.to_string()).expect("a file");
    for flag in ["--process", "-p"] {
        let out = bundle.oci(["exec", flag]).arg(&file).arg(bundle.id()).run();
        assert_eq!(out.fails(5).stdout(), "1000\n/tmp\nb");
    }
    // A pipe can be read only once.
    let out = bundle.oci(["exec", "-p", "/dev/stdin", bundle.id()]).stdin(process.to_string()).run();
    assert_eq!(out.fails(5).stdout(), "1000\n/tmp\nb");
    for text in
        ["", "{", "[]", "{\"args\":[],\"cwd\":\"/\"}", "{\"args\":[\"true\"],\"cwd\":\"x\",\"user\":{}}"]
    {
        fs::write(&file, text).expect("a file");
        let out = bundle.oci(["exec", "-p"]).arg(&file).arg(bundle.id()).run();
        assert!(out.code() != 0 && !out.stderr().contains("panicked"), "{text}: {out:#?}");
    }
    bundle.oci(["exec", "-p", "/nonexistent", bundle.id()]).run().fails(255);
    bundle.oci(["exec", bundle.id()]).run().fails(255);
}

#[test]
fn a_detached_process_goes_on_and_its_number_is_written() {
    let bundle = running();
    let pid_file = bundle.work("pid");
    bundle
        .apart(bundle.oci(["exec", "--detach", "--pid-file"]).arg(&pid_file).args([
            bundle.id(),
            "sleep",
            "601",
        ]))
        .ok();
    let pid: i32 = fs::read_to_string(&pid_file).expect("the pid file").parse().expect("a number");
    let process = tare_tests::process::Process::by_id(pid).expect("the process");
    eventually("it is the command", || process.command().contains("sleep 601"));
    bundle.verb("kill", &["KILL"]).run().ok();
    eventually("it ends with the container", || !process.is_alive());
}

#[test]
fn signals_reach_the_process() {
    let bundle = running();
    let file = fs::File::create(bundle.work("out")).expect("a file");
    let script = "trap 'echo term; exit 5' TERM; echo on; while :; do sleep 0.05; done";
    let mut call = bundle.oci(["exec", bundle.id(), "sh", "-c", script]).into_command();
    let mut exec = call.stdout(file).spawn().expect("starting the runtime");
    eventually("it runs", || fs::read_to_string(bundle.work("out")).is_ok_and(|text| text == "on\n"));
    tare_tests::process::signal(exec.id().cast_signed(), Signal::TERM);
    assert_eq!(exec.wait().expect("its end").code(), Some(5));
    assert_eq!(bundle.status(), "running");
}

#[test]
fn a_terminal_is_passed_and_given_back_as_it_was() {
    let bundle = running();
    let script = "[ -t 0 ] && tty; stty size; read line; echo got-$line; exit 4";
    let mut terminal =
        Terminal::start(bundle.oci(["exec", "--tty", bundle.id(), "sh", "-c", script]), 31, 99);
    terminal.expect("/dev/pts/");
    terminal.types("words\r");
    terminal.expect("got-words");
    assert_eq!(terminal.wait(), 4);
    terminal.is_restored();
}

#[test]
fn what_a_terminals_process_leaves_behind_does_not_hold_up_the_caller() {
    let bundle = running();
    let script = "sleep 601 & echo last; exit 3";
    let mut terminal = Terminal::start(bundle.oci(["exec", "-t", bundle.id(), "sh", "-c", script]), 24, 80);
    terminal.expect("last");
    assert_eq!(terminal.wait(), 3);
    terminal.is_restored();
}

#[test]
fn a_console_socket_gets_the_terminal() {
    let bundle = running();
    let receiver = Receiver::new(&bundle, "console");
    let flags =
        ["exec", "--tty", "--detach", "--console-socket", receiver.name(), bundle.id(), "sleep", "601"];
    bundle.apart(bundle.oci(flags)).ok();
    assert!(rustix::termios::isatty(receiver.receive().1));
    bundle
        .oci(["exec", "--tty", "--detach", bundle.id(), "true"])
        .run()
        .fails(255)
        .complains_of(&["cannot allocate tty if"]);
    let flags = ["exec", "--console-socket", receiver.name(), bundle.id(), "true"];
    bundle.oci(flags).run().fails(255).complains_of(&["cannot use console socket if"]);
}

#[test]
fn files_are_passed_on_as_asked() {
    let bundle = running();
    fs::write(bundle.work("three"), "three\n").expect("a file");
    let script = "exec 3<../files/three 4</etc/passwd; exec \"$@\"";
    let inside = "cat <&3; [ -e /proc/self/fd/4 ] || echo no four";
    let words = ["exec", "--preserve-fds", "1", bundle.id(), "sh", "-c", inside];
    bundle.by_shell(script, words).run().prints("three\nno four");
    if !is_ours() {
        // runc hands out files of its own.
        return;
    }
    let words = ["exec", "--preserve-fds", "2", bundle.id(), "true"];
    let out = bundle.by_shell("exec 3<../files/three; exec \"$@\"", words).run();
    assert_ne!(out.code(), 0, "{out:#?}");
}

#[test]
fn in_a_paused_container_it_waits_if_asked() {
    let bundle = running();
    bundle.verb("pause", &[]).run().ok();
    bundle.exec(&[], "true").fails(255).complains_of(&["cannot exec in a paused container"]);
    let file = fs::File::create(bundle.work("out")).expect("a file");
    let mut call = bundle.oci(["exec", "--ignore-paused", bundle.id(), "echo", "on"]).into_command();
    let mut exec = call.stdout(file).spawn().expect("starting the runtime");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(exec.try_wait().expect("a child of our own").is_none(), "it should wait");
    bundle.verb("resume", &[]).run().ok();
    assert!(exec.wait().expect("its end").success());
    assert_eq!(fs::read_to_string(bundle.work("out")).expect("the output"), "on\n");
}

#[test]
fn a_process_that_ends_at_once_does_not_hang_the_caller() {
    let bundle = running();
    for _ in 0..20 {
        bundle.oci(["exec", bundle.id(), "true"]).run().ok();
    }
}

#[test]
fn a_process_added_later_has_the_containers_personality() {
    let bundle = Bundle::new();
    bundle.config(|config| config["linux"]["personality"] = json!({ "domain": "LINUX32" }));
    bundle.detached(&[]);
    let out = bundle.exec(&[], "uname -m").ok();
    assert!(out == "i686" || !cfg!(target_arch = "x86_64"), "{out}");
}
