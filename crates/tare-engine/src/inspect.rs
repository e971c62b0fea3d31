//! `inspect`: a container in Docker's shape and words, so that scripts written for Docker find what they look
//! for. What Docker does not know stands under `Tare`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tare_sys::{Error, Kind, Result};

use crate::container::{Folders, Record, Roots, State, Status};
use crate::health::Health;
use crate::policy::{self, Share};

/// Everything about one container.
pub fn container(roots: &Roots, folders: &Folders) -> Result<Value> {
    let record = folders.record()?;
    let status = folders.status()?.unwrap_or_else(Status::created);
    let sharing = policy::sharing(&record.request.host_config)?;
    let word = |share: &Share| match share {
        Share::Private => "private".to_owned(),
        Share::Host => "host".to_owned(),
        Share::Container(id) => format!("container:{id}"),
    };
    let execs = if status.runs() { crate::exec::running(&record) } else { Vec::new() };
    let execs = (!execs.is_empty()).then_some(execs);
    let in_run = |name: &str| folders.run.join(name);
    Ok(json!({
        "Id": record.id,
        "Created": record.created,
        "Path": record.command.first().map_or("", String::as_str),
        "Args": record.command.iter().skip(1).collect::<Vec<_>>(),
        "State": state(&status, Health::of(folders, &record)),
        "Image": record.image_id,
        "ResolvConfPath": in_run("resolv.conf"),
        "HostnamePath": in_run("hostname"),
        "HostsPath": in_run("hosts"),
        "LogPath": folders.log(),
        "Name": format!("/{}", record.name),
        "RestartCount": status.restart_count,
        "Driver": "overlay",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": execs,
        "HostConfig": host_config(roots, &record, &sharing)?,
        "GraphDriver": {
            "Name": "overlay",
            "Data": {
                "LowerDir": record.layers.iter().rev()
                    .map(|layer| roots.state.join("images/layers").join(layer).display().to_string())
                    .collect::<Vec<_>>().join(":"),
                // It is mounted where only the container sees it; by way of its process so does the host.
                "MergedDir": if status.runs() { format!("/proc/{}/root", status.pid) } else { String::new() },
                "UpperDir": folders.state.join("rw/upper"),
                "WorkDir": folders.state.join("rw/work"),
            },
        },
        "Mounts": mounts(&record),
        "Config": config(&record)?,
        "NetworkSettings": network_settings(roots, &record, &status)?,
        "Tare": {
            "Namespaces": {
                "User": word(&sharing.user),
                "Pid": word(&sharing.pid),
                "Ipc": word(&sharing.ipc),
                "Uts": word(&sharing.uts),
                "Network": word(&sharing.network),
                "Cgroup": word(&sharing.cgroup),
                "Time": word(&sharing.time),
            },
            "IdRange": status.base.map(|base| json!({ "First": base, "Size": crate::range::SIZE })),
            "Cgroup": record.cgroup,
        },
    }))
}

fn state(status: &Status, health: Option<Health>) -> Value {
    json!({
        "Status": status.state,
        // Docker's word covers those that are paused, and those between two lives.
        "Running": !matches!(status.state, State::Created | State::Exited),
        "Paused": status.state == State::Paused,
        "Restarting": status.state == State::Restarting,
        "OOMKilled": status.oom_killed,
        "Dead": false,
        "Pid": status.pid,
        // Docker has no word for "nobody saw it": 255, and the reason beside it.
        "ExitCode": status.exit_code.map_or(255, u32::from),
        "Error": match status.error.split_once("\nhint: ").map_or(status.error.as_str(), |(error, _)| error) {
            "" => crate::why::short(status).unwrap_or_default(),
            error => error,
        },
        "StartedAt": status.started,
        "FinishedAt": status.finished,
        "Health": health,
    })
}

/// Lists that Docker shows as `null` where there is nothing in them.
const NULL_LISTS: [&str; 10] = [
    "Binds",
    "CapAdd",
    "CapDrop",
    "DeviceCgroupRules",
    "DeviceRequests",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "SecurityOpt",
    "VolumesFrom",
];

/// What was asked for, over what Docker shows where nothing was.
fn host_config(roots: &Roots, record: &Record, sharing: &policy::Sharing) -> Result<Value> {
    let host = &record.request.host_config;
    let mut shown = match json!({
        "Annotations": {}, "BlkioWeightDevice": [], "Cgroup": "", "ConsoleSize": [0, 0], "CpuCount": 0,
        "CpuPercent": 0, "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "DeviceRequests": null,
        "IOMaximumBandwidth": 0, "IOMaximumIOps": 0, "Isolation": "", "Links": null, "MaskedPaths": null, "PortBindings": {},
        "PublishAllPorts": false, "ReadonlyPaths": null, "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 }, "Runtime": "tare",
        "StorageOpt": {}, "VolumeDriver": "", "VolumesFrom": null,
    }) {
        Value::Object(defaults) => defaults,
        _ => Map::new(),
    };
    shown.extend(object(host, record)?);
    shown.insert("Links".to_owned(), json!(crate::links::shown(roots, record)));
    for name in NULL_LISTS {
        if shown.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            shown.insert(name.to_owned(), Value::Null);
        }
    }
    for (name, word) in [("CgroupnsMode", "private"), ("IpcMode", "private"), ("NetworkMode", "bridge")] {
        if shown.get(name) == Some(&json!("")) {
            shown.insert(name.to_owned(), json!(word));
        }
    }
    if host.shm_size == 0 {
        shown.insert("ShmSize".to_owned(), json!(64 << 20));
    }
    if !host.privileged {
        let secure = policy::security(host)?;
        shown.insert("MaskedPaths".to_owned(), json!(secure.masked(&[])));
        shown.insert("ReadonlyPaths".to_owned(), json!(secure.read_only()));
    }
    if sharing.user == Share::Host {
        // Asked for, or implied by --privileged or a namespace of the host: either way it says so.
        shown.insert("UsernsMode".to_owned(), json!("host"));
    }
    for (part, field, word) in [("LogConfig", "Type", "json-file"), ("RestartPolicy", "Name", "no")] {
        if let Some(part) = shown.get_mut(part)
            && part[field] == ""
        {
            part[field] = json!(word);
        }
    }
    Ok(Value::Object(shown))
}

