//! Networks, by packets that arrive or do not, between network namespaces that stand for machines.
#![forbid(unsafe_code)]

use std::time::Duration;

use tare_tests::fault::{KILLED, before, some, steps, traced};
use tare_tests::machine::{Remote, get, get_from, own_network, run};
use tare_tests::{Host, Tare, eventually, process};

/// A web server that says "hello", and in its log who asked.
const SERVER: &str = "mkdir -p /w; echo hello > /w/index.html; exec httpd -f -vv -p 80 -h /w";

fn serving(host: &Host, flags: &[&str]) -> String {
    host.detached(flags, SERVER)
}

fn address(host: &Host, name: &str, network: &str) -> String {
    host.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"].as_str().unwrap().to_owned()
}

/// What a script prints in a container on a network.
fn inside(host: &Host, network: &str, script: &str) -> String {
    host.sh(&["--network", network], script).stdout()
}

/// `GET /` by busybox's nc.
fn ask(address: &str, port: u16) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {port} 2>&1 | tail -n 1")
}

#[test]
fn an_option_that_cannot_be_meant_closes_nothing_and_is_refused() {
    let host = Host::new();
    for (option, complaint) in [
        ("com.docker.network.bridge.enable_icc=no", "\"no\""),
        ("enable_ip_masquerade=off", "\"off\""),
        ("com.docker.network.bridge.host_binding_ipv4=here", "\"here\""),
        ("nosuch=1", "nosuch"),
    ] {
        host.tare(["network", "create", "-o", option, "lan"]).run().fails(1).complains_of(&[complaint]);
    }
}

