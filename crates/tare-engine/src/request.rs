//! What a caller asks for, in Docker's shapes and words.
//!
//! The command line and the Docker API fill in the same structs, so they cannot differ, and `inspect` prints
//! them back under the names that scripts written for Docker look for. Nothing here decides anything: what an
//! empty field means is decided in [`policy`](crate::policy).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
pub use tare_image::Healthcheck;
pub use tare_network::rate::Limits as NetworkLimits;

/// Everything needed to make one container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateRequest {
    /// The name asked for; empty: one is made up.
    pub name: String,
    /// `linux/amd64`: the image has to be for this; empty: whatever it is for.
    pub platform: String,
    /// What runs.
    pub config: Config,
    /// On what terms it runs on this host.
    pub host_config: HostConfig,
    /// What it wants on its networks.
    pub networking_config: NetworkingConfig,
}

/// What a container wants on its networks (Docker's `NetworkingConfig`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkingConfig {
    /// By name or id of the network; the first is the one of `NetworkMode`.
    pub endpoints_config: BTreeMap<String, EndpointSettings>,
}

/// What a container wants on one network (Docker's `EndpointSettings`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSettings {
    /// Addresses.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpam>,
    /// Names beside its own.
    pub aliases: Option<Vec<String>>,
    /// Hardware address; empty: made from the address.
    pub mac_address: String,
}

/// The addresses that a container wants on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointIpam {
    /// Of IPv4; empty: one that is free.
    #[serde(rename = "IPv4Address")]
    pub ipv4_address: String,
    /// Of IPv6; empty: one that is free.
    #[serde(rename = "IPv6Address")]
    pub ipv6_address: String,
}

/// Where a port is published (Docker's `PortBinding`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortBinding {
    /// The host's address; empty: all.
    pub host_ip: String,
    /// The host's port, or a range to choose from; empty: any that is free.
    pub host_port: String,
}

impl CreateRequest {
    /// What stands at `/`, as the caller wrote it: an image, or a folder.
    pub fn image(&self) -> &str {
        match self.host_config.rootfs.as_str() {
            "" => &self.config.image,
            folder => folder,
        }
    }
}

/// What runs: the portable half of a request (Docker's `Config`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// Host name inside; empty: the first 12 characters of the id.
    pub hostname: String,
    /// NIS domain name inside.
    pub domainname: String,
    /// `name|uid[:group|gid]`; empty: the image's, else root.
    pub user: String,
    /// The caller wants to write to stdin right away.
    pub attach_stdin: bool,
    /// The caller wants to read stdout right away.
    pub attach_stdout: bool,
    /// The caller wants to read stderr right away.
    pub attach_stderr: bool,
    /// Give the process a terminal.
    pub tty: bool,
    /// Keep a stdin for the process (`-i`); otherwise it reads from `/dev/null`.
    pub open_stdin: bool,
    /// `KEY=value`, on top of the image's.
    pub env: Vec<String>,
    /// Command; `None`: the image's.
    pub cmd: Option<Vec<String>>,
    /// Image, as the caller wrote it.
    pub image: String,
    /// Absolute path inside; empty: the image's, else `/`.
    pub working_dir: String,
    /// Entry point; `None`: the image's; `Some([])`: none.
    pub entrypoint: Option<Vec<String>>,
    /// Folders that get a volume of their own, made for this container.
    pub volumes: BTreeMap<String, Empty>,
    /// `80/tcp` and the like: ports that `PublishAllPorts` publishes.
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that `stop` sends; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds that `stop` waits before it kills; `None`: 10.
    pub stop_timeout: Option<u32>,
    /// How to tell whether it is well; `None`: as the image says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// What to do when it is not: `none` (also empty), `kill`, `restart`, `stop`. A tare extension, after Podman's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub healthcheck_on_failure_action: String,
}

