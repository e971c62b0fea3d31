//! By effect: each test shrinks a thread of its own, whose capabilities are its own, and looks at a child.

use std::process::Command;

use oci_spec::runtime::LinuxCapabilitiesBuilder;
use serde_json::json;

use super::*;

fn sets(lists: [&[Capability]; 5]) -> Sets {
    let [bounding, effective, permitted, inheritable, ambient] =
        lists.map(|list| list.iter().copied().collect::<HashSet<_>>());
    let built = LinuxCapabilitiesBuilder::default()
        .bounding(bounding)
        .effective(effective)
        .permitted(permitted)
        .inheritable(inheritable)
        .ambient(ambient)
        .build();
    Sets::of(Some(&built.unwrap()))
}

/// The warnings of becoming the user with these sets, and what a child then has, by the kernel's account.
fn become_with(sets: Sets, uid: u32) -> (Vec<String>, impl Fn(&str) -> u64) {
    let (warnings, status) = std::thread::spawn(move || {
        sets.limit_bounding().unwrap();
        rustix::thread::set_keep_capabilities(true).unwrap();
        let uid = rustix::process::Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let warnings = sets.apply(false).unwrap();
        let out = Command::new("/bin/cat").arg("/proc/self/status").output().unwrap();
        (warnings, String::from_utf8(out.stdout).unwrap())
    })
    .join()
    .unwrap();
    let field = move |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    };
    (warnings, field)
}

use Capability::{Chown, Kill, NetRaw, SysResource};

fn bits(list: &[Capability]) -> u64 {
    list.iter().fold(0, |all, one| all | bit(*one).bits())
}

#[test]
fn names_stand_at_their_numbers() {
    for (name, number) in NAMES.iter().zip(0..) {
        let capability: Capability = serde_json::from_value(json!(name)).unwrap();
        assert_eq!(bit(capability).bits(), 1u64 << number, "{name}");
    }
}

#[test]
fn root_has_what_is_given_and_nothing_inheritable() {
    let some = &[Chown, Kill];
    let (warnings, field) = become_with(sets([some, some, some, &[], &[]]), 0);
    assert_eq!(warnings, Vec::<String>::new());
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(set), bits(some), "{set}");
    }
    assert_eq!((field("CapInh"), field("CapAmb")), (0, 0));
}

#[test]
fn a_user_keeps_ambient_ones_over_exec() {
    let some = &[Chown, NetRaw];
    let (warnings, field) = become_with(sets([some, some, some, some, &[NetRaw]]), 65534);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((field("CapEff"), field("CapAmb")), (bits(&[NetRaw]), bits(&[NetRaw])));
}

#[test]
fn ambient_has_to_be_permitted_and_inheritable() {
    let some = &[Chown, NetRaw];
    let (warnings, field) = become_with(sets([some, some, some, &[Chown], &[Chown, NetRaw, Kill]]), 65534);
    assert_eq!(field("CapAmb"), bits(&[Chown]));
    assert_eq!(
        warnings,
        [
            "ambient capabilities could not be given: CAP_KILL, CAP_NET_RAW (they have to be both permitted and inheritable)"
        ]
    );
}

#[test]
fn to_root_ambient_ones_make_no_difference_and_no_words() {
    let some = &[Chown, NetRaw];
    let (warnings, field) = become_with(sets([some, some, some, &[], some]), 0);
    assert_eq!((warnings, field("CapEff"), field("CapAmb")), (vec![], bits(some), 0));
}

#[test]
fn what_cannot_be_is_said_and_the_rest_is_given() {
    let (warnings, field) = become_with(sets([&[Chown], &[Chown, Kill], &[Chown], &[NetRaw], &[]]), 0);
    assert_eq!((field("CapEff"), field("CapInh")), (bits(&[Chown]), 0));
    assert_eq!(
        warnings,
        [
            "effective capabilities could not be given: CAP_KILL (they are not permitted)",
            "inheritable capabilities could not be given: CAP_NET_RAW (they are not in the bounding set)"
        ]
    );
}

#[test]
fn admin_stays_for_the_filter_and_then_goes() {
    let some = &[Chown, Capability::SysAdmin];
    for (wanted, left) in [
        (sets([&[Chown], &[Chown], &[Chown], &[], &[]]), [bits(&[Chown]); 2]),
        (sets([some, &[Chown], some, &[], &[]]), [bits(some), bits(&[Chown])]),
        (sets([some, some, some, &[], &[]]), [bits(some); 2]),
    ] {
        let before_and_after = std::thread::spawn(move || {
            wanted.limit_bounding().unwrap();
            wanted.apply(true).unwrap();
            let before = rustix::thread::capabilities(None).unwrap();
            wanted.drop_admin().unwrap();
            (before, rustix::thread::capabilities(None).unwrap())
        });
        let (before, after) = before_and_after.join().unwrap();
        assert!(before.effective.contains(CapabilitySet::SYS_ADMIN));
        assert_eq!([after.permitted.bits(), after.effective.bits()], left);
        assert!(after.inheritable.is_empty());
    }
}

#[test]
fn what_the_runtime_lacks_is_said_once() {
    let all = CapabilitySet::all();
    let wanted = &[SysResource, Chown];
    let (given, warnings) = sets([wanted; 5]).within(all & !bit(SysResource), true);
    assert_eq!(given.ambient, bit(Chown));
    assert_eq!(
        warnings,
        ["capabilities could not be given: CAP_SYS_RESOURCE (the runtime itself does not have them)"]
    );
}

#[test]
fn nothing_said_is_nothing_given() {
    let (warnings, field) = become_with(Sets::of(None), 0);
    assert_eq!(warnings, Vec::<String>::new());
    for set in ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"] {
        assert_eq!(field(set), 0, "{set}");
    }
}
