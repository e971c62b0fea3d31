//! `cargo xtask layers`: the rules of the house that the compiler does not know.
//!
//! Calls go down the house, never up. A newcomer who reads a crate therefore only has to know those below it,
//! and a change can only surprise those above it. This check reads cargo's metadata and the sources, and
//! names every place that breaks a rule.

mod source;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::workspace::Workspace;

/// The house, top to bottom: a crate may use those after it, and no others of ours.
const HOUSE: [&str; 11] = [
    "tare",
    "tare-docker",
    "tare-cri",
    "tare-compose",
    "tare-build",
    "tare-engine",
    "tare-image",
    "tare-network",
    "tare-runtime",
    "tare-cgroup",
    "tare-sys",
];

/// Beside the house: they drive the binary as a user would, so they may not know what is inside it.
const OUTSIDE: [&str; 2] = ["xtask", "tare-tests"];

/// The only crate that may write `unsafe`.
const UNSAFE_CRATE: &str = "tare-sys";

/// `cargo xtask layers`.
pub fn chore(words: &[&str]) -> Result<ExitCode> {
    ensure!(words.is_empty(), "layers takes no options");
    let workspace = Workspace::find()?;
    let mut broken = imports(&workspace.metadata);
    let sources = source::check(&workspace)?;
    broken.extend(sources.broken);
    for rule in &broken {
        println!("layers: {rule}");
    }
    if broken.is_empty() {
        println!("layers: {} files keep the rules of the house", sources.files);
        Ok(ExitCode::SUCCESS)
    } else {
        println!("layers: {} broken", broken.len());
        Ok(ExitCode::FAILURE)
    }
}

/// Every import that goes up the house, into it or out of it.
fn imports(metadata: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        if floor(name).is_none() && !OUTSIDE.contains(&name) {
            broken.push(format!("{name} has no floor in the house; give it one in xtask/src/layers.rs"));
            continue;
        }
        for dependency in list(&package["dependencies"]) {
            if let Some(why) = forbidden(name, text(&dependency["name"])) {
                broken.push(why);
            }
        }
    }
    broken
}

/// Why `from` may not use `to`, if it may not. Tests and build scripts are bound as the rest is.
fn forbidden(from: &str, to: &str) -> Option<String> {
    match (floor(from), floor(to)) {
        (Some(upper), Some(lower)) if lower > upper => None,
        (Some(_), Some(_)) => {
            Some(format!("{from} uses {to}, which is above it: calls go down the house only"))
        }
        (Some(_), None) if OUTSIDE.contains(&to) => {
            Some(format!("{from} uses {to}, which is a tool beside the house and no part of it"))
        }
        (None, Some(_)) => {
            Some(format!("{from} uses {to}: it has to drive the binary, not call what is inside"))
        }
        _ => None,
    }
}

fn floor(name: &str) -> Option<usize> {
    HOUSE.iter().position(|room| *room == name)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(packages: &[(&str, &[&str])]) -> Value {
        let package = |(name, uses): &(&str, &[&str])| {
            let dependencies: Vec<Value> = uses.iter().map(|name| json!({ "name": name })).collect();
            json!({ "name": name, "dependencies": dependencies })
        };
        json!({ "packages": packages.iter().map(package).collect::<Vec<_>>() })
    }

    #[test]
    fn imports_may_go_down() {
        let house = metadata(&[
            ("tare", &["tare-engine", "clap"]),
            ("tare-engine", &["tare-sys", "serde"]),
            ("tare-sys", &["libc"]),
            ("xtask", &["anyhow", "tare-tests"]),
            ("tare-tests", &["anyhow"]),
        ]);
        assert_eq!(imports(&house), Vec::<String>::new());
    }

    #[test]
    fn imports_may_not_go_up() {
        let found = imports(&metadata(&[("tare-sys", &["tare-engine"])]));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("tare-sys uses tare-engine"), "{found:?}");
    }

    #[test]
    fn the_tools_stay_outside_and_the_house_does_not_use_them() {
        assert_eq!(imports(&metadata(&[("tare-tests", &["tare-sys"])])).len(), 1);
        assert_eq!(imports(&metadata(&[("tare-engine", &["xtask"])])).len(), 1);
    }

    #[test]
    fn a_crate_nobody_placed_is_noticed() {
        let found = imports(&metadata(&[("tare-shed", &[])]));
        assert!(found[0].contains("no floor"), "{found:?}");
    }
}
