//! `update`: other limits and published ports for a container that exists. What is written down counts from the next start on;
//! if it runs, it holds at once as well.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;

use tare_cgroup::Hierarchies;
use tare_network::rate::{self, Limits};
use tare_network::{Folders, Networks};
use tare_sys::{Context, Error, Kind, Result};

use crate::engine::Engine;
use crate::events::Event;
use crate::monitor::message::Order;
use crate::request::{Empty, HostConfig, PortBinding, RestartPolicy};
use crate::{facts, network, policy};

/// What is to be different; `None`: as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Memory limit, bytes; -1: none.
    pub memory: Option<i64>,
    /// Memory plus swap; -1: unlimited.
    pub memory_swap: Option<i64>,
    /// Soft memory limit; -1: none.
    pub memory_reservation: Option<i64>,
    /// CPUs in billionths.
    pub nano_cpus: Option<i64>,
    /// Relative weight.
    pub cpu_shares: Option<i64>,
    /// CFS period in microseconds.
    pub cpu_period: Option<i64>,
    /// CFS quota in microseconds; -1: none.
    pub cpu_quota: Option<i64>,
    /// Period of the real-time scheduler in microseconds; cgroup v1 only.
    pub cpu_rt_period: Option<i64>,
    /// Time for real-time processes in each such period, in microseconds; cgroup v1 only.
    pub cpu_rt_runtime: Option<i64>,
    /// CPUs allowed.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes allowed.
    pub cpuset_mems: Option<String>,
    /// Processes allowed; -1: unlimited.
    pub pids_limit: Option<i64>,
    /// Share of the disk, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// When it is started again.
    pub restart_policy: Option<RestartPolicy>,
    /// The ports that are published, in place of those before.
    pub port_bindings: Option<BTreeMap<String, Option<Vec<PortBinding>>>>,
    /// Bits a second that it can get; 0: as many as come.
    pub net_in: Option<u64>,
    /// Bits a second that it can send; 0: as many as it likes.
    pub net_out: Option<u64>,
    /// How long everything that it sends is held back, in microseconds.
    pub net_delay: Option<u64>,
    /// How much of what it sends is lost, in millionths.
    pub net_loss: Option<u32>,
}

impl Update {
    /// Writes it into what was asked for. A limit on CPUs has two forms, of which the later takes the other's place.
    fn apply(&self, host: &mut HostConfig) {
        let number = |to: &mut i64, value: Option<i64>| {
            if let Some(value) = value {
                *to = value;
            }
        };
        // -1 lifts what 0 stands for in a request.
        let size = |value: Option<i64>| value.map(|value| value.max(0));
        number(&mut host.memory, size(self.memory));
        number(&mut host.memory_swap, self.memory_swap);
        number(&mut host.memory_reservation, size(self.memory_reservation));
        if host.memory == 0 && self.memory.is_some() && self.memory_swap.is_none() {
            host.memory_swap = 0;
        }
        number(&mut host.nano_cpus, self.nano_cpus);
        if self.nano_cpus.is_some() {
            (host.cpu_period, host.cpu_quota) = (0, 0);
        } else if self.cpu_period.is_some() || self.cpu_quota.is_some() {
            host.nano_cpus = 0;
        }
        number(&mut host.cpu_shares, self.cpu_shares);
        number(&mut host.cpu_period, self.cpu_period);
        number(&mut host.cpu_quota, self.cpu_quota);
        number(&mut host.cpu_rt_period, self.cpu_rt_period);
        number(&mut host.cpu_rt_runtime, self.cpu_rt_runtime);
        for (to, value) in
            [(&mut host.cpuset_cpus, &self.cpuset_cpus), (&mut host.cpuset_mems, &self.cpuset_mems)]
        {
            if let Some(value) = value {
                to.clone_from(value);
            }
        }
        host.pids_limit = self.pids_limit.or(host.pids_limit);
        host.blkio_weight = self.blkio_weight.unwrap_or(host.blkio_weight);
        if let Some(policy) = &self.restart_policy {
            host.restart_policy.clone_from(policy);
        }
        if let Some(ports) = &self.port_bindings {
            host.port_bindings.clone_from(ports);
        }
    }
}

impl Engine {
    /// Changes limits of a container. Of what cannot be had nothing is written down.
    pub fn update(&self, container: &str, update: &Update) -> Result<()> {
        let folders = self.find(container)?;
        let what = || format!("update {container}");
        let _alone = folders.change().doing(what)?;
        let mut record = folders.record()?;
        let before = record.clone();
        update.apply(&mut record.request.host_config);
        let host = &record.request.host_config;
        if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
            let what = format!("{}: a restart policy cannot be had with --rm, by which it was made", what());
            return Err(Error::new(Kind::Conflict, what));
        }
        let hierarchies = Hierarchies::discover()?;
        let facts = facts::gather(&record.request, &hierarchies).doing(what)?;
        let (old, new) = (&before.request.host_config, &record.request.host_config);
        let change = policy::change_of_resources(old, new, &facts).doing(what)?;
        let back = policy::change_of_resources(new, old, &facts);
        let limits = &mut record.request.host_config.network_limits;
        *limits = Limits {
            incoming: update.net_in.unwrap_or(limits.incoming),
            outgoing: update.net_out.unwrap_or(limits.outgoing),
            delay: update.net_delay.unwrap_or(limits.delay),
            loss: update.net_loss.unwrap_or(limits.loss),
        };
        let limits = *limits;
        policy::check_network(&record.request.host_config).doing(what)?;
        let ports = &record.request.host_config.port_bindings;
        let publishes = *ports != before.request.host_config.port_bindings;
        if publishes {
            // As at its start: what is published is exposed as well.
            let exposed = ports.keys().map(|port| (port.clone(), Empty {}));
            record.request.config.exposed_ports.extend(exposed);
            network::check(&record.request, &[]).doing(what)?;
        }
        if let Some(status) = folders.status()?
            && let Some(_process) = status.process()
        {
            let undo = || {
                // What went before the one that failed goes back to what it was.
                if let Ok(back) = &back {
                    let _ = crate::cgroup::update(&hierarchies, &before, back);
                }
            };
            if let Err(err) = crate::cgroup::update(&hierarchies, &before, &change) {
                undo();
                return Err(err.context(what()));
            }
            if publishes {
                // Its monitor reads what it is to publish.
                folders.write_record(&record).doing(what)?;
                if let Err(err) = self.order(&folders, &Order::Republish) {
                    undo();
                    folders.write_record(&before).doing(what)?;
                    return Err(err.context(what()));
                }
            }
            // The pidfd sees to it that the number is still this process's.
            let netns = File::open(format!("/proc/{}/ns/net", status.pid)).doing(what)?;
            let networks = Networks::new(Folders::new(&self.roots().state, &self.roots().run));
            rate::hold(&limits, &networks.connections(&record.id)?, netns.as_fd()).doing(what)?;
        }
        folders.write_record(&record).doing(what)?;
        self.emit(&Event::container(&record, "update"));
        // Its monitor acts on the restart policy.
        self.tell_monitor(&folders)
    }
}