/// What runs: the request over the image, as Docker merges them.
fn config(record: &Record) -> Result<Value> {
    let (config, image) = (&record.request.config, &record.image);
    let mut shown = object(config, record)?;
    let mut set = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    set("Hostname", json!(policy::hostname(&record.request, &record.id)));
    set("Env", json!(environment(&image.env, &config.env)));
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let own_entrypoint = config.entrypoint.is_some();
    set("Entrypoint", json!(config.entrypoint.clone().or_else(|| list(&image.entrypoint))));
    let image_cmd = if own_entrypoint { None } else { list(&image.cmd) };
    set("Cmd", json!(config.cmd.clone().filter(|cmd| !cmd.is_empty()).or(image_cmd)));
    let either = |own: &str, image: &str| json!(if own.is_empty() { image } else { own });
    set("User", either(&config.user, &image.user));
    set("WorkingDir", either(&config.working_dir, &image.working_dir));
    set("Labels", json!(record.labels()));
    set("OnBuild", Value::Null);
    if let Some(check) = crate::health::merged(config, image) {
        set("Healthcheck", json!(check));
    }
    set("StdinOnce", json!(config.open_stdin && config.attach_stdin));
    set("StopSignal", either(config.stop_signal.as_deref().unwrap_or_default(), &image.stop_signal));
    let keys =
        |keys: &mut dyn Iterator<Item = &String>| Value::from_iter(keys.map(|key| (key.clone(), json!({}))));
    for (name, of_image) in [("ExposedPorts", &image.exposed_ports), ("Volumes", &image.volumes)] {
        let mut all = shown.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        if let Value::Object(of_image) = keys(&mut of_image.iter()) {
            all.extend(of_image);
        }
        let value = if all.is_empty() && name == "Volumes" { Value::Null } else { Value::Object(all) };
        shown.insert(name.to_owned(), value);
    }
    Ok(Value::Object(shown))
}

/// A variable of the request takes the place of the image's of the same name; a bare name takes it away.
pub(crate) fn environment(image: &[String], own: &[String]) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    for pair in image.iter().chain(own) {
        let key = pair.split('=').next().unwrap_or_default();
        env.retain(|known| known.split('=').next() != Some(key));
        if pair.contains('=') {
            env.push(pair.clone());
        }
    }
    env
}

/// What is known of its networks, over the fields that clients of any age look for.
fn network_settings(roots: &Roots, record: &Record, status: &Status) -> Result<Value> {
    let mut settings = json!({
        "Bridge": "", "EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "HairpinMode": false, "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0, "MacAddress": "", "SandboxID": record.id, "SandboxKey": "",
        "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null, "Networks": {}, "Ports": {},
    });
    let known = crate::network::shape::settings(roots, record, status.runs(), status.pid)?;
    for (name, value) in known.as_object().into_iter().flatten() {
        settings[name] = value.clone();
    }
    Ok(settings)
}

fn object(value: &impl serde::Serialize, record: &Record) -> Result<Map<String, Value>> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Ok(Map::new()),
        Err(err) => Err(Error::new(Kind::Corrupt, format!("inspect {}: {err}", record.name))),
    }
}

impl Record {
    /// Labels of the container, over those of its image.
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.image.labels.clone();
        labels.extend(self.request.config.labels.clone());
        labels
    }
}

pub(crate) fn mounts(record: &Record) -> Vec<Value> {
    let points = policy::mount_points(&record.request, &record.mounts);
    let points = points.iter().map(|point| {
        let mut value = json!({
            "Type": point.kind, "Source": point.source, "Destination": point.destination, "Mode": point.mode,
            "RW": point.rw, "Propagation": point.propagation,
        });
        if point.kind == "volume" {
            value["Name"] = json!(point.name);
            value["Driver"] = json!(point.driver);
        }
        value
    });
    let host = &record.request.host_config;
    let tmpfs = host.mounts.iter().filter(|mount| mount.kind == "tmpfs").map(|mount| {
        json!({ "Type": "tmpfs", "Source": "", "Destination": mount.target, "Mode": "", "RW": !mount.read_only,
            "Propagation": "" })
    });
    points.chain(tmpfs).collect()
}
