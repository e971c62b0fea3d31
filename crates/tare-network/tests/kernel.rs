//! What the kernel makes of our messages, in network namespaces that the test makes. Needs root and nft(8); says
//! why it skips otherwise.
#![forbid(unsafe_code)]

use std::process::Command;

use tare_network::attach::Connection;
use tare_network::endpoint::Wanted;
use tare_network::network::WantedNetwork;
use tare_network::port::{Protocol, Published};
use tare_network::{Folders, Networks};
use tare_sys::process::{namespace, unshare};

/// A thread in a network namespace of its own.
fn alone(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(namespace::NET).unwrap();
        work();
    });
    thread.join().unwrap();
}

fn output(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_container_is_put_on_a_network_and_taken_off_again() {
    if !rustix::process::geteuid().is_root() || Command::new("nft").arg("--version").output().is_err() {
        eprintln!(
            "skipped: it makes network namespaces and looks at them with nft, so it needs root and nft"
        );
        return;
    }
    alone(|| {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::new(Folders::new(&dir.path().join("state"), &dir.path().join("run")));
        let wanted = WantedNetwork { name: "n".into(), ipv6: true, ..WantedNetwork::default() };
        let network = networks.create(&wanted).unwrap();
        let mut endpoint = networks.claim(&network, &"ab".repeat(32), "web", &Wanted::default(), 0).unwrap();
        for address in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
            endpoint.ports.push(Published {
                protocol: Protocol::Tcp,
                address: address.parse().unwrap(),
                port: 8080,
                container_port: 80,
            });
        }
        let inner = std::thread::spawn(|| {
            unshare(namespace::NET).unwrap();
            std::fs::File::open("/proc/thread-self/ns/net").unwrap()
        });
        let netns = inner.join().unwrap();
        let connections = [Connection { network: network.clone(), endpoint: endpoint.clone() }];
        networks.attach(std::os::fd::AsFd::as_fd(&netns), &connections, 0).unwrap();
        let links = output("ip", &["-o", "link"]);
        assert!(links.contains(&endpoint.host_link) && links.contains(&network.link), "{links}");
        let table = output("nft", &["list", "ruleset"]);
        assert!(table.contains("8080"), "{table}");
        networks.reload().unwrap();
        assert_eq!(output("nft", &["list", "ruleset"]), table, "made anew, it is the same");
        output("nft", &["flush", "ruleset"]);
        networks.publish(&connections).unwrap();
        assert_eq!(output("nft", &["list", "ruleset"]), table, "after a flush as well");
        networks.detach(&connections).unwrap();
        networks.detach(&connections).unwrap();
        assert!(!output("nft", &["list", "ruleset"]).contains("8080"));
        networks.remove("n").unwrap();
        let links = output("ip", &["-o", "link"]);
        assert!(!links.contains(&network.link), "{links}");
    });
}
