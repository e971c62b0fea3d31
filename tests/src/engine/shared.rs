//! Behaviours that Docker and Podman share. They are those of a runtime; where the engines differ, the tests
//! of each say so themselves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::command::Tare;
use crate::engine::{Client, Steps};
use crate::process::{Process, eventually};
use crate::terminal::Terminal;

/// Adds all of them.
pub fn add<'a>(steps: &mut Steps<'a>, client: &'a Client, scratch: &'a Path) {
    // Those that wait longest come first.
    steps
        .add("stop asks first and kills after the time", || stop_asks_first_and_kills_after_the_time(client));
    steps.add("a restarted container runs again", || a_restarted_container_runs_again(client));
    steps.add("a failing container is started again as often as asked", || restart_policy(client));
    steps.add("many at once end with their own codes", || many_at_once(client));
    steps.add("output and exit code come back", || output_and_exit_code_come_back(client));
    steps.add("what cannot be started has a code of its own", || what_cannot_be_started(client));
    steps.add("what cannot be started by exec has a code of its own", || what_cannot_be_executed(client));
    steps.add("input reaches the container", || input_reaches_the_container(client));
    steps.add("exec gives output, code, user, folder and environment", || exec(client));
    steps.add("exec sees the container's view", || exec_sees_the_containers_view(client));
    steps.add("exec reads what is sent to it", || exec_reads(client));
    steps.add("a run under a terminal", || a_run_under_a_terminal(client));
    steps.add("an exec under a terminal", || an_exec_under_a_terminal(client));
    steps.add("control c reaches the container", || control_c_reaches_the_container(client));
    steps.add("kill sends any signal", || kill_sends_any_signal(client));
    steps.add("a death by a signal is 128 and its number", || death_by_signal(client));
    steps.add("logs keep both streams", || logs_keep_both_streams(client));
    steps.add("a paused container stands still", || a_paused_container_stands_still(client));
    steps.add("top lists the processes", || top_lists_the_processes(client));
    steps.add("stats show the use", || stats_show_the_use(client));
    steps.add("too much memory is a kill", || too_much_memory_is_a_kill(client));
    steps.add("no more processes than allowed", || no_more_processes_than_allowed(client));
    steps.add("the processor quota is in force", || the_processor_quota_is_in_force(client));
    steps.add("binds are read and written", || binds_are_read_and_written(client, scratch));
    steps.add("a volume takes the image's files and stays", || a_volume_stays(client));
    steps.add("tmpfs has its size", || tmpfs_has_its_size(client));
    steps.add("an init reaps orphans", || an_init_reaps_orphans(client));
    steps.add("a read-only root is not written", || a_read_only_root_is_not_written(client));
    steps.add("a user has their groups and no capabilities", || a_user_has_their_groups(client));
    steps.add("privileged has every capability and device", || privileged(client));
    steps.add("capabilities are dropped and added", || capabilities(client));
    steps.add("the default seccomp profile is in force", || seccomp(client));
    steps.add("no-new-privileges is set when asked", || no_new_privileges(client));
    steps.add("kernel files are masked and read-only", || masked_paths(client));
    steps.add("devices are those allowed", || devices_are_those_allowed(client));
    steps.add("hostname, sysctl and limits are set", || hostname_sysctl_and_limits(client));
    steps.add("the host's pid namespace is shared when asked", || host_pid(client));
    steps.add("namespaces of another container are joined", || namespaces_of_another_are_joined(client));
    steps.add("a container is created first and started later", || created_first_started_later(client));
    steps.add("children end with the first process", || children_end_with_the_first(client));
    steps.add("a removed container is gone with all its processes", || removed_while_running(client));
    steps.add("the host's null device keeps its owner", || the_null_device_keeps_its_owner(client));
    steps.add("no file of the engine is open inside", || no_file_is_open_inside(client));
    steps.add("two execs at once do not disturb each other", || execs_at_once(client));
    steps.add("a process that outlives its exec is no trouble", || a_process_that_outlives_its_exec(client));
}

fn output_and_exit_code_come_back(client: &Client) {
    let out = client.sh(&[], "echo out; echo err >&2; exit 7");
    out.fails(7);
    assert_eq!(out.stdout(), "out");
    assert!(out.stderr().contains("err\n"), "{out:#?}");
    client.sh(&[], "exit 0").prints("");
    client.sh(&[], "exit 255").fails(255);
    let big = client.sh(&[], "dd if=/dev/zero bs=64k count=64 2>/dev/null");
    assert_eq!(big.bytes().len(), 4 << 20, "4 MiB of output");
}

