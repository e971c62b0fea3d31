//! What devices of the Container Device Interface change in the container that gets them. Their nodes are among
//! [`Facts::devices`](super::Facts).

use std::path::Path;

use oci_spec::runtime::{Hook, HookBuilder, Hooks, Mount, MountBuilder};
use tare_sys::{Error, Kind, Result};

use super::mounts::{inside, known_propagation};
use super::spec_error;
use crate::cdi::{self, Edits};

/// Options of mounts that mean something for a bind mount.
const OPTIONS: [&str; 13] = [
    "ro", "rro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "bind", "rbind", "noatime",
    "relatime",
];

/// Its variables take the place of all others of the same name, as under Docker.
pub fn set_env(edits: &Edits, env: &mut Vec<String>) {
    for pair in &edits.env {
        let key = pair.split('=').next();
        env.retain(|known| known.split('=').next() != key);
        env.push(pair.clone());
    }
}

/// Its mounts, but for those whose places are taken. `idmap`: see [`bind`](super::mounts).
pub fn add_mounts(edits: &Edits, idmap: Option<&'static str>, own: &mut Vec<Mount>) -> Result<()> {
    for asked in &edits.mounts {
        let destination = inside(&asked.container_path.to_string_lossy())?;
        if own.iter().any(|mount| mount.destination() == &destination) {
            continue;
        }
        let mut options: Vec<&str> = asked.options.iter().map(String::as_str).collect();
        if let Some(odd) =
            options.iter().find(|word| !OPTIONS.contains(word) && known_propagation(word).is_err())
        {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "mount {} for a CDI device: {odd:?} is not a known option",
                    asked.host_path.display()
                ),
            ));
        }
        if !options.iter().any(|word| matches!(*word, "bind" | "rbind")) {
            options.push("rbind");
        }
        if !options.iter().any(|word| known_propagation(word).is_ok()) {
            options.push("rprivate");
        }
        options.extend(idmap);
        own.push(
            MountBuilder::default()
                .destination(destination)
                .typ("bind")
                .source(asked.host_path.as_path())
                .options(options.into_iter().map(str::to_owned).collect::<Vec<_>>())
                .build()
                .map_err(spec_error)?,
        );
    }
    Ok(())
}

/// Its hooks, in their order.
pub fn hooks(edits: &Edits) -> Result<Option<Hooks>> {
    if edits.hooks.is_empty() {
        return Ok(None);
    }
    let [prestart, create_runtime, create_container, start_container] = cdi::HOOKS.map(|point| {
        let of_point = edits.hooks.iter().filter(|hook| hook.hook_name == point);
        of_point.map(hook).collect::<Result<Vec<_>>>()
    });
    let mut hooks = Hooks::default();
    // Its name is deprecated, and specs have it.
    #[allow(deprecated)]
    hooks.set_prestart(Some(prestart?));
    hooks.set_create_runtime(Some(create_runtime?));
    hooks.set_create_container(Some(create_container?));
    hooks.set_start_container(Some(start_container?));
    Ok(Some(hooks))
}

fn hook(asked: &cdi::Hook) -> Result<Hook> {
    let mut hook = HookBuilder::default().path(Path::new(&asked.path)).build().map_err(spec_error)?;
    hook.set_args((!asked.args.is_empty()).then(|| asked.args.clone()));
    hook.set_env((!asked.env.is_empty()).then(|| asked.env.clone()));
    hook.set_timeout(asked.timeout.filter(|seconds| *seconds > 0));
    Ok(hook)
}
