//! The test programs, compiled by cargo, which tells where they are.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::suite::Suite;

/// A compiled file of a package's `tests` folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    /// The package.
    pub package: String,
    /// The file's name without its end.
    pub name: String,
    /// The executable.
    pub path: String,
}

/// Compiles what is not compiled yet, and lists all.
pub fn compile(suite: &Suite) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    // In the two calls that the other lanes make, so that cargo chooses the same features and finds all of it
    // compiled.
    let selections: [&[&str]; 2] =
        [&["--workspace", "--exclude", "tare-tests"], &["--package", "tare-tests"]];
    for selection in selections {
        let mut command = suite.compiling(["test"]);
        command.args(selection).args(["--no-run", "--message-format", "json-render-diagnostics"]);
        let out = command.stderr(Stdio::inherit()).output().context("starting cargo")?;
        if !out.status.success() {
            bail!("compiling the tests failed ({})", out.status);
        }
        programs.extend(String::from_utf8_lossy(&out.stdout).lines().filter_map(program));
    }
    programs.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    Ok(programs)
}

/// The program that a line of cargo's is about, if it is an integration test.
fn program(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = &message["target"];
    let kind = target["kind"].as_array()?;
    if !kind.iter().any(|kind| kind == "test") {
        return None;
    }
    // path+file:///work/crates/tare-cgroup#0.1.0, or with the name before an @ where the folder has another.
    let id = message["package_id"].as_str()?;
    let (place, version) = id.rsplit_once('#')?;
    let package = match version.split_once('@') {
        Some((name, _)) => name,
        None => place.rsplit('/').next()?,
    };
    Some(Program {
        package: package.to_owned(),
        name: target["name"].as_str()?.to_owned(),
        path: message["executable"].as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn integration_tests_are_found_by_both_forms_of_a_package_id() {
        let line = |id: &str, kind: &str| {
            let target = json!({ "kind": [kind], "name": "effects" });
            json!({ "reason": "compiler-artifact", "package_id": id, "target": target, "executable": "/e" })
                .to_string()
        };
        let found = program(&line("path+file:///w/crates/tare-cgroup#0.1.0", "test")).unwrap();
        assert_eq!((&*found.package, &*found.name, &*found.path), ("tare-cgroup", "effects", "/e"));
        let found = program(&line("path+file:///w/tests#tare-tests@0.1.0", "test")).unwrap();
        assert_eq!(found.package, "tare-tests");
        assert_eq!(program(&line("path+file:///w/crates/tare-cgroup#0.1.0", "lib")), None);
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
