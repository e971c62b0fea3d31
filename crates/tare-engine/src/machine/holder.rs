//! The holder of a user's machine: a process that keeps its namespaces, and pasta(1), while anybody is in it.
//!
//! It is in the machine's user and mount namespaces, and in the host's network: there it makes the sockets that published
//! ports and questions to the host's name servers need, for whoever asks at `machine.sock`.
//!
//! It ends five seconds after the last one has gone. Nobody has to tell: all who are in the machine hold a shared lock, and
//! a thread waits for the exclusive one.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FlockOperation, Mode, OFlags};
use tare_network::host_socket;
use tare_sys::channel::Channel;
use tare_sys::{Context, Error, Kind, Result, process, rootless};

use super::make::Word;
use super::pasta::Pasta;
use super::{FILE, NETWORK_FD};

/// The name that this program is called by to be a holder.
pub const NAME: &str = "tare-machine";
/// The file by which it says that it is ready.
pub const CHANNEL_FD: i32 = 4;
/// How long an empty machine stays.
const LINGER: Duration = Duration::from_secs(5);

/// A holder's life, from its words on.
pub fn main(words: &[OsString]) -> Result<()> {
    let [_, _, run, _] = words else {
        return Err(Error::new(Kind::Usage, "the holder of a machine is started by tare, not by hand"));
    };
    let run = PathBuf::from(run);
    rootless::set();
    let _ = rustix::thread::set_name(c"tare-machine");
    let mut files = process::inherited(NETWORK_FD)?;
    files.sort_by_key(AsRawFd::as_raw_fd);
    let mut files = files.into_iter();
    let (Some(netns), Some(channel)) = (files.next(), files.next()) else {
        return Err(Error::new(Kind::Usage, "the holder of a machine is started by tare, not by hand"));
    };
    drop(files);
    let channel = Channel::from(channel);
    let ready = (|| {
        let path = run.join(host_socket::NAME);
        let _ = std::fs::remove_file(&path);
        let listener = Channel::listen(&path)?;
        Ok((listener, Pasta::start(&run, netns.as_fd())))
    })();
    let (listener, mut pasta) = match ready {
        Ok(ready) => ready,
        Err(err) => {
            let _ = Word::Failed(err).send(&channel);
            return Ok(());
        }
    };
    Word::Ready.send(&channel)?;
    drop(channel);
    std::thread::spawn(move || end_when_empty(&run));
    loop {
        let timeout = pasta
            .next()
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let asked = {
            let mut fds = vec![PollFd::new(&listener, PollFlags::IN)];
            fds.extend(pasta.as_fd().map(|pasta| PollFd::from_borrowed_fd(pasta, PollFlags::IN)));
            let _ = rustix::event::poll(&mut fds, timeout.as_ref());
            !fds[0].revents().is_empty()
        };
        pasta.look_after();
        if asked && let Ok(channel) = Channel::accept(listener.as_fd()) {
            host_socket::serve(&channel);
        }
    }
}

/// Ends this process when nobody has been in the machine for a while.
fn end_when_empty(run: &Path) {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let Ok(file) = rustix::fs::open(run.join(FILE), flags, Mode::empty()).doing(|| "open(machine)")
        else {
            // Its folder has gone, as a login session's does.
            process::exit_now(0);
        };
        let _ = rustix::fs::flock(&file, FlockOperation::LockExclusive);
        let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
        std::thread::sleep(LINGER);
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Who comes now waits for the lock, and then sees that nobody holds the machine.
            let _ = rustix::fs::ftruncate(&file, 0);
            let _ = std::fs::remove_file(run.join(host_socket::NAME));
            Pasta::end(run);
            process::exit_now(0);
        }
    }
}
