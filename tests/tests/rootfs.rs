//! The file system that a container sees: copy on write, and the parts that the kernel and the engine add.
#![forbid(unsafe_code)]

use tare_tests::Host;

#[test]
fn what_a_container_writes_stays_with_it() {
    let host = Host::new();
    host.sh(&[], "echo mine > /etc/passwd; rm /bin/ls; mkdir /new; cat /etc/passwd").prints("mine");
    host.sh(&[], "head -c 4 /etc/passwd; ls -d /new || ls -d /bin").prints("root/bin");
}

#[test]
fn two_containers_of_one_image_do_not_see_each_others_files() {
    let host = Host::new();
    host.detached(&["--name", "writer"], "echo x > /mark; sleep 60");
    host.sh(&[], "[ -e /mark ] && echo seen || echo unseen").prints("unseen");
}

#[test]
fn a_read_only_root_cannot_be_written_and_its_tmpfs_can() {
    let host = Host::new();
    host.sh(&["--read-only"], "echo x > /file").fails(1).complains_of(&["read-only"]);
    host.sh(&["--read-only", "--tmpfs", "/scratch"], "echo x > /scratch/x && cat /scratch/x").prints("x");
    host.sh(&["--read-only"], "echo x > /dev/shm/x && echo x > /dev/null && cat /dev/shm/x").prints("x");
}

#[test]
fn a_tmpfs_has_the_size_and_flags_it_was_given() {
    let host = Host::new();
    let full = "dd if=/dev/zero of=/t/f bs=1M count=4 2>/dev/null || stat -c %s /t/f";
    host.sh(&["--tmpfs", "/t:size=2m"], full).prints("2097152");
    let options = "grep ' /t ' /proc/mounts | cut -d' ' -f4";
    let plain = host.sh(&["--tmpfs", "/t"], options).ok();
    for option in ["rw", "nosuid", "nodev", "noexec"] {
        assert!(plain.split(',').any(|word| word == option), "{option} in {plain}");
    }
    let exec = host.sh(&["--tmpfs", "/t:exec,mode=700"], options).ok();
    assert!(!exec.contains("noexec"), "{exec}");
    host.sh(&["--tmpfs", "/t"], "stat -c %a /t").prints("1777");
    host.sh(&["--tmpfs", "/t:mode=700"], "stat -c %a /t").prints("700");
}

#[test]
fn the_kernels_file_systems_are_where_docker_has_them() {
    let host = Host::new();
    let out = host.sh(&[], "cut -d' ' -f2,3 /proc/mounts").ok();
    for mount in
        ["/proc proc", "/sys sysfs", "/dev tmpfs", "/dev/pts devpts", "/dev/shm tmpfs", "/dev/mqueue mqueue"]
    {
        assert!(out.lines().any(|line| line == mount), "`{mount}` is not among\n{out}");
    }
    assert!(out.lines().any(|line| line == "/ overlay"), "{out}");
    assert!(out.lines().any(|line| line.starts_with("/sys/fs/cgroup")), "{out}");
}

#[test]
fn the_devices_are_dockers_and_no_more() {
    let host = Host::new();
    let script = "cd /dev; for n in *; do [ -b $n ] && echo b:$n; [ -c $n ] && echo $n; done; true";
    let out = host.sh(&[], script).ok();
    let mut devices: Vec<&str> = out
        .lines()
        .filter(|name| !matches!(*name, "core" | "ptmx" | "stdin" | "stdout" | "stderr"))
        .collect();
    devices.sort_unstable();
    assert_eq!(devices, ["full", "null", "random", "tty", "urandom", "zero"]);
    host.sh(&[], "for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done")
        .prints("/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx");
}

#[test]
fn the_devices_work() {
    let host = Host::new();
    host.sh(
        &[],
        "head -c 8 /dev/urandom | wc -c; head -c 8 /dev/zero | wc -c; echo x > /dev/null && echo ok",
    )
    .prints("8\n8\nok");
    host.sh(&[], "echo x > /dev/full").fails(1);
}

#[test]
fn shared_memory_is_64_mb_or_as_asked() {
    let host = Host::new();
    let script = "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2";
    host.sh(&[], script).prints("65536");
    host.sh(&["--shm-size", "16m"], script).prints("16384");
}

#[test]
fn the_files_of_names_are_there() {
    let host = Host::new();
    let hosts = host.sh(&["--hostname", "box"], "cat /etc/hosts").ok();
    assert!(hosts.contains("127.0.0.1") && hosts.contains("localhost"), "{hosts}");
    assert!(hosts.lines().any(|line| line.split_whitespace().any(|word| word == "box")), "{hosts}");
    host.sh(&["--hostname", "box"], "cat /etc/hostname").prints("box");
    host.sh(&[], "[ -f /etc/resolv.conf ] && echo there").prints("there");
}

