//! What the runtime prints for programs: state, list, ps, events, spec, features.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};
use tare_tests::bundle::is_ours;
use tare_tests::{Bundle, eventually};

#[test]
fn the_state_has_the_fields_that_engines_read_in_runcs_order() {
    let bundle = Bundle::new();
    bundle.config(|config| config["annotations"] = json!({ "org.example.a": "b" }));
    bundle.detached(&[]);
    let text = bundle.verb("state", &[]).run().ok();
    let state: Value = serde_json::from_str(&text).expect("JSON");
    assert!(state["ociVersion"].as_str().is_some_and(|version| version.starts_with("1.")));
    assert_eq!(state["id"], bundle.id());
    assert_eq!(state["status"], "running");
    assert_eq!(state["bundle"], bundle.path().to_str().expect("text"));
    assert_eq!(state["rootfs"], bundle.rootfs().to_str().expect("text"));
    assert_eq!(state["annotations"]["org.example.a"], "b");
    assert!(state["created"].as_str().is_some_and(|time| time.ends_with('Z') && time.len() > 20), "{text}");
    let keys = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"];
    let places: Vec<_> = keys.map(|key| text.find(&format!("\n  \"{key}\": "))).into();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
}

#[test]
fn an_empty_list_is_runcs() {
    let bundle = Bundle::new();
    bundle.oci(["list"]).run().prints("ID          PID         STATUS      BUNDLE      CREATED     OWNER");
    bundle.oci(["list", "-f", "json"]).run().prints("null");
    bundle.oci(["list", "-q"]).run().prints("");
}

#[test]
fn the_list_has_a_table_json_and_ids() {
    let bundle = Bundle::new();
    bundle.detached(&[]);
    let table = bundle.oci(["list"]).run().ok();
    let row: Vec<&str> = table.lines().nth(1).expect("a row").split_whitespace().collect();
    let pid = bundle.state()["pid"].to_string();
    assert_eq!(row[..4], [bundle.id(), &pid, "running", bundle.path().to_str().expect("text")]);
    assert_eq!(row[5], "root");
    let list: Value =
        serde_json::from_str(&bundle.oci(["list", "--format", "json"]).run().ok()).expect("JSON");
    assert_eq!(
        (&list[0]["id"], &list[0]["status"], &list[0]["owner"]),
        (&json!(bundle.id()), &json!("running"), &json!("root"))
    );
    bundle.oci(["list", "--quiet"]).run().prints(bundle.id());
}

#[test]
fn ps_lists_the_containers_processes_alone() {
    let bundle = Bundle::sh("sleep 601 & exec sleep 602");
    bundle.detached(&[]);
    let numbers = || -> Vec<i64> {
        let text = bundle.oci(["ps", "--format", "json", bundle.id()]).run().ok();
        serde_json::from_str(&text).expect("an array of numbers")
    };
    eventually("both run", || numbers().len() == 2);
    assert!(numbers().contains(&bundle.state()["pid"].as_i64().expect("a pid")));
    let table = bundle.verb("ps", &[]).run().ok();
    assert!(
        table.lines().next().is_some_and(|heading| heading.contains("PID") && heading.contains("CMD")),
        "{table}"
    );
    assert!(
        table.lines().count() == 3 && table.contains("sleep 601") && table.contains("sleep 602"),
        "{table}"
    );
    let table = bundle.verb("ps", &["-o", "pid,args"]).run().ok();
    assert_eq!(
        table.lines().next().expect("a heading").split_whitespace().collect::<Vec<_>>(),
        ["PID", "COMMAND"]
    );
    assert_eq!(bundle.verb("ps", &["-o", "args"]).run().fails(1).stdout(), "");
}

#[test]
fn statistics_have_the_shape_that_containerd_reads() {
    let bundle = Bundle::new();
    bundle.config(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
        config["linux"]["resources"]["pids"] = json!({ "limit": 50 });
    });
    bundle.detached(&[]);
    let text = bundle.oci(["events", "--stats", bundle.id()]).run().ok();
    let event: Value = serde_json::from_str(&text).expect("one line of JSON");
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(bundle.id())));
    let data = &event["data"];
    assert!(data["pids"]["current"].as_u64().is_some_and(|count| (1..=50).contains(&count)), "{text}");
    assert_eq!(data["pids"]["limit"], 50, "{text}");
    assert_eq!(data["memory"]["usage"]["limit"], 64 << 20, "{text}");
    assert!(data["memory"]["usage"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{text}");
    assert!(data["memory"]["raw"].is_object(), "{text}");
    assert!(data["cpu"]["usage"]["total"].is_u64() && data["cpu"]["throttling"].is_object(), "{text}");
    assert!(data["blkio"].is_object() && data["hugetlb"].is_object(), "{text}");
}

#[test]
fn events_come_each_interval_until_the_container_ends() {
    let bundle = Bundle::new();
    bundle.detached(&[]);
    let mut call = bundle.oci(["events", "--interval", "100ms", bundle.id()]).into_command();
    let mut events = call.stdout(Stdio::piped()).spawn().expect("starting the runtime");
    let mut lines = BufReader::new(events.stdout.take().expect("its output")).lines();
    for _ in 0..3 {
        let line = lines.next().expect("a line").expect("text");
        assert!(line.starts_with("{\"type\":\"stats\",\"id\":"), "{line}");
    }
    bundle.verb("kill", &["KILL"]).run().ok();
    bundle.becomes("stopped");
    bundle.verb("delete", &[]).run().ok();
    assert!(lines.all(|line| line.is_ok()));
    assert!(events.wait().expect("its end").success());
}

#[test]
fn running_out_of_memory_is_an_event() {
    let bundle = Bundle::sh("sleep 1; sh -c 'x=a; while :; do x=$x$x; done'; sleep 2");
    bundle.config(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 32 << 20, "swap": 32 << 20 })
    });
    bundle.created(&[]);
    let mut call = bundle.oci(["events", "--interval", "60s", bundle.id()]).into_command();
    let mut events = call.stdout(Stdio::piped()).spawn().expect("starting the runtime");
    bundle.verb("start", &[]).run().ok();
    let mut lines = BufReader::new(events.stdout.take().expect("its output")).lines();
    let line = lines.next().expect("an event before the end").expect("text");
    let event: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&event["type"], &event["id"]), (&json!("oom"), &json!(bundle.id())));
    bundle.verb("delete", &["--force"]).run().ok();
    events.wait().expect("its end");
}

