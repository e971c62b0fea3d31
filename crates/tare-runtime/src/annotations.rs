//! The annotations `run.oci.*` of a spec, by which crun's users ask for what the specification has no field for
//! (crun(1), "Annotations"). Those that we do:
//!
//! | annotation                        | means                                                                  |
//! |-----------------------------------|------------------------------------------------------------------------|
//! | `run.oci.keep_original_groups`    | the process keeps the caller's additional groups                       |
//! | `run.oci.hooks.stdout`, `.stderr` | hooks, but for `startContainer`, append to this file what they write   |
//! | `run.oci.pidfd_receiver`          | as `--pidfd-socket`                                                    |
//! | `run.oci.seccomp.receiver`        | as `linux.seccomp.listenerPath`                                        |
//! | `run.oci.mount_context_type`      | which mount option carries `mountLabel`: `context`, `fscontext`, …     |
//!
//! Others of this prefix change how a container is confined or what runs in it, so they are refused rather than
//! passed over. Annotations of other prefixes are the caller's own (runtime-spec, config.md, "Annotations").

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::Spec;
use tare_sys::{Error, Kind, Result};

/// Whether the process keeps the additional groups that the caller has.
pub const KEEP_GROUPS: &str = "run.oci.keep_original_groups";
/// Where hooks write to.
pub const HOOKS_OUT: &str = "run.oci.hooks.stdout";
/// Where hooks complain.
pub const HOOKS_ERR: &str = "run.oci.hooks.stderr";
/// Who is sent a pidfd of the process.
pub const PIDFD_RECEIVER: &str = "run.oci.pidfd_receiver";
const SECCOMP_RECEIVER: &str = "run.oci.seccomp.receiver";
const MOUNT_CONTEXT_TYPE: &str = "run.oci.mount_context_type";

const KNOWN: [&str; 6] =
    [KEEP_GROUPS, HOOKS_OUT, HOOKS_ERR, PIDFD_RECEIVER, SECCOMP_RECEIVER, MOUNT_CONTEXT_TYPE];

/// Mount options that carry a label of SELinux (mount(8)).
const CONTEXT_TYPES: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];

/// An annotation's value.
pub fn get<'a>(annotations: &'a Option<HashMap<String, String>>, name: &str) -> Option<&'a str> {
    annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether an annotation says yes.
pub fn on(annotations: &Option<HashMap<String, String>>, name: &str) -> bool {
    matches!(get(annotations, name), Some("1" | "true"))
}

/// The spec's label for new mounts, if it has one, as a mount option and its value.
pub fn mount_label(spec: &Spec) -> Result<Option<(&str, &str)>> {
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(None) };
    match get(spec.annotations(), MOUNT_CONTEXT_TYPE) {
        None => Ok(Some(("context", label))),
        Some(name) if CONTEXT_TYPES.contains(&name) => Ok(Some((name, label))),
        Some(other) => Err(Error::new(
            Kind::Usage,
            format!("annotation {MOUNT_CONTEXT_TYPE}: there is no mount option {other:?} for a label"),
        )
        .hint(format!("it is one of {}", CONTEXT_TYPES.join(", ")))),
    }
}

/// Checks the annotations, and puts those into the spec that have a field there.
pub fn apply(spec: &mut Spec) -> Result<()> {
    let all = spec.annotations().clone().unwrap_or_default();
    let unknown = all.keys().filter(|name| name.starts_with("run.oci.") && !KNOWN.contains(&name.as_str()));
    if let Some(name) = unknown.min() {
        return Err(Error::new(
            Kind::Unsupported,
            format!("annotation {name}: this runtime does not do that"),
        )
        .hint("leave it out, or run this container with crun"));
    }
    let seccomp = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut());
    if let (Some(receiver), Some(seccomp)) = (all.get(SECCOMP_RECEIVER), seccomp) {
        if !Path::new(receiver).is_absolute() {
            return Err(Error::new(
                Kind::Usage,
                format!("annotation {SECCOMP_RECEIVER}: {receiver:?} is not an absolute path"),
            ));
        }
        if seccomp.listener_path().is_none() {
            seccomp.set_listener_path(Some(receiver.into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Linux;

    use super::*;

    fn spec(name: &str, value: &str) -> Spec {
        let mut spec = Spec::default();
        spec.set_annotations(Some(HashMap::from([(name.to_owned(), value.to_owned())])));
        spec
    }

    #[test]
    fn what_would_confine_otherwise_is_refused_and_others_pass() {
        assert!(apply(&mut spec("org.example.note", "x")).is_ok());
        for name in ["run.oci.handler", "run.oci.seccomp.plugins", "run.oci.seccomp_bpf_data"] {
            let err = apply(&mut spec(name, "x")).unwrap_err();
            assert!(err.kind() == Kind::Unsupported && err.to_string().contains(name), "{err:?}");
        }
    }

    #[test]
    fn the_option_for_a_label_is_one_that_there_is() {
        let labelled = |mut spec: Spec| {
            let mut linux = Linux::default();
            linux.set_mount_label(Some("x:y:z".to_owned()));
            spec.set_linux(Some(linux));
            spec
        };
        assert_eq!(mount_label(&spec(MOUNT_CONTEXT_TYPE, "uid")).unwrap(), None, "nothing to carry");
        assert_eq!(mount_label(&labelled(Spec::default())).unwrap(), Some(("context", "x:y:z")));
        let root = labelled(spec(MOUNT_CONTEXT_TYPE, "rootcontext"));
        assert_eq!(mount_label(&root).unwrap(), Some(("rootcontext", "x:y:z")));
        assert!(mount_label(&labelled(spec(MOUNT_CONTEXT_TYPE, "uid"))).is_err());
    }
}
