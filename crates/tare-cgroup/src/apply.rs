//! Writes a plan into a cgroup that exists, and turns a refusal into words.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tare_sys::{Context, Error, Kind, Result, bpf};

use crate::control;
use crate::device;
use crate::hierarchy::{Hierarchies, Version};
use crate::plan::{Plan, Purpose, Setting};

/// Writes everything in `plan` into the cgroup `relative`, in order, and stops at the first refusal.
///
/// `rootless`: without the right to load a device program there is none. Such a caller cannot make device nodes
/// either, and the ones that it is given are the host's choice.
pub(crate) fn apply(
    on: &Hierarchies,
    relative: &str,
    plan: &Plan,
    purpose: Purpose,
    rootless: bool,
) -> Result<()> {
    check_memory(on, relative, plan)?;
    let mut writer = Writer { on, relative, open: None };
    for step in &plan.steps {
        writer.step(step)?;
    }
    match &plan.devices {
        Some(rules) => match enforce(on, relative, rules, purpose) {
            Err(err) if rootless && err.kind() == Kind::Permission => Ok(()),
            enforced => enforced.doing(|| "device rules"),
        },
        None => Ok(()),
    }
}

struct Writer<'a> {
    on: &'a Hierarchies,
    relative: &'a str,
    /// The file of the last write: device rules are many lines for one file, each a write of its own.
    open: Option<(String, OwnedFd)>,
}

impl Writer<'_> {
    fn step(&mut self, step: &[Setting]) -> Result<()> {
        for setting in step {
            match self.setting(setting) {
                Err(err) if err.errno() == Some(Errno::INVAL) && step.len() > 1 => {
                    return step.iter().rev().try_for_each(|setting| self.setting(setting));
                }
                result => result?,
            }
        }
        Ok(())
    }

    fn setting(&mut self, setting: &Setting) -> Result<()> {
        let path = self.path(&setting.file);
        let mut value = setting.value.clone();
        if setting.keep_first_word {
            let now = control::read(self.on.root(), &path).unwrap_or_default();
            value = format!("{} {value}", now.split_ascii_whitespace().next().unwrap_or("max"));
        }
        match (self.write(&path, &value), &setting.instead) {
            (Ok(()), _) => Ok(()),
            (Err(Errno::NOENT), Some((file, value))) => {
                let other = self.path(file);
                self.write(&other, value).map_err(|errno| self.refused(setting, &other, value, errno))
            }
            (Err(Errno::NOENT), None) if setting.optional => Ok(()),
            (Err(errno), _) => Err(self.refused(setting, &path, &value, errno)),
        }
    }

    fn path(&self, file: &str) -> String {
        let controller = file.split('.').next().unwrap_or_default();
        format!("{}/{file}", self.on.dir(controller, self.relative))
    }

    fn write(&mut self, path: &str, value: &str) -> Result<(), Errno> {
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            self.open = Some((path.to_owned(), control::open_write(self.on.root(), path)?));
        }
        self.open.as_ref().map_or(Ok(()), |(_, file)| control::write_fd(file, value))
    }

    fn refused(&self, setting: &Setting, path: &str, value: &str, errno: Errno) -> Error {
        let limit = &setting.limit;
        let shown = self.on.shown(path);
        let what = format!("set {limit} to {}", setting.value);
        let err = match errno {
            Errno::NOENT => {
                Error::syscall(format!("open({shown:?}, O_WRONLY)"), errno).with_kind(Kind::Unsupported)
            }
            Errno::INVAL | Errno::RANGE | Errno::OVERFLOW | Errno::NODEV | Errno::NXIO => {
                Error::syscall(format!("write({shown:?}, {value:?})"), errno).with_kind(Kind::Usage)
            }
            _ => Error::syscall(format!("write({shown:?}, {value:?})"), errno),
        };
        let err = err.context(what);
        match hint(&setting.file, errno) {
            Some(hint) => err.hint(hint),
            None => err,
        }
    }
}

