//! Bandwidth, delay and loss, measured with iperf3 and ping.
#![forbid(unsafe_code)]

use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tare_tests::machine::in_network_of;
use tare_tests::{Host, Tare, eventually};

/// iperf3's server in a container; it ends with this.
struct Server(Child);

impl Server {
    /// Starts it in the network of a container.
    #[track_caller]
    fn start(host: &Host, name: &str) -> Server {
        let pid = host.pid(name).to_string();
        let mut command = Command::new("nsenter");
        command.args(["-n", "-t", &pid, "iperf3", "-s", "-4"]).stdout(Stdio::null());
        Server(command.spawn().expect("nsenter and iperf3"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Mbit/s from the host to an address, or back.
#[track_caller]
fn measure(address: &str, back: bool) -> f64 {
    let mut out = Value::Null;
    eventually("iperf3's server is there", || {
        let mut command = Command::new("iperf3");
        command.args(["-c", address, "-t", "2", "-O", "1", "-J"]).args(back.then_some("-R"));
        let text = Tare::of(command).within(Duration::from_secs(20)).run();
        out = serde_json::from_str(&text.stdout()).unwrap_or_default();
        out["end"]["sum_received"]["bits_per_second"].is_f64()
    });
    out["end"]["sum_received"]["bits_per_second"].as_f64().expect("a number") / 1e6
}

/// A container with limits, and its address.
#[track_caller]
fn container(host: &Host, flags: &[&str]) -> String {
    host.tare(["network", "create", "lan"]).run().ok();
    host.detached(&[&["--network", "lan", "--name", "limited"], flags].concat(), "sleep 600");
    let settings = host.inspect("limited");
    settings["NetworkSettings"]["Networks"]["lan"]["IPAddress"].as_str().expect("an address").to_owned()
}

/// Measures until the rate is within a tenth. A machine that is busy spoils a measurement now and then; one without
/// the limit is off by a factor each time.
#[track_caller]
fn is_about(address: &str, back: bool, wanted: f64) {
    let mut measured = Vec::new();
    for _ in 0..4 {
        measured.push(measure(address, back));
        if measured.last().is_some_and(|rate| (0.9..=1.1).contains(&(rate / wanted))) {
            return;
        }
    }
    panic!("{measured:?} Mbit/s where {wanted} were asked for");
}

#[test]
fn a_rate_holds_within_a_tenth_each_way_and_can_be_changed_while_it_runs() {
    let host = Host::new();
    let address = container(&host, &["--net-rate", "in=40mbit,out=10mbit"]);
    let _server = Server::start(&host, "limited");
    is_about(&address, false, 40.0);
    is_about(&address, true, 10.0);
    host.tare(["update", "--net-rate", "in=20mbit", "limited"]).run().ok();
    is_about(&address, false, 20.0);
    is_about(&address, true, 10.0);
    host.tare(["update", "--net-rate", "0", "limited"]).run().ok();
    assert!(measure(&address, true) > 100.0, "no limit any more");
}

#[test]
fn a_slow_rate_holds_within_a_tenth_and_stats_tell_what_it_dropped() {
    let host = Host::new();
    let address = container(&host, &["--net-rate", "in=1mbit,out=500kbit"]);
    let _server = Server::start(&host, "limited");
    is_about(&address, false, 1.0);
    is_about(&address, true, 0.5);
    // Far more at once than may wait, both ways.
    let flood = |to: &str| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..200).for_each(|_| drop(socket.send_to(&[0; 1400], to)));
    };
    flood(&format!("{address}:9"));
    let settings = host.inspect("limited");
    let gateway =
        settings["NetworkSettings"]["Networks"]["lan"]["Gateway"].as_str().expect("a gateway").to_owned();
    in_network_of(host.pid("limited"), || flood(&format!("{gateway}:9")));
    let words = ["stats", "--no-stream", "--format", "{{.NetDropped}}", "limited"];
    let said = host.tare(words).run().ok();
    let dropped: Vec<u64> = said.trim().split(" / ").filter_map(|number| number.parse().ok()).collect();
    assert!(dropped.len() == 2 && dropped[0] > 0 && dropped[1] > 0, "{said}");
}

#[test]
fn a_delay_is_felt_or_its_absence_from_the_kernel_said() {
    let host = Host::new();
    host.tare(["network", "create", "lan"]).run().ok();
    let script = "ping -c 3 -i 0.2 -W 5 $(ip route | awk '/default/ {print $3}') | tail -1";
    host.busybox();
    let words = ["run", "--rm", "--network", "lan", "--net-delay", "80ms", "busybox", "sh", "-c", script];
    let out = host.tare(words).run();
    if out.code() == 0 {
        // round-trip min/avg/max = 80.1/80.3/80.7 ms
        let text = out.stdout();
        let least: f64 = text.split(['=', '/']).nth(3).and_then(|n| n.trim().parse().ok()).expect("a time");
        assert!((80.0..200.0).contains(&least), "{text}");
    } else {
        out.complains_of(&["netem", "modprobe sch_netem"]).fails(125);
    }
}

#[test]
fn limits_need_a_network_to_hold_on() {
    let host = Host::new();
    host.busybox();
    for network in ["none", "host"] {
        let words = ["run", "--rm", "--network", network, "--net-rate", "1mbit", "busybox", "true"];
        host.tare(words).run().complains_of(&["--net-rate", network]).fails(125);
    }
}
