//! Names in a container: the server at 127.0.0.11, asked by dig, the C libraries and busybox.
#![forbid(unsafe_code)]

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tare_tests::machine::own_network;
use tare_tests::resolver::{Resolver, answer, with_code};
use tare_tests::{Host, Outcome, Tare, eventually};

/// A network of the test's own.
#[track_caller]
fn network(host: &Host, name: &str, flags: &[&str]) {
    host.tare(["network", "create"]).args(flags).arg(name).run().ok();
}

/// Runs a line in a container of the machine's own root file system, where dig and glibc are.
#[track_caller]
fn line(host: &Host, network: &str, flags: &[&str], line: &str) -> String {
    host.tare(["run", "--rm", "--network", network]).args(flags).args(["host", "sh", "-c", line]).run().ok()
}

/// The same, where the host's resolv.conf is this file.
fn with_resolvers(host: &Host, file: &Path, words: &[&str]) -> Tare {
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", file.display());
    host.wrapped(&["unshare", "-m", "sh", "-c", &script, "sh"], words)
}

/// Runs a line in the network of a container that runs, with the machine's programs.
#[track_caller]
fn inside(host: &Host, name: &str, line: &str) -> Outcome {
    let mut command = Command::new("nsenter");
    command.args(["-n", "-t", &host.pid(name).to_string(), "sh", "-c", line]);
    Tare::of(command).run()
}

const DIG: &str = "dig +tries=1 +time=4 @127.0.0.11";

#[test]
fn containers_of_a_network_know_each_other_by_all_their_names() {
    let host = Host::new();
    network(&host, "lan", &[]);
    let id = host.detached(&["--network", "lan", "--name", "web", "--network-alias", "www"], "sleep 600");
    let settings = host.inspect("web");
    let address = settings["NetworkSettings"]["Networks"]["lan"]["IPAddress"].as_str().expect("an address");
    let reversed: Vec<&str> = address.split('.').rev().collect();
    let ask = format!(
        "for name in web www {} WeB web.lan; do getent ahostsv4 $name | head -1 | cut -d' ' -f1; done;
         {DIG} +tcp +short web; {DIG} +short PTR {}.in-addr.arpa;
         {DIG} web AAAA | grep -o 'status: [A-Z]*, \\|ANSWER: [0-9]*' | tr -d '\\n'",
        &id[..12],
        reversed.join(".")
    );
    let out = line(&host, "lan", &[], &ask);
    let expected = [&[address; 6][..], &["web.lan.", "status: NOERROR, ANSWER: 0"]].concat();
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    let busybox = host.sh(&["--network", "lan"], "nslookup www; ping -c 1 -W 5 web").ok();
    assert!(busybox.matches(address).count() >= 2, "{busybox}");
}

#[test]
fn names_are_served_on_the_network_called_bridge_too() {
    let host = Host::new();
    let id = host.detached(&["--network", "bridge", "--name", "first"], "sleep 600");
    host.sh(
        &["--network", "bridge"],
        &format!("cat /etc/resolv.conf; ping -c 1 -W 5 first && ping -c 1 -W 5 {}", &id[..12]),
    )
    .ok();
}

