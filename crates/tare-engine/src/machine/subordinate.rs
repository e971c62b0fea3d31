//! The ids that the host's administrator has given to a user: `/etc/subuid` and `/etc/subgid` (subuid(5)).

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use tare_sys::{Error, Kind, Result};

use super::read_or_nothing;

/// Most ranges of one user that are used; an id map has room for 340 lines (user_namespaces(7)).
const MOST: usize = 100;

/// The id maps of a user's machine.
pub struct Maps {
    /// User ids.
    pub uids: Vec<LinuxIdMapping>,
    /// Group ids.
    pub gids: Vec<LinuxIdMapping>,
}

impl Maps {
    /// The user's own ids as root's, and what `/etc/subuid` and `/etc/subgid` give from 1 on.
    pub fn of_user(uid: u32, gid: u32) -> Result<Maps> {
        let name = name_of(&read_or_nothing(Path::new("/etc/passwd")), uid).unwrap_or_default();
        let map = |own: u32, file: &str| map(own, &ranges(&read_or_nothing(Path::new(file)), &name, uid));
        Ok(Maps { uids: map(uid, "/etc/subuid")?, gids: map(gid, "/etc/subgid")? })
    }

    /// The user's own ids alone.
    pub fn single(uid: u32, gid: u32) -> Result<Maps> {
        Ok(Maps { uids: map(uid, &[])?, gids: map(gid, &[])? })
    }

    /// There is nothing but the user's own ids.
    pub fn is_single(&self) -> bool {
        self.uids.len() == 1 || self.gids.len() == 1
    }
}

fn name_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges of a user, by name or by number: `(first, count)`.
fn ranges(text: &str, name: &str, uid: u32) -> Vec<(u32, u32)> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if owner.is_empty() || (owner != name && owner.parse() != Ok(uid)) {
            return None;
        }
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    };
    text.lines().filter_map(line).take(MOST).collect()
}

fn map(own: u32, ranges: &[(u32, u32)]) -> Result<Vec<LinuxIdMapping>> {
    let mut inside = 0u32;
    std::iter::once(&(own, 1))
        .chain(ranges)
        .map(|(host, size)| {
            let mapping = LinuxIdMappingBuilder::default()
                .container_id(inside)
                .host_id(*host)
                .size(*size)
                .build()
                .map_err(|err| Error::new(Kind::Corrupt, format!("an id map: {err}")));
            inside = inside.saturating_add(*size);
            mapping
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_a_name_or_a_number() {
        let text =
            "root:1:5\nann:100000:65536\n# x\n1000:300000:10\nann:bad:1\nann:4294967295:9\nannika:7:7\n";
        assert_eq!(ranges(text, "ann", 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(ranges(text, "", 7), []);
        assert_eq!(name_of("root:x:0:0:\nann:x:1000:1000:A:/:\n", 1000).as_deref(), Some("ann"));
    }

    #[test]
    fn the_user_is_root_and_the_rest_follows() {
        let all: Vec<_> = map(1000, &[(100_000, 65_536), (300_000, 10)])
            .unwrap()
            .iter()
            .map(|m| (m.container_id(), m.host_id(), m.size()))
            .collect();
        assert_eq!(all, [(0, 1000, 1), (1, 100_000, 65_536), (65_537, 300_000, 10)]);
    }
}
