//! Looks at the host: what [`policy`](crate::policy) has to know, and what `info` tells.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::{FileType, major, minor};
use serde_json::{Value, json};
use tare_cgroup::{Hierarchies, Version};
use tare_sys::{Context, Error, Kind, Result, rootless};

use crate::cdi;
use crate::container::{Roots, State};
use crate::list::Summary;
use crate::policy::{self, DeviceFact, Facts, Seccomp};
use crate::request::{CreateRequest, DeviceMapping};

/// Longest seccomp profile that is read, bytes.
const LONGEST_PROFILE: u64 = 4 << 20;

/// Gathers what this request needs to know, and no more: this is on the start path.
pub fn gather(request: &CreateRequest, hierarchies: &Hierarchies) -> Result<Facts> {
    let host = &request.host_config;
    let mut facts = Facts {
        has_pids: has_pids(hierarchies),
        rootless: rootless::is_on(),
        one_id: rootless::has_one_id(),
        has_swap: host.memory > 0 && rustix::system::sysinfo().totalswap > 0,
        thermal: if host.privileged { Vec::new() } else { thermal() },
        ..Facts::default()
    };
    if host.nano_cpus != 0 {
        facts.cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    }
    if !host.timezone.is_empty() {
        facts.zone = Some(zone(&host.timezone)?);
    }
    for mapping in &host.devices {
        devices(mapping, &mut facts.devices)?;
    }
    if host.privileged {
        all_devices(Path::new("/dev"), &mut facts.devices);
    }
    let limits = [
        &host.blkio_device_read_bps,
        &host.blkio_device_write_bps,
        &host.blkio_device_read_iops,
        &host.blkio_device_write_iops,
    ];
    let weighed = host.blkio_weight_device.iter().map(|device| &device.path);
    for path in limits.into_iter().flatten().map(|limit| &limit.path).chain(weighed) {
        let stat = rustix::fs::stat(path.as_str()).doing(|| format!("limit {path}: stat"))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice {
            let numbers = (path.clone(), major(stat.st_rdev).into(), minor(stat.st_rdev).into());
            facts.block_devices.push(numbers);
        }
    }
    if let Seccomp::File(path) = policy::security(host)?.seccomp {
        facts.profile = Some(read_profile(&path)?);
    }
    Ok(facts)
}

/// Adds what the devices that are asked for by name bring; reads nothing where there are none.
pub fn add_cdi(request: &CreateRequest, facts: &mut Facts) -> Result<()> {
    facts.edits = cdi::edits(&request.host_config.device_requests)?;
    for node in &facts.edits.device_nodes {
        let path = node.host_path.as_deref().unwrap_or(&node.path);
        let known = match (node.kind.as_str(), node.major, node.minor) {
            (kind @ ("b" | "c" | "u"), Some(major), Some(minor)) => {
                DeviceFact { block: kind == "b", major, minor, mode: 0o666, ..DeviceFact::default() }
            }
            _ => look_at(path, &node.path).doing(|| "look at a CDI device")?.ok_or_else(|| {
                Error::new(Kind::Usage, format!("CDI device {}: not a device", path.display()))
            })?,
        };
        let fact = DeviceFact {
            path: node.path.clone(),
            major: node.major.unwrap_or(known.major),
            minor: node.minor.unwrap_or(known.minor),
            mode: node.file_mode.map_or(known.mode, |mode| mode & 0o7777),
            uid: node.uid.unwrap_or(known.uid),
            gid: node.gid.unwrap_or(known.gid),
            access: if node.permissions.is_empty() { "rwm".to_owned() } else { node.permissions.clone() },
            ..known
        };
        facts.devices.retain(|other| other.path != fact.path);
        facts.devices.push(fact);
    }
    Ok(())
}

fn has_pids(hierarchies: &Hierarchies) -> bool {
    if rootless::is_on() {
        return tare_cgroup::delegated_to_user(hierarchies).iter().any(|name| name == "pids");
    }
    hierarchies.has("pids")
}

/// The host's file of a time zone.
fn zone(name: &str) -> Result<PathBuf> {
    let path = match name {
        "local" => PathBuf::from("/etc/localtime"),
        name => Path::new("/usr/share/zoneinfo").join(name),
    };
    let plain = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain && path.is_file() {
        return Ok(path);
    }
    Err(Error::new(Kind::Usage, format!("--tz {name}: unknown time zone"))
        .hint("use a name below /usr/share/zoneinfo of this machine, or local"))
}

/// Docker masks the thermal throttle counters of each CPU (GHSA-6fw5-f8r9-fgfm); most virtual machines have
/// none, which the first CPU tells.
fn thermal() -> Vec<String> {
    let path = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
    if !Path::new(&path(0)).exists() {
        return Vec::new();
    }
    (0..).map(path).take_while(|path| Path::new(path).exists()).collect()
}