/// On what terms it runs (Docker's `HostConfig`). Sizes are bytes, 0 is "no limit" unless it says otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// `SOURCE:DESTINATION[:OPTIONS]`, as `--volume` takes them. A source that begins with `/` is a host path, any
    /// other the name of a volume.
    pub binds: Vec<String>,
    /// Driver of volumes that have to be made; empty: `local`.
    pub volume_driver: String,
    /// `size`: how large the writable layer may grow.
    pub storage_opt: BTreeMap<String, String>,
    /// Notes for whoever reads the spec.
    pub annotations: BTreeMap<String, String>,
    /// The OCI runtime; empty: tare's own, which is the only one.
    pub runtime: String,
    /// Mode bits that new files do not get, octal; empty: 022. A tare extension, after Podman's.
    pub umask: String,
    /// Time zone (`Europe/Berlin`, or `local`); empty: the image's. A tare extension, after Podman's.
    pub timezone: String,
    /// `CONTAINER[:ro|rw]`, whose volumes and binds this one gets as well.
    pub volumes_from: Vec<String>,
    /// Mounts, as `--mount` takes them.
    pub mounts: Vec<Mount>,
    /// Destination to options (`size=64m,mode=1777`), as `--tmpfs` takes them.
    pub tmpfs: BTreeMap<String, String>,
    /// File that gets the container's id.
    #[serde(rename = "ContainerIDFile")]
    pub container_id_file: String,
    /// Where its output is kept.
    pub log_config: LogConfig,
    /// Name or id of a network (empty, `default`: `bridge`), `none` (also `private`), `host`, `container:ID`.
    pub network_mode: String,
    /// `80/tcp` and the like to where they are published; `None` and empty: at any free port of all addresses.
    pub port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// Publish all exposed ports.
    pub publish_all_ports: bool,
    /// `private` (also empty), `host`, `container:ID`.
    pub pid_mode: String,
    /// `private` (also empty), `none`, `shareable`, `host`, `container:ID`.
    pub ipc_mode: String,
    /// `private` (also empty), `host`.
    #[serde(rename = "UTSMode")]
    pub uts_mode: String,
    /// `private` (also empty, `auto`), `host`, `container:ID`.
    pub userns_mode: String,
    /// `private` (also empty), `host`.
    pub cgroupns_mode: String,
    /// Parent of the container's cgroup; empty: `/tare`.
    pub cgroup_parent: String,
    /// Offsets of the container's clocks, in nanoseconds; a tare extension.
    pub time_offsets: TimeOffsets,
    /// Use this host directory as `/` instead of an image; empty: the image. A tare extension.
    pub rootfs: String,
    /// Remove the container when it ends.
    pub auto_remove: bool,
    /// When to start it again by itself.
    pub restart_policy: RestartPolicy,
    /// Capabilities to add, with or without `CAP_`; `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// Supplementary groups, by name or number.
    pub group_add: Vec<String>,
    /// Name servers; empty: the host's.
    pub dns: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// `HOST:IP` lines for `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Everything allowed: no isolation to speak of.
    pub privileged: bool,
    /// `NAME:ALIAS`, other containers that this one knows by names of its own; in a container's record `ID:ALIAS`.
    pub links: Vec<String>,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// `seccomp=…`, `no-new-privileges[=true|false]`, `systempaths=unconfined`, `label=…`, `apparmor=…`.
    pub security_opt: Vec<String>,
    /// Namespaced sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// A tiny init as PID 1 that passes signals on and reaps.
    pub init: bool,
    /// Size of `/dev/shm`; 0: 64 MiB.
    pub shm_size: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Host devices.
    pub devices: Vec<DeviceMapping>,
    /// Devices by name, from specs of the Container Device Interface.
    pub device_requests: Vec<DeviceRequest>,
    /// `c 1:3 rwm`, as `--device-cgroup-rule` takes them.
    pub device_cgroup_rules: Vec<String>,
    /// Resource limits of the process (setrlimit(2)).
    pub ulimits: Vec<Ulimit>,

    /// Memory limit.
    pub memory: i64,
    /// Memory plus swap; -1: unlimited swap; 0: the same as `memory`.
    pub memory_swap: i64,
    /// Soft memory limit.
    pub memory_reservation: i64,
    /// 0 to 100; cgroup v1 only.
    pub memory_swappiness: Option<i64>,
    /// Do not kill on out of memory; cgroup v1 only.
    pub oom_kill_disable: bool,
    /// CPUs in billionths: `--cpus 1.5` is 1,500,000,000.
    #[serde(rename = "NanoCpus")]
    pub nano_cpus: i64,
    /// Relative weight, 2 to 262144; 0: 1024.
    pub cpu_shares: i64,
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds.
    pub cpu_quota: i64,
    /// Period of the real-time scheduler in microseconds; cgroup v1 only.
    #[serde(rename = "CpuRealtimePeriod")]
    pub cpu_rt_period: i64,
    /// Time for real-time processes in each such period, in microseconds; cgroup v1 only.
    #[serde(rename = "CpuRealtimeRuntime")]
    pub cpu_rt_runtime: i64,
    /// CPUs allowed, `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes allowed.
    pub cpuset_mems: String,
    /// Processes allowed; `None`: tare's default; -1 or 0: unlimited.
    pub pids_limit: Option<i64>,
    /// What it may do on its networks; a tare extension.
    pub network_limits: NetworkLimits,
    /// 10 to 1000; 0: none asked.
    pub blkio_weight: u16,
    /// The same for single devices.
    pub blkio_weight_device: Vec<WeightDevice>,
    /// Read limits in bytes per second.
    pub blkio_device_read_bps: Vec<ThrottleDevice>,
    /// Write limits in bytes per second.
    pub blkio_device_write_bps: Vec<ThrottleDevice>,
    /// Read limits in operations per second.
    #[serde(rename = "BlkioDeviceReadIOps")]
    pub blkio_device_read_iops: Vec<ThrottleDevice>,
    /// Write limits in operations per second.
    #[serde(rename = "BlkioDeviceWriteIOps")]
    pub blkio_device_write_iops: Vec<ThrottleDevice>,
}

