//! Where `--log` goes, and what a line of it looks like.
//!
//! Engines read it: containerd, Docker and Podman take the last line of level `error` of a JSON log as the reason
//! why a call failed. The fields `level`, `msg` and `time` are therefore runc's.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::{Map, Value};
use tare_sys::{Context, Error, Kind, Result};

use crate::print::terminal;

/// How much a line matters, and so whether it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warning,
    Debug,
}

impl Level {
    /// What `--log-level` calls it.
    pub fn parse(text: &str) -> Result<Level, String> {
        match text {
            "error" => Ok(Level::Error),
            "warning" | "warn" | "info" => Ok(Level::Warning),
            "debug" => Ok(Level::Debug),
            _ => Err("it can be error, warning or debug".to_owned()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Debug => "debug",
        }
    }

    /// syslog(3)'s number.
    fn priority(self) -> u8 {
        match self {
            Level::Error => 3,
            Level::Warning => 4,
            Level::Debug => 7,
        }
    }
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `time="…" level=error msg="…"`
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

impl Format {
    /// What `--log-format` calls it.
    pub fn parse(text: &str) -> Result<Format, String> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err("it can be text or json".to_owned()),
        }
    }
}

#[derive(Debug)]
enum Place {
    Stderr,
    File(File),
    Journal(UnixDatagram, String),
    Syslog(UnixDatagram, String),
}

/// Where lines go.
#[derive(Debug)]
pub struct Log {
    place: Place,
    format: Format,
    level: Level,
}

/// More to say about a line than its text.
pub type Fields = Map<String, Value>;

const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";
/// What a syslog line is from, and the name in the journal.
const NAME: &str = "tare-oci";

impl Log {
    /// Opens it now, so that a place that cannot be written to is an error before anything is done.
    pub fn open(place: &str, format: Format, level: Level) -> Result<Log> {
        let id = |id: &str| if id.is_empty() { NAME.to_owned() } else { id.to_owned() };
        let place = match place.split_once(':') {
            _ if matches!(place, "" | "/dev/stderr" | "file:/dev/stderr") => Place::Stderr,
            Some(("journald", name)) => Place::Journal(connect(Path::new(JOURNAL))?, id(name)),
            Some(("syslog", name)) => Place::Syslog(connect(Path::new(SYSLOG))?, id(name)),
            _ => {
                let path = place.strip_prefix("file:").unwrap_or(place);
                let file = OpenOptions::new().append(true).create(true).open(path);
                Place::File(file.doing(|| format!("open the log {path}"))?)
            }
        };
        Ok(Log { place, format, level })
    }

    /// Whether lines are mixed with what a person reads on standard error.
    pub fn is_stderr(&self) -> bool {
        matches!(self.place, Place::Stderr)
    }

    /// Writes a line. A log that cannot be written to must not change what is done.
    pub fn write(&self, level: Level, message: &str, fields: Fields) {
        if level > self.level {
            return;
        }
        let line = || line(self.format, level, message, &now(), &fields);
        match &self.place {
            Place::Stderr => terminal::complain(&line()),
            Place::File(file) => {
                let mut file = file;
                let _ = file.write_all(line().as_bytes());
            }
            Place::Journal(socket, id) => {
                let _ = socket.send(&entry(level, message, id));
            }
            Place::Syslog(socket, id) => {
                // Facility `user` (syslog(3)); one datagram is one line.
                let text = message.replace('\n', " ");
                let _ = socket.send(format!("<{}>{id}: {text}", (1 << 3) | level.priority()).as_bytes());
            }
        }
    }

    /// Writes a line about what is being done; `message` is only made if somebody wants it.
    pub fn debug(&self, message: impl FnOnce() -> String) {
        if self.level >= Level::Debug {
            self.write(Level::Debug, &message(), Fields::new());
        }
    }
}

fn connect(path: &Path) -> Result<UnixDatagram> {
    let socket = UnixDatagram::unbound().doing(|| "socket(AF_UNIX, SOCK_DGRAM)")?;
    let connected = socket.connect(path).doing(|| format!("connect the log to {}", path.display()));
    connected.map_err(|err: Error| {
        err.with_kind(Kind::Unsupported).hint("nothing listens there; log to a file")
    })?;
    Ok(socket)
}

/// Now, as RFC 3339 has it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn line(format: Format, level: Level, message: &str, time: &str, fields: &Fields) -> String {
    match format {
        Format::Json => {
            let mut all = fields.clone();
            for (name, value) in [("level", level.name()), ("msg", message), ("time", time)] {
                all.insert(name.to_owned(), Value::from(value));
            }
            format!("{}\n", Value::Object(all))
        }
        // What a field adds for machines, the message says to a person already.
        Format::Text => format!("time=\"{time}\" level={} msg={}\n", level.name(), Value::from(message)),
    }
}

/// An entry in the journal's own protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>): a field with a length
/// may hold line ends.
fn entry(level: Level, message: &str, id: &str) -> Vec<u8> {
    let mut bytes = format!("PRIORITY={}\nSYSLOG_IDENTIFIER={NAME}\n", level.priority()).into_bytes();
    for (name, value) in [("ID", id), ("MESSAGE", message)] {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_runcs() {
        let text = line(Format::Text, Level::Error, "exec: \"x\"\n", "T", &Fields::new());
        assert_eq!(text, "time=\"T\" level=error msg=\"exec: \\\"x\\\"\\n\"\n");
        let fields = Fields::from_iter([("fix".to_owned(), Value::from("do"))]);
        let json = line(Format::Json, Level::Warning, "m", "T", &fields);
        assert_eq!(json, "{\"fix\":\"do\",\"level\":\"warning\",\"msg\":\"m\",\"time\":\"T\"}\n");
    }

    #[test]
    fn a_field_never_replaces_runcs() {
        let fields = Fields::from_iter([("msg".to_owned(), Value::from("other"))]);
        assert!(line(Format::Json, Level::Error, "m", "T", &fields).contains("\"msg\":\"m\""));
    }

    #[test]
    fn journal_and_syslog_get_one_datagram_a_line() {
        let folder = tempfile();
        let path = folder.join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut buffer = [0; 512];

        let socket = connect(&path).unwrap();
        let log = |place| Log { place, format: Format::Text, level: Level::Warning };
        log(Place::Syslog(socket, "web".to_owned())).write(Level::Error, "two\nlines", Fields::new());
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"<11>web: two lines");

        let socket = connect(&path).unwrap();
        let log = log(Place::Journal(socket, "web".to_owned()));
        log.write(Level::Debug, "not wanted", Fields::new());
        log.write(Level::Warning, "a\nb", Fields::new());
        let length = receiver.recv(&mut buffer).unwrap();
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=tare-oci\nID\n\x03\0\0\0\0\0\0\0web\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(&buffer[..length], expected);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(connect(&path).unwrap_err().kind(), Kind::Unsupported);
    }

    fn tempfile() -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("tare-log-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }
}
