//! Who is on the container's networks: read from the state files of the networks, when somebody asks.
//!
//! A network has a folder with one file for each container on it. Whether anybody came or went is seen by the
//! folder's modification time, one stat(2) a question; only files that are new since are read. Nothing is read
//! before the first question, and nothing watches while there is none.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tare_sys::{Context, Error, Kind, Result};

use crate::folders::Folders;

/// More on one network are not looked at: a bound on memory, and far above what a bridge can carry.
const MOST: usize = 4096;
/// A larger file was not written by us: one with all ports, of three protocols and two families, is half as large.
const LARGEST: u64 = 64 * 1024 * 1024;
/// Digits of an id that are a name as well.
const SHORT: usize = 12;
/// A clock that ticks this slowly may give a second change the same time as the first (jiffies; ext4 and
/// tmpfs before Linux 6.13).
const TICK: Duration = Duration::from_millis(20);

/// A network that the container is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Attachment {
    /// Id of the network.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Its name.
    pub name: String,
    /// Nothing outside of it can be reached.
    pub internal: bool,
}

/// The networks of one container, and those that are on them.
#[derive(Debug)]
pub struct Directory {
    folders: Folders,
    /// Where it is written down if the container is on other networks than those that it was started on.
    changes: PathBuf,
    changes_seen: Option<Seen>,
    attached: Vec<Network>,
    /// Names that this container alone has for others, and their short ids.
    links: Vec<(String, String)>,
    /// Round robin: who was first the last time is last the next.
    turn: usize,
}

/// When something was last changed, as far as that can be told.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    inode: u64,
    changed: SystemTime,
    /// It was so young when we looked that another change may have got the same time.
    young: bool,
}

impl Seen {
    fn of(path: &Path) -> Option<Seen> {
        let stat = fs::metadata(path).ok()?;
        let changed = stat.modified().ok()?;
        let young = SystemTime::now().duration_since(changed).unwrap_or_default() < TICK;
        Some(Seen { inode: stat.ino(), changed, young })
    }

    fn same(&self, now: &Seen) -> bool {
        !self.young && self.inode == now.inode && self.changed == now.changed
    }
}

#[derive(Debug)]
struct Network {
    attachment: Attachment,
    seen: Option<Seen>,
    members: HashMap<String, Member>,
}

#[derive(Debug)]
struct Member {
    inode: u64,
    changed: SystemTime,
    endpoint: Endpoint,
}

/// What is needed of an [`endpoint`](crate::Endpoint) here, and no more: a monitor is to be small.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Endpoint {
    name: String,
    aliases: Vec<String>,
    #[serde(rename = "IPv4")]
    ipv4: Option<Ipv4Addr>,
    #[serde(rename = "IPv6")]
    ipv6: Option<Ipv6Addr>,
}

impl Directory {
    /// For a container that is on these networks, until `changes` says otherwise; see
    /// [`Directory::write_changes`].
    pub fn new(folders: Folders, attached: Vec<Attachment>, changes: PathBuf) -> Directory {
        let mut directory = Directory {
            folders,
            changes,
            changes_seen: None,
            attached: Vec::new(),
            links: Vec::new(),
            turn: 0,
        };
        directory.attach(attached);
        directory
    }

