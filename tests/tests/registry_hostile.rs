//! Registries that lie, drip, loop or break off, pulls that are killed or find no room, and many at once.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tare_tests::registry::stock::{MANIFEST, Stock};
use tare_tests::registry::{Answer, Request, Server};
use tare_tests::{Host, Terminal, eventually, stretched};

/// Nothing can be seen of an image, and nothing of it is left but what can be gone on with.
#[track_caller]
fn has_nothing(host: &Host) {
    assert_eq!(host.tare(["images", "--quiet"]).run().ok(), "");
    for folder in ["blobs/sha256", "ids", "names"] {
        let folder = host.root().join("images").join(folder);
        let left: Vec<_> = fs::read_dir(&folder).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A server that gives out an image, but for what `other` answers.
fn server(
    stock: Stock,
    other: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
) -> (Server, String) {
    let server = Server::start(move |request| other(request, stock.answer(request)));
    let name = format!("{}/box:1", server.address);
    (server, name)
}

/// The first byte that a request asks for.
fn first(request: &Request) -> usize {
    let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
    range.and_then(|range| range.trim_end_matches('-').parse().ok()).unwrap_or(0)
}

/// What a server with ranges answers.
fn ranged(request: &Request, mut answer: Answer) -> Answer {
    let from = first(request);
    if from > 0 {
        let all = answer.body.len();
        answer.status = 206;
        answer.body.drain(..from);
        answer = answer.header("Content-Range", format!("bytes {from}-{}/{all}", all - 1));
    }
    answer
}

/// The bytes of a layer on its way in.
fn partial(host: &Host, layer: &str) -> PathBuf {
    host.root().join("images/ingest").join(&layer["sha256:".len()..]).join("blob")
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[test]
fn answers_that_are_not_what_was_asked_for_are_refused_at_once() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let layer = stock.layer().0.clone();
    type Lie = fn(Answer) -> Answer;
    let table: [(&str, &str, Lie); 9] = [
        ("another size", "its size is", |answer| Answer { endless: true, ..answer }),
        ("no end", "its", |answer| Answer { body: Vec::new(), endless: true, ..answer }),
        ("another encoding", "layer", |answer| {
            let half = answer.body.len() / 2;
            Answer { body: answer.body[..half].to_vec(), ..answer }.header("Content-Encoding", "gzip")
        }),
        ("a part that was not asked for", "", |answer| Answer { status: 206, ..answer }),
        ("a range that cannot be", "416", |_| Answer::status(416)),
        ("an endless error", "403", |_| Answer { endless: true, ..Answer::status(403) }),
        ("terminal codes", "403", |_| Answer { body: b"\x1b[2Jgone".to_vec(), ..Answer::status(403) }),
        ("a loop", "redirect", |_| Answer::status(307).header("Location", "/v2/box/blobs/loop")),
        ("a long head", "header", |answer| answer.header("X", "x".repeat(1 << 20))),
    ];
    for (lie, complaint, tell) in table {
        let wanted = layer.clone();
        let (_server, name) = server(stock.clone(), move |request, answer| {
            let is_it = request.path.ends_with(&wanted) || request.path.ends_with("/loop");
            if is_it { tell(answer) } else { answer }
        });
        let begun = Instant::now();
        let out = host.tare(["pull", &name]).run();
        out.fails(1).complains_of(&[complaint]);
        assert!(!out.stderr().contains('\x1b'), "{lie}: {out:#?}");
        assert!(begun.elapsed() < stretched(Duration::from_secs(15)), "{lie}: {:?}", begun.elapsed());
        has_nothing(&host);
    }
}

#[test]
fn tokens_that_are_none_end_the_matter() {
    let host = Host::new();
    let stock = Stock::new(&host);
    type Token = fn() -> Answer;
    // What the registry says of its tokens, and what is answered there.
    let table: [(&str, Token, &str); 8] = [
        ("http://HERE/token", || Answer::ok("{}"), "there is none"),
        ("http://HERE/token", || Answer::ok("<html>"), "there is none"),
        ("http://HERE/token", || Answer { endless: true, ..Answer::ok("{") }, "there is none"),
        ("http://HERE/token", || Answer::ok(json!({ "token": "a\r\nX: y" }).to_string()), ""),
        // Taken, but never enough.
        ("http://HERE/token", || Answer::ok(json!({ "token": "no" }).to_string()), "401"),
        ("http://HERE/token", || Answer::status(403), "403"),
        ("file:///etc/passwd", || Answer::ok(""), "file:"),
        ("http://HERE/loop", || Answer::status(302).header("Location", "/loop"), "redirect"),
    ];
    for (realm, token, complaint) in table {
        let (server, name) = server(stock.clone(), move |request, _| {
            if !request.path.starts_with("/v2/") {
                return token();
            }
            let realm = realm.replace("HERE", &request.headers["host"]);
            Answer::status(401).header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
        });
        let out = host.tare(["pull", &name]).run();
        out.fails(1).complains_of(&[complaint]);
        assert!(server.requests().len() < 30, "{realm}: {}", server.requests().len());
    }
    has_nothing(&host);
}

#[test]
fn a_server_that_gives_a_byte_for_each_call_is_given_up() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let layer = stock.layer().0.clone();
    let (server, name) = server(stock, move |request, answer| {
        let answer = ranged(request, answer);
        if request.path.ends_with(&layer) { Answer { cut: Some(1), ..answer } } else { answer }
    });
    host.tare(["pull", &name]).run().fails(1);
    assert!(server.requests().len() < 30, "{}", server.requests().len());
    has_nothing(&host);
}

#[test]
fn of_many_pulls_at_once_one_fetches_and_all_have_the_image() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let layer = stock.layer().0.clone();
    let gate = host.work().join("gate");
    let (wanted, open) = (layer.clone(), gate.clone());
    let (server, name) = server(stock, move |request, answer| {
        let pause = request.path.ends_with(&wanted).then(|| (0, open.clone()));
        Answer { pause, ..answer }
    });
    let pulls: Vec<_> = (0..6).map(|_| host.tare(["pull", &name]).start()).collect();
    let manifests =
        || server.requests().iter().filter(|request| request.path.contains("/manifests/")).count();
    eventually("all have begun", || manifests() == pulls.len());
    fs::write(&gate, "").expect("a file");
    for pull in pulls {
        assert!(pull.wait().ok().contains("Status: "), "each says how it ended");
    }
    let fetched = server.requests().iter().filter(|request| request.path.ends_with(&layer)).count();
    assert_eq!(fetched, 1);
    host.tare(["run", "--rm", &name, "echo", "shared"]).run().prints("shared");
}

