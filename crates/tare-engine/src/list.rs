//! `ps`: the containers, in short, and which of them are wanted.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use regex_lite::Regex;
use tare_network::Endpoint;
use tare_network::port::Published;
use tare_sys::time::Moment;
use tare_sys::{Error, Kind, Result};

use crate::container::{Record, Roots, State, Status};
use crate::engine::Engine;
use crate::health::Health;
use crate::{inspect, network, sweep};

mod port;

/// A line of `ps`.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Image, as the caller wrote it.
    pub image: String,
    /// `sha256:…` of the image; empty for `host` and folders.
    pub image_id: String,
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
    /// What is mounted: names of volumes, paths of others.
    pub mounts: Vec<String>,
    /// How many of these are volumes.
    pub volumes: usize,
    /// The networks that it is on.
    pub networks: Vec<String>,
    /// `0.0.0.0:8080->80/tcp`, `53/udp`.
    pub ports: Vec<String>,
    /// `starting`, `healthy`, `unhealthy`; `none` without a health check.
    pub health: String,
    /// Bytes written, and with the image's; asked for only.
    pub size: Option<Size>,
}

/// What a container's files take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Size {
    /// Bytes in its writable layer.
    pub written: u64,
    /// With the image's, which it shares with others.
    pub with_image: u64,
}

/// Which containers are wanted.
#[derive(Debug, Default)]
pub struct ListQuery {
    /// Those that do not run as well.
    pub all: bool,
    /// The last made so many, whatever they are doing.
    pub last: Option<usize>,
    /// Measure what they have written.
    pub size: bool,
    /// Only those that fit; see [`filter`](ListQuery::filter).
    pub filters: Filters,
}

/// Filters of a [`ListQuery`].
#[derive(Debug, Default)]
pub struct Filters(Vec<Filter>);

#[derive(Debug)]
struct Filter {
    key: &'static str,
    value: String,
    pattern: Option<Regex>,
}

const KEYS: [&str; 14] = [
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name", "network",
    "publish", "since", "status", "volume",
];
const STATES: [&str; 8] =
    ["created", "dead", "exited", "paused", "removing", "restarting", "running", "stopped"];

