//! A name server that says what a test wants it to, on an address of loopback.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// What it is asked, and how.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The query, as it came.
    pub query: &'a [u8],
    /// It came by TCP.
    pub tcp: bool,
}

/// The server; it ends with this.
#[derive(Debug)]
pub struct Resolver {
    /// Where it listens, at port 53.
    pub address: IpAddr,
    end: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Resolver {
    /// Starts one that sends these messages for each query. Addresses below 127 are there without being made;
    /// each test needs one of its own.
    #[track_caller]
    pub fn start(
        address: [u8; 4],
        say: impl Fn(Asked<'_>) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Resolver {
        crate::machine::own_network();
        let address = IpAddr::from(Ipv4Addr::from(address));
        let udp = UdpSocket::bind((address, 53)).expect("port 53 of an address of the test's own");
        let tcp = TcpListener::bind((address, 53)).expect("port 53 of an address of the test's own");
        udp.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        tcp.set_nonblocking(true).expect("a listener that does not block");
        let (end, count, say) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::new(say));
        let resolver = Resolver { address, end: Arc::clone(&end), count: Arc::clone(&count) };
        let (ended, counted, said) = (Arc::clone(&end), Arc::clone(&count), Arc::clone(&say));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
                counted.fetch_add(1, Ordering::Relaxed);
                for message in said(Asked { query: &buffer[..length], tcp: false }) {
                    let _ = udp.send_to(&message, from);
                }
            }
        });
        thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut query).is_err() {
                    continue;
                }
                for message in say(Asked { query: &query, tcp: true }) {
                    let length = u16::try_from(message.len()).expect("a message fits");
                    let _ = stream.write_all(&[&length.to_be_bytes()[..], &message].concat());
                }
            }
        });
        resolver
    }

    /// How often it was asked.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// An answer: the question, and one address for it `times` over.
pub fn answer(query: &[u8], address: [u8; 4], times: u16) -> Vec<u8> {
    let mut message = with_code(query, 0);
    message[6..8].copy_from_slice(&times.to_be_bytes());
    for _ in 0..times {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend(address);
    }
    message
}

/// An answer without records, with this code: 2 is SERVFAIL, 3 is NXDOMAIN.
pub fn with_code(query: &[u8], code: u8) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a question") + 5;
    let mut message = query[..end].to_vec();
    message[2] |= 0x80;
    message[3] = 0x80 | code;
    message[6..12].fill(0);
    message
}