#[test]
fn a_spec_to_begin_with_is_written_once_and_runs() {
    let bundle = Bundle::new();
    fs::remove_file(bundle.path().join("config.json")).expect("removing config.json");
    bundle.oci(["spec"]).run().ok();
    let out = bundle.oci(["spec"]).run();
    out.fails(1).complains_of(&["File", "config.json exists. Remove it first"]);
    bundle.config(|config| {
        assert_eq!(config["process"]["args"], json!(["sh"]));
        config["process"]["args"] = json!(["echo", "runs"]);
        config["process"]["terminal"] = json!(false);
    });
    bundle.oci(["run", bundle.id()]).run().prints("runs");

    fs::create_dir(bundle.work("other")).expect("a folder");
    bundle.oci(["spec", "--rootless", "--bundle"]).arg(bundle.work("other")).run().ok();
    let text = fs::read_to_string(bundle.work("other/config.json")).expect("the file");
    let config: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(config["linux"]["uidMappings"][0], json!({ "containerID": 0, "hostID": 0, "size": 1 }));
    assert!(config["linux"]["resources"].is_null());
    if is_ours() {
        bundle.oci(["spec", "-f"]).arg(bundle.work("named.json")).run().ok();
        assert!(bundle.work("named.json").exists());
    }
}

fn features(bundle: &Bundle) -> Value {
    serde_json::from_str(&bundle.oci(["features"]).run().ok()).expect("JSON")
}

#[test]
fn features_have_the_fields_that_engines_read() {
    let bundle = Bundle::new();
    let features = features(&bundle);
    assert_eq!(features["ociVersionMin"], "1.0.0");
    for list in [
        "/hooks",
        "/mountOptions",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/seccomp/actions",
        "/linux/seccomp/operators",
        "/linux/seccomp/archs",
    ] {
        let list = features.pointer(list).and_then(Value::as_array);
        assert!(list.is_some_and(|list| !list.is_empty() && list.iter().all(Value::is_string)), "{list:?}");
    }
    for flag in ["/linux/cgroup/v1", "/linux/cgroup/v2", "/linux/seccomp/enabled"] {
        assert_eq!(features.pointer(flag), Some(&json!(true)), "{flag}");
    }
}

#[test]
fn every_mount_option_that_features_lists_is_taken() {
    let bundle = Bundle::sh("echo mounted");
    let listed = features(&bundle)["mountOptions"].clone();
    // Those that say which mount it is, not how: a remount needs one, an id map needs a user namespace.
    let others = ["bind", "rbind", "remount", "idmap", "ridmap"];
    let options = listed.as_array().expect("a list").iter().filter_map(Value::as_str);
    // runc lists `defaults` and hands it to the file system, which does not know it.
    let taken = |option: &&str| !others.contains(option) && (is_ours() || *option != "defaults");
    let options: Vec<&str> = options.filter(taken).collect();
    assert!(options.len() > 50, "{options:?}");
    bundle.config(|config| {
        let mounts = config["mounts"].as_array_mut().expect("mounts");
        for option in &options {
            let place = format!("/mnt/{option}");
            // What a kernel without access lists, or a tmpfs, does not know it may refuse: a bind carries no such data.
            mounts.push(
                json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": [option] }),
            );
        }
        mounts.push(
            json!({ "destination": "/bind", "type": "bind", "source": "/usr", "options": ["rbind", "ro"] }),
        );
        mounts.push(
            json!({ "destination": "/bind2", "type": "bind", "source": "/usr", "options": ["bind", "rro"] }),
        );
    });
    bundle.oci(["run", bundle.id()]).run().prints("mounted");
}

#[test]
fn an_option_that_is_not_listed_is_refused() {
    let bundle = Bundle::new();
    bundle.config(|config| {
        let mount = json!({ "destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["no-such-option"] });
        config["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    let out = bundle.oci(["run", bundle.id()]).run();
    assert_ne!(out.code(), 0, "{out:#?}");
    assert!(!bundle.exists());
}
