//! Archives made by hand, so that they can be as wrong as a stranger makes them, and a store to put them in.

use std::path::{Path, PathBuf};

use tare_image::{Image, ImageStore, ImportOptions, Reference};
use tare_sys::Result;

/// A tar archive in the making.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

/// One entry; the rest is as in `Default`.
#[derive(Clone)]
pub struct Entry<'a> {
    pub kind: u8,
    pub name: &'a [u8],
    pub link: &'a [u8],
    pub data: &'a [u8],
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: u64,
    pub device: (u32, u32),
    pub pax: &'a [(&'a str, &'a [u8])],
    /// What the header says, where it is not the length of `data`.
    pub size: Option<u64>,
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Entry {
            kind: b'0',
            name: b"file",
            link: b"",
            data: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_600_000_000,
            device: (0, 0),
            pax: &[],
            size: None,
        }
    }
}

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    pub fn add(mut self, entry: Entry<'_>) -> Tar {
        if !entry.pax.is_empty() {
            self.raw(
                &header(&Entry { kind: b'x', name: b"pax", pax: &[], ..entry.clone() }, pax(entry.pax).len()),
                &pax(entry.pax),
            );
        }
        for (kind, text) in [(b'L', entry.name), (b'K', entry.link)] {
            if text.len() > 100 {
                let data = [text, b"\0"].concat();
                self.raw(
                    &header(
                        &Entry { kind, name: b"././@LongLink", link: b"", ..Entry::default() },
                        data.len(),
                    ),
                    &data,
                );
            }
        }
        self.raw(&header(&entry, entry.data.len()), entry.data);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Tar {
        self.add(Entry { name: name.as_bytes(), data, ..Entry::default() })
    }

    pub fn dir(self, name: &str) -> Tar {
        self.add(Entry { kind: b'5', name: name.as_bytes(), mode: 0o755, ..Entry::default() })
    }

    pub fn symlink(self, name: &str, to: &str) -> Tar {
        self.add(Entry { kind: b'2', name: name.as_bytes(), link: to.as_bytes(), ..Entry::default() })
    }

    pub fn hard_link(self, name: &str, to: &str) -> Tar {
        self.add(Entry { kind: b'1', name: name.as_bytes(), link: to.as_bytes(), ..Entry::default() })
    }

    /// Header and data as they are, filled up to a block.
    pub fn raw(&mut self, header: &[u8], data: &[u8]) {
        self.0.extend_from_slice(header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// With the mark that ends an archive.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A GNU header with a right checksum.
pub fn header(entry: &Entry<'_>, length: usize) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    let cut = |text: &[u8]| text[..text.len().min(100)].to_vec();
    let (name, link) = (cut(entry.name), cut(entry.link));
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(&name);
    old.linkname[..link.len()].copy_from_slice(&link);
    old.linkflag = [entry.kind];
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_mtime(entry.mtime);
    header.set_size(entry.size.unwrap_or(length as u64));
    header.set_device_major(entry.device.0).unwrap();
    header.set_device_minor(entry.device.1).unwrap();
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// PAX records.
pub fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        out.extend_from_slice(format!("{length} {key}=").as_bytes());
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}

/// A store in a temporary folder, beside a canary that nothing may touch.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub store: ImageStore,
    canary: String,
}

impl Place {
    pub fn new() -> Place {
        Place::at(tempfile::tempdir().unwrap())
    }

    /// In memory, where there is enough of it: for trees that are too large for a disk that others use.
    pub fn in_memory() -> Place {
        let memory = std::path::Path::new("/dev/shm");
        let room = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
        match room > 2 << 30 {
            true => Place::at(tempfile::tempdir_in(memory).unwrap()),
            false => Place::new(),
        }
    }

    fn at(folder: tempfile::TempDir) -> Place {
        let store = ImageStore::open(&folder.path().join("store")).unwrap();
        let outside = folder.path().join("canary");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("passwd"), "untouched").unwrap();
        std::fs::create_dir(outside.join("dir")).unwrap();
        let mut place = Place { folder, store, canary: String::new() };
        place.canary = place.look_at_canary();
        place
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub fn import(&self, archive: &[u8], name: &str) -> Result<Image> {
        self.store.import(archive, &Reference::parse(name).unwrap(), &ImportOptions::default())
    }

    /// Imports and gives the folder of the one layer.
    pub fn unpack(&self, archive: &[u8]) -> PathBuf {
        let image = self.import(archive, "test").unwrap();
        self.store.layer_path(&image.layers[0])
    }

    pub fn assert_canary(&self, case: &str) {
        assert_eq!(self.look_at_canary(), self.canary, "{case}: something outside the image was touched");
        let mut beside: Vec<_> = names(self.folder.path());
        beside.retain(|name| name != "store");
        assert_eq!(beside, ["canary"], "{case}: something was made outside the image");
    }

    /// Names, modes, owners, sizes, times, attributes and contents.
    fn look_at_canary(&self) -> String {
        let out = std::process::Command::new("sh")
            .arg("-c")
            .arg("find . -printf '%p %y %m %U:%G %s %n %T@ %C@\\n' | sort; cat passwd; getfattr -R -d -m - . 2>/dev/null")
            .current_dir(self.folder.path().join("canary"))
            .output()
            .unwrap();
        assert!(out.status.success() || !out.stdout.is_empty());
        String::from_utf8(out.stdout).unwrap()
    }

    /// What lies in the store that no image accounts for.
    pub fn left_over(&self) -> Vec<String> {
        let images = self.store.list().unwrap();
        let layers: Vec<_> = images.iter().flat_map(|i| i.layers.clone()).collect();
        let blobs: Vec<_> = images.iter().flat_map(|i| &i.blobs).map(|b| b.digest.hex().to_owned()).collect();
        let mut left = names(&self.root().join("layers"));
        left.retain(|name| !layers.contains(name));
        let mut more = names(&self.root().join("blobs/sha256"));
        more.retain(|name| !blobs.contains(name));
        left.extend(more);
        for folder in [".", "ids", "names"] {
            left.extend(names(&self.root().join(folder)).into_iter().filter(|name| name.starts_with('.')));
        }
        left
    }
}

/// Names in a folder, sorted; none where there is none. The layer below all images is of no image, so it is
/// not counted.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "mount-points");
    names.sort();
    names
}
