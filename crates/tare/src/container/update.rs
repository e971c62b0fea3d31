//! `update`: other limits and published ports for containers that exist, also while they run.

use tare_engine::{Engine, Update};
use tare_sys::{Error, Kind, Result};

use crate::container::run::restart_policy;
use crate::print::failure::each;
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::parse::port::{self, Bindings};
use crate::words::parse::{self, bandwidth};
use crate::words::tree::Verb;

pub static UPDATE: Verb = Verb {
    about: "Change limits and published ports of one or more containers",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::one("blkio-weight", "uint16", "500", "Share of the disk against others, 10 to 1000"),
        Flag::one("cpu-period", "int", "100000", "Period of the CPU limit, in microseconds"),
        Flag::one(
            "cpu-quota",
            "int",
            "50000",
            "CPU time allowed in each period, in microseconds (-1 for any)",
        ),
        Flag::one(
            "cpu-rt-period",
            "int",
            "1000000",
            "Period of the real-time scheduler, in microseconds (cgroup v1)",
        ),
        Flag::one(
            "cpu-rt-runtime",
            "int",
            "950000",
            "Time for real-time processes in each such period (cgroup v1)",
        ),
        Flag::one("cpu-shares", "int", "512", "Share of the CPUs against others (usually 1024)").short('c'),
        Flag::one("cpus", "decimal", "1.5", "Number of CPUs"),
        Flag::one("cpuset-cpus", "string", "0-3", "CPUs to run on (0-3, 0,1)"),
        Flag::one("cpuset-mems", "string", "0,1", "Memory nodes to use (0-3, 0,1)"),
        Flag::one("memory", "bytes", "512m", "Memory limit (-1 for none)").short('m'),
        Flag::one(
            "memory-reservation",
            "bytes",
            "256m",
            "Memory to keep to when the host runs short (-1 for none)",
        ),
        Flag::one("memory-swap", "bytes", "1g", "Limit of memory plus swap (-1 for unlimited swap)"),
        Flag::one(
            "net-delay",
            "time",
            "50ms",
            "Hold back everything that the container sends (0 to stop that)",
        ),
        Flag::one("net-loss", "percent", "1%", "Lose some of what the container sends (0% to stop that)"),
        Flag::one(
            "net-rate",
            "rates",
            "in=10mbit,out=2mbit",
            "Bandwidth of the container, each way (0 for any)",
        ),
        Flag::one("pids-limit", "int", "100", "Number of processes allowed (-1 for unlimited)"),
        Flag::many("publish", "8080:80", "Publish these ports, in place of those before ('none' for none)")
            .short('p'),
        Flag::one(
            "restart",
            "string",
            "always",
            "When to start it again (no|on-failure[:max]|always|unless-stopped)",
        ),
    ],
    act: update,
    failed: 1,
};

/// `-p none` alone is no port at all.
fn ports(given: &Given) -> Result<Option<Bindings>> {
    let none = |text: &str| if text == "none" { Ok(Vec::new()) } else { port::publish(text) };
    let lists = given.values("publish", none)?;
    if lists.len() > 1 && lists.iter().any(Vec::is_empty) {
        return Err(Error::new(Kind::Usage, "update: --publish none and a port at once")
            .hint("name all ports that are to be published, or `none`"));
    }
    Ok((!lists.is_empty()).then(|| port::bindings(lists.into_iter().flatten())))
}

fn update(engine: &Engine, given: &Given) -> Result<u8> {
    let rates = given.value("net-rate", bandwidth::rates)?.unwrap_or_default();
    let positive = |long| given.value(long, parse::number(1, i64::MAX));
    let text = |long| given.text(long).filter(|text| !text.is_empty()).map(str::to_owned);
    let weight = given.value("blkio-weight", parse::number(10, 1000))?;
    let update = Update {
        memory: given.value("memory", parse::bytes_or_unlimited)?.filter(|bytes| *bytes != 0),
        memory_swap: given.value("memory-swap", parse::bytes_or_unlimited)?.filter(|bytes| *bytes != 0),
        memory_reservation: given
            .value("memory-reservation", parse::bytes_or_unlimited)?
            .filter(|bytes| *bytes != 0),
        nano_cpus: given.value("cpus", parse::cpus)?.filter(|cpus| *cpus != 0),
        cpu_shares: positive("cpu-shares")?,
        cpu_period: positive("cpu-period")?,
        cpu_quota: given.value("cpu-quota", parse::number(-1, i64::MAX))?.filter(|quota| *quota != 0),
        cpu_rt_period: positive("cpu-rt-period")?,
        cpu_rt_runtime: positive("cpu-rt-runtime")?,
        cpuset_cpus: text("cpuset-cpus"),
        cpuset_mems: text("cpuset-mems"),
        pids_limit: given.value("pids-limit", parse::number(-1, i64::MAX))?.filter(|limit| *limit != 0),
        blkio_weight: weight.and_then(|weight| u16::try_from(weight).ok()),
        restart_policy: given.value("restart", restart_policy)?,
        port_bindings: ports(given)?,
        net_in: rates.incoming,
        net_out: rates.outgoing,
        net_delay: given.value("net-delay", bandwidth::delay)?,
        net_loss: given.value("net-loss", bandwidth::loss)?,
    };
    if update == Update::default() {
        return Err(Error::new(Kind::Usage, "update: nothing to change")
            .hint("name a limit, --memory 512m for instance"));
    }
    Ok(each(&given.words(), |word| {
        engine.update(word, &update)?;
        say(&format!("{word}\n"))
    }))
}
