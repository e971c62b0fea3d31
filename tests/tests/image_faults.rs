//! Images after a fault at any moment: a power cut, a kill, a full disk. What was acknowledged is whole, byte for byte;
//! everything else is there whole, or is not there and can be done again; and nothing is left in between.
//!
//! The store is on a disk of its own (ext4 on a loop device), which holds one image before each fault, with a layer that
//! the next image has too. `TARE_SOAK_RUNS` says how many faults there are (`cargo xtask soak power`, `image-kills`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tare_tests::attack::repetitions;
use tare_tests::disk::{Disk, apart};
use tare_tests::registry::Registry;
use tare_tests::{Host, Outcome, Tare, stretched};

/// What is done when the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Pull,
    Load,
    Import,
    Copy,
    Commit,
    Compact,
    Remove,
}

const VERBS: [Verb; 7] =
    [Verb::Pull, Verb::Load, Verb::Import, Verb::Copy, Verb::Commit, Verb::Compact, Verb::Remove];

/// The image that is there before.
const FIRST: &str = "example.org/first:1";
/// The image that is loaded, and removed.
const SECOND: &str = "example.org/second:1";

struct Scene {
    disk: Disk,
    registry: Registry,
    archive: PathBuf,
    plain: PathBuf,
    layout: PathBuf,
    /// The disk with the first image; with both; with the second pulled; with the first and a container.
    copies: BTreeMap<&'static str, PathBuf>,
    /// What each layer looks like, by its diff-id.
    layers: BTreeMap<String, String>,
    host: Host,
}

