//! Health checks: a command that says, now and then, whether a container is well. What is to be run when, and what came
//! of it.
//!
//! ```text
//! monitor ──after an interval──▶ tare-probe ──join──▶ the command, inside       at most `timeout`, or its tree is killed
//!    ▲                             │ adds the result
//!    └── how it went (exit code) ──┴──▶ <run>/containers/<id>/health.json       {Status, FailingStreak, Log: the last five}
//! ```
//!
//! Once the container has ended, what was known last is in `<state>/containers/<id>/health.json`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tare_image::{Healthcheck, ImageConfig};
use tare_sys::time::Moment;

use crate::container::{Folders, Record, read_json, write_json};
use crate::request::Config;

/// The file's name.
const FILE: &str = "health.json";
/// Results that are kept.
const KEPT: usize = 5;

/// A health check, with all that was left open decided.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    interval: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u64,
}

/// Whether a container is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Nobody knows yet.
    Starting,
    /// The last check went well.
    Healthy,
    /// So many in a row did not.
    Unhealthy,
}

/// `health.json`, in the shape of Docker's `State.Health`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// Whether it is well.
    pub status: Word,
    /// Failures since the last success.
    pub failing_streak: u64,
    /// The last results, the oldest first.
    pub log: Vec<Outcome>,
}

/// How one check went.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Outcome {
    /// When it began.
    pub start: String,
    /// When it ended.
    pub end: String,
    /// The command's; -1 where it had none.
    pub exit_code: i32,
    /// What the command wrote, or why it has no exit code.
    pub output: String,
}

/// What the request says, and where it says nothing what the image says.
pub fn merged(config: &Config, image: &ImageConfig) -> Option<Healthcheck> {
    let (Some(own), Some(image)) = (&config.healthcheck, &image.healthcheck) else {
        return config.healthcheck.clone().or_else(|| image.healthcheck.clone());
    };
    let either = |own: i64, image: i64| if own == 0 { image } else { own };
    Some(Healthcheck {
        test: if own.test.is_empty() { image.test.clone() } else { own.test.clone() },
        interval: either(own.interval, image.interval),
        timeout: either(own.timeout, image.timeout),
        start_period: either(own.start_period, image.start_period),
        start_interval: either(own.start_interval, image.start_interval),
        retries: either(own.retries, image.retries),
    })
}

/// The container's check; `None`: it has none, or one that says nothing.
pub fn check(record: &Record) -> Option<Check> {
    let asked = merged(&record.request.config, &record.image)?;
    let (kind, words) = asked.test.split_first()?;
    if words.is_empty() {
        return None;
    }
    let command = match kind.as_str() {
        "CMD" => words.to_vec(),
        "CMD-SHELL" => {
            let shell = match &record.image.shell[..] {
                [] => vec!["/bin/sh".to_owned(), "-c".to_owned()],
                shell => shell.to_vec(),
            };
            [&shell, words].concat()
        }
        _ => return None,
    };
    let time = |nanoseconds: i64, default: u64| match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => Duration::from_secs(default),
        Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
    };
    Some(Check {
        command,
        timeout: time(asked.timeout, 30),
        interval: time(asked.interval, 30),
        start_period: time(asked.start_period, 0),
        start_interval: time(asked.start_interval, 5),
        retries: u64::try_from(asked.retries).ok().filter(|retries| *retries > 0).unwrap_or(3),
    })
}

impl Check {
    /// How long to wait for the next one, so long after the start.
    pub fn pause(&self, word: Word, lived: Duration) -> Duration {
        match word {
            Word::Starting if lived < self.start_period => self.start_interval,
            _ => self.interval,
        }
    }
}

impl Health {
    /// Of a container that has just been started.
    pub fn starting() -> Health {
        Health { status: Word::Starting, failing_streak: 0, log: Vec::new() }
    }

    /// What is known of a container's; `None`: it has no check, or was never started.
    pub fn of(folders: &Folders, record: &Record) -> Option<Health> {
        check(record)?;
        let read = |folder: &std::path::Path| read_json(&folder.join(FILE)).ok().flatten();
        read(&folders.run).or_else(|| read(&folders.state))
    }

