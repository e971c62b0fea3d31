//! The Debian packages that the tests need.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::suite::summary::Outcome;
use crate::workspace::{self, output, program};

/// A package, a program in it (to find it on machines without dpkg), and what the tests want it for.
struct Package {
    name: &'static str,
    program: &'static str,
    reason: &'static str,
}

const PACKAGES: [Package; 40] = [
    Package { name: "busybox-static", program: "busybox", reason: "the small root filesystem of most tests" },
    Package { name: "mmdebstrap", program: "mmdebstrap", reason: "a real Debian root filesystem" },
    Package { name: "util-linux", program: "setsid", reason: "terminals, loop devices, mount namespaces" },
    Package { name: "procps", program: "ps", reason: "ps in containers of the `host` image" },
    Package { name: "tar", program: "tar", reason: "writing root filesystem archives" },
    Package { name: "gzip", program: "gzip", reason: "importing a .tar.gz" },
    Package { name: "zstd", program: "zstd", reason: "importing a .tar.zst" },
    Package { name: "iproute2", program: "ip", reason: "the network of the `host` image, seen from inside" },
    Package { name: "nftables", program: "nft", reason: "reading back the firewall, and firewalls of hosts" },
    Package { name: "iptables", program: "iptables", reason: "firewalls of hosts that have the older tool" },
    Package { name: "nginx-light", program: "nginx", reason: "a real server behind a published port" },
    Package { name: "iperf3", program: "iperf3", reason: "throughput of networks" },
    Package { name: "bind9-dnsutils", program: "dig", reason: "a real DNS client" },
    Package { name: "skopeo", program: "skopeo", reason: "another tool that reads and writes images" },
    Package { name: "umoci", program: "umoci", reason: "images of several layers, made by another tool" },
    Package { name: "docker-registry", program: "docker-registry", reason: "a real registry, on loopback" },
    Package { name: "apache2-utils", program: "htpasswd", reason: "its passwords" },
    Package { name: "openssl", program: "openssl", reason: "its certificate" },
    Package { name: "strace", program: "strace", reason: "counting the system calls of a start" },
    Package { name: "uidmap", program: "newuidmap", reason: "ids of ordinary users" },
    Package { name: "passt", program: "pasta", reason: "the network of ordinary users" },
    Package { name: "runc", program: "runc", reason: "the runtime that tare is compared with" },
    Package { name: "crun", program: "crun", reason: "the other runtime that tare is compared with" },
    Package {
        name: "containerd",
        program: "containerd",
        reason: "an engine that drives tare as its runtime",
    },
    Package { name: "docker.io", program: "dockerd", reason: "an engine that drives tare as its runtime" },
    Package { name: "podman", program: "podman", reason: "an engine that drives tare as its runtime" },
    Package { name: "criu", program: "criu", reason: "checkpoints, which runtimes leave to it" },
    Package {
        name: "python3-seccomp",
        program: "python3",
        reason: "libseccomp's filters, to compare ours with",
    },
    Package {
        name: "qemu-system-x86",
        program: "qemu-system-x86_64",
        reason: "guests with cgroup v2 (vm lane)",
    },
    Package {
        name: "qemu-system-common",
        program: "qemu-system-x86_64",
        reason: "their file server, virtiofsd",
    },
    Package { name: "cpio", program: "cpio", reason: "their initramfs" },
    Package { name: "kmod", program: "depmod", reason: "their kernel modules" },
    Package { name: "lz4", program: "lz4", reason: "unpacking their kernel" },
    Package { name: "xz-utils", program: "xz", reason: "unpacking their kernel and its modules" },
    Package { name: "e2fsprogs", program: "mkfs.ext4", reason: "their disk, and disks of tests" },
    Package { name: "xfsprogs", program: "mkfs.xfs", reason: "disks of tests that have quotas" },
    Package { name: "systemd", program: "systemd-run", reason: "guests that systemd has booted" },
    Package { name: "libpam-systemd", program: "loginctl", reason: "login sessions in them" },
    Package { name: "dbus", program: "dbus-daemon", reason: "systemd's bus" },
    Package { name: "dbus-user-session", program: "dbus-daemon", reason: "a user's own bus" },
];

/// What invoke-rc.d asks before it starts a daemon.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing. Asks the network only if something is.
pub fn install_missing() -> Result<Outcome> {
    let missing = missing()?;
    if missing.is_empty() {
        println!("all {} packages are there", PACKAGES.len());
        return Ok(Outcome::Passed);
    }
    list(&missing);
    if program("apt-get").is_none() {
        return Ok(Outcome::Failed("there is no apt-get to install the packages above with".to_owned()));
    }
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y"]).args(words);
        command
    };
    workspace::run(&mut apt(&["update"])).context("fetching the package lists")?;
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let _quiet = NoDaemons::new()?;
    workspace::run(apt(&["install", "--no-install-recommends"]).args(names))
        .context("installing packages")?;
    Ok(Outcome::Passed)
}

/// While this lives, installing a package starts no daemon: nobody asked for a dockerd on this machine, and in a
/// container there is nothing to start it. The file is Debian's way to say so (invoke-rc.d(8)).
struct NoDaemons {
    ours: bool,
}

impl NoDaemons {
    fn new() -> Result<NoDaemons> {
        // Images made for Docker have one already.
        let ours = !Path::new(POLICY).exists();
        if ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("writing {POLICY}"))?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(NoDaemons { ours })
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("{POLICY} should go, or no daemon starts when its package is installed: {error}");
        }
    }
}

/// Without root: says what is missing and how to get it.
pub fn name_missing() -> Result<Outcome> {
    let missing = missing()?;
    if missing.is_empty() {
        println!("all {} packages are there", PACKAGES.len());
        return Ok(Outcome::Passed);
    }
    list(&missing);
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    Ok(Outcome::NotRun(format!("as root: apt-get install --no-install-recommends {}", names.join(" "))))
}

fn list(missing: &[&Package]) {
    println!("missing:");
    for package in missing {
        println!("    {:<20} {}", package.name, package.reason);
    }
}

fn missing() -> Result<Vec<&'static Package>> {
    if program("dpkg-query").is_none() {
        // Not a Debian: the programs are what counts.
        return Ok(PACKAGES.iter().filter(|package| program(package.program).is_none()).collect());
    }
    // All packages rather than ours by name: asking for an unknown name is an error for dpkg-query.
    let text = output(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]))?;
    Ok(PACKAGES.iter().filter(|package| !is_installed(&text, package.name)).collect())
}

fn is_installed(list: &str, name: &str) -> bool {
    list.lines().any(|line| line.split_once(' ') == Some((name, "installed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_counts() {
        let list = "zstd installed\nbusybox installed\nstrace config-files\n";
        assert!(is_installed(list, "zstd"));
        assert!(!is_installed(list, "strace"));
        assert!(!is_installed(list, "busybox-static"));
    }
}
