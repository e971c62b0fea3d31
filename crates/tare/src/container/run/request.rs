//! From what was given on the command line to what the engine is asked for.

use std::collections::BTreeMap;
use std::path::Path;

use tare_engine::request::{
    Config, CreateRequest, DeviceMapping, DeviceRequest, Empty, EndpointSettings, Healthcheck, HostConfig,
    LogConfig, NetworkLimits, NetworkingConfig, RestartPolicy, TimeOffsets,
};
use tare_sys::{Context, Error, Kind, Result};

use crate::words::flag::Given;
use crate::words::parse::{self, Parsed, bandwidth, clock, device, file, mount, network, port};

const NAMESPACES: &[&str] = &["private", "host"];
const ANY: i64 = i64::MAX;

/// The request that the options and the words after them make.
pub fn request(given: &Given) -> Result<CreateRequest> {
    let request = CreateRequest {
        name: owned(given, "name"),
        platform: owned(given, "platform"),
        config: config(given)?,
        host_config: HostConfig {
            rootfs: rootfs(given)?,
            ..limits(given, isolation(given, host_config(given)?)?)?
        },
        networking_config: networking(given)?,
    };
    contradictions(&request)?;
    refusals(given)?;
    Ok(request)
}

fn owned(given: &Given, long: &str) -> String {
    given.text(long).unwrap_or_default().to_owned()
}

/// What runs.
fn config(given: &Given) -> Result<Config> {
    let words = given.strings_after(usize::from(given.text("rootfs").is_none()));
    let attach = attached(given)?;
    let attached = |stream: &str| attach.iter().any(|name| name == stream);
    Ok(Config {
        hostname: owned(given, "hostname"),
        domainname: owned(given, "domainname"),
        user: owned(given, "user"),
        attach_stdin: attached("stdin"),
        attach_stdout: attached("stdout"),
        attach_stderr: attached("stderr"),
        tty: given.on("tty")?,
        open_stdin: given.on("interactive")?,
        env: environment(given)?,
        cmd: (!words.is_empty()).then_some(words),
        image: match given.text("rootfs") {
            Some(_) => String::new(),
            None => given.words().first().copied().unwrap_or_default().to_owned(),
        },
        working_dir: given.value("workdir", parse::absolute)?.unwrap_or_default(),
        entrypoint: given.text("entrypoint").map(|path| match path {
            "" => Vec::new(),
            path => vec![path.to_owned()],
        }),
        volumes: volumes(given)?.1,
        exposed_ports: exposed_ports(given)?,
        labels: labels(given)?,
        stop_signal: given.value("stop-signal", signal)?,
        stop_timeout: given
            .value("stop-timeout", parse::number(0, i64::from(u32::MAX)))?
            .map(|seconds| seconds as u32),
        healthcheck: healthcheck(given)?,
        healthcheck_on_failure_action: given.value("health-on-failure", health_action)?.unwrap_or_default(),
    })
}

/// What is said of its health check, if anything is.
fn healthcheck(given: &Given) -> Result<Option<Healthcheck>> {
    let time = |long| Ok(given.value(long, health_time)?.unwrap_or_default());
    let own = Healthcheck {
        test: given
            .text("health-cmd")
            .filter(|command| !command.is_empty())
            .map_or_else(Vec::new, |command| vec!["CMD-SHELL".to_owned(), command.to_owned()]),
        interval: time("health-interval")?,
        timeout: time("health-timeout")?,
        start_period: time("health-start-period")?,
        start_interval: time("health-start-interval")?,
        retries: given.value("health-retries", parse::number(0, i64::from(i32::MAX)))?.unwrap_or_default(),
    };
    match (given.on("no-healthcheck")?, own != Healthcheck::default()) {
        (true, true) => Err(Error::new(Kind::Option, "--no-healthcheck conflicts with --health-* options")),
        (true, false) => Ok(Some(Healthcheck { test: vec!["NONE".to_owned()], ..own })),
        (false, said) => Ok(said.then_some(own)),
    }
}

/// Nanoseconds: none, or a millisecond at least.
fn health_time(text: &str) -> Parsed<i64> {
    match clock::duration(text)? {
        ..=-1 => Err("it cannot be negative".to_owned()),
        1..=999_999 => Err("it cannot be less than 1ms".to_owned()),
        time => Ok(time),
    }
}

