//! The engine for an ordinary user, in a machine of their own. Run by root, each test makes up a user; in a guest they are
//! run again by one who has logged in.
#![forbid(unsafe_code)]

use tare_tests::process::signal;
use tare_tests::{User, eventually};

#[test]
fn a_container_on_the_hosts_own_files() {
    let user = User::new();
    user.tare(["run", "--rm", "--network", "none", "host", "true"]).run().ok();
    let script = "id -u; touch /etc/written /written && echo written; cat /etc/shadow; ls /home";
    let out = user.tare(["run", "--rm", "--network", "none", "host", "sh", "-c", script]).run();
    assert_eq!(out.stdout(), "0\nwritten", "{out:#?}");
    assert!(!std::path::Path::new("/etc/written").exists());
}

#[test]
fn an_image_keeps_its_owners_and_a_second_layer_hides_what_it_removed() {
    let user = User::new();
    let script = "mkdir -p /data/old && touch /data/old/a && chown -R 33:44 /data && chmod 4755 /bin/busybox";
    user.busybox();
    user.tare(["run", "--name", "first", "busybox", "sh", "-c", script]).run().ok();
    user.tare(["commit", "first", "first"]).run().ok();
    let script = "rm -r /data/old && mkdir /data/old && touch /data/old/b && rm /etc/passwd";
    user.tare(["run", "--name", "second", "first", "sh", "-c", script]).run().ok();
    let changes = user.tare(["diff", "second"]).run().ok();
    assert!(changes.contains("D /etc/passwd") && changes.contains("A /data/old/b"), "{changes}");
    user.tare(["commit", "second", "second"]).run().ok();
    // Through an archive, so that whiteouts and opaque folders are unpacked as well.
    let archive = user.work().join("image.tar");
    user.tare(["save", "-o"]).arg(&archive).arg("second").run().ok();
    user.tare(["rm", "first", "second"]).run().ok();
    user.tare(["rmi", "second", "first"]).run().ok();
    user.tare(["load", "-i"]).arg(&archive).run().ok();
    let script = "ls /data/old; stat -c '%u:%g' /data; stat -c %a /bin/busybox; ls /etc/passwd";
    let out = user.tare(["run", "--rm", "second", "sh", "-c", script]).run();
    assert_eq!(out.stdout(), "b\n33:44\n4755", "{out:#?}");
}

#[test]
fn what_a_container_writes_into_a_bind_mount_is_the_users() {
    let user = User::new();
    let volume = format!("{}:/srv", user.work().display());
    user.sh(&["-v", &volume], "touch /srv/file; stat -c %u /srv/file").prints("0");
    let meta = std::fs::metadata(user.work().join("file")).expect("the file");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), user.uid());
    std::fs::remove_file(user.work().join("file")).expect("removing it");
}

#[test]
fn a_life_of_a_container() {
    let user = User::new();
    let id = user.detached(&["--name", "web"], "echo begun; exec sleep 1000");
    user.tare(["exec", "web", "id", "-u"]).run().prints("0");
    eventually("its output is logged", || user.tare(["logs", "web"]).run().stdout() == "begun");
    user.tare(["restart", "-t", "0", "web"]).run().ok();
    user.tare(["exec", "web", "true"]).run().ok();
    user.tare(["stop", "-t", "0", "web"]).run().ok();
    let listed = user.tare(["ps", "-a", "-q", "--no-trunc"]).run().ok();
    assert_eq!(listed, id);
    user.tare(["start", "web"]).run().ok();
    user.tare(["rm", "-f", "web"]).run().ok();
    user.tare(["ps", "-a", "-q"]).run().prints("");
    eventually("nothing of it runs", || user.running().is_empty());
}

#[test]
fn two_containers_find_each_other_by_name() {
    let user = User::new();
    user.tare(["network", "create", "lan"]).run().ok();
    user.detached(&["--name", "web", "--network", "lan"], "echo hello > /page; exec httpd -f -p 80 -h /");
    eventually("it answers", || {
        user.sh(&["--network", "lan"], "wget -q -O - http://web/page").stdout() == "hello"
    });
}

