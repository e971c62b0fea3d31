//! How the binary is linked: the choice, and the trial that makes it.
//!
//! The start of a container is short enough that the start of our own process shows in it: a static, non-PIE
//! musl build reaches `main` in about a quarter of a millisecond, a default build takes one to two and a half.
//! So the best linking that this machine can do is taken, each tried on an empty program first. Nothing is
//! ever downloaded for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{output, program};

/// The flags of a static, non-PIE build.
const STATIC: &str = "-C relocation-model=static -C target-feature=+crt-static";

/// One way of linking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linking {
    /// Static, non-PIE, against musl: the fastest start.
    Musl {
        /// The processor, as rustc writes it.
        arch: String,
    },
    /// Static, non-PIE, against glibc: twice as slow to `main`, and still twice as fast as the default.
    Glibc {
        /// The processor, as rustc writes it.
        arch: String,
    },
    /// Whatever cargo does when nobody asks.
    Default,
}

/// The choice, with the reasons why the better ones were not to be had.
#[derive(Debug)]
pub struct Choice {
    /// What was chosen.
    pub linking: Linking,
    /// One sentence for each way that was passed over.
    pub passed_over: Vec<String>,
}

impl Linking {
    /// The target triple to name; `None` leaves it to cargo.
    ///
    /// Naming it matters even where it is the host's own: cargo then keeps the flags away from build scripts
    /// and procedural macros, which cannot be static.
    pub fn target(&self) -> Option<String> {
        match self {
            Linking::Musl { arch } => Some(format!("{arch}-unknown-linux-musl")),
            Linking::Glibc { arch } => Some(format!("{arch}-unknown-linux-gnu")),
            Linking::Default => None,
        }
    }

    /// Gives a cargo command the target and the flags.
    pub fn apply(&self, command: &mut Command) {
        let Some(target) = self.target() else { return };
        command.args(["--target", &target]);
        let inherited = std::env::var("RUSTFLAGS").unwrap_or_default();
        command.env("RUSTFLAGS", format!("{inherited} {STATIC}").trim());
        if matches!(self, Linking::Musl { .. }) {
            // The C parts (zstd) have to meet musl's headers, not glibc's.
            let variable = format!("CC_{}", target.replace('-', "_"));
            if std::env::var_os(&variable).is_none() {
                command.env(variable, "musl-gcc");
            }
        }
    }

    /// Where cargo puts the programs of a profile.
    pub fn folder(&self, target_dir: &Path, profile: &str) -> PathBuf {
        match self.target() {
            Some(target) => target_dir.join(target).join(profile),
            None => target_dir.join(profile),
        }
    }
}

impl fmt::Display for Linking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Linking::Musl { arch } => write!(f, "static musl, non-PIE ({arch})"),
            Linking::Glibc { arch } => write!(f, "static glibc, non-PIE ({arch})"),
            Linking::Default => write!(f, "cargo's default (dynamic glibc, PIE)"),
        }
    }
}

/// Finds the best linking that this machine can do.
pub fn choose(root: &Path) -> Result<Choice> {
    let rustc = Rustc { root: root.to_owned() };
    let arch = rustc.host_arch()?;
    let mut passed_over = Vec::new();

    let musl = Linking::Musl { arch: arch.clone() };
    match rustc.can_musl(&musl) {
        Ok(()) => return Ok(Choice { linking: musl, passed_over }),
        Err(why) => passed_over.push(format!("static musl: {why:#}")),
    }
    let glibc = Linking::Glibc { arch };
    match rustc.links(&glibc) {
        Ok(()) => return Ok(Choice { linking: glibc, passed_over }),
        Err(why) => passed_over.push(format!("static glibc: {why:#} (libc.a is in Debian's libc6-dev)")),
    }
    Ok(Choice { linking: Linking::Default, passed_over })
}

/// The compiler that cargo would use in `root`.
struct Rustc {
    root: PathBuf,
}

impl Rustc {
    fn command(&self) -> Command {
        let name = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let mut command = Command::new(name);
        command.current_dir(&self.root);
        command
    }

    fn host_arch(&self) -> Result<String> {
        let text = output(self.command().arg("-vV"))?;
        host_arch_in(&text).context("`rustc -vV` names no host")
    }

    fn can_musl(&self, musl: &Linking) -> Result<()> {
        let target = musl.target().unwrap_or_default();
        let sysroot = output(self.command().args(["--print", "sysroot"]))?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib").join(&target);
        anyhow::ensure!(
            library.is_dir(),
            "the target {target} is not installed (`rustup target add {target}`)"
        );
        anyhow::ensure!(
            program("musl-gcc").is_some(),
            "there is no musl-gcc for the C parts (Debian package musl-tools)"
        );
        self.links(musl)
    }

    /// Links an empty program in the given way and runs it.
    fn links(&self, linking: &Linking) -> Result<()> {
        let folder = tempfile::tempdir().context("making a folder for the trial")?;
        let source = folder.path().join("empty.rs");
        let program = folder.path().join("empty");
        std::fs::write(&source, "fn main() {}\n")?;
        let mut command = self.command();
        command.args(STATIC.split(' ')).args(["--crate-name", "empty", "-o"]).arg(&program).arg(&source);
        if let Some(target) = linking.target() {
            command.args(["--target", &target]);
        }
        output(&mut command).map_err(|error| {
            // A failed link prints a page; its last words are the ones that say why.
            let text = error.to_string();
            let line = text.lines().rfind(|line| line.contains("cannot find") || line.contains("error"));
            anyhow::anyhow!("an empty program does not link: {}", line.unwrap_or(&text).trim())
        })?;
        output(&mut Command::new(&program)).context("an empty program does not run")?;
        Ok(())
    }
}

fn host_arch_in(version: &str) -> Option<String> {
    let host = version.lines().find_map(|line| line.strip_prefix("host: "))?;
    host.split('-').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_read_from_what_rustc_prints() {
        let text = "rustc 1.95.0\nbinary: rustc\nhost: aarch64-unknown-linux-gnu\n";
        assert_eq!(host_arch_in(text).as_deref(), Some("aarch64"));
        assert_eq!(host_arch_in("rustc 1.95.0\n"), None);
    }

    #[test]
    fn a_named_target_has_its_own_folder() {
        let glibc = Linking::Glibc { arch: "x86_64".to_owned() };
        assert_eq!(glibc.folder(Path::new("/t"), "ci"), Path::new("/t/x86_64-unknown-linux-gnu/ci"));
        assert_eq!(Linking::Default.folder(Path::new("/t"), "ci"), Path::new("/t/ci"));
    }

    #[test]
    fn static_flags_go_with_an_explicit_target_only() {
        let mut command = Command::new("cargo");
        Linking::Default.apply(&mut command);
        assert_eq!(command.get_args().count(), 0);
        Linking::Musl { arch: "x86_64".to_owned() }.apply(&mut command);
        assert!(command.get_args().any(|word| word == "x86_64-unknown-linux-musl"));
        assert!(command.get_envs().any(|(name, _)| name == "RUSTFLAGS"));
    }
}
