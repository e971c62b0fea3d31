//! `--log-driver journald`: output in the system's journal, as Docker puts it there. Where no journald runs there is nothing to
//! see, and the tests say so; `cargo xtask test --only vm` boots one.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tare_tests::machine::is_throw_away;
use tare_tests::process::{Process, signal};
use tare_tests::{Host, eventually};

const DRIVER: [&str; 2] = ["--log-driver", "journald"];

fn has_journal() -> bool {
    let has = Path::new("/run/systemd/journal/socket").exists();
    if !has {
        eprintln!("not run: no journald here");
    }
    has
}

/// What the journal has with these fields.
fn entries(fields: &[&str]) -> Vec<Value> {
    let out = Command::new("journalctl").args(["-q", "--all", "-o", "json"]).args(fields).output();
    let out = out.expect("journalctl");
    let text = String::from_utf8(out.stdout).expect("JSON");
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// The same of one container, as soon as it is so much.
#[track_caller]
fn entries_of(id: &str, count: usize) -> Vec<Value> {
    let field = format!("CONTAINER_ID_FULL={id}");
    let mut found = Vec::new();
    eventually("the journal has it all", || {
        found = entries(&[&field]);
        found.len() >= count
    });
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

/// A container that ran to its end.
#[track_caller]
fn ended(host: &Host, flags: &[&str], script: &str) -> String {
    let id = host.detached(&[&DRIVER, flags].concat(), script);
    eventually("it ends", || host.status(&id) == "exited");
    id
}

#[test]
fn each_line_is_an_entry_with_dockers_fields() {
    if !has_journal() {
        return;
    }
    let host = Host::new();
    let name = format!("fields-{}", std::process::id());
    let flags = [
        &["--name", &name, "--label", "com.team=blue", "-e", "STAGE=test"],
        &["--log-opt", "labels=com.team", "--log-opt", "env=STAGE", "--log-opt", "tag={{.Name}}/x"][..],
    ];
    let id = ended(&host, &flags.concat(), "echo to out; echo to err >&2");
    let mut found = entries_of(&id, 2);
    // Two streams have no order.
    found.sort_by_key(|entry| entry["MESSAGE"].as_str() != Some("to out"));
    for (entry, message, priority) in [(&found[0], "to out", "6"), (&found[1], "to err", "3")] {
        for (field, value) in [
            ("MESSAGE", message),
            ("PRIORITY", priority),
            ("CONTAINER_ID", &id[..12]),
            ("CONTAINER_ID_FULL", &id),
            ("CONTAINER_NAME", &name),
            ("CONTAINER_TAG", &format!("{name}/x")),
            ("SYSLOG_IDENTIFIER", &format!("{name}/x")),
            ("IMAGE_NAME", "busybox"),
            ("COM_TEAM", "blue"),
            ("STAGE", "test"),
            ("_TRANSPORT", "journal"),
        ] {
            assert_eq!(entry[field], value, "{field} of {entry:#}");
        }
    }
    // As people look for them, and by the priority.
    let by_name = format!("CONTAINER_NAME={name}");
    assert_eq!(entries(&[&by_name]).len(), 2);
    let errors = entries(&["-p", "err", &by_name]);
    assert!(matches!(&errors[..], [entry] if entry["MESSAGE"] == "to err"), "{errors:#?}");
    // A container that says nothing else goes by the first digits of its id.
    let id = ended(&host, &[], "echo x");
    assert_eq!(entries_of(&id, 1)[0]["CONTAINER_TAG"], id[..12]);
}

#[test]
fn what_is_in_the_journal_is_read_by_logs_as_well() {
    if !has_journal() {
        return;
    }
    let host = Host::new();
    let script = "echo one; echo two >&2; while [ ! -e /go ]; do sleep 0.1; done; echo three; printf end";
    let id = host.detached(&DRIVER, script);
    let follower = host.tare(["logs", "-f", &id]).start();
    eventually("two lines are there", || {
        let out = host.tare(["logs", &id]).run();
        out.stdout() == "one" && out.stderr() == "two\n"
    });
    // The container may end, and take it along, before it has.
    host.tare(["exec", &id, "touch", "/go"]).run();
    let all = follower.wait();
    assert_eq!((all.ok().as_str(), all.stderr()), ("one\nthree\nend", "two\n"));
    host.tare(["logs", "--tail", "2", &id]).run().prints("three\nend");
    let times = host.tare(["logs", "-t", &id]).run().ok();
    let time = |line: usize| times.lines().nth(line).and_then(|line| line.split(' ').next()).expect("a time");
    assert_eq!(host.tare(["logs", "--until", time(0), &id]).run().stdout(), "one");
    assert_eq!(host.tare(["logs", "--since", time(1), &id]).run().stdout(), "three\nend");
    let found = entries_of(&id, 4);
    let said = |text: &str| found.iter().find(|entry| entry["MESSAGE"] == text).expect("an entry");
    // The time of the entry is when the line came, to the nanosecond, as in our own file.
    assert_eq!(said("one")["SYSLOG_TIMESTAMP"], time(0));
    assert_eq!(said("end")["CONTAINER_PARTIAL_MESSAGE"], "true");
}

#[test]
fn long_lines_come_in_pieces_and_bytes_as_they_are() {
    if !has_journal() {
        return;
    }
    let host = Host::new();
    let id =
        ended(&host, &[], "head -c 40000 /dev/zero | tr '\\0' a; echo; printf 'b\\377\\001c\\n'; echo last");
    let found = entries_of(&id, 5);
    let pieces: Vec<(usize, bool)> = found[..3]
        .iter()
        .map(|entry| {
            let text = entry["MESSAGE"].as_str().expect("text");
            assert!(text.bytes().all(|byte| byte == b'a'));
            (text.len(), entry["CONTAINER_PARTIAL_MESSAGE"] == "true")
        })
        .collect();
    assert_eq!(pieces, [(16384, true), (16384, true), (40000 - 2 * 16384, false)]);
    // What is no text journalctl shows as its bytes.
    assert_eq!(found[3]["MESSAGE"], serde_json::json!([98, 255, 1, 99]));
    assert_eq!(found[4]["MESSAGE"], "last");
}

#[test]
fn a_journal_that_hangs_holds_up_nobody_and_one_that_is_back_goes_on() {
    if !has_journal() || !is_throw_away() {
        return;
    }
    let host = Host::new();
    let script = "while [ ! -e /go ]; do sleep 0.1; done; seq 3000; while [ ! -e /more ]; do sleep 0.1; done; \
        echo after; exec sleep 600";
    let id = host.detached(&DRIVER, script);
    let journald = || {
        let all = Process::all().into_iter();
        all.filter(|process| process.file("comm").trim() == "systemd-journal")
            .map(|process| process.id)
            .next()
    };
    let stopped = journald().expect("journald runs");
    signal(stopped, Signal::STOP);
    let whole = || {
        host.tare(["exec", &id, "touch", "/go"]).run().ok();
        // More than the journal's socket takes without being read.
        eventually("its own file has all of it", || host.tare(["logs", &id]).run().ok().ends_with("\n3000"));
        assert_eq!(host.tare(["logs", &id]).run().ok().lines().count(), 3000);
        host.tare(["exec", &id, "true"]).run().ok();
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(whole));
    signal(stopped, Signal::CONT);
    if let Err(why) = result {
        std::panic::resume_unwind(why);
    }
    let restarted = Command::new("systemctl").args(["restart", "systemd-journald"]).status();
    assert!(restarted.expect("systemctl").success());
    assert_ne!(journald(), Some(stopped));
    host.tare(["exec", &id, "touch", "/more"]).run().ok();
    let field = format!("CONTAINER_ID_FULL={id}");
    eventually("the journal goes on", || {
        entries(&[&field, "-n", "1"]).iter().any(|entry| entry["MESSAGE"] == "after")
    });
    host.tare(["rm", "-f", &id]).run().ok();
}
