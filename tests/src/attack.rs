//! What hostile containers do to a runtime, and what must be as it was afterwards.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::bundle::runtime;
use crate::patience::stretched;

/// How often a test repeats what is left to chance: what `cargo xtask soak` asks for, else `few`, and fewer still on
/// a machine that is slow and says so.
pub fn repetitions(few: usize) -> usize {
    match std::env::var("TARE_SOAK_RUNS").ok().and_then(|text| text.parse().ok()) {
        Some(runs) => runs,
        None => {
            let slowness = stretched(Duration::from_secs(1)).as_secs().try_into().unwrap_or(1);
            (few / slowness).max(5.min(few))
        }
    }
}

/// A folder of the host's that no container has any business with. It has what attackers aim at, under the names
/// that a runtime makes or looks for, and a secret.
#[derive(Debug)]
pub struct Canary {
    folder: PathBuf,
    before: Vec<Fact>,
}

/// A file's path, what it is and whose, and what is in it. The time of change tells of what was undone again.
type Fact = (PathBuf, [u64; 7], i64, Vec<u8>);

/// What is in the file `secret`.
pub const SECRET: &str = "the host's secret";

impl Canary {
    /// Makes it.
    #[track_caller]
    pub fn new(folder: PathBuf) -> Canary {
        for name in ["", "pts", "shm", "mqueue", "empty"] {
            fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        for name in ["null", "ptmx", "tty", "zero", "file"] {
            fs::write(folder.join(name), "the host's").expect("a file");
        }
        fs::write(folder.join("secret"), SECRET).expect("a file");
        let passwd = "root:x:0:0:root:/canary:/bin/sh\nevil:x:0:0::/canary:/bin/sh\n";
        fs::write(folder.join("passwd"), passwd).expect("a file");
        let before = facts(&folder);
        Canary { folder, before }
    }

    /// Where it is on the host.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// One of its files, as text.
    #[track_caller]
    pub fn at(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("a path of our own is text").to_owned()
    }

    /// Nothing was made, changed, removed or mounted there.
    #[track_caller]
    pub fn is_untouched(&self) {
        let now = facts(&self.folder);
        let gone: Vec<_> = self.before.iter().filter(|fact| !now.contains(fact)).collect();
        let new: Vec<_> = now.iter().filter(|fact| !self.before.contains(fact)).collect();
        assert!(
            gone.is_empty() && new.is_empty(),
            "the host's files were touched: {gone:#?} became {new:#?}"
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        let inside = mounts.lines().find(|line| line.contains(&*self.folder.to_string_lossy()));
        assert_eq!(inside, None, "something is mounted on the host's files");
    }
}

fn facts(folder: &Path) -> Vec<Fact> {
    let mut all = Vec::new();
    let mut paths = vec![folder.to_owned()];
    while let Some(path) = paths.pop() {
        let meta = fs::symlink_metadata(&path).expect("a file's facts");
        let mut content = Vec::new();
        if meta.is_dir() {
            let entries = fs::read_dir(&path).expect("a folder");
            paths.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if meta.is_file() {
            content = fs::read(&path).expect("a file");
        } else if meta.is_symlink() {
            content = fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes();
        }
        let numbers = [
            meta.ino(),
            u64::from(meta.mode()),
            u64::from(meta.uid()),
            u64::from(meta.gid()),
            meta.nlink(),
            meta.rdev(),
            meta.len(),
        ];
        all.push((path, numbers, meta.ctime_nsec() ^ (meta.ctime() << 30), content));
    }
    all.sort();
    all
}

/// Puts a link in the place of whatever is at `place`.
#[track_caller]
pub fn link_instead(place: &Path, target: impl AsRef<Path>) {
    match fs::symlink_metadata(place) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(place).expect("removing a folder"),
        Ok(_) => fs::remove_file(place).expect("removing a file"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
    }
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder).expect("a folder");
    }
    symlink(target, place).expect("a link");
}

/// Does something while two names of one folder change places all the time, as another container can have it that
/// shares the folder. In the end they are as they were.
pub fn while_swapping<T>(one: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    /// Ends the swapping when the work ends, by a failed assertion too.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = 0_u32;
            let mut swapped = false;
            while !over.load(Ordering::Relaxed) || swapped {
                let exchanged = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
                swapped ^= exchanged.is_ok();
                // Sometimes a look and a use fit in between, sometimes only one of them.
                pause = (pause * 5 + 1) % 1021;
                (0..pause * 8).for_each(|_| std::hint::spin_loop());
            }
        });
        let _over = Over(&over);
        work()
    })
}

/// Does something that attacks the runtime's own binary, which has to be byte for byte what it was, and the same
/// file (CVE-2019-5736).
#[track_caller]
pub fn without_harm_to_the_binary<T>(attack: impl FnOnce() -> T) -> T {
    let file = runtime().canonicalize().expect("the binary");
    let look = || facts(&file);
    let before = look();
    let result = attack();
    assert!(look() == before, "the runtime's binary {} was changed", file.display());
    result
}