#[track_caller]
fn tool(line: &str, folder: &Path) -> String {
    let out = Command::new("sh").args(["-ec", line]).current_dir(folder).output().expect("sh");
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

impl Scene {
    #[track_caller]
    fn new() -> Scene {
        let host = Host::new();
        let work = host.work();
        let maker = Host::new();
        let busybox = maker.busybox();
        maker.tare(["save", "-o"]).arg(work.join("base.tar")).arg(busybox).run().ok();
        // Three layers: busybox, many small files, a few large ones that do not compress.
        tool(
            "skopeo --insecure-policy copy --quiet docker-archive:base.tar oci:layout:base
             mkdir small large
             for n in $(seq 300); do echo \"small $n\" > small/$n; done
             for n in 1 2 3; do head -c 700000 /dev/urandom > large/$n; done
             umoci insert --image layout:base --tag one small /small
             umoci insert --image layout:one --tag two large /large
             skopeo --insecure-policy copy --quiet oci:layout:base docker-archive:first.tar:example.org/first:1
             skopeo --insecure-policy copy --quiet oci:layout:two docker-archive:second.tar:example.org/second:1
             tar -cf plain.tar small large
             rm -r small large",
            &work,
        );
        let registry = Registry::open();
        registry.receive(&format!("oci:{}:two", work.join("layout").display()), "second:1");
        let disk = Disk::new(&work, 96, 8000);
        let mut scene = Scene {
            archive: work.join("second.tar"),
            plain: work.join("plain.tar"),
            layout: work.join("layout"),
            disk,
            registry,
            copies: BTreeMap::new(),
            layers: BTreeMap::new(),
            host,
        };
        scene.tare(&["load", "-q", "-i", &work.join("first.tar").display().to_string()]).run().ok();
        scene.copies.insert("first", scene.disk.copy());
        scene.tare(&["load", "-q", "-i", &scene.archive.display().to_string()]).run().ok();
        scene.copies.insert("both", scene.disk.copy());
        scene.call(Verb::Import).run().ok();
        for layer in scene.layer_folders() {
            scene.layers.insert(name_of(&layer), look(&layer));
        }
        assert_eq!(scene.layers.len(), 4);
        scene.disk.put_back(&scene.copies["first"]);
        scene.call(Verb::Pull).run().ok();
        scene.copies.insert("pulled", scene.disk.copy());
        scene.disk.put_back(&scene.copies["first"]);
        if scene.can_commit() {
            let script = "mkdir /made; for n in $(seq 200); do echo $n > /made/$n; done; rm -r /home";
            let words = ["run", "--network", "none", "--name", "box", FIRST, "sh", "-c", script];
            scene.tare(&words).run().ok();
            scene.copies.insert("container", scene.disk.copy());
        }
        scene
    }

    fn can_commit(&self) -> bool {
        self.tare(&["commit", "--help"]).run().code() == 0
    }

    fn tare(&self, words: &[&str]) -> Tare {
        self.host.tare(words).env("TARE_ROOT", self.disk.path().join("root"))
    }

    fn call(&self, verb: Verb) -> Tare {
        let path = |path: &Path| path.display().to_string();
        match verb {
            Verb::Pull => self.tare(&["pull", "-q", &self.name(verb)]),
            Verb::Load => self.tare(&["load", "-q", "-i", &path(&self.archive)]),
            Verb::Import => self.tare(&["import", &path(&self.plain), &self.name(verb)]),
            Verb::Copy => {
                self.tare(&["image", "copy", &format!("oci:{}:two", path(&self.layout)), &self.name(verb)])
            }
            Verb::Commit => self.tare(&["commit", "box", &self.name(verb)]),
            Verb::Compact => self.tare(&["image", "compact", &self.name(verb)]),
            Verb::Remove => self.tare(&["rmi", SECOND]),
        }
    }

    /// The image that comes, or goes.
    fn name(&self, verb: Verb) -> String {
        match verb {
            Verb::Pull | Verb::Compact => format!("{}/second:1", self.registry.address),
            Verb::Copy => "example.org/copied:1".to_owned(),
            Verb::Load | Verb::Remove => SECOND.to_owned(),
            Verb::Import => "example.org/imported:1".to_owned(),
            Verb::Commit => "example.org/made:1".to_owned(),
        }
    }

    /// Brings the disk to where a verb begins; whether it can begin.
    fn prepare(&self, verb: Verb) -> bool {
        let copy = match verb {
            Verb::Remove => "both",
            Verb::Commit => "container",
            Verb::Compact => "pulled",
            _ => "first",
        };
        match self.copies.get(copy) {
            Some(copy) => {
                self.disk.put_back(copy);
                true
            }
            None => false,
        }
    }

    fn images(&self) -> PathBuf {
        self.disk.path().join("root/images")
    }

    fn layer_folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.images().join("layers")).expect("layers");
        let paths = entries.map(|entry| entry.expect("a layer").path());
        paths.filter(|path| name_of(path).len() == 64).collect()
    }

    fn listed(&self) -> Vec<String> {
        let format = "{{.Repository}}:{{.Tag}}";
        self.tare(&["images", "--format", format]).run().ok().lines().map(str::to_owned).collect()
    }

    /// Everything that has its name in the store is whole, whether an image uses it or not: the next pull believes it.
    #[track_caller]
    fn is_whole(&self, case: &str) {
        for blob in fs::read_dir(self.images().join("blobs/sha256")).expect("blobs") {
            let blob = blob.expect("a blob").path();
            let sum = tool(&format!("sha256sum {}", blob.display()), Path::new("/"));
            assert_eq!(sum[..64], name_of(&blob), "{case}: a blob");
        }
        for layer in self.layer_folders() {
            if let Some(known) = self.layers.get(&name_of(&layer)) {
                let now = look(&layer);
                let other = now.lines().zip(known.lines()).find(|(now, known)| now != known);
                assert!(now == *known, "{case}: layer {}: {other:?}", name_of(&layer));
            }
        }
        let listed = self.listed();
        assert!(listed.contains(&FIRST.to_owned()), "{case}: {listed:?}");
        for id in self.tare(&["images", "--quiet", "--no-trunc"]).run().ok().lines() {
            // Reads its documents and all of its blobs.
            self.tare(&["save", "-o", &self.host.work().join("saved.tar").display().to_string(), id])
                .run()
                .ok();
        }
    }

    /// Nothing is left of what was begun and not ended.
    #[track_caller]
    fn has_nothing_half_made(&self, case: &str) {
        let mut half = Vec::new();
        for folder in ["ingest", "layers", "ids", "names", "blobs/sha256", "."] {
            for entry in fs::read_dir(self.images().join(folder)).into_iter().flatten().flatten() {
                let name = name_of(&entry.path());
                if folder == "ingest" || name.ends_with(".pending") || name.starts_with('.') {
                    half.push(format!("{folder}/{name}"));
                }
            }
        }
        assert!(half.is_empty(), "{case}: {half:?}");
    }

    /// The verb that failed is called again, and works; or its work had been done.
    #[track_caller]
    fn can_be_done_again(&self, verb: Verb, case: &str) {
        let name = self.name(verb);
        if verb == Verb::Remove {
            if self.listed().contains(&name) {
                self.call(verb).run().ok();
            }
            assert!(!self.listed().contains(&name), "{case}");
            // What a removal could not end, the next command that brings something does.
            self.call(Verb::Import).run().ok();
        } else {
            self.call(verb).run().ok();
            assert!(self.listed().contains(&name), "{case}");
        }
        self.is_whole(case);
        self.has_nothing_half_made(case);
    }

    /// How long a verb takes when nothing happens.
    fn time(&self, verb: Verb) -> Duration {
        let start = Instant::now();
        self.call(verb).run().ok();
        start.elapsed()
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned()
}