    /// With these ids of containers and what this one alone calls them.
    #[must_use]
    pub fn linked<'a>(mut self, links: impl Iterator<Item = (&'a str, &'a str)>) -> Directory {
        let short = |(id, alias): (&str, &str)| (alias.to_lowercase(), id.chars().take(SHORT).collect());
        self.links = links.map(short).collect();
        self
    }

    /// Tells the name server of a running container that it is on these networks from now on.
    pub fn write_changes(changes: &Path, attached: &[Attachment]) -> Result<()> {
        let what = || format!("write {}", changes.display());
        let bytes = serde_json::to_vec(attached)
            .map_err(|err| Error::new(Kind::Corrupt, format!("{}: {err}", what())))?;
        let temporary = changes.with_extension(format!("{}.new", std::process::id()));
        fs::write(&temporary, bytes).doing(what)?;
        fs::rename(&temporary, changes).doing(what)
    }

    /// Whether it is on a network that leads out: from an internal one nothing is to get out, questions
    /// included (CVE-2024-29018).
    pub fn leads_out(&mut self) -> bool {
        self.refresh();
        self.attached.iter().any(|network| !network.attachment.internal)
    }

    /// The addresses of a name (lower case) that is known on a network of the container: every container that
    /// has the name, in an order that changes from one question to the next. `None`: nobody has it.
    pub fn addresses(&mut self, name: &str) -> Option<Vec<IpAddr>> {
        self.refresh();
        // Of a link that leads nowhere the name may still be another's.
        let linked = self.links.iter().filter(|(alias, _)| alias == name).map(|(_, id)| id.clone());
        let linked: Vec<String> = linked.collect();
        linked.iter().find_map(|id| self.addresses_of(id)).or_else(|| self.addresses_of(name))
    }

    fn addresses_of(&mut self, name: &str) -> Option<Vec<IpAddr>> {
        let mut found: Option<Vec<IpAddr>> = None;
        for network in &mut self.attached {
            network.refresh(&self.folders);
            // `web` and `web.backend`, as the network is called.
            let short = name
                .len()
                .checked_sub(network.attachment.name.len())
                .and_then(|at| name.split_at_checked(at))
                .filter(|(_, last)| last.eq_ignore_ascii_case(&network.attachment.name))
                .and_then(|(first, _)| first.strip_suffix('.'));
            for (file, member) in &network.members {
                let endpoint = &member.endpoint;
                if endpoint.is_called(file, name)
                    || short.is_some_and(|short| endpoint.is_called(file, short))
                {
                    let v4 = endpoint.ipv4.map(IpAddr::V4);
                    found.get_or_insert_default().extend(v4.into_iter().chain(endpoint.ipv6.map(IpAddr::V6)));
                }
            }
        }
        let mut found = found?;
        found.sort_unstable();
        found.dedup();
        if !found.is_empty() {
            let turn = self.turn % found.len();
            found.rotate_left(turn);
        }
        self.turn = self.turn.wrapping_add(1);
        Some(found)
    }

    /// The name of whoever has this address on a network of the container.
    pub fn name_of(&mut self, address: IpAddr) -> Option<String> {
        self.refresh();
        self.attached.iter_mut().find_map(|network| {
            network.refresh(&self.folders);
            let has = |endpoint: &Endpoint| match address {
                IpAddr::V4(v4) => endpoint.ipv4 == Some(v4),
                IpAddr::V6(v6) => endpoint.ipv6 == Some(v6),
            };
            let member = network.members.values().find(|member| has(&member.endpoint))?;
            Some(format!("{}.{}", member.endpoint.name, network.attachment.name))
        })
    }

    /// Looks which networks the container is on: connect and disconnect change that.
    fn refresh(&mut self) {
        let Some(now) = Seen::of(&self.changes) else { return };
        if self.changes_seen.as_ref().is_some_and(|seen| seen.same(&now)) {
            return;
        }
        if let Some(list) = read(&self.changes) {
            self.attach(list);
            self.changes_seen = Some(now);
        }
    }

    fn attach(&mut self, list: Vec<Attachment>) {
        let mut before = std::mem::take(&mut self.attached);
        for attachment in list {
            let same = |network: &Network| network.attachment.network_id == attachment.network_id;
            let network = match before.iter().position(same) {
                Some(index) => Network { attachment, ..before.swap_remove(index) },
                None => Network { attachment, seen: None, members: HashMap::new() },
            };
            self.attached.push(network);
        }
    }
}

impl Network {
    /// Reads what is new.
    fn refresh(&mut self, folders: &Folders) {
        let folder = folders.endpoints(&self.attachment.network_id);
        let Some(now) = Seen::of(&folder) else {
            self.members.clear();
            self.seen = None;
            return;
        };
        if self.seen.as_ref().is_some_and(|seen| seen.same(&now)) {
            return;
        }
        let mut before = std::mem::take(&mut self.members);
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten().take(MOST) {
            let Ok(file) = entry.file_name().into_string() else { continue };
            // Others are about to get their final name.
            if !file.ends_with(".json") {
                continue;
            }
            let Ok(stat) = entry.metadata() else { continue };
            let Ok(changed) = stat.modified() else { continue };
            let inode = entry.ino();
            let member = match before.remove(&file) {
                Some(member) if member.inode == inode && member.changed == changed => member,
                _ => match read(&entry.path()) {
                    Some(endpoint) => Member { inode, changed, endpoint },
                    None => continue,
                },
            };
            self.members.insert(file, member);
        }
        self.seen = Some(now);
    }
}