#[test]
fn a_container_has_an_address_reaches_the_world_and_has_no_ipv6() {
    let (host, remote) = (Host::new(), Remote::new());
    let folder = host.folder("web");
    std::fs::write(folder.join("index.html"), "world\n").unwrap();
    let log = host.work().join("log");
    let script =
        format!("busybox httpd -f -vv -p 80 -h {} > {} 2>&1 & echo $!", folder.display(), log.display());
    let server = remote.command(&["sh", "-c", &script]).run().ok();
    eventually("the other host serves", || get_from(&remote, "127.0.0.1", 80) == "world");
    let said = inside(&host, "bridge", &format!("{}; ip addr show eth0; ip route", ask(&remote.address, 80)));
    assert!(
        said.contains("world") && said.contains("10.120.") && said.contains("default via 10.120."),
        "{said}"
    );
    assert!(!said.contains("inet6"), "no IPv6 where nobody asked for it: {said}");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains(&remote.machine), "it goes out with the machine's address: {log}");
    run(&["kill", &server]);
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_sees_who_asks() {
    let (host, remote) = (Host::new(), Remote::new());
    serving(&host, &["--name", "web", "--network", "bridge", "-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    eventually("it serves", || get("127.0.0.1", 8080) == "hello");
    assert_eq!(get_from(&remote, &remote.machine, 8080), "hello");
    assert_eq!(get(&remote.machine, 8080), "hello");
    assert_eq!(get("127.0.0.1", 8081), "hello");
    assert_eq!(get_from(&remote, &remote.machine, 8081), "", "published on loopback alone");
    assert_eq!(inside(&host, "bridge", &ask(&remote.machine, 8080)), "hello", "from its neighbour");
    let itself = host.pid("web").to_string();
    let words = ["nsenter", "-t", &itself, "-n", "curl", "-s", "--max-time", "3"];
    let hairpin = run(&[&words[..], &[&format!("http://{}:8080/", remote.machine)]].concat());
    assert_eq!(hairpin, "hello\n", "from itself");
    let log = host.tare(["logs", "web"]).run();
    let log = format!("{}{}", log.stdout(), log.stderr());
    assert!(log.contains(&remote.address), "the other host is seen as itself: {log}");
    host.tare(["port", "web", "80"]).run().prints(&format!("0.0.0.0:8080\n127.0.0.1:8081\n{}", "[::]:8080"));
    assert!(run(&["nft", "list", "ruleset"]).contains("8080"));
    host.tare(["rm", "-f", "web"]).run().ok();
    assert!(!run(&["nft", "list", "ruleset"]).contains("8080"), "and it is gone with the container");
}

#[test]
fn a_taken_port_is_an_error_that_names_its_owner_and_is_free_again_at_once() {
    let host = Host::new();
    serving(&host, &["--name", "web", "--network", "bridge", "-p", "8080:80"]);
    let other = ["run", "--rm", "--network", "bridge", "-p", "8080:80", "busybox", "true"];
    host.tare(other).run().fails(125).complains_of(&["port is already allocated", "8080/tcp", "web"]);
    host.tare(["rm", "-f", "web"]).run().ok();
    host.tare(other).run().ok();
    host.tare(other).run().ok();
    let listener = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
    let me = std::process::id().to_string();
    host.tare(other).run().fails(125).complains_of(&["port is already allocated", &format!("process {me}")]);
    drop(listener);
    // Any that is free of a range, and each its own.
    for port in ["9000", "9001"] {
        let id = serving(&host, &["--network", "bridge", "-p", "9000-9001:80"]);
        assert!(host.tare(["port", &id]).run().ok().contains(&format!("0.0.0.0:{port}")));
    }
    let words = ["run", "--rm", "--network", "bridge", "-p", "9000-9001:80", "busybox", "true"];
    host.tare(words).run().fails(125).complains_of(&["9000-9001", "none is free"]);
    let id = serving(&host, &["--network", "bridge", "-p", "53:53/udp", "-P", "--expose", "7000-7001"]);
    let ports = host.tare(["port", &id]).run().ok();
    assert!(ports.contains("53/udp -> 0.0.0.0:53") && ports.contains("7001/tcp -> 0.0.0.0:"), "{ports}");
}

#[test]
fn networks_are_apart_and_an_internal_one_is_shut() {
    let (host, remote) = (Host::new(), Remote::new());
    for words in [&["left"][..], &["right"], &["--internal", "shut"], &["-o", "enable_icc=false", "shy"]] {
        host.tare(["network", "create"]).args(words).run().ok();
    }
    for network in ["left", "shut", "shy"] {
        serving(&host, &["--name", &format!("on-{network}"), "--network", network]);
    }
    let at = |network: &str| address(&host, &format!("on-{network}"), network);
    for network in ["left", "shut", "shy"] {
        eventually("it serves, as the machine itself sees", || get(&at(network), 80) == "hello");
    }
    assert_eq!(inside(&host, "left", &ask(&at("left"), 80)), "hello");
    assert_ne!(inside(&host, "right", &ask(&at("left"), 80)), "hello", "from network to network");
    assert_ne!(inside(&host, "bridge", &ask(&at("left"), 80)), "hello");
    assert_eq!(inside(&host, "shut", &ask(&at("shut"), 80)), "hello");
    assert_eq!(inside(&host, "shut", "ip route | grep -c default"), "0");
    assert_ne!(inside(&host, "shy", &ask(&at("shy"), 80)), "hello", "neighbours may not talk");
    remote.ip(&["route", "add", "10.120.0.0/13", "via", &remote.machine]);
    assert_eq!(get_from(&remote, &at("left"), 80), "", "what is not published is not reached from outside");
    host.tare(["network", "rm", "left"]).run().fails(1).complains_of(&["has active endpoints", "on-left"]);
    host.tare(["network", "create", "left"]).run().fails(1).complains_of(&["already exists"]);
    host.tare(["network", "rm", "right"]).run().ok();
    host.tare(["run", "--rm", "--network", "right", "busybox", "true"])
        .run()
        .fails(125)
        .complains_of(&["network right not found"]);
}

#[test]
fn a_container_cannot_take_the_address_of_another() {
    let host = Host::new();
    let server = "ip addr add 10.99.0.9/24 dev eth0; exec sleep 60";
    host.tare(["network", "create", "--subnet", "10.99.0.0/24", "lan"]).run().ok();
    serving(&host, &["--name", "web", "--network", "lan", "--ip", "10.99.0.5"]);
    host.detached(&["--name", "liar", "--network", "lan", "--cap-add", "NET_ADMIN"], server);
    assert_eq!(address(&host, "web", "lan"), "10.99.0.5");
    eventually("it has given itself the address", || {
        let pid = host.pid("liar").to_string();
        run(&["nsenter", "-t", &pid, "-n", "ip", "addr"]).contains("10.99.0.9")
    });
    let pid = host.pid("liar").to_string();
    let from = |source: &str| {
        let mut command = std::process::Command::new("nsenter");
        command.args(["-t", &pid, "-n", "curl", "-s", "--max-time", "1", "--interface", source]);
        String::from_utf8(command.arg("http://10.99.0.5/").output().unwrap().stdout).unwrap()
    };
    let own = address(&host, "liar", "lan");
    eventually("it is answered at its own address", || from(&own) == "hello\n");
    assert_eq!(from("10.99.0.9"), "", "a source that it was not given");
}

#[test]
fn the_hosts_own_firewall_has_the_last_word_and_stays_as_it_is() {
    let (host, remote) = (Host::new(), Remote::new());
    run(&[
        "nft",
        "add table ip mine; add chain ip mine guard { type filter hook forward priority 10; policy accept; }",
    ]);
    run(&["iptables", "-N", "DOCKER-USER"]);
    run(&["iptables", "-A", "FORWARD", "-j", "DOCKER-USER"]);
    let own = || {
        let all = run(&["nft", "-s", "list", "table", "ip", "mine"]);
        all + &run(&["iptables", "-S"])
    };
    let before = own();
    serving(&host, &["--name", "web", "--network", "bridge", "-p", "8080:80"]);
    eventually("it serves", || get("127.0.0.1", 8080) == "hello");
    assert_eq!(get_from(&remote, &remote.machine, 8080), "hello");
    assert_eq!(own(), before);
    run(&["nft", &format!("add rule ip mine guard iifname {} drop", remote.link)]);
    assert_eq!(get_from(&remote, &remote.machine, 8080), "", "it says no");
    run(&["nft", "flush", "chain", "ip", "mine", "guard"]);
    run(&["iptables", "-P", "FORWARD", "DROP"]);
    assert_eq!(get_from(&remote, &remote.machine, 8080), "", "and so does the older tool");
    run(&["iptables", "-I", "DOCKER-USER", "-j", "ACCEPT"]);
    assert_eq!(get_from(&remote, &remote.machine, 8080), "hello");
}

#[test]
fn a_published_port_is_no_way_around_a_firewall_that_drops_what_it_was_not_told_to_let_in() {
    let (host, remote) = (Host::new(), Remote::new());
    let rule = |rule: &str| drop(run(&["nft", rule]));
    rule(
        "add table inet mine; add chain inet mine input { type filter hook input priority 0; policy drop; }",
    );
    rule(
        "add rule inet mine input iif lo accept; add rule inet mine input ct state established,related accept",
    );
    serving(&host, &["--name", "web", "-p", "8080:80"]);
    eventually("it serves", || get("127.0.0.1", 8080) == "hello");
    assert_eq!(get(&remote.machine, 8080), "hello", "the machine itself");
    assert_eq!(get_from(&remote, &remote.machine, 8080), "", "what the host's rules do not let in");
    rule("add rule inet mine input tcp dport 8080 accept");
    eventually("what they do let in", || get_from(&remote, &remote.machine, 8080) == "hello");
    // The line is written when the answer is, and passes the monitor on its way.
    eventually("the server has seen its address", || {
        let log = host.tare(["logs", "web"]).run();
        format!("{}{}", log.stdout(), log.stderr()).contains(&remote.address)
    });
    run(&["nft", "delete", "table", "inet", "mine"]);
    host.tare(["network", "reload"]).run().ok();
    assert_eq!(get_from(&remote, &remote.machine, 8080), "hello");
}

#[test]
fn after_a_flush_reload_and_the_next_start_bring_all_back() {
    let (host, remote) = (Host::new(), Remote::new());
    host.tare(["network", "reload"]).run().ok();
    serving(&host, &["--name", "web", "--network", "bridge", "-p", "8080:80"]);
    eventually("it serves", || get("127.0.0.1", 8080) == "hello");
    let rules = || run(&["nft", "-s", "list", "ruleset"]);
    let before = rules();
    run(&["nft", "flush", "ruleset"]);
    assert_eq!(get_from(&remote, &remote.machine, 8080), "");
    host.tare(["network", "reload"]).run().ok();
    assert_eq!(rules(), before);
    assert_eq!(get_from(&remote, &remote.machine, 8080), "hello");
    run(&["nft", "flush", "ruleset"]);
    host.sh(&["--network", "bridge"], "true").ok();
    assert_eq!(rules(), before, "without being asked");
}

#[test]
fn a_running_container_is_connected_and_disconnected() {
    let host = Host::new();
    host.tare(["network", "create", "--subnet", "10.99.0.0/24", "--ip-range", "10.99.0.128/25", "lan"])
        .run()
        .ok();
    serving(&host, &["--name", "web", "--network", "bridge"]);
    eventually("it serves", || get(&address(&host, "web", "bridge"), 80) == "hello");
    host.tare(["network", "connect", "--ip", "10.99.0.7", "--alias", "www", "lan", "web"]).run().ok();
    assert_eq!(address(&host, "web", "lan"), "10.99.0.7");
    assert_eq!(inside(&host, "lan", &ask("10.99.0.7", 80)), "hello");
    assert!(inside(&host, "lan", "ip addr show eth0").contains("10.99.0.128"), "from the range");
    host.tare(["run", "--rm", "--network", "lan", "--ip", "10.99.0.7", "busybox", "true"])
        .run()
        .fails(125)
        .complains_of(&["Address already in use"]);
    host.tare(["network", "connect", "lan", "web"]).run().fails(1).complains_of(&["already exists"]);
    host.tare(["network", "disconnect", "lan", "web"]).run().ok();
    assert!(host.inspect("web")["NetworkSettings"]["Networks"].get("lan").is_none());
    assert_ne!(inside(&host, "lan", &ask("10.99.0.7", 80)), "hello");
    let here = inside(&host, "lan", "true; ip -o link");
    assert!(here.contains("eth0"), "{here}");
    // The last ones' links go when they go.
    eventually("one link is left, of the network that it is still on", || {
        run(&["ip", "-o", "link"]).lines().filter(|line| line.contains(": tv")).count() == 1
    });
}

#[test]
fn a_link_of_the_hosts_is_no_networks_bridge_and_stays() {
    own_network();
    let host = Host::new();
    run(&["ip", "link", "add", "lan0", "type", "bridge"]);
    let create = |network: &str, link: &str| {
        host.tare(["network", "create", "--opt", &format!("com.docker.network.bridge.name={link}"), network])
            .run()
    };
    create("taken", "lan0").fails(1).complains_of(&["a link lan0 already", "of the host"]);
    create("first", "lan1").ok();
    create("second", "lan1").fails(1).complains_of(&["a link lan1 already", "of the network first"]);
    // Somebody makes it after the network, which has had no container yet.
    run(&["ip", "link", "add", "lan1", "type", "bridge"]);
    host.tare(["network", "rm", "first"]).run().ok();
    assert!(run(&["ip", "-o", "link"]).contains("lan1"));
    run(&["ip", "link", "del", "lan1"]);
    create("third", "lan1").ok();
    host.tare(["run", "--rm", "--network", "third", host.busybox(), "true"]).run().ok();
    assert!(run(&["ip", "-o", "link"]).contains("lan1"));
    host.tare(["network", "rm", "third"]).run().ok();
    let links = run(&["ip", "-o", "link"]);
    assert!(!links.contains("lan1") && links.contains("lan0"), "{links}");
    run(&["ip", "link", "del", "lan0"]);
}

#[test]
fn a_link_that_somebody_made_under_the_name_of_a_networks_bridge_is_left_alone() {
    own_network();
    let host = Host::new();
    host.tare(["network", "create", "--opt", "com.docker.network.bridge.name=lan1", "lan"]).run().ok();
    // Rules are there to be made anew.
    host.detached(&["--name", "web", "--network", "bridge"], "sleep 600");
    run(&["ip", "link", "add", "lan1", "type", "bridge"]);
    let start = || host.tare(["run", "--rm", "--network", "lan", host.busybox(), "true"]).run();
    start().fails(125).complains_of(&["lan1", "not the bridge of the network lan", "ip link"]);
    host.tare(["network", "connect", "lan", "web"]).run().fails(1).complains_of(&["lan1"]);
    host.tare(["network", "reload"]).run().ok();
    assert_eq!(run(&["ip", "-o", "link", "show", "master", "lan1"]), "");
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/conf/lan1/route_localnet").unwrap();
    assert_eq!(setting, "0\n", "no setting of it is changed");
    let ruleset = run(&["nft", "list", "ruleset"]);
    assert!(!ruleset.contains("lan1"), "no rule is about it: {ruleset}");
    run(&["ip", "link", "del", "lan1"]);
    start().ok();
    host.tare(["network", "rm", "lan"]).run().ok();
}

#[test]
fn a_network_that_is_removed_while_a_container_starts_on_it_leaves_nothing() {
    let host = Host::new();
    host.busybox();
    for _ in 0..15 {
        host.tare(["network", "create", "lan"]).run().ok();
        let calls = [(); 3].map(|()| {
            host.tare(["run", "--rm", "--network", "lan", "busybox", "ls", "/sys/class/net/eth0/mtu"]).start()
        });
        // Sooner or later nobody is on it.
        eventually("it is removed", || host.tare(["network", "rm", "lan"]).run().code() == 0);
        for call in calls {
            let ended = call.wait();
            assert!(
                ended.code() == 0 && ended.line().ends_with("mtu") || ended.code() == 125,
                "{}",
                ended.stderr()
            );
        }
        let links = run(&["ip", "-o", "link"]);
        assert!(!links.contains(": tare"), "its bridge is gone with it: {links}");
    }
}

#[test]
fn a_network_whose_name_is_how_anothers_id_begins_is_not_that_one() {
    let host = Host::new();
    let id = host.tare(["network", "create", "other"]).run().ok();
    let name = &id[..5];
    host.tare(["network", "create", name]).run().ok();
    host.tare(["network", "create", "unused"]).run().ok();
    host.detached(&["--name", "web", "--network", name], "sleep 600");
    host.tare(["network", "connect", "other", "web"]).run().ok();
    assert_ne!(address(&host, "web", name), address(&host, "web", "other"));
    host.tare(["network", "disconnect", "other", "web"]).run().ok();
    let networks = host.inspect("web")["NetworkSettings"]["Networks"].clone();
    assert!(networks.get("other").is_none() && networks[name]["IPAddress"] != "", "{networks}");
    let pruned = host.tare(["network", "prune", "-f"]).run().ok();
    assert!(pruned.contains("other") && pruned.contains("unused") && !pruned.contains(name), "{pruned}");
}

#[test]
fn connected_to_several_networks_at_once_a_container_is_on_all_of_them() {
    let host = Host::new();
    host.detached(&["--name", "web", "--network", "bridge"], "sleep 600");
    let networks = ["one", "two", "three", "four", "five", "six"];
    for network in networks {
        host.tare(["network", "create", network]).run().ok();
    }
    let connect = |network: &&str| host.tare(["network", "connect", *network, "web"]).start();
    let calls: Vec<_> = networks.iter().map(connect).collect();
    let renamed = host.tare(["rename", "web", "server"]).start();
    calls.into_iter().chain([renamed]).for_each(|call| drop(call.wait().ok()));
    let all = host.inspect("server")["NetworkSettings"]["Networks"].clone();
    for network in networks {
        assert_ne!(all[network]["IPAddress"], "", "{network}: {all}");
    }
    let links = host.tare(["exec", "server", "ip", "-o", "link"]).run().ok();
    assert_eq!(links.lines().filter(|line| line.contains(": eth")).count(), 7, "{links}");
    let calls: Vec<_> = networks
        .iter()
        .map(|network| host.tare(["network", "disconnect", *network, "server"]).start())
        .collect();
    calls.into_iter().for_each(|call| drop(call.wait().ok()));
    let links = host.tare(["exec", "server", "ip", "-o", "link"]).run().ok();
    assert_eq!(links.lines().filter(|line| line.contains(": eth")).count(), 1, "{links}");
}

/// As many links as networks; `none` is the word for none of them.
#[track_caller]
fn is_on_what_inspect_tells(host: &Host, name: &str) {
    let networks = host.inspect(name)["NetworkSettings"]["Networks"].clone();
    let networks = networks.as_object().unwrap().keys().filter(|network| *network != "none").count();
    let links = host.tare(["exec", name, "ip", "-o", "link"]).run().ok();
    assert_eq!(links.lines().filter(|line| line.contains(": eth")).count(), networks, "{links}");
}

#[test]
fn connected_or_disconnected_while_it_starts_a_container_is_on_the_networks_that_inspect_tells() {
    let host = Host::new();
    host.busybox();
    for network in ["first", "second"] {
        host.tare(["network", "create", network]).run().ok();
    }
    for round in 0..12 {
        host.tare(["create", "--name", "web", "--network", "first", "busybox", "sleep", "600"]).run().ok();
        let change = if round % 2 == 0 { ["connect", "second"] } else { ["disconnect", "first"] };
        let start = host.tare(["start", "web"]).start();
        let change = host.tare(["network"]).args(change).arg("web").start();
        start.wait().ok();
        change.wait().ok();
        is_on_what_inspect_tells(&host, "web");
        host.tare(["rm", "-f", "web"]).run().ok();
    }
}

#[test]
fn connected_while_it_begins_again_a_container_is_on_the_networks_that_inspect_tells() {
    let host = Host::new();
    for network in ["first", "second"] {
        host.tare(["network", "create", network]).run().ok();
    }
    host.detached(&["--name", "web", "--network", "first", "--restart", "always"], "sleep 600");
    for verb in ["connect", "disconnect"] {
        // Its monitor takes long from reading what it is to be on until it runs.
        let monitor = host.monitor("web");
        let mut strace = std::process::Command::new("strace");
        let slow = "inject=clone3:delay_enter=1500000";
        strace.args(["-qq", "-o", "/dev/null", "-e", slow, "-p", &monitor.id.to_string()]);
        let strace = Tare::of(strace).start();
        eventually("it is slow", || !monitor.file("status").contains("TracerPid:\t0\n"));
        process::signal(host.pid("web"), rustix::process::Signal::KILL);
        eventually("it has ended", || host.status("web") == "restarting");
        std::thread::sleep(Duration::from_millis(400));
        host.tare(["network", verb, "second", "web"]).run().ok();
        eventually("it runs again", || host.status("web") == "running");
        strace.signal(rustix::process::Signal::INT);
        strace.wait();
        is_on_what_inspect_tells(&host, "web");
    }
}

#[test]
fn a_connect_that_was_killed_at_any_step_is_undone_by_the_next_or_by_a_disconnect() {
    own_network();
    let host = Host::new();
    host.tare(["network", "create", "lan"]).run().ok();
    host.detached(&["--name", "web"], "sleep 600");
    host.detached(&["--name", "other", "--network", "lan"], "sleep 600");
    let change = |verb: &str| host.tare(["network", verb, "lan", "web"]);
    let links = || {
        let inside = host.tare(["exec", "web", "ip", "-o", "link"]).run().ok();
        inside.lines().filter(|line| line.contains(": eth")).count()
    };
    let file = host.work().join("steps");
    traced(&["-o", &file.display().to_string()], change("connect")).run().ok();
    change("disconnect").run().ok();
    let all = steps(std::fs::read_to_string(&file).unwrap().lines());
    // Its first one is that it is executed.
    let (mut killed, mut rounds) = (0, 0);
    for (round, step) in some(&all[1..], 24).enumerate() {
        rounds += 1;
        // Not every call has as many steps.
        killed += usize::from(traced(&["-e", &before(step)], change("connect")).run().code() == KILLED);
        let connected = match round % 2 {
            0 => change("disconnect").run(),
            _ => change("connect").run(),
        };
        // It came to nothing, or all was done already.
        if connected.code() != 0 {
            connected.complains_of(&[if round % 2 == 0 { "is not connected" } else { "already exists" }]);
        }
        assert_eq!(links(), 1 + round % 2, "{step:?}");
        eventually("the host's ends are no more", || {
            run(&["ip", "-o", "link"]).lines().filter(|line| line.contains(": tv")).count() == 2 + round % 2
        });
        if round % 2 == 1 {
            change("disconnect").run().ok();
            assert_eq!(links(), 1, "{step:?}");
        }
    }
    assert!(killed * 2 > rounds, "{killed} of {rounds}");
    let ruleset = run(&["nft", "list", "ruleset"]);
    assert_eq!(ruleset.matches("\"tv").count(), 4, "each of two in two sets: {ruleset}");
}

#[test]
fn one_that_is_connected_and_ends_within_its_first_second_leaves_nothing() {
    own_network();
    let host = Host::new();
    host.tare(["network", "create", "lan"]).run().ok();
    host.detached(&["--name", "web", "--rm"], "sleep 600");
    host.tare(["network", "disconnect", "bridge", "web"]).run().ok();
    host.tare(["network", "connect", "lan", "web"]).run().ok();
    let ruleset = || run(&["nft", "list", "ruleset"]);
    assert!(ruleset().contains("\"tv"), "{}", ruleset());
    process::signal(host.pid("web"), rustix::process::Signal::KILL);
    // By its own monitor, without another command.
    eventually("its rules and addresses are gone", || {
        let left =
            host.listing().into_iter().any(|path| path.is_symlink() && path.starts_with(host.run_root()));
        !ruleset().contains("\"tv") && !left
    });
}

#[test]
fn connected_twice_at_once_a_container_is_on_the_network_once() {
    let host = Host::new();
    host.detached(&["--name", "web", "--network", "bridge"], "sleep 600");
    host.tare(["network", "create", "lan"]).run().ok();
    let calls = [(); 3].map(|()| host.tare(["network", "connect", "lan", "web"]).start());
    let codes = calls.map(|call| call.wait().code());
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert_eq!(address(&host, "web", "lan").split('.').next_back(), Some("2"));
    host.tare(["network", "disconnect", "lan", "web"]).run().ok();
    let links = host.tare(["exec", "web", "ip", "-o", "link"]).run().ok();
    assert!(!links.contains("eth1"), "{links}");
}

#[test]
fn networks_whose_description_the_power_took_take_no_others_with_them() {
    let host = Host::new();
    host.busybox();
    for network in ["first", "second"] {
        host.tare(["network", "create", network]).run().ok();
    }
    host.tare(["run", "--rm", "--network", "bridge", "busybox", "true"]).run().ok();
    for network in ["first", "bridge"] {
        std::fs::write(host.root().join("networks").join(network).join("network.json"), "").unwrap();
    }
    // As after a boot: all is to be made anew.
    for link in run(&["ip", "-o", "link"]).split(": ").filter(|word| word.starts_with("tare-")) {
        run(&["ip", "link", "del", link]);
    }
    run(&["nft", "flush", "ruleset"]);
    let start = |network: &str| host.tare(["run", "--rm", "--network", network, "busybox", "true"]).run();
    start("second").ok();
    start("first").fails(125).complains_of(&["network.json", "network create"]);
    host.tare(["network", "create", "first"]).run().ok();
    start("first").ok();
    start("bridge").ok();
}

#[test]
fn several_networks_and_chosen_addresses() {
    let host = Host::new();
    host.tare(["network", "create", "--ipv6", "--subnet", "10.99.0.0/24", "--subnet", "fd99::/64", "one"])
        .run()
        .ok();
    host.tare(["network", "create", "-o", "mtu=1400", "two"]).run().ok();
    let said = host
        .tare(["run", "--rm", "--network", "name=one,ip=10.99.0.9,ip6=fd99::9,mac-address=02:42:00:00:00:09"])
        .args(["--network", "two", "busybox", "sh", "-c", "ip addr; ip -6 route"]);
    host.busybox();
    let said = said.run().ok();
    for word in ["10.99.0.9/24", "fd99::9/64", "02:42:00:00:00:09", "eth1", "mtu 1400", "default via fd99::1"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn one_that_was_taken_off_its_last_network_can_be_put_on_another() {
    let host = Host::new();
    host.tare(["network", "create", "lan"]).run().ok();
    serving(&host, &["--name", "db", "--network", "lan"]);
    host.detached(&["--name", "web"], "sleep 60");
    host.tare(["network", "disconnect", "bridge", "web"]).run().ok();
    host.tare(["network", "connect", "lan", "web"]).run().ok();
    let ask = || host.tare(["exec", "web", "wget", "-qO-", "http://db/"]).run().stdout();
    eventually("it finds the other by name", || ask() == "hello");
    let links = "{{json .NetworkSettings.Networks.lan.Links}} {{len .NetworkSettings.Networks}}";
    host.tare(["inspect", "-f", links, "web"]).run().prints("null 1");
    host.tare(["restart", "-t", "0", "web"]).run().ok();
    eventually("it finds it again", || ask() == "hello");
    // And while it does not run.
    host.tare(["network", "disconnect", "lan", "web"]).run().ok();
    host.tare(["kill", "web"]).run().ok();
    eventually("it has ended", || host.status("web") == "exited");
    host.tare(["network", "connect", "lan", "web"]).run().ok();
    host.tare(["start", "web"]).run().ok();
    eventually("it finds it once more", || ask() == "hello");
}

#[test]
fn networks_are_listed_and_pruned_by_dockers_filters() {
    let host = Host::new();
    host.busybox();
    host.tare(["network", "create", "--label", "tier=web", "lan"]).run().ok();
    host.tare(["network", "create", "lan-more"]).run().ok();
    host.tare(["create", "--name", "on-it", "--network", "lan", "busybox", "true"]).run().ok();
    let listed = |filter: &str| {
        let list = host.tare(["network", "ls", "--format", "{{.Name}}", "-f", filter]).run().ok();
        list.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let table: [(&str, &[&str]); 8] = [
        ("name=^lan$", &["lan"]),
        ("name=lan", &["lan", "lan-more"]),
        ("type=custom", &["lan", "lan-more"]),
        ("type=builtin", &["bridge", "host", "none"]),
        ("dangling=true", &["lan-more"]),
        ("dangling=false", &["bridge", "host", "lan", "none"]),
        ("label=tier=web", &["lan"]),
        ("scope=swarm", &[]),
    ];
    for (filter, names) in table {
        assert_eq!(listed(filter), names, "{filter}");
    }
    for wrong in ["type=x", "dangling=x", "nosuch=1", "until=1h"] {
        host.tare(["network", "ls", "-f", wrong]).run().fails(1);
    }
    let label = "{{.Label \"tier\"}}";
    host.tare(["network", "ls", "-f", "name=^lan$", "--format", label]).run().prints("web");
    host.tare(["network", "prune", "-f", "--filter", "until=1h"]).run().prints("");
    host.tare(["network", "prune", "-f", "--filter", "until=0s"]).run().prints("Deleted Networks:\nlan-more");
    assert_eq!(listed("type=custom"), ["lan"]);
}

#[test]
fn ipv6_is_reached_from_other_hosts() {
    let (host, remote) = (Host::new(), Remote::new());
    host.tare(["network", "create", "--ipv6", "six"]).run().ok();
    serving(&host, &["--name", "web", "--network", "six", "-p", "8080:80"]);
    eventually("it serves", || get("127.0.0.1", 8080) == "hello");
    assert_eq!(get_from(&remote, &remote.machine6, 8080), "hello");
    assert_eq!(get(&remote.machine6, 8080), "hello");
    assert_eq!(get("::1", 8080), "hello");
}

#[test]
fn a_network_that_no_container_could_start_on_is_refused() {
    let (host, remote) = (Host::new(), Remote::new());
    let refused = |flags: &[&str], complaint: &str| {
        let create = host.tare(["network", "create"]).args(flags).arg("lan").run();
        create.fails(1).complains_of(&[complaint]);
    };
    refused(&["--ipv6", "--opt", "mtu=1279"], "IPv6 needs 1280");
    refused(&["--subnet", "10.77.0.0/24", "--gateway", "10.77.0.255"], "10.77.0.255 is no address for one");
    // The host's own way out has less than IPv6 needs.
    run(&["ip", "link", "set", &remote.link, "mtu", "1000"]);
    host.tare(["network", "create", "--ipv6", "lan"]).run().ok();
    assert!(inside(&host, "lan", "ip link show eth0").contains("mtu 1280"));
}

#[test]
fn a_macvlan_link_is_on_the_hosts_own_network() {
    let (host, remote) = (Host::new(), Remote::new());
    let subnet = format!("{}.0/24", remote.machine.rsplit_once('.').unwrap().0);
    let range = subnet.replace(".0/24", ".128/25");
    let parent = format!("parent={}", remote.link);
    host.tare([
        "network",
        "create",
        "-d",
        "macvlan",
        "-o",
        &parent,
        "--subnet",
        &subnet,
        "--ip-range",
        &range,
    ])
    .args(["--gateway", &remote.address, "lan"])
    .run()
    .ok();
    serving(&host, &["--name", "web", "--network", "lan"]);
    let web = address(&host, "web", "lan");
    assert!(web.ends_with(".128"), "{web}");
    eventually("it is reached from the other host, as a host of its own", || {
        get_from(&remote, &web, 80) == "hello"
    });
    assert_eq!(inside(&host, "lan", &ask(&web, 80)), "hello", "and from its neighbour");
    let ping = format!("ping -c 1 -W 5 {} && ping -c 1 -W 5 web", remote.address);
    let said = host.sh(&["--network", "lan"], &ping).ok();
    assert_eq!(said.matches(" 0% packet loss").count(), 2, "{said}");
    assert_eq!(get(&web, 80), "", "but not from the host itself");
    host.tare(["rm", "-f", "web"]).run().ok();
    host.tare(["network", "rm", "lan"]).run().ok();
    assert!(run(&["ip", "-o", "link"]).contains(&remote.link), "its parent stays");
}

#[test]
fn two_engines_on_one_machine_do_not_share_a_subnet() {
    own_network();
    let (one, other) = (Host::new(), Host::new());
    for host in [&one, &other] {
        host.tare(["network", "create", "lan"]).run().ok();
        // Looked at, it is there: both choose the same.
        host.tare(["network", "inspect", "bridge"]).run().ok();
        host.busybox();
    }
    let on = |host: &Host, network: &str| {
        host.tare(["run", "--rm", "--network", network, "busybox", "true"]).run()
    };
    for network in ["lan", "bridge"] {
        on(&one, network).ok();
        on(&other, network).fails(125).complains_of(&["overlaps with", "which the host has a route to"]);
    }
    on(&other, "bridge").ok();
    other.tare(["network", "rm", "lan"]).run().ok();
    other.tare(["network", "create", "lan"]).run().ok();
    on(&other, "lan").ok();
}

#[test]
fn a_hundred_at_once_have_a_hundred_addresses_and_leave_nothing() {
    let host = Host::new();
    host.busybox();
    let calls: Vec<_> =
        (0..100).map(|_| host.tare(["run", "-d", "--rm", "busybox", "sleep", "600"]).start()).collect();
    let ids: Vec<String> =
        calls.into_iter().map(|call| call.wait_within(Duration::from_secs(300)).ok()).collect();
    let mut addresses: Vec<_> = ids.iter().map(|id| address(&host, id, "bridge")).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 100, "{addresses:?}");
    host.tare(["rm", "-f"]).args(&ids).run().ok();
    let ruleset = run(&["nft", "list", "ruleset"]);
    assert!(!ruleset.contains("\"tv"), "elements are left: {ruleset}");
    eventually("the links are gone", || !run(&["ip", "-o", "link"]).contains(": tv"));
}

#[test]
fn what_a_killed_container_had_is_free_with_the_next_command() {
    let host = Host::new();
    let id = serving(&host, &["--name", "web", "--network", "bridge", "-p", "8080:80"]);
    let pid = host.pid("web");
    // The monitor first, so that nobody sees the end.
    for monitor in process::Process::all() {
        if monitor.file("comm").trim() == "tare-monitor"
            && monitor.file("environ").contains(&*host.root().to_string_lossy())
        {
            process::signal(monitor.id, rustix::process::Signal::KILL);
        }
    }
    process::signal(pid, rustix::process::Signal::KILL);
    eventually("it has ended", || host.status(&id) == "exited");
    let ruleset = run(&["nft", "list", "ruleset"]);
    assert!(!ruleset.contains("8080") && !ruleset.contains("\"tv"), "{ruleset}");
    host.tare(["run", "--rm", "--network", "bridge", "-p", "8080:80", "busybox", "true"]).run().ok();
}

#[test]
fn three_hundred_networks_have_a_subnet_each() {
    own_network();
    let host = Host::new();
    for n in 0..300 {
        host.tare(["network", "create", &format!("n{n}")]).run().ok();
    }
    let list = host.tare(["network", "ls", "-q"]).run().ok();
    assert_eq!(list.lines().count(), 303, "with bridge, host and none");
    let subnets: std::collections::BTreeSet<_> = (0..300)
        .step_by(50)
        .map(|n| host.tare(["network", "inspect", &format!("n{n}"), "-f", "{{json .IPAM}}"]).run().ok())
        .collect();
    assert_eq!(subnets.len(), 6);
    host.sh(&["--network", "n299"], "ip route | grep default").ok();
    host.tare(["network", "prune", "-f"]).run().ok();
    assert_eq!(host.tare(["network", "ls", "-q"]).run().ok().lines().count(), 3);
}
