use super::*;
use proptest::prelude::*;

/// A query as clients send it.
fn query(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    if let Some(room) = edns {
        bytes.extend([0, 0, 41]);
        bytes.extend(room.to_be_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}

fn asked(name: &str, kind: u16) -> Asked {
    Query::read(&query(name, kind, None)).unwrap().asked
}

#[test]
fn a_question_is_understood() {
    assert_eq!(asked("Web.Backend", 1), Asked::Name("web.backend".into(), Wanted::V4));
    assert_eq!(asked("web", 28), Asked::Name("web".into(), Wanted::V6));
    assert_eq!(asked("web", 255), Asked::Name("web".into(), Wanted::All));
    assert_eq!(asked("web", 65), Asked::Name("web".into(), Wanted::None));
    assert_eq!(asked("4.3.2.10.in-addr.arpa", 12), Asked::Address("10.2.3.4".parse().unwrap()));
    assert_eq!(
        asked("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", 12),
        Asked::Address("2001:db8::1".parse().unwrap())
    );
    assert_eq!(asked("a b", 1), Asked::Other);
    assert_eq!(
        asked("x.4.3.2.10.in-addr.arpa", 12),
        Asked::Name("x.4.3.2.10.in-addr.arpa".into(), Wanted::None)
    );
}

#[test]
fn addresses_are_answered_with_the_question_as_it_was_spelt() {
    let bytes = query("WeB", 1, Some(1232));
    let query = Query::read(&bytes).unwrap();
    assert_eq!(query.room, 1232);
    let answer = query.answer(&Answer::Addresses(vec!["10.0.0.7".parse().unwrap()]), 1232);
    assert!(answers(&answer, &bytes));
    assert_eq!(answer[..4], [0x12, 0x34, 0x85, 0x80], "an answer, authoritative, recursion is to be had");
    assert_eq!(answer[4..12], [0, 1, 0, 1, 0, 0, 0, 1]);
    assert_eq!(answer[13..16], *b"WeB");
    let record = &answer[21..37];
    assert_eq!(record[..2], [0xc0, 12], "the name is a pointer to the question");
    assert_eq!(record[12..], [10, 0, 0, 7]);
}

#[test]
fn a_name_without_such_records_is_there_all_the_same() {
    let bytes = query("web", 28, None);
    let answer = Query::read(&bytes).unwrap().answer(&Answer::Addresses(Vec::new()), 512);
    assert_eq!((answer[3] & 0x0f, answer[7]), (0, 0), "no error, no answer");
}

#[test]
fn what_does_not_fit_is_to_be_asked_for_by_tcp() {
    let bytes = query("web", 1, Some(600));
    let query = Query::read(&bytes).unwrap();
    let many = Answer::Addresses((0..200).map(|last| IpAddr::from([10, 0, 0, last])).collect());
    let answer = query.answer(&many, 600);
    assert!(answer.len() <= 600 && answer[2] & 0x02 != 0, "{} bytes", answer.len());
    let answer = query.answer(&many, LARGEST);
    assert!(answer[2] & 0x02 == 0 && answer[7] == 200);
}

#[test]
fn what_is_no_query_is_refused_or_ignored() {
    assert_eq!(Query::read(&[0; 11]).unwrap_err(), NoQuery::Ignored);
    let mut answer = query("web", 1, None);
    answer[2] |= 0x80;
    assert_eq!(Query::read(&answer).unwrap_err(), NoQuery::Ignored, "an answer is never answered");
    let code = |bytes: &[u8]| match Query::read(bytes) {
        Err(NoQuery::Answered(answer)) => answer[3] & 0x0f,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(&query("web", 252, None)), 5, "zone transfers");
    let mut update = query("web", 1, None);
    update[2] = 5 << 3;
    assert_eq!(code(&update), 4);
    let mut two = query("web", 1, None);
    two[5] = 2;
    assert_eq!(code(&two), 1);
    assert_eq!(code(&[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 1, "no question");
}

#[test]
fn pointers_that_lead_in_circles_are_no_names() {
    for pointer in [[0xc0, 12], [0xc0, 13], [0xff, 0xff], [0xc0, 14]] {
        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend(pointer);
        bytes.extend([0, 1, 0, 1]);
        assert!(matches!(Query::read(&bytes), Err(NoQuery::Answered(_))));
    }
}

#[test]
fn an_address_of_one_whose_name_no_message_can_hold_has_no_name_and_no_failure() {
    let bytes = query("2.0.9.10.in-addr.arpa", 12, None);
    let query = Query::read(&bytes).unwrap();
    for (name, records) in
        [("web.lan".to_owned(), 1), (format!("{}.lan", "w".repeat(64)), 0), ("w..b.lan".to_owned(), 0)]
    {
        let answer = query.answer(&Answer::Pointer(name), LARGEST);
        assert_eq!((answer[3] & 15, answer[7]), (0, records));
    }
}

#[test]
fn an_answer_belongs_to_its_query_alone() {
    let asked = query("example.com", 1, None);
    let mut answer = asked.clone();
    answer[2] |= 0x80;
    assert!(answers(&answer, &asked));
    assert!(!answers(&asked, &asked), "a query is no answer");
    let mut other = answer.clone();
    set_id(&mut other, 1);
    assert!(!answers(&other, &asked), "another number");
    let mut other = query("example.org", 1, None);
    other[2] |= 0x80;
    assert!(!answers(&other, &asked), "another question");
}

/// Packets that look like queries, more or less.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let header = prop::collection::vec(any::<u8>(), 12);
    let counts = prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 8);
    let piece = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        (0u8..40).prop_map(|offset| vec![0xc0, offset]),
        prop::collection::vec(any::<u8>(), 0..64).prop_map(|label| [vec![label.len() as u8], label].concat()),
        Just(vec![0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]),
        Just(vec![0, 0, 1, 0, 1]),
    ];
    (header, counts, prop::collection::vec(piece, 0..40)).prop_map(|(mut header, counts, pieces)| {
        header[2] &= 0x07;
        header[4..].copy_from_slice(&counts);
        header.extend(pieces.concat());
        header
    })
}

fn survives(bytes: &[u8], room: usize) {
    match Query::read(bytes) {
        Ok(query) => {
            for answer in [
                Answer::Addresses(vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()]),
                Answer::Addresses((0..100).map(|last| IpAddr::from([10, 0, 0, last])).collect()),
                Answer::Pointer("web.backend".into()),
                Answer::Failed,
            ] {
                let answer = query.answer(&answer, room);
                assert!(answer.len() <= room, "{} of {room} bytes", answer.len());
                assert_eq!(id(&answer), id(bytes));
            }
        }
        Err(NoQuery::Answered(answer)) => assert!(answer.len() <= 12 + bytes.len() + 255),
        Err(NoQuery::Ignored) => {}
    }
    answers(bytes, bytes);
    declined(bytes);
    truncated(bytes);
}

proptest! {
    #[test]
    fn no_packet_is_too_odd(bytes in packets(), room in 512usize..4096) {
        survives(&bytes, room);
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        survives(&bytes, 512);
    }

    #[test]
    fn a_true_query_with_flipped_bytes_does_no_harm(
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8),
        cut in 0usize..60,
    ) {
        let mut bytes = query("web.backend.example", 1, Some(1232));
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        survives(&bytes, 512);
    }
}
