//! `tare pull`, `push` and what `run` pulls, with Debian's registry and with servers that are slow of wit, or hostile.
#![forbid(unsafe_code)]

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tare_tests::registry::stock::{self, MANIFEST, Stock};
use tare_tests::registry::tunnel::Tunnel;
use tare_tests::registry::{Answer, PASSWORD, Registry, Request, Server, USER};
use tare_tests::{Host, Tare};

fn pull(host: &Host, name: &str) -> Tare {
    host.tare(["pull", name])
}

fn push(host: &Host, name: &str) -> Tare {
    host.tare(["push", name])
}

fn is_layer(request: &Request, layer: &str) -> bool {
    request.path.ends_with(layer)
}

/// Nothing can be seen of an image, nor of its pieces.
#[track_caller]
fn has_nothing(host: &Host) {
    assert_eq!(host.tare(["images", "--quiet"]).run().ok(), "");
}

#[test]
fn an_image_is_pulled_and_run_and_found_up_to_date() {
    let (host, registry) = (Host::new(), Registry::open());
    registry.receive(&stock::archive(&host), "team/box:1");
    let name = format!("{}/team/box:1", registry.address);
    let said = pull(&host, &name).run().ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], format!("1: Pulling from {}/team/box", registry.address));
    assert!(lines[1].ends_with(": Pulling fs layer") && lines[2].ends_with(": Pull complete"), "{said}");
    let digest = lines[3].strip_prefix("Digest: ").expect("the digest");
    assert_eq!(lines[4..], [format!("Status: Downloaded newer image for {name}"), name.clone()]);
    host.tare(["run", "--rm", &name, "echo", "pulled"]).run().prints("pulled");

    let said = pull(&host, &name).run().ok();
    assert!(said.contains(": Already exists\n") && said.contains("Image is up to date for"), "{said}");
    pull(&host, &name).arg("--quiet").run().prints(&name);

    let by_digest = format!("{}/team/box@{digest}", registry.address);
    host.tare(["rmi", &name]).run().ok();
    pull(&host, &by_digest).arg("--quiet").run().prints(&by_digest);
    host.tare(["run", "--rm", &by_digest, "echo", "by digest"]).run().prints("by digest");

    let out = pull(&host, &format!("{}/team/box:none", registry.address)).run();
    out.fails(1).complains_of(&["team/box:none not found", "404", "manifest unknown"]);
}

#[test]
fn a_login_of_docker_or_podman_opens_a_registry_with_passwords() {
    let (host, registry) = (Host::new(), Registry::with_password());
    registry.receive(&stock::archive(&host), "box:1");
    let name = format!("{}/box:1", registry.address);
    pull(&host, &name).run().fails(1).complains_of(&["wants a name and a password", "tare login"]);
    let login = |user: &str| {
        let auth = std::process::Command::new("base64")
            .args(["--wrap=0"])
            .arg(host.file("login", format!("{user}:{PASSWORD}")))
            .output()
            .expect("base64");
        let auth = String::from_utf8(auth.stdout).expect("text");
        json!({ "auths": { registry.address.clone(): { "auth": auth } } }).to_string()
    };
    host.file("config.json", login("eve"));
    let out = pull(&host, &name).run();
    out.fails(1).complains_of(&["401", "pull access denied", "repository does not exist or may require"]);
    assert!(!out.stderr().contains(PASSWORD));
    host.file("config.json", login(USER));
    pull(&host, &name).arg("--quiet").run().prints(&name);
    fs::remove_file(host.work().join("config.json")).expect("the file");
    pull(&host, &name).run().fails(1);
    host.file("auth.json", login(USER));
    pull(&host, &name).arg("--quiet").run().prints(&name);
}

#[test]
fn a_certificate_has_to_be_trusted() {
    let (host, registry) = (Host::new(), Registry::with_tls());
    registry.receive(&stock::archive(&host), "box:1");
    let name = format!("{}/box:1", registry.address);
    let settings = |line: &str| {
        host.file("registries.toml", format!("[\"{}\"]\n{line}\n", registry.address));
    };
    pull(&host, &name).run().fails(1).complains_of(&["http = false"]);
    settings("http = false");
    pull(&host, &name).run().fails(1).complains_of(&["certificate", "registries.toml"]);
    settings(&format!("ca = {:?}", registry.certificate()));
    pull(&host, &name).arg("--quiet").run().prints(&name);
    settings("insecure = true");
    pull(&host, &name).arg("--quiet").run().prints(&name);
    settings("insecur = true");
    pull(&host, &name).run().fails(1).complains_of(&["registries.toml", "insecur"]);
}