impl Endpoint {
    /// Whether it goes by this name; `file` is called after the id of the container.
    fn is_called(&self, file: &str, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
            || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
            || name.len() == SHORT && file.starts_with(name)
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    if fs::metadata(path).ok()?.len() > LARGEST {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network's folders, and a directory for a container that is on `front` and, to begin with, not on
    /// `back`.
    fn networks() -> (tempfile::TempDir, Folders, Directory) {
        let place = tempfile::tempdir().unwrap();
        let folders = Folders::new(place.path(), place.path());
        for network in ["f1", "b2", "o3"] {
            fs::create_dir_all(folders.endpoints(network)).unwrap();
        }
        let directory =
            Directory::new(folders.clone(), vec![attachment("f1", "front")], place.path().join("changes"));
        (place, folders, directory)
    }

    fn attachment(id: &str, name: &str) -> Attachment {
        Attachment { network_id: id.into(), name: name.into(), internal: false }
    }

    fn add(folders: &Folders, network: &str, id: &str, name: &str, aliases: &[&str], ipv4: &str) {
        let endpoint = crate::Endpoint {
            name: name.into(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            ipv4: Some(ipv4.parse().unwrap()),
            ..crate::Endpoint::default()
        };
        let file = folders.endpoints(network).join(format!("{id}.json"));
        let temporary = file.with_extension("new");
        fs::write(&temporary, serde_json::to_vec(&endpoint).unwrap()).unwrap();
        fs::rename(temporary, file).unwrap();
    }

    fn found(directory: &mut Directory, name: &str) -> Vec<String> {
        directory.addresses(name).unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_container_goes_by_its_name_its_aliases_and_its_short_id() {
        let (_place, folders, mut directory) = networks();
        add(&folders, "f1", "0123456789abcdef", "Web", &["www"], "10.0.0.2");
        for name in ["web", "www", "0123456789ab", "web.front", "www.front"] {
            assert_eq!(found(&mut directory, name), ["10.0.0.2"], "{name}");
        }
        for name in ["we", "0123456789", "0123456789abc", "front", ".front", "web.back", "xweb.front", ""] {
            assert_eq!(directory.addresses(name), None, "{name}");
        }
        assert_eq!(directory.name_of("10.0.0.2".parse().unwrap()).as_deref(), Some("Web.front"));
        assert_eq!(directory.name_of("10.0.0.3".parse().unwrap()), None);
    }

    #[test]
    fn a_link_goes_before_a_name_and_one_that_leads_nowhere_does_not_hide_it() {
        let (_place, folders, mut directory) = networks();
        add(&folders, "f1", "0123456789abcdef", "one", &[], "10.0.0.2");
        add(&folders, "f1", "fedcba9876543210", "two", &[], "10.0.0.3");
        directory = directory.linked([("0123456789abcdef", "Two")].into_iter());
        assert_eq!(found(&mut directory, "two"), ["10.0.0.2"]);
        fs::remove_file(folders.endpoints("f1").join("0123456789abcdef.json")).unwrap();
        assert_eq!(found(&mut directory, "two"), ["10.0.0.3"]);
    }

    #[test]
    fn those_who_share_a_name_take_turns() {
        let (_place, folders, mut directory) = networks();
        add(&folders, "f1", "a", "one", &["www"], "10.0.0.2");
        add(&folders, "f1", "b", "two", &["www"], "10.0.0.3");
        let (first, second) = (found(&mut directory, "www"), found(&mut directory, "www"));
        assert_eq!((first.len(), second.len()), (2, 2));
        assert_ne!(first, second);
        assert_eq!(first, found(&mut directory, "www"));
    }

    #[test]
    fn who_comes_is_known_at_once_and_who_goes_is_forgotten() {
        let (_place, folders, mut directory) = networks();
        for round in 0..50 {
            let (id, address) = (format!("id{round}"), format!("10.0.0.{round}"));
            assert_eq!(directory.addresses("web"), None);
            add(&folders, "f1", &id, "web", &[], &address);
            assert_eq!(found(&mut directory, "web"), [address]);
            // The same file again, with another address.
            add(&folders, "f1", &id, "web", &[], "10.1.1.1");
            assert_eq!(found(&mut directory, "web"), ["10.1.1.1"]);
            fs::remove_file(folders.endpoints("f1").join(format!("{id}.json"))).unwrap();
        }
    }

    #[test]
    fn a_network_that_the_container_is_not_on_is_not_seen() {
        let (place, folders, mut directory) = networks();
        add(&folders, "b2", "x", "db", &[], "10.0.1.2");
        assert_eq!(directory.addresses("db"), None);
        let changes = place.path().join("changes");
        Directory::write_changes(&changes, &[attachment("f1", "front"), attachment("b2", "back")]).unwrap();
        assert_eq!(found(&mut directory, "db"), ["10.0.1.2"]);
        Directory::write_changes(&changes, &[attachment("f1", "front")]).unwrap();
        assert_eq!(directory.addresses("db"), None);
    }

    #[test]
    fn only_a_network_that_is_not_internal_leads_out() {
        let (place, _folders, mut directory) = networks();
        assert!(directory.leads_out());
        let inner = Attachment { internal: true, ..attachment("f1", "front") };
        Directory::write_changes(&place.path().join("changes"), &[inner]).unwrap();
        assert!(!directory.leads_out());
    }

    #[test]
    fn what_is_no_endpoint_is_passed_over() {
        let (_place, folders, mut directory) = networks();
        let folder = folders.endpoints("f1");
        fs::write(folder.join("bad.json"), b"{\"Name\": 7").unwrap();
        fs::File::create(folder.join("huge.json")).unwrap().set_len(LARGEST + 1).unwrap();
        fs::create_dir(folder.join("folder.json")).unwrap();
        add(&folders, "f1", "a", "web", &[], "10.0.0.2");
        assert_eq!(found(&mut directory, "web"), ["10.0.0.2"]);
    }
}
