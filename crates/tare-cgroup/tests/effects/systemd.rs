//! The systemd driver, against the systemd of this host: the system's as root, else the user's. For VMs.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use rustix::process::Pid;
use tare_cgroup::{Cgroup, Driver, Entrance, Hierarchies, Version, systemd_is_running};
use tare_sys::Kind;

use super::cage::{nothing, until};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn driver() -> Driver {
    Driver::Systemd { user: !is_root() }
}

fn host() -> Option<Hierarchies> {
    if !systemd_is_running() {
        eprintln!("skipped: systemd does not run here");
        return None;
    }
    if !is_root() && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        eprintln!("skipped: no login session");
        return None;
    }
    Hierarchies::discover().ok()
}

fn systemctl(words: &[&str]) -> String {
    let mut command = Command::new("systemctl");
    if !is_root() {
        command.arg("--user");
    }
    let output = command.args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "-P", name, unit])
}

/// A container: a shell that was waiting in a pipe's end while it was admitted, and its unit.
struct Unit {
    on: Hierarchies,
    cgroup: Cgroup,
    name: String,
    child: Child,
}

fn prepare(
    on: &Hierarchies,
    id: &str,
    resources: &LinuxResources,
    notes: &[(&str, &str)],
) -> tare_sys::Result<Cgroup> {
    let notes: HashMap<String, String> =
        notes.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let path = format!("taretest{id}-a.slice:tt:{id}");
    Cgroup::create_for(on, &driver(), id, Some(&path), resources, &notes, !is_root())
}