fn devices(mapping: &DeviceMapping, list: &mut Vec<DeviceFact>) -> Result<()> {
    let path = Path::new(&mapping.path_on_host);
    let what = || format!("--device {}", path.display());
    let fact = look_at(path, Path::new(&mapping.path_in_container)).doing(what)?;
    match fact {
        Some(fact) => list.push(DeviceFact { access: mapping.cgroup_permissions.clone(), ..fact }),
        None if path.is_dir() => all_devices(path, list),
        None => {
            return Err(Error::new(Kind::Usage, format!("{}: not a device", what()))
                .hint("name a device node, such as /dev/fuse, or a folder of them"));
        }
    }
    Ok(())
}

/// Every device below a folder; those that vanish meanwhile are left out.
fn all_devices(folder: &Path, list: &mut Vec<DeviceFact>) {
    // The container has its own of these.
    const OWN: [&str; 5] = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console"];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if OWN.iter().any(|own| path == Path::new(own)) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all_devices(&path, list),
            Ok(_) => list.extend(look_at(&path, &path).ok().flatten()),
            Err(_) => {}
        }
    }
}

fn look_at(path: &Path, inside: &Path) -> Result<Option<DeviceFact>> {
    let stat = rustix::fs::stat(path).doing(|| format!("stat({path:?})"))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::BlockDevice | FileType::CharacterDevice) {
        return Ok(None);
    }
    Ok(Some(DeviceFact {
        path: if inside.as_os_str().is_empty() { path.to_owned() } else { inside.to_owned() },
        block: kind == FileType::BlockDevice,
        major: major(stat.st_rdev).into(),
        minor: minor(stat.st_rdev).into(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        access: "rwm".to_owned(),
    }))
}

fn read_profile(path: &str) -> Result<LinuxSeccomp> {
    let what = || format!("read the seccomp profile {path}");
    let size = fs::metadata(path).doing(what)?.len();
    if size > LONGEST_PROFILE {
        return Err(Error::new(Kind::Usage, format!("{}: {size} bytes are too many", what())));
    }
    let text = fs::read(path).doing(what)?;
    serde_json::from_slice(&text).map_err(|err| {
        Error::new(Kind::Usage, format!("{}: {err}", what()))
            .hint("the profile has the form of linux.seccomp in an OCI config.json")
    })
}

/// `info`, in Docker's words where Docker has one.
pub fn info(roots: &Roots, containers: &[Summary], images: usize) -> Value {
    let uname = rustix::system::uname();
    let text = |value: &std::ffi::CStr| value.to_string_lossy().into_owned();
    let running = containers.iter().filter(|container| container.state == State::Running.to_string()).count();
    let (version, mut warnings) = match Hierarchies::discover() {
        Ok(hierarchies) => {
            let missing: Vec<String> = ["memory", "cpu", "cpuset", "pids", "io"]
                .iter()
                .filter(|controller| !hierarchies.has(controller))
                .map(|controller| format!("no cgroup controller {controller}: its limits are refused"))
                .collect();
            (if hierarchies.version() == Version::V2 { "2" } else { "1" }, missing)
        }
        Err(err) => ("none", vec![err.to_string()]),
    };
    warnings.extend(crate::machine::obstacle(&roots.run));
    if rootless::has_one_id() {
        warnings.push("no subordinate ids (/etc/subuid, /etc/subgid): containers have one id".to_owned());
    }
    if !can_raise_limits() {
        warnings
            .push("no CAP_SYS_RESOURCE: raised limits (--ulimit, --oom-score-adj) are clamped".to_owned());
    }
    let devices = cdi::Registry::read();
    warnings.extend(devices.errors.iter().map(ToString::to_string));
    let discovered: Vec<_> =
        devices.names().iter().map(|name| json!({ "Source": "cdi", "ID": name })).collect();
    json!({
        "CDISpecDirs": cdi::folders(),
        "DiscoveredDevices": discovered,
        "Containers": containers.len(),
        "ContainersRunning": running,
        "ContainersPaused": 0,
        "ContainersStopped": containers.len() - running,
        "Images": images,
        "Driver": "overlay",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": version,
        "KernelVersion": text(uname.release()),
        "OperatingSystem": operating_system(),
        "OSType": "linux",
        "Architecture": text(uname.machine()),
        "NCPU": std::thread::available_parallelism().map_or(0, |n| n.get()),
        "MemTotal": rustix::system::sysinfo().totalram,
        "DockerRootDir": roots.state,
        "RunRoot": roots.run,
        "Name": text(uname.nodename()),
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "SecurityOptions": security_options(),
        "Warnings": warnings,
    })
}

fn security_options() -> Vec<&'static str> {
    let mut options = vec!["name=seccomp,profile=builtin", "name=userns", "name=cgroupns", "name=timens"];
    options.extend(rootless::is_on().then_some("name=rootless"));
    options
}

fn can_raise_limits() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_RESOURCE))
}

fn operating_system() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The folders where everything is kept unless the caller says otherwise.
pub fn default_roots() -> Roots {
    if rootless::is_on() || rootless::is_outside() {
        return crate::machine::default_roots();
    }
    Roots { state: PathBuf::from("/var/lib/tare"), run: PathBuf::from("/run/tare") }
}
