use proptest::prelude::*;
use tare_sys::Kind;

use super::*;

const HEX64: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

#[test]
fn good_names_and_both_forms() {
    let long_tag = "t".repeat(128);
    let table: &[(&str, &str, &str)] = &[
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("docker.io/localhost/app", "docker.io/localhost/app:latest", "docker.io/localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("Host/app", "Host/app:latest", "Host/app:latest"),
        ("quay.io/a/b/c:x_Y.z-1", "quay.io/a/b/c:x_Y.z-1", "quay.io/a/b/c:x_Y.z-1"),
        ("10.0.0.1:5000/a", "10.0.0.1:5000/a:latest", "10.0.0.1:5000/a:latest"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b", "[::1]:5000/a:b"),
        ("[fe80::1]/a", "[fe80::1]/a:latest", "[fe80::1]/a:latest"),
        ("a--b/c__d/e.f_g", "docker.io/a--b/c__d/e.f_g:latest", "a--b/c__d/e.f_g:latest"),
        ("cafe", "docker.io/library/cafe:latest", "cafe:latest"),
    ];
    for (typed, full, familiar) in table {
        let name = Reference::parse(typed).unwrap();
        assert_eq!((name.full().as_str(), name.to_string().as_str()), (*full, *familiar), "{typed}");
    }
    assert_eq!(Reference::parse(&format!("a:{long_tag}")).unwrap().tag(), Some(long_tag.as_str()));
}

#[test]
fn digests() {
    let name = Reference::parse(&format!("busybox@sha256:{HEX64}")).unwrap();
    assert_eq!((name.tag(), name.digest().unwrap().hex()), (None, HEX64));
    let name = Reference::parse(&format!("h:1/a:t@sha256:{HEX64}")).unwrap();
    assert_eq!(name.to_string(), format!("h:1/a:t@sha256:{HEX64}"));
}

#[test]
fn bad_names_say_why_and_what_to_do() {
    let table: &[(&str, &str)] = &[
        ("", "empty"),
        ("Busybox", "capitals"),
        ("team/App", "capitals"),
        (HEX64, "image id"),
        ("a:", "tag after ':' is empty"),
        ("a:-x", "starts with"),
        ("a:x y", "' ' cannot be in a tag"),
        ("a b", "' ' cannot be in a name"),
        ("a//b", "nothing between"),
        ("/a", "nothing between"),
        ("a/", "nothing between"),
        ("../../etc/passwd", "domain has an empty part"),
        ("a/../b", "starts with '.'"),
        ("-a", "starts with '-'"),
        ("a-", "ends with"),
        ("a..b", "\"..\" cannot stand"),
        ("a___b", "\"___\" cannot stand"),
        ("a._b", "cannot stand"),
        (":tag", "no name in it"),
        ("@", "no ':' between"),
        ("a@sha256:xyz", "wrong number"),
        ("a@sha256:../../x", "wrong number"),
        ("host:port/a", "not a port"),
        ("host:999999/a", "not a port"),
        ("-host.x/a", "starts or ends with '-'"),
        ("ho_st.x/a", "'_' cannot be in a domain"),
        ("[::1/a", "no closing"),
        ("[zz]:1/a", "not an IPv6"),
        ("a\0b", "cannot be in a name"),
        ("a\nb", "cannot be in a name"),
        ("ünïcode", "cannot be in a name"),
        ("http://x/y", "not a port"),
    ];
    for (typed, why) in table {
        let err = Reference::parse(typed).expect_err(typed);
        assert_eq!(err.kind(), Kind::Usage, "{typed}");
        assert!(err.to_string().contains(why), "{typed:?}: {err}");
        assert!(err.hint_text().is_some(), "{typed}");
    }
    for long in ["a".repeat(256), format!("a:{}", "t".repeat(129)), "a/".repeat(1 << 20)] {
        let err = Reference::parse(&long).unwrap_err();
        assert!(err.to_string().len() < 600, "the message does not repeat a megabyte");
    }
}

proptest! {
    #[test]
    fn parse_never_panics(text in any::<String>()) {
        let _ = Reference::parse(&text);
    }

    #[test]
    fn what_parses_round_trips(text in "([a-zA-Z0-9.:-]{1,8}/)?[a-z0-9._/-]{1,12}(:[a-zA-Z0-9._-]{0,6})?(@sha256:[0-9a-f]{64})?") {
        if let Ok(name) = Reference::parse(&text) {
            prop_assert_eq!(&Reference::parse(&name.full()).unwrap(), &name);
            prop_assert_eq!(&Reference::parse(&name.to_string()).unwrap(), &name);
            prop_assert!(!name.name().contains("..") && !name.full().contains('+'));
        }
    }
}
