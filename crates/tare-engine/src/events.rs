//! What happens to containers and images, for whoever wants to know: `tare events`.
//!
//! ```text
//! <run>/events.json      one event a line, in Docker's shape; appended to by every tare process
//! <run>/events.json.1    the older ones
//! ```
//!
//! An event is one write(2) with O_APPEND, so lines of different processes do not mix, and nobody waits for a
//! lock or for a disk. It is a courtesy: what cannot be written is not told, and nothing fails for it. A sweep
//! moves a file that has grown to [`MOST`] out of the way.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tare_network::network::Network;
use tare_sys::time::Moment;
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{Record, Roots, make_folder};
use crate::engine::Engine;
use crate::watch::Watch;

/// Bytes at which a new file is begun.
const MOST: u64 = 4 << 20;
/// How long a reader sleeps at most; it is woken by what is written.
const PATIENCE: Duration = Duration::from_secs(10);

/// One event, in Docker's shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// `container`, `image`, `volume`, `network`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// What happened: `start`, `die`, `exec_create: sh`.
    #[serde(rename = "Action")]
    pub action: String,
    /// To whom.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `local`.
    pub scope: String,
    /// Seconds since 1970.
    pub time: i64,
    /// Nanoseconds since 1970.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// To whom it happened.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Actor {
    /// Id; of a volume its name.
    #[serde(rename = "ID")]
    pub id: String,
    /// What else is known: labels, `name`, `image`, `exitCode`.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// An event of any kind, now.
    pub fn new(kind: &str, action: impl Into<String>, id: &str) -> Event {
        let now = Moment::now();
        Event {
            kind: kind.to_owned(),
            action: action.into(),
            actor: Actor { id: id.to_owned(), attributes: BTreeMap::new() },
            scope: "local".to_owned(),
            time: now.seconds(),
            time_nano: i64::try_from(now.0).unwrap_or(i64::MAX),
        }
    }

    /// An event of a container, with Docker's attributes: its labels, its image and its name.
    pub fn container(record: &Record, action: impl Into<String>) -> Event {
        let mut event = Event::new("container", action, &record.id);
        event.actor.attributes = record.labels();
        event.with("image", record.request.image()).with("name", &record.name)
    }

    /// An event of an image.
    pub fn image(action: &str, id: &str, name: &str) -> Event {
        let event = Event::new("image", action, id);
        if name.is_empty() { event } else { event.with("name", name) }
    }

    /// An event of a network, or of a container's coming to it and leaving it.
    pub fn network(action: &str, network: &Network, container: Option<&str>) -> Event {
        let event = Event::new("network", action, &network.id);
        let event = event.with("name", &network.name).with("type", &network.driver);
        container.into_iter().fold(event, |event, container| event.with("container", container))
    }

    /// An event of a volume, and of the container that has it.
    pub fn volume(action: &str, name: &str, container: &str) -> Event {
        Event::new("volume", action, name).with("driver", "local").with("container", container)
    }

    /// Who asked for it: this command, and whose it is, as far as that is known.
    #[must_use]
    pub fn by(self, verb: &str) -> Event {
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        let user = std::env::var("SUDO_USER").ok();
        self.with("by", format!("tare {verb}{}", run_by(parent, user.as_deref())))
    }

    /// One more attribute.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Event {
        self.actor.attributes.insert(key.to_owned(), value.to_string());
        self
    }
}

/// `, run by bash (33) for anna`: a command's parent, and the user who called sudo(8).
pub(crate) fn run_by(parent: i32, user: Option<&str>) -> String {
    let caller = fs::read_to_string(format!("/proc/{parent}/comm")).unwrap_or_default();
    let user = user.map_or_else(String::new, |user| format!(" for {user}"));
    format!(", run by {} ({parent}){user}", caller.trim())
}

fn file(roots: &Roots) -> PathBuf {
    roots.run.join("events.json")
}

fn older(roots: &Roots) -> PathBuf {
    roots.run.join("events.json.1")
}

/// Tells an event.
pub fn emit(roots: &Roots, event: &Event) {
    emit_all(roots, std::slice::from_ref(event));
}

/// Tells several events: open, one write, close.
pub fn emit_all(roots: &Roots, events: &[Event]) {
    let mut lines = Vec::new();
    for event in events {
        if serde_json::to_writer(&mut lines, event).is_err() {
            return;
        }
        lines.push(b'\n');
    }
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(file(roots));
    let file = match open() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            make_folder(&roots.run, 0o711).ok().and_then(|()| open().ok())
        }
        file => file.ok(),
    };
    if let Some(mut file) = file
        && file.write(&lines).is_ok_and(|length| length < lines.len())
    {
        // A full disk cut it short: what comes after it shall have a line of its own.
        let _ = file.write(b"\n");
    }
}