#[test]
fn what_a_killed_pull_had_is_taken_over_by_the_one_that_waits() {
    for signal in [Signal::KILL, Signal::TERM] {
        let host = Host::new();
        let stock = Stock::new(&host);
        let (layer, half) = (stock.layer().0.clone(), stock.layer().1.len() / 2);
        let (wanted, asked) = (layer.clone(), AtomicU32::new(0));
        let gate = host.work().join("gate");
        let open = gate.clone();
        // The first gets a half, and then waits.
        let (server, name) = server(stock, move |request, answer| {
            if !request.path.ends_with(&wanted) {
                return answer;
            }
            if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                return Answer { pause: Some((half, open.clone())), ..answer };
            }
            ranged(request, answer)
        });
        let one = host.tare(["pull", &name]).start();
        eventually("half of it is there", || length(&partial(&host, &layer)) >= half as u64 / 2);
        let two = host.tare(["pull", &name]).start();
        let waits =
            || server.requests().iter().filter(|request| request.path.contains("/manifests/")).count();
        eventually("the other has begun", || waits() == 2);
        one.signal(signal);
        assert_ne!(one.wait().code(), 0);
        two.wait().ok();
        fs::write(&gate, "").expect("a file");
        let requests = server.requests();
        let resumed = requests.iter().filter(|request| request.path.ends_with(&layer) && first(request) > 0);
        assert_eq!(resumed.count(), 1, "{requests:?}");
        host.tare(["run", "--rm", &name, "echo", "whole"]).run().prints("whole");
        assert!(!partial(&host, &layer).exists());
    }
}