#[test]
fn a_link_is_a_name_for_one_container_alone_and_brings_dockers_variables() {
    let host = Host::new();
    host.detached(&["--name", "db", "--expose", "5432", "-e", "PASSWORD=secret"], "sleep 600");
    let address = address_of(&host, "db");
    let script = "ping -c 1 -W 5 store >/dev/null && env | grep ^STORE_ | sort";
    let out = host.sh(&["--name", "web", "--link", "db:store", "-e", "STORE_PORT=mine"], script).ok();
    let port = format!("tcp://{address}:5432");
    let wanted = [
        "STORE_ENV_PASSWORD=secret".to_owned(),
        "STORE_NAME=/web/store".to_owned(),
        "STORE_PORT=mine".to_owned(),
        format!("STORE_PORT_5432_TCP={port}"),
        format!("STORE_PORT_5432_TCP_ADDR={address}"),
        "STORE_PORT_5432_TCP_PORT=5432".to_owned(),
        "STORE_PORT_5432_TCP_PROTO=tcp".to_owned(),
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), wanted);
    host.sh(&[], "nslookup store >/dev/null").fails(1);
    // It follows the other one to a new address and a new name, without a restart of its own.
    let keeper = host.detached(&["--link", "db:store"], "sleep 600");
    host.tare(["stop", "-t", "0", "db"]).run().ok();
    let squatter = host.detached(&["--ip", &address], "sleep 600");
    host.tare(["start", "db"]).run().ok();
    host.tare(["rename", "db", "base"]).run().ok();
    assert_ne!(address_of(&host, "base"), address);
    let seen = host.tare(["exec", &keeper, "nslookup", "store"]).run().ok();
    assert!(seen.contains(&address_of(&host, "base")), "{seen}");
    let name = host.inspect(&keeper)["Name"].as_str().expect("a name").to_owned();
    assert_eq!(
        host.inspect(&keeper)["HostConfig"]["Links"],
        serde_json::json!([format!("/base:{name}/store")])
    );
    host.tare(["rm", "-f", &squatter]).run().ok();
    // On a network of one's own it is a name and no more.
    network(&host, "lan", &[]);
    host.detached(&["--network", "lan", "--name", "other"], "sleep 600");
    host.sh(
        &["--network", "lan", "--link", "other:peer"],
        "ping -c 1 -W 5 peer >/dev/null && env | grep -c ^PEER_",
    )
    .fails(1);
    host.sh(&["--network", "lan", "--link", "other:peer"], "ping -c 1 -W 5 peer >/dev/null").ok();
}

fn address_of(host: &Host, name: &str) -> String {
    let networks = &host.inspect(name)["NetworkSettings"]["Networks"]["bridge"];
    networks["IPAddress"].as_str().expect("an address").to_owned()
}

#[test]
fn links_that_lead_nowhere_are_refused() {
    let host = Host::new();
    host.detached(&["--name", "db"], "sleep 600");
    host.sh(&["--link", "nobody"], "true").fails(125).complains_of(&["could not get container for nobody"]);
    host.sh(&["--link", "db:"], "true").fails(125).complains_of(&["--link"]);
    host.sh(&["--network", "none", "--link", "db"], "true")
        .fails(125)
        .complains_of(&["can't be used with links"]);
    host.sh(&["--link-local-ip", "169.254.1.1"], "true").fails(125).complains_of(&["--ip"]);
    host.tare(["rm", "--link", "db"]).run().fails(1).complains_of(&["rm --link"]);
    host.tare(["stop", "-t", "0", "db"]).run().ok();
    host.sh(&["--link", "db"], "true")
        .fails(125)
        .complains_of(&["cannot link to a non running container: db AS db"]);
    assert_eq!(host.containers().len(), 1);
}

#[test]
fn one_that_publishes_very_many_ports_has_a_name_as_well() {
    let host = Host::new();
    network(&host, "lan", &[]);
    host.detached(&["--network", "lan", "--name", "many", "-p", "20000-20999:20000-20999"], "sleep 600");
    let networks = &host.inspect("many")["NetworkSettings"]["Networks"];
    assert_eq!(line(&host, "lan", &[], &format!("{DIG} +short many")), networks["lan"]["IPAddress"]);
}

#[test]
fn those_who_share_an_alias_take_turns() {
    let host = Host::new();
    network(&host, "lan", &[]);
    for name in ["one", "two"] {
        host.detached(&["--network", "lan", "--name", name, "--network-alias", "both"], "sleep 600");
    }
    let out = line(&host, "lan", &[], &format!("{DIG} +short both; {DIG} +short both"));
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines.len() == 4 && lines[0] == lines[3] && lines[1] == lines[2] && lines[0] != lines[1],
        "{out}"
    );
}