    /// Adds a result; `since_start`: how long after the container's start the check began.
    pub fn add(&mut self, outcome: Outcome, check: &Check, since_start: Duration) {
        if outcome.exit_code == 0 {
            self.failing_streak = 0;
            self.status = Word::Healthy;
        } else if self.status != Word::Starting || since_start >= check.start_period {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.retries {
                self.status = Word::Unhealthy;
            }
        }
        self.log.push(outcome);
        let more = self.log.len().saturating_sub(KEPT);
        self.log.drain(..more);
    }

    /// Writes it down. A full disk loses it, and the container goes on.
    pub fn note(&self, folders: &Folders) {
        // By a name of this process alone: a check of a monitor that was killed may write while one of the next does.
        let own = format!("{FILE}.{}", std::process::id());
        if write_json(&folders.run, &own, self).is_ok() {
            let _ = std::fs::rename(folders.run.join(own), folders.run.join(FILE));
        }
    }

    /// Keeps what is known of a container that has ended. Docker calls it unhealthy from then on.
    pub fn keep(mut self, folders: &Folders) {
        self.status = Word::Unhealthy;
        let _ = write_json(&folders.state, FILE, &self);
        let _ = std::fs::remove_file(folders.run.join(FILE));
    }

    /// When the last check ended.
    pub fn last(&self) -> Option<Moment> {
        self.log.last().and_then(|outcome| Moment::parse(&outcome.end))
    }
}

impl Word {
    /// For people, in the state of a container that runs.
    pub fn in_words(self) -> &'static str {
        match self {
            Word::Starting => " (health: starting)",
            Word::Healthy => " (healthy)",
            Word::Unhealthy => " (unhealthy)",
        }
    }

    /// As one process tells another.
    pub fn code(self) -> u8 {
        match self {
            Word::Starting => 10,
            Word::Healthy => 11,
            Word::Unhealthy => 12,
        }
    }

    /// The word that this code stands for.
    pub fn of_code(code: u8) -> Option<Word> {
        [Word::Starting, Word::Healthy, Word::Unhealthy].into_iter().find(|word| word.code() == code)
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Word::Starting => "starting",
            Word::Healthy => "healthy",
            Word::Unhealthy => "unhealthy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(test: &[&str], interval: i64) -> Option<Healthcheck> {
        Some(Healthcheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            interval,
            ..Default::default()
        })
    }

    #[test]
    fn the_request_comes_before_the_image() {
        let image = ImageConfig { healthcheck: asked(&["CMD", "a"], 7), ..Default::default() };
        let table = [
            (None, asked(&["CMD", "a"], 7)),
            (asked(&[], 9), asked(&["CMD", "a"], 9)),
            (asked(&["NONE"], 0), asked(&["NONE"], 7)),
        ];
        for (own, both) in table {
            assert_eq!(merged(&Config { healthcheck: own, ..Default::default() }, &image), both);
        }
        assert_eq!(merged(&Config::default(), &ImageConfig::default()), None);
    }

    #[test]
    fn failures_count_after_the_start_period_and_a_success_ends_them() {
        let check = Check {
            command: vec!["x".to_owned()],
            timeout: Duration::from_secs(30),
            interval: Duration::from_secs(30),
            start_period: Duration::from_secs(60),
            start_interval: Duration::from_secs(5),
            retries: 2,
        };
        let mut health = Health::starting();
        let steps = [
            (1, 10, 0, Word::Starting),
            (1, 61, 1, Word::Starting),
            (0, 62, 0, Word::Healthy),
            (1, 63, 1, Word::Healthy),
            (-1, 64, 2, Word::Unhealthy),
            (1, 65, 3, Word::Unhealthy),
            (0, 66, 0, Word::Healthy),
        ];
        for (exit_code, at, streak, word) in steps {
            let outcome =
                Outcome { start: String::new(), end: String::new(), exit_code, output: String::new() };
            health.add(outcome, &check, Duration::from_secs(at));
            assert_eq!((health.failing_streak, health.status), (streak, word), "at {at}");
        }
        assert_eq!(health.log.len(), KEPT);
        let pauses = [(Word::Starting, 59, 5), (Word::Starting, 60, 30), (Word::Healthy, 1, 30)];
        for (word, lived, pause) in pauses {
            assert_eq!(check.pause(word, Duration::from_secs(lived)), Duration::from_secs(pause));
        }
    }
}
