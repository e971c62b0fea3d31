//! `spec`: a config.json to begin with, as runc writes it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tare_sys::{Context, Error, Kind, Result};

use super::Call;
use crate::words::flag::Flag;

pub static SPEC: [Flag; 3] = [
    Flag::one("bundle", "dir", "/srv/bundle", "Write it into this folder (default: the current one)")
        .short('b'),
    Flag::one("file", "file", "/srv/config.json", "Write it to this file").short('f'),
    Flag::switch("rootless", "For a container of a user who is not root"),
];

const DEFAULT: &str = include_str!("spec/default.json");
/// With `"UID"` and `"GID"` where the caller's numbers go.
const ROOTLESS: &str = include_str!("spec/rootless.json");

pub fn spec(call: &Call) -> Result<u8> {
    let folder = call.given.text("bundle").map_or_else(PathBuf::new, PathBuf::from);
    let file = folder.join(call.given.text("file").unwrap_or("config.json"));
    let text = if call.given.on("rootless")? { rootless() } else { DEFAULT.to_owned() };
    write(&file, &text)?;
    Ok(0)
}

fn rootless() -> String {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    ROOTLESS.replace("\"UID\"", &uid.to_string()).replace("\"GID\"", &gid.to_string())
}

/// Never over what somebody may have worked on.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
            let what = format!("File {} exists. Remove it first", path.display());
            return Err(Error::new(Kind::Conflict, what));
        }
        opened => opened.doing(|| format!("create {}", path.display()))?,
    };
    file.write_all(text.as_bytes()).doing(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxNamespaceType, Spec};

    #[test]
    fn both_are_specs_of_the_version_that_we_follow() {
        for text in [DEFAULT.to_owned(), rootless()] {
            let spec: Spec = serde_json::from_str(&text).unwrap();
            assert_eq!(spec.version(), crate::oci::SPEC_VERSION);
        }
    }

    #[test]
    fn without_root_there_is_a_user_namespace_and_no_limit() {
        let spec: Spec = serde_json::from_str(&rootless()).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        let maps = [linux.uid_mappings(), linux.gid_mappings()];
        let host = maps.map(|map| map.as_ref().unwrap()[0].host_id());
        assert_eq!(host, [rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()]);
        assert!(linux.resources().is_none());
        let kinds: Vec<_> = linux.namespaces().iter().flatten().map(|namespace| namespace.typ()).collect();
        assert!(kinds.contains(&LinuxNamespaceType::User) && !kinds.contains(&LinuxNamespaceType::Network));
    }
}
