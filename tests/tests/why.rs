//! What `tare why` says, and the short form of it elsewhere.
#![forbid(unsafe_code)]

use rustix::process::Signal;
use tare_tests::{Host, eventually};

fn why(host: &Host, name: &str) -> String {
    host.tare(["why", name]).run().ok()
}

#[test]
fn a_lack_of_memory_is_told_with_its_limit() {
    let host = Host::new();
    host.detached(&["--name", "hungry", "-m", "16m"], "tail /dev/zero");
    eventually("it ends", || host.status("hungry") == "exited");
    let said = why(&host, "hungry");
    assert!(said.contains("for want of memory") && said.contains("limit 16.0 MiB"), "{said}");
    assert!(said.contains("hint: give it a larger --memory"), "{said}");
    let table = host.tare(["ps", "-a"]).run().ok();
    assert!(table.contains("Exited (137)") && table.contains("(out of memory)"), "{table}");
    assert_eq!(host.inspect("hungry")["State"]["Error"], "out of memory");
}

#[test]
fn the_last_lines_stand_beside_an_exit_code() {
    let host = Host::new();
    host.detached(&["--name", "broken"], "echo no config >&2; exit 3");
    eventually("it ends", || host.status("broken") == "exited");
    let said = why(&host, "broken");
    assert!(said.starts_with("broken: its main process exited with code 3\n"), "{said}");
    assert!(said.contains("no config"), "{said}");
    host.tare(["why", "--format", "{{.Name}} {{len .Log}}", "broken"]).run().prints("broken 1");
}

#[test]
fn a_deaf_container_was_killed_when_its_time_was_up() {
    let host = Host::new();
    host.detached(&["--name", "deaf"], "trap '' TERM; sleep 60 & while :; do wait; done");
    host.tare(["stop", "-t", "1", "deaf"]).run().ok();
    let said = why(&host, "deaf");
    assert!(said.contains("its time was up") && said.contains("--stop-timeout"), "{said}");
    assert!(
        said.contains("SIGTERM") && said.contains("SIGKILL") && said.contains("stop by tare stop, run by"),
        "{said}"
    );
}

#[test]
fn who_sent_a_signal_is_told() {
    let host = Host::new();
    let told = |name: &str, wanted: &str| {
        eventually("it ends", || host.status(name) == "exited");
        let said = why(&host, name);
        assert!(said.contains(wanted), "{wanted}: {said}");
        let query = [
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "-f",
            "event=kill",
            "-f",
            &format!("container={name}"),
        ];
        host.tare(query)
            .args(["--format", "{{.Actor.Attributes.signal}} {{.Actor.Attributes.by}}"])
            .run()
            .ok()
    };
    for (name, words, wanted) in [
        ("one", &["kill"][..], "9 tare kill (pid "),
        ("two", &["container", "stop", "-s", "KILL"], "9 tare container stop (pid "),
        ("three", &["kill", "-s", "KILL"], "9 tare kill (pid "),
    ] {
        host.detached(&["--name", name], "sleep 60");
        host.tare(words.iter().copied()).arg(name).run().ok();
        let events = told(name, &format!("it was ended by SIGKILL, sent by {}", &wanted[2..]));
        assert!(events.starts_with(wanted) && events.contains(", uid 0), run by "), "{events}");
    }
    // A foreground command that passes a signal on: not what it was given.
    host.busybox();
    let words = ["run", "--name", "four", "--init", "-e", "SECRET=x", "busybox", "sleep", "60"];
    let running = host.tare(words).start();
    eventually("it runs", || !host.tare(["ps", "-q", "-f", "name=four"]).run().stdout().is_empty());
    running.signal(Signal::TERM);
    running.wait().fails(143);
    let events = told("four", "it was ended by SIGTERM, sent by tare run (pid ");
    assert!(!events.contains("SECRET"), "{events}");
    let check = ["--health-cmd", "false", "--health-interval", "50ms", "--health-retries", "1"];
    host.detached(&[&["--name", "five", "--health-on-failure", "kill"][..], &check].concat(), "sleep 60");
    told("five", "it was ended by SIGKILL, sent by tare, because its health check failed");
    host.detached(&["--name", "six"], "trap '' TERM; echo on; while :; do sleep 0.1; done");
    eventually("it is on", || host.tare(["logs", "six"]).run().stdout() == "on");
    host.tare(["stop", "-t", "1", "six"]).run().ok();
    let events = told("six", "sent by tare, because its time to stop was up");
    assert!(events.contains("15 tare stop (pid ") && events.contains("9 tare, because"), "{events}");
    // Somebody else on the host.
    host.detached(&["--name", "seven"], "sleep 60");
    tare_tests::process::signal(host.pid("seven"), Signal::KILL);
    assert_eq!(told("seven", "not by tare"), "");
}

#[test]
fn what_cannot_start_says_what_is_wrong_with_its_program() {
    let host = Host::new();
    host.busybox();
    for (name, content, part) in [
        ("crlf", "#!/bin/sh\r\necho hi\r\n", "carriage return (CRLF"),
        ("snake", "#!/usr/bin/python3\nprint()\n", "script for /usr/bin/python3, which is not in the image"),
        ("bare", "echo hi\n", "without a first line like #!/bin/sh"),
        ("empty", "", "is empty"),
    ] {
        let file = host.file(name, content);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("making it executable");
        let bind = format!("{}:/x", file.display());
        let failed = host.tare(["run", "--rm", "-v", &bind, "busybox", "/x"]).run();
        assert!([126, 127].contains(&failed.code()), "{failed:?}");
        failed.complains_of(&[part]);
        host.tare(["create", "--name", name, "-v", &bind, "busybox", "/x"]).run().ok();
        assert_ne!(host.tare(["start", name]).run().code(), 0);
        let said = why(&host, name);
        assert!(said.contains("could not be started") && said.contains(part), "{said}");
        assert!(host.tare(["ps", "-a", "-f", &format!("name={name}")]).run().ok().contains("(cannot start)"));
    }
}

#[test]
fn one_that_runs_runs() {
    let host = Host::new();
    host.detached(&["--name", "up"], "sleep 60");
    assert!(why(&host, "up").starts_with("up: it runs\n"));
    host.tare(["why", "nobody"]).run().fails(1).complains_of(&["nobody"]);
}