fn start(
    on: &Hierarchies,
    id: &str,
    resources: &LinuxResources,
    notes: &[(&str, &str)],
    script: &str,
) -> Unit {
    let cgroup = prepare(on, id, resources, notes).unwrap();
    assert!(!cgroup.is_disabled() && cgroup.processes().unwrap().is_empty(), "nothing is made yet");
    // Held until its stdin says a line, as a runtime holds its child.
    let mut child = Command::new("sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let entrance = cgroup.entrance().unwrap();
    assert!(matches!(entrance, Entrance::Unit(_)));
    entrance.admit(Pid::from_child(&child)).unwrap();
    use std::io::Write;
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    Unit { on: on.clone(), cgroup, name: format!("tt-{id}.scope"), child }
}

impl Unit {
    fn read(&self, file: &str) -> String {
        let paths = self.cgroup.paths();
        let controller = file.split('.').next().unwrap();
        let dir = paths.get("").or(paths.get(controller)).unwrap();
        std::fs::read_to_string(format!("{dir}/{file}"))
            .unwrap_or_else(|err| panic!("{dir}/{file}: {err}"))
            .trim()
            .to_owned()
    }

    fn end(mut self) {
        self.cgroup.kill().unwrap();
        self.child.wait().unwrap();
        let paths = self.cgroup.paths();
        self.cgroup.remove().unwrap();
        assert!(self.cgroup.paths().is_empty(), "{paths:?}");
        for dir in paths.values() {
            assert!(!std::path::Path::new(dir).exists(), "{dir}");
        }
        assert_eq!(property(&self.name, "LoadState"), "not-found");
        self.cgroup.remove().unwrap();
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // systemd made the slices for the scope, and keeps them.
        let id = self.name.trim_start_matches("tt-").trim_end_matches(".scope");
        systemctl(&["stop", &format!("taretest{id}.slice")]);
    }
}

fn limited(bytes: i64, pids: i64, quota: i64) -> LinuxResources {
    let memory = LinuxMemoryBuilder::default().limit(bytes).swap(bytes).build().unwrap();
    let cpu = LinuxCpuBuilder::default().shares(512u64).quota(quota).period(100_000u64).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(pids).build().unwrap();
    LinuxResourcesBuilder::default().memory(memory).cpu(cpu).pids(pids).build().unwrap()
}

#[test]
fn limits_are_the_units_and_survive_a_reload() {
    let Some(on) = host() else { return };
    let notes = [
        ("org.systemd.property.TimeoutStopSec", "7"),
        ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
    ];
    let unit = start(&on, "limits", &limited(48 << 20, 20, 50_000), &notes, "sleep 1000; :");
    let location = unit.cgroup.location();
    assert_eq!(location.unit.as_deref(), Some("tt-limits.scope"));
    assert!(
        location.path.ends_with("/taretestlimits.slice/taretestlimits-a.slice/tt-limits.scope"),
        "{location:?}"
    );
    assert_eq!(property(&unit.name, "ControlGroup"), location.path);
    for (name, value) in [
        ("ActiveState", "active"),
        ("Delegate", "yes"),
        ("Slice", "taretestlimits-a.slice"),
        ("TasksMax", "20"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("TimeoutStopUSec", "7s"),
        ("CollectMode", "inactive-or-failed"),
        ("DefaultDependencies", "no"),
        ("MemoryAccounting", "yes"),
        ("Description", "tare container limits"),
    ] {
        assert_eq!(property(&unit.name, name), value, "{name}");
    }
    let check = |bytes: i64, pids: &str, quota: &str| match on.version() {
        Version::V2 => {
            assert_eq!(property(&unit.name, "MemoryMax"), bytes.to_string());
            assert_eq!(unit.read("memory.max"), bytes.to_string());
            assert_eq!(unit.read("memory.swap.max"), "0");
            assert_eq!(unit.read("pids.max"), pids);
            assert_eq!(unit.read("cpu.max"), format!("{quota} 100000"));
            assert_eq!(unit.read("cpu.weight"), "59");
        }
        Version::V1 => {
            assert_eq!(unit.read("memory.limit_in_bytes"), bytes.to_string());
            assert_eq!(unit.read("pids.max"), pids);
            assert_eq!(unit.read("cpu.cfs_quota_us"), quota);
        }
    };
    check(48 << 20, "20", "50000");
    systemctl(&["daemon-reload"]);
    check(48 << 20, "20", "50000");

    // Another command, which knows the location only.
    let other = Cgroup::at(&on, &serde_json::from_str(&serde_json::to_string(&location).unwrap()).unwrap());
    assert_eq!(other.processes().unwrap(), unit.cgroup.processes().unwrap());
    other.update(&limited(96 << 20, 30, 25_000)).unwrap();
    check(96 << 20, "30", "25000");
    systemctl(&["daemon-reload"]);
    check(96 << 20, "30", "25000");
    other.freeze().unwrap();
    assert!(other.is_frozen().unwrap());
    other.thaw().unwrap();
    assert_eq!(other.oci_stats().unwrap().pids.limit, 30);
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", unit.child.id())).unwrap();
    for line in text.lines().filter(|line| {
        line.contains("memory") || line.contains("cpu,cpuacct") || line.starts_with("0::/taretest")
    }) {
        assert!(line.ends_with(&location.path), "{text}");
    }
    unit.end();
}

#[test]
fn memory_and_processes_are_really_limited() {
    let Some(on) = host() else { return };
    let script = "(x=$(head -c 100M /dev/zero | tr '\\0' x)); echo big $?; \
                  for i in $(seq 40); do sleep 1000 & done; echo all";
    let mut unit = start(&on, "effect", &limited(32 << 20, 20, 100_000), &[], script);
    until("it was killed or ended", || {
        unit.child.try_wait().unwrap().is_some() || unit.cgroup.memory_events().unwrap().oom_kills > 0
    });
    until("no more forks", || unit.child.try_wait().unwrap().is_some());
    assert!(unit.cgroup.memory_events().unwrap().oom_kills > 0);
    let many = unit.cgroup.processes().unwrap().len();
    assert!((1..=20).contains(&many), "{many} live");
    unit.end();
}

fn rule(allow: bool, device: Option<(i64, i64)>, access: &str) -> LinuxDeviceCgroup {
    let rule = LinuxDeviceCgroupBuilder::default().allow(allow).access(access);
    let rule = match device {
        Some((major, minor)) => rule.typ(LinuxDeviceType::C).major(major).minor(minor),
        None => rule,
    };
    rule.build().unwrap()
}

#[test]
fn devices_are_denied_and_stay_denied() {
    let Some(on) = host() else { return };
    let devices = |second| {
        let rules = vec![
            rule(false, None, "rwm"),
            rule(true, Some((1, 3)), "rwm"),
            rule(true, Some((1, second)), "r"),
        ];
        LinuxResourcesBuilder::default().devices(rules).build().unwrap()
    };
    if !is_root() {
        // They take root; for a user they are no error, and the unit is there.
        return start(&on, "devices", &devices(7), &[], "sleep 1000; :").end();
    }
    // The same again whenever a file appears.
    let folder = std::env::temp_dir().join(format!("taretest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let script = format!(
        "cd {}; exec 2>&1; while :; do for d in null zero full; do (: </dev/$d) && echo $d-r || echo $d-no-r; \
         (: >/dev/$d) && echo $d-w || echo $d-no-w; done >new; mv new seen; while [ -e seen ]; do sleep 0.1; done; done",
        folder.display()
    );
    let unit = start(&on, "devices", &devices(7), &[], &script);
    let seen = || {
        let file = folder.join("seen");
        until("it looked", || file.exists());
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        text.lines().filter(|line| line.ends_with("-r") || line.ends_with("-w")).collect::<Vec<_>>().join(" ")
    };
    let first = "null-r null-w zero-no-r zero-no-w full-r full-no-w";
    assert_eq!(seen(), first);
    assert_eq!(property(&unit.name, "DevicePolicy"), "strict");
    systemctl(&["daemon-reload"]);
    assert_eq!(
        {
            seen();
            seen()
        },
        first,
        "after a reload"
    );
    unit.cgroup.update(&devices(5)).unwrap();
    let second = "null-r null-w zero-r zero-no-w full-no-r full-no-w";
    assert_eq!(
        {
            seen();
            seen()
        },
        second,
        "after an update"
    );
    systemctl(&["daemon-reload"]);
    assert_eq!(
        {
            seen();
            seen()
        },
        second,
        "after an update and a reload"
    );
    unit.end();
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_name_that_is_taken_is_refused_and_one_that_failed_is_reused() {
    let Some(on) = host() else { return };
    let unit = start(&on, "twice", &nothing(), &[], "sleep 1000; :");
    let cgroup = prepare(&on, "twice", &nothing(), &[]).unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let err = cgroup.entrance().unwrap().admit(Pid::from_child(&child)).unwrap_err();
    assert!(err.kind() == Kind::Conflict && err.to_string().contains("tt-twice.scope"), "{err:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let err = unit.cgroup.remove().unwrap_err();
    assert!(err.to_string().contains(&unit.child.id().to_string()), "{err:?}");
    assert_eq!(property("tt-twice.scope", "ActiveState"), "active", "nothing was stopped");
    unit.end();
    let again = start(&on, "twice", &nothing(), &[], "sleep 1000; :");
    again.end();
}

#[test]
fn a_bad_property_is_named_and_nothing_is_left() {
    let Some(on) = host() else { return };
    let note = [("org.systemd.property.Nonsense", "1")];
    let cgroup = prepare(&on, "bad", &nothing(), &note).unwrap();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let err = cgroup.entrance().unwrap().admit(Pid::from_child(&child)).unwrap_err();
    assert!(err.to_string().contains("tt-bad.scope") && err.to_string().contains("Nonsense"), "{err:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(property("tt-bad.scope", "LoadState"), "not-found");
}

#[test]
fn another_process_joins_a_running_unit() {
    let Some(on) = host() else { return };
    let unit = start(&on, "exec", &nothing(), &[], "sleep 1000; :");
    let cgroup = Cgroup::at(&on, &unit.cgroup.location());
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    match cgroup.entrance().unwrap() {
        // Where the kernel allows it, there is no need to ask.
        Entrance::V2(_) | Entrance::V1(_) => {
            for dir in cgroup.paths().values() {
                std::fs::write(format!("{dir}/cgroup.procs"), child.id().to_string()).unwrap();
            }
        }
        entrance => entrance.admit(Pid::from_child(&child)).unwrap(),
    }
    assert!(cgroup.processes().unwrap().contains(&Pid::from_child(&child)));
    cgroup.kill().unwrap();
    child.wait().unwrap();
    unit.end();
}

#[test]
fn what_systemd_does_not_know_is_in_the_files() {
    let Some(on) = host().filter(|on| on.version() == Version::V2) else {
        eprintln!("skipped: no v2");
        return;
    };
    let unified = HashMap::from([
        ("memory.swap.high".to_owned(), (16 << 20).to_string()),
        ("memory.oom.group".to_owned(), "1".to_owned()),
        ("memory.high".to_owned(), (32 << 20).to_string()),
    ]);
    let resources = LinuxResourcesBuilder::default().unified(unified).build().unwrap();
    let unit = start(&on, "files", &resources, &[], "sleep 1000; :");
    assert_eq!(unit.read("memory.oom.group"), "1");
    assert_eq!(unit.read("memory.high"), (32 << 20).to_string());
    systemctl(&["daemon-reload"]);
    // systemd knows memory.oom.group as a part of OOMPolicy=, which no running scope can change, and resets it.
    assert_eq!(unit.read("memory.swap.high"), (16 << 20).to_string());
    assert_eq!(unit.read("memory.high"), (32 << 20).to_string());
    assert_eq!(property(&unit.name, "MemoryHigh"), (32 << 20).to_string());
    let _ = &unit.on;
    unit.end();
}
