//! A real Debian root filesystem, made once per machine by mmdebstrap from the package sources that the
//! machine itself uses, so that a mirror named there is taken.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The tar of a minbase system; made at the first call, which takes about twenty seconds.
pub fn archive() -> PathBuf {
    archive_in(&cache())
}

/// The same in a cache that is named.
pub fn archive_in(cache: &Path) -> PathBuf {
    fs::create_dir_all(cache).expect("making the folder for test inputs");
    let file = cache.join("debian.tar");
    made_once(&file).expect("making a Debian root filesystem with mmdebstrap");
    file
}

/// Where test inputs that are slow to make are kept between runs.
pub fn cache() -> PathBuf {
    let folder = match std::env::var_os("TARE_TEST_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-cache"),
    };
    fs::create_dir_all(&folder).expect("making the folder for test inputs");
    folder
}

fn made_once(file: &Path) -> Result<()> {
    // Not even a look at the lock: the cache may be read-only to us, as it is for users in a guest.
    if file.exists() {
        return Ok(());
    }
    // Tests run side by side, in threads and in processes: the first makes it, the others wait at the lock.
    let lock = File::create(file.with_extension("lock")).context("making the lock file")?;
    lock.lock().context("locking")?;
    if file.exists() {
        return Ok(());
    }
    let fresh = file.with_extension("new.tar");
    let _ = fs::remove_file(&fresh);
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase"]);
    for option in apt_network_options() {
        command.arg(format!("--aptopt={option}"));
    }
    let release = release()?;
    command.arg(&release).arg(&fresh);
    let sources = tempfile::Builder::new().prefix("tare-sources-").tempdir()?;
    for source in sources_for(&release, sources.path())? {
        command.arg(source);
    }
    let out = crate::machine::outside(|| command.output())
        .context("starting mmdebstrap (Debian package mmdebstrap)")?;
    let why = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "mmdebstrap failed ({}): {}", out.status, why.trim());
    fs::rename(&fresh, file)?;
    Ok(())
}

/// The release of this machine, because its sources are for that one.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// Proxies and the like, which mmdebstrap does not take from the machine by itself.
fn apt_network_options() -> Vec<String> {
    let Ok(out) = Command::new("apt-config").arg("dump").output() else { return Vec::new() };
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter(|line| line.starts_with("Acquire::http::") || line.starts_with("Acquire::https::"))
        .map(str::to_owned)
        .collect()
}

/// The machine's own sources for the release, copied without those of third parties.
fn sources_for(release: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut lines = String::new();
    let mut stanzas = String::new();
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|end| end.to_str()) {
            Some("list") => {
                lines.extend(text.lines().filter(|line| is_line_for(release, line)).map(with_end))
            }
            Some("sources") => {
                stanzas.extend(text.split("\n\n").filter(|part| is_stanza_for(release, part)).map(with_gap));
            }
            _ => {}
        }
    }
    let mut written = Vec::new();
    for (name, text) in [("machine.list", lines), ("machine.sources", stanzas)] {
        if !text.is_empty() {
            fs::write(folder.join(name), text)?;
            written.push(folder.join(name));
        }
    }
    Ok(written)
}

fn with_end(line: &str) -> String {
    format!("{line}\n")
}

fn with_gap(stanza: &str) -> String {
    format!("{}\n\n", stanza.trim_end())
}

/// `deb [options] URI SUITE COMPONENT…` of this release?
fn is_line_for(release: &str, line: &str) -> bool {
    let Some(rest) = line.trim().strip_prefix("deb ") else { return false };
    let rest = match rest.trim_start().strip_prefix('[') {
        Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
        None => rest,
    };
    rest.split_whitespace().nth(1).is_some_and(|suite| is_suite_of(release, suite))
}

/// A deb822 paragraph whose suites are all of this release?
fn is_stanza_for(release: &str, stanza: &str) -> bool {
    let suites = stanza.lines().find_map(|line| line.strip_prefix("Suites:"));
    suites.is_some_and(|suites| suites.split_whitespace().all(|suite| is_suite_of(release, suite)))
}

fn is_suite_of(release: &str, suite: &str) -> bool {
    suite == release || suite.strip_prefix(release).is_some_and(|rest| rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_releases_own_sources_are_taken() {
        assert!(is_line_for("bookworm", "deb http://mirror/debian bookworm main"));
        assert!(is_line_for("bookworm", "deb [signed-by=/k arch=amd64] http://m/d bookworm-updates main"));
        assert!(!is_line_for("bookworm", "deb https://example.org/apt cloud-sdk-bookworm main"));
        assert!(!is_line_for("bookworm", "# deb http://mirror/debian bookworm main"));
        assert!(is_stanza_for("bookworm", "Types: deb\nURIs: http://m\nSuites: bookworm bookworm-updates"));
        assert!(!is_stanza_for("bookworm", "Types: deb\nURIs: http://m\nSuites: nodistro"));
    }
}
