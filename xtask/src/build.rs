//! `cargo xtask build` and `cargo xtask install`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::linking::{self, Linking};
use crate::workspace::{self, Workspace, option};

/// The name under which the binary is an OCI runtime.
const RUNTIME: &str = "tare-oci";

/// What a build left behind.
#[derive(Debug)]
pub struct Built {
    /// The binary, at the place where every chore and document expects it. The OCI runtime lies beside it.
    pub binary: PathBuf,
}

/// `cargo xtask build [--profile release|ci]`.
pub fn build_chore(mut words: &[&str]) -> Result<ExitCode> {
    let mut profile = "release";
    while !words.is_empty() {
        match option(&mut words, "--profile")? {
            Some(name @ ("release" | "ci")) => profile = name,
            Some(other) => bail!("there is no profile `{other}`: it is release or ci"),
            None => bail!("build does not know `{}`", words[0]),
        }
    }
    let workspace = Workspace::find()?;
    let linking = announce_linking(&workspace)?;
    build(&workspace, &linking, profile)?;
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask install [--prefix DIR]`.
pub fn install_chore(mut words: &[&str]) -> Result<ExitCode> {
    let mut prefix = "/usr/local";
    while !words.is_empty() {
        match option(&mut words, "--prefix")? {
            Some(folder) => prefix = folder,
            None => bail!("install does not know `{}`", words[0]),
        }
    }
    let workspace = Workspace::find()?;
    let linking = announce_linking(&workspace)?;
    let built = build(&workspace, &linking, "release")?;
    let folder = Path::new(prefix).join("bin");
    let installed = folder.join("tare");
    fs::create_dir_all(&folder)
        .and_then(|()| put(&built.binary, &installed))
        .and_then(|()| link(&installed))
        .with_context(|| format!("installing {} (root, or another --prefix?)", installed.display()))?;
    println!("Installed {} and {RUNTIME} beside it", installed.display());
    Ok(ExitCode::SUCCESS)
}

/// Chooses the linking and says which it is and why it is not a better one.
pub fn announce_linking(workspace: &Workspace) -> Result<Linking> {
    let choice = linking::choose(&workspace.root)?;
    println!("Linking: {}", choice.linking);
    for reason in &choice.passed_over {
        println!("    not {reason}");
    }
    Ok(choice.linking)
}

/// Builds the binary and puts it at `target/bin/tare`.
pub fn build(workspace: &Workspace, linking: &Linking, profile: &str) -> Result<Built> {
    let mut command = workspace.cargo();
    command.args(["build", "--package", "tare", "--bin", "tare", "--profile", profile]);
    linking.apply(&mut command);
    if let Some(commit) = commit(workspace) {
        // `tare-oci --version` says it, as engines want to know it.
        command.env("TARE_COMMIT", commit);
    }
    workspace::run(&mut command)?;

    let made = linking.folder(&workspace.target, profile).join("tare");
    let binary = workspace.target.join("bin/tare");
    fs::create_dir_all(workspace.target.join("bin"))?;
    put(&made, &binary)
        .and_then(|()| link(&binary))
        .with_context(|| format!("putting the binary at {}", binary.display()))?;
    let size = fs::metadata(&binary)?.len();
    println!("Built {} ({}, profile {profile}, {:.1} MB)", binary.display(), linking, size as f64 / 1e6);
    Ok(Built { binary })
}

/// Builds an example program of a package, by the profile of the tests, and tells where it is.
pub fn example(workspace: &Workspace, linking: &Linking, package: &str, name: &str) -> Result<PathBuf> {
    let mut command = workspace.cargo();
    command.args(["build", "--package", package, "--example", name, "--profile", "ci"]);
    linking.apply(&mut command);
    workspace::run(&mut command)?;
    Ok(linking.folder(&workspace.target, "ci").join("examples").join(name))
}

/// Copies a program to its place in one step, so that one that is running there goes on with the old file.
fn put(from: &Path, to: &Path) -> std::io::Result<()> {
    let fresh = to.with_extension(format!("new-{}", std::process::id()));
    // A copy, not a hard link: cargo rewrites its own file in place, which a running container would notice.
    fs::copy(from, &fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    fs::rename(&fresh, to)
}

/// Makes the link beside `binary` under which it is the OCI runtime, in one step.
fn link(binary: &Path) -> std::io::Result<()> {
    let link = binary.with_file_name(RUNTIME);
    let target = binary.file_name().unwrap_or_default();
    if fs::read_link(&link).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let fresh = link.with_extension(format!("new-{}", std::process::id()));
    symlink(target, &fresh)?;
    fs::rename(&fresh, &link)
}

/// What is built, if this is a git checkout.
fn commit(workspace: &Workspace) -> Option<String> {
    let out = Command::new("git").arg("-C").arg(&workspace.root).args(["rev-parse", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(out.stdout).ok()?.trim().to_owned();
    (out.status.success() && !commit.is_empty()).then_some(commit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn putting_replaces_the_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("made"), folder.path().join("tare"));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        put(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "new");
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_runtime_is_a_link_beside_the_binary() {
        let folder = tempfile::tempdir().unwrap();
        let (binary, runtime) = (folder.path().join("tare"), folder.path().join("tare-oci"));
        fs::write(&binary, "program").unwrap();
        fs::write(&runtime, "something else").unwrap();
        for _ in 0..2 {
            link(&binary).unwrap();
            assert_eq!(fs::read_link(&runtime).unwrap(), Path::new("tare"));
            assert_eq!(fs::read(&runtime).unwrap(), b"program");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
