//! Health checks: what they see, who is told, and what follows.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tare_tests::process::{Process, eventually_or_tell};
use tare_tests::{Host, eventually, stretched};

/// Quick enough for a test.
const QUICK: [&str; 2] = ["--health-interval", "100ms"];

fn health(host: &Host, name: &str) -> Value {
    host.inspect(name)["State"]["Health"].clone()
}

#[track_caller]
fn becomes(host: &Host, name: &str, word: &str) {
    let what = format!("{name} is {word}");
    eventually_or_tell(
        &what,
        || health(host, name)["Status"] == word,
        || {
            let ours = Process::all().into_iter().map(|process| process.command());
            let ours = ours.filter(|command| command.contains(&host.root().display().to_string()));
            format!("{}\n{:#?}", host.inspect(name)["State"], ours.collect::<Vec<_>>())
        },
    );
}

fn status(host: &Host, name: &str) -> String {
    host.tare(["ps", "-a", "--filter", &format!("name=^{name}$"), "--format", "{{.Status}}"]).run().ok()
}

fn events(host: &Host, name: &str) -> String {
    let filters = ["--filter", "event=health_status", "--filter", &format!("container={name}")];
    host.tare(["events", "--since", "0", "--until", "0s", "--format", "{{.Action}}"]).args(filters).run().ok()
}

#[test]
fn it_follows_what_the_command_says() {
    let host = Host::new();
    let command = ["--health-cmd", "echo looked; echo for it >&2; test -e /ready", "--health-retries", "2"];
    host.detached(&[&["--name", "box"][..], &command, &QUICK].concat(), "sleep 60");
    becomes(&host, "box", "unhealthy");
    assert!(status(&host, "box").ends_with(" (unhealthy)"), "{}", status(&host, "box"));
    host.tare(["exec", "box", "touch", "/ready"]).run().ok();
    becomes(&host, "box", "healthy");
    assert!(status(&host, "box").ends_with(" (healthy)"), "{}", status(&host, "box"));
    eventually("only the last five are kept", || {
        health(&host, "box")["Log"].as_array().is_some_and(|log| log.len() == 5 && log[0]["ExitCode"] == 0)
    });
    let known = health(&host, "box");
    assert_eq!(known["FailingStreak"], 0);
    let last = &known["Log"][4];
    assert_eq!((&last["ExitCode"], &last["Output"]), (&0.into(), &"looked\nfor it\n".into()));
    assert!(last["Start"].as_str() < last["End"].as_str(), "{last}");
    for (filter, shown) in [("healthy", "box"), ("unhealthy", ""), ("none", "")] {
        let filter = format!("health={filter}");
        host.tare(["ps", "--filter", &filter, "--format", "{{.Names}}"]).run().prints(shown);
    }
    assert_eq!(events(&host, "box"), "health_status: unhealthy\nhealth_status: healthy");
    let check = &host.inspect("box")["Config"]["Healthcheck"];
    let test = serde_json::json!(["CMD-SHELL", command[1]]);
    assert_eq!((&check["Test"], &check["Interval"]), (&test, &100_000_000.into()));
    host.tare(["stop", "-t", "0", "box"]).run().ok();
    assert_eq!(health(&host, "box")["Log"].as_array().map(Vec::len), Some(5), "it is still told afterwards");
    assert!(status(&host, "box").starts_with("Exited"));
}

#[test]
fn failures_do_not_count_while_it_starts() {
    let host = Host::new();
    let flags = ["--health-start-period", "1h", "--health-start-interval", "100ms", "--health-retries", "1"];
    let command = ["--name", "box", "--health-cmd", "test -e /ready"];
    host.detached(&[&command[..], &flags].concat(), "sleep 60");
    eventually("it was looked at", || {
        health(&host, "box")["Log"].as_array().is_some_and(|log| log.len() > 2)
    });
    let known = health(&host, "box");
    assert_eq!((&known["Status"], &known["FailingStreak"]), (&"starting".into(), &0.into()));
    assert!(status(&host, "box").ends_with(" (health: starting)"), "{}", status(&host, "box"));
    host.tare(["exec", "box", "touch", "/ready"]).run().ok();
    becomes(&host, "box", "healthy");
}

