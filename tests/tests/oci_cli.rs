//! The runtime's command line: words, options, exit codes, and how failures are told to engines.
#![forbid(unsafe_code)]

use std::fs;

use serde_json::{Value, json};
use tare_tests::bundle::{is_ours, runtime};
use tare_tests::{Bundle, Receiver};

/// The lines of a JSON log.
fn log(bundle: &Bundle) -> Vec<Value> {
    let text = fs::read_to_string(bundle.work("log")).expect("the log");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn the_version_is_what_engines_read() {
    let bundle = Bundle::new();
    for flag in ["--version", "-v"] {
        let version = bundle.oci([flag]).run().ok();
        let mut lines = version.lines();
        assert!(lines.next().is_some_and(|line| line.split(" version ").count() == 2), "{version}");
        assert!(lines.next().is_some_and(|line| line.starts_with("commit: ")), "{version}");
        assert!(lines.next().is_some_and(|line| line.starts_with("spec: 1.")), "{version}");
    }
}

#[test]
fn help_names_every_command_and_each_its_options() {
    let bundle = Bundle::new();
    let commands = [
        "checkpoint",
        "create",
        "delete",
        "events",
        "exec",
        "features",
        "kill",
        "list",
        "pause",
        "ps",
        "restore",
        "resume",
        "run",
        "spec",
        "start",
        "state",
        "update",
    ];
    let help = bundle.oci(["--help"]).run().ok();
    for command in commands {
        assert!(help.contains(command), "{command} in {help}");
        let page = bundle.oci([command, "--help"]).run().ok();
        assert!(page.contains(command), "{page}");
    }
    assert!(bundle.oci(["run", "--help"]).run().ok().contains("--preserve-fds"));
    assert!(bundle.oci(["help", "exec"]).run().ok().contains("--ignore-paused"));
}

#[test]
fn words_that_make_no_sense_are_refused() {
    let bundle = Bundle::new();
    let id = bundle.id();
    let table: [&[&str]; 11] = [
        &["nope"],
        &["--nope", "list"],
        &["run", "--nope", id],
        &["run"],
        &["run", id, "more"],
        &["state"],
        &["kill"],
        &["list", "--format", "xml"],
        &["--log-format", "xml", "list"],
        &["events", "--interval", "0s", id],
        &["run", "--pid-file"],
    ];
    for words in table {
        let out = bundle.oci(words).run();
        assert!(out.code() != 0 && !out.stderr().is_empty(), "{out:#?}");
    }
    assert!(!bundle.exists());
}

#[test]
fn contradictions_are_refused_by_ours() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::new();
    for global in [
        &["--systemd-cgroup", "--cgroup-manager", "cgroupfs"] as &[&str],
        &["--cgroup-manager", "none"],
        &["--rootless", "perhaps"],
        &["--log-level", "loud"],
        &["--log", "/nonexistent/folder/log"],
    ] {
        bundle.call(global, ["list"]).run().fails(1);
    }
}

#[test]
fn options_stand_before_and_after_the_id() {
    let bundle = Bundle::sh("exit 7");
    let (path, id) = (bundle.path(), bundle.id());
    let path = path.to_str().expect("text");
    let pid_file = bundle.work("pid");
    let pid = pid_file.to_str().expect("text");
    let table: [&[&str]; 5] = [
        &["run", "--bundle", path, "--pid-file", pid, id],
        &["run", id, "--bundle", path, "--pid-file", pid],
        &["run", "-b", path, id, "--pid-file", pid],
        &["run", "-bundle", path, "-pid-file", pid, id],
        &["run", "-bundle=./../bundle", "--pid-file=../files/pid", id],
    ];
    for words in table {
        bundle.oci(words).in_folder(&bundle.path()).run().fails(7);
        fs::remove_file(&pid_file).unwrap_or_else(|_| panic!("{words:?} writes the pid file"));
    }
}

#[test]
fn the_last_error_is_in_the_log_as_json() {
    let bundle = Bundle::new();
    let place = bundle.work("log");
    let global = ["--log", place.to_str().expect("text"), "--log-format", "json"];
    for (words, expected) in [
        (["state", "nope"], "container does not exist"),
        (["start", "nope"], "container does not exist"),
        (["pause", "nope"], "container does not exist"),
        (["delete", "nope"], "container does not exist"),
    ] {
        let out = bundle.call(&global, words).run();
        out.fails(1);
        out.complains_of(&[expected]);
        let lines = log(&bundle);
        let last = lines.last().expect("a line");
        assert_eq!(last["level"], "error", "{last}");
        assert!(last["msg"].as_str().is_some_and(|text| text.contains(expected)), "{last}");
        let time = last["time"].as_str().expect("a time");
        assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{time}");
    }
    assert_eq!(log(&bundle).iter().filter(|line| line["level"] == "error").count(), 4);
}

#[test]
fn the_log_as_text_is_runcs() {
    let bundle = Bundle::new();
    let place = bundle.work("log");
    bundle.call(&["--log", place.to_str().expect("text")], ["state", "nope"]).run().fails(1);
    let text = fs::read_to_string(&place).expect("the log");
    let line = text.lines().last().expect("a line");
    assert!(
        line.starts_with("time=\"20") && line.contains("level=error msg=\"container does not exist"),
        "{line}"
    );
}