fn health_action(text: &str) -> Parsed<String> {
    match text {
        "none" | "kill" | "restart" | "stop" => Ok(text.to_owned()),
        _ => Err("it is none, kill, restart or stop".to_owned()),
    }
}

/// The streams to attach: all, unless some are named or it runs in the background.
fn attached(given: &Given) -> Result<Vec<String>> {
    let named = given.values("attach", parse::stream)?;
    let interactive = given.on("interactive")?;
    match (named.is_empty(), given.on("detach")?) {
        (true, true) => Ok(Vec::new()),
        (false, true) => Err(Error::new(Kind::Usage, "--attach and --detach contradict each other")
            .hint("leave out --detach to see the output, or --attach to run in the background")),
        (true, false) => {
            let streams = ["stdout", "stderr"].into_iter().chain(interactive.then_some("stdin"));
            Ok(streams.map(str::to_owned).collect())
        }
        (false, false) if named.contains(&"stdin".to_owned()) && !interactive => {
            Err(given.wrong("attach", "stdin", "there is no stdin to attach to without --interactive"))
        }
        (false, false) => Ok(named),
    }
}

/// Files first, so that an option on the line overrides a line in a file.
pub fn environment(given: &Given) -> Result<Vec<String>> {
    let caller = |name: &str| std::env::var(name).ok();
    let mut variables = Vec::new();
    for path in given.texts("env-file") {
        variables.extend(read(given, "env-file", path, |text| file::variables(text, caller))?);
    }
    variables.extend(given.values("env", parse::variable(caller))?);
    Ok(variables)
}

/// What `--volume` mounts, and where it wants new volumes.
fn volumes(given: &Given) -> Result<(Vec<String>, BTreeMap<String, Empty>)> {
    let (mut binds, mut anonymous) = (Vec::new(), BTreeMap::new());
    for volume in given.values("volume", mount::volume)? {
        match volume {
            mount::Volume::Bind(bind) => binds.push(bind),
            mount::Volume::Anonymous(target) => drop(anonymous.insert(target, Empty {})),
        }
    }
    Ok((binds, anonymous))
}

fn labels(given: &Given) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for path in given.texts("label-file") {
        labels.extend(read(given, "label-file", path, file::labels)?);
    }
    labels.extend(given.values("label", parse::label)?);
    Ok(labels)
}

/// Reads and parses a file that an option names.
fn read<T>(given: &Given, long: &str, path: &str, parse: impl Fn(&[u8]) -> Parsed<T>) -> Result<T> {
    let text = std::fs::read(path).doing(|| format!("--{long}: read {path}"))?;
    parse(&text).map_err(|why| given.wrong(long, path, &why))
}

fn signal(text: &str) -> Parsed<String> {
    match tare_engine::signal_number(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("there is no such signal".to_owned()),
    }
}

/// Files, folders, names and addresses.
fn host_config(given: &Given) -> Result<HostConfig> {
    let (paths, requests) = devices(given)?;
    Ok(HostConfig {
        binds: volumes(given)?.0,
        volumes_from: given.strings("volumes-from"),
        volume_driver: owned(given, "volume-driver"),
        storage_opt: given.values("storage-opt", parse::pair("option"))?.into_iter().collect(),
        annotations: given.values("annotation", parse::pair("annotation"))?.into_iter().collect(),
        runtime: owned(given, "runtime"),
        umask: owned(given, "umask"),
        timezone: owned(given, "tz"),
        mounts: given.values("mount", mount::mount)?,
        tmpfs: given.values("tmpfs", mount::tmpfs)?.into_iter().collect(),
        container_id_file: owned(given, "cidfile"),
        cgroup_parent: owned(given, "cgroup-parent"),
        auto_remove: given.on("rm")?,
        log_config: LogConfig {
            kind: owned(given, "log-driver"),
            config: given.values("log-opt", parse::pair("option"))?.into_iter().collect(),
        },
        restart_policy: given.value("restart", restart_policy)?.unwrap_or_default(),
        group_add: given.strings("group-add"),
        dns: given.values("dns", parse::ip)?,
        dns_options: given.strings("dns-option"),
        dns_search: given.strings("dns-search"),
        extra_hosts: given.values("add-host", parse::extra_host)?,
        readonly_rootfs: given.on("read-only")?,
        init: given.on("init")?,
        shm_size: given.value("shm-size", parse::bytes)?.unwrap_or_default(),
        devices: paths,
        links: given.values("link", network::link)?,
        device_requests: requests,
        ..HostConfig::default()
    })
}

