//! The built-in image `host`: the machine's own root file system, less its private parts.
//!
//! Nothing is downloaded and nothing is copied: overlayfs lays a *veil* over the host's `/`, and a throw-away
//! layer in memory over that. What the veil lets through is a short list of what belongs to the system and not
//! to its users; of `/etc`, only what an ordinary user of the host may read. The veil is made anew for each
//! container, because the host changes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tare_runtime::rootfs::{Cover, Veiled};
use tare_sys::{Context, Result};

/// The name of the image.
pub const NAME: &str = "host";

/// Of `/`: shown as they are.
const SHOWN: [&str; 9] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32", "usr", "etc"];
/// Of `/`: there, but empty. The rest is gone.
const EMPTY: [(&str, u32); 13] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
];
/// Of the empty `/var`: the folders that programs expect.
const VAR: [(&str, u32); 8] = [
    ("backups", 0o755),
    ("cache", 0o755),
    ("lib", 0o755),
    ("local", 0o755),
    ("log", 0o755),
    ("mail", 0o775),
    ("spool", 0o755),
    ("tmp", 0o1777),
];
/// How deep `/etc` is searched; deeper folders are covered whole.
const DEPTH: usize = 8;

/// What to cover on this host, now. `root` is `/`; another folder in tests.
pub fn veil(root: &Path) -> Result<Vec<Veiled>> {
    let mut veil = Vec::new();
    for entry in fs::read_dir(root).doing(|| format!("list {}", root.display()))? {
        let entry = entry.doing(|| format!("list {}", root.display()))?;
        let name = entry.file_name();
        let path = PathBuf::from(&name);
        if SHOWN.iter().any(|shown| name == *shown) {
            continue;
        }
        // A link (/var/run -> /run) would be followed by nobody here: overlayfs covers the name.
        match EMPTY.iter().find(|(empty, _)| name == *empty) {
            Some((_, mode)) => veil.push(Veiled { path, cover: Cover::Empty(*mode) }),
            None => veil.push(Veiled { path, cover: Cover::Gone }),
        }
    }
    if veil.iter().any(|veiled| veiled.path == Path::new("var")) {
        veil.extend(
            VAR.map(|(name, mode)| Veiled { path: Path::new("var").join(name), cover: Cover::Empty(mode) }),
        );
    }
    for folder in ["etc", "usr/local/etc"] {
        cover_private(root, Path::new(folder), DEPTH, &mut veil)?;
    }
    Ok(veil)
}

/// Covers, below `folder`, what others may not read. Says whether there was any.
fn cover_private(root: &Path, folder: &Path, depth: usize, veil: &mut Vec<Veiled>) -> Result<()> {
    let path = root.join(folder);
    let Ok(entries) = fs::read_dir(&path) else { return Ok(()) };
    for entry in entries {
        let entry = entry.doing(|| format!("list {}", path.display()))?;
        let inside = folder.join(entry.file_name());
        // Not followed: a link is only a name, and leads to what is covered there or is not.
        let Ok(meta) = entry.metadata() else { continue };
        let public = match meta.file_type() {
            kind if kind.is_symlink() => true,
            kind if kind.is_dir() => meta.mode() & 0o005 == 0o005 && depth > 0,
            kind if kind.is_file() => meta.mode() & 0o004 != 0,
            // Sockets, pipes and devices lead to the host's own processes.
            _ => false,
        };
        if !public {
            add_parents(root, folder, veil)?;
            veil.push(Veiled { path: inside, cover: Cover::Gone });
        } else if meta.is_dir() {
            cover_private(root, &inside, depth - 1, veil)?;
        }
    }
    Ok(())
}

/// The folders that lead to something covered must be in the veil as well, with their own modes.
fn add_parents(root: &Path, folder: &Path, veil: &mut Vec<Veiled>) -> Result<()> {
    let mut so_far = PathBuf::new();
    for part in folder.components() {
        so_far.push(part);
        if !veil.iter().any(|veiled| veiled.path == so_far) {
            let meta = fs::metadata(root.join(&so_far)).doing(|| format!("stat {}", so_far.display()))?;
            let mode = meta.permissions().mode() & 0o7777;
            veil.push(Veiled { path: so_far.clone(), cover: Cover::Parent(mode) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(veil: &[Veiled], path: &str) -> Option<Cover> {
        veil.iter().find(|veiled| veiled.path == Path::new(path)).map(|veiled| veiled.cover)
    }

    #[test]
    fn private_parts_are_covered_and_the_system_is_not() {
        let root = tempfile::tempdir().unwrap();
        let r = root.path();
        for dir in ["usr/bin", "etc/ssl/private", "etc/app", "home/alice", "root", "secrets", "var/lib/mysql"]
        {
            fs::create_dir_all(r.join(dir)).unwrap();
        }
        for (file, mode) in
            [("etc/passwd", 0o644), ("etc/shadow", 0o640), ("etc/app/key", 0o600), ("etc/app/conf", 0o644)]
        {
            fs::write(r.join(file), "x").unwrap();
            fs::set_permissions(r.join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(r.join("etc/ssl/private"), fs::Permissions::from_mode(0o710)).unwrap();
        let veil = veil(r).unwrap();
        assert_eq!(covers(&veil, "home"), Some(Cover::Empty(0o755)));
        assert_eq!(covers(&veil, "root"), Some(Cover::Empty(0o700)));
        assert_eq!(covers(&veil, "secrets"), Some(Cover::Gone));
        assert_eq!(covers(&veil, "var"), Some(Cover::Empty(0o755)));
        assert_eq!(covers(&veil, "etc/shadow"), Some(Cover::Gone));
        assert_eq!(covers(&veil, "etc/app/key"), Some(Cover::Gone));
        assert_eq!(covers(&veil, "etc/ssl/private"), Some(Cover::Gone));
        assert!(matches!(covers(&veil, "etc/app"), Some(Cover::Parent(_))));
        for shown in ["usr", "usr/bin", "etc/passwd", "etc/app/conf"] {
            assert_eq!(covers(&veil, shown), None, "{shown}");
        }
        let at = |path: &str| veil.iter().position(|veiled| veiled.path == Path::new(path)).unwrap();
        assert!(at("etc") < at("etc/app") && at("etc/app") < at("etc/app/key"), "parents come first");
    }
}
