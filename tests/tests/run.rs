//! The main job: `tare run` starts a process from a real root filesystem and gives back what it says.
#![forbid(unsafe_code)]

use std::process::Command;

use tare_tests::{Host, busybox, debian};

#[test]
fn the_host_image_needs_nothing_but_this_machine() {
    let host = Host::new();
    let script = "cat /proc/sys/kernel/hostname; echo $$; ls /sys/class/net | tr '\\n' ' '";
    let out = host
        .tare(["run", "--rm", "--hostname", "first", "--network", "none"])
        .args(["host", "sh", "-c", script]);
    out.run().prints("first\n1\nlo");
}

#[test]
fn the_host_image_shows_ps_with_pid_1_and_the_memory_limit() {
    let host = Host::new();
    let script = "ps -e -o pid= | head -1; \
        cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
    let out = host.tare(["run", "--rm", "--memory", "64m", "host", "sh", "-c", script]).run().ok();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["1", "67108864"]);
}

#[test]
fn the_host_image_hides_the_private_parts_of_the_machine() {
    let host = Host::new();
    let script =
        "ls -A /root /home | grep -v : ; cat /etc/shadow 2>/dev/null; ls /etc/ssh/*key 2>/dev/null; true";
    host.tare(["run", "--rm", "host", "sh", "-c", script]).run().prints("");
}

#[test]
fn what_is_written_in_the_host_image_is_thrown_away() {
    let host = Host::new();
    let name = format!("/etc/tare-test-{}", std::process::id());
    host.tare(["run", "--rm", "host", "sh", "-c"])
        .arg(format!("echo x > {name} && cat {name}"))
        .run()
        .prints("x");
    assert!(!std::path::Path::new(&name).exists(), "the container wrote to the machine itself");
}

#[test]
fn an_imported_image_runs() {
    let host = Host::new();
    host.sh(&[], "echo hello").prints("hello");
}

#[test]
fn a_real_debian_runs() {
    let host = Host::new();
    host.debian();
    let version = host.tare(["run", "--rm", "debian", "cat", "/etc/debian_version"]).run().ok();
    assert!(!version.is_empty());
    let out = host.tare(["run", "--rm", "debian", "dpkg", "-s", "base-files"]).run().ok();
    assert!(out.contains("Status: install ok installed"), "{out}");
}

#[test]
fn a_package_can_be_removed_in_a_real_debian() {
    // dpkg renames, links, locks and syncs: what an overlay gets wrong shows here.
    let host = Host::new();
    host.debian();
    let script = "dpkg --purge --force-all tzdata hostname >/dev/null && ! command -v hostname && echo gone";
    host.tare(["run", "--rm", "debian", "sh", "-c", script]).run().prints("gone");
}

#[test]
fn a_folder_runs_as_a_root_filesystem() {
    let host = Host::new();
    let root = host.folder("rootfs");
    busybox::tree(&root).unwrap();
    let out =
        host.tare(["run", "--rm", "--rootfs"]).arg(&root).args(["sh", "-c", "echo from a folder"]).run();
    out.prints("from a folder");
}

#[test]
fn the_exit_code_is_the_commands() {
    let host = Host::new();
    for code in [0, 1, 7, 125, 126, 127, 255] {
        host.sh(&[], &format!("exit {code}")).fails(code);
    }
}

#[test]
fn a_death_by_a_signal_is_128_and_its_number() {
    let host = Host::new();
    host.busybox();
    // As a child of init, because the kernel shields PID 1 from its own signals.
    let out = host.tare(["run", "--rm", "--init", "busybox", "sh", "-c", "kill -SEGV $$"]).run();
    out.fails(128 + 11);
    host.sh(&["--init"], "kill -KILL $$").fails(137);
    host.sh(&["--init"], "kill -TERM $$").fails(143);
}

#[test]
fn the_words_after_the_image_are_the_commands_even_if_they_look_like_flags() {
    let host = Host::new();
    host.busybox();
    host.tare(["run", "--rm", "busybox", "echo", "--rm", "-it", "--"]).run().prints("--rm -it --");
}

#[test]
fn rm_leaves_no_container_and_without_it_one_stays() {
    let host = Host::new();
    host.sh(&[], "true").ok();
    assert!(host.containers().is_empty());
    host.tare(["run", "--name", "kept", "busybox", "sh", "-c", "exit 3"]).run().fails(3);
    assert_eq!(host.containers().len(), 1);
    let table = host.tare(["ps", "-a"]).run().ok();
    assert!(table.contains("Exited (3)") && table.contains("kept"), "{table}");
}

#[test]
fn a_start_takes_at_most_800_system_calls() {
    // A guard against growth, with the checks that a test build adds; PROMISES.md has the figure of a release.
    let host = Host::new();
    host.busybox();
    // The first one of a second also sweeps, and makes folders.
    host.tare(["run", "--network", "none", "--rm", "busybox", "/bin/true"]).run().ok();
    let table = host.work().join("strace");
    let mut wrapper = Command::new("strace");
    wrapper.args(["-f", "-c", "-o"]).arg(&table);
    let run = host.tare(["run", "--network", "none", "--rm", "busybox", "/bin/true"]).into_command();
    wrapper.arg(run.get_program()).args(run.get_args());
    wrapper.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    tare_tests::Tare::of(wrapper).run().ok();
    let text = std::fs::read_to_string(&table).unwrap();
    let total = text.lines().rfind(|line| line.ends_with(" total")).expect("strace's last line");
    let calls: u32 = total.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(calls <= 800, "{calls} system calls:\n{text}");
}

#[test]
fn the_test_inputs_are_made_once() {
    assert_eq!(debian::archive(), debian::archive());
    assert_eq!(busybox::cached_archive(), busybox::cached_archive());
}