/// Devices by path, and those by name: of `--device` and of `--gpus`.
fn devices(given: &Given) -> Result<(Vec<DeviceMapping>, Vec<DeviceRequest>)> {
    let (mut paths, mut names) = (Vec::new(), Vec::new());
    for text in given.texts("device") {
        match tare_engine::is_cdi_name(text) {
            true => names.push(text.to_owned()),
            false => {
                paths.push(device::device(text).map_err(|why| given.wrong("device", text, &why))?);
            }
        }
    }
    let mut requests = Vec::new();
    if !names.is_empty() {
        requests.push(DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: names,
            ..DeviceRequest::default()
        });
    }
    requests.extend(given.value("gpus", device::gpus)?);
    Ok((paths, requests))
}

/// `no`, `always`, `unless-stopped`, `on-failure[:MAX]`.
pub fn restart_policy(text: &str) -> Parsed<RestartPolicy> {
    let (name, most) = text.split_once(':').map_or((text, None), |(name, most)| (name, Some(most)));
    let maximum_retry_count = match most {
        None => 0,
        Some(_) if name != "on-failure" => return Err("a maximum goes with on-failure only".to_owned()),
        Some(most) => parse::number(0, i64::from(i32::MAX))(most)?,
    };
    match name {
        "" | "no" | "on-failure" | "always" | "unless-stopped" => {
            Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count })
        }
        _ => Err("it is no, on-failure[:max], always or unless-stopped".to_owned()),
    }
}

/// Namespaces and what weakens or strengthens the wall.
fn isolation(given: &Given, host_config: HostConfig) -> Result<HostConfig> {
    let mode = |long, words, joins| Ok(given.value(long, parse::mode(words, joins))?.unwrap_or_default());
    Ok(HostConfig {
        network_mode: networks(given)?.into_iter().next().map_or_else(String::new, |(name, _)| name),
        port_bindings: port_bindings(given)?,
        publish_all_ports: given.on("publish-all")?,
        pid_mode: mode("pid", NAMESPACES, true)?,
        ipc_mode: mode("ipc", &["none", "private", "shareable", "host"], true)?,
        uts_mode: mode("uts", NAMESPACES, false)?,
        userns_mode: mode("userns", &["private", "auto", "host"], true)?,
        cgroupns_mode: mode("cgroupns", NAMESPACES, false)?,
        time_offsets: time_offsets(given)?,
        cap_add: given.strings("cap-add"),
        cap_drop: given.strings("cap-drop"),
        privileged: given.on("privileged")?,
        security_opt: given
            .texts("security-opt")
            .into_iter()
            .map(|text| security_opt(given, text))
            .collect::<Result<_>>()?,
        sysctls: given.values("sysctl", parse::pair("sysctl"))?.into_iter().collect(),
        device_cgroup_rules: given.values("device-cgroup-rule", device::rule)?,
        ..host_config
    })
}

fn networks(given: &Given) -> Result<Vec<(String, EndpointSettings)>> {
    given.values("network", network::network)
}

