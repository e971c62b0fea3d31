//! The Debian packages that the tests need.

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

const PACKAGES: [Package; 9] = [
    Package { name: "busybox-static", program: "busybox", reason: "the small root filesystem of most tests" },
    Package { name: "mmdebstrap", program: "mmdebstrap", reason: "a real Debian root filesystem" },
    Package { name: "util-linux", program: "setsid", reason: "terminals, loop devices, mount namespaces" },
    Package { name: "procps", program: "ps", reason: "ps in containers of the `host` image" },
    Package { name: "tar", program: "tar", reason: "writing root filesystem archives" },
    Package { name: "gzip", program: "gzip", reason: "importing a .tar.gz" },
    Package { name: "zstd", program: "zstd", reason: "importing a .tar.zst" },
    Package { name: "iproute2", program: "ip", reason: "the network of the `host` image, seen from inside" },
    Package { name: "strace", program: "strace", reason: "counting the system calls of a start" },
];

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
    workspace::run(apt(&["install", "--no-install-recommends"]).args(names))
        .context("installing packages")?;
    Ok(Outcome::Passed)
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
        println!("    {:<16} {}", package.name, package.reason);
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
