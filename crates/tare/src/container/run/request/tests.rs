use serde_json::{Value, json};

use super::*;
use crate::container::run::RUN;
use crate::words::tree;

/// What `tare run WORDS` asks for.
fn asked(words: &[&str]) -> Result<Value> {
    let matches = tree::parse_for_test(&[&["run"], words].concat()).unwrap();
    let (_, matches) = matches.subcommand().unwrap();
    request(&Given::new(matches, RUN.flags)).map(|request| serde_json::to_value(request).unwrap())
}

/// Checks the fields that are named; of the rest it is checked that they are as if nothing was given.
fn check(words: &[&str], expected: Value) {
    let found = asked(words).unwrap_or_else(|err| panic!("{words:?}: {err}"));
    let mut wanted = asked(&["host"]).unwrap();
    for (section, fields) in expected.as_object().unwrap() {
        match fields {
            Value::Object(fields) => {
                fields.iter().for_each(|(key, value)| wanted[section][key] = value.clone())
            }
            value => wanted[section] = value.clone(),
        }
    }
    assert_eq!(found, wanted, "{words:?}");
}

#[test]
fn words_become_requests() {
    let here = std::env::current_dir().unwrap();
    let here = here.to_str().unwrap();
    check(
        &["host"],
        json!({"Config": {"Image": "host", "AttachStdout": true, "AttachStderr": true, "Cmd": null}}),
    );
    check(
        &["-it", "--rm", "--name=web", "-h", "box", "busybox:1", "sh", "-c", "exit 3"],
        json!({
            "Name": "web",
            "Config": {
                "Image": "busybox:1", "Cmd": ["sh", "-c", "exit 3"], "Tty": true, "OpenStdin": true,
                "AttachStdin": true, "Hostname": "box",
            },
            "HostConfig": {"AutoRemove": true},
        }),
    );
    check(&["-d", "host"], json!({"Config": {"AttachStdout": false, "AttachStderr": false}}));
    check(&["-d=false", "--rm", "--rm=false", "host"], json!({}));
    check(&["-a", "STDOUT", "host"], json!({"Config": {"AttachStderr": false}}));
    check(
        &["--entrypoint", "sh", "host", "-c", "echo", "--", "-m"],
        json!({"Config": {"Entrypoint": ["sh"], "Cmd": ["-c", "echo", "--", "-m"]}}),
    );
    check(&["--entrypoint", "", "host"], json!({"Config": {"Entrypoint": []}}));
    check(
        &["--rootfs", "./root", "sh", "-x"],
        json!({"Config": {"Image": "", "Cmd": ["sh", "-x"]}, "HostConfig": {"Rootfs": format!("{here}/root")}}),
    );
    check(
        &["-e", "A=b", "-e", "A=c", "-l", "x", "--label=y=z", "-u", "1:2", "-w", "/app", "host"],
        json!({"Config": {"Env": ["A=b", "A=c"], "Labels": {"x": "", "y": "z"}, "User": "1:2", "WorkingDir": "/app"}}),
    );
    check(
        &["--stop-signal", "TERM", "--stop-timeout", "3", "--domainname", "d", "host"],
        json!({"Config": {"StopSignal": "TERM", "StopTimeout": 3, "Domainname": "d"}}),
    );
}

