//! Device rules, on v1 by the devices controller and on v2 by a BPF program.

use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources, LinuxResourcesBuilder,
};
use tare_cgroup::Hierarchies;
use tare_sys::Kind;

use super::cage::{Cage, nothing, v1, v2};

fn rule(allow: bool, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    let rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(LinuxDeviceType::C);
    rule.major(major).minor(minor).access(access).build().unwrap()
}

fn total(allow: bool) -> LinuxDeviceCgroup {
    LinuxDeviceCgroupBuilder::default().allow(allow).access("rwm").build().unwrap()
}

fn devices(rules: &[LinuxDeviceCgroup]) -> LinuxResources {
    LinuxResourcesBuilder::default().devices(rules.to_vec()).build().unwrap()
}

/// Tries each device and says which opened. Reading and writing are told apart; all redirections are the
/// shell's own, so that stdin and stderr were opened before.
const PROBE: &str = "for d in null zero full; do \
    (: </dev/$d) 2>&1 && echo $d-r || echo $d-no-r; (: >/dev/$d) 2>&1 && echo $d-w || echo $d-no-w; done";

fn enforced(on: Hierarchies, name: &str) {
    // null is free, zero is shut, full may be read.
    let rules = [total(false), rule(true, 1, 3, "rwm"), rule(true, 1, 7, "r"), rule(true, -1, -1, "m")];
    let cage = Cage::new(on, name, &devices(&rules));
    let (output, _) = cage.run(PROBE).finish();
    for word in ["null-r\n", "null-w\n", "zero-no-r\n", "zero-no-w\n", "full-r\n", "full-no-w\n"] {
        assert!(output.contains(word), "{word}: {output}");
    }
    assert!(output.contains("Operation not permitted"), "EPERM: {output}");

    // The last rule wins, and an update takes the place of what was there.
    cage.cgroup.update(&devices(&[total(false), rule(true, 1, -1, "rwm"), rule(true, 1, 5, "r")])).unwrap();
    let (output, _) = cage.run(PROBE).finish();
    assert!(!output.contains("-no-"), "{output}");
    cage.cgroup
        .update(&devices(&[rule(true, 1, 3, "rw"), rule(true, 1, 5, "rw"), rule(false, 1, 5, "w")]))
        .unwrap();
    let (output, _) = cage.run(PROBE).finish();
    for word in ["null-r\n", "null-w\n", "zero-r\n", "zero-no-w\n", "full-no-r\n", "full-no-w\n"] {
        assert!(output.contains(word), "{word}: {output}");
    }
    cage.cgroup.update(&devices(&[total(true)])).unwrap();
    let (output, _) = cage.run(PROBE).finish();
    assert!(!output.contains("-no-"), "{output}");
}

#[test]
fn v1_enforces_device_rules() {
    let Some(on) = v1() else { return };
    enforced(on, "devices");
}

#[test]
fn v2_enforces_device_rules_by_bpf() {
    let Some(on) = v2() else { return };
    enforced(on, "bpf");
}

#[test]
fn without_rules_nothing_is_shut() {
    for on in [v1(), v2()].into_iter().flatten() {
        let cage = Cage::new(on, "open", &nothing());
        let (output, _) = cage.run(PROBE).finish();
        assert!(!output.contains("-no-") && output.contains("zero-w"), "{output}");
    }
}

#[test]
fn what_v1_cannot_say_is_refused_not_widened() {
    let Some(on) = v1() else { return };
    let cage = Cage::new(on, "cut", &nothing());
    let cut = [total(false), rule(true, 1, -1, "rwm"), rule(false, 1, 5, "w")];
    let err = cage.cgroup.update(&devices(&cut)).unwrap_err();
    assert_eq!(err.kind(), Kind::Unsupported);
    assert!(err.to_string().contains("c 1:5 w") && err.hint_text().is_some(), "{err:?}");
}

#[test]
fn hundreds_of_rules_load() {
    let Some(on) = v2() else { return };
    let mut rules = vec![total(false)];
    rules.extend((0..2000).map(|minor| rule(true, 240, minor, "rw")));
    rules.push(rule(true, 1, 3, "rwm"));
    let cage = Cage::new(on, "many", &devices(&rules));
    let (output, _) = cage.run(PROBE).finish();
    assert!(output.contains("null-w\n") && output.contains("zero-no-r\n"), "{output}");
}

#[test]
fn the_kernel_offers_device_programs() {
    if v2().is_some() {
        tare_sys::bpf::device_programs_supported().unwrap();
        // An empty answer is no program: r0 is never set, and the verifier says so.
        let err = tare_sys::bpf::prog_load(&[0x95], c"GPL", "broken").unwrap_err();
        assert!(err.to_string().contains("R0"), "{err}");
    }
}
