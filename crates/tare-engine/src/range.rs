//! Id ranges: each running container with a user namespace of its own has 65,536 host ids to itself.
//!
//! ```text
//! <run>/ranges/<n>/<container id>    range n is held; the last holder to leave removes the folder
//! ```
//!
//! `mkdir` is the claim, so two claimants cannot both have it. The pool lies where nobody else hands out
//! ids: above what `useradd` gives to users (up to 600,100,000) and what systemd-nspawn takes (524,288 to
//! 1,879,048,191), below 2^31 (systemd: docs/UIDS-GIDS.md).
//!
//! The containers of an ordinary user all have the ids of the user's [machine](crate::machine): there are no others to
//! give. Nothing is claimed then, and the base is 0.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tare_sys::{Context, Error, Kind, Result, rootless};

/// Ids of one range.
pub const SIZE: u32 = 65_536;
const FIRST: u32 = 0x7000_0000;
const COUNT: u32 = 0x7FFE - 0x7000;

/// The first id inside, the first outside, and how many.
pub type IdMap = Vec<(u32, u32, u32)>;

/// A range, held until [`release`](Range::release).
#[derive(Clone, Debug)]
pub struct Range {
    folder: PathBuf,
    /// Host id of the container's root.
    pub base: u32,
}

impl Range {
    /// Claims a free range. `random` says where the search begins, so that claimants rarely meet.
    pub fn claim(run: &Path, id: &str, random: u32) -> Result<Range> {
        if rootless::is_on() {
            return Ok(Range::based(run, 0));
        }
        for step in 0..COUNT {
            let n = (random % COUNT + step) % COUNT;
            let range = Range::numbered(run, n);
            match fs::create_dir(&range.folder) {
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::AlreadyExists => continue,
                Err(err) if err.kind() == ErrorKind::NotFound => {
                    fs::create_dir_all(&range.folder)
                        .doing(|| format!("mkdir {}", range.folder.display()))?;
                }
                Err(err) => return Err(err).doing(|| format!("mkdir {}", range.folder.display())),
            }
            match range.hold(id) {
                // The last holder of before removed the folder between our two steps.
                Err(err) if err.kind() == Kind::NotFound => continue,
                result => return result.map(|()| range),
            }
        }
        Err(Error::new(
            Kind::Exhausted,
            format!("claim an id range: all {COUNT} are held by running containers"),
        )
        .hint("stop some containers, or run this one with --userns=host"))
    }

    /// Joins the range of another container that is running.
    pub fn join(run: &Path, base: u32, id: &str) -> Result<Range> {
        let range = Range::based(run, base);
        range.hold(id).doing(|| "share the other container's id range")?;
        Ok(range)
    }

    /// The range with this base, without claiming it.
    pub fn based(run: &Path, base: u32) -> Range {
        if base == 0 {
            return Range { folder: PathBuf::new(), base };
        }
        Range::numbered(run, base.saturating_sub(FIRST) / SIZE)
    }

    /// The range with this number, without claiming it.
    pub fn numbered(run: &Path, n: u32) -> Range {
        Range {
            folder: run.join("ranges").join(n.to_string()),
            base: FIRST.saturating_add(n.saturating_mul(SIZE)),
        }
    }

    /// The id maps of a container with it: pairs of the first id inside, the first outside, and how many.
    pub fn maps(&self) -> Result<[IdMap; 2]> {
        if self.base != 0 {
            return Ok([vec![(0, self.base, SIZE)], vec![(0, self.base, SIZE)]]);
        }
        let same = |file: &str| -> Result<IdMap> {
            Ok(crate::machine::ids(file)?.into_iter().map(|(first, count)| (first, first, count)).collect())
        };
        Ok([same("/proc/self/uid_map")?, same("/proc/self/gid_map")?])
    }

    /// Leaves it to another holder.
    pub fn pass_on(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.folder.join(from), self.folder.join(to));
        fs::rename(&from, &to).doing(|| format!("rename {} to {}", from.display(), to.display()))
    }

    fn hold(&self, id: &str) -> Result<()> {
        if self.base == 0 {
            return Ok(());
        }
        let path = self.folder.join(id);
        fs::File::create(&path).map(drop).doing(|| format!("create {}", path.display()))
    }

    /// Lets go of it; done twice, or with nothing held, it does nothing.
    pub fn release(&self, id: &str) {
        if self.base == 0 {
            return;
        }
        let _ = fs::remove_file(self.folder.join(id));
        // Not empty: another container shares it.
        let _ = fs::remove_dir(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_shared_and_given_back() {
        let run = tempfile::tempdir().unwrap();
        let a = Range::claim(run.path(), "a", 7).unwrap();
        let b = Range::claim(run.path(), "b", 7).unwrap();
        assert_eq!(b.base - a.base, SIZE);
        assert!(a.base >= 1_879_048_192 && u64::from(b.base) + 65_536 < 1 << 31);
        let shared = Range::join(run.path(), a.base, "c").unwrap();
        a.release("a");
        assert!(Range::claim(run.path(), "d", 7).unwrap().base != a.base, "still held by c");
        shared.release("c");
        assert_eq!(Range::claim(run.path(), "e", 7).unwrap().base, a.base);
        assert!(Range::join(run.path(), 0x7100_0000, "x").is_err(), "nobody to share with");
    }

    #[test]
    fn the_last_range_stays_below_the_end() {
        assert_eq!(FIRST + (COUNT - 1) * SIZE + (SIZE - 1), 0x7FFD_FFFF);
    }
}
