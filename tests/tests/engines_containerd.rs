//! containerd's shim on the runtime, driven by `ctr`.
#![forbid(unsafe_code)]

use std::fs;

use tare_tests::engine::{self, Containerd, Steps};
use tare_tests::process::Process;
use tare_tests::{Terminal, eventually};

#[test]
fn containerd_runs_its_containers() {
    if !engine::installed(&["containerd", "ctr", "containerd-shim-runc-v2"]) {
        return;
    }
    let containerd = Containerd::start();
    let on = &containerd;
    let mut steps = Steps::new();
    steps.add("output and exit code come back", || output_and_exit_code(on));
    steps.add("what cannot be started is an error that says why", || what_cannot_be_started(on));
    steps.add("exec gives output, code, user, folder and environment", || exec(on));
    steps.add("a run and an exec under a terminal", || terminals(on));
    steps.add("signals reach the process", || signals(on));
    steps.add("a paused task stands still", || a_paused_task(on));
    steps.add("processes and metrics are told", || processes_and_metrics(on));
    steps.add("too much memory is a kill", || too_much_memory(on));
    steps.add("the processor quota is in force", || the_processor_quota(on));
    steps.add("binds, environment, folder and a read-only root", || binds_and_more(on));
    steps.add("privileged, capabilities, seccomp and devices", || privileges(on));
    steps.add("another network namespace is joined", || a_namespace_is_joined(on));
    steps.add("a user namespace maps its users", || a_user_namespace(on));
    steps.add("a root of one's own is run without pivot_root", || no_pivot(on));
    steps.add("many at once end with their own codes", || many_at_once(on));
    let mut failures = steps.run();
    failures.extend(containerd.left().into_iter().map(|thing| format!("left behind: {thing}")));
    assert!(failures.is_empty(), "{} do not hold:\n{}", failures.len(), failures.join("\n\n"));
}

fn output_and_exit_code(on: &Containerd) {
    let out = on.sh(&[], "code", "echo out; echo err >&2; exit 7");
    out.fails(7);
    assert_eq!((out.stdout(), out.stderr()), ("out".to_owned(), "err\n"));
    on.run(&["--rm"], "code-true", &["true"]).run().prints("");
    // `ctr run` does not pass the end of its input on, so that cat would wait for ever.
    on.run(&["--rm"], "code-head", &["head", "-n", "1"]).stdin("a\nb").run().prints("a");
    on.run(&["--rm", "--null-io"], "code-null", &["echo", "x"]).run().prints("");
}

fn what_cannot_be_started(on: &Containerd) {
    for (name, program, why) in [
        ("bad-1", "nosuch", "executable file not found in $PATH"),
        ("bad-2", "/no/such", "no such file or directory"),
        ("bad-3", "/etc/passwd", "permission denied"),
        ("bad-4", "/etc", "exec"),
    ] {
        let out = on.run(&["--rm"], name, &[program]).run();
        out.fails(1).complains_of(&["OCI runtime create failed", program, why]);
    }
    let out = on.run(&["--rm", "--cwd", "/etc/passwd"], "bad-5", &["true"]).run();
    out.fails(1).complains_of(&["OCI runtime create failed", "/etc/passwd"]);
    let mount = "type=bind,src=/no/such/source,dst=/mnt,options=rbind";
    let out = on.run(&["--rm", "--mount", mount], "bad-6", &["true"]).run();
    out.fails(1).complains_of(&["OCI runtime create failed", "/no/such/source", "no such file or directory"]);
}

