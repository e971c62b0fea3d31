//! Who runs: `USER[:GROUP]` looked up in the image's own passwd and group files.
//!
//! The files come with the image, so they are read as hostile input: regular files only, one mebibyte at
//! most, parsed by us and never by the host's NSS (CVE-2019-14271, CVE-2026-47262). Digits are an id and never
//! a name (CVE-2026-46680, CVE-2024-40635).

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::FileType;
use tare_sys::path::Root;
use tare_sys::{Context, Error, Kind, Result};

use crate::annotations;

/// Longest passwd or group file that is read, bytes.
const LIMIT: u64 = 1 << 20;

/// Who the caller asked for.
#[derive(Clone, Debug)]
pub enum UserRequest {
    /// Ids as the spec gives them; nothing is looked up but the home folder.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Supplementary groups; `None`: those that the caller has.
        groups: Option<Vec<u32>>,
    },
    /// Words, to be looked up in the container's `/etc/passwd` and `/etc/group`.
    Words {
        /// `name|uid[:group|gid]`; empty is root.
        user: String,
        /// More groups, by name or id.
        groups: Vec<String>,
    },
}

/// Who it turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary groups inside; `None`: those that it has.
    pub groups: Option<Vec<u32>>,
    /// Home folder; `/` where passwd knows none.
    pub home: String,
}

impl UserRequest {
    /// As a spec has it, and its container's annotations.
    pub fn of(process: &Process, annotations: &Option<HashMap<String, String>>) -> UserRequest {
        let user = process.user();
        let keep = annotations::on(annotations, annotations::KEEP_GROUPS);
        let groups = (!keep).then(|| user.additional_gids().clone().unwrap_or_default());
        UserRequest::Ids { uid: user.uid(), gid: user.gid(), groups }
    }

    /// Whether the process keeps the caller's groups.
    pub fn keeps_groups(&self) -> bool {
        matches!(self, UserRequest::Ids { groups: None, .. })
    }

    /// Looks it up inside the root.
    pub fn resolve(&self, root: &Root) -> Result<User> {
        let passwd = Table::read(root, "/etc/passwd")?;
        match self {
            UserRequest::Ids { uid, gid, groups } => {
                Ok(User { uid: *uid, gid: *gid, groups: groups.clone(), home: passwd.home(*uid) })
            }
            UserRequest::Words { user, groups } => {
                let group = Table::read(root, "/etc/group")?;
                look_up(user, groups, &passwd, &group)
            }
        }
    }
}

fn look_up(user: &str, more_groups: &[String], passwd: &Table, group: &Table) -> Result<User> {
    let (user, group_word) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let by_id = parse_id(user, "user")?;
    let entry = match by_id {
        Some(id) => passwd.rows().find(|row| row.id() == Some(id)),
        None => Some(passwd.rows().find(|row| row.name() == user).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("find the user {user:?}: no such name in the image's /etc/passwd"),
            )
            .hint("use a numeric id, or a name that the image knows")
        })?),
    };
    let uid = match (by_id, &entry) {
        (Some(id), _) => id,
        (None, Some(row)) => row.id().ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("the image's /etc/passwd gives {user:?} no valid user id"))
        })?,
        (None, None) => 0,
    };
    // Its own is among them: a program of another group (setgid) is not rid of it, and of what it is refused for it
    // (CVE-2022-36109).
    let mut groups = Vec::new();
    let gid = match group_word.filter(|word| !word.is_empty()) {
        Some(word) => group_id(word, group)?,
        None => {
            // Memberships count only where no group was asked for, as under Docker.
            let name = entry.as_ref().map_or("", Row::name);
            if !name.is_empty() {
                groups.extend(
                    group
                        .rows()
                        .filter(|row| row.members().any(|member| member == name))
                        .filter_map(|row| row.id()),
                );
            }
            entry.as_ref().and_then(|row| row.field(3)).and_then(|text| text.parse().ok()).unwrap_or(0)
        }
    };
    for word in more_groups {
        groups.push(group_id(word, group)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.insert(0, gid);
    groups.retain(|id| seen.insert(*id));
    Ok(User { uid, gid, groups: Some(groups), home: passwd.home(uid) })
}

fn group_id(word: &str, group: &Table) -> Result<u32> {
    if let Some(id) = parse_id(word, "group")? {
        return Ok(id);
    }
    group.rows().find(|row| row.name() == word).and_then(|row| row.id()).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("find the group {word:?}: no such name in the image's /etc/group"))
            .hint("use a numeric id, or a name that the image knows")
    })
}