#[test]
fn names_of_another_network_are_nobodys() {
    let host = Host::new();
    for name in ["front", "back"] {
        network(&host, name, &[]);
        host.detached(&["--network", name, "--name", &format!("on-{name}")], "sleep 600");
    }
    let resolver = Resolver::start([127, 53, 0, 1], |asked| vec![with_code(asked.query, 3)]);
    let file = host.file("resolv.conf", format!("nameserver {}\n", resolver.address));
    let ask = format!("{DIG} on-back | grep -o NXDOMAIN; {DIG} +short on-front | wc -l");
    let out = with_resolvers(&host, &file, &["run", "--rm", "--network", "front", "host", "sh", "-c", &ask]);
    assert_eq!(out.run().ok(), "NXDOMAIN\n1");
    assert_eq!(resolver.count(), 1, "the known name is not asked for outside");
}

#[test]
fn a_container_that_joins_another_or_leaves_it_is_known_at_once() {
    let host = Host::new();
    network(&host, "lan", &[]);
    network(&host, "second", &[]);
    host.detached(&["--network", "lan", "--name", "client"], "sleep 600");
    let knows =
        |name: &str| inside(&host, "client", &format!("{DIG} +short {name} | grep -q '^[0-9]'")).code() == 0;
    assert!(!knows("late"));
    host.detached(&["--network", "lan", "--name", "late"], "sleep 600");
    assert!(knows("late"));
    host.tare(["rm", "-f", "late"]).run().ok();
    eventually("it is forgotten", || !knows("late"));
    host.detached(&["--network", "second", "--name", "other"], "sleep 600");
    assert!(!knows("other"));
    host.tare(["network", "connect", "second", "client"]).run().ok();
    assert!(knows("other"), "a network that it was connected to while it ran");
    host.tare(["network", "disconnect", "second", "client"]).run().ok();
    assert!(!knows("other"));
}

#[test]
fn a_container_that_was_connected_while_it_waited_for_its_restart_knows_names_afterwards() {
    let host = Host::new();
    network(&host, "lan", &[]);
    network(&host, "second", &[]);
    host.detached(&["--network", "second", "--name", "other"], "sleep 600");
    // It fails until the file is there, and waits longer each time.
    let folder = host.folder("shared");
    let volume = format!("{}:/shared", folder.display());
    let script = "[ -e /shared/go ] || exit 1; exec sleep 600";
    host.detached(&["--network", "lan", "--name", "client", "--restart", "always", "-v", &volume], script);
    eventually("it waits", || {
        let state = host.inspect("client")["State"].clone();
        state["Status"] == "restarting" && host.inspect("client")["RestartCount"].as_i64() > Some(3)
    });
    host.tare(["network", "connect", "second", "client"]).run().ok();
    host.file("shared/go", "");
    let knows = || inside(&host, "client", &format!("{DIG} +short other | grep -q '^[0-9]'")).code() == 0;
    eventually("it runs", || host.status("client") == "running" && knows());
}

#[test]
fn everything_else_is_asked_of_the_hosts_resolvers_wherever_they_are_at_the_moment() {
    let host = Host::new();
    network(&host, "lan", &[]);
    host.busybox();
    let first = Resolver::start([127, 53, 1, 1], |asked| vec![answer(asked.query, [192, 0, 2, 1], 1)]);
    let second = Resolver::start([127, 53, 1, 2], |asked| vec![answer(asked.query, [192, 0, 2, 2], 1)]);
    let file = host.file("resolv.conf", format!("nameserver {}\nsearch example.org\n", first.address));
    let words = ["run", "-d", "--name", "client", "--network", "lan", "busybox", "sleep", "600"];
    with_resolvers(&host, &file, &words).run().ok();
    let asked = || inside(&host, "client", &format!("{DIG} +short deb.example.com")).ok();
    assert_eq!(asked(), "192.0.2.1");
    let conf = fs::read_to_string(format!("/proc/{}/root/etc/resolv.conf", host.pid("client")));
    assert_eq!(conf.expect("its file"), "nameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n");
    // The file that was bound there is changed in place, as a VPN client or dhclient may do.
    fs::write(&file, format!("nameserver {}\n", second.address)).expect("writing the file again");
    assert_eq!(asked(), "192.0.2.2", "the next question goes to the new resolver");
}

