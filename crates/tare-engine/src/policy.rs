//! The one place where defaults and hardening are decided: request + image + facts of the host in, OCI spec
//! out. Pure: it reads nothing and changes nothing, so that a table can test it.
//!
//! The default is never weaker than Docker's: its capabilities, devices, masks and read-only paths, and on
//! top of them a user namespace of the container's own, private cgroup and time namespaces, and a limit on
//! processes.

mod cdi;
mod devices;
mod links;
mod logging;
mod mounts;
mod namespaces;
mod network;
mod resources;
mod security;
pub(crate) mod volumes;

use std::path::PathBuf;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, LinuxSeccomp, LinuxTimeOffset,
    LinuxTimeOffsetBuilder, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use tare_image::ImageConfig;
use tare_runtime::user::UserRequest;
use tare_sys::{Error, Kind, Result};

use crate::cdi::Edits;
use crate::range::IdMap;
use crate::request::{Config, CreateRequest, Ulimit};

pub use links::Linked;
pub use logging::{Keep, Logging, logging};
pub use mounts::mount_points;
pub use namespaces::{Share, Sharing, sharing};
pub use network::check_network;
pub use resources::change as change_of_resources;
pub use security::{Seccomp, security};
pub use volumes::MountPoint;

/// What a container gets where neither the caller nor the image says anything.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most processes of a container that sets no `--pids-limit`.
pub const PIDS_LIMIT: i64 = 4096;

/// What the image says about running it.
#[derive(Clone, Debug, Default)]
pub struct ImageSays {
    /// Variables.
    pub env: Vec<String>,
    /// Entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Command.
    pub cmd: Option<Vec<String>>,
    /// User.
    pub user: String,
    /// Working folder.
    pub working_dir: String,
}

impl ImageSays {
    /// What a configuration says.
    pub fn of(config: &ImageConfig) -> ImageSays {
        let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        ImageSays {
            env: config.env.clone(),
            entrypoint: list(&config.entrypoint),
            cmd: list(&config.cmd),
            user: config.user.clone(),
            working_dir: config.working_dir.clone(),
        }
    }
}

/// What policy must know of this host and of what was prepared on it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The container's id.
    pub id: String,
    /// Namespaces of another container, by kind (`net`, `ipc`, `pid`, `user`): paths below /proc.
    pub joined: Vec<(&'static str, PathBuf)>,
    /// Controllers of this host that matter for defaults.
    pub has_pids: bool,
    /// An ordinary user's: the default limits are those that can be had.
    pub rootless: bool,
    /// There is no id but root's.
    pub one_id: bool,
    /// The host has swap.
    pub has_swap: bool,
    /// Logical CPUs online.
    pub cpus: u32,
    /// The file of the time zone asked for.
    pub zone: Option<PathBuf>,
    /// Its volumes, and what it took over from other containers.
    pub mounts: Vec<MountPoint>,
    /// Where the generated `/etc/hosts` and its two companions lie.
    pub files: PathBuf,
    /// Devices asked for, looked at: path inside, host's type, numbers, mode and owner.
    pub devices: Vec<DeviceFact>,
    /// What else devices asked for by name change.
    pub edits: Edits,
    /// Containers that it is linked to, and gets variables of.
    pub linked: Vec<Linked>,
    /// Numbers of the block devices named in limits: path, major, minor.
    pub block_devices: Vec<(String, u64, u64)>,
    /// Per-CPU thermal folders, masked as Docker does.
    pub thermal: Vec<String>,
    /// A seccomp profile that the caller brought.
    pub profile: Option<LinuxSeccomp>,
}

/// A host device.
#[derive(Clone, Debug, Default)]
pub struct DeviceFact {
    /// Path inside.
    pub path: PathBuf,
    /// A block device, else a character device.
    pub block: bool,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Some of `rwm`.
    pub access: String,
}

/// What was decided.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The container.
    pub spec: Spec,
    /// Who runs.
    pub user: UserRequest,
    /// Things the caller should know.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Has the container enter these namespaces instead of making its own.
    pub fn enter(&mut self, namespaces: &[(LinuxNamespaceType, PathBuf)]) {
        let linux = self.spec.linux_mut().as_mut();
        for namespace in linux.and_then(|linux| linux.namespaces_mut().as_mut()).into_iter().flatten() {
            let there = namespaces.iter().find(|(kind, _)| *kind == namespace.typ());
            if let Some((_, path)) = there {
                namespace.set_path(Some(path.clone()));
            }
        }
    }

    /// Gives the container these user and group ids.
    pub fn map_ids(&mut self, maps: [IdMap; 2]) -> Result<()> {
        let [uids, gids] = id_mappings(maps)?;
        if let Some(linux) = self.spec.linux_mut() {
            linux.set_uid_mappings(Some(uids));
            linux.set_gid_mappings(Some(gids));
        }
        Ok(())
    }
}

