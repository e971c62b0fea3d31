//! A monitor may die: another one takes over, and nothing is lost.
#![forbid(unsafe_code)]

use std::time::Duration;

use rustix::process::Signal;
use tare_tests::process::{Process, ends_are_told};
use tare_tests::{Host, Terminal, eventually};

/// What stands for an exit code that nobody knows.
const UNKNOWN: i32 = 255;

fn kill_monitors(host: &Host) {
    for process in host.processes() {
        process.kill();
    }
    eventually("the monitors are dead", || host.processes().is_empty());
}

const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";

#[test]
fn output_of_a_container_whose_monitor_is_killed_is_not_lost() {
    let host = Host::new();
    let id = host.detached(&[], COUNT);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(300));
        kill_monitors(&host);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(host.status(&id), "running");
        eventually("there is a monitor again", || host.processes().len() == 1);
    }
    host.tare(["stop", "-t", "0", &id]).run().ok();
    let log = host.tare(["logs", &id]).run().ok();
    let mut lines: Vec<u32> = log.lines().map(|line| line.parse().expect("a number")).collect();
    // One may be there twice: written down, and the monitor killed before it was taken out of the FIFO.
    lines.dedup();
    let count = u32::try_from(lines.len()).unwrap();
    assert!(lines.iter().copied().eq(1..=count), "{lines:?}");
}

#[test]
fn the_exit_code_is_known_to_the_monitor_that_took_over() {
    let host = Host::new();
    let id = host
        .detached(&["--name", "box"], "trap 'echo bye; exit 7' TERM; echo on; while :; do sleep 0.05; done");
    eventually("it is on", || host.tare(["logs", "box"]).run().stdout() == "on");
    kill_monitors(&host);
    host.tare(["ps"]).run().ok();
    let waiting = host.tare(["wait", "box"]).start();
    tare_tests::process::signal(host.pid("box"), Signal::TERM);
    let told = waiting.wait().ok();
    eventually("it has ended", || host.status(&id) == "exited");
    let state = host.inspect("box")["State"].clone();
    assert_eq!(state["ExitCode"].to_string(), told);
    if told != "7" {
        // Nobody is told a code that is made up.
        assert!(!ends_are_told() && told == UNKNOWN.to_string(), "{state}");
        assert!(
            state["Error"].as_str().is_some_and(|why| why.contains("nobody saw how it ended")),
            "{state}"
        );
    }
    assert_eq!(host.tare(["logs", "box"]).run().ok(), "on\nbye");
}

#[test]
fn a_foreground_run_goes_on_with_the_monitor_that_took_over() {
    let host = Host::new();
    host.busybox();
    let script = "for i in $(seq 1 60); do echo $i; sleep 0.03; done; exit 9";
    let running = host.tare(["run", "--rm", "busybox", "sh", "-c", script]).start();
    let command = running.id();
    eventually("it runs", || !host.tare(["ps", "-q"]).run().stdout().is_empty());
    std::thread::sleep(Duration::from_millis(300));
    for process in host.processes() {
        if process.id != command {
            process.kill();
        }
    }
    let out = running.wait();
    if out.code() != 9 {
        assert!(!ends_are_told(), "{out:#?}");
        out.fails(UNKNOWN).complains_of(&["nobody knows how the container ended"]);
    }
    let wanted: Vec<String> = (1..=60).map(|number: i32| number.to_string()).collect();
    assert_eq!(out.stdout(), wanted.join("\n"));
    assert!(host.containers().is_empty());
}

#[test]
fn a_restart_policy_goes_on_after_its_monitor_was_killed() {
    let host = Host::new();
    host.detached(&["--name", "box", "--restart", "always", "-p", "8080:80"], "sleep 60");
    kill_monitors(&host);
    let first = host.pid("box");
    tare_tests::process::signal(first, Signal::KILL);
    eventually("it runs again", || ![0, first].contains(&host.pid("box")));
    // Both at once.
    let second = host.pid("box");
    kill_monitors(&host);
    tare_tests::process::signal(second, Signal::KILL);
    // Of a zombie the kernel still tells how it ended.
    eventually("it is gone", || Process::by_id(second).is_none());
    eventually("it runs again", || ![0, second].contains(&host.pid("box")));
    let ends = ["events", "--since", "1h", "--until", "0s", "--filter", "event=die"];
    assert_eq!(host.tare(ends).run().ok().lines().count(), 2);
    host.tare(["rm", "-f", "box"]).run().ok();
}

