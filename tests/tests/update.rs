//! `tare update`: other limits for a container, at once and for its next start.
#![forbid(unsafe_code)]

use tare_tests::{Host, eventually};

#[test]
fn processes_are_limited_at_once() {
    let host = Host::new();
    let script = "while [ ! -e /go ]; do sleep 0.1; done; for i in $(seq 20); do sleep 30 & done; echo all > /out; wait";
    for (limit, fails) in [("8", true), ("-1", false)] {
        let id = host.detached(&["--pids-limit", "10"], script);
        host.tare(["update", "--pids-limit", limit, &id]).run().prints(&id);
        assert_eq!(host.inspect(&id)["HostConfig"]["PidsLimit"].to_string(), limit);
        let file = host.file("go", "");
        host.tare(["cp"]).arg(&file).arg(format!("{id}:/go")).run().ok();
        if fails {
            eventually("a fork is refused", || {
                host.tare(["logs", &id]).run().stderr().contains("can't fork") || host.status(&id) == "exited"
            });
        } else {
            eventually("all are there", || host.tare(["cp", &format!("{id}:/out"), "-"]).run().code() == 0);
        }
        host.tare(["rm", "-f", &id]).run().ok();
    }
}

#[test]
fn memory_is_limited_while_it_runs() {
    let host = Host::new();
    // Waits, then takes 60 MB into memory.
    let script = "while [ ! -e /go ]; do sleep 0.1; done; head -c 60000000 /dev/zero | tail -c 60000000 > /dev/null; echo done > /out; sleep 60";
    for (limit, killed) in [("20m", true), ("300m", false)] {
        let id = host.detached(&["--memory", "100m", "--memory-swap", "100m"], script);
        host.tare(["update", "--memory", limit, "--memory-swap", limit, &id]).run().ok();
        assert_ne!(host.inspect(&id)["HostConfig"]["Memory"], 100 << 20);
        let file = host.file("go", "");
        host.tare(["cp"]).arg(&file).arg(format!("{id}:/go")).run().ok();
        if killed {
            eventually("the kernel killed for want of memory", || {
                host.inspect(&id)["State"]["OOMKilled"] == true
                    || host.tare(["cp", &format!("{id}:/out"), "-"]).run().code() == 0
            });
        } else {
            eventually("it had enough", || host.tare(["cp", &format!("{id}:/out"), "-"]).run().code() == 0);
        }
        host.tare(["rm", "-f", &id]).run().ok();
    }
}

#[test]
fn wrong_values_change_nothing() {
    let host = Host::new();
    let id = host.detached(&["--memory", "64m", "--memory-swap", "64m", "--cpus", "0.5"], "sleep 60");
    let before = host.inspect(&id)["HostConfig"].clone();
    for (flags, why) in [
        (&["--memory", "128m"][..], "update the memoryswap at the same time"),
        (&["--memory", "much"], "much"),
        (&["--memory-swap", "32m"], "memory-swap"),
        (&["--memory-reservation", "1g"], "reservation"),
        (&["--cpus", "9999"], "cpus"),
        (&["--cpuset-cpus", "9000"], "cpuset"),
        (&["--cpuset-cpus", "a-b"], "cpuset"),
        (&["--blkio-weight", "5"], "blkio-weight"),
        (&["--pids-limit", "some"], "pids-limit"),
        (
            &["--cpu-rt-period", "10000", "--cpu-rt-runtime", "20000"],
            "--cpu-rt-runtime is more than --cpu-rt-period",
        ),
        (&["--pids-limit", "50", "--cpuset-cpus", "9000"], "cpuset"),
    ] {
        // What is no number that can be meant is a wrong option.
        let code = if ["much", "some", "5"].contains(&flags[1]) { 125 } else { 1 };
        host.tare(["update"]).args(flags).arg(&id).run().fails(code).complains_of(&[why]);
        assert_eq!(host.inspect(&id)["HostConfig"], before, "{flags:?}");
    }
    host.tare(["update", &id]).run().fails(1).complains_of(&["nothing to change"]);
    host.tare(["update", "--cpus", "1", "nosuch"]).run().fails(1).complains_of(&["no such container"]);
    host.tare(["rm", "-f", &id]).run().ok();
}

#[test]
fn real_time_is_changed_for_the_next_start() {
    let host = Host::new();
    host.busybox();
    host.tare(["create", "--name", "box", "busybox", "true"]).run().ok();
    host.tare(["update", "--cpu-rt-period", "1000000", "--cpu-rt-runtime", "5000", "box"])
        .run()
        .prints("box");
    let terms = &host.inspect("box")["HostConfig"];
    assert_eq!(
        (&terms["CpuRealtimePeriod"], &terms["CpuRealtimeRuntime"]),
        (&1_000_000.into(), &5000.into())
    );
}

#[test]
fn a_limit_of_cpu_time_holds_at_once() {
    let host = Host::new();
    let id = host.detached(&[], "while :; do :; done");
    host.tare(["update", "--cpus", "0.1", &id]).run().ok();
    let ticks = || {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", host.pid(&id))).unwrap();
        let rest = text.rsplit_once(')').unwrap().1.to_owned();
        let fields: Vec<u64> = rest.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // utime, the 14th field; the state, the 3rd, is no number.
        fields[10] + fields[11]
    };
    // The quota counts from the next period on.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let used = ticks() - before;
    assert!(used <= 60, "{used} ticks of 200 in two seconds");
    host.tare(["update", "--cpu-quota", "-1", &id]).run().ok();
    assert_eq!(host.inspect(&id)["HostConfig"]["NanoCpus"], 0);
    host.tare(["rm", "-f", &id]).run().ok();
}