/// When a container that has ended is started again by itself (Docker's `RestartPolicy`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// `no` (also empty), `on-failure`, `always`, `unless-stopped`.
    pub name: String,
    /// Of `on-failure`: how often at most; 0: no limit.
    pub maximum_retry_count: i64,
}

/// Where output is kept (Docker's `LogConfig`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LogConfig {
    /// `json-file` (also empty), `local`, `journald`, `none`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `max-size`, `max-file`, `labels`, `env`, `tag`.
    pub config: BTreeMap<String, String>,
}

/// One `--mount` (Docker's `Mount`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Mount {
    /// `bind`, `image`, `tmpfs` or `volume`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Host path of a bind; name of an image, or of a volume, empty for a new one.
    pub source: String,
    /// Absolute path inside.
    pub target: String,
    /// Mount it read-only.
    pub read_only: bool,
    /// `rprivate` (also empty), `private`, `rslave`, `slave`, `rshared`, `shared`.
    pub propagation: String,
    /// Leave out what is mounted below the source.
    pub non_recursive: bool,
    /// What is mounted below the source stays writable where the mount itself is read-only.
    pub read_only_non_recursive: bool,
    /// Make the source folder if it is missing.
    pub create_source: bool,
    /// Size of a tmpfs; 0: the kernel's default, half the memory.
    pub tmpfs_size: i64,
    /// Mode of a tmpfs; 0: 1777.
    pub tmpfs_mode: u32,
    /// Of a volume.
    pub volume_options: VolumeOptions,
    /// Of an image.
    pub image_options: ImageOptions,
}

/// What a `--mount type=image` says of its image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageOptions {
    /// Folder or file in the image that is mounted instead of all of it.
    pub subpath: String,
}

/// What a `--mount type=volume` says of its volume.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeOptions {
    /// An empty volume does not get what the image has there.
    pub no_copy: bool,
    /// Folder or file in the volume that is mounted instead of all of it.
    pub subpath: String,
    /// Labels of the volume, if it has to be made.
    pub labels: BTreeMap<String, String>,
    /// Its driver; empty: `local`.
    pub driver: String,
    /// Options of the driver, if it has to be made.
    pub driver_options: BTreeMap<String, String>,
}

/// `{}`, the value in Docker's sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// One `--device`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceMapping {
    /// Path on the host.
    pub path_on_host: String,
    /// Path inside.
    pub path_in_container: String,
    /// Some of `rwm`.
    pub cgroup_permissions: String,
}

/// Devices by name: `--gpus`, or `--device vendor.com/class=name` (Docker's `DeviceRequest`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceRequest {
    /// `cdi` for names of the Container Device Interface; of GPUs `nvidia`, `amd`, or empty for either.
    pub driver: String,
    /// How many; -1: all. 0 where `device_ids` says which.
    pub count: i64,
    /// Which: whole names for `cdi`, else numbers or UUIDs.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Vec<String>,
    /// Any list of which has to be met by all its words; `gpu` is the one that is known.
    pub capabilities: Vec<Vec<String>>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// A device's share of its time (Docker's `WeightDevice`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct WeightDevice {
    /// `/dev/sda`.
    pub path: String,
    /// 10 to 1000.
    pub weight: u16,
}

/// One `--device-read-bps` and the like.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ThrottleDevice {
    /// Block device on the host.
    pub path: String,
    /// Bytes or operations per second.
    pub rate: u64,
}

/// One `--ulimit`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ulimit {
    /// `nofile`, `nproc`, … (getrlimit(2) without `RLIMIT_`, lower case).
    pub name: String,
    /// Soft limit; -1: unlimited.
    pub soft: i64,
    /// Hard limit; -1: unlimited.
    pub hard: i64,
}

/// Offsets of the container's clocks (time_namespaces(7)), in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TimeOffsets {
    /// Of `CLOCK_MONOTONIC`.
    pub monotonic: i64,
    /// Of `CLOCK_BOOTTIME` (uptime).
    pub boottime: i64,
}