#[test]
fn limits_become_host_config() {
    check(
        &[
            "-m",
            "64m",
            "--memory-swap=-1",
            "--memory-reservation",
            "32m",
            "--memory-swappiness",
            "0",
            "--oom-kill-disable",
            "--cpus",
            "1.5",
            "-c",
            "512",
            "--cpuset-cpus",
            "0-1",
            "--cpuset-mems",
            "0",
            "--pids-limit",
            "-1",
            "--blkio-weight",
            "300",
            "--oom-score-adj",
            "-500",
            "--shm-size",
            "1g",
            "host",
        ],
        json!({"HostConfig": {
            "Memory": 64 << 20, "MemorySwap": -1, "MemoryReservation": 32 << 20, "MemorySwappiness": 0,
            "OomKillDisable": true, "NanoCpus": 1_500_000_000, "CpuShares": 512, "CpusetCpus": "0-1",
            "CpusetMems": "0", "PidsLimit": -1, "BlkioWeight": 300, "OomScoreAdj": -500, "ShmSize": 1 << 30,
        }}),
    );
    check(
        &[
            "--cpu-period",
            "100000",
            "--cpu-quota",
            "50000",
            "--ulimit",
            "nofile=1:2",
            "--ulimit",
            "core=0",
            "--ulimit",
            "nofile=3",
            "--device-read-bps",
            "/dev/sda:1mb",
            "--device-write-bps",
            "/dev/sda:2",
            "--device-read-iops",
            "/dev/sda:3",
            "--device-write-iops",
            "/dev/sda:4",
            "--blkio-weight-device",
            "/dev/sda:500",
            "--cpu-rt-period",
            "1000000",
            "--cpu-rt-runtime",
            "950000",
            "host",
        ],
        json!({"HostConfig": {
            "CpuPeriod": 100_000, "CpuQuota": 50_000,
            "CpuRealtimePeriod": 1_000_000, "CpuRealtimeRuntime": 950_000,
            "BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 500}],
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "nofile", "Soft": 3, "Hard": 3}],
            "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1 << 20}],
            "BlkioDeviceWriteBps": [{"Path": "/dev/sda", "Rate": 2}],
            "BlkioDeviceReadIOps": [{"Path": "/dev/sda", "Rate": 3}],
            "BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 4}],
        }}),
    );
}