#[test]
fn a_resolver_that_does_not_answer_is_passed_over_and_a_liar_not_believed() {
    let host = Host::new();
    network(&host, "lan", &[]);
    let silent = Resolver::start([127, 53, 2, 1], |_| Vec::new());
    let failing = Resolver::start([127, 53, 2, 2], |asked| vec![with_code(asked.query, 2)]);
    let good = Resolver::start([127, 53, 2, 3], |asked| {
        // Somebody else's answers come first: another number, another question.
        let mut number = answer(asked.query, [192, 0, 2, 66], 1);
        number[0] ^= 0xff;
        let mut question = answer(asked.query, [192, 0, 2, 67], 1);
        question[13] ^= 0x01;
        vec![b"x".to_vec(), number, question, answer(asked.query, [192, 0, 2, 3], 1)]
    });
    let servers = [&silent, &failing, &good].map(|server| format!("nameserver {}\n", server.address));
    let file = host.file("resolv.conf", servers.concat());
    let words =
        ["run", "--rm", "--network", "lan", "host", "sh", "-c", "getent ahostsv4 a.example | head -1"];
    let out = with_resolvers(&host, &file, &words).run().ok();
    assert!(out.starts_with("192.0.2.3 "), "{out}");
    assert!(silent.count() >= 1 && failing.count() >= 1);
}

#[test]
fn a_resolver_may_take_as_long_as_a_client_waits() {
    let host = Host::new();
    network(&host, "lan", &[]);
    own_network();
    let socket = Arc::new(UdpSocket::bind("127.53.6.1:53").expect("an address of the test's own"));
    let slow = Arc::clone(&socket);
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = slow.recv_from(&mut buffer) {
            let (query, slow) = (buffer[..length].to_vec(), Arc::clone(&slow));
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(3200));
                let _ = slow.send_to(&answer(&query, [192, 0, 2, 7], 1), from);
            });
        }
    });
    let file = host.file("resolv.conf", "nameserver 127.53.6.1\n");
    let ask = "dig +tries=1 +time=5 @127.0.0.11 +short slow.example";
    let words = ["run", "--rm", "--network", "lan", "host", "sh", "-c", ask];
    with_resolvers(&host, &file, &words).run().prints("192.0.2.7");
}

#[test]
fn a_large_answer_comes_by_tcp() {
    let host = Host::new();
    network(&host, "lan", &[]);
    let resolver = Resolver::start([127, 53, 3, 1], |asked| {
        if asked.tcp {
            return vec![answer(asked.query, [192, 0, 2, 1], 3000)];
        }
        let mut short = with_code(asked.query, 0);
        short[2] |= 0x02;
        vec![short]
    });
    let file = host.file("resolv.conf", format!("nameserver {}\n", resolver.address));
    let ask = format!("{DIG} +short big.example | wc -l");
    let words = ["run", "--rm", "--network", "lan", "host", "sh", "-c", &ask];
    assert_eq!(with_resolvers(&host, &file, &words).run().ok(), "3000");
}

