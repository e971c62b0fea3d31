//! The system's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram an entry.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::Stream;

/// Where it listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Priorities of syslog(3): `err` and `info`, as Docker has them.
const PRIORITIES: [&str; 2] = ["6", "3"];

/// How long one that has much to do may take to make room for an entry. Containers wait meanwhile, as under Docker.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: Option<UnixDatagram>,
    /// It made no room for the last entry: until it does, nobody waits for it.
    hangs: Cell<bool>,
    /// The fields that every entry has.
    fields: Vec<u8>,
}

impl Journal {
    /// With these fields, and `attributes` under upper case names.
    pub fn new(names: &[(&str, &str)], attributes: &BTreeMap<String, String>) -> Journal {
        let bounded = |socket: UnixDatagram| socket.set_write_timeout(Some(PATIENCE)).map(|()| socket);
        let socket = UnixDatagram::unbound().and_then(bounded).ok();
        let mut fields = Vec::new();
        for (name, value) in names {
            push(&mut fields, name, value.as_bytes());
        }
        for (name, value) in attributes {
            let name: String = name
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
                .collect();
            // The journal takes no name that begins with an underscore or a digit.
            let name = name.trim_start_matches(|c: char| c == '_' || c.is_ascii_digit());
            if !name.is_empty() {
                push(&mut fields, name, value.as_bytes());
            }
        }
        Journal { socket, hangs: Cell::new(false), fields }
    }

    /// Sends one piece of a line. What the journal does not take is in our own file all the same.
    pub fn send(&self, stream: Stream, bytes: &[u8], time: &str) {
        let Some(socket) = &self.socket else { return };
        let mut entry = self.fields.clone();
        push(&mut entry, "PRIORITY", PRIORITIES[stream as usize].as_bytes());
        push(&mut entry, "SYSLOG_TIMESTAMP", time.as_bytes());
        match bytes.strip_suffix(b"\n") {
            Some(line) => push(&mut entry, "MESSAGE", line),
            None => {
                push(&mut entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
                push(&mut entry, "MESSAGE", bytes);
            }
        }
        // By its name each time: the socket may be another since the journal was started again.
        let sent = socket.send_to(&entry, SOCKET);
        let hangs = sent.is_err_and(|err| err.kind() == std::io::ErrorKind::WouldBlock);
        if self.hangs.replace(hangs) != hangs {
            let _ = socket.set_nonblocking(hangs);
        }
    }
}

/// `NAME=value`, or with its length where the value has lines of its own.
fn push(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_as_the_journal_reads_them() {
        let mut entry = Vec::new();
        push(&mut entry, "A", b"b");
        push(&mut entry, "C", b"d\ne");
        assert_eq!(entry, b"A=b\nC\n\x03\0\0\0\0\0\0\0d\ne\n");
        let attributes =
            BTreeMap::from([("com.x-y".to_owned(), "1".to_owned()), ("_1".to_owned(), "2".to_owned())]);
        assert_eq!(Journal::new(&[("N", "v")], &attributes).fields, b"N=v\nCOM_X_Y=1\n");
    }
}