#[test]
fn what_is_left_of_a_pull_but_is_none_of_it_is_fetched_anew() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let layer = stock.layer().clone();
    let (server, name) = server(stock, |request, answer| {
        // Some servers know no end either.
        if first(request) >= answer.body.len() && first(request) > 0 {
            Answer::status(416)
        } else {
            ranged(request, answer)
        }
    });
    let path = partial(&host, &layer.0);
    for left in [b"other bytes".to_vec(), layer.1.clone(), vec![0; layer.1.len()], vec![0; layer.1.len() + 9]]
    {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, left).expect("a file");
        host.tare(["pull", "--quiet", &name]).run().prints(&name);
        host.tare(["run", "--rm", &name, "true"]).run().ok();
        host.tare(["rmi", &name]).run().ok();
    }
    assert!(server.requests().len() < 40);
}

#[test]
fn a_full_disk_is_said_and_not_left_full() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let (_server, name) = server(stock, ranged);
    let small = host.folder("small");
    let mount = |options: &str| {
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "small"])
            .arg(&small)
            .status()
            .expect("mount")
    };
    assert!(mount("size=1m").success());
    let call = |words: &[&str]| host.tare(words).env("TARE_ROOT", &small).run();
    let full = call(&["pull", &name]);
    let space = Command::new("df").args(["--output=avail", "-k"]).arg(&small).output().expect("df");
    let listed = call(&["images", "--quiet"]);
    assert!(mount("remount,size=64m").success());
    let good = call(&["pull", "--quiet", &name]);
    assert!(Command::new("umount").arg("-l").arg(&small).status().expect("umount").success());
    full.fails(1).complains_of(&["no space left"]);
    assert_eq!(listed.ok(), "");
    let free =
        String::from_utf8_lossy(&space.stdout).lines().last().and_then(|line| line.trim().parse().ok());
    assert!(free.is_some_and(|free: u32| free > 800), "of 1024 kB only {free:?} are free again");
    good.prints(&name);
}

#[test]
fn a_bar_moves_on_a_terminal_and_is_gone_at_the_end() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let (layer, half) = (stock.layer().0.clone(), stock.layer().1.len() / 2);
    let gate = host.work().join("gate");
    let open = gate.clone();
    let (_server, name) = server(stock, move |request, answer| {
        let stops = request.path.ends_with(&layer) && !open.exists();
        if stops { Answer { pause: Some((half, open.clone())), ..answer } } else { answer }
    });
    let command = host.tare(["pull", &name]).env("LANG", "C.UTF-8").env("LC_ALL", "").env("TERM", "xterm");
    let mut terminal = Terminal::start(command, 24, 90);
    terminal.expect("1: Pulling from ");
    terminal.expect("━");
    terminal.expect(" / ");
    fs::write(&gate, "").expect("a file");
    terminal.expect(": Pull complete");
    let rest = terminal.expect(&name);
    assert_eq!(terminal.wait(), 0);
    // The last thing that is done to the lines that moved: they are taken away.
    assert!(rest.rfind("\x1b[J") > rest.rfind('━'), "{rest:?}");
    terminal.is_restored();

    let quiet = host.tare(["pull", "--quiet", &name]).env("TERM", "xterm");
    let mut terminal = Terminal::start(quiet, 24, 90);
    assert_eq!(terminal.wait(), 0);
    eventually("the name is printed", || terminal.screen().trim_end() == name);
}

