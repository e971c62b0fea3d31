//! Published ports: other ones while the container runs, and what the host's firewall says to them, whenever it says it.
#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use tare_tests::engine::{self, Docker};
use tare_tests::machine::{Remote, get, get_from, in_network_of, own_network, run};
use tare_tests::{Host, eventually, process};

/// Two web servers, which say who they are.
const SERVERS: &str = "mkdir -p /a /b; echo first > /a/index.html; echo second > /b/index.html; \
                       httpd -p 81 -h /b; exec httpd -f -p 80 -h /a";

/// A container with these servers, which answer at port 8080.
fn serving(host: &Host) {
    host.detached(&["--name", "web", "-p", "8080:80"], SERVERS);
    eventually("it serves", || get("127.0.0.1", 8080) == "first");
}

fn update(host: &Host, ports: &[&str]) {
    let ports = ports.iter().flat_map(|port| ["-p", port]);
    host.tare(["update"]).args(ports).arg("web").run().prints("web");
}

/// Waits until the container's monitor has executed itself again.
fn is_small(host: &Host) {
    let root = host.root();
    eventually("the monitor has made itself small", || {
        process::Process::all().iter().any(|process| {
            let line = process.file("cmdline");
            line.starts_with("tare-monitor\0") && line.contains(&*root.to_string_lossy())
        })
    });
}

#[test]
fn published_ports_change_while_it_runs() {
    let (host, remote) = (Host::new(), Remote::new());
    serving(&host);
    update(&host, &["8080:81", "9090:80"]);
    for (port, says) in [(8080, "second"), (9090, "first")] {
        assert_eq!(get_from(&remote, &remote.machine, port), says);
        assert_eq!(get("127.0.0.1", port), says);
        assert_eq!(get("::1", port), says, "by its proxy");
    }
    host.tare(["port", "web"])
        .run()
        .prints("80/tcp -> 0.0.0.0:9090\n80/tcp -> [::]:9090\n81/tcp -> 0.0.0.0:8080\n81/tcp -> [::]:8080");
    // It has nothing but the sockets then.
    is_small(&host);
    update(&host, &["127.0.0.1:8080:81"]);
    assert_eq!(get("127.0.0.1", 8080), "second");
    assert_eq!(get_from(&remote, &remote.machine, 8080), "", "on loopback alone");
    assert_eq!(get("127.0.0.1", 9090), "", "not published any more");
    drop(std::net::TcpListener::bind("0.0.0.0:9090").expect("nor held"));
    update(&host, &["7000-7001:80"]);
    assert_eq!(get("127.0.0.1", 7000), "first");
    host.tare(["restart", "-t", "0", "web"]).run().ok();
    eventually("the same after a restart", || get("127.0.0.1", 7000) == "first");
    update(&host, &["none"]);
    assert_eq!(get("127.0.0.1", 7000), "");
    host.tare(["port", "web"]).run().prints("");
    update(&host, &["8080:80"]);
    let itself = host.pid("web").to_string();
    let words = ["nsenter", "-t", &itself, "-n", "curl", "-s", "--max-time", "3"];
    let hairpin = run(&[&words[..], &[&format!("http://{}:8080/", remote.machine)]].concat());
    assert_eq!(hairpin, "first\n", "from itself");
    host.tare(["rm", "-f", "web"]).run().ok();
    let ruleset = run(&["nft", "list", "ruleset"]);
    assert!(!ruleset.contains("8080") && !ruleset.contains("\"tv"), "{ruleset}");
}

#[test]
fn ports_of_a_container_in_the_hosts_network_are_warned_of() {
    let host = Host::new();
    let out = host.sh(&["--network", "host", "-p", "8080:80"], "true");
    out.ok();
    out.complains_of(&["published ports", "--network host"]);
}