#[test]
fn mirrors_are_asked_first_and_passed_over_when_they_fail() {
    let (host, registry) = (Host::new(), Registry::open());
    registry.receive(&stock::archive(&host), "box:1");
    let broken = Server::start(|_| Answer::status(404));
    let mirrors = |first: &str, second: &str| {
        // Nobody is there.
        host.file("registries.toml", format!("[\"127.0.0.1:2\"]\nmirrors = [\"{first}\", \"{second}\"]\n"));
    };
    mirrors(&broken.address, &registry.address);
    pull(&host, "127.0.0.1:2/box:1").arg("--quiet").run().prints("127.0.0.1:2/box:1");
    assert!(broken.requests().len() >= 2, "{:?}", broken.requests());
    // A mirror that nobody serves is asked once.
    mirrors("127.0.0.1:3", &registry.address);
    pull(&host, "127.0.0.1:2/box:1").arg("--quiet").run().prints("127.0.0.1:2/box:1");
    mirrors(&broken.address, &broken.address);
    pull(&host, "127.0.0.1:2/box:1").run().fails(1).complains_of(&["127.0.0.1:2", "refused"]);
}

#[test]
fn a_token_is_fetched_and_shown_to_nobody_else() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let (layer, bytes) = stock.layer().clone();
    let elsewhere = Server::start(move |_| Answer::ok(bytes.clone()));
    let (far, wanted) = (elsewhere.address.clone(), layer.clone());
    let registry = Server::start(move |request| {
        let here = request.headers["host"].clone();
        if request.path.starts_with("/token?") {
            return Answer::ok(json!({ "token": "open sesame" }).to_string());
        }
        if request.headers.get("authorization").is_none_or(|shown| shown != "Bearer open sesame") {
            let challenge = format!("Bearer realm=\"http://{here}/token\",service=\"a, b\"");
            return Answer::status(401).header("WWW-Authenticate", challenge);
        }
        if is_layer(request, &wanted) {
            // Another host of the same machine: what counts is the name.
            let far = far.replace("127.0.0.1", "localhost");
            return Answer::status(307).header("Location", format!("http://{far}/somewhere"));
        }
        stock.answer(request)
    });
    let name = format!("{}/team/box:1", registry.address);
    pull(&host, &name).arg("--quiet").run().prints(&name);
    let requests = registry.requests();
    let asked: Vec<&str> = requests
        .iter()
        .map(|request| request.path.as_str())
        .filter(|path| path.starts_with("/token"))
        .collect();
    assert_eq!(asked, ["/token?scope=repository%3Ateam%2Fbox%3Apull&service=a%2C%20b"]);
    let shown = elsewhere.requests();
    assert!(
        !shown.is_empty() && shown.iter().all(|request| !request.headers.contains_key("authorization")),
        "{shown:?}"
    );
}

#[test]
fn a_connection_that_breaks_off_is_taken_up_where_it_was() {
    for knows_ranges in [true, false] {
        let host = Host::new();
        let stock = Stock::new(&host);
        let (layer, half) = (stock.layer().0.clone(), stock.layer().1.len() / 2);
        let asked = AtomicU32::new(0);
        let server = Server::start(move |request| {
            let mut answer = stock.answer(request);
            if !is_layer(request, &layer) {
                return answer;
            }
            if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                answer.cut = Some(half);
                return answer;
            }
            let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
            let from: usize =
                range.and_then(|range| range.trim_end_matches('-').parse().ok()).expect("a range");
            assert!(from > 0 && from <= half);
            if knows_ranges {
                let all = answer.body.len();
                answer.status = 206;
                answer.body.drain(..from);
                answer = answer.header("Content-Range", format!("bytes {from}-{}/{all}", all - 1));
            }
            answer
        });
        let name = format!("{}/box:1", server.address);
        pull(&host, &name).arg("--quiet").run().prints(&name);
        host.tare(["run", "--rm", &name, "echo", "whole"]).run().prints("whole");
    }
}

#[test]
fn what_a_pull_has_fetched_is_not_fetched_again() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let (layer, half) = (stock.layer().0.clone(), stock.layer().1.len() / 2);
    // Once half of the layer, then nothing any more, until the test says so.
    let mended = host.work().join("mended");
    let (sent, gate) = (AtomicU32::new(0), mended.clone());
    let server = Server::start(move |request| {
        let mut answer = stock.answer(request);
        if is_layer(request, &layer) && !gate.exists() {
            if sent.fetch_add(1, Ordering::SeqCst) > 0 {
                return Answer::status(403);
            }
            answer.cut = Some(half);
        }
        answer
    });
    let name = format!("{}/box:1", server.address);
    pull(&host, &name).run().fails(1).complains_of(&["403"]);
    has_nothing(&host);
    fs::write(&mended, "").expect("a file");
    let before = server.requests().len();
    pull(&host, &name).arg("--quiet").run().prints(&name);
    let requests = server.requests();
    assert!(requests[before..].iter().any(|request| request.headers.contains_key("range")), "{requests:?}");
}