#[test]
fn a_push_that_breaks_off_goes_on_where_the_registry_has_it_or_anew() {
    for keeps in [true, false] {
        let host = Host::new();
        let busybox = host.busybox();
        // What the registry has of its uploads, by their addresses.
        let uploads = Arc::new(Mutex::new(HashMap::<String, Vec<u8>>::new()));
        let heard = Arc::clone(&uploads);
        let broke = AtomicU32::new(0);
        let upload = |request: &Request| request.path.split('?').next().unwrap_or_default().to_owned();
        let server = Server::deaf(
            move |request| {
                let mut uploads = uploads.lock().expect("no panic while held");
                let (count, address) = (uploads.len(), upload(request));
                let came = uploads.entry(address.clone()).or_default();
                match request.method.as_str() {
                    "HEAD" => Answer::status(404),
                    "POST" => {
                        Answer::status(202).header("Location", format!("/v2/box/blobs/uploads/{count}?s=x"))
                    }
                    "GET" if keeps => Answer::status(204)
                        .header("Location", format!("{address}?s=y"))
                        .header("Range", format!("0-{}", came.len().saturating_sub(1))),
                    "GET" => Answer::status(404),
                    "PATCH" => {
                        assert!(request.headers["content-range"].starts_with(&format!("{}-", came.len())));
                        came.extend(&request.body);
                        Answer::status(202).header("Location", format!("{address}?s=z"))
                    }
                    _ => {
                        came.extend(&request.body);
                        Answer::status(201)
                    }
                }
            },
            move |request| {
                let length: u64 = request.headers.get("content-length")?.parse().ok()?;
                if request.method != "PUT" || length < 100_000 || broke.fetch_add(1, Ordering::SeqCst) > 0 {
                    return None;
                }
                let half = vec![0; usize::try_from(length / 2).expect("small")];
                heard.lock().expect("no panic while held").insert(upload(request), half);
                Some(length / 2)
            },
        );
        let name = format!("{}/box:1", server.address);
        host.tare(["tag", busybox, &name]).run().ok();
        let out = host.tare(["push", &name]).run();
        out.ok();
        let requests = server.requests();
        assert_eq!(requests.iter().any(|request| request.method == "PATCH"), keeps, "{:#?}", out);
        assert!(requests.iter().any(|request| request.path.ends_with("/manifests/1")));
    }
}

#[test]
fn documents_of_a_hostile_registry_cost_little() {
    let host = Host::new();
    let digest = format!("sha256:{}", "a".repeat(64));
    let line = |kind: &str| json!({ "mediaType": kind, "digest": digest, "size": 700 });
    let layer = line("application/vnd.oci.image.layer.v1.tar+gzip");
    let config = line("application/vnd.oci.image.config.v1+json");
    let document = |layers: usize, config: &serde_json::Value| json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": vec![&layer; layers] });
    let mut large = config.clone();
    large["size"] = json!(100 << 20);
    let mut odd = document(1, &config);
    odd["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let deep = "[".repeat(100_000);
    let twice = r#"{"schemaVersion":2,"config":null,"config":null,"layers":[]}"#.to_owned();
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [line("application/vnd.oci.image.index.v1+json")] });
    let table = [
        ("layers", document(10_000, &config).to_string(), "1000 is the limit"),
        ("config", document(1, &large).to_string(), "4 MiB"),
        ("foreign", odd.to_string(), "foreign.diff"),
        ("deep", deep, "read"),
        ("twice", twice, "duplicate"),
        ("numbers", r#"{"schemaVersion":1e400}"#.to_owned(), "number"),
        ("schema1", r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "schema 1"),
        // An index that says it holds itself: other bytes than its own digest.
        ("itself", index.to_string(), "other bytes came"),
    ];
    let given = table.clone();
    let server = Server::start(move |request| {
        let found = given.iter().find(|(name, _, _)| request.path.ends_with(name));
        let body = found.map_or(index.to_string(), |(_, body, _)| body.clone());
        Answer::ok(body).header("Content-Type", "application/json")
    });
    for (name, _, complaint) in table {
        host.tare(["pull", &format!("{}/box:{name}", server.address)])
            .run()
            .fails(1)
            .complains_of(&[complaint]);
    }
    has_nothing(&host);
}