/// What is wanted on each network. The options without a network's name are for the first one.
fn networking(given: &Given) -> Result<NetworkingConfig> {
    let mut networks = networks(given)?;
    let aliases = given.strings("network-alias");
    let (ip, ip6) = (given.value("ip", parse::ip)?, given.value("ip6", parse::ip)?);
    let mac = given.text("mac-address");
    if !aliases.is_empty() || ip.is_some() || ip6.is_some() || mac.is_some() {
        if networks.is_empty() {
            networks.push(("default".to_owned(), EndpointSettings::default()));
        }
        let settings = &mut networks[0].1;
        if !aliases.is_empty() {
            settings.aliases.get_or_insert_default().extend(aliases);
        }
        if let Some(ip) = ip {
            settings.ipam_config.get_or_insert_default().ipv4_address = ip;
        }
        if let Some(ip) = ip6 {
            settings.ipam_config.get_or_insert_default().ipv6_address = ip;
        }
        if let Some(mac) = mac {
            settings.mac_address = mac.to_owned();
        }
    }
    let mut endpoints_config = BTreeMap::new();
    let many = networks.len() > 1;
    for (at, (name, settings)) in networks.into_iter().enumerate() {
        let shared = ["host", "none", "private"].contains(&name.as_str()) || name.starts_with("container:");
        if shared && many {
            return Err(Error::new(Kind::Usage, format!("--network {name} together with other networks"))
                .hint("leave out one of the two"));
        }
        // The first one's name alone is the mode already.
        if at > 0 || settings != EndpointSettings::default() {
            endpoints_config.insert(name, settings);
        }
    }
    Ok(NetworkingConfig { endpoints_config })
}

fn port_bindings(given: &Given) -> Result<port::Bindings> {
    Ok(port::bindings(given.values("publish", port::publish)?.into_iter().flatten()))
}

/// What is published is exposed as well.
fn exposed_ports(given: &Given) -> Result<BTreeMap<String, Empty>> {
    let exposed = given.values("expose", port::expose)?.into_iter().flatten();
    let published = given.values("publish", port::publish)?.into_iter().flatten().map(|(port, _)| port);
    Ok(exposed.chain(published).map(|port| (port, Empty {})).collect())
}

/// Each clock as it was last given.
fn time_offsets(given: &Given) -> Result<TimeOffsets> {
    let all = given.values("time-offset", clock::offsets)?;
    let last = |get: fn(&clock::Offsets) -> Option<i64>| all.iter().rev().find_map(get).unwrap_or_default();
    Ok(TimeOffsets {
        monotonic: last(|offsets| offsets.monotonic),
        boottime: last(|offsets| offsets.boottime),
    })
}

/// `NAME[=VALUE]` (or the older `NAME:VALUE`). Of a seccomp profile the text goes on, not the path: the engine
/// may be somewhere else when it needs it.
fn security_opt(given: &Given, text: &str) -> Result<String> {
    let Some((name, value)) = text.split_once('=').or_else(|| text.split_once(':')) else {
        return Ok(text.to_owned());
    };
    if name != "seccomp" || ["unconfined", "builtin"].contains(&value) {
        return Ok(format!("{name}={value}"));
    }
    let profile: serde_json::Value = read(given, "security-opt", value, |profile| {
        serde_json::from_slice(profile).map_err(|err| format!("it is not a seccomp profile: {err}"))
    })?;
    Ok(format!("seccomp={profile}"))
}

/// Limits on what it may use.
fn limits(given: &Given, host_config: HostConfig) -> Result<HostConfig> {
    let size = |long| Ok(given.value(long, parse::bytes)?.unwrap_or_default());
    let count = |long| Ok(given.value(long, parse::number(0, ANY))?.unwrap_or_default());
    let ulimits =
        given.values("ulimit", device::ulimit)?.into_iter().map(|limit| (limit.name.clone(), limit));
    Ok(HostConfig {
        oom_score_adj: given.value("oom-score-adj", parse::number(-1000, 1000))?.unwrap_or_default() as i32,
        // Of a limit given twice the last counts.
        ulimits: ulimits.collect::<BTreeMap<_, _>>().into_values().collect(),
        memory: size("memory")?,
        memory_swap: given.value("memory-swap", parse::bytes_or_unlimited)?.unwrap_or_default(),
        memory_reservation: size("memory-reservation")?,
        memory_swappiness: given
            .value("memory-swappiness", parse::number(-1, 100))?
            .filter(|value| *value >= 0),
        oom_kill_disable: given.on("oom-kill-disable")?,
        nano_cpus: given.value("cpus", parse::cpus)?.unwrap_or_default(),
        cpu_shares: count("cpu-shares")?,
        cpu_period: count("cpu-period")?,
        cpu_quota: given.value("cpu-quota", parse::number(-1, ANY))?.unwrap_or_default(),
        cpu_rt_period: count("cpu-rt-period")?,
        cpu_rt_runtime: count("cpu-rt-runtime")?,
        cpuset_cpus: owned(given, "cpuset-cpus"),
        cpuset_mems: owned(given, "cpuset-mems"),
        pids_limit: given.value("pids-limit", parse::number(-1, ANY))?,
        network_limits: network_limits(given)?,
        blkio_weight: given.value("blkio-weight", blkio_weight)?.unwrap_or_default(),
        blkio_weight_device: given.values("blkio-weight-device", device::weight)?,
        blkio_device_read_bps: given.values("device-read-bps", device::byte_rate)?,
        blkio_device_write_bps: given.values("device-write-bps", device::byte_rate)?,
        blkio_device_read_iops: given.values("device-read-iops", device::operation_rate)?,
        blkio_device_write_iops: given.values("device-write-iops", device::operation_rate)?,
        ..host_config
    })
}

