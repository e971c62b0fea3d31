//! How long a name takes that the engine itself knows: a question to 127.0.0.11 from inside the container.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::bench::image::engine::Engine;
use crate::bench::network::report::{self, Row};
use crate::bench::network::{IMAGE, Tare};
use crate::workspace::output;

const QUESTIONS: usize = 3000;

/// Asks tare's server and, where it is installed, Docker's.
pub fn measure(tare: &Tare, docker: Option<&Engine>) -> Result<Vec<Row>> {
    println!("names");
    output(&mut tare.call(&["network", "create", "named"]))?;
    let pid = tare.start(&["--network", "named", "--name", "db"])?;
    let mut rows = vec![Row { name: report::NAMES.to_owned(), times: ask(&pid, "db")? }];
    tare.remove_all()?;
    if let Some(docker) = docker {
        output(&mut docker.call(&["network", "create", "named"]))?;
        let run = ["run", "-d", "--rm", "--network", "named", "--name", "db", IMAGE, "sleep", "3600"];
        let id = output(&mut docker.call(&run))?;
        let pid = output(&mut docker.call(&["inspect", "-f", "{{.State.Pid}}", id.trim()]))?;
        let times = ask(pid.trim(), "db");
        output(&mut docker.call(&["rm", "-f", "db"]))?;
        output(&mut docker.call(&["network", "rm", "named"]))?;
        rows.push(Row { name: report::NAMES_DOCKER.to_owned(), times: times? });
    }
    Ok(rows)
}

fn ask(pid: &str, name: &str) -> Result<Vec<Duration>> {
    let netns = File::open(format!("/proc/{pid}/ns/net"))?;
    let work = || -> Result<Vec<Duration>> {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect("127.0.0.11:53")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut times = Vec::new();
        let mut answer = [0; 512];
        for number in 0..QUESTIONS as u16 {
            let question = question(number, name);
            let start = Instant::now();
            socket.send(&question)?;
            let length = socket.recv(&mut answer).context("no answer at 127.0.0.11")?;
            times.push(start.elapsed());
            // The same number, no error, one answer.
            ensure!(length > 12 && answer[..2] == question[..2], "another answer than to the question");
            ensure!(answer[3] & 15 == 0 && answer[7] == 1, "the name {name} is not known");
        }
        Ok(times)
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .map_err(|_| anyhow::anyhow!("the thread that asks failed"))?
}

/// For an address of IPv4 (RFC 1035, section 4).
fn question(number: u16, name: &str) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8]);
    bytes.extend(name.as_bytes());
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}