impl ListQuery {
    /// Adds a filter, `KEY=VALUE`.
    ///
    /// Errors: [`Kind::Usage`] for what is none.
    pub fn filter(&mut self, text: &str) -> Result<()> {
        let wrong = |why: &str| Error::new(Kind::Usage, format!("invalid filter {text:?}: {why}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("it must be KEY=VALUE"))?;
        let key = KEYS
            .into_iter()
            .find(|known| *known == key.trim())
            .ok_or_else(|| wrong(&format!("the key can be {}", KEYS.join(", "))))?;
        let value = match key {
            // Podman's word.
            "status" if value == "stopped" => "exited",
            _ => value,
        };
        let fits = match key {
            "status" => STATES.contains(&value),
            "exited" => value.parse::<i32>().is_ok(),
            "health" => ["starting", "healthy", "unhealthy", "none"].contains(&value),
            "is-task" => ["true", "false", "1", "0"].contains(&value),
            "publish" | "expose" => port::range(value).is_some(),
            _ => true,
        };
        if !fits {
            return Err(match key {
                "status" => wrong(&format!("the status can be {}", STATES.join(", "))),
                "health" => wrong("the health can be starting, healthy, unhealthy or none"),
                "exited" => wrong("the exit code is not a number"),
                "is-task" => wrong("it is true or false"),
                _ => wrong("write PORT[/PROTOCOL] or FIRST-LAST[/PROTOCOL]"),
            });
        }
        // Docker takes these for regular expressions; what is none is taken as it is.
        let pattern = ["id", "name"].contains(&key).then(|| Regex::new(value).ok()).flatten();
        self.filters.0.push(Filter { key, value: value.to_owned(), pattern });
        Ok(())
    }

    /// Who asks for those that have ended, or for the last one, does not mean those that run.
    fn wants_all(&self) -> bool {
        self.all
            || self.last.is_some()
            || self.filters.0.iter().any(|filter| ["status", "exited"].contains(&filter.key))
    }

    fn has(&self, key: &str) -> bool {
        self.filters.0.iter().any(|filter| filter.key == key)
    }

    /// Of filters with the same key one must fit, but every label counts.
    fn wants(&self, container: &Summary, others: &Others) -> bool {
        self.filters.0.iter().all(|filter| match filter.key {
            "label" => filter.fits(container, others),
            key => self.filters.0.iter().any(|other| other.key == key && other.fits(container, others)),
        })
    }
}

/// What filters compare with.
#[derive(Default)]
struct Others {
    /// Of images named by `ancestor`: id and layers.
    images: BTreeMap<String, (String, Vec<String>)>,
    /// When containers named by `before` and `since` were made, in nanoseconds.
    created: BTreeMap<String, i128>,
    /// Nanoseconds and layers of the container that is looked at.
    record: (i128, Vec<String>),
    /// Where it has mounts.
    mount_points: Vec<String>,
}

impl Filter {
    fn fits(&self, container: &Summary, others: &Others) -> bool {
        let value = self.value.as_str();
        let matches =
            |text: &str| self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(text)) || text == value;
        let created = others.record.0;
        match self.key {
            "name" => matches(&container.name) || matches(&format!("/{}", container.name)),
            "id" => matches(&container.id),
            "status" => container.state == value,
            "exited" => container.exit_code.is_some_and(|code| value.parse() == Ok(i32::from(code))),
            "ancestor" => is_ancestor(container, value, others),
            "label" => match value.split_once('=') {
                Some((key, value)) => container.labels.get(key).is_some_and(|found| found == value),
                None => container.labels.contains_key(value),
            },
            "before" => others.created.get(value).is_some_and(|then| created < *then),
            "since" => others.created.get(value).is_some_and(|then| created > *then),
            "volume" => container.mounts.iter().chain(&others.mount_points).any(|mount| mount == value),
            "network" => container.networks.iter().any(|network| network == value),
            "health" => container.health == value,
            // There is no swarm.
            "is-task" => ["false", "0"].contains(&value),
            "publish" => container.ports.iter().any(|port| port::is_published(port, value)),
            "expose" => container.ports.iter().any(|port| port::is_exposed(port, value)),
            _ => false,
        }
    }
}

fn is_ancestor(container: &Summary, value: &str, others: &Others) -> bool {
    if container.image == value || container.image.strip_suffix(":latest") == Some(value) {
        return true;
    }
    let Some((id, layers)) = others.images.get(value) else { return false };
    container.image_id == *id || (!layers.is_empty() && others.record.1.starts_with(layers))
}

impl Engine {
    /// The containers that are wanted, the newest first; and why others cannot be shown, whose records are damaged.
    ///
    /// Errors: [`Kind::NotFound`] for a container that a filter compares with.
    pub fn list(&self, query: &ListQuery) -> Result<(Vec<Summary>, Vec<Error>)> {
        let roots = self.roots();
        sweep::sweep(roots)?;
        let mut others = Others::default();
        for filter in &query.filters.0 {
            match filter.key {
                "ancestor" => {
                    if let Ok(image) = self.images().and_then(|store| store.resolve(&filter.value)) {
                        others.images.insert(filter.value.clone(), (image.image_id, image.layers));
                    }
                }
                "before" | "since" => {
                    let record = roots.folders(&roots.find(&filter.value)?).record()?;
                    let created = Moment::parse(&record.created).map_or(0, |moment| moment.0);
                    others.created.insert(filter.value.clone(), created);
                }
                _ => {}
            }
        }
        let all = query.wants_all();
        let now = Moment::now();
        let published = published(roots);
        let needs_mounts = query.has("volume");
        let (mut list, mut damaged) = (Vec::new(), Vec::new());
        // One that is just being made or removed is not there yet, or no more.
        let mut unreadable = |err: Error| {
            if err.kind() == Kind::Corrupt {
                damaged.push(err);
            }
        };
        for id in roots.ids()? {
            let folders = roots.folders(&id);
            let status = match folders.status() {
                Ok(status) => status.unwrap_or_else(Status::created),
                Err(err) => {
                    unreadable(err);
                    continue;
                }
            };
            if !all && matches!(status.state, State::Created | State::Exited) {
                continue;
            }
            let record = match folders.record() {
                Ok(record) => record,
                Err(err) => {
                    unreadable(err);
                    continue;
                }
            };
            let created = Moment::parse(&record.created).map_or(0, |moment| moment.0);
            others.record = (created, record.layers.clone());
            let mut summary = summary(&record, &status, now);
            if let Some(health) = Health::of(&folders, &record) {
                if status.state == State::Running {
                    summary.status.push_str(health.status.in_words());
                }
                summary.health = health.status.to_string();
            }
            if status.runs() {
                summary.ports = port::words(&record, published.get(&record.id).map_or(&[], Vec::as_slice));
            }
            if needs_mounts {
                let points = inspect::mounts(&record).into_iter();
                others.mount_points =
                    points.filter_map(|mount| mount["Destination"].as_str().map(str::to_owned)).collect();
            }
            if query.wants(&summary, &others) {
                list.push((created, summary, record));
            }
        }
        list.sort_by_key(|(created, ..)| std::cmp::Reverse(*created));
        list.truncate(query.last.unwrap_or(usize::MAX));
        let measured = |(_, mut summary, record): (i128, Summary, Record)| {
            summary.size = query.size.then(|| size(self, &record));
            summary
        };
        Ok((list.into_iter().map(measured).collect(), damaged))
    }
}

/// The published ports of all containers, by id: one look at the networks, however many containers there are.
fn published(roots: &Roots) -> BTreeMap<String, Vec<Published>> {
    let networks = network::networks(roots);
    let mut all: BTreeMap<String, Vec<Published>> = BTreeMap::new();
    for known in networks.list().unwrap_or_default() {
        for endpoint in Endpoint::on(&networks.folders, &known.id).unwrap_or_default() {
            all.entry(endpoint.container).or_default().extend(endpoint.ports);
        }
    }
    all
}

/// A volume's name, or what of the host is mounted, or where.
fn mount_name(mount: &serde_json::Value) -> String {
    let text = |name: &str| mount[name].as_str().filter(|text| !text.is_empty());
    text("Name").or_else(|| text("Source")).or_else(|| text("Destination")).unwrap_or_default().to_owned()
}

fn summary(record: &Record, status: &Status, now: Moment) -> Summary {
    let request = &record.request;
    let mounts = inspect::mounts(record);
    Summary {
        id: record.id.clone(),
        name: record.name.clone(),
        image: request.image().to_owned(),
        image_id: record.image_id.clone(),
        command: quoted(&record.command),
        created: Moment::parse(&record.created).map_or(0, Moment::seconds),
        state: status.state.to_string(),
        status: status.in_words(now),
        exit_code: status.exit_code.filter(|_| status.state == State::Exited),
        oom_killed: status.oom_killed,
        labels: record.labels(),
        volumes: mounts.iter().filter(|mount| mount["Type"] == "volume").count(),
        mounts: mounts.iter().map(mount_name).collect(),
        networks: network::listed(request).into_iter().map(|(name, _)| name).collect(),
        ports: Vec::new(),
        health: "none".to_owned(),
        size: None,
    }
}

/// What a container has written, and that with its image.
pub(crate) fn size(engine: &Engine, record: &Record) -> Size {
    let folders = engine.roots().folders(&record.id);
    let written = written(&folders.state.join("rw/upper"), 0);
    let image = engine.images().ok().and_then(|store| {
        store
            .list()
            .ok()?
            .into_iter()
            .find(|image| image.id.to_string() == record.image_id)
            .map(|image| image.size)
    });
    Size { written, with_image: written + image.unwrap_or(0) }
}

/// Bytes of the files below a folder; what is on another file system does not count.
fn written(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        // Deeper than any path can be: something changes under our hands.
        Ok(meta) if meta.is_dir() && depth < 2_000 => written(&entry.path(), depth + 1),
        Ok(meta) if meta.is_file() => meta.size().min(meta.blocks() * 512),
        Ok(meta) if meta.is_symlink() => meta.size(),
        _ => 0,
    };
    entries.flatten().map(of).sum()
}

