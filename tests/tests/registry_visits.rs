//! `tare login`, `logout`, `registry` and `search`, with Debian's registry and with small servers.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tare_tests::registry::stock::{self, Stock};
use tare_tests::registry::{Answer, PASSWORD, Registry, Server, USER};
use tare_tests::{Host, Outcome, Terminal};

/// `tare login` with the password on stdin.
fn login(host: &Host, user: &str, password: &str, server: &str) -> Outcome {
    host.tare(["login", "--username", user, "--password-stdin", server]).stdin(format!("{password}\n")).run()
}

fn config(host: &Host) -> Value {
    serde_json::from_slice(&fs::read(host.work().join("config.json")).expect("a file")).expect("JSON")
}

#[test]
fn a_login_is_checked_kept_used_and_forgotten() {
    let (host, registry) = (Host::new(), Registry::with_password());
    registry.receive(&stock::archive(&host), "team/box:1");
    let (server, name) = (&registry.address, format!("{}/team/box:1", registry.address));
    login(&host, USER, "wrong", server).fails(1).complains_of(&["unauthorized", "password"]);
    assert!(!host.work().join("config.json").exists());

    host.file("config.json", json!({ "psFormat": "x" }).to_string());
    let out = login(&host, USER, PASSWORD, server);
    out.prints("Login Succeeded").complains_of(&["plain text", "config.json"]);
    assert!(!out.stderr().contains(PASSWORD));
    let file = host.work().join("config.json");
    assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    // What `printf anna:pass:word | base64` prints.
    let auths = json!({ server.as_str(): { "auth": "YW5uYTpwYXNzOndvcmQ=" } });
    assert_eq!(config(&host), json!({ "psFormat": "x", "auths": auths }));

    host.tare(["pull", "--quiet", &name]).run().prints(&name);
    host.tare(["login", server]).run().prints("Login Succeeded").complains_of(&["existing credentials"]);
    host.tare(["logout", server]).run().prints(&format!("Removing login credentials for {server}"));
    host.tare(["logout", server]).run().prints(&format!("Not logged in to {server}"));
    assert_eq!(config(&host), json!({ "psFormat": "x", "auths": {} }));
    host.tare(["pull", &name]).run().fails(1).complains_of(&["wants a name and a password", "tare login"]);
}