#[test]
fn wrong_bytes_are_refused() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let layer = stock.layer().0.clone();
    let server = Server::start(move |request| {
        let mut answer = stock.answer(request);
        if is_layer(request, &layer) {
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
        }
        answer
    });
    let out = pull(&host, &format!("{}/box:1", server.address)).run();
    out.fails(1);
    has_nothing(&host);
    let other = format!("{}/box@sha256:{}", server.address, "0".repeat(64));
    pull(&host, &other).run().fails(1).complains_of(&["other bytes came than its digest says"]);
    let odd = format!("{}/box@sha256:../../x", server.address);
    pull(&host, &odd).run().fails(1).complains_of(&["digest"]);
}

#[test]
fn a_document_that_is_two_things_is_refused_cve_2021_41190() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let manifest: Value = serde_json::from_slice(&stock.manifest).expect("JSON");
    let mut both = manifest.clone();
    both["manifests"] = json!([]);
    let index = "application/vnd.oci.image.index.v1+json";
    let documents = [
        ("both", both.to_string(), MANIFEST),
        ("other", manifest.to_string(), index),
        ("endless", " ".repeat(5 << 20), MANIFEST),
        ("no-json", "<html>".to_owned(), "text/html"),
    ];
    let words = ["ambiguous", "ambiguous", "4 MiB", "read"];
    let given = documents.clone();
    let server = Server::start(move |request| {
        let found = given.iter().find(|(name, _, _)| request.path.ends_with(name));
        found.map_or(Answer::status(404), |(_, body, kind)| {
            Answer::ok(body.as_bytes()).header("Content-Type", *kind)
        })
    });
    for ((name, _, _), word) in documents.iter().zip(words) {
        pull(&host, &format!("{}/box:{name}", server.address)).run().fails(1).complains_of(&[word]);
    }
    has_nothing(&host);
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let asked = AtomicU32::new(0);
    let server = Server::start(move |request| match asked.fetch_add(1, Ordering::SeqCst) % 3 {
        0 => Answer::status(503),
        1 => Answer::status(429).header("Retry-After", "0"),
        _ => stock.answer(request),
    });
    let name = format!("{}/box:1", server.address);
    pull(&host, &name).arg("--quiet").run().prints(&name);
}

#[test]
fn an_image_is_pushed_and_is_the_same_elsewhere() {
    let (host, elsewhere, registry) = (Host::new(), Host::new(), Registry::open());
    let (first, second) =
        (format!("{}/team/box:1", registry.address), format!("{}/other/box:2", registry.address));
    let busybox = host.busybox();
    host.tare(["tag", busybox, &first]).run().ok();
    host.tare(["tag", busybox, &second]).run().ok();
    let said = push(&host, &first).run().ok();
    assert_eq!(said.matches(": Pushed\n").count(), 2, "{said}");
    assert!(said.starts_with(&format!("The push refers to repository [{}/team/box]\n", registry.address)));
    let last = said.lines().last().expect("a line").strip_prefix("1: digest: ").expect("the digest");
    let (digest, size) = last.split_once(" size: ").expect("the size");
    assert!(size.parse::<u32>().is_ok_and(|size| size > 100), "{said}");
    assert!(push(&host, &first).run().ok().contains(": Layer already exists\n"));
    // The registry has the layer in a neighbour, whose name is known here.
    let said = push(&host, &second).run().ok();
    assert_eq!(said.matches(": Mounted from another repository\n").count(), 2, "{said}");

    let said = pull(&elsewhere, &second).run().ok();
    assert!(said.contains(digest), "{said}");
    elsewhere.tare(["run", "--rm", &second, "echo", "carried"]).run().prints("carried");
    let inspect = format!("docker://{first}");
    let out = std::process::Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &inspect])
        .output()
        .expect("skopeo");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), digest);
    push(&host, "127.0.0.1:2/none:1").run().fails(1).complains_of(&["no such image"]);
}

#[test]
fn a_push_with_the_right_login_goes_well() {
    let (host, registry) = (Host::new(), Registry::with_password());
    let name = format!("{}/box:1", registry.address);
    let busybox = host.busybox();
    host.tare(["tag", busybox, &name]).run().ok();
    push(&host, &name).run().fails(1).complains_of(&["wants a name and a password"]);
    let auths = json!({ "username": USER, "password": PASSWORD });
    host.file("config.json", json!({ "auths": { registry.address.clone(): auths } }).to_string());
    push(&host, &name).arg("--quiet").run().prints(&name);
    pull(&host, &name).arg("--quiet").run().prints(&name);
}

