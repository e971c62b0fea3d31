//! `why`: what became of a container, in plain words, with what is known for certain beside them.
//!
//! It keeps no book of its own: the words come from `status.json`, from the events (who sent which signal), from
//! the log's last lines and, after a lack of memory, from the kernel's own messages.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use tare_sys::Result;
use tare_sys::time::{Moment, in_words};

use crate::container::{Record, State, Status};
use crate::engine::Engine;
use crate::events::{Event, EventQuery};
use crate::inspect;
use crate::log::LogQuery;

/// Lines of the log that are shown.
const LOG_LINES: usize = 5;
/// Seconds before a death in which a signal counts as its cause.
const CAUSE: i64 = 2;

/// What became of a container.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Why {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// In one sentence.
    pub reason: String,
    /// What that rests on: a word, and what is known.
    pub facts: Vec<(String, String)>,
    /// The last lines that it wrote.
    pub log: Vec<String>,
    /// What a person can do; empty where nothing is wrong, or nobody knows.
    pub hint: String,
}

impl Engine {
    /// Explains.
    ///
    /// Errors: [`tare_sys::Kind::NotFound`].
    pub fn why(&self, container: &str) -> Result<Why> {
        let folders = self.find(container)?;
        let record = folders.record()?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        let events = self.events_of(&record, &status)?;
        let mut why = Why { id: record.id.clone(), name: record.name.clone(), ..Why::default() };
        (why.reason, why.hint) = reason(&record, &status, &events);
        let now = Moment::now();
        let since = |text: &str| Moment::parse(text).map_or(0, Moment::seconds);
        let (began, ended) = (since(&status.started), since(&status.finished));
        let mut fact = |word: &str, text: String| why.facts.push((word.to_owned(), text));
        fact("command", record.command.join(" "));
        if status.runs() {
            fact("runs", format!("for {}, since {}", in_words(now.seconds() - began), status.started));
        } else if began > 0 && ended >= began {
            let ago = in_words(now.seconds() - ended).to_lowercase();
            fact(
                "ended",
                format!("{ago} ago, after {} ({})", in_words(ended - began).to_lowercase(), status.finished),
            );
        }
        if status.state == State::Exited {
            fact("exit code", status.exit_code.map_or_else(|| "unknown".to_owned(), |code| code.to_string()));
        }
        for event in &events {
            let attribute = |name: &str| event.actor.attributes.get(name).map_or("", String::as_str);
            if event.action == "kill" {
                let number = attribute("signal").parse().unwrap_or(0);
                let when = in_words(now.seconds() - event.time).to_lowercase();
                fact("signal", format!("{} {when} ago, sent by {}", signal_name(number), attribute("by")));
            } else if !attribute("by").is_empty() {
                fact("asked", format!("{} by {}", event.action, attribute("by")));
            }
        }
        if let Some(text) = memory(&record, &status) {
            fact("memory", text);
        }
        if status.oom_killed
            && let Some(text) = biggest_process(&record.id)
        {
            fact("kernel", text);
        }
        for mount in inspect::mounts(&record) {
            let source = mount["Source"].as_str().unwrap_or_default();
            if mount["Type"] == "bind" && source.starts_with('/') && !Path::new(source).exists() {
                fact(
                    "missing",
                    format!("{source} on the host, which is to be mounted at {}", mount["Destination"]),
                );
            }
        }
        for event in events.iter().filter(|event| event.action.starts_with("health_status")).rev().take(3) {
            let when = in_words(now.seconds() - event.time).to_lowercase();
            fact("health", format!("{} {when} ago", event.action.trim_start_matches("health_status: ")));
        }
        why.log = self.last_lines(container);
        Ok(why)
    }

    /// What happened to it since it was last started.
    fn events_of(&self, record: &Record, status: &Status) -> Result<Vec<Event>> {
        let mut query = EventQuery {
            since: Some(Moment::parse(&status.started).unwrap_or(Moment(0))),
            until: Some(Moment::now()),
            ..EventQuery::default()
        };
        query.filter(&format!("container={}", record.id))?;
        let mut events = Vec::new();
        self.events(&query, &mut |event| {
            events.push(event.clone());
            Ok(())
        })?;
        Ok(events)
    }

