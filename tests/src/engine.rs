//! Real engines on top of the OCI runtime: containerd, Docker, Podman as Debian has them.
//!
//! Starting a daemon takes seconds, so an engine is started once for many behaviours. A `static` would never be
//! dropped, and its daemon would stay: therefore each engine has one `#[test]`, which owns the engine, runs all
//! behaviours as [`Steps`] and says at the end which of them do not hold. Every file, socket, cgroup and runtime
//! state of an engine carries the name of its [`Scratch`] folder, so that what is left can be told.
//!
//! `TARE_TEST_RUNTIME=/usr/sbin/runc` puts another runtime under the engines: what fails with runc as well is a
//! mistake of the test. `TARE_TEST_STEP=WORD` runs only the behaviours that have the word in their name.

pub mod archive;
pub mod bundle;
pub mod client;
pub mod containerd;
pub mod docker;
pub mod podman;
pub mod scratch;
pub mod shared;
pub mod steps;

use std::path::{Path, PathBuf};

pub use client::Client;
pub use containerd::Containerd;
pub use docker::Docker;
pub use podman::Podman;
pub use scratch::Scratch;
pub use steps::Steps;

/// The runtime under test: `tare-oci` beside the binary, unless `TARE_TEST_RUNTIME` names another.
#[track_caller]
pub fn runtime() -> PathBuf {
    let runtime = match std::env::var_os("TARE_TEST_RUNTIME") {
        Some(runtime) => PathBuf::from(runtime),
        None => crate::host::binary().with_file_name("tare-oci"),
    };
    assert!(
        runtime.is_file(),
        "there is no runtime at {}: `cargo xtask build` makes it, or TARE_TEST_RUNTIME names another",
        runtime.display()
    );
    std::path::absolute(runtime).expect("a path")
}

/// Where a program is; the sbin folders count.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Are these programs installed? Says which are not, for the output of a test that cannot be made.
pub fn installed(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|name| program(name).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("not tried: not installed are {missing:?} (Debian packages containerd, docker.io, podman)");
    }
    missing.is_empty()
}

/// A path as text: the folders of these tests have plain names.
fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}