/// Id maps as a spec has them: of users, and of groups.
pub fn id_mappings([uids, gids]: [IdMap; 2]) -> Result<[Vec<LinuxIdMapping>; 2]> {
    let mappings = |map: IdMap| map.into_iter().map(id_mapping).collect::<Result<Vec<_>>>();
    Ok([mappings(uids)?, mappings(gids)?])
}

/// Decides, all but the ids: those are [mapped](Plan::map_ids) when a range has been claimed.
pub fn plan(request: &CreateRequest, image: &ImageSays, facts: &Facts) -> Result<Plan> {
    let (config, host) = (&request.config, &request.host_config);
    let sharing = sharing(host)?;
    check_runtime(&host.runtime)?;
    check_network(host)?;
    let mut warnings = Vec::new();
    if host.network_mode == "host" && (host.publish_all_ports || !host.port_bindings.is_empty()) {
        warnings
            .push("published ports mean nothing with --network host: its ports are the host's".to_owned());
    }
    let secure = security(host)?;
    let hostname = hostname(request, &facts.id);
    let mut process =
        process(config, host.ulimits.as_slice(), image, host.oom_score_adj, &secure, &host.umask)?;
    process.set_env(Some(environment(config, image, &hostname, &facts.linked)));
    if let Some(env) = process.env_mut() {
        cdi::set_env(&facts.edits, env);
    }
    let profile = match (&secure.seccomp, &facts.profile) {
        (security::Seccomp::Unconfined, _) => None,
        (_, Some(profile)) => Some(profile.clone()),
        (_, None) => Some(tare_runtime::seccomp::default_profile(&secure.capabilities, &Default::default())),
    };

    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces::list(&sharing, facts)?)
        .resources(resources::resources(host, facts, &mut warnings)?)
        .devices(devices::nodes(facts)?)
        .rootfs_propagation("rslave")
        .build()
        .map_err(spec_error)?;
    linux.set_masked_paths(Some(secure.masked(&facts.thermal)));
    linux.set_readonly_paths(Some(secure.read_only()));
    linux.set_seccomp(profile);
    if !host.sysctls.is_empty() {
        linux.set_sysctl(Some(host.sysctls.clone().into_iter().collect()));
    }
    if sharing.time == Share::Private {
        linux.set_time_offsets(Some(
            [("monotonic", host.time_offsets.monotonic), ("boottime", host.time_offsets.boottime)]
                .into_iter()
                .filter(|(_, offset)| *offset != 0)
                .map(|(clock, offset)| Ok((clock.to_owned(), time_offset(offset)?)))
                .collect::<Result<_>>()?,
        ));
    } else if host.time_offsets != Default::default() {
        return Err(Error::new(Kind::Usage, "--time-offset needs a time namespace of the container's own")
            .hint("leave out --pid=host or --privileged"));
    }

    let mut spec = SpecBuilder::default()
        .version("1.3.0")
        .root(
            RootBuilder::default()
                .path("rootfs")
                .readonly(host.readonly_rootfs)
                .build()
                .map_err(spec_error)?,
        )
        .mounts(mounts::mounts(request, &sharing, facts)?)
        .process(process)
        .linux(linux)
        .build()
        .map_err(spec_error)?;
    spec.set_hooks(cdi::hooks(&facts.edits)?);
    if !host.annotations.is_empty() {
        spec.set_annotations(Some(host.annotations.clone().into_iter().collect()));
    }
    if sharing.uts == Share::Private {
        spec.set_hostname(Some(hostname));
        spec.set_domainname((!config.domainname.is_empty()).then(|| config.domainname.clone()));
    } else if config.hostname.is_empty() {
        // The library's own default is a name.
        spec.set_hostname(None);
    } else {
        return Err(Error::new(Kind::Usage, "--hostname needs a UTS namespace of the container's own")
            .hint("leave out --uts=host, or --hostname"));
    }
    let user = UserRequest::Words {
        user: if config.user.is_empty() { image.user.clone() } else { config.user.clone() },
        groups: host
            .group_add
            .iter()
            .cloned()
            .chain(facts.edits.additional_gids.iter().map(u32::to_string))
            .collect(),
    };
    Ok(Plan { spec, user, warnings })
}

/// The container's host name: the one asked for, else the short id.
pub fn hostname(request: &CreateRequest, id: &str) -> String {
    match request.config.hostname.as_str() {
        "" => id.chars().take(12).collect(),
        name => name.to_owned(),
    }
}

/// Entry point and command of the request over those of the image. An entry point of the caller's own drops
/// the image's command, which was written for the other one (Docker's rule).
pub fn command(config: &Config, image: &ImageSays) -> Vec<String> {
    let (entrypoint, image_cmd) = match &config.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), None),
        None => (image.entrypoint.clone().unwrap_or_default(), image.cmd.clone()),
    };
    let cmd = config.cmd.clone().filter(|cmd| !cmd.is_empty()).or(image_cmd).unwrap_or_default();
    entrypoint.into_iter().chain(cmd).collect()
}

