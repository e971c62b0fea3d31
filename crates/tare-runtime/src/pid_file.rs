//! The file that tells a caller which process the container is.

use std::path::Path;

use rustix::process::Pid;
use tare_sys::{Context, Result};

/// Writes the number, without a line end as runc does. A reader never sees half of it: it is renamed into place.
pub fn write(path: &Path, pid: Pid) -> Result<()> {
    let what = || format!("write the pid file {}", path.display());
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    std::fs::write(&fresh, pid.as_raw_nonzero().to_string()).doing(what)?;
    std::fs::rename(&fresh, path).doing(what)
}