    fn last_lines(&self, container: &str) -> Vec<String> {
        let query = LogQuery { tail: Some(LOG_LINES), ..LogQuery::default() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        // Where no log is kept there are no lines.
        let _ = self.logs(container, &query, &mut out, &mut err);
        out.extend(err);
        String::from_utf8_lossy(&out).lines().map(str::to_owned).collect()
    }
}

/// The sentence, and what to do about it.
fn reason(record: &Record, status: &Status, events: &[Event]) -> (String, String) {
    let say = |reason: &str, hint: &str| (reason.to_owned(), hint.to_owned());
    if status.runs() {
        return say("it runs", "");
    }
    if !status.error.is_empty() && !status.oom_killed && status.exit_code.is_some() {
        let (what, hint) = status.error.split_once("\nhint: ").unwrap_or((&status.error, ""));
        return (format!("it could not be started: {what}"), hint.to_owned());
    }
    if status.state == State::Created {
        return ("it was made and never started".to_owned(), format!("start it: tare start {}", record.name));
    }
    let Some(code) = status.exit_code else {
        return say(
            "nobody saw how it ended: its monitor was killed, or the machine went down",
            "the log's last lines may tell more",
        );
    };
    if status.oom_killed {
        return say(
            "the kernel killed it, or a process of it, for want of memory",
            "give it a larger --memory, or find out what in it grows",
        );
    }
    let end = Moment::parse(&status.finished).map_or(0, Moment::seconds);
    let sent: Vec<_> = events.iter().filter(|event| event.action == "kill").collect();
    let is = |event: &Event, signal: u8| event.actor.attributes.get("signal") == Some(&signal.to_string());
    let sender =
        |signal: u8| sent.iter().rev().find(|event| is(event, signal) && (end - event.time).abs() <= CAUSE);
    match code {
        0 => say(
            "its main process came to its end, and well",
            if looks_like_a_shell(record) {
                "a shell without anybody to type ends at once: give it -it, or a command that lasts"
            } else {
                ""
            },
        ),
        125 => say(
            "its main process exited with code 125",
            "engines use it for errors of their own: was it started in the container?",
        ),
        126 => say(
            "a command in it is there but cannot be executed",
            "look at its mode, its architecture and its first line",
        ),
        127 => say("a command in it was not found", "is it installed in the image, and in PATH?"),
        129..=192 => {
            let signal = code - 128;
            let name = signal_name(i32::from(signal));
            let words = signal_words(signal);
            match (sender(signal), signal) {
                (Some(_), 9) if sent.iter().any(|event| !is(event, 9)) => say(
                    "it did not end when it was asked to, and was killed when its time was up",
                    "let its main process obey the stop signal (`exec` in shell scripts, --init), or give it more time: --stop-timeout",
                ),
                (Some(event), _) => {
                    let by = event.actor.attributes.get("by").map_or("tare", String::as_str);
                    (format!("it was ended by {name}, sent by {by}"), String::new())
                }
                (None, 9) => say(
                    "it was ended by SIGKILL, and not by tare: by somebody on the host, or from inside",
                    "was it `kill -9`, a service manager, or the host's own lack of memory (dmesg)?",
                ),
                (None, _) => {
                    (format!("its main process was ended by {name}: {words}"), fault_hint(signal).to_owned())
                }
            }
        }
        code => (
            format!("its main process exited with code {code}"),
            "the code is the program's own: the log's last lines may tell what it means".to_owned(),
        ),
    }
}

fn looks_like_a_shell(record: &Record) -> bool {
    let name = record.command.first().map_or("", |command| command.rsplit('/').next().unwrap_or_default());
    let config = &record.request.config;
    record.command.len() == 1 && !config.open_stdin && ["sh", "bash", "ash", "dash", "zsh"].contains(&name)
}

/// In a few words, for `ps`; `None` where the exit code says it all.
pub(crate) fn short(status: &Status) -> Option<&'static str> {
    match (status.state, status.exit_code) {
        (State::Created, _) if !status.error.is_empty() => Some("cannot start"),
        (State::Exited, _) if status.oom_killed => Some("out of memory"),
        (State::Exited, Some(126)) => Some("cannot be executed"),
        (State::Exited, Some(127)) => Some("command not found"),
        (State::Exited, Some(code @ (132 | 134 | 135 | 136 | 139 | 159))) => Some(signal_words(code - 128)),
        _ => None,
    }
}

fn signal_name(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let name = usize::try_from(number - 1).ok().and_then(|at| NAMES.get(at));
    name.map_or_else(|| format!("signal {number}"), |name| format!("SIG{name}"))
}