#[test]
fn nothing_is_asked_outside_from_an_internal_network() {
    let host = Host::new();
    network(&host, "inner", &["--internal"]);
    host.detached(&["--network", "inner", "--name", "db"], "sleep 600");
    let resolver = Resolver::start([127, 53, 4, 1], |asked| vec![answer(asked.query, [192, 0, 2, 1], 1)]);
    let file = host.file("resolv.conf", format!("nameserver {}\n", resolver.address));
    let ask = format!("{DIG} secret.example | grep -o SERVFAIL; {DIG} +short db | wc -l");
    let words = ["run", "--rm", "--network", "inner", "host", "sh", "-c", &ask];
    assert_eq!(with_resolvers(&host, &file, &words).run().ok(), "SERVFAIL\n1");
    assert_eq!(resolver.count(), 0);
}

/// A name server in Python that answers every question with one address.
const SERVER: &str = "
import socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('0.0.0.0', 53))
tcp = socket.create_server(('0.0.0.0', 53))
print('bound', flush=True)
while True:
    query, client = udp.recvfrom(4096)
    end = query.index(b'\\0', 12) + 5
    head = query[:2] + b'\\x80\\x00' + b'\\0\\1\\0\\1\\0\\0\\0\\0'
    record = b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4\\xc0\\0\\2\\x09'
    udp.sendto(head + query[12:end] + record, client)
";

#[test]
fn a_container_can_have_port_53_for_itself_and_be_its_own_resolver() {
    let host = Host::new();
    network(&host, "lan", &[]);
    let words = [
        "run",
        "-d",
        "--name",
        "dns",
        "--network",
        "lan",
        "--dns",
        "127.0.0.1",
        "host",
        "python3",
        "-c",
        SERVER,
    ];
    host.tare(words).run().ok();
    eventually("it has port 53", || host.tare(["logs", "dns"]).run().stdout().contains("bound"));
    let ask = format!("{DIG} +short any.example; {DIG} +short dns | wc -l");
    assert_eq!(inside(&host, "dns", &ask).ok(), "192.0.2.9\n1");
    // Another container names it with --dns: it is asked from there, over their network.
    let settings = host.inspect("dns");
    let address = settings["NetworkSettings"]["Networks"]["lan"]["IPAddress"].as_str().expect("an address");
    let out = line(&host, "lan", &["--dns", address], "getent ahostsv4 any.example | head -1");
    assert!(out.starts_with("192.0.2.9 "), "{out}");
}

#[test]
fn dns_options_and_added_hosts_are_in_the_files() {
    let host = Host::new();
    network(&host, "lan", &[]);
    let shown: Value =
        serde_json::from_str(&host.tare(["network", "inspect", "lan"]).run().ok()).expect("JSON");
    let gateway = shown[0]["IPAM"]["Config"][0]["Gateway"].as_str().expect("a gateway");
    let own = gateway.strip_suffix(".1").map(|start| format!("{start}.2")).expect("the first address");
    let flags = ["--dns-search", "a.example", "--dns-option", "ndots:3", "--add-host", "up:host-gateway"];
    let flags = [&["--network", "lan", "--hostname", "box"], &flags[..]].concat();
    let out = host.sh(&flags, "cat /etc/resolv.conf; grep -e up -e box /etc/hosts; hostname -i").ok();
    assert_eq!(
        out.split_whitespace().collect::<Vec<_>>().join(" "),
        format!("nameserver 127.0.0.11 search a.example options ndots:3 {gateway} up {own} box {own}")
    );
    let refused =
        host.tare(["run", "--rm", "--network", "none", "--add-host", "up:host-gateway", "busybox", "true"]);
    let refused = refused.run();
    assert_eq!(refused.code(), 125);
    assert!(refused.stderr().contains("host-gateway"), "{}", refused.stderr());
}

#[test]
fn a_container_that_joins_anothers_network_has_its_names() {
    let host = Host::new();
    network(&host, "lan", &[]);
    host.detached(&["--network", "lan", "--name", "web"], "sleep 600");
    host.detached(&["--network", "lan", "--name", "peer"], "sleep 600");
    host.sh(&["--network", "container:web"], "nslookup -type=a peer").ok();
}

