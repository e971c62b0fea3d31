//! What is run in which guest: the one place to change when a test should or should not be run there.
//!
//! A guest is 15 to 30 times slower than its host, so the table has what only a guest can show: pure cgroup v2,
//! systemd, ordinary users. A name that no program has yet does no harm.

use std::fmt;

/// The two guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Pure cgroup v2, and a shell script as process 1.
    Bare,
    /// systemd, logind, D-Bus, and an ordinary user who can log in.
    Systemd,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flavour::Bare => "bare",
            Flavour::Systemd => "systemd",
        })
    }
}

/// Test programs that are run in a guest.
#[derive(Debug)]
pub struct Row {
    /// The guest.
    pub flavour: Flavour,
    /// In a login session of the guest's ordinary user, not as root.
    pub as_user: bool,
    /// The package that the programs belong to.
    pub package: &'static str,
    /// Names of programs; a `*` at the end stands for any end.
    pub programs: &'static [&'static str],
    /// Names that are not for this row although `programs` has them.
    pub except: &'static [&'static str],
    /// Tests that cannot apply there, each with the reason.
    pub skip: &'static [(&'static str, &'static str)],
}

impl Row {
    /// Is this program run?
    pub fn takes(&self, package: &str, program: &str) -> bool {
        let named = |patterns: &[&str]| patterns.iter().any(|pattern| fits(pattern, program));
        self.package == package && named(self.programs) && !named(self.except)
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// In the order in which they are run.
pub const TABLE: [Row; 5] = [
    Row {
        flavour: Flavour::Bare,
        as_user: false,
        package: "tare-cgroup",
        programs: &["*"],
        except: &[],
        skip: &[],
    },
    // Of the behaviour, what depends on the version of cgroups, on the kernel (quotas of disks; before Linux 6.15 nobody tells
    // how a process has ended that another reaped), or on mounts being shared, as they are on machines that systemd has
    // booted. `rates` measures; `image`, `stdio`, `process`, `mounts` and
    // `errors` pass there, and say nothing in their five minutes that they do not say on the host in one. `names` asks with
    // programs of the host image, which a guest cannot have.
    Row {
        flavour: Flavour::Bare,
        as_user: false,
        package: "tare-tests",
        programs: &[
            "cgroup",
            "cgroup_v2",
            "update",
            "quotas",
            "recovery",
            "monitor_steps",
            "life_kills",
            "userns",
            "rootfs",
            "namespaces",
            "lifecycle",
            "run",
            "sweep",
            "rate",
            "network",
            "ports",
            "hostile_images",
            "oci*",
        ],
        except: &["oci_systemd*", "oci_rootless*"],
        skip: &[
            ("the_host_image", "the guest's root is an overlay, which cannot be idmapped"),
            ("what_is_written_in_the_host_image", "the same"),
            ("a_real_debian_runs", "unpacking it takes a minute, and shows nothing that a busybox does not"),
            ("a_package_can_be_removed_in_a_real_debian", "the same"),
            ("files_of_the_image_keep_their_owners", "the same; set_user_id_programs shows it too"),
            ("three_hundred_networks", "a minute for what the host shows in seconds"),
            ("a_hundred_at_once", "the same"),
            ("docker_and_tare_publish_side_by_side", "dockerd takes too long to be there"),
            ("nginx_serves", "the guest's root is an overlay, which cannot be idmapped"),
            ("a_slow_rate_holds_within_a_tenth", "measures"),
            ("a_rate_holds_within_a_tenth", "measures; what only a guest's kernel has is netem, for a delay"),
            ("a_limit_of_cpu_time_holds_at_once", "measures"),
            ("a_start_takes_at_most_800_system_calls", "counts system calls, which differ by cgroup version"),
        ],
    },
    Row {
        flavour: Flavour::Systemd,
        as_user: false,
        package: "tare-cgroup",
        programs: &["*"],
        except: &[],
        skip: &[],
    },
    Row {
        flavour: Flavour::Systemd,
        as_user: false,
        package: "tare-tests",
        programs: &["oci_systemd*", "journald"],
        except: &[],
        skip: &[],
    },
    Row {
        flavour: Flavour::Systemd,
        as_user: true,
        package: "tare-tests",
        programs: &["oci_rootless*", "rootless", "rootless_boot"],
        except: &[],
        skip: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_end() {
        assert!(fits("oci*", "oci_run") && fits("*", "effects") && fits("cgroup", "cgroup"));
        assert!(!fits("oci_systemd*", "oci_run") && !fits("cgroup", "cgroups"));
    }
}
