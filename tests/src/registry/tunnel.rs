//! A proxy.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A proxy on loopback that leads everybody to one server, whatever name was asked for.
#[derive(Debug)]
pub struct Tunnel {
    /// `127.0.0.1:PORT`.
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Tunnel {
    /// Leads to this address.
    pub fn start(to: &str) -> Tunnel {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, to) = (Arc::clone(&requests), to.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, to) = (Arc::clone(&seen), to.clone());
                // The other side may go at any time.
                std::thread::spawn(move || lead(stream, &to, &seen));
            }
        });
        Tunnel { address, requests }
    }

    /// The first lines of what it was asked.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic while held").clone()
    }
}

fn lead(mut from: TcpStream, to: &str, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(from.try_clone()?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    seen.lock().expect("no panic while held").push(line.trim_end().to_owned());
    while line.trim_end() != "" {
        line.clear();
        lines.read_line(&mut line)?;
    }
    let mut to = TcpStream::connect(to)?;
    from.write_all(b"HTTP/1.1 200 Yes\r\n\r\n")?;
    let (mut back, mut forth) = (to.try_clone()?, from.try_clone()?);
    let answers = std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut forth);
        let _ = forth.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut lines, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = answers.join();
    Ok(())
}