#[test]
fn questions_without_end_and_without_sense_do_no_harm() {
    const FLOOD: &str = "
import os, random, socket, time
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(('127.0.0.11', 53))
udp.setblocking(False)
streams = []
end = time.time() + 2
number = 0
while time.time() < end:
    number += 1
    query = number.to_bytes(4, 'big')[2:] + b'\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\x08%08d\\7example\\0\\0\\1\\0\\1' % number
    for message in (os.urandom(random.randint(0, 900)), query):
        try:
            udp.send(message)
        except OSError:
            pass
    if number % 50 == 0:
        stream = socket.create_connection(('127.0.0.11', 53))
        stream.send((len(query) * random.randint(1, 2)).to_bytes(2, 'big') + query)
        streams = streams[-40:] + [stream]
print('done', flush=True)
";
    let host = Host::new();
    network(&host, "lan", &[]);
    let resolver = Resolver::start([127, 53, 5, 1], |_| Vec::new());
    let file = host.file("resolv.conf", format!("nameserver {}\n", resolver.address));
    let words = ["run", "-d", "--name", "client", "--network", "lan", "host", "sleep", "600"];
    with_resolvers(&host, &file, &words).run().ok();
    let script = host.file("flood.py", FLOOD);
    inside(&host, "client", &format!("python3 {}", script.display())).prints("done");
    // It still answers, is no larger than it may be, and the container's end is still seen at once.
    inside(&host, "client", &format!("{DIG} +short client | wc -l")).prints("1");
    let monitor = host.monitor("client");
    let anonymous = monitor.file("status");
    let anonymous = anonymous.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line");
    let kilobytes: u64 = anonymous.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kilobytes < 1500, "{kilobytes} kB after the flood");
    host.tare(["rm", "-f", "client"]).run().ok();
}

#[test]
fn names_go_on_when_the_monitor_is_replaced_or_killed() {
    const ASK: &str = "
import socket, time
query = b'\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3web\\0\\0\\1\\0\\1'
asked = 0
end = time.time() + 2
while time.time() < end:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(1)
    udp.connect(('127.0.0.11', 53))
    udp.send(query)
    udp.recv(512)
    asked += 1
print('none lost', flush=True)
";
    let host = Host::new();
    network(&host, "lan", &[]);
    host.detached(&["--network", "lan", "--name", "web"], "sleep 600");
    // A second after the start, a monitor executes itself again: no question is lost.
    let script = host.file("ask.py", ASK);
    inside(&host, "web", &format!("python3 {}", script.display())).prints("none lost");
    host.monitor("web").kill();
    eventually("another monitor answers", || {
        host.tare(["ps"]).run().ok();
        inside(&host, "web", &format!("{DIG} +short web | grep -q '^[0-9]'")).code() == 0
    });
}

#[test]
fn a_container_on_no_network_keeps_its_name_server_when_its_monitor_is_replaced() {
    let host = Host::new();
    network(&host, "lan", &[]);
    host.detached(&["--network", "lan", "--name", "web"], "sleep 600");
    host.detached(&["--network", "lan", "--name", "client"], "sleep 600");
    let change = |verb: &str| host.tare(["network", verb, "lan", "client"]).run().ok();
    let knows = || inside(&host, "client", &format!("{DIG} +short web | grep -q '^[0-9]'")).code() == 0;
    change("disconnect");
    eventually("its monitor executes itself again", || {
        host.monitor("client").file("cmdline").starts_with("tare-monitor\0")
    });
    change("connect");
    eventually("it knows the other again", knows);
    change("disconnect");
    let killed = host.monitor("client");
    killed.kill();
    eventually("there is another monitor", || {
        host.tare(["ps"]).run().ok();
        !killed.is_alive() && host.tare(["top", "client"]).run().code() == 0
    });
    change("connect");
    eventually("it knows the other again", knows);
}
