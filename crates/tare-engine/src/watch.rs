//! Waiting for files to change, without asking again and again.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// How often is looked where the user has no watch left (`fs.inotify.max_user_instances`).
const INSTEAD: Duration = Duration::from_millis(50);

/// A watch on folders.
#[derive(Debug)]
pub struct Watch(Option<OwnedFd>);

impl Watch {
    /// Watches what is written, made and renamed in these folders.
    pub fn new(folders: &[&Path]) -> Watch {
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        let Ok(fd) = inotify::init(flags) else { return Watch(None) };
        let what = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF;
        let all = folders.iter().all(|folder| inotify::add_watch(&fd, *folder, what).is_ok());
        Watch(all.then_some(fd))
    }

    /// Waits until something has changed since the last call, or the time is up.
    pub fn wait(&self, most: Duration) {
        let Some(fd) = &self.0 else { return std::thread::sleep(most.min(INSTEAD)) };
        let time = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: most.subsec_nanos().into() };
        let _ = rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&time));
        let mut buffer = [0; 4096];
        while rustix::io::read(fd, &mut buffer).is_ok_and(|length| length == buffer.len()) {}
    }
}