#[test]
fn who_is_attached_to_one_that_is_gone_with_its_monitor_does_not_stay_for_its_next_life() {
    let host = Host::new();
    // The sixth life lasts, and the seventh would begin after three seconds.
    let script = "echo >> /lives; [ $(wc -l < /lives) -lt 6 ] && exit 1; echo on; exec sleep 600";
    host.detached(&["--name", "box", "--restart", "always"], script);
    eventually("it lasts", || host.tare(["logs", "box"]).run().stdout() == "on");
    let attached = host.tare(["attach", "--no-stdin", "box"]).start();
    eventually("it is attached", || has_open(attached.id(), "anon_inode:[signalfd]"));
    // It sees nothing until both are gone.
    attached.signal(Signal::STOP);
    let container = host.pid("box");
    for process in host.processes().into_iter().filter(|process| process.id != attached.id()) {
        process.kill();
    }
    tare_tests::process::signal(container, Signal::KILL);
    // Of a zombie the kernel still tells how it ended.
    eventually("it is gone", || Process::by_id(container).is_none());
    attached.signal(Signal::CONT);
    let out = attached.wait_within(tare_tests::stretched(Duration::from_millis(2500)));
    out.fails(UNKNOWN).complains_of(&["nobody knows how the container ended"]);
    host.tare(["rm", "-f", "box"]).run().ok();
}

/// Those of this host's processes that call themselves so.
fn called(host: &Host, name: &str) -> Vec<Process> {
    let mut processes = host.processes();
    processes.retain(|process| process.file("comm").trim_end() == name);
    processes
}

#[test]
fn a_container_with_a_terminal_is_not_hung_up_when_its_monitor_is_killed() {
    let host = Host::new();
    let id = host.detached(&["-t", "--restart", "always"], COUNT);
    for _ in 0..3 {
        eventually("its terminal is held", || called(&host, "tare-terminal").len() == 1);
        let first = host.pid(&id);
        called(&host, "tare-monitor").iter().for_each(Process::kill);
        let length = || host.tare(["logs", &id]).run().ok().lines().count();
        let before = length();
        eventually("it goes on writing", || length() > before + 3);
        assert_eq!(host.pid(&id), first);
        // The other way round: the keeper has a successor too, started by the monitor.
        let keepers = called(&host, "tare-terminal");
        keepers.iter().for_each(Process::kill);
        eventually("another holds it", || {
            called(&host, "tare-terminal").iter().any(|new| keepers.iter().all(|old| old.id != new.id))
        });
    }
    // Each life has a terminal of its own.
    host.tare(["restart", "-t", "0", &id]).run().ok();
    eventually("its terminal is held", || called(&host, "tare-terminal").len() == 1);
    host.tare(["rm", "-f", &id]).run().ok();
    eventually("nobody holds it any more", || host.processes().is_empty());
}

#[test]
fn an_attached_terminal_goes_on_with_the_monitor_that_took_over() {
    let host = Host::new();
    host.busybox();
    let run = host.tare(["run", "-it", "--rm", "--name", "box", "busybox", "sh"]);
    let mut terminal = Terminal::start(run, 24, 80);
    terminal.types("echo o''n\n");
    terminal.expect("on");
    eventually("its terminal is held", || called(&host, "tare-terminal").len() == 1);
    called(&host, "tare-monitor").iter().for_each(Process::kill);
    terminal.types("echo st''ill\n");
    terminal.expect("still");
    terminal.types("exit 3\n");
    let code = terminal.wait();
    assert!(code == 3 || (code == UNKNOWN && !ends_are_told()), "{code}");
}

#[test]
fn an_order_that_takes_long_goes_to_the_monitor_that_took_over() {
    let host = Host::new();
    // It ends when it was asked twice, and a monitor asks once.
    let script = "trap 'n=$((n + 1)); echo asked $n; [ $n -lt 2 ] || exit 7' TERM; echo on; while :; do sleep 0.05; done";
    let id = host.detached(&["--name", "box"], script);
    eventually("it is on", || host.tare(["logs", "box"]).run().stdout() == "on");
    let stopping = host.tare(["stop", "-t", "60", "box"]).start();
    eventually("it was asked", || host.tare(["logs", "box"]).run().stdout().ends_with("asked 1"));
    // Longer than a command tries to reach a monitor that cannot be reached.
    std::thread::sleep(Duration::from_secs(11));
    called(&host, "tare-monitor").iter().for_each(Process::kill);
    stopping.wait().ok();
    assert_eq!(host.status(&id), "exited");
    assert_eq!(host.tare(["logs", "box"]).run().ok(), "on\nasked 1\nasked 2");
}

