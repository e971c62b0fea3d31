//! The options of `tare run` and `tare create`, in the order of the help.

use crate::container::attach;
use crate::words::flag::Flag;

pub const FLAGS: &[Flag] = &[
    Flag::many("add-host", "db:10.0.0.5", "Add a line to /etc/hosts (host:ip)"),
    Flag::many("annotation", "team=web", "Add a note to the OCI spec"),
    Flag::many("attach", "stdout", "Attach to stdin, stdout or stderr").short('a'),
    Flag::one("blkio-weight", "uint16", "500", "Share of the disk against others, 10 to 1000 (0 for none)"),
    Flag::many("blkio-weight-device", "/dev/sda:500", "Share of one disk against others, 10 to 1000"),
    Flag::many("cap-add", "NET_ADMIN", "Add Linux capabilities"),
    Flag::many("cap-drop", "ALL", "Drop Linux capabilities"),
    Flag::one("cgroup-parent", "string", "/jobs", "Cgroup to put the container's under"),
    Flag::one("cgroupns", "string", "private", "Cgroup namespace to use (host|private)"),
    Flag::one("cidfile", "string", "web.id", "Write the container's ID to this file"),
    Flag::one("cpu-period", "int", "100000", "Period of the CPU limit, in microseconds"),
    Flag::one("cpu-quota", "int", "50000", "CPU time allowed in each period, in microseconds"),
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
    Flag::switch("detach", "Run in the background and print the container's ID").short('d'),
    attach::DETACH_KEYS,
    Flag::many(
        "device",
        "/dev/fuse",
        "Add a host device (/dev/x[:/dev/y][:rwm], or vendor.com/class=name of a CDI spec)",
    ),
    Flag::many("device-cgroup-rule", "'c 42:* rmw'", "Add a rule to the list of devices that may be used"),
    Flag::many("device-read-bps", "/dev/sda:1mb", "Limit reading from a device, in bytes per second"),
    Flag::many("device-read-iops", "/dev/sda:1000", "Limit reading from a device, in operations per second"),
    Flag::many("device-write-bps", "/dev/sda:1mb", "Limit writing to a device, in bytes per second"),
    Flag::many("device-write-iops", "/dev/sda:1000", "Limit writing to a device, in operations per second"),
    Flag::switch("disable-content-trust", "Without effect: images are known by their digests"),
    Flag::many("dns", "1.1.1.1", "Use these name servers"),
    Flag::many("dns-option", "ndots:2", "Set options of the resolver").alias("dns-opt"),
    Flag::many("dns-search", "example.com", "Search names in these domains"),
    Flag::one("domainname", "string", "example.com", "NIS domain name of the container"),
    Flag::one(
        "entrypoint",
        "string",
        "/bin/sh",
        "Run this instead of the image's ENTRYPOINT (\"\" for none)",
    ),
    Flag::many("env", "KEY=value", "Set environment variables (KEY alone takes the caller's value)")
        .short('e'),
    Flag::many("env-file", "app.env", "Read environment variables from a file"),
    Flag::many("expose", "80/tcp", "Say that the container listens on a port, or a range of them"),
    Flag::one("gpus", "gpu-request", "all", "Add GPUs, by their CDI specs (all|NUMBER|device=ID,…)"),
    Flag::many("group-add", "audio", "Add more groups to the user's"),
    Flag::one("health-cmd", "string", "'test -e /ready'", "Command that tells whether it is healthy"),
    Flag::one("health-interval", "duration", "10s", "Time between two checks (usually 30s)"),
    Flag::one(
        "health-on-failure",
        "string",
        "kill",
        "What to do when it is unhealthy (none|kill|restart|stop)",
    ),
    Flag::one("health-retries", "int", "5", "Failures in a row that make it unhealthy (usually 3)"),
    Flag::one("health-start-interval", "duration", "1s", "Time between two checks at first (usually 5s)"),
    Flag::one("health-start-period", "duration", "1m", "Time after the start while failures do not count"),
    Flag::one("health-timeout", "duration", "5s", "Time that a check may take (usually 30s)"),
    Flag::one("hostname", "string", "web", "Host name of the container").short('h'),
    Flag::switch("init", "Run an init that passes on signals and reaps processes"),
    Flag::switch("interactive", "Keep stdin open even if it is not attached").short('i'),
    Flag::one("ip", "address", "10.20.0.5", "Give it this address of IPv4 on its network"),
    Flag::one("ip6", "address", "fd00::5", "Give it this address of IPv6 on its network"),
    Flag::one(
        "ipc",
        "string",
        "private",
        "IPC namespace to use (none|private|shareable|host|container:NAME)",
    ),
    Flag::one("isolation", "string", "default", "Way of isolation (default)"),
    Flag::one("kernel-memory", "bytes", "64m", "Without effect: Linux has no such limit any more"),
    Flag::many("label", "KEY=value", "Set labels on the container").short('l'),
    Flag::many("label-file", "app.labels", "Read labels from a file"),
    Flag::many("link", "db:database", "Let it find another container by a name of its own (NAME[:ALIAS])"),
    Flag::many("link-local-ip", "169.254.7.5", "Not supported; --ip gives it an address"),
    Flag::one("log-driver", "string", "json-file", "Where to keep output (json-file|local|journald|none)"),
    Flag::many("log-opt", "max-size=10m", "Options of the log driver (max-size, max-file, labels, env, tag)"),
    Flag::one("mac-address", "address", "02:42:0a:14:00:05", "Give it this hardware address"),
    Flag::one("memory", "bytes", "512m", "Memory limit").short('m'),
    Flag::one("memory-reservation", "bytes", "256m", "Memory to keep to when the host runs short"),
    Flag::one("memory-swap", "bytes", "1g", "Limit of memory plus swap (-1 for unlimited swap)"),
    Flag::one("memory-swappiness", "int", "10", "How readily memory is swapped, 0 to 100 (cgroup v1 only)"),
    Flag::many(
        "mount",
        "type=bind,src=/srv/data,dst=/data,readonly",
        "Attach a file system (type=bind|image|tmpfs|volume,…)",
    ),
    Flag::one("name", "string", "web", "Name of the container"),
    Flag::one("net-delay", "time", "50ms", "Hold back everything that the container sends"),
    Flag::one("net-loss", "percent", "1%", "Lose some of what the container sends"),
    Flag::one("net-rate", "rates", "in=10mbit,out=2mbit", "Bandwidth of the container, each way"),
    Flag::many("network", "lan", "Networks to connect it to (NAME|host|none|container:NAME)").alias("net"),
    Flag::many("network-alias", "db", "Let it be found on its network by this name as well")
        .alias("net-alias"),
    Flag::switch("no-healthcheck", "Do not run the image's health check"),
    Flag::switch("oom-kill-disable", "Wait instead of killing when memory runs out (cgroup v1 only)"),
    Flag::one(
        "oom-score-adj",
        "int",
        "500",
        "Who is killed first when the host's memory runs out (-1000 to 1000)",
    ),
    Flag::one("pid", "string", "host", "PID namespace to use (private|host|container:NAME)"),
    Flag::one("pidfile", "file", "web.pid", "Write the number of the container's first process to this file"),
    Flag::one("pids-limit", "int", "100", "Number of processes allowed (-1 for unlimited)"),
    Flag::one("platform", "string", "linux/arm64", "Use the image for this platform"),
    Flag::switch("privileged", "Take down the wall: all capabilities, all devices, no filter"),
    Flag::many(
        "publish",
        "8080:80",
        "Publish a port of the container to the host ([ip:][port:]port[/proto])",
    )
    .short('p'),
    Flag::switch("publish-all", "Publish all exposed ports at free ports of the host").short('P'),
    Flag::one("pull", "string", "always", "Pull the image before running (always|missing|never)"),
    Flag::switch("quiet", "Do not show how far the pull is").short('q'),
    Flag::switch("read-only", "Make the container's root file system read-only"),
    Flag::switch("replace", "Remove a container that has the name already"),
    Flag::one(
        "restart",
        "string",
        "on-failure:3",
        "Start it again when it ends (no|on-failure[:max]|always|unless-stopped)",
    ),
    Flag::switch("rm", "Remove the container when it ends"),
    Flag::one("rootfs", "dir", "./root", "Use this folder as the root file system; there is no IMAGE then"),
    Flag::one("runtime", "string", "tare", "Runtime to use (tare)"),
    Flag::many("security-opt", "no-new-privileges", "Security options"),
    Flag::one("shm-size", "bytes", "128m", "Size of /dev/shm (usually 64m)"),
    Flag::switch("sig-proxy", "Pass signals on to the process (default true)"),
    Flag::one("stop-signal", "string", "SIGINT", "Signal that stops the container"),
    Flag::one("stop-timeout", "int", "30", "Seconds to wait for it to stop before it is killed (usually 10)"),
    Flag::many("storage-opt", "size=10g", "Limit the writable layer (size=)"),
    Flag::many("sysctl", "net.ipv4.ip_forward=1", "Set kernel parameters of the container's namespaces"),
    Flag::many("time-offset", "boottime=+3d", "Shift the container's clocks (boottime=+3d,monotonic=-2h30m)"),
    Flag::many("tmpfs", "/run:size=64m", "Mount an empty file system in memory (/path[:options])"),
    Flag::switch("tty", "Give the process a terminal").short('t'),
    Flag::one("tz", "string", "Europe/Berlin", "Time zone of the container (a name, or local)"),
    Flag::many("ulimit", "nofile=1024:2048", "Limits of each process (name=soft[:hard])"),
    Flag::one("umask", "octal", "0027", "Permissions that new files do not get (usually 0022)"),
    Flag::switch("use-api-socket", "Not supported; mount a socket with --volume"),
    Flag::one("user", "string", "1000:1000", "User to run as (name|uid[:group|gid])").short('u'),
    Flag::one("userns", "string", "host", "User namespace to use (private|host|container:NAME)"),
    Flag::one("uts", "string", "host", "UTS namespace to use (private|host)"),
    Flag::many(
        "volume",
        "data:/data",
        "Mount a volume or a path of the host (NAME|/host:/container[:options])",
    )
    .short('v'),
    Flag::one("volume-driver", "string", "local", "Driver of new volumes (local)"),
    Flag::many("volumes-from", "web:ro", "Mount all volumes of another container (NAME[:ro])"),
    Flag::one("workdir", "string", "/app", "Folder to start in").short('w'),
];

/// Those that say how a caller stands to what runs: `create` runs nothing.
const ONLY_RUN: [&str; 3] = ["detach", "detach-keys", "sig-proxy"];

/// The options of `tare create`.
pub const CREATE: [Flag; FLAGS.len() - ONLY_RUN.len()] = {
    let mut list = [FLAGS[0]; FLAGS.len() - ONLY_RUN.len()];
    let (mut from, mut to) = (0, 0);
    while from < FLAGS.len() {
        if !is_only_run(FLAGS[from].long.as_bytes()) {
            list[to] = FLAGS[from];
            to += 1;
        }
        from += 1;
    }
    list
};

const fn is_only_run(name: &[u8]) -> bool {
    let mut at = 0;
    while at < ONLY_RUN.len() {
        if same(ONLY_RUN[at].as_bytes(), name) {
            return true;
        }
        at += 1;
    }
    false
}

const fn same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}