#[test]
fn ports_that_cannot_be_had_change_nothing() {
    let host = Host::new();
    own_network();
    serving(&host);
    host.detached(&["--name", "other", "-p", "7777:80"], "exec sleep 600");
    let before = host.inspect("web")["HostConfig"].clone();
    let refused = |words: &[&str], code: i32, complaint: &str| {
        host.tare(["update"]).args(words).arg("web").run().fails(code).complains_of(&[complaint]);
    };
    refused(&["-p", "9090:80", "-p", "7777:80"], 1, "other");
    refused(&["-p", "9090:80", "-p", "none"], 1, "--publish none");
    refused(&["-p", "99999:80"], 125, "99999");
    assert_eq!(host.inspect("web")["HostConfig"], before);
    assert_eq!(get("127.0.0.1", 8080), "first");
    assert_eq!(get("::1", 8080), "first");
    assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err(), "held as before");
    drop(std::net::TcpListener::bind("0.0.0.0:9090").expect("free as before"));
    host.detached(&["--name", "alone", "--network", "none"], "exec sleep 600");
    let words = ["update", "-p", "9090:80", "alone"];
    host.tare(words).run().fails(1).complains_of(&["no network", "network connect"]);
}

#[test]
fn datagrams_reach_a_container_without_ipv6_by_ipv6() {
    let (host, remote) = (Host::new(), Remote::new());
    let flags = ["--name", "web", "-p", "5353:5353/udp", "-p", "9899:9899/sctp"];
    host.detached(&flags, "exec sleep 600");
    let socket = |at: &str| {
        let socket = UdpSocket::bind(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    };
    let server = in_network_of(host.pid("web"), || socket("0.0.0.0:5353"));
    let here = socket("[::]:0");
    let elsewhere = remote.within(|| socket("[::]:0"));
    for (client, address) in [(&here, "::1"), (&here, &remote.machine6), (&elsewhere, &remote.machine6)] {
        let mut buffer = [0; 16];
        eventually("the question is there", || {
            client.send_to(b"question", (address, 5353)).unwrap();
            let Ok((8, from)) = server.recv_from(&mut buffer) else { return false };
            server.send_to(b"answer", from).unwrap();
            client.recv_from(&mut buffer).is_ok_and(|(length, _)| &buffer[..length] == b"answer")
        });
    }
    let ports = host.tare(["port", "web"]).run().ok();
    assert!(ports.contains("9899/sctp -> 0.0.0.0:9899") && !ports.contains("[::]:9899"), "{ports}");
    let words = ["run", "--rm", "-p", "[::1]:9899:9899/sctp", "busybox", "true"];
    host.tare(words).run().fails(125).complains_of(&["sctp", "no IPv6", "--ipv6"]);
}

#[test]
fn a_monitor_that_can_open_no_more_files_turns_clients_away_and_rests() {
    let host = Host::new();
    own_network();
    serving(&host);
    is_small(&host);
    // It has opened all that it needs.
    assert_eq!(get("::1", 8080), "first");
    let (monitor, pid) = (host.monitor("web"), host.pid("web"));
    // Room for a few. What the caller of the engine had open may have high numbers.
    let mut free = (0..).filter(|fd| !Path::new(&format!("/proc/{}/fd/{fd}", monitor.id)).exists());
    let most: u32 = free.nth(6).unwrap();
    run(&["prlimit", "--pid", &monitor.id.to_string(), &format!("--nofile={most}:")]);
    let by_proxy = || TcpStream::connect(("::1", 8080)).unwrap();
    let names = || in_network_of(pid, || TcpStream::connect(("127.0.0.11", 53)).unwrap());
    for (who, connect) in [("the proxy", &by_proxy as &dyn Fn() -> TcpStream), ("the name server", &names)] {
        let clients: Vec<TcpStream> = (0..14).map(|_| connect()).collect();
        clients.iter().for_each(|client| client.set_nonblocking(true).unwrap());
        eventually(&format!("{who} turns away whom it has no room for"), || {
            let over = |mut client: &TcpStream| match client.read(&mut [0]) {
                Ok(length) => length == 0,
                Err(err) => err.kind() != ErrorKind::WouldBlock,
            };
            clients.iter().any(over)
        });
        let busy = monitor.busy();
        std::thread::sleep(Duration::from_secs(1));
        let busy = monitor.busy() - busy;
        assert!(busy < Duration::from_millis(200), "{who}: {busy:?} of a second");
        drop(clients);
        eventually("there is room again", || get("::1", 8080) == "first");
    }
}

/// A socket for datagrams that does not wait for long.
fn datagrams(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

#[test]
fn who_sends_datagrams_to_a_port_reaches_the_container_that_has_it_now() {
    let (host, remote) = (Host::new(), Remote::new());
    host.tare(["network", "create", "--subnet", "10.99.0.0/24", "lan"]).run().ok();
    // There is a firewall, which follows what passes.
    host.detached(&["--name", "other", "-p", "7777:80"], "exec sleep 600");
    let clients = [remote.within(|| datagrams("0.0.0.0:4000")), datagrams("127.0.0.1:4000")];
    let addresses = [remote.machine.as_str(), "127.0.0.1"];
    // Before there is anybody, and never silent for long, from one and the same port.
    for (client, address) in clients.iter().zip(addresses) {
        client.send_to(b"question", (address, 5353)).unwrap();
    }
    for address in ["10.99.0.5", "10.99.0.6"] {
        let flags = ["--name", address, "--network", "lan", "--ip", address, "-p", "5353:53/udp"];
        host.detached(&flags, "exec sleep 600");
        let server = in_network_of(host.pid(address), || datagrams("0.0.0.0:53"));
        let mut buffer = [0; 16];
        for (client, at) in clients.iter().zip(addresses) {
            eventually(&format!("{address} is asked by {at} and its answer arrives"), || {
                client.send_to(b"question", (at, 5353)).unwrap();
                let Ok((8, from)) = server.recv_from(&mut buffer) else { return false };
                server.send_to(address.as_bytes(), from).unwrap();
                client.recv_from(&mut buffer).is_ok_and(|(length, _)| &buffer[..length] == address.as_bytes())
            });
        }
        host.tare(["rm", "-f", address]).run().ok();
        for (client, at) in clients.iter().zip(addresses) {
            client.send_to(b"question", (at, 5353)).unwrap();
        }
    }
}

#[test]
fn a_container_of_one_family_is_reached_by_the_other_and_answers_from_where_it_was_asked() {
    let (host, remote) = (Host::new(), Remote::new());
    let answers = |name: &str, server: &str, port: u16, addresses: &[&str]| {
        let server = in_network_of(host.pid(name), || datagrams(server));
        for address in addresses {
            // It takes nothing from anybody else.
            let client = datagrams(if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" });
            client.connect((*address, port)).unwrap();
            let mut buffer = [0; 16];
            eventually(&format!("{name} answers at {address}"), || {
                client.send(b"question").unwrap();
                let Ok((8, from)) = server.recv_from(&mut buffer) else { return false };
                server.send_to(b"answer", from).unwrap();
                client.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == b"answer")
            });
        }
    };
    let [at, machine6] = ["::1", &remote.machine6].map(|at| format!("[{at}]:5454:53/udp"));
    host.detached(&["--name", "four", "-p", &at, "-p", &machine6], "exec sleep 600");
    answers("four", "0.0.0.0:53", 5454, &["::1", &remote.machine6, "::1"]);
    host.tare(["network", "create", "--ipv6", "--subnet", "fd00:1::/64", "lan"]).run().ok();
    let flags = ["--name", "six", "--network", "lan", "-p", "8080:80", "-p", "5353:53/udp"];
    host.detached(&flags, SERVERS);
    eventually("it serves", || get("127.0.0.1", 8080) == "first");
    assert_eq!(get("::1", 8080), "first");
    assert_eq!(get_from(&remote, &remote.machine, 8080), "first");
    answers("six", "[::]:53", 5353, &["127.0.0.1", &remote.machine, "::1"]);
}

#[test]
fn a_client_whose_machine_has_vanished_is_given_up_by_the_proxy() {
    let (host, remote) = (Host::new(), Remote::new());
    for (setting, value) in [("time", "1"), ("intvl", "1"), ("probes", "2")] {
        std::fs::write(format!("/proc/sys/net/ipv4/tcp_keepalive_{setting}"), value).unwrap();
    }
    let script = "sleep 600 | nc -l -p 80 | { read line; touch /came; cat; touch /gone; }; exec sleep 600";
    host.detached(&["--name", "web", "-p", "8080:80"], script);
    let is_there = |file: &str| host.tare(["exec", "web", "test", "-e", file]).run().code() == 0;
    let mut client = remote.within(|| {
        let connect = || TcpStream::connect((&*remote.machine6, 8080)).ok();
        let mut client = None;
        eventually("it is connected", || {
            client = connect().filter(|mut client| client.write_all(b"hello\n").is_ok());
            std::thread::sleep(Duration::from_millis(100));
            is_there("/came")
        });
        client
    });
    assert!(client.as_mut().is_some_and(|client| client.write_all(b"hello\n").is_ok()));
    remote.ip(&["link", "set", "eth0", "down"]);
    eventually("its connection to the container is closed", || is_there("/gone"));
}

#[test]
fn beyond_those_that_sockets_hold_a_port_has_one_owner_at_all_addresses_as_well() {
    let host = Host::new();
    own_network();
    host.detached(&["--name", "many", "-p", "20000-20250:20000-20250"], "exec sleep 600");
    let refused = |ports: &str| {
        let words = ["run", "--rm", "-p", ports, "busybox", "true"];
        host.tare(words).run().fails(125).complains_of(&["port", "many"]);
    };
    refused("127.0.0.1:20240:80");
    refused("127.0.0.1:20150-20400:20150-20400");
    serving(&host);
    host.tare(["update", "-p", "127.0.0.1:20240:80", "web"]).run().fails(1).complains_of(&["port", "many"]);
    assert_eq!(get("127.0.0.1", 8080), "first", "as before");
    host.tare(["rm", "-f", "many"]).run().ok();
    update(&host, &["127.0.0.1:20240:80"]);
    assert_eq!(get("127.0.0.1", 20240), "first");
}

#[test]
fn published_ports_go_with_a_container_from_one_network_to_another() {
    let (host, remote) = (Host::new(), Remote::new());
    for network in ["one", "two"] {
        host.tare(["network", "create", network]).run().ok();
    }
    let change = |verb: &str, network: &str| host.tare(["network", verb, network, "web"]).run().ok();
    let reached = || {
        get("127.0.0.1", 8080) == "first"
            && get("::1", 8080) == "first"
            && get_from(&remote, &remote.machine, 8080) == "first"
    };
    host.detached(&["--name", "web", "--network", "one", "-p", "8080:80"], SERVERS);
    eventually("it serves", || get("127.0.0.1", 8080) == "first");
    for _ in 0..2 {
        change("connect", "two");
        change("disconnect", "one");
        assert!(reached(), "by the other network");
        change("disconnect", "two");
        assert_eq!(get("127.0.0.1", 8080), "");
        change("connect", "one");
        assert!(reached(), "by a network that it is put on later");
        is_small(&host);
    }
    let ports = host.tare(["port", "web"]).run().ok();
    assert_eq!(ports, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080");
}

/// Lets in what the machine itself and answers need.
fn usual(chain: &str) {
    run(&[
        "nft",
        &format!("add rule {chain} iif lo accept; add rule {chain} ct state established,related accept"),
    ]);
}

#[test]
fn a_firewall_that_is_switched_on_later_is_obeyed_as_well() {
    let (host, remote) = (Host::new(), Remote::new());
    serving(&host);
    is_small(&host);
    // Not by asking a client, who would be let in after a while in any case.
    let gated = || {
        let rules = run(&["nft", "list", "ruleset"]);
        let (_, rest) = rules.split_once("set gated {").expect("the set");
        rest.split_once('}').is_some_and(|(set, _)| set.contains("elements"))
    };
    assert!(!gated());
    run(&[
        "nft",
        "add table inet mine; add chain inet mine input { type filter hook input priority 0; policy accept; }",
    ]);
    usual("inet mine input");
    run(&["nft", "add rule inet mine input tcp dport 9090 accept"]);
    assert_eq!(get_from(&remote, &remote.machine, 8080), "first", "it drops nothing yet");
    // By a last rule.
    run(&["nft", "add rule inet mine input counter reject"]);
    eventually("the monitor has seen it", gated);
    assert_eq!(get_from(&remote, &remote.machine, 8080), "");
    run(&["nft", "insert rule inet mine input tcp dport 8080 accept"]);
    eventually("what it lets in", || get_from(&remote, &remote.machine, 8080) == "first");
    run(&["nft", "flush chain inet mine input"]);
    eventually("it drops nothing any more", || !gated());
    // By its policy; who was let in a moment ago still is.
    usual("inet mine input");
    run(&["nft", "add chain inet mine input { policy drop; }"]);
    eventually("the monitor has seen that, too", gated);
    update(&host, &["8081:80"]);
    assert_eq!(get_from(&remote, &remote.machine, 8081), "", "what it does not let in");
    assert_eq!(get("127.0.0.1", 8081), "first", "the machine itself");
    run(&["nft", "delete table inet mine"]);
    eventually("it is gone", || !gated());
    assert_eq!(get_from(&remote, &remote.machine, 8081), "first");
}

#[test]
fn rules_of_the_older_iptables_are_obeyed_after_a_reload() {
    let (host, remote) = (Host::new(), Remote::new());
    let legacy = |rule: &str| {
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            run(&[&[program][..], &rule.split(' ').collect::<Vec<_>>()].concat());
        }
    };
    serving(&host);
    legacy("-A INPUT -i lo -j ACCEPT");
    legacy("-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT");
    host.tare(["network", "reload"]).run().ok();
    assert_eq!(get_from(&remote, &remote.machine, 8080), "first", "they drop nothing");
    for (closed, open) in [("-A INPUT -j REJECT", "-D INPUT -j REJECT"), ("-P INPUT DROP", "-P INPUT ACCEPT")]
    {
        legacy(closed);
        host.tare(["network", "reload"]).run().ok();
        assert_eq!(get_from(&remote, &remote.machine, 8080), "", "{closed}");
        legacy(open);
    }
    legacy("-P FORWARD DROP");
    let words = ["run", "--rm", "-p", "9090:80", "busybox", "true"];
    host.tare(words).run().complains_of(&["FORWARD of iptables-legacy", "docs/firewall.md"]);
}

#[test]
fn docker_and_tare_publish_side_by_side() {
    if !engine::installed(&["dockerd", "docker", "containerd"]) {
        return;
    }
    let remote = Remote::new();
    let docker = Docker::with_networks();
    let host = Host::new();
    let theirs = docker
        .client
        .detached(&["-p", "8081:80"], "mkdir -p /w; echo docker > /w/index.html; exec httpd -f -p 80 -h /w");
    eventually("Docker's serves", || get_from(&remote, &remote.machine, 8081) == "docker");
    let rules = || run(&["iptables", "-S"]) + &run(&["iptables", "-t", "nat", "-S"]);
    let before = rules();
    serving(&host);
    assert_eq!(rules(), before, "no rule of Docker's is changed");
    assert_eq!(get_from(&remote, &remote.machine, 8081), "docker");
    // As docs/firewall.md says: Docker drops what is forwarded and not its own.
    let link = host.tare(["network", "inspect", "-f", "{{.Tare.Link}}", "bridge"]).run().ok();
    for side in ["-i", "-o"] {
        run(&["iptables", "-I", "DOCKER-USER", side, link.trim(), "-j", "ACCEPT"]);
    }
    assert_eq!(get_from(&remote, &remote.machine, 8080), "first");
    assert_eq!(get_from(&remote, &remote.machine, 8081), "docker");
    host.tare(["rm", "-f", "web"]).run().ok();
    assert_eq!(get_from(&remote, &remote.machine, 8081), "docker", "it goes on without us");
    drop(theirs);
}

#[test]
fn nginx_serves_behind_a_published_port() {
    if engine::program("nginx").is_none() {
        eprintln!("not tried: nginx is not installed (Debian package nginx-light)");
        return;
    }
    let (host, remote) = (Host::new(), Remote::new());
    let config = "daemon off; pid /tmp/pid; error_log stderr; events {} http { access_log /dev/stdout; \
                  client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; \
                  uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e; \
                  server { listen 80; location / { return 200 'nginx\\n'; } } }";
    let volume = format!("{}:/config:ro", host.file("nginx.conf", config).display());
    let run =
        ["run", "-d", "--name", "web", "-v", &volume, "-p", "8080:80", "host", "nginx", "-c", "/config"];
    host.tare(run).run().ok();
    eventually("it serves", || get_from(&remote, &remote.machine, 8080) == "nginx");
    eventually("it sees who asks, and writes it down afterwards", || {
        host.tare(["logs", "web"]).run().stdout().contains(&remote.address)
    });
}