fn what_cannot_be_started(client: &Client) {
    for (program, code) in [("nosuch", 127), ("/no/such", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let out = client.run(&[], &[program]).run();
        out.fails(code).complains_of(&[program]);
    }
    // The text is Go's, and engines look for it.
    client.run(&[], &["nosuch"]).run().complains_of(&["executable file not found in $PATH"]);
    client.run(&[], &["/etc/passwd"]).run().complains_of(&["permission denied"]);
    // A script whose interpreter is missing.
    let out = client.sh(&[], "printf '#!/no/such\\n' >/s; chmod +x /s; exec /s");
    out.fails(127);
    let out = client.run(&["-u", "nosuch"], &["true"]).run();
    assert!([125, 126].contains(&out.code()), "{out:#?}");
    out.complains_of(&["nosuch"]);
}

fn what_cannot_be_executed(client: &Client) {
    let boxed = client.detached(&[], "sleep 100");
    for (program, code) in [("nosuch", 127), ("/no/such", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let out = boxed.exec(&[], &[program]).run();
        // Old Dockers have 126 for all.
        assert!([126, code].contains(&out.code()), "{out:#?}");
        let said = out.stdout() + out.stderr();
        assert!(said.contains(program), "{out:#?}");
    }
    let out = boxed.exec(&["-w", "/nowhere"], &["true"]).run();
    assert!([126, 127].contains(&out.code()), "{out:#?}");
    let out = boxed.exec(&["-u", "nosuch"], &["true"]).run();
    assert_ne!(out.code(), 0, "{out:#?}");
    boxed.exec(&[], &["true"]).run().ok();
    boxed.does(&["kill"]).ok();
    eventually("it ends", || !boxed.runs());
    let out = boxed.exec(&[], &["true"]).run();
    assert_ne!(out.code(), 0, "exec in a container that has ended: {out:#?}");
}

fn input_reaches_the_container(client: &Client) {
    client.run(&["-i"], &["cat"]).stdin("a\nb").run().prints("a\nb");
    client.run(&[], &["cat"]).stdin("not asked for").run().prints("");
    let much = vec![b'x'; 1 << 20];
    client.run(&["-i"], &["wc", "-c"]).stdin(&much).run().prints("1048576");
}

fn exec(client: &Client) {
    let boxed = client.detached(&["-e", "A=1", "-w", "/tmp"], "sleep 100");
    let out = boxed.sh(&[], "echo out; echo err >&2; exit 5");
    out.fails(5);
    assert_eq!((out.stdout(), out.stderr().contains("err")), ("out".to_owned(), true));
    boxed.sh(&[], "echo $A; pwd").prints("1\n/tmp");
    boxed.sh(&["-e", "A=2", "-w", "/etc"], "echo $A; pwd").prints("2\n/etc");
    boxed.sh(&["-u", "app"], "id -u; id -g; id -G; echo $HOME").prints("1000\n1000\n1000 50\n/home/app");
    boxed.sh(&["-u", "1:50"], "id -u; id -g").prints("1\n50");
    boxed.sh(&[], "kill -9 $$").fails(137);
    let effective = "grep CapEff /proc/self/status | tr -d '\\t'";
    boxed.sh(&["-u", "app"], effective).prints("CapEff:0000000000000000");
    if all_capabilities() {
        let privileged = boxed.sh(&["--privileged"], effective).ok();
        assert_ne!(privileged, boxed.sh(&[], effective).ok());
    }
}

fn exec_sees_the_containers_view(client: &Client) {
    let boxed = client.detached(&["--memory", "64m"], "exec sleep 100");
    let look = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done";
    let first = "for n in cgroup ipc mnt net pid uts; do readlink /proc/1/ns/$n; done";
    assert_eq!(boxed.sh(&[], look).ok(), boxed.sh(&[], first).ok());
    assert_eq!(boxed.sh(&[], "cat /proc/self/cgroup").ok(), boxed.sh(&[], "cat /proc/1/cgroup").ok());
    // On the host: the process is in the container's cgroup, so that limits hold for it.
    let running = boxed.exec(&[], &["sleep", "33.25"]).start();
    let in_it = || {
        Process::all().into_iter().find(|process| {
            process.file("cmdline").ends_with("sleep\x0033.25\0") && !process.file("cmdline").contains("exec")
        })
    };
    eventually("the process is there", || in_it().is_some());
    let first = Process::by_id(boxed.pid()).expect("the first process");
    eventually("it is in the container's cgroup", || {
        in_it().is_some_and(|process| process.file("cgroup") == first.file("cgroup"))
    });
    in_it().expect("it is still there").kill();
    running.wait().fails(137);
}

fn exec_reads(client: &Client) {
    let boxed = client.detached(&[], "sleep 100");
    boxed.exec(&["-i"], &["cat"]).stdin("a\nb").run().prints("a\nb");
    boxed.exec(&[], &["cat"]).stdin("not asked for").run().prints("");
}

/// Says that it is under a terminal, reads a line, waits until the window has been made larger.
const UNDER_A_TERMINAL: &str = "tty; test -t 0 && test -t 1 && test -t 2 && echo all; read x; echo \"got $x\"; \
    until test \"$(stty size)\" = '33 111'; do sleep 0.05; done; echo larger; exit 3";

fn a_run_under_a_terminal(client: &Client) {
    talk(client.run(&["-it"], &["sh", "-c", UNDER_A_TERMINAL]));
}

fn an_exec_under_a_terminal(client: &Client) {
    let boxed = client.detached(&[], "sleep 100");
    talk(boxed.exec(&["-it", "-u", "app"], &["sh", "-c", UNDER_A_TERMINAL]));
}

#[track_caller]
fn talk(command: Tare) {
    let mut terminal = Terminal::start(command, 30, 100);
    terminal.expect("/dev/pts/0");
    terminal.expect("all");
    terminal.types("word\n");
    terminal.expect("got word");
    // A client that has just started may not listen yet for the change.
    std::thread::sleep(Duration::from_millis(500));
    terminal.resize(33, 111);
    terminal.expect("larger");
    assert_eq!(terminal.wait(), 3, "{}", terminal.screen());
    terminal.is_restored();
}

fn control_c_reaches_the_container(client: &Client) {
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(client.run(&["-it"], &["sh", "-c", script]), 24, 80);
    terminal.expect("ready");
    terminal.types("\x03");
    terminal.expect("caught");
    assert_eq!(terminal.wait(), 9, "{}", terminal.screen());
    terminal.is_restored();
}

fn kill_sends_any_signal(client: &Client) {
    let boxed =
        client.detached(&[], "trap 'echo hup' HUP; trap 'exit 2' USR2; echo on; while :; do sleep 0.1; done");
    boxed.says("on");
    boxed.does(&["kill", "-s", "HUP"]).ok();
    boxed.says("hup");
    boxed.does(&["kill", "-s", "USR2"]).ok();
    assert_eq!(boxed.wait(), 2);
}

fn death_by_signal(client: &Client) {
    let boxed = client.detached(&[], "exec sleep 100");
    boxed.does(&["kill"]).ok();
    assert_eq!(boxed.wait(), 137);
    let boxed = client.detached(&[], "exec sleep 100");
    boxed.signal_behind_the_back(Signal::KILL);
    assert_eq!(boxed.wait(), 137);
    assert_eq!(boxed.fact("/State/OOMKilled"), false);
}

fn stop_asks_first_and_kills_after_the_time(client: &Client) {
    let polite = client.detached(&[], "trap 'exit 5' TERM; echo on; while :; do sleep 0.1; done");
    polite.says("on");
    polite.does(&["stop"]).ok();
    assert_eq!(polite.fact("/State/ExitCode"), 5);
    let deaf = client.detached(&[], "trap '' TERM; echo on; while :; do sleep 0.1; done");
    deaf.says("on");
    deaf.does(&["stop", "-t", "1"]).ok();
    assert_eq!(deaf.fact("/State/ExitCode"), 137);
    let own = client
        .detached(&["--stop-signal", "USR1"], "trap 'exit 6' USR1; echo on; while :; do sleep 0.1; done");
    own.says("on");
    own.does(&["stop"]).ok();
    assert_eq!(own.fact("/State/ExitCode"), 6);
}

fn a_restarted_container_runs_again(client: &Client) {
    let boxed = client.detached(&[], "echo start; exec sleep 100");
    boxed.says("start");
    let first = boxed.pid();
    boxed.does(&["restart", "-t", "0"]).ok();
    assert!(boxed.runs());
    assert_ne!(boxed.pid(), first);
    eventually("both starts are logged", || boxed.logs().matches("start").count() == 2);
    boxed.does(&["stop", "-t", "0"]).ok();
    boxed.does(&["start"]).ok();
    eventually("three starts are logged", || boxed.logs().matches("start").count() == 3);
    boxed.exec(&[], &["true"]).run().ok();
}

fn restart_policy(client: &Client) {
    let boxed = client.detached(&["--restart", "on-failure:2"], "echo try; exit 3");
    eventually("it was tried three times", || boxed.logs().matches("try").count() == 3);
    eventually("it rests", || boxed.fact("/State/Status") == "exited");
    assert_eq!(boxed.fact("/State/ExitCode"), 3);
    assert_eq!(boxed.fact("/RestartCount"), 2);
}

fn logs_keep_both_streams(client: &Client) {
    let boxed = client.detached(&[], "echo out; echo err >&2; echo last");
    assert_eq!(boxed.wait(), 0);
    let out = boxed.does(&["logs"]);
    assert_eq!((out.stdout(), out.stderr()), ("out\nlast".to_owned(), "err\n"));
}

fn a_paused_container_stands_still(client: &Client) {
    let boxed = client.detached(&[], "while :; do echo tick; sleep 0.05; done");
    boxed.says("tick");
    boxed.does(&["pause"]).ok();
    assert_eq!(boxed.fact("/State/Status"), "paused");
    std::thread::sleep(Duration::from_millis(100));
    let ticks = boxed.logs().lines().count();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(boxed.logs().lines().count(), ticks, "it goes on although it is paused");
    let out = boxed.exec(&[], &["true"]).run();
    assert_ne!(out.code(), 0, "exec in a paused container: {out:#?}");
    boxed.does(&["unpause"]).ok();
    eventually("it goes on", || boxed.logs().lines().count() > ticks);
    boxed.does(&["pause"]).ok();
    // Removing it is what Drop does: a frozen process takes no signal before it is thawed.
}

fn top_lists_the_processes(client: &Client) {
    let boxed = client.detached(&[], "sleep 44 & exec sleep 45");
    eventually("both are listed", || {
        let table = boxed.does(&["top"]).ok();
        table.lines().count() == 3 && table.contains("sleep 44") && table.contains("sleep 45")
    });
}

fn stats_show_the_use(client: &Client) {
    let boxed = client.detached(&["--memory", "64m"], "exec sleep 100");
    let shown = boxed.does(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}"]).ok();
    assert!(shown.contains("64MiB") || shown.contains("67.11MB"), "{shown}");
    assert!(!shown.starts_with("0B") && shown.ends_with(" 1"), "{shown}");
}

fn too_much_memory_is_a_kill(client: &Client) {
    let flags = ["--memory", "24m", "--memory-swap", "24m"];
    let hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    let boxed = client.background(&flags, &hog);
    assert_eq!(boxed.wait(), 137);
    client.run(&flags, &["true"]).run().ok();
}

fn no_more_processes_than_allowed(client: &Client) {
    let fork = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait; echo all";
    let out = client.sh(&["--pids-limit", "8"], fork);
    assert!(out.stderr().contains("fork") && !out.stdout().contains("all"), "{out:#?}");
    client.sh(&["--pids-limit", "32"], fork).prints("all");
}

fn the_processor_quota_is_in_force(client: &Client) {
    let flags = ["--cpu-period", "100000", "--cpu-quota", "20000", "--cpu-shares", "512"];
    let boxed = client.detached(&flags, "exec sleep 100");
    let process = Process::by_id(boxed.pid()).expect("the first process");
    let read = |controller: &str, file: &str| fs::read_to_string(cgroup(&process, controller).join(file));
    match read("cpu", "cpu.cfs_quota_us") {
        Ok(quota) => {
            assert_eq!(quota.trim(), "20000");
            assert_eq!(read("cpu", "cpu.shares").unwrap().trim(), "512");
        }
        Err(_) => assert_eq!(read("", "cpu.max").unwrap().trim(), "20000 100000"),
    }
    // A fifth of a processor; a loaded machine gives less, never more.
    let start = Instant::now();
    let busy = boxed.sh(&[], "timeout 2 sh -c 'while :; do :; done'; times").stdout();
    let used: f64 = busy.lines().last().expect("two lines of times").split_whitespace().map(seconds).sum();
    let share = used / start.elapsed().as_secs_f64();
    assert!(share < 0.3, "{share:.2} of a processor, {busy}");
}

/// `0m1.23s`.
fn seconds(word: &str) -> f64 {
    let (minutes, seconds) = word.trim_end_matches('s').split_once('m').expect("0m1.23s");
    minutes.parse::<f64>().expect("minutes") * 60.0 + seconds.parse::<f64>().expect("seconds")
}

/// The folder of a process's cgroup; "" is the controller of version 2.
fn cgroup(process: &Process, controller: &str) -> std::path::PathBuf {
    let text = process.file("cgroup");
    let line = text.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
    let path = line
        .into_iter()
        .find(|parts| parts.get(1).is_some_and(|names| names.split(',').any(|name| name == controller)))
        .and_then(|parts| parts.get(2).map(|path| path.trim_start_matches('/').to_owned()))
        .unwrap_or_default();
    Path::new("/sys/fs/cgroup").join(controller).join(path)
}

fn binds_are_read_and_written(client: &Client, scratch: &Path) {
    let folder = scratch.join("bind");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("file"), "from the host").expect("a file");
    let bind = format!("{}:/data", folder.display());
    client.sh(&["-v", &bind], "cat /data/file; echo inside >/data/answer").prints("from the host");
    assert_eq!(fs::read_to_string(folder.join("answer")).expect("the answer"), "inside\n");
    let read_only = format!("{bind}:ro");
    client.sh(&["-v", &read_only], "echo x >/data/answer").complains_of(&["read-only"]);
    let file = format!("{}:/etc/motd:ro", folder.join("file").display());
    client.sh(&["-v", &file], "cat /etc/motd").prints("from the host");
    let owner = fs::metadata(folder.join("answer")).expect("the answer").uid();
    assert_eq!(owner, 0);
    client.sh(&["-v", &bind, "--user", "app"], "echo x >/data/no").complains_of(&["permission denied"]);
}

fn a_volume_stays(client: &Client) {
    let volume = format!("{}:/etc", client.name());
    client.sh(&["-v", &volume], "test -s /etc/passwd && echo kept >/etc/kept").ok();
    client.sh(&["-v", &volume], "cat /etc/kept").prints("kept");
    let name = volume.trim_end_matches(":/etc");
    client.call(["volume", "rm", name]).run().ok();
}

fn tmpfs_has_its_size(client: &Client) {
    let out = client.sh(&["--tmpfs", "/scratch:size=1m"], "dd if=/dev/zero of=/scratch/x bs=64k count=64");
    out.complains_of(&["no space left"]);
    client.sh(&["--shm-size", "2m"], "df -k /dev/shm | tail -n 1 | awk '{print $2}'").prints("2048");
}

fn an_init_reaps_orphans(client: &Client) {
    let script = "sh -c 'sleep 0.1 &'; sleep 0.5; ps -o stat,comm | grep -c '^Z'; cat /proc/1/comm; exit 6";
    let out = client.sh(client.init(), script);
    out.fails(6);
    let shown = out.stdout();
    assert!(shown.starts_with("0\n") && !shown.ends_with("\nsh"), "{shown}");
}

fn a_read_only_root_is_not_written(client: &Client) {
    client.sh(&["--read-only"], "echo x >/file").complains_of(&["read-only"]);
    client.sh(&["--read-only", "--tmpfs", "/run"], "echo x >/run/file && cat /run/file").prints("x");
}

fn a_user_has_their_groups(client: &Client) {
    let script = "id -u; id -g; id -G; grep CapEff /proc/self/status | tr -d '\\t'";
    client.sh(&["--user", "app"], script).prints("1000\n1000\n1000 50\nCapEff:0000000000000000");
    client.sh(&["--user", "1:2", "--group-add", "60"], "id -u; id -g; id -G").prints("1\n2\n2 60");
    client.sh(&["--user", "app"], "echo out >/dev/stdout; echo err >/dev/stderr").prints("out");
}

/// May the container get every capability? runc fails where root itself has not all of them; tare gives what
/// there is.
fn all_capabilities() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("our own status");
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("CapBnd").trim();
    let all = u64::from_str_radix(bounding, 16).expect("hexadecimal").trailing_ones() >= 41;
    let tare = crate::engine::runtime().file_name().is_some_and(|name| name == "tare-oci");
    if !all && !tare {
        eprintln!("not tried: --privileged, as root has not every capability here");
    }
    all || tare
}

