//! The engine for an ordinary user, in a machine of their own. Run by root, each test makes up a user; in a guest they are
//! run again by one who has logged in.
#![forbid(unsafe_code)]

use tare_tests::machine::Remote;
use tare_tests::process::{Process, signal};
use tare_tests::{Tare, User, eventually, stretched};

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
    // Files of subordinate ids: outside of the machine not even their user could remove them.
    user.tare(["rmi", "second"]).run().ok();
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

fn kill(pid: i32) {
    signal(pid, rustix::process::Signal::KILL);
    eventually("it is dead", || Process::by_id(pid).is_none_or(|process| !process.is_alive()));
}

#[test]
fn a_killed_holder_loses_no_container() {
    let user = User::new();
    user.tare(["network", "create", "lan"]).run().ok();
    user.detached(&["--name", "web", "--network", "lan"], "echo hello > /page; exec httpd -f -p 80 -h /");
    let before = user.holder().expect("somebody holds the machine");
    kill(before);
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
    kill(before);
    user.sh(&["--network", "none"], "echo again").prints("again");
    assert_ne!(user.holder(), Some(before));
}

#[test]
fn a_machine_ends_when_nobody_is_in_it() {
    let user = User::new();
    user.detached(&["--name", "one", "--network", "none"], "exec sleep 1000");
    user.tare(["rm", "-f", "one"]).run().ok();
    let start = std::time::Instant::now();
    while !user.processes().is_empty() {
        let left: Vec<_> = user.processes().iter().map(|process| process.command()).collect();
        assert!(start.elapsed() < stretched(std::time::Duration::from_secs(60)), "still there: {left:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
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

/// A web server that tells each client its address.
const WHO: &str = "mkdir -p /srv/cgi-bin && cd /srv/cgi-bin && \
    printf '#!/bin/sh\\necho\\necho $REMOTE_ADDR' > index.cgi && chmod +x index.cgi && exec httpd -f -p 80 -h /srv";

fn who(remote: Option<&Remote>, address: &str, port: u16) -> String {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let url = format!("http://{host}:{port}/cgi-bin/index.cgi");
    let words = ["curl", "-s", "-g", "--noproxy", "*", "--max-time", "5", &url];
    let call = match remote {
        Some(remote) => remote.command(&words),
        None => {
            let mut command = std::process::Command::new(words[0]);
            command.args(&words[1..]);
            Tare::of(command)
        }
    };
    call.run().stdout()
}

#[test]
fn a_published_port_is_reached_from_outside_and_clients_keep_their_addresses() {
    let user = User::new();
    if !user.is_made_up() {
        eprintln!("not run: other hosts are for root to make");
        return;
    }
    let remote = Remote::new();
    user.detached(&["--name", "web", "-p", "18080:80"], WHO);
    eventually("another host is known by its address", || {
        who(Some(&remote), &remote.machine, 18080).contains(&remote.address)
    });
    // After its monitor has become small as well, and by IPv6 to a container that has none, and on the host itself.
    let monitor = || {
        let all = user.processes().into_iter();
        let small = |process: &Process| process.file("cmdline").starts_with("tare-monitor");
        all.filter(small).count() == 1
    };
    eventually("its monitor is small", monitor);
    eventually("the same again", || who(Some(&remote), &remote.machine, 18080).contains(&remote.address));
    eventually("by IPv6", || !who(Some(&remote), &remote.machine6, 18080).is_empty());
    eventually("on the host, by 127.0.0.1", || !who(None, "127.0.0.1", 18080).is_empty());
    eventually("on the host, by its address", || !who(None, &remote.machine, 18080).is_empty());
    user.tare(["rm", "-f", "web"]).run().ok();
    assert_eq!(who(None, "127.0.0.1", 18080), "");
    user.tare(["run", "-d", "--name", "again", "-p", "127.0.0.1:18080:80", "busybox", "sh", "-c", WHO])
        .run()
        .ok();
    eventually("on the host", || !who(None, "127.0.0.1", 18080).is_empty());
    assert_eq!(who(Some(&remote), &remote.machine, 18080), "", "published on loopback alone");
}

#[test]
fn published_ports_can_be_changed_while_it_runs() {
    let user = User::new();
    user.detached(&["--name", "web", "-p", "18082:80"], WHO);
    eventually("it is reached", || !who(None, "127.0.0.1", 18082).is_empty());
    let before = user.tare(["inspect", "-f", "{{.State.Pid}}", "web"]).run().ok();
    user.tare(["update", "-p", "18083:80", "-p", "127.0.0.1:18084:80", "web"]).run().ok();
    eventually("it is reached at both", || {
        [18083, 18084].iter().all(|port| !who(None, "127.0.0.1", *port).is_empty())
    });
    assert_eq!(who(None, "127.0.0.1", 18082), "");
    let ports = user.tare(["port", "web"]).run().ok();
    assert!(ports.contains("127.0.0.1:18084") && !ports.contains("18082"), "{ports}");
    // One that is taken changes nothing.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let taken = format!("{}:80", listener.local_addr().expect("its address").port());
    let refused = user.tare(["update", "-p", &taken, "web"]).run();
    refused.fails(1).complains_of(&["port is already allocated"]);
    assert!(!who(None, "127.0.0.1", 18083).is_empty());
    user.tare(["update", "-p", "none", "web"]).run().ok();
    eventually("it is reached no more", || {
        [18083, 18084].iter().all(|port| who(None, "127.0.0.1", *port).is_empty())
    });
    assert_eq!(user.tare(["inspect", "-f", "{{.State.Pid}}", "web"]).run().ok(), before);
}

/// Answers each datagram with the address that it came from.
const ECHO: &str = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 53))
while True:
    data, client = s.recvfrom(99)
    s.sendto(client[0].encode(), client)
";
/// Asks that server, and prints what it says.
const ASK: &str = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
s.sendto(b'who', (sys.argv[1], 18053))
print(s.recv(99).decode())
";

#[test]
fn a_published_port_of_udp_answers_and_clients_keep_their_addresses() {
    let user = User::new();
    let words = ["run", "-d", "--name", "echo", "-p", "18053:53/udp", "host", "python3", "-c", ECHO];
    if !user.is_made_up() {
        user.tare(words).run().ok();
        let ask = || {
            let mut command = std::process::Command::new("python3");
            command.args(["-c", ASK, "127.0.0.1"]);
            Tare::of(command).run()
        };
        eventually("an answer comes", || ask().code() == 0);
        return;
    }
    let remote = Remote::new();
    user.tare(words).run().ok();
    let ask = || remote.command(&["python3", "-c", ASK, &remote.machine]).run().stdout();
    eventually("another host is known by its address", || ask() == remote.address);
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_the_owner() {
    let user = User::new();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let out = user.sh(&["-p", &format!("{port}:80")], "true");
    assert_eq!(out.code(), 125, "{out:#?}");
    out.complains_of(&["port is already allocated", &port.to_string()]);
    user.detached(&["--name", "first", "-p", "18081:80"], "exec sleep 1000");
    let out = user.sh(&["-p", "18081:80"], "true");
    assert_eq!(out.code(), 125, "{out:#?}");
    out.complains_of(&["first"]);
}

#[test]
fn a_low_port_is_an_error_that_says_whose_it_is() {
    let user = User::new();
    let out = user.sh(&["-p", "81:80"], "true");
    assert_eq!(out.code(), 125, "{out:#?}");
    out.complains_of(&["ports below 1024 are root's", "ip_unprivileged_port_start"]);
}

/// Prints a page of a web server. It keeps its side of the connection open meanwhile: pasta's first versions lose
/// those that are half closed.
const GET: &str = "import socket, sys
s = socket.create_connection((sys.argv[1], 9000), 2)
s.settimeout(2)
s.sendall(b'GET /page HTTP/1.0\\r\\n\\r\\n')
data = b''
while True:
    more = s.recv(999)
    data += more
    if not more or b'outside' in data:
        break
print(data.decode().splitlines()[-1])
";

#[test]
fn pasta_leads_out_and_its_absence_is_told() {
    let user = User::new();
    if !user.is_made_up() {
        eprintln!("not run: other hosts are for root to make");
        return;
    }
    let remote = Remote::new();
    let folder = user.work().display().to_string();
    std::fs::write(user.work().join("page"), "outside").expect("a page");
    let words = ["busybox", "httpd", "-f", "-p", "9000", "-h", &folder];
    let server = remote.command(&words).start();
    // pasta may leave a client waiting whose server is not there yet.
    eventually("the server is there", || {
        std::net::TcpStream::connect((remote.address.as_str(), 9000)).is_ok()
    });
    let get = || user.tare(["run", "--rm", "host", "python3", "-c", GET, &remote.address]).run();
    eventually("a container reaches another host", || get().stdout() == "outside");
    server.signal(rustix::process::Signal::KILL);
    server.wait();
    let without = User::new().without("pasta");
    let out = without.sh(&[], "echo ran");
    assert_eq!(out.stdout(), "ran", "{out:#?}");
    out.complains_of(&["pasta(1) is not installed", "passt"]);
    let out = without.sh(&["--network", "none"], "echo ran");
    assert_eq!((out.stdout().as_str(), out.stderr()), ("ran", ""), "{out:#?}");
}

#[test]
fn limits_are_held_where_cgroups_are_delegated_and_refused_where_not() {
    let user = User::new();
    if user.is_made_up() {
        // Nobody has logged in, so no systemd of the user's runs.
        let out = user.sh(&["-m", "32m"], "true");
        assert_eq!(out.code(), 125, "{out:#?}");
        out.complains_of(&["no cgroup is delegated to you", "loginctl enable-linger"]);
        user.detached(&["--name", "web", "--network", "none"], "exec sleep 1000");
        let out = user.tare(["update", "-m", "32m", "--memory-swap", "64m", "web"]).run();
        out.fails(1).complains_of(&["update web", "no cgroup is delegated to you"]);
        return;
    }
    let out = user.sh(&["-m", "32m"], "tail /dev/zero");
    assert_eq!(out.code(), 137, "{out:#?}");
    user.detached(&["--name", "web", "-m", "64m", "--pids-limit", "20"], "exec sleep 1000");
    let own =
        user.tare(["exec", "web", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max"]).run().ok();
    assert_eq!(own.split_whitespace().collect::<Vec<_>>(), ["67108864", "20"]);
    user.tare(["update", "-m", "96m", "--memory-swap", "-1", "web"]).run().ok();
    user.tare(["exec", "web", "cat", "/sys/fs/cgroup/memory.max"]).run().prints("100663296");
    user.tare(["pause", "web"]).run().ok();
    user.tare(["unpause", "web"]).run().ok();
    let top = user.tare(["top", "web"]).run().ok();
    assert!(top.contains("sleep 1000"), "{top}");
}
