use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::*;
use crate::policy::{Keep, Logging};
use tare_sys::time::Moment;

fn read(path: &Path, query: &LogQuery) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    print(path, query, &mut || false, &mut out, &mut err).unwrap();
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn writer(path: &Path, most_bytes: u64, most_files: u32) -> Writer {
    let settings = Logging { most_bytes, most_files, ..Logging::default() };
    Writer::new(path.to_owned(), settings, &[])
}

fn tail(lines: usize) -> LogQuery {
    LogQuery { tail: Some(lines), ..LogQuery::default() }
}

#[test]
fn streams_pieces_and_unfinished_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.json");
    assert_eq!(read(&path, &LogQuery::default()), (String::new(), String::new()), "no file yet");
    let mut log = writer(&path, u64::MAX, 1);
    log.write(Stream::Stdout, b"one\ntw");
    log.write(Stream::Stderr, b"err\xff\x01\"\\\n");
    log.write(Stream::Stdout, b"o\n");
    let long = "ä€x".repeat(7_000);
    log.write(Stream::Stdout, long.as_bytes());
    log.finish();
    let (out, err) = read(&path, &LogQuery::default());
    assert_eq!(out, format!("one\ntwo\n{long}"));
    assert_eq!(err, "err\u{fffd}\u{1}\"\\\n");
    assert_eq!(read(&path, &tail(3)).0, long, "a long line has three pieces");
    assert_eq!(read(&path, &tail(0)).0, "");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"20"), "{text}");
}

#[test]
fn a_damaged_line_hides_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.json");
    let mut log = writer(&path, u64::MAX, 1);
    log.write(Stream::Stdout, b"a\n");
    drop(log);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\0\0\0{\n\n").unwrap();
    writer(&path, u64::MAX, 1).write(Stream::Stdout, b"b\n");
    assert_eq!(read(&path, &LogQuery::default()).0, "a\nb\n");
}

#[test]
fn a_line_that_was_cut_off_by_a_kill_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.json");
    writer(&path, u64::MAX, 1).write(Stream::Stdout, b"a\n");
    let whole = fs::read(&path).unwrap();
    for cut in [&br#"{"log":"b"#[..], &vec![b'x'; 100_000]] {
        fs::write(&path, [&whole[..], cut].concat()).unwrap();
        writer(&path, u64::MAX, 1).write(Stream::Stdout, b"b\n");
        assert_eq!(read(&path, &LogQuery::default()).0, "a\nb\n");
    }
    fs::write(&path, b"{").unwrap();
    writer(&path, u64::MAX, 1).write(Stream::Stdout, b"b\n");
    assert_eq!(read(&path, &LogQuery::default()).0, "b\n");
}

#[test]
fn full_files_are_put_aside_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.json");
    let mut log = writer(&path, 1000, 3);
    for number in 0..100 {
        log.write(Stream::Stdout, format!("line {number:05}\n").as_bytes());
    }
    assert!(path.exists() && aged(&path, 1).exists() && aged(&path, 2).exists() && !aged(&path, 3).exists());
    let (out, _) = read(&path, &LogQuery::default());
    let lines: Vec<_> = out.lines().collect();
    assert!((20..60).contains(&lines.len()), "{} lines", lines.len());
    assert_eq!(lines.last(), Some(&"line 00099"));
    let numbers: Vec<usize> = lines.iter().map(|line| line[5..].parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "in order, none twice: {numbers:?}");
    let (out, _) = read(&path, &tail(15));
    assert_eq!(out.lines().count(), 15);
    assert_eq!(out.lines().next(), Some("line 00085"));
    assert_eq!(read(&path, &tail(10_000)).0.lines().count(), lines.len());
}

#[test]
fn one_file_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.json");
    let mut log = writer(&path, 500, 1);
    (0..50).for_each(|_| log.write(Stream::Stdout, b"line\n"));
    assert!(!aged(&path, 1).exists() && fs::metadata(&path).unwrap().len() < 700);
}

#[test]
fn a_follower_misses_nothing_across_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.json");
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = writer(&path, 20_000, 5);
            for number in 0..5_000 {
                log.write(Stream::Stdout, format!("{number}\n").as_bytes());
                if number % 100 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
            drop(sender);
        });
        let mut running = || receiver.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        print(&path, &query, &mut running, &mut out, &mut err).unwrap();
    });
    let expected: String = (0..5_000).map(|number| format!("{number}\n")).collect();
    assert!(String::from_utf8(out).unwrap() == expected);
}

#[test]
fn files_are_found_while_the_writer_makes_room_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.json");
    let mut log = writer(&path, 300, 4);
    let mut number = 0;
    while !aged(&path, 3).exists() {
        log.write(Stream::Stdout, format!("{number}\n").as_bytes());
        number += 1;
    }
    let oldest = fs::read_to_string(aged(&path, 3)).unwrap().lines().count();
    let rest: String = (oldest..number).map(|number| format!("{number}\n")).collect();
    // The oldest goes, then each takes the place of the one before it.
    for age in (0..3).rev() {
        fs::rename(aged(&path, age), aged(&path, age + 1)).unwrap();
        assert_eq!(read(&path, &LogQuery::default()).0, rest, "a gap at {age}");
    }
}

#[test]
fn times_and_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.json");
    let attributes = BTreeMap::from([("env".to_owned(), "dev".to_owned()), ("a".to_owned(), "b".to_owned())]);
    let mut log = Writer::new(path.clone(), Logging { attributes, ..Logging::default() }, &[]);
    log.write(Stream::Stdout, b"before\n");
    std::thread::sleep(std::time::Duration::from_millis(2));
    let between = Moment::now();
    std::thread::sleep(std::time::Duration::from_millis(2));
    log.write(Stream::Stdout, b"after\n");
    let since = LogQuery { since: Some(between), details: true, ..LogQuery::default() };
    assert_eq!(read(&path, &since).0, "a=b,env=dev after\n");
    let until = LogQuery { until: Some(between), timestamps: true, ..LogQuery::default() };
    let out = read(&path, &until).0;
    assert!(out.starts_with("20") && out.ends_with("Z before\n") && out.lines().count() == 1, "{out}");
}

#[test]
fn a_log_that_nobody_wants_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.json");
    let mut log = Writer::new(path.clone(), Logging { keep: Keep::Nothing, ..Logging::default() }, &[]);
    log.write(Stream::Stdout, b"x\n");
    log.finish();
    assert!(!path.exists());
}
