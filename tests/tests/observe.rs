//! `ps`, `inspect`, `stats`, `top`, `port` and `container prune`, as scripts written for Docker use them.
#![forbid(unsafe_code)]

use serde_json::Value;
use tare_tests::{Host, eventually};

fn lines(host: &Host, words: &[&str]) -> Vec<String> {
    host.tare(words).run().ok().lines().map(str::to_owned).collect()
}

#[test]
fn ps_filters_as_docker_does() {
    let host = Host::new();
    host.detached(&["--name", "one", "--label", "tier=web"], "sleep 60");
    host.detached(&["--name", "two", "-v", "/var/tmp:/data"], "sleep 60");
    host.detached(&["--name", "over", "--label", "tier=db"], "exit 3");
    eventually("it ends", || host.status("over") == "exited");
    let table: [(&[&str], &[&str]); 12] = [
        (&[], &["two", "one"]),
        (&["-a"], &["over", "two", "one"]),
        (&["-f", "name=^one$"], &["one"]),
        (&["-f", "status=exited"], &["over"]),
        (&["-f", "exited=3"], &["over"]),
        (&["-a", "-f", "label=tier"], &["over", "one"]),
        (&["-a", "-f", "label=tier=db"], &["over"]),
        (&["-f", "ancestor=busybox"], &["two", "one"]),
        (&["-f", "since=one"], &["two"]),
        (&["-a", "-f", "before=two"], &["one"]),
        (&["-f", "volume=/data"], &["two"]),
        (&["-n", "1"], &["over"]),
    ];
    for (flags, names) in table {
        let words = [&["ps", "--format", "{{.Names}}"], flags].concat();
        assert_eq!(lines(&host, &words), names, "{flags:?}");
    }
    host.tare(["ps", "-f", "size=1"]).run().fails(1).complains_of(&["invalid filter"]);
    host.tare(["ps", "-f", "since=nobody"]).run().fails(1);
    let formatted = lines(
        &host,
        &[
            "ps",
            "-f",
            "name=one",
            "--format",
            "{{.Label \"tier\"}} {{.State}} {{.LocalVolumes}} {{.Mounts}}|",
        ],
    );
    assert_eq!(formatted, ["web running 0 |"]);
    let json: Value =
        serde_json::from_str(&host.tare(["ps", "-l", "--format", "json"]).run().ok()).expect("JSON");
    let fields: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    let docker = "Command CreatedAt ID Image Labels LocalVolumes Mounts Names Networks Ports RunningFor Size State Status";
    assert_eq!(fields.join(" "), docker);
    let written = lines(&host, &["ps", "-s", "--format", "{{.Size}}", "-f", "name=one"]);
    assert!(written[0].starts_with("0B (virtual "), "{written:?}");
}