/// All of a layer, in lines. Folders without an entry of their own have the time when they were made.
fn look(layer: &Path) -> String {
    tool(
        "{ find . -type d -printf '%p|%m|%U:%G\\n' -o -printf '%p|%y|%m|%U:%G|%n|%l|%T@\\n' | sort; find . -type f -print0 | sort -z | xargs -0 -r sha256sum; }",
        layer,
    )
}

/// Numbers that differ from run to run; the first says which they were.
struct Chance(u64);

impl Chance {
    fn new() -> Chance {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
        println!("chance: {now}");
        Chance(now | 1)
    }

    fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % (limit.as_micros() as u64).max(1))
    }
}

/// The verbs that this tare has, each with the time that it takes.
fn verbs(scene: &Scene) -> Vec<(Verb, Duration)> {
    let can = VERBS.into_iter().filter(|verb| scene.prepare(*verb));
    can.map(|verb| (verb, scene.time(verb))).collect()
}

#[test]
fn of_many_power_cuts_none_takes_what_was_acknowledged() {
    if !apart("of_many_power_cuts_none_takes_what_was_acknowledged") {
        return;
    }
    let scene = Scene::new();
    let verbs = verbs(&scene);
    let mut chance = Chance::new();
    let mut counts = BTreeMap::<Verb, (u32, u32, u32)>::new();
    for round in 0..repetitions(10) {
        let (verb, time) = verbs[round % verbs.len()];
        scene.prepare(verb);
        let before = scene.listed();
        let switch = scene.disk.switch();
        // Now and then the cut comes after the end.
        let delay = chance.below(time * 5 / 4);
        let running = scene.call(verb).start();
        std::thread::sleep(delay);
        switch.cut();
        let done = running.wait_within(Duration::from_secs(60)).code() == 0;
        scene.disk.restart();
        let case = format!("{verb:?}, cut after {delay:?} of {time:?}, acknowledged: {done}");
        scene.is_whole(&case);
        let there = scene.listed().contains(&scene.name(verb));
        if done {
            assert_eq!(there, verb != Verb::Remove, "{case}");
        }
        let stay = before.iter().filter(|name| **name != scene.name(verb));
        for name in stay {
            assert!(scene.listed().contains(name), "{case}: {name}");
        }
        scene.can_be_done_again(verb, &case);
        let count = counts.entry(verb).or_default();
        *count = (count.0 + 1, count.1 + u32::from(done), count.2 + u32::from(there));
    }
    println!("verb: cuts, acknowledged before, there afterwards: {counts:?}");
}

