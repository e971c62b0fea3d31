//! Where things are in this tree, and how to start programs from it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The workspace, as cargo sees it.
#[derive(Debug)]
pub struct Workspace {
    /// The folder of the top Cargo.toml.
    pub root: PathBuf,
    /// Where cargo puts what it builds.
    pub target: PathBuf,
    /// `cargo metadata --no-deps`, for those who need more of it.
    pub metadata: Value,
}

impl Workspace {
    /// Asks cargo.
    pub fn find() -> Result<Workspace> {
        // xtask lies one folder below the root, wherever it was called from.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
        let text = output(
            Command::new(cargo()).args(["metadata", "--format-version", "1", "--no-deps"]).current_dir(root),
        )?;
        let metadata: Value =
            serde_json::from_str(&text).context("reading the answer of `cargo metadata`")?;
        let target =
            metadata["target_directory"].as_str().context("`cargo metadata` names no target folder")?;
        Ok(Workspace { root: root.to_owned(), target: PathBuf::from(target), metadata })
    }

    /// A cargo command in the root folder.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root);
        command
    }
}

/// The cargo that runs us, so that a pinned toolchain stays pinned.
fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Runs a program and returns what it prints; fails when it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        bail!("{name} failed ({}): {}", out.status, why.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a program with our own stdout and stderr; fails when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let line = shell_line(command);
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Where a program is, if it is installed. The sbin folders count: they are not in everybody's PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Is this process root?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The command as a person would type it, without its environment.
pub fn shell_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// One word quoted for a shell, if it needs it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Takes `--name VALUE` or `--name=VALUE` from the front of `words`, if it is there.
pub fn option<'a>(words: &mut &[&'a str], name: &str) -> Result<Option<&'a str>> {
    let Some((first, rest)) = words.split_first() else { return Ok(None) };
    if let Some(value) = first.strip_prefix(name).and_then(|tail| tail.strip_prefix('=')) {
        *words = rest;
        return Ok(Some(value));
    }
    if *first != name {
        return Ok(None);
    }
    let Some((value, rest)) = rest.split_first() else { bail!("{name} needs a value") };
    *words = rest;
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_a_shell_would_stumble() {
        assert_eq!(quoted("--memory=64m"), "--memory=64m");
        assert_eq!(quoted("two words"), "'two words'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn options_are_taken_in_both_spellings() {
        let mut words: &[&str] = &["--runs", "3", "--runs=4", "rest"];
        assert_eq!(option(&mut words, "--runs").unwrap(), Some("3"));
        assert_eq!(option(&mut words, "--runs").unwrap(), Some("4"));
        assert_eq!(option(&mut words, "--runs").unwrap(), None);
        assert_eq!(words, ["rest"]);
        let mut alone: &[&str] = &["--runs"];
        assert!(option(&mut alone, "--runs").is_err());
    }
}