#[test]
fn inspect_has_dockers_shape() {
    let host = Host::new();
    host.detached(&["--name", "web", "-e", "A=1", "--label", "x=y", "-v", "/var/tmp:/data:ro"], "sleep 60");
    let object = host.inspect("web");
    for (part, fields) in [
        (
            "",
            "AppArmorProfile Args Config Created Driver ExecIDs GraphDriver HostConfig HostnamePath HostsPath Id Image \
             LogPath MountLabel Mounts Name NetworkSettings Path Platform ProcessLabel ResolvConfPath RestartCount State",
        ),
        ("State", "Dead Error ExitCode FinishedAt OOMKilled Paused Pid Restarting Running StartedAt Status"),
        (
            "Config",
            "AttachStderr AttachStdin AttachStdout Cmd Domainname Entrypoint Env Hostname Image Labels OnBuild \
             OpenStdin StdinOnce Tty User Volumes WorkingDir",
        ),
        (
            "NetworkSettings",
            "Bridge EndpointID Gateway IPAddress IPPrefixLen MacAddress Networks Ports SandboxID SandboxKey",
        ),
        (
            "HostConfig",
            "AutoRemove Binds BlkioWeight CapAdd CapDrop CgroupParent CgroupnsMode ConsoleSize ContainerIDFile \
             CpuShares CpusetCpus Devices Dns ExtraHosts GroupAdd IpcMode Links LogConfig MaskedPaths Memory MemorySwap NanoCpus \
             NetworkMode OomScoreAdj PidMode PidsLimit PortBindings Privileged PublishAllPorts ReadonlyPaths ReadonlyRootfs \
             RestartPolicy Runtime SecurityOpt ShmSize UTSMode Ulimits UsernsMode VolumeDriver VolumesFrom",
        ),
    ] {
        let object = if part.is_empty() { &object } else { &object[part] };
        for field in fields.split_ascii_whitespace() {
            assert!(object.get(field).is_some(), "{part}.{field}");
        }
    }
    let format = "{{range .Mounts}}{{.Type}} {{.Source}} {{.Destination}} {{.RW}}{{end}} {{.HostConfig.LogConfig.Type}} \
                  {{index .Config.Labels \"x\"}} {{.HostConfig.RestartPolicy.Name}} {{.ID}}";
    let expected =
        format!("bind /var/tmp /data false json-file y no {}", object["Id"].as_str().expect("an id"));
    host.tare(["inspect", "-f", format, "web"]).run().prints(&expected);
    host.tare(["inspect", "-f", "{{.Config.Labels.none}}", "web"]).run().prints("<no value>");
    host.tare(["inspect", "-f", "{{.Nope}}", "web"])
        .run()
        .fails(1)
        .complains_of(&["map has no entry for key"]);
    let size = host.tare(["inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "web"]).run().ok();
    assert!(size.starts_with("0 "), "{size}");
}

#[test]
fn a_mode_is_listed_as_a_network() {
    let host = Host::new();
    let ids = |filter: &str| host.tare(["network", "ls", "-q", "--no-trunc", "-f", filter]).run().ok();
    for mode in ["none", "host"] {
        host.detached(&["--name", mode, "--network", mode], "sleep 60");
        let id = ids(&format!("name=^{mode}$"));
        assert_eq!(id.len(), 64, "{id}");
        let network = "{{range $name, $it := .NetworkSettings.Networks}}{{$name}} {{$it.NetworkID}}{{end}}";
        host.tare(["inspect", "-f", network, mode]).run().prints(&format!("{mode} {id}"));
        let found = ["ps", "-f", &format!("network={mode}"), "--format", "{{.Names}} {{.Networks}}"];
        host.tare(found).run().prints(&format!("{mode} {mode}"));
        host.tare(["network", "inspect", "-f", "{{.Name}}", &id[..12]]).run().prints(mode);
    }
    let paths = "{{len .HostConfig.MaskedPaths}} {{len .HostConfig.ReadonlyPaths}}";
    assert_ne!(host.tare(["inspect", "-f", paths, "none"]).run().ok(), "0 0");
    let open = ["create", "--name", "open", "--security-opt", "systempaths=unconfined", "host"];
    host.tare(open).run().ok();
    host.tare(["inspect", "-f", paths, "open"]).run().prints("0 0");
}

#[test]
fn stats_and_top_show_what_runs() {
    let host = Host::new();
    host.detached(&["--name", "busy", "-m", "64m"], "while :; do :; done & sleep 60");
    let json: Value =
        serde_json::from_str(&host.tare(["stats", "--no-stream", "--format", "json"]).run().ok())
            .expect("JSON");
    assert_eq!(json["Name"], "busy");
    assert!(json["MemUsage"].as_str().is_some_and(|text| text.ends_with(" / 64MiB")), "{json}");
    let percent = json["CPUPerc"].as_str().and_then(|text| text.trim_end_matches('%').parse::<f64>().ok());
    assert!(percent.is_some_and(|percent| percent > 1.0), "{json}");
    assert!(
        json["PIDs"].as_str().is_some_and(|count| count.parse::<u32>().is_ok_and(|count| count >= 2)),
        "{json}"
    );
    let table = host.tare(["stats", "--no-stream", "busy"]).run().ok();
    assert!(table.starts_with("CONTAINER ID   NAME") && table.contains("MEM USAGE / LIMIT"), "{table}");
    let top = lines(&host, &["top", "busy"]);
    assert!(top[0].starts_with("UID") && top[1..].iter().any(|line| line.contains("sleep 60")), "{top:?}");
    assert!(lines(&host, &["top", "busy", "-o", "pid,comm"]).len() >= 3);
    host.tare(["top", "nobody"]).run().fails(1);
}

#[test]
fn prune_takes_what_has_ended() {
    let host = Host::new();
    host.detached(&["--name", "up"], "sleep 60");
    host.detached(&["--name", "kept", "--label", "keep"], "true");
    let id = host.detached(&["--name", "over"], "true");
    eventually("they end", || host.status("over") == "exited" && host.status("kept") == "exited");
    assert!(host.tare(["container", "prune"]).stdin("n\n").run().stderr().contains("Are you sure"));
    assert_eq!(lines(&host, &["ps", "-aq"]).len(), 3);
    let pruned = host.tare(["container", "prune", "-f", "--filter", "label!=keep"]).run().ok();
    assert!(pruned.contains(&format!("Deleted Containers:\n{id}\n\nTotal reclaimed space: ")), "{pruned}");
    assert_eq!(lines(&host, &["ps", "-a", "--format", "{{.Names}}"]), ["kept", "up"]);
    host.tare(["container", "prune", "-f", "--filter", "until=1h"]).run().ok();
    assert_eq!(lines(&host, &["ps", "-aq"]).len(), 2);
}

#[test]
fn templates_know_the_fields_that_docker_leaves_out_of_its_json() {
    let host = Host::new();
    host.detached(&["--name", "web", "-v", "data:/data", "-v", "/var/tmp:/tmp"], "sleep 60");
    let mounts = "{{range .Mounts}}{{.Type}} {{.Name}} {{.Driver}} {{.Destination}};{{end}}";
    host.tare(["inspect", "-f", mounts, "web"]).run().prints("bind   /tmp;volume data local /data;");
    assert!(host.inspect("web")["Mounts"][0].get("Name").is_none());
    host.tare(["network", "create", "--subnet", "10.97.0.0/24", "lan"]).run().ok();
    let subnets = "{{range .IPAM.Config}}{{.Subnet}} {{.IPRange}}{{end}}|";
    host.tare(["network", "inspect", "-f", subnets, "lan"]).run().prints("10.97.0.0/24 |");
    host.tare(["inspect", "-f", "{{range .Mounts}}{{.Nothing}}{{end}}", "web"]).run().fails(1);
}

#[test]
fn the_version_is_found_where_docker_has_it() {
    let host = Host::new();
    let of = |template: &str| host.tare(["version", "--format", template]).run().ok();
    let version = of("{{.Version}}");
    assert!(!version.is_empty());
    assert_eq!(of("{{.Server.Version}} {{.Client.Version}}"), format!("{version} {version}"));
    assert_eq!(of("{{.Server.Os}}/{{.Client.Arch}}"), of("{{.Os}}/{{.Arch}}"));
}

#[test]
fn one_that_does_not_run_publishes_nothing_and_that_is_no_error() {
    let host = Host::new();
    host.busybox();
    host.tare(["create", "--name", "web", "-p", "8080:80", "busybox", "true"]).run().ok();
    host.tare(["port", "web"]).run().prints("");
    host.tare(["port", "web", "80"]).run().fails(1).complains_of(&["no public port '80/tcp'"]);
    host.tare(["port", "nobody"]).run().fails(1);
}
