//! iperf3 over tare's links, and over a bridge and pairs of links that were made by hand with ip(8), in turn.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tare_tests::machine::Remote;

use crate::bench::network::Tare;
use crate::bench::network::report::{self, Row};
use crate::workspace::{output, program};

/// How long a server may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the servers inside listen on, and what is published of one.
const PORT: &str = "18201";
/// What the one on the host does.
const HOST_PORT: &str = "18202";

/// Rows in pairs: tare's, then the one by hand. A row's "times" are how long a gigabyte takes, so that less is better, as
/// everywhere else.
pub fn measure(tare: &Tare, runs: usize, seconds: u32) -> Result<Vec<Row>> {
    if program("iperf3").is_none() {
        println!("iperf3 is not installed, so throughput is not measured (Debian package iperf3)");
        return Ok(Vec::new());
    }
    let remote = Remote::new();
    let plain = Plain::make()?;
    remote.ip(&["route", "add", "10.99.7.0/24", "via", &remote.machine]);
    let inside = |pid: &str| vec!["nsenter".to_owned(), format!("--net=/proc/{pid}/ns/net")];
    let client = inside(&tare.start(&[])?);
    let publish = format!("{PORT}:{PORT}");
    let server = inside(&tare.start(&["--name", "server", "-p", &publish])?);
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}{{end}}";
    let said = output(&mut tare.call(&["inspect", "-f", format, "server"]))?;
    let (address, gateway) = said.trim().split_once(' ').context("an address and a gateway")?;
    let _servers = [
        Server::start(&[], HOST_PORT)?,
        Server::start(&server, PORT)?,
        Server::start(&plain.inside(1), PORT)?,
    ];
    let from_remote = remote.words();
    let pairs: [(&str, &str, [Way<'_>; 2]); 3] = [
        (report::TO_HOST, HOST_PORT, [(&client, gateway), (&plain.inside(0), "10.99.7.1")]),
        (report::TO_CONTAINER, PORT, [(&client, address), (&plain.inside(0), "10.99.7.12")]),
        (report::PUBLISHED, PORT, [(&from_remote, &remote.machine), (&from_remote, "10.99.7.12")]),
    ];
    let mut rows: Vec<Row> = Vec::new();
    for (name, port, ways) in pairs {
        println!("{name}");
        let mut pair = [Row::new(name), Row::new(&report::by_hand(name))];
        for run in 0..=runs {
            for ((client, address), row) in ways.iter().zip(&mut pair) {
                let took = gigabyte(client, address, port, seconds).with_context(|| row.name.clone())?;
                if run > 0 {
                    row.times.push(took);
                }
            }
        }
        rows.extend(pair);
    }
    tare.remove_all()?;
    Ok(rows)
}

/// What precedes the client, and the address that it talks to.
type Way<'a> = (&'a [String], &'a str);

/// How long a gigabyte takes at the rate that was measured.
fn gigabyte(client: &[String], address: &str, port: &str, seconds: u32) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let mut command = with(client, "iperf3");
        command.args(["-c", address, "-p", port, "-J", "-t", &seconds.to_string()]).stdin(Stdio::null());
        let text = String::from_utf8(command.output()?.stdout)?;
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(rate) = said["end"]["sum_received"]["bits_per_second"].as_f64().filter(|rate| *rate > 0.0)
        {
            return Ok(Duration::from_secs_f64(8e9 / rate));
        }
        if start.elapsed() > PATIENCE {
            bail!("iperf3 to {address}: {}", said["error"].as_str().unwrap_or("no answer"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn with(before: &[String], program: &str) -> Command {
    match before.split_first() {
        None => Command::new(program),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}

/// iperf3's server; it ends with this.
struct Server(Child);

impl Server {
    fn start(inside: &[String], port: &str) -> Result<Server> {
        let mut command = with(inside, "iperf3");
        command.args(["-s", "-p", port]).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Server(command.spawn()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two namespaces on a bridge, by hand.
struct Plain([String; 2]);

impl Plain {
    fn make() -> Result<Plain> {
        let ip = |words: &[&str]| output(Command::new("ip").args(words)).map(drop);
        let plain = Plain([0, 1].map(|at| format!("tare-bench-{at}-{}", std::process::id())));
        ip(&["link", "add", "plain", "type", "bridge"])?;
        ip(&["addr", "add", "10.99.7.1/24", "dev", "plain"])?;
        ip(&["link", "set", "plain", "up"])?;
        for (at, name) in plain.0.iter().enumerate() {
            let (link, address) = (format!("plain{at}"), format!("10.99.7.1{}/24", at + 1));
            ip(&["netns", "add", name])?;
            ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", name])?;
            ip(&["link", "set", &link, "master", "plain", "up"])?;
            ip(&["-n", name, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
            ip(&["-n", name, "route", "add", "default", "via", "10.99.7.1"])?;
        }
        Ok(plain)
    }

    fn inside(&self, at: usize) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.0[at])]
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}