#[test]
fn a_new_monitor_takes_over_where_the_session_has_no_number() {
    let host = Host::new();
    host.busybox();
    // In a pid namespace of its own, whose session is of outside: as in a container, or under a plain init.
    // A killed monitor holds its lock until it is dead, and is listed until it is reaped.
    let script = r#"
        monitors() { for p in /proc/[0-9]*; do [ -e $p/exe ] && grep -qs tare-monitor $p/comm && echo ${p#/proc/}; done; true; }
        until_there_are() { n=0; until [ $(monitors | wc -l) = $1 ] || [ $n = 600 ]; do n=$((n + 1)); sleep 0.05; done; }
        "$0" run -d --network none --name box busybox sleep 60 && kill -9 $(monitors)
        until_there_are 0
        "$0" ps -q
        until_there_are 1
        echo $(monitors | wc -l) monitor
        "$0" rm -f box"#;
    let wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script];
    let out = host.wrapped(&wrapper, [] as [&str; 0]).run().ok();
    assert!(out.contains("1 monitor"), "{out}");
}

#[test]
fn an_idle_monitor_is_small_and_sleeps() {
    let host = Host::new();
    host.detached(&[], "sleep 60");
    std::thread::sleep(Duration::from_millis(1500));
    let monitors = host.processes();
    let [monitor] = &monitors[..] else { panic!("one monitor, not {}", monitors.len()) };
    let memory = monitor.file("smaps_rollup");
    let dirty = memory.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    let dirty: u32 = dirty.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(dirty <= 300, "{dirty} kB");
    let switches = || {
        monitor
            .file("status")
            .lines()
            .filter(|line| line.contains("ctxt_switches"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = switches();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(switches(), before, "it woke up");
}

/// Whether a command has connected to a monitor.
fn has_socket(id: i32) -> bool {
    has_open(id, "socket:")
}

fn has_open(id: i32, kind: &str) -> bool {
    let files = std::fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    links.into_iter().any(|link| link.to_string_lossy().starts_with(kind))
}

#[test]
fn of_one_that_is_gone_with_its_monitor_nobody_says_that_it_ended_well() {
    let host = Host::new();
    host.busybox();
    let running = host.tare(["run", "--rm", "--name", "box", "busybox", "sleep", "600"]).start();
    eventually("it runs", || !host.tare(["ps", "-q"]).run().stdout().is_empty());
    let waiting = host.tare(["wait", "box"]).start();
    eventually("it is connected", || has_socket(waiting.id()));
    let container = host.pid("box");
    let commands = [running.id(), waiting.id()];
    for process in host.processes().into_iter().filter(|process| !commands.contains(&process.id)) {
        process.kill();
    }
    tare_tests::process::signal(container, Signal::KILL);
    let told = waiting.wait().ok();
    let code = running.wait().code();
    // The kernel may tell it, or it may not.
    assert!([137, UNKNOWN].contains(&code), "{code}");
    assert!(told == "137" || told == UNKNOWN.to_string(), "{told}");
}

#[test]
fn a_rename_of_one_that_is_just_ending_is_no_error() {
    let host = Host::new();
    host.detached(&["--name", "box"], "sleep 600");
    let monitors = host.processes();
    let [monitor] = &monitors[..] else { panic!("one monitor, not {}", monitors.len()) };
    let container = host.pid("box");
    tare_tests::process::signal(monitor.id, Signal::STOP);
    tare_tests::process::signal(container, Signal::KILL);
    let renaming = host.tare(["rename", "box", "other"]).start();
    // It has written the new name down, and waits for the monitor.
    eventually("it has another name", || !host.root().join("names/box").exists());
    eventually("it is connected", || has_socket(renaming.id()));
    tare_tests::process::signal(monitor.id, Signal::CONT);
    renaming.wait().ok();
    assert_eq!(host.status("other"), "exited");
}

#[test]
fn one_whose_record_is_damaged_and_whose_monitor_was_killed_is_removed_with_all_that_it_has() {
    let host = Host::new();
    for (name, file) in [("first", "container.json"), ("second", "status.json")] {
        let id = host.detached(&["--name", name, "-p", "8080:80"], "sleep 600");
        let container = host.pid(name);
        kill_monitors(&host);
        std::fs::write(host.root().join("containers").join(&id).join(file), "").expect("an empty file");
        let shown = host.tare(["ps", "-a"]).run();
        assert!(!shown.ok().contains(name));
        shown.complains_of(&[
            "a container is not shown",
            &id,
            file,
            "the file is damaged; `tare rm --force`",
        ]);
        let within = tare_tests::stretched(Duration::from_secs(5));
        host.tare(["rm", "-f", name]).within(within).run().ok();
        eventually("it has ended", || Process::by_id(container).is_none_or(|process| !process.is_alive()));
        for hierarchy in ["", "pids", "memory", "freezer"] {
            let cgroup = std::path::Path::new("/sys/fs/cgroup").join(hierarchy).join("tare").join(&id);
            assert!(!cgroup.exists(), "{cgroup:?} is left");
        }
    }
}
