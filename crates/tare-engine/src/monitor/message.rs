//! What monitors and commands say to each other, over `SOCK_SEQPACKET` sockets: the pair that a start is told by, and
//! the connections to `<run>/containers/<id>/control`.
//!
//! ```text
//! command ──Order (JSON)──▶ monitor
//! command ◀──Message─────── monitor       first byte: the kind; output is raw, the rest JSON
//! ```
//!
//! An order gets one [`Message::Done`] or [`Message::Failed`]; [`Order::Attach`] gets [`Message::Started`] with files, then
//! output, then [`Message::Ended`].

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use tare_sys::channel::Channel;
use tare_sys::{Error, Kind, Result};

use crate::container::Status;
use crate::log::Stream;

/// Bytes of output in one message.
pub const CHUNK: usize = 16 * 1024;

/// What a command asks of a monitor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Send the output from now on: stdout, stderr; and how it ends.
    Attach([bool; 2]),
    /// Tell how it ends.
    Wait,
    /// Send it a signal.
    Kill(i32),
    /// Ask it to end, and kill it after so many milliseconds.
    Stop(Option<i32>, Option<u64>),
    /// The same, and start it again.
    Restart(Option<i32>, Option<u64>),
    /// Freeze it.
    Pause,
    /// Thaw it.
    Unpause,
    /// `container.json` has changed.
    Reread,
    /// The published ports in `container.json` have changed: publish these. Where that cannot be, nothing changes.
    Republish,
}

/// What a monitor tells a command.
#[derive(Debug)]
pub enum Message {
    /// It runs. Its files: the pidfd and, with a terminal, our side of that.
    Started(Vec<String>),
    /// The order could not be carried out.
    Failed(Error),
    /// The order was carried out.
    Done,
    /// Output.
    Output(Stream, Vec<u8>),
    /// So many bytes of output were left out, because the command does not keep up. The log has them.
    Skipped(u64),
    /// It ended.
    Ended(Exit),
}

/// How a container ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code: the status, or 128 + the signal.
    pub code: u8,
    /// Nobody saw it end; the code means nothing.
    pub unknown: bool,
    /// The kernel killed one of its processes for want of memory.
    pub oom_killed: bool,
    /// Its memory limit in bytes; 0: none.
    pub memory_limit: u64,
}

impl Exit {
    /// As it is written down; of a container that is gone nobody can tell, nor of one that is said to run still, since who
    /// was to see its end was killed.
    pub fn written(status: Option<&Status>) -> Exit {
        let code = status.filter(|status| !status.runs()).and_then(|status| status.exit_code);
        Exit {
            code: code.unwrap_or(255),
            unknown: code.is_none(),
            oom_killed: status.is_some_and(|status| status.oom_killed),
            memory_limit: 0,
        }
    }
}

impl Message {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        fn json<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
            let mut bytes = vec![kind];
            // Strings, numbers and our own error: this cannot fail, and an empty body reads as damaged.
            let _ = serde_json::to_writer(&mut bytes, value);
            bytes
        }
        match self {
            Message::Started(warnings) => json(b's', warnings),
            Message::Failed(err) => json(b'f', err),
            Message::Done => json(b'd', &()),
            Message::Skipped(bytes) => json(b'l', bytes),
            Message::Ended(exit) => json(b'x', exit),
            Message::Output(stream, bytes) => output(*stream, bytes),
        }
    }

    /// Receives one; `None` when the monitor is gone.
    pub fn receive(channel: &Channel, buffer: &mut [u8]) -> Result<Option<(Message, Vec<OwnedFd>)>> {
        let Some((length, files)) = channel.receive(buffer)? else { return Ok(None) };
        let (kind, body) = (buffer[0], &buffer[1..length]);
        let bad =
            |err: serde_json::Error| Error::new(Kind::Corrupt, format!("message of the monitor: {err}"));
        let message = match kind {
            b's' => Message::Started(serde_json::from_slice(body).map_err(bad)?),
            b'f' => Message::Failed(serde_json::from_slice(body).map_err(bad)?),
            b'd' => Message::Done,
            b'l' => Message::Skipped(serde_json::from_slice(body).map_err(bad)?),
            b'x' => Message::Ended(serde_json::from_slice(body).map_err(bad)?),
            b'o' => Message::Output(Stream::Stdout, body.to_vec()),
            b'e' => Message::Output(Stream::Stderr, body.to_vec()),
            kind => {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("message of the monitor: unknown kind {kind}"),
                ));
            }
        };
        Ok(Some((message, files)))
    }

    /// A buffer that every message fits in.
    pub fn buffer() -> Vec<u8> {
        vec![0; CHUNK + 1]
    }
}

/// A message of output.
pub fn output(stream: Stream, bytes: &[u8]) -> Vec<u8> {
    let kind = if stream == Stream::Stdout { b'o' } else { b'e' };
    std::iter::once(kind).chain(bytes.iter().copied()).collect()
}

impl Order {
    /// Sends it.
    pub fn send(&self, channel: &Channel) -> Result<()> {
        // An enum of numbers: this cannot fail.
        channel.send(&serde_json::to_vec(self).unwrap_or_default(), &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::State;

    #[test]
    fn nobody_knows_how_one_ended_that_is_gone_or_said_to_run() {
        let status = |state| Status { state, exit_code: Some(0), ..Status::created() };
        let known = |status: Option<&Status>| !Exit::written(status).unknown;
        assert!(!known(None) && !known(Some(&status(State::Running))) && known(Some(&status(State::Exited))));
    }
}
