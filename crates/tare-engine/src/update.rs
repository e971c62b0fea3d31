//! `update`: other limits for a container that exists. What is written down counts from the next start on;
//! if it runs, it holds at once as well.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::FlockOperation;
use tare_network::rate::{self, Limits};
use tare_network::{Folders, Networks};
use tare_sys::{Context, Result};

use crate::engine::Engine;
use crate::policy;

/// What is to be different; `None`: as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Bits a second that it can get; 0: as many as come.
    pub net_in: Option<u64>,
    /// Bits a second that it can send; 0: as many as it likes.
    pub net_out: Option<u64>,
    /// How long everything that it sends is held back, in microseconds.
    pub net_delay: Option<u64>,
    /// How much of what it sends is lost, in millionths.
    pub net_loss: Option<u32>,
}

impl Engine {
    /// Changes limits of a container. Of what cannot be had nothing is written down.
    pub fn update(&self, container: &str, update: &Update) -> Result<()> {
        let folders = self.find(container)?;
        let what = || format!("update {container}");
        // One after the other: each reads what the one before has written.
        let lock = File::open(&folders.state).doing(what)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).doing(what)?;
        let mut record = folders.record()?;
        let limits = &mut record.request.host_config.network_limits;
        *limits = Limits {
            incoming: update.net_in.unwrap_or(limits.incoming),
            outgoing: update.net_out.unwrap_or(limits.outgoing),
            delay: update.net_delay.unwrap_or(limits.delay),
            loss: update.net_loss.unwrap_or(limits.loss),
        };
        let limits = *limits;
        policy::check_network(&record.request.host_config).doing(what)?;
        if let Some(status) = folders.status()?
            && let Some(_process) = status.process()
        {
            // The pidfd sees to it that the number is still this process's.
            let netns = File::open(format!("/proc/{}/ns/net", status.pid)).doing(what)?;
            let networks = Networks::new(Folders::new(&self.roots().state, &self.roots().run));
            rate::hold(&limits, &networks.connections(&record.id)?, netns.as_fd()).doing(what)?;
        }
        folders.write_record(&record).doing(what)
    }
}