fn process(
    config: &Config,
    ulimits: &[Ulimit],
    image: &ImageSays,
    oom_score_adj: i32,
    secure: &security::Secure,
    umask_text: &str,
) -> Result<Process> {
    let args = command(config, image);
    if args.is_empty() {
        return Err(Error::new(Kind::Usage, "no command to run: neither the image nor the request has one")
            .hint("name a command after the image: tare run IMAGE COMMAND"));
    }
    let mut user = UserBuilder::default().build().map_err(spec_error)?;
    user.set_umask(umask(umask_text)?);
    let cwd = match (config.working_dir.as_str(), image.working_dir.as_str()) {
        ("", "") => "/",
        ("", image) => image,
        (asked, _) => asked,
    };
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .user(user)
        .args(args)
        .cwd(cwd)
        .capabilities(secure.capability_sets()?)
        .no_new_privileges(secure.no_new_privileges)
        .build()
        .map_err(spec_error)?;
    process.set_rlimits(Some(ulimits.iter().map(rlimit).collect::<Result<_>>()?));
    if oom_score_adj != 0 {
        if !(-1000..=1000).contains(&oom_score_adj) {
            return Err(Error::new(Kind::Usage, format!("--oom-score-adj {oom_score_adj}: out of range"))
                .hint("use a number from -1000 to 1000"));
        }
        process.set_oom_score_adj(Some(oom_score_adj));
    }
    Ok(process)
}

fn umask(text: &str) -> Result<Option<u32>> {
    if text.is_empty() {
        return Ok(None);
    }
    match u32::from_str_radix(text, 8) {
        Ok(mask) if mask <= 0o777 => Ok(Some(mask)),
        _ => Err(Error::new(Kind::Usage, format!("--umask {text}: not an octal number up to 0777"))
            .hint("for example: --umask 0027")),
    }
}

/// The only runtime there is; Docker's usual one is as good a name for it.
fn check_runtime(name: &str) -> Result<()> {
    match name {
        "" | "tare" | "tare-oci" | "runc" | "io.containerd.runc.v2" => Ok(()),
        name => Err(Error::new(Kind::Unsupported, format!("unknown or invalid runtime name: {name}"))
            .hint("tare runs containers itself; leave out --runtime")),
    }
}

/// Docker's order: the defaults, those of links, the image's, the request's; a later one takes the place of an earlier one of
/// the same name. A request for a bare name takes the variable away.
fn environment(config: &Config, image: &ImageSays, hostname: &str, linked: &[Linked]) -> Vec<String> {
    let mut env: Vec<String> = vec![format!("PATH={PATH}"), format!("HOSTNAME={hostname}")];
    if config.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.extend(linked.iter().flat_map(links::env));
    for pair in image.env.iter().chain(&config.env) {
        let key = pair.split('=').next().unwrap_or_default();
        let same = |known: &String| known.split('=').next() == Some(key);
        match (env.iter().position(same), pair.contains('=')) {
            (Some(at), true) => env[at] = pair.clone(),
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(pair.clone()),
            (None, false) => {}
        }
    }
    env
}

fn rlimit(ulimit: &Ulimit) -> Result<PosixRlimit> {
    let bound = |value: i64| if value < 0 { u64::MAX } else { value as u64 };
    let name = format!("RLIMIT_{}", ulimit.name.to_uppercase());
    let kind: PosixRlimitType = name.parse().map_err(|_| {
        Error::new(Kind::Usage, format!("--ulimit {}: there is no such limit", ulimit.name))
            .hint("the limits are core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack")
    })?;
    if bound(ulimit.soft) > bound(ulimit.hard) {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "--ulimit {}: the soft limit {} is above the hard limit {}",
                ulimit.name, ulimit.soft, ulimit.hard
            ),
        ));
    }
    PosixRlimitBuilder::default()
        .typ(kind)
        .soft(bound(ulimit.soft))
        .hard(bound(ulimit.hard))
        .build()
        .map_err(spec_error)
}

fn time_offset(nanoseconds: i64) -> Result<LinuxTimeOffset> {
    LinuxTimeOffsetBuilder::default()
        .secs(nanoseconds.div_euclid(1_000_000_000))
        .nanosecs(nanoseconds.rem_euclid(1_000_000_000) as u32)
        .build()
        .map_err(spec_error)
}

fn id_mapping((inside, outside, count): (u32, u32, u32)) -> Result<LinuxIdMapping> {
    LinuxIdMappingBuilder::default()
        .container_id(inside)
        .host_id(outside)
        .size(count)
        .build()
        .map_err(spec_error)
}

/// A builder fails only where a field it needs was not given, which is our mistake and not the caller's.
fn spec_error(err: OciSpecError) -> Error {
    Error::new(Kind::Corrupt, format!("write the spec: {err}"))
}

#[cfg(test)]
mod tests;
