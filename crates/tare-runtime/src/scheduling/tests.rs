//! By effect: each test changes a thread of its own and looks at what a program started by it gets.

use std::process::Command;

use oci_spec::runtime::{
    LinuxIOPriorityBuilder, LinuxMemoryPolicyBuilder, LinuxPersonalityBuilder, ProcessBuilder,
};
use serde_json::{Value, json};

use super::*;

/// Runs `change` in a thread, then a shell script as its child.
fn seen(change: impl FnOnce() -> Result<()> + Send + 'static, script: &'static str) -> Result<String> {
    std::thread::spawn(move || {
        change()?;
        let out = Command::new("/bin/sh").args(["-c", script]).output().unwrap();
        Ok(String::from_utf8(out.stdout).unwrap().trim().to_owned())
    })
    .join()
    .unwrap()
}

/// Fields of /proc/PID/stat after the name: the nice value, the real-time priority and the policy (proc(5)).
const STAT: &str = "set -- $(sed 's/.*) //' /proc/$$/stat); shift 16; nice=$1; shift 21; echo $nice $1 $2";

fn scheduled(json: Value) -> Result<String> {
    let scheduler: Scheduler = serde_json::from_value(json).unwrap();
    let process = ProcessBuilder::default().scheduler(scheduler).build().unwrap();
    seen(move || apply(&process, None, false), STAT)
}

#[test]
fn every_policy_that_linux_has_reaches_the_program() {
    // Policies that know no nice value leave ours as it is.
    let own = rustix::process::getpriority_process(None).unwrap();
    let idle = format!("{own} 0 5");
    for (policy, want) in [("SCHED_OTHER", "5 0 0"), ("SCHED_BATCH", "5 0 3"), ("SCHED_IDLE", &idle)] {
        assert_eq!(scheduled(json!({"policy": policy, "nice": 5})).unwrap(), want, "{policy}");
    }
    for (policy, want) in [("SCHED_FIFO", format!("{own} 7 1")), ("SCHED_RR", format!("{own} 7 2"))] {
        match scheduled(json!({"policy": policy, "priority": 7})) {
            Ok(got) => assert_eq!(got, want, "{policy}"),
            // A cgroup without real-time share.
            Err(err) => assert!(err.hint_text().unwrap().contains("rt_runtime"), "{err:?}"),
        }
    }
}

#[test]
fn deadline_takes_its_three_times() {
    // Its child would be refused by fork(2) but for the flag (sched(7)); so it is asked of the thread itself.
    let scheduler = json!({
        "policy": "SCHED_DEADLINE", "nice": 19, "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000
    });
    let scheduler: Scheduler = serde_json::from_value(scheduler).unwrap();
    let process = ProcessBuilder::default().scheduler(scheduler).build().unwrap();
    let policy = std::thread::spawn(move || {
        apply(&process, None, false)?;
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        Ok::<_, Error>(stat.rsplit(") ").next().unwrap().split(' ').nth(38).unwrap().to_owned())
    });
    match policy.join().unwrap() {
        Ok(policy) => assert_eq!(policy, "6"),
        Err(err) => assert!(err.hint_text().is_some(), "{err:?}"),
    }
}