#[test]
fn a_check_that_takes_too_long_is_killed_with_all_it_started() {
    let host = Host::new();
    let command = "echo half; (trap '' TERM; sleep 4711) & setsid sleep 4711; sleep 4711";
    let flags = ["--name", "box", "--health-cmd", command, "--health-timeout", "300ms"];
    host.detached(&[&flags[..], &["--health-retries", "1"], &QUICK].concat(), "sleep 60");
    becomes(&host, "box", "unhealthy");
    let last = health(&host, "box")["Log"][0].clone();
    assert_eq!(last["ExitCode"], -1);
    assert_eq!(last["Output"], "Health check exceeded timeout (300ms): half\n");
    eventually("no more than the one under way is left", || {
        let sleepers = host.tare(["exec", "box", "sh", "-c", "ps | grep -c '[s]leep 4711'; true"]).run();
        sleepers.stdout().trim().parse().is_ok_and(|count: u32| count <= 6)
            && health(&host, "box")["FailingStreak"].as_u64().is_some_and(|streak| streak >= 4)
    });
}

#[test]
fn a_check_that_hangs_or_floods_holds_nobody_up() {
    let host = Host::new();
    host.detached(&[&["--name", "box", "--health-cmd", "yes"][..], &QUICK].concat(), "exec sleep 60");
    eventually("a check is under way", || {
        host.tare(["exec", "box", "ps"]).run().stdout().lines().any(|line| line.ends_with(" yes"))
    });
    let start = Instant::now();
    host.tare(["stop", "-t", "0", "box"]).run().ok();
    assert!(start.elapsed() < stretched(Duration::from_secs(1)), "{:?}", start.elapsed());
    let flood = ["--health-cmd", "yes | head -c 100000", "--health-retries", "1"];
    host.detached(&[&["--name", "flood"][..], &flood, &QUICK].concat(), "sleep 60");
    becomes(&host, "flood", "healthy");
    let output = health(&host, "flood")["Log"][0]["Output"].as_str().unwrap().to_owned();
    assert_eq!((output.len(), output.ends_with("...")), (4096 + 3, true));
}

/// Stands for an init that reaps nothing: waits until three checks have failed, and tells which of their processes have
/// been left to it.
const LEFT_TO_INIT: &str = r#"
import ctypes, os, subprocess, sys, time
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
tare = sys.argv[1]
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
ask = [tare, 'inspect', '-f', '{{.State.Health.FailingStreak}}', 'box']
while int(subprocess.run(ask, check=True, capture_output=True).stdout) < 3:
    time.sleep(0.02)
for number in filter(str.isdigit, os.listdir('/proc')):
    try:
        name, rest = open(f'/proc/{number}/stat').read().split(' (', 1)[1].rsplit(') ', 1)
    except FileNotFoundError:
        continue
    if int(rest.split()[1]) == os.getpid() and rest[0] == 'Z':
        print(name)
"#;

#[test]
fn a_check_that_takes_too_long_leaves_nothing_to_the_hosts_init() {
    let host = Host::new();
    host.busybox();
    let words = ["run", "-d", "--name", "box", "--health-cmd", "yes", "--health-timeout", "100ms"];
    host.wrapped(&["python3", "-c", LEFT_TO_INIT], words)
        .args(QUICK)
        .args(["busybox", "sleep", "600"])
        .run()
        .prints("");
}

#[test]
fn an_unhealthy_one_is_killed_restarted_or_stopped_on_request() {
    let host = Host::new();
    let start = |name: &str, action: &str, more: &[&str]| {
        let flags = ["--name", name, "--health-cmd", "test ! -e /ill", "--health-on-failure", action];
        let flags = [&flags[..], &["--health-retries", "1", "--stop-timeout", "0"], &QUICK, more].concat();
        host.detached(&flags, "test -e /was && rm -f /ill; touch /was; exec sleep 60");
        becomes(&host, name, "healthy");
        host.tare(["exec", name, "touch", "/ill"]).run().ok();
    };
    start("killed", "kill", &[]);
    eventually("it is killed", || host.status("killed") == "exited");
    assert_eq!(host.inspect("killed")["State"]["ExitCode"], 137);
    assert_eq!(health(&host, "killed")["Status"], "unhealthy");
    start("again", "kill", &["--restart", "on-failure"]);
    eventually("its policy starts it again", || host.inspect("again")["RestartCount"] == 1);
    becomes(&host, "again", "healthy");
    start("stopped", "stop", &["--restart", "always"]);
    eventually("it is stopped for good", || host.status("stopped") == "exited");
    start("restarted", "restart", &[]);
    let healthy = "health_status: healthy";
    let story = [healthy, "health_status: unhealthy", healthy].join("\n");
    eventually("it is restarted and well", || events(&host, "restarted") == story);
    assert_eq!(host.inspect("restarted")["RestartCount"], 0);
}