/// A command on one line, as Docker shows it: a word with a space in it in quotes.
fn quoted(command: &[String]) -> String {
    let words =
        command.iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { word.clone() });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Summary {
        Summary {
            id: "0123456789abcdef".to_owned(),
            name: "brave_web".to_owned(),
            image: "busybox:latest".to_owned(),
            state: "exited".to_owned(),
            exit_code: Some(3),
            labels: [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())].into(),
            mounts: vec!["data".to_owned(), "/srv".to_owned()],
            networks: vec!["front".to_owned()],
            ports: vec!["0.0.0.0:8080->80/tcp".to_owned(), "53/udp".to_owned()],
            health: "healthy".to_owned(),
            ..Summary::default()
        }
    }

    #[test]
    fn filters_add_up() {
        let table: [(&[&str], bool); 28] = [
            (&[], true),
            (&["name=web"], true),
            (&["name=^brave_web$"], true),
            (&["name=^/brave_web$"], true),
            (&["name=^web$"], false),
            (&["name=db", "name=web"], true),
            (&["name=db"], false),
            (&["name=(web"], false),
            (&["id=0123"], true),
            (&["status=exited", "exited=3"], true),
            (&["exited=0"], false),
            (&["status=running"], false),
            (&["status=stopped"], true),
            (&["ancestor=busybox"], true),
            (&["ancestor=debian"], false),
            (&["label=a", "label=c"], true),
            (&["label=a=x"], false),
            (&["label=a", "label=d"], false),
            (&["volume=data"], true),
            (&["volume=/srv"], true),
            (&["volume=/other"], false),
            (&["network=front"], true),
            (&["health=healthy"], true),
            (&["health=none"], false),
            (&["is-task=false"], true),
            (&["publish=8080"], true),
            (&["expose=80/tcp", "publish=8000-9000"], true),
            (&["publish=80"], false),
        ];
        for (filters, fits) in table {
            let mut query = ListQuery::default();
            filters.iter().for_each(|filter| query.filter(filter).unwrap());
            assert_eq!(query.wants(&container(), &Others::default()), fits, "{filters:?}");
        }
        for text in
            ["", "name", "size=1", "status=asleep", "exited=x", "health=ill", "publish=x", "is-task=x"]
        {
            assert!(ListQuery::default().filter(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_is_one_line() {
        let words = ["sh", "-c", "sleep 60"].map(str::to_owned);
        assert_eq!(quoted(&words), "sh -c 'sleep 60'");
    }
}