/// What is known about why the kernel refuses a value for a file.
fn hint(file: &str, errno: Errno) -> Option<&'static str> {
    let controller = file.split('.').next().unwrap_or_default();
    Some(match (controller, errno) {
        ("blkio" | "io", Errno::NOENT) if file.contains("weight") => {
            "this kernel has no such weight: block I/O weights need the BFQ scheduler (CONFIG_BFQ_GROUP_IOSCHED; \
             modprobe bfq), leaf weights went with CFQ in Linux 5.0"
        }
        ("memory", Errno::NOENT) if file.contains("sw") => {
            "this kernel does not count swap: boot with swapaccount=1, or run without a swap limit"
        }
        ("hugetlb", Errno::NOENT) => {
            "this machine has no huge pages of that size: see /sys/kernel/mm/hugepages"
        }
        (_, Errno::NOENT) => "this kernel does not offer that limit; it may be too old or built without it",
        (_, Errno::ROFS) => "the cgroup tree is mounted read-only here",
        (_, Errno::ACCESS | Errno::PERM) if controller == "devices" => {
            "a cgroup cannot allow what its parent does not, and only root may change device rules"
        }
        ("memory", Errno::BUSY) => {
            "more than that is in use and cannot be reclaimed: choose a higher limit or stop some of its processes"
        }
        ("memory", Errno::INVAL) if file.contains("limit") => {
            "the memory limit must not be above the memory+swap limit: give both"
        }
        ("cpuset", Errno::INVAL | Errno::RANGE | Errno::ACCESS) => {
            "write a list such as 0-3,7; see /sys/devices/system/cpu/online and /sys/devices/system/node/online \
             for what is there, and the parent cgroup's cpuset for what it may use"
        }
        (_, Errno::ACCESS | Errno::PERM) => {
            "this takes root, or a cgroup that was delegated to you (systemd: Delegate=yes)"
        }
        ("cpuset", Errno::NOSPC) => "a cpuset with processes in it must keep some cpus and memory nodes",
        ("cpu", Errno::INVAL) if file.contains("rt_") => {
            "the parent cgroup has no realtime time to give: write its cpu.rt_runtime_us first"
        }
        ("cpu", Errno::INVAL) => {
            "quota and period are microseconds: period 1000 to 1000000, quota at least 1000 and within the \
             parent's share, burst at most the quota; an idle group takes no shares"
        }
        ("pids", Errno::INVAL) => "a number up to 4194304, or -1 for no limit",
        ("blkio" | "io", Errno::NODEV | Errno::NXIO) => {
            "no such block device: give the whole disk (see lsblk), not a partition"
        }
        ("blkio" | "io", Errno::RANGE | Errno::INVAL) => "a weight is 10 to 1000; a rate is a number above 0",
        ("devices", Errno::INVAL) => {
            "device rules cannot be reset while the container has cgroups of its own"
        }
        _ => return None,
    })
}

/// `checkBeforeUpdate`: rather an error than an OOM kill.
pub(crate) fn check_memory(on: &Hierarchies, relative: &str, plan: &Plan) -> Result<()> {
    let Some(ceiling) = plan.memory_ceiling else {
        return Ok(());
    };
    let file = match on.version() {
        Version::V1 => "memory.usage_in_bytes",
        Version::V2 => "memory.current",
    };
    let path = format!("{}/{file}", on.dir("memory", relative));
    let now = control::read(on.root(), &path).doing(|| format!("read({:?})", on.shown(&path)))?;
    match now.trim().parse::<u64>() {
        Ok(bytes) if bytes > ceiling => Err(Error::new(
            Kind::Conflict,
            format!("set memory limit to {ceiling}: {bytes} bytes are in use"),
        )
        .hint("choose a higher limit or stop some of its processes")),
        _ => Ok(()),
    }
}

/// v2: attaches the device program; on update in the place of the one before, with no gap.
fn enforce(on: &Hierarchies, relative: &str, rules: &[device::Rule], purpose: Purpose) -> Result<()> {
    let open = device::allow_all(rules);
    if open && purpose == Purpose::Create {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cgroup = rustix::fs::openat(on.root(), relative, flags, Mode::empty())
        .doing(|| format!("open({:?}, O_DIRECTORY)", on.shown(relative)))?;
    let before = match purpose {
        Purpose::Create => Vec::new(),
        Purpose::Update => bpf::attached(&cgroup)?,
    };
    if open {
        return before.iter().try_for_each(|program| bpf::prog_detach(&cgroup, program));
    }
    let program = bpf::prog_load(&device::program(rules), c"GPL", "tare_device")?;
    // The last one is replaced; what else is there is taken off, for all of them would have to say yes.
    bpf::prog_attach(&cgroup, &program, before.last())?;
    let others = &before[..before.len().saturating_sub(1)];
    others.iter().try_for_each(|program| bpf::prog_detach(&cgroup, program))
}
