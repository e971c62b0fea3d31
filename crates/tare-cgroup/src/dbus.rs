//! A small D-Bus client: calls, replies and signals over one unix socket; enough to talk to systemd.
//!
//! Our own, because the libraries that there are (zbus, dbus-rs) start threads or need C, and whoever makes a
//! container must be single-threaded up to `clone3`. Every wait ends at the deadline given when connecting, and
//! no message above [`MAX_MESSAGE`] is read, so a bus that hangs or lies costs an error and no more.
//!
//! Source: the D-Bus specification (dbus.freedesktop.org/doc/dbus-specification.html), 0.43.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tare_sys::{Context, Error, Kind, Result};

mod address;
mod message;
mod read;
mod value;

pub(crate) use address::Address;
pub(crate) use message::{Call, Message, Sort};
pub(crate) use value::Value;

/// The longest message taken. systemd's answers to our questions are below 1 KiB; the standard allows 128 MiB.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// Signals kept while a reply is waited for; a busy host ends hundreds of jobs a second, not thousands.
const MAX_SIGNALS: usize = 4096;
/// The longest line of the authentication.
const MAX_LINE: usize = 4096;

/// What came back from a call.
#[derive(Debug, PartialEq)]
pub(crate) enum Reply {
    /// The values of the answer.
    Values(Vec<Value>),
    /// The service refused: the error's name, and its text.
    Refused { name: String, text: String },
}

/// A connection to a bus, or to one peer without a bus between.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: UnixStream,
    /// Where it leads, for messages.
    shown: String,
    deadline: Instant,
    serial: u32,
    /// What was received and not yet looked at.
    received: Vec<u8>,
    signals: VecDeque<Message>,
}

impl Bus {
    /// Connects and authenticates; all that is done with the connection must be done within `patience`.
    ///
    /// Errors: those of connect(2); [`Kind::Permission`] where the bus does not want us; a time-out.
    pub(crate) fn connect(address: &Address, patience: Duration) -> Result<Bus> {
        let shown = address.to_string();
        let deadline = Instant::now() + patience;
        let call = || format!("connect({shown:?})");
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .doing(|| "socket(AF_UNIX)")?;
        // The send time-out also ends a connect(2) to a listener whose queue is full (unix(7)).
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))
            .doing(|| "setsockopt(SO_SNDTIMEO)")?;
        let target = match address {
            Address::Path(path) => SocketAddrUnix::new(path.as_str()),
            Address::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        }
        .doing(call)?;
        loop {
            match rustix::net::connect(&socket, &target) {
                Err(Errno::INTR) => continue,
                connected => break connected.doing(call)?,
            }
        }
        let mut bus = Bus {
            stream: UnixStream::from(socket),
            shown,
            deadline,
            serial: 0,
            received: Vec::new(),
            signals: VecDeque::new(),
        };
        bus.authenticate().doing(|| format!("D-Bus {}", bus.shown))?;
        Ok(bus)
    }

    /// SASL EXTERNAL without saying who we are: the bus takes the uid that the kernel shows it. In a user
    /// namespace that is another one than getuid(2) tells us, so naming one would be refused.
    fn authenticate(&mut self) -> Result<()> {
        // All at once, as sd-bus sends it: systemd's own socket, if it reads BEGIN together with the first message,
        // does not look at that message before another one comes.
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let line = self.line()?;
            match line.split(' ').next() {
                Some("DATA") => {}
                Some("OK") => return Ok(()),
                _ => {
                    return Err(Error::new(
                        Kind::Permission,
                        format!("authentication as the user of this process: {line:?}"),
                    ));
                }
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.received[..end]).into_owned();
                self.received.drain(..end + 2);
                return Ok(line);
            }
            if self.received.len() > MAX_LINE {
                return Err(Error::new(Kind::Corrupt, "a line without end during authentication"));
            }
            self.receive()?;
        }
    }

    /// Calls a method and waits for its reply; signals that come meanwhile are kept for
    /// [`signal`](Bus::signal).
    pub(crate) fn call(&mut self, call: &Call<'_>, body: &[Value]) -> Result<Reply> {
        let serial = self.post(call, body)?;
        let waiting = || format!("D-Bus call {}.{}", call.interface, call.member);
        loop {
            let message = self.message().doing(waiting)?;
            match message.sort {
                Sort::Signal => self.keep(message),
                Sort::Reply if message.reply_to == serial => return Ok(Reply::Values(message.body)),
                Sort::Error if message.reply_to == serial => {
                    let text = match message.body.first() {
                        Some(Value::Str(text)) => text.clone(),
                        _ => String::new(),
                    };
                    return Ok(Reply::Refused { name: message.error, text });
                }
                _ => {}
            }
        }
    }

    /// Sends a call without waiting; returns its serial number.
    fn post(&mut self, call: &Call<'_>, body: &[Value]) -> Result<u32> {
        self.serial += 1;
        let bytes = message::encode(self.serial, call, body);
        self.send(&bytes).doing(|| format!("D-Bus call {}.{}", call.interface, call.member))?;
        Ok(self.serial)
    }

    /// The next signal, waiting for it.
    pub(crate) fn signal(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.signals.pop_front() {
                return Ok(message);
            }
            let message = self.message()?;
            if message.sort == Sort::Signal {
                return Ok(message);
            }
        }
    }

    fn keep(&mut self, message: Message) {
        if self.signals.len() == MAX_SIGNALS {
            self.signals.pop_front();
        }
        self.signals.push_back(message);
    }

    /// The next message of any sort.
    fn message(&mut self) -> Result<Message> {
        loop {
            if let Some(length) = message::length(&self.received)?
                && self.received.len() >= length
            {
                let rest = self.received.split_off(length);
                let bytes = std::mem::replace(&mut self.received, rest);
                return message::decode(&bytes).doing(|| format!("message from {}", self.shown));
            }
            self.receive()?;
        }
    }

    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(self.timed_out()),
            false => Ok(left),
        }
    }

    fn timed_out(&self) -> Error {
        Error::syscall(format!("wait for {}", self.shown), Errno::TIMEDOUT)
            .hint("the bus or systemd does not answer: systemctl is-system-running")
    }

    fn failed(&self, call: &str, err: &std::io::Error) -> Error {
        match (err.kind(), Errno::from_io_error(err)) {
            (ErrorKind::WouldBlock | ErrorKind::TimedOut, _) => self.timed_out(),
            (_, Some(errno)) => Error::syscall(format!("{call}({})", self.shown), errno),
            (_, None) => Error::new(Kind::Kernel, format!("{call}({}): {err}", self.shown)),
        }
    }

    fn receive(&mut self) -> Result<()> {
        let left = self.left()?;
        self.stream.set_read_timeout(Some(left)).doing(|| "setsockopt(SO_RCVTIMEO)")?;
        let mut piece = [0u8; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(Error::new(Kind::Kernel, format!("{} closed the connection", self.shown))),
            Ok(count) => {
                self.received.extend_from_slice(&piece[..count]);
                Ok(())
            }
            Err(err) if err.kind() == ErrorKind::Interrupted => Ok(()),
            Err(err) => Err(self.failed("read", &err)),
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let left = self.left()?;
            self.stream.set_write_timeout(Some(left)).doing(|| "setsockopt(SO_SNDTIMEO)")?;
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(self.failed("write", &err)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