/// `Some` for digits; an error for a number that is no id. -1 is "no change" to the kernel, so never an id.
fn parse_id(word: &str, what: &str) -> Result<Option<u32>> {
    let looks_numeric = word.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+')
        && !word[1..].contains(|c: char| !c.is_ascii_digit());
    if !looks_numeric {
        return Ok(None);
    }
    match word.parse::<u32>() {
        Ok(id) if word.starts_with(|c: char| c.is_ascii_digit()) && id < u32::MAX => Ok(Some(id)),
        _ => Err(Error::new(Kind::Usage, format!("{word:?} is not a {what} id"))
            .hint("ids are whole numbers from 0 to 4294967294")),
    }
}

/// A passwd or group file.
struct Table(String);

struct Row<'a>(&'a str);

impl Table {
    fn read(root: &Root, path: &str) -> Result<Table> {
        let path = Path::new(path);
        let Some(place) = root.find(path)? else { return Ok(Table(String::new())) };
        // Looked at first: to open a pipe or a device is to act on it.
        let stat = rustix::fs::fstat(&place).doing(|| format!("fstat({})", path.display()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let why = format!("{} in the image is not a regular file", path.display());
            return Err(Error::new(Kind::Corrupt, why));
        }
        let bytes = root.read(path, LIMIT)?.unwrap_or_default();
        Ok(Table(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.0.lines().filter(|line| !line.starts_with('#')).map(Row)
    }

    fn home(&self, uid: u32) -> String {
        self.rows()
            .find(|row| row.id() == Some(uid))
            .and_then(|row| row.field(5).map(str::to_owned))
            .filter(|home| home.starts_with('/'))
            .unwrap_or_else(|| "/".to_owned())
    }
}

impl<'a> Row<'a> {
    fn field(&self, n: usize) -> Option<&'a str> {
        self.0.split(':').nth(n)
    }

    fn name(&self) -> &'a str {
        self.field(0).unwrap_or_default()
    }

    fn id(&self) -> Option<u32> {
        self.field(2)?.parse().ok()
    }

    fn members(&self) -> impl Iterator<Item = &'a str> {
        self.field(3).unwrap_or_default().split(',').map(str::trim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n1000:x:0:0:trap:/:/bin/sh\nbad:x:4294967296:1::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nlogs:x:4:web,other\nvideo:x:44:web\n";

    fn find(user: &str, groups: &[&str]) -> Result<User> {
        let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        look_up(user, &groups, &Table(PASSWD.into()), &Table(GROUP.into()))
    }

    #[test]
    fn names_ids_and_groups() {
        let web = find("web", &[]).unwrap();
        assert_eq!(
            (web.uid, web.gid, web.groups, web.home.as_str()),
            (33, 33, Some(vec![33, 4, 44]), "/srv")
        );
        let root = find("", &[]).unwrap();
        assert_eq!((root.uid, root.gid, root.home.as_str()), (0, 0, "/root"));
        let mixed = find("web:video", &["4", "www"]).unwrap();
        assert_eq!((mixed.gid, mixed.groups), (44, Some(vec![44, 4, 33])));
        let unknown = find("1234", &[]).unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_str()), (1234, 0, "/"));
    }

    #[test]
    fn cve_2024_40635_and_2026_46680_digits_are_never_names() {
        assert_eq!(find("1000", &[]).unwrap().uid, 1000);
        for word in ["4294967295", "4294967296", "99999999999", "-1", "+1"] {
            assert_eq!(find(word, &[]).unwrap_err().kind(), Kind::Usage, "{word}");
        }
        for word in ["0x0", " 0", "nobody"] {
            assert_eq!(find(word, &[]).unwrap_err().kind(), Kind::NotFound, "{word}");
        }
        assert_eq!(find("bad", &[]).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(find("0:nogroup", &[]).unwrap_err().kind(), Kind::NotFound);
    }
}