#[test]
fn what_cannot_be_run_is_a_failure_that_says_why() {
    let host = Host::new();
    // Nothing to hand the script to.
    let flags = ["--name", "box", "--health-cmd", "true", "--health-retries", "1"];
    host.detached(&[&flags[..], &QUICK].concat(), "rm /bin/sh; exec sleep 60");
    becomes(&host, "box", "unhealthy");
    let last = health(&host, "box")["Log"][0].clone();
    assert_eq!(last["ExitCode"], -1, "{last}");
    assert!(last["Output"].as_str().is_some_and(|output| output.contains("/bin/sh")), "{last}");
}

#[test]
fn a_new_monitor_goes_on_checking_and_a_paused_container_is_let_be() {
    let host = Host::new();
    let command = ["--name", "box", "--health-cmd", "test ! -e /ill", "--health-retries", "1"];
    host.detached(&[&command[..], &QUICK].concat(), "sleep 60");
    becomes(&host, "box", "healthy");
    host.tare(["pause", "box"]).run().ok();
    let frozen = health(&host, "box")["Log"].clone();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(health(&host, "box")["Log"], frozen);
    host.tare(["unpause", "box"]).run().ok();
    eventually("it is looked at again", || health(&host, "box")["Log"] != frozen);
    let name = format!("tare-monitor\0{}\0", host.root().display());
    let monitors = || Process::all().into_iter().filter(|process| process.file("cmdline").starts_with(&name));
    eventually("the monitor has made itself small", || monitors().count() == 1);
    monitors().for_each(|process| tare_tests::process::signal(process.id, Signal::KILL));
    host.tare(["exec", "box", "touch", "/ill"]).run().ok();
    becomes(&host, "box", "unhealthy");
}

#[test]
fn the_images_check_is_run_unless_it_is_not_wanted() {
    let host = Host::new();
    // What the container was given goes over to the image.
    let own = ["--name", "base", "--health-cmd", "test -e /ready", "--health-retries", "1"];
    host.detached(&[&own[..], &QUICK].concat(), "sleep 60");
    host.tare(["commit", "base", "checked"]).run().ok();
    let run =
        |flags: &[&str]| host.tare(["run", "-d"]).args(flags).args(["checked", "sleep", "60"]).run().ok();
    run(&["--name", "box"]);
    becomes(&host, "box", "unhealthy");
    run(&["--name", "other", "--health-cmd", "true"]);
    becomes(&host, "other", "healthy");
    run(&["--name", "none", "--no-healthcheck"]);
    assert_eq!(health(&host, "none"), Value::Null);
    assert_eq!(host.inspect("none")["Config"]["Healthcheck"]["Test"][0], "NONE");
    host.tare(["ps", "-f", "health=none", "-f", "name=none", "--format", "{{.Names}}"]).run().prints("none");
    host.tare(["inspect", "-f", "{{if .State.Health}}{{.State.Health.Status}}{{else}}-{{end}}", "none"])
        .run()
        .prints("-");
    for (flags, words) in [
        (["--no-healthcheck", "--health-cmd=true"], "conflicts"),
        (["--health-cmd=true", "--health-interval=-1s"], "negative"),
        (["--health-cmd=true", "--health-timeout=1us"], "less than 1ms"),
        (["--health-cmd=true", "--health-on-failure=pray"], "none, kill, restart or stop"),
    ] {
        host.sh(&flags, "true").fails(125).complains_of(&[words]);
    }
    for name in ["base", "box", "other", "none"] {
        host.tare(["rm", "-f", name]).run().ok();
    }
}