#[test]
fn the_wall_becomes_host_config() {
    check(
        &[
            "--net",
            "none",
            "--pid=host",
            "--ipc",
            "container:web",
            "--uts=host",
            "--userns",
            "host",
            "--cgroupns=private",
            "--cgroup-parent",
            "/jobs",
            "--cap-add",
            "NET_ADMIN",
            "--cap-drop=ALL",
            "--security-opt",
            "seccomp:unconfined",
            "--security-opt=no-new-privileges",
            "--privileged",
            "--sysctl",
            "net.core.somaxconn=1",
            "--device",
            "/dev/fuse",
            "--device-cgroup-rule",
            "c 1:3 r",
            "host",
        ],
        json!({"HostConfig": {
            "NetworkMode": "none", "PidMode": "host", "IpcMode": "container:web", "UTSMode": "host",
            "UsernsMode": "host", "CgroupnsMode": "private", "CgroupParent": "/jobs", "CapAdd": ["NET_ADMIN"],
            "CapDrop": ["ALL"], "SecurityOpt": ["seccomp=unconfined", "no-new-privileges"], "Privileged": true,
            "Sysctls": {"net.core.somaxconn": "1"}, "DeviceCgroupRules": ["c 1:3 r"],
            "Devices": [
                {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"},
            ],
        }}),
    );
    check(
        &["--time-offset", "boottime=+3d,monotonic=-1s", "--time-offset", "monotonic=2s", "host"],
        json!({"HostConfig": {"TimeOffsets": {"Boottime": 259_200_000_000_000_i64, "Monotonic": 2_000_000_000}}}),
    );
    check(
        &[
            "-v",
            "/a:/b:ro",
            "--tmpfs",
            "/run:size=1m",
            "--read-only",
            "--init",
            "--add-host",
            "db:10.0.0.1",
            "--dns",
            "1.1.1.1",
            "--dns-opt",
            "ndots:1",
            "--dns-search",
            "a.b",
            "--group-add",
            "audio",
            "--cidfile",
            "id",
            "--mount",
            "type=tmpfs,dst=/t",
            "host",
        ],
        json!({"HostConfig": {
            "Binds": ["/a:/b:ro"], "Tmpfs": {"/run": "size=1m"}, "ReadonlyRootfs": true, "Init": true,
            "ExtraHosts": ["db:10.0.0.1"], "Dns": ["1.1.1.1"], "DnsOptions": ["ndots:1"], "DnsSearch": ["a.b"],
            "GroupAdd": ["audio"], "ContainerIDFile": "id",
            "Mounts": [{
                "Type": "tmpfs", "Source": "", "Target": "/t", "ReadOnly": false, "Propagation": "",
                "NonRecursive": false, "ReadOnlyNonRecursive": false, "CreateSource": false, "TmpfsSize": 0, "TmpfsMode": 0,
                "VolumeOptions": {"NoCopy": false, "Subpath": "", "Labels": {}, "Driver": "", "DriverOptions": {}},
                "ImageOptions": {"Subpath": ""},
            }],
        }}),
    );
}

#[test]
fn files_come_before_options() {
    let folder = std::env::temp_dir().join(format!("tare-request-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name).to_str().unwrap().to_owned()
    };
    let (env, labels) = (path("env", "A=1\n# no\nB=2\n"), path("labels", "x=1\ny\n"));
    let profile = path("profile", "{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }\n");
    check(
        &[
            "-e",
            "A=3",
            "--env-file",
            &env,
            "-l",
            "x=2",
            "--label-file",
            &labels,
            "--security-opt",
            &format!("seccomp={profile}"),
            "host",
        ],
        json!({
            "Config": {"Env": ["A=1", "B=2", "A=3"], "Labels": {"x": "2", "y": ""}},
            "HostConfig": {"SecurityOpt": ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]},
        }),
    );
    let broken = path("broken", "A B=1");
    let error = asked(&["--env-file", &broken, "host"]).unwrap_err();
    assert!(error.to_string().ends_with("line 1 has a space in the name \"A B\""), "{error}");
    let error = asked(&["--env-file", "/nowhere", "host"]).unwrap_err();
    assert_eq!(error.to_string(), "--env-file: read /nowhere: ENOENT (No such file or directory)");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn wrong_values_are_refused() {
    let table: [(&[&str], &str); 21] = [
        (
            &["-m", "x"],
            "invalid value \"x\" for --memory: it is not a size: a number, then b, k, m, g, t or p",
        ),
        (&["--memory", "-1"], "invalid value \"-1\" for --memory: it cannot be negative"),
        (&["--cpus", "x"], "invalid value \"x\" for --cpus: it is not a number of CPUs"),
        (&["--rm=x"], "invalid value \"x\" for --rm: it is neither true nor false"),
        (&["-w", "app"], "invalid value \"app\" for --workdir: it must begin with /"),
        (
            &["--blkio-weight", "5"],
            "invalid value \"5\" for --blkio-weight: it must be from 10 to 1000, or 0",
        ),
        (&["--pids-limit", "-2"], "invalid value \"-2\" for --pids-limit: the least is -1"),
        (&["--stop-signal", "X"], "invalid value \"X\" for --stop-signal: there is no such signal"),
        (
            &["--stop-timeout", "-1"],
            "invalid value \"-1\" for --stop-timeout: it must be from 0 to 4294967295",
        ),
        (&["--uts", "container:x"], "invalid value \"container:x\" for --uts: it can be private, host"),
        (
            &["--network", "container:"],
            "invalid value \"container:\" for --network: there is no container after container:",
        ),
        (&["-e", "=x"], "invalid value \"=x\" for --env: the variable has no name"),
        (&["-l", "=x"], "invalid value \"=x\" for --label: the label has no name"),
        (&["--sysctl", "x"], "invalid value \"x\" for --sysctl: there is no = after the sysctl"),
        (&["--dns", "x"], "invalid value \"x\" for --dns: \"x\" is not an IP address"),
        (&["-a", "x"], "invalid value \"x\" for --attach: it can be stdin, stdout or stderr"),
        (
            &["-a", "stdin"],
            "invalid value \"stdin\" for --attach: there is no stdin to attach to without --interactive",
        ),
        (&["-d", "-a", "stdout"], "--attach and --detach contradict each other"),
        (
            &["--cpus", "1", "--cpu-quota", "5"],
            "--cpus contradicts --cpu-period and --cpu-quota: they set the same limit",
        ),
        (
            &["-m", "2m", "--memory-swap", "1m"],
            "--memory-swap is less than --memory: it is the sum of memory and swap",
        ),
        (&["-m", "1m", "--memory-reservation", "2m"], "--memory-reservation is more than --memory"),
    ];
    for (words, what) in table {
        let error = asked(&[words, &["host"]].concat()).unwrap_err();
        assert_eq!(error.to_string(), what);
        assert!(matches!(error.kind(), Kind::Usage | Kind::Option));
        assert!(error.hint_text().is_some(), "{what}: no hint");
    }
}
