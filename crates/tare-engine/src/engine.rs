//! The engine, and the verbs that look: `ps`, `inspect`, `logs`, `info`.

use std::collections::BTreeMap;
use std::io::Write;

use tare_image::ImageStore;
use tare_sys::time::Moment;
use tare_sys::{Error, Kind, Result};

use crate::container::{Folders, Roots, State, Status};
use crate::facts;
use crate::log::LogQuery;
use crate::{inspect, sweep};

/// The engine: two folders and the verbs on them.
#[derive(Debug)]
pub struct Engine {
    pub(crate) roots: Roots,
}

/// A line of `ps`.
#[derive(Clone, Debug)]
pub struct Summary {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Image, as the caller wrote it.
    pub image: String,
    /// Command line.
    pub command: String,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// What it is doing, in Docker's word: `created`, `running`, `exited`.
    pub state: String,
    /// The same for people: `Up 3 minutes`, `Exited (137) 2 hours ago`.
    pub status: String,
    /// Exit code; `None` where it runs, or nobody saw it end.
    pub exit_code: Option<u8>,
    /// Killed for want of memory.
    pub oom_killed: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl Engine {
    /// An engine on these folders. Touches nothing yet.
    pub fn new(roots: Roots) -> Engine {
        Engine { roots }
    }

    /// Where everything is kept.
    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The image store.
    pub fn images(&self) -> Result<ImageStore> {
        ImageStore::open(&self.roots.state.join("images"))
    }

    /// The containers, the newest first; only those that run unless `all`.
    pub fn list(&self, all: bool) -> Result<Vec<Summary>> {
        sweep::sweep(&self.roots)?;
        let mut list = Vec::new();
        for id in self.roots.ids()? {
            let folders = self.roots.folders(&id);
            // One that is just being made or removed is not there yet, or no more.
            let (Ok(record), Ok(status)) = (folders.record(), folders.status()) else { continue };
            let status = status.unwrap_or_else(Status::created);
            if !all && matches!(status.state, State::Created | State::Exited) {
                continue;
            }
            let seconds = |text: &str| Moment::parse(text).map_or(0, Moment::seconds);
            list.push(Summary {
                name: record.name,
                image: record.request.image().to_owned(),
                command: quoted(&record.command),
                created: seconds(&record.created),
                state: status.state.to_string(),
                status: status.in_words(Moment::now()),
                exit_code: status.exit_code.filter(|_| status.state == State::Exited),
                oom_killed: status.oom_killed,
                labels: record.request.config.labels,
                id,
            });
        }
        list.sort_by_key(|summary| std::cmp::Reverse(summary.created));
        Ok(list)
    }

    /// Everything about a container, in Docker's shape.
    pub fn inspect(&self, container: &str) -> Result<serde_json::Value> {
        let folders = self.find(container)?;
        inspect::container(&self.roots, &folders)
    }

    /// Prints its output.
    pub fn logs(
        &self,
        container: &str,
        query: &LogQuery,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Result<()> {
        let folders = self.find(container)?;
        // The monitor holds the lock until the last line is written.
        let mut running = || matches!(folders.lock(), Ok(None));
        crate::log::print(&folders.log(), query, &mut running, out, err)
    }

    /// About the host and the engine, in Docker's words.
    pub fn info(&self) -> Result<serde_json::Value> {
        let containers = self.list(true)?;
        let images = self.images()?.list()?.len();
        Ok(facts::info(&self.roots, &containers, images))
    }

    pub(crate) fn find(&self, container: &str) -> Result<Folders> {
        sweep::sweep(&self.roots)?;
        Ok(self.roots.folders(&self.roots.find(container)?))
    }
}

/// A command on one line, as Docker shows it: a word with a space in it in quotes.
fn quoted(command: &[String]) -> String {
    let words =
        command.iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { word.clone() });
    words.collect::<Vec<_>>().join(" ")
}

pub(crate) fn not_running(container: &str) -> Error {
    Error::new(Kind::Conflict, format!("the container {container} is not running"))
        .hint("`tare ps` lists those that are")
}

pub(crate) fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(Kind::Permission, "make a container: tare needs root for this")
        .hint("run the command with sudo"))
}