#[test]
fn skopeo_reads_a_login_of_tare_and_tare_one_of_skopeo() {
    let (host, registry) = (Host::new(), Registry::with_password());
    registry.receive(&stock::archive(&host), "box:1");
    login(&host, USER, PASSWORD, &registry.address).ok();
    let skopeo = |words: &[&str]| {
        let mut command = std::process::Command::new("skopeo");
        let out = command.args(words).env("DOCKER_CONFIG", host.work()).output().expect("skopeo");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    let (image, file) = (format!("docker://{}/box:1", registry.address), host.work().join("config.json"));
    skopeo(&["inspect", "--tls-verify=false", &image, "--authfile", file.to_str().expect("text")]);
    fs::remove_file(&file).expect("the file");
    let auth = host.work().join("auth.json");
    let auth = auth.to_str().expect("text");
    let who = ["--username", USER, "--password", PASSWORD, "--tls-verify=false", &registry.address];
    skopeo(&[&["login", "--authfile", auth], &who[..]].concat());
    host.tare(["login", &registry.address]).run().prints("Login Succeeded");
    let out = host.tare(["logout", &registry.address]).run();
    out.ok();
    out.complains_of(&["podman logout"]);
}

#[test]
fn a_password_that_is_typed_is_not_shown() {
    let (host, registry) = (Host::new(), Registry::with_password());
    let mut terminal = Terminal::start(host.tare(["login", &registry.address]), 24, 80);
    terminal.expect("Username: ");
    terminal.types("anna\n");
    terminal.expect("Password: ");
    terminal.types("pass:wird\x7f\x7f\x7ford\r");
    terminal.expect("Login Succeeded");
    assert_eq!(terminal.wait(), 0);
    assert!(!terminal.screen().contains("pass:"), "{}", terminal.screen());
    terminal.is_restored();

    host.tare(["logout", &registry.address]).run().ok();
    let mut terminal = Terminal::start(host.tare(["login", "-u", USER, &registry.address]), 24, 80);
    terminal.expect("Password: ");
    terminal.types("pass\x03");
    assert_eq!(terminal.wait(), 1);
    terminal.is_restored();
}

#[test]
fn a_login_that_makes_no_sense_is_refused_before_anybody_is_asked() {
    let host = Host::new();
    let table: [(&[&str], &str); 4] = [
        (&[], "non TTY"),
        (&["--password-stdin"], "must provide --username"),
        (&["-u", "anna", "--password-stdin", "-p", "x"], "mutually exclusive"),
        (&["-u", "anna", "--password-stdin"], "empty"),
    ];
    for (words, complaint) in table {
        host.tare(["login"]).args(words).arg("127.0.0.1:1").run().fails(1).complains_of(&[complaint]);
    }
    login(&host, "an:na", "x", "127.0.0.1:1").fails(1).complains_of(&["colon"]);
    login(&host, "anna", "x", "127.0.0.1:1").fails(1).complains_of(&["refused"]);
    host.file("config.json", "{");
    let open = Server::start(|_| Answer::ok("{}"));
    login(&host, "anna", "x", &open.address).fails(1).complains_of(&["config.json", "not understood"]);
    assert_eq!(fs::read_to_string(host.work().join("config.json")).expect("the file"), "{");
}

#[test]
fn a_helper_keeps_a_login_outside_of_the_file() {
    let (host, registry) = (Host::new(), Registry::with_password());
    registry.receive(&stock::archive(&host), "box:1");
    let (server, work) = (&registry.address, host.work());
    let program = host.file(
        "docker-credential-drawer",
        "#!/bin/sh\ncd \"${0%/*}\"\ncase $1 in\nstore) cat > drawer ;;\nerase) rm drawer ;;\n\
         get) cat drawer 2>/dev/null || { echo credentials not found in native keychain; exit 1; } ;;\nesac\n",
    );
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    host.file("config.json", json!({ "credsStore": "drawer" }).to_string());
    let path = format!("{}:{}", work.display(), std::env::var("PATH").expect("a path"));
    let login = host.tare(["login", "-u", USER, "--password-stdin", server]).env("PATH", &path);
    let out = login.stdin(PASSWORD).run();
    assert_eq!(out.prints("Login Succeeded").stderr(), "");
    assert_eq!(config(&host), json!({ "credsStore": "drawer", "auths": { server.as_str(): {} } }));
    let kept: Value = serde_json::from_slice(&fs::read(work.join("drawer")).expect("a file")).expect("JSON");
    assert_eq!(kept, json!({ "ServerURL": server, "Username": USER, "Secret": PASSWORD }));
    let name = format!("{server}/box:1");
    host.tare(["pull", "--quiet", &name]).env("PATH", &path).run().prints(&name);
    host.tare(["logout", server]).env("PATH", &path).run().ok();
    assert!(!work.join("drawer").exists());
    host.tare(["logout", server]).env("PATH", &path).run().prints(&format!("Not logged in to {server}"));
}

#[test]
fn a_registry_may_give_a_token_in_place_of_the_password() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let server = Server::start(move |request| {
        let here = request.headers["host"].clone();
        let shown = request.headers.get("authorization").map(String::as_str);
        match (request.method.as_str(), request.path.split('?').next().expect("a path")) {
            ("GET", "/token") if shown == Some("Basic YW5uYTpwYXNzOndvcmQ=") => {
                assert!(request.path.contains("offline_token=true") && request.path.contains("account=anna"));
                Answer::ok(json!({ "token": "short", "refresh_token": "long" }).to_string())
            }
            ("GET", "/token") => Answer::status(401),
            ("POST", "/token") => Answer::ok(json!({ "access_token": "short" }).to_string()),
            _ if shown != Some("Bearer short") => {
                let challenge = format!("Bearer realm=\"http://{here}/token\",service=\"s\"");
                Answer::status(401).header("WWW-Authenticate", challenge)
            }
            (_, "/v2/") => Answer::ok("{}"),
            _ => stock.answer(request),
        }
    });
    login(&host, USER, "wrong", &server.address).fails(1).complains_of(&["unauthorized"]);
    login(&host, USER, PASSWORD, &server.address).prints("Login Succeeded");
    // The name alone, as Docker keeps it beside the token.
    let entry = json!({ "auth": "YW5uYTo=", "identitytoken": "long" });
    assert_eq!(config(&host)["auths"][&server.address], entry);
    let name = format!("{}/box:1", server.address);
    host.tare(["pull", "--quiet", &name]).run().prints(&name);
    assert!(server.requests().iter().any(|request| request.method == "POST"));
    host.tare(["login", &server.address]).run().prints("Login Succeeded");
}

#[test]
fn a_registry_tells_what_it_has_and_loses_what_is_deleted() {
    let (host, registry) = (Host::new(), Registry::open());
    let archive = stock::archive(&host);
    for name in ["team/box:1", "team/box:2", "other/box:1"] {
        registry.receive(&archive, name);
    }
    let at = |name: &str| format!("{}/{name}", registry.address);
    let words = |words: &[&str]| host.tare(words).run();
    words(&["registry", "ls", &registry.address]).prints("other/box\nteam/box");
    words(&["registry", "tags", &at("team/box")]).prints("1\n2");
    words(&["registry", "tags", &at("none")]).fails(1).complains_of(&["404", "none"]);
    let found = words(&["search", "--format", "{{.Name}}", &at("team")]);
    found.prints(&at("team/box"));
    words(&["registry", "referrers", "--format", "{{.Digest}}", &at("team/box:1")]).prints("");

    // Debian's registry deletes by digest alone; a tag's deletion must not take its neighbours along.
    let out = words(&["registry", "rm", &at("team/box:1")]);
    let digest = out.fails(1).complains_of(&["with all their tags"]).stderr().to_owned();
    let digest = &digest[digest.find("sha256:").expect("the digest")..][..71];
    words(&["registry", "tags", &at("team/box")]).prints("1\n2");
    let whole = at(&format!("team/box@{digest}"));
    words(&["registry", "rm", &whole]).prints(&format!("Deleted: {whole}"));
    words(&["pull", &at("team/box:2")]).fails(1).complains_of(&["404"]);
    words(&["pull", "--quiet", &at("other/box:1")]).prints(&at("other/box:1"));
}

