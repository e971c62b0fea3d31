//! Talking to the monitor of a container, from a command: by the socket in its run folder.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tare_sys::channel::Channel;
use tare_sys::{Error, Kind, Result};

use crate::container::{Folders, Status};
use crate::engine::{Engine, not_running};
use crate::monitor::message::{Message, Order};
use crate::sweep;

/// How long a monitor may take to answer the door. One that just begins, or takes over, has not opened it yet.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// A connection to the monitor; [`Kind::Conflict`] where nothing runs.
    pub(crate) fn connect(&self, folders: &Folders) -> Result<Channel> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let refused = match Channel::connect(&folders.control()) {
                Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Conflict) => err,
                result => return result,
            };
            // Nobody in charge: then a sweep finds out why, and sees to a new monitor where one is needed.
            if !matches!(folders.lock(), Ok(None)) {
                // By name, because one that has lost its run folder looks like one at rest to a sweep.
                sweep::tend(&self.roots, &folders.id, false);
                sweep::sweep(&self.roots)?;
                let status = folders.status()?.unwrap_or_else(Status::created);
                if !status.runs() && !status.restarts() {
                    return Err(not_running(&folders.id));
                }
            }
            if Instant::now() > deadline {
                return Err(refused.context(format!("talk to the monitor of {}", folders.id)));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Gives an order and waits until it is carried out.
    pub(crate) fn order(&self, folders: &Folders, order: &Order) -> Result<()> {
        self.ask(folders, order).map(drop)
    }

    /// Gives an order; answers the monitor's first word about it, the files with that, and the connection. A monitor that
    /// is killed over it has a successor, who is asked again: all orders can be given twice.
    pub(crate) fn ask(&self, folders: &Folders, order: &Order) -> Result<(Channel, Message, Vec<OwnedFd>)> {
        let mut deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let channel = self.connect(folders)?;
            let asked = Instant::now();
            // One that is dying still lets us in, and its successor may end with the container before it hears us.
            if order.send(&channel).is_ok()
                && let Ok(Some((message, files))) = Message::receive(&channel, &mut Message::buffer())
            {
                return match message {
                    Message::Failed(err) => Err(err),
                    message => Ok((channel, message, files)),
                };
            }
            // A stop may be with a monitor for minutes until that is killed.
            deadline += asked.elapsed();
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Error::new(
            Kind::Kernel,
            format!("talk to the monitor of {}: it is killed each time", folders.id),
        ))
    }
}
