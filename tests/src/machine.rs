//! A network of one's own: each test runs in a network namespace that stands for a machine, and other hosts are
//! namespaces beside it. So tests run side by side, and the firewall and the links of the real machine stay as
//! they are.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::Tare;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// The network that the tests were started in.
static HOME: OnceLock<File> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

fn name(what: &str) -> String {
    format!("tare-test-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a command that has to go well; gives what it printed.
#[track_caller]
pub fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|err| panic!("{words:?}: {err}"));
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Is this a guest of `cargo xtask vm`, of which nothing stays? What changes the machine's own systemd is for it alone.
pub fn is_throw_away() -> bool {
    let guest = Path::new("/run/tare-vm").is_dir();
    if !guest {
        eprintln!("not run: it would change this machine, which is not one of `cargo xtask vm`");
    }
    guest
}

/// Makes a network namespace under a name; it has nothing but loopback.
fn make(what: &str) -> String {
    let name = name(what);
    run(&["ip", "netns", "add", &name]);
    run(&["ip", "-n", &name, "link", "set", "lo", "up"]);
    name
}

/// Moves this thread, and all that it starts from here on, into a network namespace of its own, once. It ends with
/// the last that is in it. Nothing happens for an ordinary user.
#[track_caller]
pub fn own_network() {
    if ALONE.get() || !rustix::process::geteuid().is_root() {
        return;
    }
    HOME.get_or_init(|| File::open("/proc/thread-self/ns/net").expect("the own network namespace"));
    let name = make("machine");
    let file = File::open(format!("/run/netns/{name}")).expect("the namespace that was just made");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("entering it");
    // The name is not needed any more, and would stay if the test were killed.
    run(&["ip", "netns", "del", &name]);
    ALONE.set(true);
}

/// Does what needs the real machine's network: fetching packages from the sources that it names.
pub fn outside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let there = || {
        if let Some(home) = HOME.get() {
            move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)).expect("going home");
        }
        work()
    };
    // A thread of its own, because the caller stays where it is.
    std::thread::scope(|scope| scope.spawn(there).join()).expect("the work outside")
}

/// Does something in the network of a process. What it opens there stays there, whoever uses it.
pub fn in_network_of<T: Send>(process: i32, work: impl FnOnce() -> T + Send) -> T {
    within(&format!("/proc/{process}/ns/net"), work)
}

fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let there = || {
        let file = File::open(namespace).expect("a network namespace");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("entering it");
        work()
    };
    std::thread::scope(|scope| scope.spawn(there).join()).expect("the work there")
}

/// Another host, on a cable of its own to the test's machine.
#[derive(Debug)]
pub struct Remote {
    namespace: String,
    /// The machine's address on the cable.
    pub machine: String,
    /// The other host's.
    pub address: String,
    /// The machine's address of IPv6.
    pub machine6: String,
    /// The machine's link.
    pub link: String,
}

impl Remote {
    /// Makes it, with 198.18.N.2 at its end and 198.18.N.1 at the machine's (RFC 2544 keeps them for tests). The
    /// machine's default route leads to it.
    #[track_caller]
    #[allow(clippy::new_without_default, reason = "it makes namespaces, which a default should not")]
    pub fn new() -> Remote {
        own_network();
        let namespace = make("remote");
        let count = run(&["ip", "-o", "link"]).lines().filter(|line| line.contains(" cable")).count();
        let link = format!("cable{count}");
        run(&["ip", "link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
        let (machine, address) = (format!("198.18.{count}.1"), format!("198.18.{count}.2"));
        let (machine6, address6) = (format!("fd12:{count}::1"), format!("fd12:{count}::2"));
        run(&["ip", "addr", "add", &format!("{machine}/24"), "dev", &link]);
        run(&["ip", "addr", "add", &format!("{machine6}/64"), "dev", &link, "nodad"]);
        run(&["ip", "link", "set", &link, "up"]);
        let there = |words: &[&str]| run(&[&["ip", "-n", &namespace], words].concat());
        there(&["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        there(&["addr", "add", &format!("{address6}/64"), "dev", "eth0", "nodad"]);
        there(&["link", "set", "eth0", "up"]);
        if count == 0 {
            run(&["ip", "route", "add", "default", "via", &address]);
        }
        Remote { namespace, machine, address, machine6, link }
    }

    /// Does something there. What it opens there stays there, whoever uses it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&format!("/run/netns/{}", self.namespace), work)
    }

    /// What precedes a command that is to run on it.
    pub fn words(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.namespace)]
    }

    /// A command on it.
    pub fn command(&self, words: &[&str]) -> Tare {
        let before = self.words();
        let mut command = Command::new(&before[0]);
        command.args(&before[1..]).args(words);
        Tare::of(command)
    }

    /// Runs a command of `ip` on it.
    #[track_caller]
    pub fn ip(&self, words: &[&str]) {
        run(&[&["ip", "-n", &self.namespace], words].concat());
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

/// Asks a web server for its front page, from where the calling thread is. Empty where none answers.
pub fn get(address: &str, port: u16) -> String {
    asked(Tare::of({
        let mut command = Command::new("curl");
        command.args(curl(address, port));
        command
    }))
}

/// The same from another host.
pub fn get_from(remote: &Remote, address: &str, port: u16) -> String {
    let words = curl(address, port);
    let words: Vec<&str> = std::iter::once("curl").chain(words.iter().map(String::as_str)).collect();
    asked(remote.command(&words))
}

fn asked(call: Tare) -> String {
    call.run().stdout()
}

fn curl(address: &str, port: u16) -> Vec<String> {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let words = ["-s", "-g", "--noproxy", "*", "--max-time", "3", &format!("http://{host}:{port}/")];
    words.map(str::to_owned).to_vec()
}
