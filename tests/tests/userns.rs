//! The user namespace: root inside is nobody outside, and files still have the owners that they should.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use tare_tests::Host;
use tare_tests::process::Process;

/// The id on the host of the container's root, from /proc/self/uid_map.
fn first_id(map: &str) -> u64 {
    map.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn bind(folder: &std::path::Path) -> String {
    format!("{}:/data", folder.display())
}

#[test]
fn root_inside_is_an_unprivileged_id_outside() {
    let host = Host::new();
    let map = host.sh(&[], "cat /proc/self/uid_map; cat /proc/self/gid_map").ok();
    for line in map.lines() {
        let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!((numbers[0], numbers[2]), (0, 65_536), "{map}");
        assert!(numbers[1] >= 65_536, "root inside is {} outside", numbers[1]);
    }
    host.detached(&["--name", "one"], "sleep 60");
    let status = Process::by_id(host.pid("one")).unwrap().file("status");
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert!(first_id(uid) >= 65_536, "{uid}");
}

#[test]
fn two_containers_have_ranges_of_their_own() {
    let host = Host::new();
    host.detached(&["--name", "one"], "sleep 60");
    host.detached(&["--name", "two"], "sleep 60");
    let base = |name: &str| first_id(&Process::by_id(host.pid(name)).unwrap().file("uid_map"));
    assert!(base("one").abs_diff(base("two")) >= 65_536, "{} and {}", base("one"), base("two"));
}

#[test]
fn userns_host_has_the_hosts_ids() {
    let host = Host::new();
    let map = host.sh(&["--userns", "host"], "cat /proc/self/uid_map").ok();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
}

#[test]
fn privileged_implies_the_hosts_ids_and_inspect_says_so() {
    let host = Host::new();
    host.detached(&["--name", "strong", "--privileged"], "sleep 60");
    let map = Process::by_id(host.pid("strong")).unwrap().file("uid_map");
    assert_eq!(first_id(&map), 0, "{map}");
    assert_eq!(host.inspect("strong")["HostConfig"]["UsernsMode"], "host");
}

#[test]
fn files_written_into_a_bind_mount_have_the_owners_they_have_under_docker() {
    let host = Host::new();
    let folder = host.folder("data");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    host.sh(&["-v", &bind(&folder)], "echo x > /data/by-root; mkdir /data/folder").ok();
    host.sh(&["-v", &bind(&folder), "-u", "1000:50"], "echo x > /data/by-user").ok();
    let owner = |name: &str| {
        let meta = fs::metadata(folder.join(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!(owner("by-root"), (0, 0));
    assert_eq!(owner("folder"), (0, 0));
    assert_eq!(owner("by-user"), (1000, 50));
}

#[test]
fn files_of_a_bind_mount_show_their_owners_and_can_be_given_away() {
    let host = Host::new();
    let folder = host.folder("data");
    chown(host.file("data/theirs", "x"), Some(1234), Some(4321)).unwrap();
    let script = "stat -c %u:%g /data/theirs; chown 7:8 /data/theirs; stat -c %u:%g /data/theirs";
    host.sh(&["-v", &bind(&folder)], script).prints("1234:4321\n7:8");
    let meta = fs::metadata(folder.join("theirs")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (7, 8));
}

#[test]
fn a_user_inside_may_not_read_what_is_roots_in_a_bind_mount() {
    let host = Host::new();
    let folder = host.folder("data");
    let secret = host.file("data/secret", "x");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    host.sh(&["-v", &bind(&folder), "-u", "1000"], "cat /data/secret").fails(1);
    host.sh(&["-v", &bind(&folder)], "cat /data/secret").prints("x");
}

#[test]
fn files_of_the_image_keep_their_owners() {
    let host = Host::new();
    host.sh(&[], "stat -c %u:%g /bin/busybox /etc/passwd /tmp").prints("0:0\n0:0\n0:0");
    host.debian();
    let out = host.tare(["run", "--rm", "debian", "stat", "-c", "%U:%G", "/etc/shadow", "/var/mail"]).run();
    out.prints("root:shadow\nroot:mail");
}

#[test]
fn root_inside_may_change_and_give_away_files_of_the_image() {
    let host = Host::new();
    let script = "chown app:staff /etc/passwd && echo x >> /etc/passwd && stat -c %u:%g /etc/passwd";
    host.sh(&[], script).prints("1000:50");
}

#[test]
fn set_user_id_programs_work_for_users_inside() {
    let host = Host::new();
    host.debian();
    let script = "cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id && setpriv --reuid 1000 /tmp/id -u";
    host.tare(["run", "--rm", "debian", "sh", "-c", script]).run().prints("0");
}

#[test]
fn power_inside_is_no_power_over_the_host() {
    let host = Host::new();
    // The capability is there, but it counts for the container's own namespace only.
    // The clock is set to what it is, in case it works.
    let set = host.sh(&["--cap-add", "SYS_TIME"], "date -s \"$(date '+%Y-%m-%d %H:%M:%S')\"");
    assert!(set.stderr().contains("not permitted"), "{set:#?}");
    host.sh(&["--cap-add", "SYS_ADMIN"], "mknod /tmp/disk b 254 0 && cat /tmp/disk").fails(1);
    host.sh(&["--cap-add", "SYS_RESOURCE"], "echo 3 > /proc/sys/vm/drop_caches").fails(1);
}

#[test]
fn a_tmpfs_belongs_to_the_containers_root() {
    let host = Host::new();
    host.sh(
        &["--tmpfs", "/scratch"],
        "stat -c %u:%g /scratch /dev/shm; echo x > /scratch/x && stat -c %u /scratch/x",
    )
    .prints("0:0\n0:0\n0");
}