#[test]
fn extra_hosts_and_resolvers_can_be_named() {
    let host = Host::new();
    let hosts = host.sh(&["--add-host", "db.example:10.1.2.3"], "cat /etc/hosts").ok();
    let line = hosts.lines().find(|line| line.contains("db.example")).unwrap_or_else(|| panic!("{hosts}"));
    assert!(line.starts_with("10.1.2.3"), "{hosts}");
    let named = ["--dns", "10.9.9.9", "--dns-search", "example", "--network"];
    let resolver = |network| host.sh(&[&named[..], &[network]].concat(), "cat /etc/resolv.conf").ok();
    let alone = resolver("none");
    assert!(alone.contains("nameserver 10.9.9.9") && alone.contains("search example"), "{alone}");
    // On a network it is the container's own server that asks the one that was named.
    let served = resolver("bridge");
    assert!(served.contains("nameserver 127.0.0.11") && served.contains("search example"), "{served}");
}

#[test]
fn the_files_of_names_can_be_written_but_are_not_the_hosts() {
    let host = Host::new();
    let before = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    host.sh(&[], "echo 10.0.0.1 added >> /etc/hosts && tail -1 /etc/hosts").prints("10.0.0.1 added");
    assert_eq!(std::fs::read_to_string("/etc/hosts").unwrap_or_default(), before);
}

#[test]
fn masked_files_are_empty() {
    let host = Host::new();
    let files = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats"];
    for file in files {
        host.sh(&[], &format!("[ -e {file} ] && head -c 16 {file} | wc -c || echo 0")).prints("0");
    }
    for folder in
        ["/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap"]
    {
        host.sh(&[], &format!("ls -A {folder} 2>/dev/null | wc -l")).prints("0");
    }
}

#[test]
fn read_only_parts_of_proc_and_sys_are_read_only() {
    let host = Host::new();
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
        let script = format!(
            "[ -e {path} ] || exit 0; grep -E '^[^ ]+ {path} ' /proc/mounts | tail -1 | cut -d' ' -f4 | cut -d, -f1 | grep -x ro"
        );
        host.sh(&[], &script).ok();
    }
    host.sh(&[], "echo 1 > /proc/sys/vm/overcommit_memory").fails(1);
    host.sh(&[], "echo h > /proc/sysrq-trigger").fails(1);
    let sys = host.sh(&[], "grep ' /sys ' /proc/mounts | cut -d' ' -f4").ok();
    assert!(sys.split(',').any(|word| word == "ro"), "{sys}");
}

#[test]
fn privileged_has_no_masks_and_can_write_to_sys() {
    let host = Host::new();
    let out = host.sh(&["--privileged"], "grep ' /sys ' /proc/mounts | cut -d' ' -f4").ok();
    assert!(out.split(',').any(|word| word == "rw"), "{out}");
    host.sh(&["--privileged"], "grep -c ' /proc/kcore ' /proc/mounts; true").prints("0");
}

#[test]
fn masks_can_be_taken_off() {
    let host = Host::new();
    let count = "grep -cE ' /proc/(kcore|sys) ' /proc/mounts; true";
    host.sh(&["--security-opt", "systempaths=unconfined"], count).prints("0");
}

#[test]
fn the_cgroup_tree_inside_is_read_only_and_the_containers_own() {
    let host = Host::new();
    host.sh(&[], "mkdir /sys/fs/cgroup/x 2>/dev/null || mkdir /sys/fs/cgroup/memory/x").fails(1);
    host.sh(&[], "find /sys/fs/cgroup -name '*tare*' | wc -l").prints("0");
}

#[test]
fn the_old_root_and_the_hosts_mounts_are_not_to_be_seen() {
    let host = Host::new();
    let mounts = host.sh(&[], "cut -d' ' -f2 /proc/mounts").ok();
    let strange: Vec<&str> = mounts
        .lines()
        .filter(|place| {
            !["/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
                .iter()
                .any(|known| place == known || place.starts_with(&format!("{known}/")))
        })
        .collect();
    assert_eq!(strange, ["/"], "{mounts}");
}

#[test]
fn no_file_of_the_engine_is_open_in_the_container() {
    let host = Host::new();
    host.detached(&["--name", "open"], "exec sleep 60");
    // From outside, and of a program that opens nothing: a shell has pipes and copies of its own for a moment.
    let folder = format!("/proc/{}/fd", host.pid("open"));
    tare_tests::eventually("only stdin, stdout and stderr are open", || {
        let entries = std::fs::read_dir(&folder).unwrap();
        let mut open: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        open.sort();
        open == ["0", "1", "2"]
    });
}