/// What a signal means that nobody sent on purpose.
fn signal_words(signal: u8) -> &'static str {
    match signal {
        2 => "interrupted, as by Ctrl-C",
        4 => "illegal instruction",
        6 => "aborted",
        7 => "bus error",
        8 => "arithmetic error",
        11 => "segmentation fault",
        13 => "nobody read its output",
        15 => "asked to end",
        24 => "out of CPU time",
        25 => "file too large",
        31 => "forbidden system call",
        _ => "ended from outside",
    }
}

fn fault_hint(signal: u8) -> &'static str {
    match signal {
        4 => "the program was built for a newer processor than this one",
        6 => "the program found a mistake of its own: its last words are in the log",
        7 => "a file that it had mapped became shorter, or /dev/shm is full: --shm-size",
        8 | 11 => "a bug in the program, or a damaged one",
        31 => {
            "the seccomp profile forbids what it did: --security-opt seccomp=unconfined shows whether that is so"
        }
        _ => "",
    }
}

fn memory(record: &Record, status: &Status) -> Option<String> {
    let limit = record.request.host_config.memory;
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let limit = (limit > 0).then(|| format!("limit {}", mib(limit.unsigned_abs())));
    let peak = (status.memory_peak > 0).then(|| format!("most ever in use {}", mib(status.memory_peak)));
    let parts: Vec<String> = limit.into_iter().chain(peak).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What the kernel said about whom it killed in the container's cgroup, as long as it remembers.
fn biggest_process(id: &str) -> Option<String> {
    use rustix::fs::OFlags;
    let mut options = std::fs::OpenOptions::new();
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).ok()?;
    let mut file = options.read(true).custom_flags(flags).open("/dev/kmsg").ok()?;
    let mut lines = Vec::new();
    let mut record = vec![0; 8192];
    // One message a read, until there is none; one that was overwritten meanwhile (EPIPE) is skipped.
    for _ in 0..100_000 {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => lines.push(String::from_utf8_lossy(&record[..length]).into_owned()),
            Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    killed(&lines, id)
}

/// `oom-kill:…,task_memcg=/tare/ID,task=NAME,pid=7,uid=0` and then `Memory cgroup out of memory: Killed process 7
/// (NAME) total-vm:…kB, anon-rss:…kB, …`.
fn killed(lines: &[String], id: &str) -> Option<String> {
    let ours = |line: &String| line.contains("oom-kill:") && line.contains(id);
    let at = lines.iter().rposition(ours)?;
    let line = lines[at..].iter().find(|line| line.contains("Killed process "))?;
    let rest = line.split_once("Killed process ")?.1;
    let name = rest.split_once('(')?.1.split_once(')')?.0;
    let size = rest.split_once("anon-rss:")?.1.split_once("kB")?.0.parse::<u64>().ok()?;
    let name: String = name.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect();
    Some(format!("it killed {name}, the biggest process, with {:.1} MiB", size as f64 / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: State, code: Option<u8>) -> Status {
        Status { state, exit_code: code, ..Status::created() }
    }

    #[test]
    fn ends_are_told_in_a_few_words() {
        assert_eq!(short(&status(State::Exited, Some(0))), None);
        assert_eq!(short(&status(State::Exited, Some(3))), None);
        assert_eq!(short(&status(State::Exited, Some(139))), Some("segmentation fault"));
        assert_eq!(short(&status(State::Exited, Some(127))), Some("command not found"));
        let starved = Status { oom_killed: true, ..status(State::Exited, Some(137)) };
        assert_eq!(short(&starved), Some("out of memory"));
        let failed = Status { error: "x".to_owned(), ..status(State::Created, Some(127)) };
        assert_eq!(short(&failed), Some("cannot start"));
        assert_eq!(
            (signal_name(15), signal_name(64), signal_name(0)),
            ("SIGTERM".into(), "signal 64".into(), "signal 0".into())
        );
    }

    #[test]
    fn the_kernel_names_whom_it_killed() {
        let lines = [
            "6,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/tare/other,task=x,pid=1,uid=0",
            "3,1,1,-;Memory cgroup out of memory: Killed process 1 (x) total-vm:1kB, anon-rss:1kB, file-rss:0kB",
            "6,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/tare/abc,task=python3,pid=7,uid=0",
            "3,1,1,-;Memory cgroup out of memory: Killed process 7 (python3) total-vm:70000kB, anon-rss:62464kB, file-rss:0kB",
        ]
        .map(str::to_owned);
        assert_eq!(
            killed(&lines, "abc").as_deref(),
            Some("it killed python3, the biggest process, with 61.0 MiB")
        );
        assert_eq!(killed(&lines, "none"), None);
        assert_eq!(killed(&lines[2..3], "abc"), None);
    }
}
