//! What is shared with whom.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType};
use tare_sys::{Error, Kind, Result};

use super::{Facts, spec_error};
use crate::request::HostConfig;

/// With whom one namespace is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// Nobody.
    Private,
    /// The host.
    Host,
    /// Another container.
    Container(String),
}

/// With whom each namespace is shared.
#[derive(Clone, Debug)]
pub struct Sharing {
    /// User and group ids.
    pub user: Share,
    /// Process ids.
    pub pid: Share,
    /// IPC.
    pub ipc: Share,
    /// Host name.
    pub uts: Share,
    /// Network.
    pub network: Share,
    /// Cgroups.
    pub cgroup: Share,
    /// Clocks.
    pub time: Share,
    /// `--ipc=none`: private, without a /dev/shm.
    pub no_shm: bool,
}

fn parse(flag: &str, value: &str, private: &[&str]) -> Result<Share> {
    match value {
        "host" => Ok(Share::Host),
        value if private.contains(&value) => Ok(Share::Private),
        value => match value.strip_prefix("container:") {
            Some(id) if !id.is_empty() => Ok(Share::Container(id.to_owned())),
            _ => Err(Error::new(Kind::Usage, format!("--{flag} {value}: not a mode"))
                .hint(format!("use host, private or container:NAME for --{flag}"))),
        },
    }
}

/// Reads the modes of a request. Sharing one of the host's namespaces means sharing its user namespace as
/// well: a container whose root is nobody to the host could not use it. Sharing another container's means
/// sharing that container's user namespace.
pub fn sharing(host: &HostConfig) -> Result<Sharing> {
    let pid = parse("pid", &host.pid_mode, &["", "private"])?;
    let ipc = parse("ipc", &host.ipc_mode, &["", "private", "shareable", "none"])?;
    let uts = parse("uts", &host.uts_mode, &["", "private"])?;
    let network = match host.network_mode.as_str() {
        mode if mode == "host" || mode.starts_with("container:") => parse("network", mode, &[])?,
        // None, or one with links on networks.
        _ => Share::Private,
    };
    let cgroup = parse("cgroupns", &host.cgroupns_mode, &["", "private"])?;
    let asked = parse("userns", &host.userns_mode, &["", "private", "auto"])?;
    if matches!(uts, Share::Container(_)) || matches!(cgroup, Share::Container(_)) {
        return Err(Error::new(Kind::Usage, "--uts and --cgroupns take host or private"));
    }
    let others: Vec<&String> = [&pid, &ipc, &network, &asked]
        .into_iter()
        .filter_map(|share| if let Share::Container(id) = share { Some(id) } else { None })
        .collect();
    let needs_host = host.privileged || [&pid, &ipc, &network].contains(&&Share::Host);
    let insists = matches!(host.userns_mode.as_str(), "private" | "auto");
    let user = match (asked.clone(), others.first()) {
        (_, Some(first)) if others.iter().all(|other| other == first) => {
            if needs_host {
                return Err(Error::new(
                    Kind::Usage,
                    format!("share namespaces with the container {first} and with the host at once"),
                )
                .hint("a container has one user namespace: share with one or the other"));
            }
            Share::Container((*first).clone())
        }
        (_, Some(_)) => {
            return Err(Error::new(Kind::Usage, "share namespaces with two containers at once")
                .hint("a container has one user namespace: share with one of them"));
        }
        (Share::Host, None) => Share::Host,
        _ if needs_host && insists => {
            return Err(Error::new(
                Kind::Usage,
                "--userns=private together with --privileged or a namespace of the host",
            )
            .hint("leave out one of the two: the root of a private user namespace may not use the host's namespaces"));
        }
        _ if needs_host => Share::Host,
        _ => Share::Private,
    };
    // Programs that look at the host's processes compare their ages with the host's clocks.
    let time = if pid == Share::Host || host.privileged { Share::Host } else { Share::Private };
    let no_shm = host.ipc_mode == "none";
    Ok(Sharing { user, pid, ipc, uts, network, cgroup, time, no_shm })
}

/// The spec's list.
pub fn list(sharing: &Sharing, facts: &Facts) -> Result<Vec<LinuxNamespace>> {
    use LinuxNamespaceType as T;
    let mut list = Vec::new();
    for (share, kind, name) in [
        (&Share::Private, T::Mount, "mnt"),
        (&sharing.user, T::User, "user"),
        (&sharing.pid, T::Pid, "pid"),
        (&sharing.ipc, T::Ipc, "ipc"),
        (&sharing.uts, T::Uts, "uts"),
        (&sharing.network, T::Network, "net"),
        (&sharing.cgroup, T::Cgroup, "cgroup"),
        (&sharing.time, T::Time, "time"),
    ] {
        let joined = facts.joined.iter().find(|(joined, _)| *joined == name).map(|(_, path)| path);
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        match (share, joined) {
            (Share::Host, _) => continue,
            (Share::Private, _) => list.push(builder.build().map_err(spec_error)?),
            (Share::Container(_), Some(path)) => {
                list.push(builder.path(path.as_path()).build().map_err(spec_error)?)
            }
            // The other container has none of its own: it is the host's that is shared.
            (Share::Container(_), None) => continue,
        }
    }
    Ok(list)
}