fn exec(on: &Containerd) {
    let task = on.detached(&["--env", "A=1"], "exec", "exec sleep 100");
    let out = task.exec(&[], &["sh", "-c", "echo out; echo err >&2; exit 5"]).run();
    out.fails(5);
    assert_eq!((out.stdout(), out.stderr()), ("out".to_owned(), "err\n"));
    task.exec(&["--cwd", "/etc"], &["sh", "-c", "pwd; echo $A"]).run().prints("/etc\n1");
    task.exec(&["--user", "1000:50"], &["sh", "-c", "id -u; id -g"]).run().prints("1000\n50");
    task.exec(&[], &["cat"]).stdin("a\nb").run().prints("a\nb");
    task.exec(&[], &["sh", "-c", "kill -9 $$"]).run().fails(137);
    let out = task.exec(&[], &["nosuch"]).run();
    out.fails(1).complains_of(&["OCI runtime exec failed", "nosuch", "executable file not found in $PATH"]);
    let out = task.exec(&["--cwd", "/nowhere"], &["true"]).run();
    out.fails(1).complains_of(&["OCI runtime exec failed", "/nowhere", "no such file or directory"]);
}

fn terminals(on: &Containerd) {
    let script = "tty; test -t 0 && test -t 1 && echo all; read x; echo \"got $x\"; \
                  while test -z \"$(stty size 2>/dev/null)\"; do sleep 0.05; done; stty size; exit 3";
    let mut terminal = Terminal::start(on.run(&["--rm", "-t"], "tty", &["sh", "-c", script]), 30, 100);
    terminal.expect("/dev/pts/0");
    terminal.expect("all");
    terminal.types("word\n");
    terminal.expect("got word");
    terminal.expect("30 100");
    assert_eq!(terminal.wait(), 3);
    terminal.is_restored();
    let task = on.detached(&[], "tty-exec", "exec sleep 100");
    let mut terminal = Terminal::start(task.exec(&["-t"], &["sh", "-c", script]), 31, 101);
    terminal.expect("/dev/pts/0");
    terminal.types("word\n");
    terminal.expect("31 101");
    assert_eq!(terminal.wait(), 3);
    terminal.is_restored();
}

fn signals(on: &Containerd) {
    let folder = on.scratch.folder("signals");
    let mount = format!("type=bind,src={folder},dst=/said,options=rbind:rw");
    let script =
        "trap 'echo x >/said/hup' HUP; trap 'exit 4' TERM; echo x >/said/up; while :; do sleep 0.1; done";
    let task = on.detached(&["--mount", &mount], "signals", script);
    let said = |name: &str| fs::exists(format!("{folder}/{name}")).unwrap_or_default();
    eventually("it is up", || said("up"));
    task.does(&["kill", "-s", "HUP"]).ok();
    eventually("it was told", || said("hup"));
    task.does(&["kill"]).ok();
    eventually("it ends", || task.status() == "STOPPED");
    task.does(&["rm"]).complains_of(&["exit code 4"]);
    let task = on.detached(&[], "signals-all", "sleep 66.5 & exec sleep 66.5");
    let there =
        || Process::all().iter().filter(|process| process.file("cmdline") == "sleep\x0066.5\0").count();
    eventually("both are there", || there() == 2);
    task.does(&["kill", "-a", "-s", "KILL"]).ok();
    eventually("both have ended", || there() == 0);
}

fn a_paused_task(on: &Containerd) {
    let folder = on.scratch.folder("paused");
    let mount = format!("type=bind,src={folder},dst=/said,options=rbind:rw");
    let task =
        on.detached(&["--mount", &mount], "paused", "while :; do echo >>/said/ticks; sleep 0.05; done");
    let ticks = || fs::read(format!("{folder}/ticks")).unwrap_or_default().len();
    eventually("it ticks", || ticks() > 0);
    task.does(&["pause"]).ok();
    assert_eq!(task.status(), "PAUSED");
    let then = ticks();
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(ticks(), then);
    task.does(&["resume"]).ok();
    assert_eq!(task.status(), "RUNNING");
    eventually("it goes on", || ticks() > then);
}

fn processes_and_metrics(on: &Containerd) {
    let task = on.detached(&[], "told", "sleep 99 & exec sleep 100");
    let listed = || task.does(&["ps"]).ok();
    eventually("two processes are listed", || listed().lines().count() == 3);
    assert!(listed().contains(&task.pid().to_string()), "{}", listed());
    let metrics = task.does(&["metrics"]).ok();
    assert!(metrics.contains("pids.current") && metrics.contains("memory.usage"), "{metrics}");
}

