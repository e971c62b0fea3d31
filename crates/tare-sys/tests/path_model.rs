//! Paths in a root, resolved by the kernel, compared with a model of a file system: in whatever tree of folders, files and
//! links, the same thing is found, nothing outside is, and what is made is made inside.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tare_sys::path::Root;

/// A thing in the model: its parent, and what it is.
#[derive(Clone, Debug)]
struct Node {
    parent: usize,
    kind: Kind,
    /// Where it is on the disk, without links.
    place: PathBuf,
}

#[derive(Clone, Debug)]
enum Kind {
    Folder(BTreeMap<String, usize>),
    File,
    Link(String),
}

/// How Linux limits the links in one path (path_resolution(7)).
const LINKS: u32 = 40;

struct Model {
    nodes: Vec<Node>,
}

impl Model {
    fn new(root: &Path) -> Model {
        let kind = Kind::Folder(BTreeMap::new());
        Model { nodes: vec![Node { parent: 0, kind, place: root.to_owned() }] }
    }

    /// Makes a thing in a folder, here and on the disk; not where the name is taken, or the folder is none.
    fn add(&mut self, folder: usize, name: &str, kind: Kind) {
        let place = self.nodes[folder].place.join(name);
        let fresh = self.nodes.len();
        let Kind::Folder(entries) = &mut self.nodes[folder].kind else { return };
        if entries.contains_key(name) {
            return;
        }
        entries.insert(name.to_owned(), fresh);
        match &kind {
            Kind::Folder(_) => fs::create_dir(&place).unwrap(),
            Kind::File => drop(File::create(&place).unwrap()),
            Kind::Link(target) => symlink(target, &place).unwrap(),
        }
        self.nodes.push(Node { parent: folder, kind, place });
    }

    /// What a path leads to, as if the tree's root were `/`.
    fn resolve(&self, path: &str) -> Result<usize, Errno> {
        self.walk(0, path, &mut 0)
    }

    fn walk(&self, from: usize, path: &str, links: &mut u32) -> Result<usize, Errno> {
        let mut here = if path.starts_with('/') { 0 } else { from };
        for part in path.split('/') {
            let Kind::Folder(entries) = &self.nodes[here].kind else {
                // A slash after a file.
                return Err(Errno::NOTDIR);
            };
            here = match part {
                "" | "." => here,
                ".." => self.nodes[here].parent,
                name => *entries.get(name).ok_or(Errno::NOENT)?,
            };
            // Each part of a path may be a link, the last one too.
            if let Kind::Link(target) = &self.nodes[here].kind {
                *links += 1;
                if *links > LINKS {
                    return Err(Errno::LOOP);
                }
                here = self.walk(self.nodes[here].parent, target, links)?;
            }
        }
        Ok(here)
    }
}

/// A tree in a folder, beside something that is not in it.
struct Place {
    _folder: tempfile::TempDir,
    outside: PathBuf,
    root: Root,
    model: Model,
}

#[derive(Clone, Debug)]
enum Step {
    Folder(usize, String),
    File(usize, String),
    Link(usize, String, String),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

/// `outside` is what lies beside the root.
fn path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", "..", "..", ".", "outside", "canary"]);
    (any::<bool>(), prop::collection::vec(part, 1..7), prop::sample::select(vec!["", "", "/"])).prop_map(
        |(absolute, parts, end)| format!("{}{}{end}", if absolute { "/" } else { "" }, parts.join("/")),
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0usize..12, name()).prop_map(|(at, name)| Step::Folder(at, name)),
        (0usize..12, name()).prop_map(|(at, name)| Step::File(at, name)),
        (0usize..12, name(), path()).prop_map(|(at, name, target)| Step::Link(at, name, target)),
        (0usize..12, name(), path()).prop_map(|(at, name, target)| Step::Link(at, name, target)),
    ];
    prop::collection::vec(step, 0..24)
}

fn build(steps: &[Step]) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("root"), folder.path().join("outside"));
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), "untouched").unwrap();
    let mut model = Model::new(&inside);
    for step in steps {
        let at = |n: &usize| n % model.nodes.len();
        match step {
            Step::Folder(n, name) => model.add(at(n), name, Kind::Folder(BTreeMap::new())),
            Step::File(n, name) => model.add(at(n), name, Kind::File),
            Step::Link(n, name, target) => model.add(at(n), name, Kind::Link(target.clone())),
        }
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = Root::new(rustix::fs::open(&inside, flags, Mode::empty()).unwrap());
    Place { _folder: folder, outside, root, model }
}

impl Place {
    fn is_node(&self, fd: &OwnedFd, node: usize) -> bool {
        let found = rustix::fs::fstat(fd).unwrap();
        let meant = fs::symlink_metadata(&self.model.nodes[node].place).unwrap();
        (found.st_dev, found.st_ino) == (meant.dev(), meant.ino())
    }

    /// Nothing outside was made, changed or removed.
    fn is_contained(&self) {
        let names = |folder: &Path| fs::read_dir(folder).unwrap().count();
        assert_eq!(names(&self.outside), 1);
        assert_eq!(names(self.outside.parent().unwrap()), 2);
        assert_eq!(fs::read_to_string(self.outside.join("canary")).unwrap(), "untouched");
    }

    fn inside(&self, fd: &OwnedFd) -> bool {
        use std::os::fd::AsRawFd;
        let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        path.starts_with(&self.model.nodes[0].place)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_path_leads_where_the_model_says(steps in steps(), paths in prop::collection::vec(path(), 8)) {
        let place = build(&steps);
        for path in paths {
            let path = path.as_str();
            let found = place.root.open(Path::new(path), OFlags::PATH, Mode::empty());
            match (found, place.model.resolve(path)) {
                (Ok(fd), Ok(node)) => prop_assert!(place.is_node(&fd, node), "{path}: something else"),
                (Err(err), Err(errno)) => prop_assert_eq!(err.errno(), Some(errno), "{}: {}", path, err),
                (Ok(fd), Err(errno)) => prop_assert!(false, "{path}: {fd:?} is found, and should not: {errno}"),
                (Err(err), Ok(node)) => prop_assert!(false, "{path}: {:?} is not found: {err}", place.model.nodes[node]),
            }
            // Without links on the way it is the same, or refused.
            if let Ok(Some(fd)) = place.root.find_plain(Path::new(path)) {
                prop_assert!(place.is_node(&fd, place.model.resolve(path).unwrap()), "{}", path);
            }
        }
    }

    #[test]
    fn what_is_made_is_made_inside(steps in steps(), paths in prop::collection::vec(path(), 4)) {
        let place = build(&steps);
        for path in paths {
            if let Ok(fd) = place.root.make_dirs(Path::new(&path), Mode::from_raw_mode(0o755)) {
                prop_assert!(place.inside(&fd), "{}", path);
                let again = place.root.open(Path::new(&path), OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
                let same = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).unwrap();
                prop_assert_eq!(same(&fd), same(&again.unwrap()), "{}", path);
            }
            if let Ok(fd) = place.root.make_file(Path::new(&path), Mode::from_raw_mode(0o644)) {
                prop_assert!(place.inside(&fd), "{}", path);
            }
            if let Ok(fd) = place.root.make_link(Path::new(&path), c"/outside/canary") {
                prop_assert!(place.inside(&fd), "{}", path);
            }
            place.is_contained();
        }
    }
}