#[test]
fn a_registry_that_sends_a_push_elsewhere_is_not_followed() {
    let host = Host::new();
    let elsewhere = Server::start(|_| Answer::status(201));
    let far = elsewhere.address.clone();
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => Answer::status(202).header("Location", format!("http://{far}/upload")),
        _ => Answer::status(404),
    });
    let name = format!("{}/box:1", server.address);
    let busybox = host.busybox();
    host.tare(["tag", busybox, &name]).run().ok();
    push(&host, &name).run().fails(1).complains_of(&["sends us elsewhere"]);
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn run_pulls_an_image_that_is_not_there() {
    let (host, registry) = (Host::new(), Registry::open());
    registry.receive(&stock::archive(&host), "box:1");
    let name = format!("{}/box:1", registry.address);
    let run = |pull: &[&str]| host.tare(["run", "--rm"]).args(pull).args([&name, "echo", "here"]).run();
    run(&["--pull", "never"]).fails(125).complains_of(&["no such image"]);
    let out = run(&[]);
    out.prints("here").complains_of(&["Unable to find image", "Pull complete"]);
    let out = run(&[]);
    assert_eq!(out.prints("here").stderr(), "");
    run(&["--pull", "always", "--quiet"]).prints("here");
    run(&["--pull", "sometimes"]).fails(125).complains_of(&["always, missing or never"]);
    drop(registry);
    run(&[]).prints("here");
    run(&["--pull", "always"]).fails(125).complains_of(&[&name]);
}

#[test]
fn all_tags_of_a_repository_come_and_go() {
    let (host, elsewhere, registry) = (Host::new(), Host::new(), Registry::open());
    let at = |tag: &str| format!("{}/team/box{tag}", registry.address);
    let busybox = host.busybox();
    for tag in [":1", ":2", ":old"] {
        host.tare(["tag", busybox, &at(tag)]).run().ok();
    }
    let said = host.tare(["push", "--all-tags", &at("")]).run().ok();
    assert_eq!(said.matches(": digest: sha256:").count(), 3, "{said}");
    let said = elsewhere.tare(["pull", "-a", "-q", &at("")]).run();
    said.prints(&[at(":1"), at(":2"), at(":old")].join("\n"));
    for words in [["push", "-a", &at(":1")], ["pull", "-a", &at(":1")]] {
        host.tare(words).run().fails(1).complains_of(&["tag can't be used with --all-tags"]);
    }
    host.tare(["push", "-a", "127.0.0.1:2/none"]).run().fails(1).complains_of(&["127.0.0.1:2/none"]);
}

#[test]
fn a_proxy_leads_to_a_registry_unless_no_proxy_names_it() {
    let (host, registry) = (Host::new(), Registry::with_password());
    registry.receive(&stock::archive(&host), "box:1");
    let auths = json!({ "username": USER, "password": PASSWORD });
    host.file("config.json", json!({ "auths": { "registry.test:5000": auths } }).to_string());
    host.file("registries.toml", "[\"registry.test:5000\"]\nhttp = true\n");
    let proxy = Tunnel::start(&registry.address);
    let pull = |no_proxy: &str| {
        let call = pull(&host, "registry.test:5000/box:1").arg("--quiet");
        call.env("HTTP_PROXY", format!("http://{}", proxy.address)).env("NO_PROXY", no_proxy).run()
    };
    pull("").prints("registry.test:5000/box:1");
    let asked = proxy.requests();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| line.starts_with("CONNECT registry.test:5000 ")),
        "{asked:?}"
    );
    pull("registry.test").fails(1).complains_of(&["registry.test"]);
    drop(proxy);
}

#[test]
fn an_image_is_copied_between_registries_and_folders_without_the_store() {
    let (host, maker, registry) = (Host::new(), Host::new(), Registry::open());
    registry.receive(&stock::archive(&maker), "box:1");
    let work = host.work();
    let copy = |from: &str, to: &str| host.tare(["image", "copy", from, to]).in_folder(&work).run().ok();
    let there = |name: &str| format!("docker://{}/{name}", registry.address);
    let id = copy(&there("box:1"), "oci:layout:box");
    assert_eq!(copy("oci:layout:box", &there("team/again:2")), id);
    assert_eq!(copy(&there("team/again:2"), &there("third:3")), id);
    assert_eq!(copy(&there("third:3"), "docker-archive:box.tar"), id);
    host.tare(["images", "-q"]).run().prints("");
    let name = format!("{}/third:3", registry.address);
    assert_eq!(copy(&there("third:3"), &name), id);
    host.tare(["run", "--rm", &name, "echo", "here"]).run().prints("here");
}