#[test]
fn a_log_has_more_where_more_is_asked_for() {
    let bundle = Bundle::sh("true");
    let place = bundle.work("log");
    let place = place.to_str().expect("text");
    bundle.call(&["--debug", "--log", place, "--log-format", "json"], ["run", bundle.id()]).run().ok();
    assert!(log(&bundle).iter().any(|line| line["level"] == "debug"));
    if is_ours() {
        fs::remove_file(place).expect("removing the log");
        let place = format!("file:{place}");
        bundle.call(&["--log", &place], ["run", bundle.id()]).run().ok();
        assert_eq!(fs::read_to_string(bundle.work("log")).expect("the log"), "");
    }
}

#[test]
fn failures_have_parts_for_programs() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::new();
    fs::remove_file(bundle.path().join("config.json")).expect("removing config.json");
    let place = bundle.work("log");
    let global = ["--log", place.to_str().expect("text"), "--log-format", "json"];
    bundle
        .call(&global, ["run", bundle.id()])
        .run()
        .fails(1)
        .complains_of(&["config.json", "no such file or directory"]);
    let lines = log(&bundle);
    let last = lines.last().expect("a line");
    assert!(last["cause"].as_str().is_some_and(|cause| cause.contains("ENOENT")), "{last}");
    assert!(last["call"].is_string() && last["object"].is_string(), "{last}");
}

#[test]
fn ids_are_names_of_one_kind() {
    let bundle = Bundle::sh("true");
    let long = "x".repeat(1025);
    for id in ["", ".", "..", "a/b", "../x", "a b", "a\nb", "ä", &long] {
        let out = bundle.oci(["run"]).arg("--").arg(id).run();
        assert!(out.code() != 0, "{out:#?}");
    }
    for id in ["a", "A.b+c_d-9"] {
        let id = format!("{id}-{}", bundle.id());
        bundle.oci(["run", &id]).run().ok();
    }
}

#[test]
fn a_command_that_cannot_be_run_is_told_in_the_words_that_engines_know() {
    let table = [
        ("nope", &["nope", "executable file not found in $PATH"] as &[&str]),
        ("/nope", &["/nope", "no such file or directory"]),
        ("/etc/passwd", &["/etc/passwd", "permission denied"]),
    ];
    for (command, words) in table {
        let bundle = Bundle::new();
        bundle.config(|config| config["process"]["args"] = json!([command]));
        bundle.oci(["run", bundle.id()]).run().fails(1).complains_of(words);
        assert!(!bundle.exists(), "{command}");
        bundle.apart(bundle.oci(["run", "--detach", bundle.id()])).fails(1).complains_of(words);
        assert!(!bundle.exists(), "{command}");
    }
    let bundle = Bundle::new();
    bundle.config(|config| config["process"]["args"] = json!(["/bin"]));
    let out = bundle.oci(["run", bundle.id()]).run();
    let text = out.fails(1).stderr().to_lowercase();
    assert!(text.contains("is a directory") || text.contains("permission denied"), "{text}");
}

#[test]
fn a_working_directory_that_is_not_there_is_made() {
    let bundle = Bundle::sh("pwd");
    bundle.config(|config| {
        config["process"]["cwd"] = json!("/not/there");
        config["root"]["readonly"] = json!(true);
    });
    bundle.oci(["run", bundle.id()]).run().prints("/not/there");
}

#[test]
fn who_holds_a_terminal_is_settled_before_the_start() {
    let bundle = Bundle::new();
    let receiver = Receiver::new(&bundle, "socket");
    let without = ["cannot use console socket if", "will not detach or allocate tty"];
    for verb in ["create", "run"] {
        bundle
            .oci([verb, "--console-socket", receiver.name(), bundle.id()])
            .run()
            .fails(1)
            .complains_of(&without);
    }
    bundle.config(|config| config["process"]["terminal"] = json!(true));
    let with = ["cannot allocate tty if", "will detach without setting console socket"];
    bundle.oci(["create", bundle.id()]).run().fails(1).complains_of(&with);
    bundle.oci(["run", "--detach", bundle.id()]).run().fails(1).complains_of(&with);
    bundle
        .oci(["run", "--console-socket", receiver.name(), bundle.id()])
        .run()
        .fails(1)
        .complains_of(&without);
    assert!(!bundle.exists());
}

#[test]
fn a_broken_config_is_named_and_nothing_stays() {
    for text in ["", "{", "[]", "{\"ociVersion\":\"9.0.0\"}", "\"\u{1}\""] {
        let bundle = Bundle::new();
        fs::write(bundle.path().join("config.json"), text).expect("writing config.json");
        let out = bundle.oci(["run", bundle.id()]).run();
        assert!(out.code() != 0 && !out.stderr().contains("panicked"), "{text:?}: {out:#?}");
        assert!(!bundle.exists(), "{text:?}");
    }
}

#[test]
fn another_config_can_be_named() {
    if runtime().ends_with("runc") {
        return;
    }
    let bundle = Bundle::sh("exit 7");
    fs::rename(bundle.path().join("config.json"), bundle.work("other.json")).expect("moving config.json");
    let other = bundle.work("other.json");
    let other = other.to_str().expect("text");
    for flag in ["--config", "-f"] {
        bundle.oci(["run", flag, other, bundle.id()]).run().fails(7);
    }
}