#[test]
fn of_many_image_commands_killed_at_random_nothing_is_half_made() {
    if !apart("of_many_image_commands_killed_at_random_nothing_is_half_made") {
        return;
    }
    let scene = Scene::new();
    let verbs = verbs(&scene);
    let mut chance = Chance::new();
    let mut killed = 0;
    for round in 0..repetitions(15) {
        let (verb, time) = verbs[round % verbs.len()];
        scene.prepare(verb);
        let delay = chance.below(time);
        let running = scene.call(verb).start();
        std::thread::sleep(delay);
        running.signal(Signal::KILL);
        let out = running.wait();
        killed += u32::from(out.code() != 0);
        let case = format!("{verb:?}, killed after {delay:?} of {time:?}");
        scene.is_whole(&case);
        scene.can_be_done_again(verb, &case);
    }
    println!("killed: {killed}");
}

/// Calls a verb on a disk that is too small for it, and looks at what it says and leaves.
#[track_caller]
fn fails_truly(scene: &Scene, verb: Verb, case: &str, out: &Outcome, free: u64) {
    let said = out.stderr();
    assert!(said.contains("No space left on device") || said.contains("ENOSPC"), "{case}: {said}");
    assert!(said.contains(&scene.disk.path().display().to_string()), "{case}: it names the disk: {said}");
    assert!(!said.contains("panicked"), "{case}: {said}");
    assert!(!scene.listed().contains(&scene.name(verb)), "{case}");
    scene.has_nothing_half_made(case);
    // A folder that has grown keeps its block.
    let kept = free.saturating_sub(scene.disk.free());
    assert!(kept <= 64 << 10, "{case}: {kept} bytes stay in use");
}

#[test]
fn a_disk_that_fills_up_at_any_point_is_named_and_given_back() {
    if !apart("a_disk_that_fills_up_at_any_point_is_named_and_given_back") {
        return;
    }
    let scene = Scene::new();
    for verb in [Verb::Pull, Verb::Load, Verb::Import] {
        scene.prepare(verb);
        let before = scene.disk.free();
        scene.call(verb).run().ok();
        rustix::fs::syncfs(fs::File::open(scene.disk.path()).expect("the disk")).expect("syncfs");
        let needed = before - scene.disk.free();
        let mut failed = 0;
        let steps = repetitions(6) as u64;
        for step in 0..steps {
            scene.prepare(verb);
            scene.disk.fill(needed * step / steps);
            let free = scene.disk.free();
            let out = scene.call(verb).within(stretched(Duration::from_secs(60))).run();
            let case = format!("{verb:?}, {free} bytes free of {needed} needed");
            if out.code() == 0 {
                scene.is_whole(&case);
                continue;
            }
            failed += 1;
            fails_truly(&scene, verb, &case, &out, free);
            scene.is_whole(&case);
            // The image that is there can go, without a byte to spare.
            if step % 2 == 0 {
                scene.tare(&["rmi", FIRST]).run().ok();
                scene.prepare(verb);
            } else {
                scene.disk.unfill();
            }
            scene.can_be_done_again(verb, &case);
        }
        assert!(failed >= steps / 2, "{verb:?}: {failed} of {steps} failed");
    }
}

/// The same for the number of files.
#[test]
fn a_disk_without_a_free_inode_is_named_and_given_back() {
    if !apart("a_disk_without_a_free_inode_is_named_and_given_back") {
        return;
    }
    let scene = Scene::new();
    for verb in [Verb::Pull, Verb::Load, Verb::Import] {
        scene.prepare(verb);
        let many = scene.disk.path().join("many");
        fs::create_dir(&many).expect("a folder");
        let mut made = 0;
        let room = |left: u64| rustix::fs::statvfs(scene.disk.path()).is_ok_and(|stat| stat.f_ffree > left);
        while room(100) {
            fs::write(many.join(made.to_string()), "").expect("an empty file");
            made += 1;
        }
        let free = scene.disk.free();
        let out = scene.call(verb).run();
        fails_truly(&scene, verb, &format!("{verb:?} without inodes"), &out, free);
        fs::remove_dir_all(&many).expect("the files");
        scene.can_be_done_again(verb, "with inodes");
    }
}