#[test]
fn the_hosts_network_can_be_shared() {
    let user = User::new();
    let own = std::fs::read_link("/proc/thread-self/ns/net").expect("our network").display().to_string();
    user.sh(&["--network", "host"], "readlink /proc/self/ns/net").prints(&own);
    user.detached(&["--name", "here", "--network", "host"], "exec sleep 1000");
    user.tare(["stop", "-t", "0", "here"]).run().ok();
    user.tare(["start", "here"]).run().ok();
    user.tare(["exec", "here", "readlink", "/proc/self/ns/net"]).run().prints(&own);
}

#[test]
fn namespaces_of_another_container_can_be_shared() {
    let user = User::new();
    user.detached(&["--name", "other"], "exec sleep 1234");
    let flags = ["--pid", "container:other", "--network", "container:other"];
    let out = user.sh(&flags, "ps").ok();
    assert!(out.contains("sleep 1234"), "{out}");
}

#[test]
fn a_killed_holder_loses_no_container() {
    let user = User::new();
    user.tare(["network", "create", "lan"]).run().ok();
    user.detached(&["--name", "web", "--network", "lan"], "echo hello > /page; exec httpd -f -p 80 -h /");
    let before = user.holder().expect("somebody holds the machine");
    signal(before, rustix::process::Signal::KILL);
    user.tare(["exec", "web", "true"]).run().ok();
    assert_ne!(user.holder(), Some(before));
    // The same network still.
    let get = "wget -q -O - http://web/page";
    eventually("it answers", || user.sh(&["--network", "lan"], get).stdout() == "hello");
}

#[test]
fn a_killed_holder_of_an_empty_machine_is_replaced() {
    let user = User::new();
    user.sh(&["--network", "none"], "true").ok();
    let before = user.holder().expect("somebody holds the machine");
    signal(before, rustix::process::Signal::KILL);
    user.sh(&["--network", "none"], "echo again").prints("again");
    assert_ne!(user.holder(), Some(before));
}

#[test]
fn a_machine_ends_when_nobody_is_in_it() {
    let user = User::new();
    user.detached(&["--name", "one", "--network", "none"], "exec sleep 1000");
    user.tare(["rm", "-f", "one"]).run().ok();
    eventually("nothing of the user's is left", || user.processes().is_empty());
}

#[test]
fn a_user_without_subordinate_ids_has_one_id_and_is_told() {
    let Some(user) = User::without_subordinate_ids() else { return };
    let out = user.tare(["run", "--rm", "--network", "none", "host", "cat", "/proc/self/uid_map"]).run();
    assert_eq!(out.stdout().split_whitespace().collect::<Vec<_>>(), ["0", "0", "1"], "{out:#?}");
    out.complains_of(&["/etc/subuid", "usermod --add-subuids"]);
    // Files of others are root's then.
    user.sh(&["--network", "none"], "id -u").prints("0");
}

#[test]
fn commands_that_come_at_once_share_a_machine() {
    let user = User::new();
    let all: Vec<_> = (0..8).map(|_| user.tare(["ps", "-q"]).start()).collect();
    for one in all {
        one.wait().ok();
    }
    let holders =
        user.processes().into_iter().filter(|process| process.file("comm").starts_with("tare-machine"));
    assert_eq!(holders.count(), 1);
}

#[test]
fn what_root_shares_with_nobody_is_not_there() {
    let user = User::new();
    // Capabilities end at the container's own namespaces, and no_new_privs is not needed for that.
    let out = user.sh(
        &["--privileged", "--network", "none"],
        "mkdir /mnt; mount -t tmpfs x /mnt && echo mounted; id -u",
    );
    assert!(out.stdout().ends_with('0'), "{out:#?}");
    let info = user.tare(["info", "--format", "{{json .SecurityOptions}}"]).run().ok();
    assert!(info.contains("rootless"), "{info}");
}
