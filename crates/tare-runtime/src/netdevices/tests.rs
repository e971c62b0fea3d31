//! Each test has two network namespaces of its own, in a thread of its own.

use std::os::fd::OwnedFd;
use std::process::Command;

use oci_spec::runtime::LinuxNetDeviceBuilder;

use super::*;

fn own_netns() -> OwnedFd {
    rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Runs `ip` in the namespace of the calling thread.
fn ip(words: &str) -> String {
    let out = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {words}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The thread stands in "the host", and gets the container's namespace.
fn in_host(test: impl FnOnce(&OwnedFd) + Send + 'static) {
    let run = move || {
        process::unshare(namespace::NET).unwrap();
        let container = own_netns();
        process::unshare(namespace::NET).unwrap();
        test(&container);
    };
    std::thread::spawn(run).join().unwrap();
}

fn within(netns: &OwnedFd, work: impl FnOnce()) {
    let back = own_netns();
    process::enter(netns.as_fd(), namespace::NET).unwrap();
    work();
    process::enter(back.as_fd(), namespace::NET).unwrap();
}

fn devices(list: &[(&str, &str)]) -> HashMap<String, LinuxNetDevice> {
    let device = |name: &str| LinuxNetDeviceBuilder::default().name(name).build().unwrap();
    list.iter().map(|(name, new)| ((*name).to_owned(), device(new))).collect()
}

#[test]
fn a_link_moves_with_its_name_and_its_lasting_addresses_and_is_up() {
    in_host(|container| {
        ip("link add wan0 type veth peer name far0");
        ip("link set far0 up");
        ip("link set wan0 up mtu 1400");
        ip("addr add 192.0.2.7/24 dev wan0");
        ip("addr add 192.0.2.9 peer 198.51.100.1 dev wan0");
        ip("addr add 2001:db8::7/64 dev wan0 nodad");
        // None of these two goes with it: one is leased, the other is only good on its link.
        ip("addr add 203.0.113.7/24 dev wan0 valid_lft 600 preferred_lft 600");
        ip("addr add 169.254.7.7/16 dev wan0 scope link");
        move_into(container.as_fd(), &devices(&[("wan0", "eth0")])).unwrap();
        assert!(!ip("-o link").contains("wan0"));
        within(container, || {
            let link = ip("-o link show eth0");
            assert!(link.contains("UP") && link.contains("mtu 1400"), "{link}");
            let v4: Vec<_> = ip("-o -4 addr show eth0").lines().map(str::to_owned).collect();
            assert_eq!(v4.len(), 2, "{v4:?}");
            assert!(v4[0].contains("inet 192.0.2.7/24") && v4[0].contains("scope global"), "{v4:?}");
            assert!(v4[1].contains("192.0.2.9 peer 198.51.100.1"), "{v4:?}");
            let v6 = ip("-o -6 addr show eth0 scope global");
            assert!(v6.contains("2001:db8::7/64") && !v6.contains("tentative"), "{v6}");
            assert!(v6.contains("valid_lft forever"), "{v6}");
        });
    });
}

#[test]
fn a_link_without_a_new_name_keeps_its_own() {
    in_host(|container| {
        ip("link add a0 type veth peer name b0");
        let both = devices(&[("a0", ""), ("b0", "")]);
        move_into(container.as_fd(), &both).unwrap();
        within(container, || {
            assert!(ip("-o link").contains("a0") && ip("-o link").contains("b0"));
            ip("addr add 192.0.2.1/24 dev a0");
        });
        assert_eq!(ip("-o link").lines().count(), 1);
    });
}

#[test]
fn a_name_that_is_taken_leaves_the_link_where_it_was() {
    in_host(|container| {
        within(container, || drop(ip("link add eth0 type veth peer name x0")));
        ip("link add wan0 type veth peer name far0");
        ip("link set wan0 up");
        ip("addr add 192.0.2.7/24 dev wan0");
        let err = move_into(container.as_fd(), &devices(&[("wan0", "eth0")])).unwrap_err();
        assert_eq!(err.kind(), Kind::Conflict, "{err}");
        assert!(
            err.to_string().starts_with("move the network device wan0 into the container as eth0: "),
            "{err}"
        );
        assert!(ip("-o link show wan0").contains(",UP"));
        assert!(ip("-o addr show wan0").contains("192.0.2.7/24"));
    });
}

#[test]
fn what_cannot_move_says_so_and_stays_up() {
    in_host(|container| {
        ip("link set lo up");
        let err = move_into(container.as_fd(), &devices(&[("lo", "lo0")])).unwrap_err();
        assert!(err.to_string().contains("move it"), "{err}");
        assert!(ip("-o link show lo").contains(",UP"), "it has been set down and forgotten");
        let err = move_into(container.as_fd(), &devices(&[("none0", "eth0")])).unwrap_err();
        assert_eq!(err.kind(), Kind::NotFound, "{err}");
    });
}

#[test]
fn names_are_checked_before_anything_moves() {
    let nowhere = own_netns();
    for name in ["", ".", "..", "a b", "a/b", "a:b", "eth%d", "a\0b", "0123456789abcdef"] {
        let mut bad = devices(&[("eth7", name)]);
        if name.is_empty() {
            bad = devices(&[("", "eth7")]);
        }
        assert_eq!(move_into(nowhere.as_fd(), &bad).unwrap_err().kind(), Kind::Usage, "{name:?}");
    }
    let err = move_into(nowhere.as_fd(), &devices(&[("a", "same"), ("b", "same")])).unwrap_err();
    assert!(err.to_string().contains("two are to be called same"), "{err}");
    move_into(nowhere.as_fd(), &HashMap::new()).unwrap();
}