fn network_limits(given: &Given) -> Result<NetworkLimits> {
    let rates = given.value("net-rate", bandwidth::rates)?.unwrap_or_default();
    Ok(NetworkLimits {
        incoming: rates.incoming.unwrap_or_default(),
        outgoing: rates.outgoing.unwrap_or_default(),
        delay: given.value("net-delay", bandwidth::delay)?.unwrap_or_default(),
        loss: given.value("net-loss", bandwidth::loss)?.unwrap_or_default(),
    })
}

fn blkio_weight(text: &str) -> Parsed<u16> {
    match parse::number(0, 1000)(text)? {
        weight @ (0 | 10..=1000) => Ok(weight as u16),
        _ => Err("it must be from 10 to 1000, or 0".to_owned()),
    }
}

/// An absolute path to the folder that is to be `/`.
fn rootfs(given: &Given) -> Result<String> {
    let absolute = |text: &str| {
        let path = std::path::absolute(Path::new(text)).map_err(|err| err.to_string())?;
        path.into_os_string().into_string().map_err(|path| format!("{path:?} is not UTF-8"))
    };
    Ok(given.value("rootfs", absolute)?.unwrap_or_default())
}

/// What Docker knows and this engine does not do; what is harmless to pass over is.
fn refusals(given: &Given) -> Result<()> {
    if given.on("use-api-socket")? {
        return Err(Error::new(
            Kind::Unsupported,
            "--use-api-socket: there is no API whose socket it could get",
        )
        .hint(
            "mount the socket of an engine that has one: --volume /var/run/docker.sock:/var/run/docker.sock",
        ));
    }
    if !given.texts("link-local-ip").is_empty() {
        return Err(Error::new(Kind::Unsupported, "--link-local-ip is not supported")
            .hint("--ip and --ip6 give it an address of its network"));
    }
    if let Some(text) = given.text("isolation").filter(|text| !["", "default"].contains(text)) {
        return Err(given.wrong("isolation", text, "there is only default on Linux"));
    }
    if given.value("kernel-memory", parse::bytes_or_unlimited)?.is_some() {
        crate::print::failure::warn("--kernel-memory is ignored: Linux 5.16 took the limit away");
    }
    given.on("disable-content-trust").map(drop)
}

/// Options that are fine one by one, but not together.
fn contradictions(request: &CreateRequest) -> Result<()> {
    let host = &request.host_config;
    if host.nano_cpus != 0 && (host.cpu_period != 0 || host.cpu_quota != 0) {
        return Err(Error::new(
            Kind::Usage,
            "--cpus contradicts --cpu-period and --cpu-quota: they set the same limit",
        )
        .hint("--cpus 1.5 is the same as --cpu-period 100000 --cpu-quota 150000"));
    }
    if host.auto_remove && !["", "no"].contains(&host.restart_policy.name.as_str()) {
        return Err(Error::new(Kind::Option, "conflicting options: cannot specify both --restart and --rm"));
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return Err(Error::new(
            Kind::Usage,
            "--memory-swap is less than --memory: it is the sum of memory and swap",
        )
        .hint("give the same value to both for no swap at all"));
    }
    if host.memory > 0 && host.memory_reservation > host.memory {
        return Err(Error::new(Kind::Usage, "--memory-reservation is more than --memory")
            .hint("the reservation is the softer limit: it must be the smaller one"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
