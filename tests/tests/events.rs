//! What `tare events` tells, and to whom.
#![forbid(unsafe_code)]

use serde_json::Value;
use tare_tests::Host;

/// All that has happened so far, as `TYPE ACTION NAME`.
fn told(host: &Host, filters: &[&str]) -> Vec<String> {
    let mut call = host.tare(["events", "--since", "1h", "--until", "0s", "--format", "json"]);
    for filter in filters {
        call = call.args(["--filter", filter]);
    }
    let lines = call.run().ok();
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .map(|event| {
            let name = text(&event["Actor"]["Attributes"]["name"]);
            format!("{} {} {name}", text(&event["Type"]), text(&event["Action"]))
        })
        .collect()
}

#[test]
fn a_life_is_told_in_dockers_words() {
    let host = Host::new();
    host.detached(&["--name", "web", "--label", "a=b"], "trap 'exit 3' TERM; sleep 60 & wait");
    host.tare(["stop", "-t", "5", "web"]).run().ok();
    host.tare(["rm", "web"]).run().ok();
    let life =
        ["create", "start", "kill", "die", "stop", "destroy"].map(|action| format!("container {action} web"));
    assert_eq!(told(&host, &["type=container"]), life);
    assert_eq!(told(&host, &["event=die", "label=a=b", "container=web"]), ["container die web"]);
    assert!(told(&host, &["label=b"]).is_empty());
}

#[test]
fn networks_are_told_who_comes_and_who_leaves() {
    let host = Host::new();
    host.sh(&["--name", "short", "--network", "bridge"], "true").ok();
    let life = [
        "container create short",
        "network connect bridge",
        "container start short",
        "container die short",
        "network disconnect bridge",
        "container destroy short",
    ];
    assert_eq!(told(&host, &["type=container", "type=network"]), life);
    // A monitor that was executed again knows as well.
    host.detached(&["--name", "long", "--network", "bridge"], "sleep 60");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    host.tare(["rm", "-f", "long"]).run().ok();
    let networks = ["connect", "disconnect", "connect", "disconnect"];
    assert_eq!(told(&host, &["type=network"]), networks.map(|action| format!("network {action} bridge")));
}

#[test]
fn volumes_come_and_go_in_the_events_too() {
    let host = Host::new();
    host.tare(["volume", "create", "data"]).run().ok();
    host.tare(["volume", "create", "data"]).run().ok();
    host.sh(&["-v", "more:/data"], "true").ok();
    host.tare(["volume", "rm", "data"]).run().ok();
    host.tare(["volume", "prune", "-af"]).run().ok();
    let of = |filters: &[&str]| {
        let words = ["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}} {{.Actor.ID}}"];
        let filters = filters.iter().flat_map(|filter| ["--filter", filter]);
        host.tare(words).args(filters).run().ok()
    };
    let all = "create data\ncreate more\nmount more\nunmount more\ndestroy data\ndestroy more";
    assert_eq!(of(&["type=volume"]), all);
    assert_eq!(of(&["volume=more", "event=destroy"]), "destroy more");
}

#[test]
fn copies_images_and_new_names_are_told() {
    let host = Host::new();
    host.detached(&["--name", "web"], "sleep 60");
    let file = host.file("file", "text");
    host.tare(["cp"]).arg(&file).arg("web:/tmp/file").run().ok();
    host.tare(["cp", "web:/tmp/file"]).arg(host.work().join("back")).run().ok();
    host.tare(["cp", "web:/tmp/file", "-"]).run().ok();
    let id = host.tare(["commit", "-m", "a note", "web", "made:1"]).run().ok();
    host.tare(["rename", "web", "site"]).run().ok();
    let life = ["create", "start", "extract-to-dir", "archive-path", "archive-path", "commit"];
    let life =
        [&life.map(|action| format!("container {action} web"))[..], &["container rename site".to_owned()]];
    assert_eq!(told(&host, &["type=container"]), life.concat());
    let of = |event: &str, format: &str| {
        let words = ["events", "--since", "1h", "--until", "0s", "--filter", event, "--format", format];
        host.tare(words).run().ok()
    };
    let attributes = "{{with .Actor.Attributes}}{{.comment}} {{.imageID}} {{.imageRef}}{{end}}";
    assert_eq!(of("event=commit", attributes), format!("a note {id} made:1"));
    assert_eq!(of("event=rename", "{{.Actor.Attributes.oldName}}"), "/web");
}

#[test]
fn one_that_is_removed_by_force_is_killed_once() {
    let host = Host::new();
    host.detached(&["--name", "web"], "sleep 60");
    host.tare(["rm", "-f", "web"]).run().ok();
    let life = ["create", "start", "kill", "die", "destroy"].map(|action| format!("container {action} web"));
    assert_eq!(told(&host, &["type=container"]), life);
}

#[test]
fn an_event_has_dockers_shape() {
    let host = Host::new();
    host.sh(&["--name", "over", "--label", "x=y"], "exit 3").fails(3);
    let format =
        "{{.Actor.Attributes.exitCode}} {{.Actor.Attributes.image}} {{.Actor.Attributes.x}} {{.scope}}";
    let die = ["events", "--since", "1h", "--until", "0s", "--filter", "event=die", "--format", format];
    host.tare(die).run().prints("3 busybox y local");
    let line = host.tare(["events", "--since", "1h", "--until", "0s", "-f", "event=destroy"]).run().ok();
    assert!(
        line.contains(" container destroy ") && line.contains("(image=busybox, name=over, x=y)"),
        "{line}"
    );
}
