//! A container's volumes: found or made when it is created, filled from its image, given up when it is removed.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tare_runtime::rootfs::Rootfs;
use tare_sys::path::Root;
use tare_sys::{Context, Error, Kind, Result};

use super::device::{self, Device};
use super::{ANONYMOUS, Folder, VolumeLock, VolumeRecord, copy, is_empty, mounted, random_name};
use crate::container::{Folders, Record, Roots, explain_full, read_json, write_json};
use crate::policy;
use crate::policy::volumes::{MountPoint, Wanted};
use crate::request::CreateRequest;

/// In a container's folder: the anonymous volumes that were made for it.
const OWN: &str = "volumes.json";

/// Gives every wanted volume its name and its place on the host. Makes nothing yet.
pub(crate) fn resolve(roots: &Roots, wanted: &mut [Wanted]) -> Result<()> {
    for Wanted { point, options, .. } in wanted.iter_mut().filter(|wanted| wanted.point.kind == "volume") {
        if point.name.is_empty() {
            point.name = random_name()?;
        }
        let folder = Folder::of(roots, &point.name);
        let record = if point.anonymous { None } else { folder.record()? };
        let options = record.as_ref().map_or(&*options, |record| &record.options);
        point.source = match device::of(options) {
            Device::Bind(path, words) => {
                point.rw &= !words.iter().any(|word| word == "ro");
                path
            }
            _ => folder.data(),
        };
    }
    Ok(())
}

/// What a container took over from others by `--volumes-from`: `CONTAINER[:ro|rw]`.
pub(crate) fn inherited(roots: &Roots, request: &CreateRequest) -> Result<Vec<MountPoint>> {
    let mut points = Vec::new();
    for text in &request.host_config.volumes_from {
        let (name, mode) = text.split_once(':').unwrap_or((text, ""));
        let read_only = match mode {
            "" | "rw" | "z" | "Z" => false,
            "ro" | "ro,z" | "ro,Z" => true,
            mode => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("--volumes-from {text}: invalid mode: {mode:?}"),
                )
                .hint("write the container's name, with :ro to make all read-only"));
            }
        };
        let what = || format!("--volumes-from {text}");
        let other = roots.folders(&roots.find(name).doing(what)?).record().doing(what)?;
        for mut point in policy::mount_points(&other.request, &other.mounts) {
            point.rw &= !read_only;
            // Whoever made it removes it.
            point.anonymous = false;
            points.push(point);
        }
    }
    Ok(points)
}

/// The volumes of a container that is being made, held until that is written down.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    fills: Vec<Fill>,
    /// Held, not read.
    locks: Vec<VolumeLock>,
}

/// A volume that may want the image's content.
#[derive(Debug)]
struct Fill {
    folder: Folder,
    point: MountPoint,
}

impl Claims {
    /// Makes what is missing, and notes the container as a user of all of it. On failure the caller removes the
    /// container's folder by [`removal`](crate::removal), which takes the anonymous ones with it.
    pub fn make(roots: &Roots, folders: &Folders, wanted: &[Wanted]) -> Result<Claims> {
        let mut claims = Claims::default();
        let own: Vec<&str> =
            wanted.iter().filter(|w| w.point.anonymous).map(|w| w.point.name.as_str()).collect();
        if !own.is_empty() {
            // Before they are made: whoever finds this folder without a container knows what to remove.
            write_json(&folders.state, OWN, &own).map_err(explain_full)?;
        }
        let mut wanted: Vec<&Wanted> = wanted.iter().filter(|w| w.point.kind == "volume").collect();
        // Locked in one order by everybody, and each once.
        wanted.sort_by(|a, b| a.point.name.cmp(&b.point.name));
        let (mut last, mut alone) = ("", false);
        for wanted in wanted {
            let folder = Folder::of(roots, &wanted.point.name);
            if last != wanted.point.name {
                let lock;
                (lock, alone) = claim(roots, &folder, wanted)?;
                claims.locks.push(lock);
                folder.add_user(&folders.id)?;
                last = &wanted.point.name;
            }
            let source = &wanted.point.source;
            if wanted.copy && alone && source.is_dir() && is_empty(source).unwrap_or(false) {
                claims.fills.push(Fill { folder, point: wanted.point.clone() });
            }
        }
        Ok(claims)
    }

    /// Whether there are empty ones that want what the image has.
    pub fn want_content(&self) -> bool {
        !self.fills.is_empty()
    }

    /// Fills the empty ones with what the image has at their places.
    pub fn fill(&self, roots: &Roots, id: &str, rootfs: &Rootfs) -> Result<()> {
        let view = Root::new(rootfs.view().doing(|| "look into the image")?.into());
        for fill in &self.fills {
            let point = &fill.point;
            let what =
                || format!("copy {} of the image to the volume {}", point.destination.display(), point.name);
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let from = match view.open(&point.destination, flags, Mode::empty()) {
                Err(err) if matches!(err.errno(), Some(Errno::NOENT | Errno::NOTDIR)) => continue,
                from => from.doing(what)?,
            };
            // The locks are ours already.
            mounted::mount_one(&fill.folder)?;
            let filled = fill.from(roots, id, &from).doing(what).map_err(explain_full);
            mounted::unmount_one(roots, id, &fill.folder);
            filled?;
        }
        Ok(())
    }
}

/// Locks a volume, making it where there is none. Where it may have to be filled it is locked alone.
fn claim(roots: &Roots, folder: &Folder, wanted: &Wanted) -> Result<(VolumeLock, bool)> {
    for _ in 0..100 {
        let alone = wanted.copy && is_empty(&wanted.point.source).unwrap_or(false);
        if let Some(lock) = folder.lock(alone)? {
            return Ok((lock, alone));
        }
        let mut labels = wanted.labels.clone();
        if wanted.point.anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        let record = VolumeRecord { labels, options: wanted.options.clone(), ..VolumeRecord::default() };
        folder.make(roots, record, false)?;
    }
    Err(Error::new(Kind::Conflict, format!("volume {}: it is removed as often as it is made", folder.name)))
}

impl Fill {
    fn from(&self, roots: &Roots, id: &str, from: &OwnedFd) -> Result<()> {
        let data = &self.point.source;
        if !is_empty(data)? {
            return Ok(());
        }
        // A volume that nobody else has gets it in one step, so that a kill leaves it empty or whole. What another
        // container may look at already keeps its folder.
        let own = *data == self.folder.data() && !mounted::is_mounted(data)?;
        if !own || self.folder.users(roots).iter().any(|user| user != id) {
            return copy(from, data);
        }
        let filling = self.folder.path.join("filling");
        let _ = fs::remove_dir_all(&filling);
        fs::create_dir(&filling).doing(|| format!("mkdir {}", filling.display()))?;
        copy(from, &filling)?;
        fs::rename(&filling, data).doing(|| format!("rename {}", filling.display()))
    }
}

/// Gives up the volumes of a container that is being removed.
pub(crate) fn leave(roots: &Roots, record: &Record) {
    for point in record.mounts.iter().filter(|point| point.kind == "volume") {
        Folder::of(roots, &point.name).remove_user(&record.id);
    }
}

/// Removes the anonymous volumes that were made for the container whose folder this is, unless another has taken
/// them over.
pub(crate) fn discard_anonymous(roots: &Roots, id: &str, folder: &Path) {
    let own: Vec<String> = read_json(&folder.join(OWN)).ok().flatten().unwrap_or_default();
    for name in own.iter().filter(|name| policy::volumes::check_name(name).is_ok()) {
        let volume = Folder::of(roots, name);
        volume.remove_user(id);
        let _ = volume.remove(roots);
    }
}