fn privileged(client: &Client) {
    if !all_capabilities() {
        return;
    }
    let flags = ["--privileged"];
    client.sh(&flags, "mount -t tmpfs none /tmp && umount /tmp").ok();
    client
        .sh(&flags, "test -e /dev/loop-control -o -e /dev/kmsg && grep Seccomp: /proc/self/status")
        .prints("Seccomp:\t0");
    client.sh(&flags, "cat /proc/sys/kernel/core_pattern >/proc/sys/kernel/core_pattern").ok();
}

fn capabilities(client: &Client) {
    client.sh(&["--cap-drop", "chown"], "chown 1 /etc/passwd").complains_of(&["not permitted"]);
    client
        .sh(&["--cap-drop", "all"], "grep -E 'Cap(Eff|Bnd)' /proc/self/status | grep -vc 0000000000000000")
        .fails(1);
    client
        .sh(&["--cap-add", "sys_admin", "--security-opt", "seccomp=unconfined"], "mount -t tmpfs none /tmp")
        .ok();
}

fn seccomp(client: &Client) {
    client.sh(&[], "grep Seccomp: /proc/self/status").prints("Seccomp:\t2");
    client
        .sh(&["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status")
        .prints("Seccomp:\t0");
    let boxed = client.detached(&[], "sleep 100");
    boxed.sh(&[], "grep Seccomp: /proc/self/status").prints("Seccomp:\t2");
}

fn no_new_privileges(client: &Client) {
    let look = "grep NoNewPrivs /proc/self/status";
    client.sh(&[], look).prints("NoNewPrivs:\t0");
    let boxed = client.detached(&["--security-opt", "no-new-privileges"], "sleep 100");
    boxed.sh(&[], look).prints("NoNewPrivs:\t1");
}

fn masked_paths(client: &Client) {
    client.sh(&[], "cat /proc/kcore | wc -c; ls /proc/acpi /sys/firmware | grep -c '^[a-z]'").fails(1);
    let out = client.sh(&[], "echo 1 >/proc/sys/vm/overcommit_memory");
    out.complains_of(&["read-only"]);
    client.sh(&[], "echo x >/sys/kernel/x").complains_of(&["read-only"]);
}

fn devices_are_those_allowed(client: &Client) {
    let look = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
                head -c 3 /dev/zero | wc -c; readlink /dev/fd; readlink /dev/stdin";
    client.sh(&[], look).prints("3\n/proc/self/fd\n/proc/self/fd/0");
    client.sh(&[], "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg").complains_of(&["not permitted"]);
    client.sh(&["--device", "/dev/full:/dev/mine"], "echo x >/dev/mine").complains_of(&["no space left"]);
    let kmsg = "test -c /dev/kmsg && timeout 5 dd if=/dev/kmsg of=/dev/null bs=8192 count=1";
    client.sh(&["--device", "/dev/kmsg:/dev/kmsg:r", "--cap-add", "syslog"], kmsg).ok();
}

fn hostname_sysctl_and_limits(client: &Client) {
    client.sh(&["--hostname", "box"], "hostname; cat /etc/hostname").prints("box\nbox");
    client
        .sh(
            &["--sysctl", "net.ipv4.ip_unprivileged_port_start=77"],
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
        )
        .prints("77");
    client
        .sh(&["--ulimit", "nofile=100:200", "--ulimit", "nproc=4096:4096"], "ulimit -Sn; ulimit -Hn")
        .prints("100\n200");
}

fn host_pid(client: &Client) {
    let host = fs::read_link("/proc/self/ns/pid").expect("a link");
    client.sh(&["--pid", "host"], "readlink /proc/self/ns/pid").prints(&host.to_string_lossy());
}

fn namespaces_of_another_are_joined(client: &Client) {
    let boxed = client.detached(&["--ipc", "shareable"], "echo up; sleep 100");
    boxed.says("up");
    let other = format!("container:{}", boxed.name);
    let look = "for n in net ipc pid; do readlink /proc/self/ns/$n; done";
    let flags = ["--network", &other, "--ipc", &other, "--pid", &other];
    client.sh(&flags, look).prints(&boxed.sh(&[], look).ok());
}

fn created_first_started_later(client: &Client) {
    let name = client.name();
    client.create(&["--name", &name], &["sh", "-c", "echo now; exit 3"]).run().ok();
    let boxed = client.container(name);
    assert_eq!(boxed.fact("/State/Running"), false);
    boxed.does(&["start"]).ok();
    assert_eq!(boxed.wait(), 3);
    assert_eq!(boxed.logs(), "now");
    let out = boxed.does(&["start", "-a"]);
    assert_eq!((out.code(), out.stdout().as_str()), (3, "now"), "{out:#?}");
}

fn children_end_with_the_first(client: &Client) {
    let boxed = client.detached(&[], "sleep 77.5 & sleep 0.3; exit 2");
    assert_eq!(boxed.wait(), 2);
    let left = || Process::all().into_iter().any(|process| process.file("cmdline") == "sleep\x0077.5\0");
    eventually("the child has ended", || !left());
}

fn removed_while_running(client: &Client) {
    let boxed = client.detached(&[], "sleep 88.5 & exec sleep 100");
    let there = || Process::all().into_iter().any(|process| process.file("cmdline") == "sleep\x0088.5\0");
    eventually("the child is there", there);
    let name = boxed.name.clone();
    boxed.does(&["rm", "-f"]).ok();
    eventually("the child has ended", || !there());
    assert_ne!(client.call(["inspect", "--type", "container", &name]).run().code(), 0);
}

fn the_null_device_keeps_its_owner(client: &Client) {
    let owner = || {
        let null = fs::metadata("/dev/null").expect("a null device");
        assert!(null.file_type().is_char_device());
        (null.uid(), null.gid(), null.mode() & 0o7777)
    };
    let before = owner();
    let boxed = client.detached(&["-v", "/dev/null:/null"], "sleep 100");
    // Input, output and errors of a detached process are the host's own null device, which a runtime that
    // gives the process its files must not give away.
    boxed.exec(&["-d", "--user", "app"], &["sleep", "0.1"]).run().ok();
    boxed.exec(&["--user", "app"], &["sh", "-c", "echo x >/null; echo x >/dev/null"]).run().ok();
    client.background(&["--user", "app"], &["true"]).wait();
    assert_eq!(owner(), before);
    boxed.sh(&[], "stat -c '%u %g %a' /null /dev/null").prints("0 0 666\n0 0 666");
}

fn no_file_is_open_inside(client: &Client) {
    // ls itself has its folder open.
    let shown = client.sh(&[], "ls /proc/self/fd").ok();
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{shown}");
    let boxed = client.detached(&[], "exec sleep 100");
    let shown = boxed.exec(&[], &["ls", "/proc/self/fd"]).run().ok();
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"], "{shown}");
    boxed.sh(&[], "ls /proc/1/fd | wc -l").prints("3");
}

fn execs_at_once(client: &Client) {
    let boxed = client.detached(&[], "sleep 100");
    let running: Vec<_> = (0..6)
        .map(|code| {
            (code, boxed.exec(&[], &["sh", "-c", &format!("echo {code}; sleep 0.2; exit {code}")]).start())
        })
        .collect();
    for (code, running) in running {
        let out = running.wait();
        out.fails(code);
        assert_eq!(out.stdout(), code.to_string());
    }
}

fn a_process_that_outlives_its_exec(client: &Client) {
    let boxed = client.detached(&[], "sleep 100");
    boxed.sh(&[], "sleep 55.5 >/dev/null 2>&1 & echo left").prints("left");
    boxed.sh(&[], "ps -o args | grep -c '[s]leep 55.5'").prints("1");
}

fn many_at_once(client: &Client) {
    let running: Vec<_> =
        (0..10).map(|code| (code, client.run(&[], &["sh", "-c", &format!("exit {code}")]).start())).collect();
    let codes: BTreeSet<_> =
        running.into_iter().map(|(code, running)| (code, running.wait().code())).collect();
    assert_eq!(codes, (0..10).map(|code| (code, code)).collect());
}