fn too_much_memory(on: &Containerd) {
    let hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    on.run(&["--rm", "--memory-limit", "25165824"], "hog", &hog).run().fails(137);
    on.run(&["--rm", "--memory-limit", "25165824"], "modest", &["true"]).run().ok();
}

fn the_processor_quota(on: &Containerd) {
    let task = on.detached(&["--cpus", "0.2"], "quota", "exec sleep 100");
    let text = Process::by_id(task.pid()).expect("the first process").file("cgroup");
    let path = |name: &str| {
        let line = text.lines().find(|line| line.split(':').nth(1) == Some(name));
        line.and_then(|line| line.splitn(3, ':').nth(2)).unwrap_or_default().to_owned()
    };
    let old = fs::read_to_string(format!("/sys/fs/cgroup/cpu{}/cpu.cfs_quota_us", path("cpu")));
    let quota =
        old.or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup{}/cpu.max", path("")))).expect("a quota");
    assert!(quota.starts_with("20000"), "{quota}");
}

fn binds_and_more(on: &Containerd) {
    let folder = on.scratch.folder("bind");
    fs::write(format!("{folder}/file"), "from the host").expect("a file");
    let mount = format!("type=bind,src={folder},dst=/data,options=rbind:ro");
    on.sh(&["--mount", &mount], "bind", "cat /data/file").prints("from the host");
    on.sh(&["--mount", &mount], "bind-ro", "echo x >/data/file").complains_of(&["read-only"]);
    on.sh(&["--env", "A=b c", "--cwd", "/tmp"], "env", "echo $A; pwd").prints("b c\n/tmp");
    on.sh(&["--read-only"], "read-only", "echo x >/file").complains_of(&["read-only"]);
}

fn privileges(on: &Containerd) {
    on.sh(&["--privileged"], "all", "mount -t tmpfs none /tmp && umount /tmp").ok();
    on.sh(&["--cap-drop", "CAP_CHOWN"], "drop", "chown 1 /etc/passwd").complains_of(&["not permitted"]);
    let look = "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status | tr '\\t\\n' '  '";
    on.sh(&[], "privs", look).prints("NoNewPrivs: 1 Seccomp: 0");
    on.sh(&["--seccomp", "--allow-new-privs"], "seccomp", look).prints("NoNewPrivs: 0 Seccomp: 2");
    on.sh(&["--device", "/dev/kmsg"], "device", "test -c /dev/kmsg").ok();
}

fn a_namespace_is_joined(on: &Containerd) {
    let other = on.detached(&[], "other", "exec sleep 100");
    let path = format!("/proc/{}/ns/net", other.pid());
    let wanted = fs::read_link(&path).expect("a link").display().to_string();
    on.sh(&["--with-ns", &format!("network:{path}")], "joins", "readlink /proc/self/ns/net").prints(&wanted);
}

fn a_user_namespace(on: &Containerd) {
    let flags = ["--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"];
    let task = on.detached(&flags, "mapped", "exec sleep 100");
    let status = Process::by_id(task.pid()).expect("the first process").file("status");
    let uid = status.lines().find(|line| line.starts_with("Uid:")).expect("a Uid line").to_owned();
    assert!(uid.contains("200000"), "{uid}");
    task.exec(&[], &["sh", "-c", "id -u; stat -c %u /etc/passwd"]).run().prints("0\n0");
}

fn no_pivot(on: &Containerd) {
    on.sh(&["--no-pivot"], "no-pivot", "echo hi; ls /").complains_of(&[]).ok();
}

fn many_at_once(on: &Containerd) {
    let start = |code: i32| {
        let (name, script) = (format!("many-{code}"), format!("exit {code}"));
        (code, on.run(&["--rm"], &name, &["sh", "-c", &script]).start())
    };
    for (code, running) in (0..10).map(start).collect::<Vec<_>>() {
        running.wait().fails(code);
    }
}