/// Begins a new file once the old one is big. Two at once do it once: the second finds another file.
pub(crate) fn rotate(roots: &Roots) {
    let path = file(roots);
    if fs::metadata(&path).map_or(0, |meta| meta.len()) < MOST {
        return;
    }
    let Ok(file) = File::open(&path) else { return };
    let _ = rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive);
    if same(&file, &path) {
        let _ = fs::rename(&path, older(roots));
    }
}

fn same(file: &File, path: &std::path::Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// From when on; `None`: only what happens from now on.
    pub since: Option<Moment>,
    /// Until when; `None`: for ever.
    pub until: Option<Moment>,
    /// `KEY=VALUE`: of the same key one must fit, of `label` all.
    pub filters: Vec<(String, String)>,
}

/// The keys of filters.
const KEYS: [&str; 8] = ["container", "event", "image", "label", "network", "scope", "type", "volume"];
/// Accepted, and matching nothing that there is here.
const STRANGE_KEYS: [&str; 6] = ["config", "daemon", "node", "plugin", "secret", "service"];

impl EventQuery {
    /// Adds a filter.
    ///
    /// Errors: [`Kind::Usage`] for a key that there is not.
    pub fn filter(&mut self, text: &str) -> Result<()> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Error::new(Kind::Usage, format!("filter {text:?}: it must be KEY=VALUE")))?;
        if !KEYS.contains(&key) && !STRANGE_KEYS.contains(&key) {
            return Err(Error::new(Kind::Usage, format!("invalid filter '{key}'"))
                .hint(format!("the key can be {}", KEYS.join(", "))));
        }
        self.filters.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Whether the event is asked for.
    pub fn wants(&self, event: &Event) -> bool {
        let nanos = i128::from(event.time_nano);
        if self.since.is_some_and(|since| nanos < since.0) || self.until.is_some_and(|until| nanos > until.0)
        {
            return false;
        }
        self.filters.iter().all(|(key, value)| match key.as_str() {
            "label" => fits(event, key, value),
            _ => self.filters.iter().any(|(other, value)| other == key && fits(event, key, value)),
        })
    }
}

fn fits(event: &Event, key: &str, value: &str) -> bool {
    let Actor { id, attributes } = &event.actor;
    let is_attribute = |key: &str, value: &str| attributes.get(key).is_some_and(|found| found == value);
    let is_object = |kind: &str| {
        event.kind == kind
            && (id == value
                || is_attribute("name", value)
                || (value.len() >= 4 && id.trim_start_matches("sha256:").starts_with(value)))
    };
    match key {
        "container" => is_object("container") || is_attribute("container", value),
        "volume" => is_object("volume"),
        "network" => is_object("network"),
        "image" => {
            let is_tagged = |name: &str| name == value || name.strip_suffix(":latest") == Some(value);
            let attribute = if event.kind == "image" { "name" } else { "image" };
            is_object("image") || attributes.get(attribute).is_some_and(|name| is_tagged(name))
        }
        "event" => {
            event.action == value || event.action.split_once(": ").is_some_and(|(action, _)| action == value)
        }
        "label" => match value.split_once('=') {
            Some((key, value)) => is_attribute(key, value),
            None => attributes.contains_key(value),
        },
        "scope" => event.scope == value,
        "type" => event.kind == value,
        _ => false,
    }
}

/// Reads whole lines as they come.
struct Tail {
    file: File,
    rest: Vec<u8>,
}

impl Tail {
    fn read(&mut self, see: &mut dyn FnMut(Event) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = self.file.read(&mut buffer).doing(|| "read the events")?;
            if length == 0 {
                return Ok(());
            }
            self.rest.extend_from_slice(&buffer[..length]);
            let mut done = 0;
            while let Some(end) = self.rest[done..].iter().position(|byte| *byte == b'\n') {
                // A line that is damaged (full disk) hides no other.
                if let Ok(event) = serde_json::from_slice(&self.rest[done..done + end]) {
                    see(event)?;
                }
                done += end + 1;
            }
            self.rest.drain(..done);
        }
    }
}

impl Engine {
    /// Tells an event of this engine's.
    pub fn emit(&self, event: &Event) {
        emit(self.roots(), event);
    }

