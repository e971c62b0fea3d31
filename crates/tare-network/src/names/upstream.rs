//! Whom to ask what we do not know: the resolvers of the host, as `/etc/resolv.conf` has them at the moment,
//! or those that the user named for this container.
//!
//! The host's are asked from the host's network, where a resolver on loopback (systemd-resolved, dnsmasq) can
//! be reached. Those that the user named are asked from inside, as the container itself would ask them: with
//! its address, over its networks, and its own loopback is meant by 127.0.0.1.

use std::fs::{self, Metadata};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// As many as the C library uses (resolv.conf(5), MAXNS).
const MOST: usize = 3;
/// A resolv.conf that is larger is none.
const LARGEST: u64 = 64 * 1024;
/// For how long a server that had to stand in for the first is asked before it.
const LOYALTY: Duration = Duration::from_secs(30);

/// The resolvers that can be asked.
#[derive(Debug)]
pub struct Upstreams {
    source: Source,
    servers: Vec<SocketAddr>,
    /// The one that answered while others did not, and since when.
    preferred: Option<(usize, Instant)>,
}

#[derive(Debug)]
enum Source {
    Host { path: PathBuf, seen: Option<Mark> },
    User,
}

/// What changes when a file does.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Mark {
    fn of(file: &Metadata) -> Mark {
        Mark {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed: (file.mtime(), file.mtime_nsec()),
        }
    }
}

impl Upstreams {
    /// Those that the user named, or, if there are none, those in the host's resolv.conf.
    pub fn new(named: &[IpAddr], resolv_conf: PathBuf) -> Upstreams {
        let source = match named {
            [] => Source::Host { path: resolv_conf, seen: None },
            _ => Source::User,
        };
        let servers = named.iter().take(MOST).map(|address| SocketAddr::new(*address, 53)).collect();
        Upstreams { source, servers, preferred: None }
    }

    /// Whether they are to be asked from inside the container's network.
    pub fn inside(&self) -> bool {
        matches!(self.source, Source::User)
    }

    /// How many there are just now: follows the host's file, at the price of one stat(2).
    pub fn count(&mut self) -> usize {
        if let Source::Host { path, seen } = &mut self.source {
            // A file that is away for a moment, while it is replaced, does not make us forget what it said.
            if let Ok(file) = fs::metadata(&*path) {
                let mark = Mark::of(&file);
                if seen.as_ref() != Some(&mark)
                    && file.is_file()
                    && file.size() <= LARGEST
                    && let Ok(bytes) = fs::read(&*path)
                {
                    self.servers = servers(&String::from_utf8_lossy(&bytes));
                    self.preferred = None;
                    *seen = Some(mark);
                }
            }
            if self.servers.is_empty() {
                // resolv.conf(5): without any, the name server is the machine's own.
                self.servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
            }
        }
        self.servers.len()
    }

    /// The one to ask at the n-th try.
    pub fn nth(&self, nth: usize) -> Option<SocketAddr> {
        let first = match self.preferred {
            Some((index, since)) if since.elapsed() < LOYALTY => index,
            _ => 0,
        };
        let index = (first + nth).checked_rem(self.servers.len())?;
        self.servers.get(index).copied()
    }

    /// This one has answered, at a later try than the first.
    pub fn prefer(&mut self, server: SocketAddr) {
        self.preferred =
            self.servers.iter().position(|known| *known == server).map(|index| (index, Instant::now()));
    }
}

/// The `nameserver` lines of a resolv.conf(5).
fn servers(text: &str) -> Vec<SocketAddr> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        match address.split_once('%') {
            None => Some(SocketAddr::new(address.parse().ok()?, 53)),
            // fe80::1%eth0: a link-local address means something on one link only.
            Some((address, link)) => {
                let scope = link.parse().ok().or_else(|| index_of(link))?;
                Some(SocketAddrV6::new(address.parse().ok()?, 53, 0, scope).into())
            }
        }
    };
    text.lines().filter_map(line).take(MOST).collect()
}

fn index_of(link: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{}/ifindex", link.replace(['/', '.'], "_")))
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_c_library_reads() {
        let text = "# nameserver 9.9.9.9\n;x\nnameserver 127.0.0.53\n nameserver\t::1 \nsearch a b\noptions edns0\nnameserver fe80::1%7\nnameserver 1.1.1.1\n";
        let found = servers(text);
        let expected: [SocketAddr; 3] = [
            "127.0.0.53:53".parse().unwrap(),
            "[::1]:53".parse().unwrap(),
            SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7).into(),
        ];
        assert_eq!(found, expected);
        assert!(servers("nameserver\nnameserver x\nnameserver 1.2.3\nnameservers 1.1.1.1\n").is_empty());
    }

    #[test]
    fn follows_the_file_and_survives_its_absence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut upstreams = Upstreams::new(&[], path.clone());
        assert_eq!(upstreams.count(), 1);
        assert_eq!(upstreams.nth(0), Some("127.0.0.1:53".parse().unwrap()));
        fs::write(&path, "nameserver 10.0.0.1\nnameserver 10.0.0.2\n").unwrap();
        assert_eq!(upstreams.count(), 2);
        assert_eq!(upstreams.nth(1), Some("10.0.0.2:53".parse().unwrap()));
        upstreams.prefer("10.0.0.2:53".parse().unwrap());
        assert_eq!(upstreams.nth(0), Some("10.0.0.2:53".parse().unwrap()));
        fs::remove_file(&path).unwrap();
        assert_eq!(upstreams.count(), 2);
        fs::write(&path, "nameserver 10.0.0.3\n").unwrap();
        assert_eq!(upstreams.count(), 1);
        assert_eq!(upstreams.nth(0), Some("10.0.0.3:53".parse().unwrap()));
    }

    #[test]
    fn those_the_user_named_are_asked_from_inside() {
        let mut upstreams = Upstreams::new(&["10.9.9.9".parse().unwrap()], "/no-such".into());
        assert!(upstreams.inside());
        assert_eq!((upstreams.count(), upstreams.nth(5)), (1, Some("10.9.9.9:53".parse().unwrap())));
    }
}
