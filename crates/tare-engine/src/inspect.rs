//! `inspect`: a container in Docker's shape and words, so that scripts written for Docker find what they look
//! for. What Docker does not know stands under `Tare`.

use serde_json::{Value, json};
use tare_sys::{Error, Kind, Result};

use crate::container::{Folders, Record, Roots, State, Status};
use crate::policy::{self, Share};

/// Everything about one container.
pub fn container(roots: &Roots, folders: &Folders) -> Result<Value> {
    let record = folders.record()?;
    let status = folders.status()?.unwrap_or_else(Status::created);
    let (config, host) = (&record.request.config, &record.request.host_config);
    // Docker's word covers those that are paused, and those between two lives.
    let running = !matches!(status.state, State::Created | State::Exited);
    let sharing = policy::sharing(host)?;
    let word = |share: &Share| match share {
        Share::Private => "private".to_owned(),
        Share::Host => "host".to_owned(),
        Share::Container(id) => format!("container:{id}"),
    };
    let json = |value: serde_json::Result<Value>| {
        value.map_err(|err| Error::new(Kind::Corrupt, format!("inspect {}: {err}", record.name)))
    };
    let in_run = |name: &str| folders.run.join(name);
    let mut config_json = json(serde_json::to_value(config))?;
    config_json["Hostname"] = json!(policy::hostname(&record.request, &record.id));
    let mut host_json = json(serde_json::to_value(host))?;
    if sharing.user == Share::Host {
        // Asked for, or implied by --privileged or a namespace of the host: either way it says so.
        host_json["UsernsMode"] = json!("host");
    }
    Ok(json!({
        "Id": record.id,
        "Created": record.created,
        "Path": record.command.first().map_or("", String::as_str),
        "Args": record.command.iter().skip(1).collect::<Vec<_>>(),
        "State": {
            "Status": status.state,
            "Running": running,
            "Paused": status.state == State::Paused,
            "Restarting": status.state == State::Restarting,
            "OOMKilled": status.oom_killed,
            "Dead": false,
            "Pid": status.pid,
            // Docker has no word for "nobody saw it": 255, and the reason beside it.
            "ExitCode": status.exit_code.map_or(255, u32::from),
            "Error": status.error,
            "StartedAt": status.started,
            "FinishedAt": status.finished,
        },
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
        "ExecIDs": null,
        "HostConfig": host_json,
        "GraphDriver": {
            "Name": "overlay",
            "Data": {
                "LowerDir": record.layers.iter().rev()
                    .map(|layer| roots.state.join("images/layers").join(layer).display().to_string())
                    .collect::<Vec<_>>().join(":"),
                "UpperDir": folders.state.join("rw/upper"),
                "WorkDir": folders.state.join("rw/work"),
            },
        },
        "Mounts": mounts(&record),
        "Config": config_json,
        "NetworkSettings": crate::network::settings(roots, &record, running, status.pid)?,
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

fn mounts(record: &Record) -> Vec<Value> {
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
