//! Reading a bundle's `config.json`.

use std::path::Path;

use oci_spec::runtime::{Capability, LinuxSchedulerFlag, Spec};
use serde_json::Value;
use tare_sys::{Context, Error, Kind, Result};

/// The version of the runtime specification that this follows.
pub const VERSION: &str = "1.3.0";

/// Longest `config.json`, bytes.
const LONGEST: u64 = 16 << 20;

/// Reads a file of ours or a caller's, of which the format bounds the length.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let what = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).doing(|| format!("open({path:?})")).doing(what)?;
    if let Ok(meta) = file.metadata() {
        bytes.reserve_exact(meta.len().min(LONGEST) as usize + 1);
    }
    file.take(LONGEST + 1).read_to_end(&mut bytes).doing(what)?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::new(Kind::Usage, format!("{}: it is longer than {LONGEST} bytes", what())));
    }
    Ok(bytes)
}

/// Understands a `config.json`; `path` is for the error alone.
///
/// Any 1.x version is taken: a minor version only adds (runtime-spec, spec.md), and a field that we do not know
/// asks for something that its writer says may be ignored.
///
/// Errors: [`Kind::Usage`], with the place in the text.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Spec> {
    let spec: Spec = serde_json::from_slice(bytes).or_else(|err| {
        // Once more, with what newer kernels and specifications name and ours does not yet.
        let tamed = tame(bytes).and_then(|value| serde_json::from_value(value).ok());
        tamed.ok_or_else(|| {
            Error::new(Kind::Usage, format!("read {}: {err}", path.display()))
                .hint("see the runtime specification's config.md; `tare-oci spec` writes one that works")
        })
    })?;
    let refuse = |what: String| Err(Error::new(Kind::Usage, format!("{}: {what}", path.display())));
    let major = spec.version().split('.').next().unwrap_or_default();
    if major != "1" {
        return refuse(format!("ociVersion {:?} is not a version that this knows: 1.x", spec.version()));
    }
    if spec.root().is_none() {
        return refuse("root is missing".to_owned());
    }
    let Some(process) = spec.process() else { return refuse("process is missing".to_owned()) };
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return refuse("process.args must not be empty".to_owned());
    }
    if !process.cwd().is_absolute() {
        return refuse(format!("process.cwd {:?}: Cwd must be an absolute path", process.cwd()));
    }
    if spec.linux().is_none() {
        return refuse("linux is missing: this runs Linux containers".to_owned());
    }
    Ok(spec)
}

/// Takes out capabilities that no kernel we know has, as runc does: what is not there cannot be given. Spells the
/// scheduler's flags as the library reads them.
fn tame(bytes: &[u8]) -> Option<Value> {
    let mut config: Value = serde_json::from_slice(bytes).ok()?;
    let process = config.get_mut("process")?;
    if let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.retain(|name| serde_json::from_value::<Capability>(name.clone()).is_ok());
        }
    }
    let flags = process.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        let known = match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => LinuxSchedulerFlag::SchedResetOnFork,
            Some("SCHED_FLAG_DL_OVERRUN") => LinuxSchedulerFlag::SchedFlagDLOverrun,
            _ => continue,
        };
        *flag = serde_json::to_value(known).ok()?;
    }
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(process: &str) -> Result<Spec> {
        let text = format!(
            r#"{{"ociVersion":"1.9.9","root":{{"path":"x"}},"linux":{{}},"process":{{"cwd":"/","args":["x"],"user":{{"uid":0,"gid":0}}{process}}}}}"#
        );
        parse(text.as_bytes(), Path::new("config.json"))
    }

    #[test]
    fn what_is_newer_than_we_is_no_error() {
        let spec = parse_text(
            r#","capabilities":{"bounding":["CAP_KILL","CAP_OF_TOMORROW"]},"scheduler":{"policy":"SCHED_OTHER","flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN"]}"#,
        )
        .unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
        assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 2);
    }

    #[test]
    fn a_spec_without_sense_is_refused_with_its_place() {
        assert!(parse_text("").is_ok());
        for bad in [r#","terminal":"yes""#, r#","rlimits":[{"type":"RLIMIT_X","hard":1,"soft":1}]"#] {
            let err = parse_text(bad).unwrap_err();
            assert_eq!(err.kind(), Kind::Usage);
            assert!(err.to_string().contains("config.json"), "{err}");
        }
        for bad in ["", "{}", "[]", r#"{"ociVersion":"2.0.0","root":{"path":"x"}}"#, "\u{0}"] {
            assert_eq!(parse(bad.as_bytes(), Path::new("c")).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }
}