#[test]
fn lists_come_in_pages_and_have_an_end() {
    let host = Host::new();
    let server = Server::start(|request| {
        let page = |names: &[&str], next: Option<&str>| {
            let answer = Answer::ok(json!({ "tags": names }).to_string());
            next.into_iter()
                .fold(answer, |answer, next| answer.header("Link", format!("<{next}>; rel=\"next\"")))
        };
        match request.path.as_str() {
            "/v2/box/tags/list?n=1000" => page(&["a"], Some("/v2/box/tags/list?n=1000&last=a")),
            "/v2/box/tags/list?n=1000&last=a" => page(&["b\u{1b}[2J", "c"], None),
            // The same page for ever.
            "/v2/loop/tags/list?n=1000" => page(&["a"], Some("/v2/loop/tags/list?n=1000")),
            "/v2/away/tags/list?n=1000" => page(&["a"], Some("http://127.0.0.1:1/v2/away/tags/list")),
            "/v2/odd/tags/list?n=1000" => Answer::ok("<html>"),
            "/v2/long/tags/list?n=1000" => Answer::ok(vec![b' '; 5 << 20]),
            _ => Answer::status(404),
        }
    });
    let tags = |name: &str| host.tare(["registry", "tags", &format!("{}/{name}", server.address)]).run();
    tags("box").prints("a\nc");
    tags("loop").prints("a");
    tags("away").fails(1).complains_of(&["sends us elsewhere"]);
    tags("odd").fails(1).complains_of(&["not understood"]);
    tags("long").fails(1).complains_of(&["4 MiB"]);
    host.tare(["registry", "ls", &server.address]).run().fails(1).complains_of(&["404", "tell nobody"]);
    let search = host.tare(["search", &format!("{}/box", server.address)]).run();
    search.fails(1).complains_of(&["search", "tell nobody"]);
}

#[test]
fn what_refers_to_an_image_is_found_either_way() {
    let host = Host::new();
    let stock = Stock::new(&host);
    let line = |byte: &str| {
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 700,
        "digest": format!("sha256:{}", byte.repeat(32)), "artifactType": format!("application/x.{byte}") })
    };
    let (new, old) = (line("aa"), line("bb"));
    let server = Server::start(move |request| {
        let index = |line: &Value| Answer::ok(json!({ "schemaVersion": 2, "manifests": [line] }).to_string());
        match request.path.as_str() {
            path if path.starts_with("/v2/new/referrers/sha256:") => index(&new),
            path if path.starts_with("/v2/old/manifests/sha256-") => index(&old),
            path if path.contains("/manifests/1") => stock.answer(request),
            _ => Answer::status(404),
        }
    });
    let referrers = |name: &str| {
        let name = format!("{}/{name}", server.address);
        host.tare(["registry", "referrers", "--format", "{{.ArtifactType}} {{.Size}}", &name]).run()
    };
    referrers("new:1").prints("application/x.aa 700B");
    referrers("old:1").prints("application/x.bb 700B");
    referrers("none:1").prints("");
    referrers("none:2").fails(1).complains_of(&["404"]);
}

#[test]
fn a_search_shows_what_is_found_and_nothing_of_a_terminals_codes() {
    let host = Host::new();
    let server = Server::start(|request| {
        let line = |name: &str, stars: u32, official: bool| {
            json!({ "name": name, "description": format!("{name}\u{1b}[31m"), "star_count": stars,
                "is_official": official, "is_automated": false })
        };
        assert!(request.path.starts_with("/v1/search?q=a%20b&n="), "{}", request.path);
        Answer::ok(json!({ "results": [line("box", 9, true), line("anna/box", 1, false)] }).to_string())
    });
    let term = format!("{}/a b", server.address);
    let out = host.tare(["search", "--limit", "2", &term]).run().ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("NAME") && lines[0].contains("STARS"), "{out}");
    assert!(lines[1].contains("/box") && lines[1].ends_with("[OK]") && !out.contains('\u{1b}'), "{out}");
    let few = host.tare(["search", "--filter", "stars=5", "--format", "{{.Name}}", &term]).run();
    few.prints(&format!("{}/box", server.address));
    host.tare(["search", "--filter", "x=y", &term]).run().fails(1).complains_of(&["invalid filter"]);
    host.tare(["search", "--limit", "0", &term]).run().fails(125).complains_of(&["1 to 100"]);
}
