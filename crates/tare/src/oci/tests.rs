//! The grammar of all commands together.

use super::*;
use crate::words::flag::Takes;

#[test]
fn tables_hold_each_name_and_letter_once() {
    for flags in COMMANDS.iter().map(|command| command.flags).chain([&GLOBAL as &[Flag]]) {
        for flag in flags {
            assert_eq!(flags.iter().filter(|other| other.long == flag.long).count(), 1, "{}", flag.long);
            let letters = flags.iter().filter(|other| flag.short.is_some() && other.short == flag.short);
            assert!(letters.count() <= 1, "-{:?}", flag.short);
            assert!(flag.takes == Takes::Nothing || !flag.example.is_empty(), "{}", flag.long);
        }
    }
}

#[test]
fn commands_are_in_order_and_have_a_page_that_fits() {
    assert!(COMMANDS.is_sorted_by_key(|command| command.name));
    for text in COMMANDS.iter().map(page).chain([overview()]) {
        for line in text.lines() {
            assert!(line.chars().count() <= 86, "{line}");
        }
    }
}

#[test]
fn every_option_of_runc_and_crun_is_known() {
    let table: [(&str, &str); 8] = [
        (
            "create",
            "bundle config console-socket pidfd-socket pid-file no-pivot no-new-keyring no-subreaper preserve-fds",
        ),
        (
            "run",
            "bundle config console-socket pidfd-socket detach keep pid-file no-subreaper no-pivot no-new-keyring preserve-fds",
        ),
        (
            "exec",
            "console-socket pidfd-socket cwd env tty user additional-gids process detach pid-file process-label apparmor no-new-privs cap preserve-fds cgroup ignore-paused",
        ),
        ("kill", "all regex"),
        ("delete", "force regex"),
        (
            "update",
            "resources blkio-weight cpu-period cpu-quota cpu-burst cpu-share cpu-rt-period cpu-rt-runtime cpuset-cpus cpuset-mems kernel-memory kernel-memory-tcp memory memory-reservation memory-swap pids-limit l3-cache-schema mem-bw-schema cpu-idle",
        ),
        (
            "checkpoint",
            "image-path work-path parent-path leave-running tcp-established tcp-skip-in-flight link-remap ext-unix-sk shell-job lazy-pages status-fd page-server file-locks pre-dump manage-cgroups-mode empty-ns auto-dedup network-lock tcp-close",
        ),
        (
            "restore",
            "console-socket image-path work-path tcp-established ext-unix-sk shell-job file-locks manage-cgroups-mode bundle detach pid-file no-subreaper no-pivot empty-ns auto-dedup lazy-pages lsm-profile lsm-mount-context network-lock tcp-close",
        ),
    ];
    for (name, options) in table {
        let command = find(name).unwrap();
        for option in options.split(' ') {
            assert!(command.flags.iter().any(|flag| flag.long == option), "{name} --{option}");
        }
    }
}

#[test]
fn the_number_of_words_is_checked_in_runcs_words() {
    let table = [
        ("state", 0, Some("\"state\" requires exactly 1 argument(s)")),
        ("state", 1, None),
        ("state", 2, Some("\"state\" requires exactly 1 argument(s)")),
        ("kill", 0, Some("\"kill\" requires at least 1 argument(s)")),
        ("kill", 3, Some("\"kill\" requires at most 2 argument(s)")),
        ("exec", 9, None),
        ("list", 1, Some("\"list\" requires exactly 0 argument(s)")),
    ];
    for (name, count, refusal) in table {
        let mut sorted = words::Words::default();
        sorted.words = vec!["x".to_owned(); count];
        let found = counted(find(name).unwrap(), sorted).err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), refusal, "{name} {count}");
    }
}

#[test]
fn who_makes_cgroups_is_said_once() {
    let chosen = |typed: &[&str]| {
        let typed: Vec<String> = typed.iter().map(|word| (*word).to_owned()).collect();
        let sorted = words::sort(&typed, &GLOBAL, true).unwrap();
        runtime(&Given::new(&sorted, &GLOBAL)).map(|runtime| (runtime.cgroup_manager, runtime.rootless))
    };
    let root = rustix::process::geteuid().is_root();
    assert_eq!(chosen(&[]).unwrap(), ("cgroupfs".to_owned(), !root));
    assert_eq!(chosen(&["--systemd-cgroup", "--rootless=true"]).unwrap(), ("systemd".to_owned(), true));
    assert_eq!(
        chosen(&["-cgroup-manager", "disabled", "--rootless", "false"]).unwrap(),
        ("disabled".to_owned(), false)
    );
    assert!(chosen(&["--systemd-cgroup", "--cgroup-manager=cgroupfs"]).is_err());
    assert!(chosen(&["--cgroup-manager=none"]).is_err() && chosen(&["--rootless=perhaps"]).is_err());
}

#[test]
fn the_version_is_what_docker_and_podman_read() {
    let version = version();
    let lines: Vec<&str> = version.lines().collect();
    assert!(lines[0].starts_with("tare-oci version ") && lines[1].starts_with("commit: "), "{version}");
    assert_eq!(lines[2], "spec: 1.3.0");
}

#[test]
fn only_its_own_name_makes_it_a_runtime() {
    for (name, is) in [
        ("tare-oci", true),
        ("/usr/bin/tare-oci", true),
        ("tare", false),
        ("/tare-oci/tare", false),
        ("runc", false),
    ] {
        assert_eq!(is_called(&[name.into()]), is, "{name}");
    }
    assert!(!is_called(&[]));
}
