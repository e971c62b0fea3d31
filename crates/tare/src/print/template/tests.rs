use super::*;
use serde_json::json;

fn object() -> Value {
    json!({
        "Id": "0123456789abcdef", "Name": "/web", "Args": ["x", "y z"],
        "State": {"Pid": 7, "Running": true, "Status": "running", "Error": "", "Health": null},
        "Config": {"Labels": {"a.b": "c", "plain": "yes"}, "Env": ["A=1", "B=2"], "Entrypoint": null, "Image": "busybox"},
        "HostConfig": {"NanoCpus": 1500000000, "Memory": 0, "Binds": null},
        "NetworkSettings": {
            "Networks": {"bridge": {"IPAddress": "172.17.0.2", "MacAddress": "02:42"}, "front": {"IPAddress": "10.0.0.2"}},
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8787"}], "81/tcp": null},
        },
        "Mounts": [{"Type": "volume", "Name": "data", "Destination": "/data"}, {"Type": "bind", "Source": "/srv", "Destination": "/srv"}],
        "SizeRw": 2.5, "Labels": "a=b,c=d", "Label": {"com.example/x": "hidden"},
    })
}

fn filled(template: &str) -> Result<String, Failure> {
    Template::parse(template)?.fill(&object())
}

/// The examples of Docker's own pages on `inspect`, `ps` and formatting, and what people make of them.
#[test]
fn dockers_examples() {
    let table = [
        ("{{.Id}}", "0123456789abcdef"),
        ("{{ .Id }}\\t{{.State.Pid}}\\n", "0123456789abcdef\t7\n"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "172.17.0.210.0.0.2"),
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "172.17.0.2 10.0.0.2 "),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> {{(index $conf 0).HostPort}} {{break}}{{end}}",
            " 80/tcp -> 8787 ",
        ),
        ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8787"),
        ("{{with (index .NetworkSettings.Ports \"80/tcp\")}}{{(index . 0).HostIp}}{{end}}", "0.0.0.0"),
        ("{{json .Config.Labels}}", r#"{"a.b":"c","plain":"yes"}"#),
        ("{{.State.Status}} {{json .State.Health}} {{.State.Health}}", "running null <nil>"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        ("{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}}:{{.Destination}}{{end}}{{end}}", "data:/data"),
        ("{{range $i, $e := .Config.Env}}{{if $i}},{{end}}{{$e}}{{end}}", "A=1,B=2"),
        (
            "{{index .Config.Labels \"a.b\"}}|{{index .Config.Labels \"none\"}}|{{.Config.Labels.none}}",
            "c||<no value>",
        ),
        ("{{join .Args \", \"}}", "x, y z"),
        ("{{.Args}} {{len .Args}} {{json .Args}}", "[x y z] 2 [\"x\",\"y z\"]"),
        ("{{println .Args}}", "[x y z]\n"),
        ("{{upper .Name}} {{title \"hello big world\"}} {{lower \"ABC\"}}", "/WEB Hello Big World abc"),
        ("{{split .Name \"/\"}}", "[ web]"),
        ("{{pad .Name 1 2}}|{{truncate .Id 4}}|{{truncate .Name 40}}", " /web  |0123|/web"),
        ("{{slice .Id 0 12}}", "0123456789ab"),
        ("{{.Id | printf \"%.12s\"}}", "0123456789ab"),
        ("{{.Id | len}}", "16"),
        (
            "{{printf \"%-8s|%5d|%05d|%x|%q|%v|%.1f\" .Name 42 7 255 \"a\\\"b\" true .SizeRw}}",
            "/web    |   42|00007|ff|\"a\\\"b\"|true|2.5",
        ),
        (
            "{{printf \"%d\" \"x\"}} {{printf \"%s\"}} {{printf \"x\" 1}}",
            "%!d(string=x) %!s(MISSING) x%!(EXTRA int=1)",
        ),
        (
            "{{.HostConfig.NanoCPUs}} {{.ID}} {{.HostConfig.Binds}} {{.Config.Entrypoint}}",
            "1500000000 0123456789abcdef [] []",
        ),
        ("{{if and .State.Running (eq .State.Status \"running\")}}up{{end}}", "up"),
        ("{{if or .HostConfig.Memory (gt .State.Pid 5)}}yes{{else}}no{{end}}", "yes"),
        ("{{if not .State.Error}}fine{{end}}", "fine"),
        ("{{if eq .State.Status \"exited\" \"running\"}}one{{end}}", "one"),
        ("{{if eq .State.Status \"a\"}}a{{else if eq .State.Status \"running\"}}r{{else}}z{{end}}", "r"),
        ("{{range .HostConfig.Binds}}x{{else}}none{{end}}", "none"),
        ("a {{- .Name -}} b", "a/webb"),
        ("{{/* a comment }} */}}{{- /* another */ -}} x", "x"),
        ("{{$x := .Name}}{{range .Args}}{{$x}}{{end}}{{$.Id | printf \"%.1s\"}}", "/web/web0"),
        ("{{$n := 0}}{{range .Args}}{{$n = .}}{{end}}{{$n}}", "y z"),
        ("{{range .Args}}{{if eq . \"x\"}}{{continue}}{{end}}{{.}}{{end}}", "y z"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{print 1 2 \"x\" 3}} {{print nil}}", "1 2x3 <nil>"),
        ("{{.Label \"com.example/x\"}}|{{.Label \"none\"}}", "hidden|"),
        ("{{with .Config}}{{.Image}}{{end}}{{with .State.Error}}!{{else}}-{{end}}", "busybox-"),
        ("{{html \"<a>\"}} {{urlquery \"a b&\"}}", "&lt;a&gt; a+b%26"),
        ("{{ne 1 2}} {{lt \"a\" \"b\"}} {{le 2 2}} {{ge 1.5 1}}", "true true true true"),
        ("{{`raw \"text\"`}} {{\"tab\\there\"}}", "raw \"text\" tab\there"),
        ("{{.NetworkSettings.Ports}}", "map[80/tcp:[map[HostIp:0.0.0.0 HostPort:8787]] 81/tcp:<nil>]"),
        ("no fields }}", "no fields }}"),
        ("", ""),
    ];
    for (template, text) in table {
        assert_eq!(filled(template).as_deref(), Ok(text), "{template}");
    }
}

#[test]
fn headings_are_left_as_they_are() {
    let template =
        Template::parse("{{upper .Names}}\t{{.Label \"com.example.some-label\"}}\t{{json .ID}}").unwrap();
    let headings = json!({"Names": "NAMES", "ID": "CONTAINER ID"});
    assert_eq!(template.fill_heading(&headings).as_deref(), Ok("NAMES\tsome label\tCONTAINER ID"));
}

#[test]
fn a_mistake_is_named() {
    let table = [
        ("{{.Nope}}", "map has no entry for key \"Nope\""),
        ("{{.State.Pod}}", "map has no entry for key \"Pod\""),
        ("{{.State.Health.Status}}", "map has no entry for key \"Status\""),
        ("{{index .Args 5}}", "out of range: 5"),
        ("{{len 3}}", "no length"),
        ("{{range .Name}}{{end}}", "can't iterate"),
        ("{{eq .Args .Args}}", "non-comparable"),
        ("{{lt 1 \"a\"}}", "incompatible"),
        ("{{nope .Id}}", "function \"nope\" not defined"),
        ("{{$x}}", "no variable $x"),
        ("{{if .Id}}", "{{end}} is missing"),
        ("{{end}}", "without a beginning"),
        ("{{break}}", "outside {{range}}"),
        ("{{join .Args}}", "wrong number of args for join"),
        ("{{.Id \"x\"}}", "takes no arguments"),
        ("{{template \"x\"}}", "not supported"),
        ("{{", "not closed"),
        ("{{.Id", "not closed"),
        ("{{\"x}}", "not closed"),
        ("{{}}", "nothing in it"),
    ];
    for (template, part) in table {
        let error = filled(template).unwrap_err();
        assert!(error.contains(part), "{template}: {error}");
    }
}

/// Whatever is written, the answer is a text or a reason, and it comes soon.
#[test]
fn nonsense_neither_panics_nor_runs_away() {
    let deep = format!("{}{}", "{{if 1}}".repeat(5_000), "{{end}}".repeat(5_000));
    let brackets = format!("{{{{{}1{}}}}}", "(".repeat(5_000), ")".repeat(5_000));
    let bomb = format!("{{{{$x := \"xxxxxxxxxxxxxxxx\"}}}}{}", "{{$x = print $x $x}}".repeat(60));
    let loops = format!("{}x{}", "{{range 1000}}".repeat(5), "{{end}}".repeat(5));
    for hostile in [&deep, &brackets, &bomb, &loops, "{{printf \"%999999999d\" 1}}", "{{pad .Id 99999999 1}}"]
    {
        assert!(filled(hostile).is_err());
    }
    let parts = [
        "{{",
        "}}",
        ".",
        "..",
        "$",
        "$x",
        ":=",
        "|",
        "(",
        ")",
        "\"",
        "`",
        "'",
        "range",
        "if",
        "else",
        "end",
        "with",
        " ",
        ".Id",
        "é",
        "-",
        "- ",
        " -",
        "json",
        "index",
        "slice",
        "printf",
        "\"%*d%.q%\"",
        "9",
        "-1",
        "0x",
        "1e9",
        ",",
        "/*",
        "*/",
    ];
    // A small generator of numbers: the same ones each time.
    let mut state = 7_u64;
    let mut next = |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % most
    };
    for _ in 0..20_000 {
        let text: String = (0..next(12)).map(|_| parts[next(parts.len())]).collect();
        let _ = filled(&text);
        let _ = filled(&format!("{{{{{text}}}}}"));
    }
}