    /// Shows events to `see`, until `query.until` or an error of `see`.
    pub fn events(&self, query: &EventQuery, see: &mut dyn FnMut(&Event) -> Result<()>) -> Result<()> {
        let roots = self.roots();
        make_folder(&roots.run, 0o711)?;
        let mut show = |event: Event| if query.wants(&event) { see(&event) } else { Ok(()) };
        // Watched before it is read: nothing happens unseen between the two.
        let watch = Watch::new(&[&roots.run]);
        let open = |path: PathBuf| File::open(path).ok().map(|file| Tail { file, rest: Vec::new() });
        if query.since.is_some()
            && let Some(mut older) = open(older(roots))
        {
            older.read(&mut show)?;
        }
        let mut tail = open(file(roots));
        if let Some(tail) = &mut tail
            && query.since.is_none()
        {
            tail.file.seek(SeekFrom::End(0)).doing(|| "read the events")?;
        }
        loop {
            let left = query.until.map(|until| until.0 - Moment::now().0);
            if let Some(old) = &mut tail {
                old.read(&mut show)?;
                if !same(&old.file, &file(roots)) {
                    // A new file was begun. Who had opened the old one before may still have written to it.
                    if let Some(mut new) = open(file(roots)) {
                        old.read(&mut show)?;
                        new.read(&mut show)?;
                        tail = Some(new);
                    }
                }
            } else if let Some(new) = open(file(roots)) {
                tail = Some(new);
                continue;
            }
            if left.is_some_and(|left| left <= 0) {
                return Ok(());
            }
            let left = left.map_or(PATIENCE, |left| Duration::from_nanos(u64::try_from(left).unwrap_or(0)));
            watch.wait(left.min(PATIENCE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(dir: &std::path::Path) -> Roots {
        Roots { state: dir.join("state"), run: dir.join("run") }
    }

    fn all(roots: &Roots, filters: &[&str]) -> Vec<String> {
        let mut query =
            EventQuery { since: Some(Moment(0)), until: Some(Moment::now()), ..EventQuery::default() };
        filters.iter().for_each(|filter| query.filter(filter).unwrap());
        let mut seen = Vec::new();
        Engine::new(roots.clone())
            .events(&query, &mut |event| {
                seen.push(event.action.clone());
                Ok(())
            })
            .unwrap();
        seen
    }

    #[test]
    fn events_are_kept_filtered_and_survive_a_damaged_line() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        assert!(all(&roots, &[]).is_empty());
        emit(&roots, &Event::new("container", "start", "abcdef").with("name", "web").with("a", "b"));
        fs::OpenOptions::new().append(true).open(file(&roots)).unwrap().write_all(b"{\"Ty\n\0\n").unwrap();
        emit(&roots, &Event::new("container", "health_status: healthy", "abcdef").with("name", "web"));
        emit(&roots, &Event::image("pull", "sha256:0123", "busybox:latest"));
        let table: [(&[&str], &[&str]); 10] = [
            (&[], &["start", "health_status: healthy", "pull"]),
            (&["type=image"], &["pull"]),
            (&["type=image", "type=container"], &["start", "health_status: healthy", "pull"]),
            (&["event=health_status"], &["health_status: healthy"]),
            (&["event=start", "event=pull"], &["start", "pull"]),
            (&["container=web"], &["start", "health_status: healthy"]),
            (&["container=abcd", "event=start"], &["start"]),
            (&["label=a=b"], &["start"]),
            (&["image=busybox"], &["pull"]),
            (&["label=a", "label=c"], &[]),
        ];
        for (filters, expected) in table {
            assert_eq!(all(&roots, filters), expected, "{filters:?}");
        }
        assert!(EventQuery::default().filter("size=1").is_err());
        assert!(EventQuery::default().filter("start").is_err());
    }

    #[test]
    fn a_big_file_is_moved_away_and_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        emit(&roots, &Event::new("container", "first", "a"));
        rotate(&roots);
        assert!(!older(&roots).exists(), "it is small");
        let padding = "x".repeat(MOST as usize);
        emit(&roots, &Event::new("container", "big", "a").with("padding", padding));
        rotate(&roots);
        emit(&roots, &Event::new("container", "after", "a"));
        assert_eq!(all(&roots, &[]), ["first", "big", "after"]);
    }

    #[test]
    fn a_reader_sees_what_comes_later_across_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        let (sender, receiver) = std::sync::mpsc::channel();
        let reader = roots.clone();
        std::thread::spawn(move || {
            let _ = Engine::new(reader).events(&EventQuery::default(), &mut |event| {
                sender.send(event.action.clone()).map_err(|_| Error::new(Kind::Usage, "enough"))
            });
        });
        let wait = |what: &str| {
            for _ in 0..100 {
                emit(&roots, &Event::new("container", what, "a"));
                if let Ok(seen) = receiver.recv_timeout(Duration::from_millis(100))
                    && seen == what
                {
                    return;
                }
            }
            panic!("{what} was not seen");
        };
        wait("one");
        fs::rename(file(&roots), older(&roots)).unwrap();
        wait("two");
        drop(receiver);
        emit(&roots, &Event::new("container", "end", "a"));
    }
}