#[test]
fn more_than_the_cpus_have_is_told_apart() {
    // Of each CPU the whole, where the kernel keeps a twentieth back (sched(7), sched_rt_runtime_us).
    let whole = json!({"policy": "SCHED_DEADLINE", "runtime": 5_000_000, "deadline": 5_000_000});
    let scheduler: Scheduler = serde_json::from_value(whole).unwrap();
    let process = ProcessBuilder::default().scheduler(scheduler).build().unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get();
    let held = std::sync::Barrier::new(cpus);
    let kinds = std::thread::scope(|scope| {
        let ask = || {
            let kind = apply(&process, None, false).err().map(|err| err.kind());
            held.wait();
            kind
        };
        let threads: Vec<_> = (0..cpus).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    // Permission: this process is not allowed on all CPUs.
    assert!(kinds.contains(&Kind::Exhausted) || kinds.len() == cpus, "{kinds:?}");
    let long = json!({"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 1u64 << 62});
    assert!(scheduled(long).unwrap_err().hint_text().unwrap().contains("period"));
}

#[test]
fn nonsense_is_refused_in_words() {
    for (spec, words) in [
        (json!({"policy": "SCHED_ISO"}), "no Linux has"),
        (json!({"policy": "SCHED_OTHER", "nice": 20}), "-20 to 19"),
        (json!({"policy": "SCHED_FIFO"}), "1 to 99"),
        (json!({"policy": "SCHED_RR", "priority": 100}), "1 to 99"),
        (json!({"policy": "SCHED_RR", "priority": -1}), "1 to 99"),
        (json!({"policy": "SCHED_OTHER", "priority": 1}), "SCHED_FIFO and SCHED_RR"),
        (json!({"policy": "SCHED_BATCH", "runtime": 1}), "SCHED_DEADLINE only"),
        (json!({"policy": "SCHED_DEADLINE"}), "1024 nanoseconds"),
        (json!({"policy": "SCHED_DEADLINE", "runtime": 5000, "deadline": 4000}), "runtime <= deadline"),
        (json!({"policy": "SCHED_DEADLINE", "runtime": 5000, "deadline": 6000, "period": 5500}), "<= period"),
        (json!({"policy": "SCHED_DEADLINE", "runtime": 5000, "deadline": u64::MAX}), "2^63"),
    ] {
        let err = scheduled(spec.clone()).unwrap_err();
        assert!(err.to_string().contains(words), "{spec}: {err}");
    }
}

#[test]
fn flags_are_the_specifications() {
    // Two of them as oci-spec 0.10 spells them.
    let scheduler: Scheduler = serde_json::from_value(json!({"policy": "SCHED_OTHER", "flags": [
        "SCHED_RESET_ON_FORK", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_D_L_OVERRUN", "SCHED_FLAG_KEEP_POLICY",
        "SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"
    ]}))
    .unwrap();
    assert_eq!(attributes(&scheduler).unwrap().flags, 0x7f);
    // By effect: a child of a process with it is back to nice 0.
    let reset = json!({"policy": "SCHED_FIFO", "priority": 3, "flags": ["SCHED_RESET_ON_FORK"]});
    if let Ok(got) = scheduled(reset) {
        assert_eq!(got, "0 0 0");
    }
}

fn with_io(class: IOPriorityClass, priority: i64) -> Result<String> {
    let io = LinuxIOPriorityBuilder::default().class(class).priority(priority).build().unwrap();
    let process = ProcessBuilder::default().io_priority(io).build().unwrap();
    seen(move || apply(&process, None, false), "ionice -p $$")
}

#[test]
fn disk_priority_reaches_the_program() {
    assert_eq!(with_io(IOPriorityClass::IoprioClassBe, 6).unwrap(), "best-effort: prio 6");
    assert_eq!(with_io(IOPriorityClass::IoprioClassRt, 1).unwrap(), "realtime: prio 1");
    assert_eq!(with_io(IOPriorityClass::IoprioClassIdle, 0).unwrap(), "idle");
    for level in [-1, 8, i64::MAX] {
        assert_eq!(with_io(IOPriorityClass::IoprioClassBe, level).unwrap_err().kind(), Kind::Usage);
    }
}

const CPUS: &str = "sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status";

/// A process that asks for CPUs.
fn bound(initial: &str, last: &str) -> Process {
    let affinity = json!({"initial": initial, "final": last});
    let user = json!({"uid": 0, "gid": 0});
    serde_json::from_value(json!({"user": user, "cwd": "/", "execCPUAffinity": affinity})).unwrap()
}

#[test]
fn affinity_is_set_and_taken_back() {
    let before = seen(|| Ok(()), CPUS).unwrap();
    let first = before.split([',', '-']).next().unwrap().to_owned();
    // Beyond 1024 CPUs: the kernel takes the mask, and leaves out what is not there.
    let wanted = bound(&first, &format!("{first},1500-1600"));
    let plain = Process::default();
    for (as_container, process, want) in [
        (false, &wanted, &first),
        (false, &plain, &before),
        (true, &plain, &before),
        (true, &wanted, &before),
    ] {
        let (wanted, process) = (wanted.clone(), process.clone());
        let change = move || {
            set_initial_affinity(&wanted)?;
            apply(&process, None, as_container)
        };
        assert_eq!(&seen(change, CPUS).unwrap(), want, "{as_container}");
    }
    let last = wanted.clone();
    assert_eq!(seen(move || set_final_affinity(&last), CPUS).unwrap(), first);
    let err = seen(|| set_final_affinity(&bound("0", "60000")), CPUS).unwrap_err();
    assert!(err.hint_text().unwrap().contains("online"), "{err:?}");
    let err = set_initial_affinity(&bound("99999999", "0")).unwrap_err();
    assert!(err.to_string().starts_with("execCPUAffinity.initial \"99999999\": "), "{err}");
}

#[test]
fn personality_reaches_the_program() {
    let wanted = |flags: &[&str]| {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let domain = LinuxPersonalityDomain::PerLinux32;
        LinuxPersonalityBuilder::default().domain(domain).flags(flags).build().unwrap()
    };
    let plain = wanted(&[]);
    let machine = seen(move || set_personality(&plain), "uname -m").unwrap();
    if cfg!(target_arch = "x86_64") {
        assert_eq!(machine, "i686");
    }
    let fixed = wanted(&["ADDR_NO_RANDOMIZE"]);
    assert_eq!(seen(move || set_personality(&fixed), "cat /proc/self/personality").unwrap(), "00040008");
    assert!(set_personality(&wanted(&["NO_SUCH"])).unwrap_err().to_string().contains("NO_SUCH"));
}

fn with_memory(mode: MemoryPolicyModeType, nodes: &str) -> Result<String> {
    let wanted =
        LinuxMemoryPolicyBuilder::default().mode(mode).nodes(nodes).flags(Vec::new()).build().unwrap();
    seen(
        move || set_memory_policy(&wanted),
        "grep -o 'stack\\|^[0-9a-f]* [a-z:0-9=()]*' /proc/self/numa_maps | head -1",
    )
}

#[test]
fn memory_policy_reaches_the_program() {
    use MemoryPolicyModeType as M;
    for (mode, nodes, want) in [
        (M::MpolBind, "0", "bind:0"),
        (M::MpolInterleave, "0", "interleave:0"),
        (M::MpolPreferred, "0", "prefer:0"),
        (M::MpolLocal, "", "local"),
        (M::MpolDefault, "", "default"),
    ] {
        let got = with_memory(mode, nodes).unwrap();
        assert!(got.contains(want), "{mode}: {got}");
    }
    for (mode, nodes) in
        [(M::MpolBind, ""), (M::MpolBind, "900"), (M::MpolDefault, "0"), (M::MpolBind, "5000")]
    {
        assert_eq!(with_memory(mode, nodes).unwrap_err().kind(), Kind::Usage, "{mode} {nodes:?}");
    }
}
