//! What must hold after a fault: cut archives, dead importers, a full disk.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tare_image::{ImageStore, ImportOptions, Reference};
use tare_sys::Kind;

use crate::archive::{Entry, Place, Tar, header, names};
use crate::compressed::gzip;

fn small() -> Tar {
    Tar::new()
        .dir("etc")
        .add(Entry { name: &[b'n'; 150], data: b"long", ..Entry::default() })
        .add(Entry { name: b"f", data: &[1; 1500], pax: &[("mtime", b"1.5")], ..Entry::default() })
        .symlink("l", "f")
        .hard_link("h", "f")
}

#[test]
fn every_cut_is_found() {
    let place = Place::new();
    let whole = small().end();
    let marked = whole.len() - 512;
    for cut in (0..whole.len()).step_by(512).chain([1, 100, 511, 513, 1000, marked - 1]) {
        let result = place.import(&whole[..cut], "cut");
        // The first of the two zero blocks is mark enough.
        assert_eq!(result.is_ok(), cut >= marked, "cut at {cut}");
        if let Err(err) = result {
            assert_eq!(err.kind(), Kind::Corrupt, "cut at {cut}: {err}");
            assert!(err.hint_text().is_some(), "cut at {cut}: {err}");
        }
        assert_eq!(place.left_over(), Vec::<String>::new(), "cut at {cut}");
    }
    let packed = [gzip(&whole), zstd::encode_all(&whole[..], 3).unwrap()];
    for packed in &packed {
        for cut in 0..packed.len() {
            let err = place.import(&packed[..cut], "cut").unwrap_err();
            assert_eq!(err.kind(), Kind::Corrupt, "cut at {cut}: {err}");
        }
    }
    assert_eq!(place.left_over(), Vec::<String>::new());
}

#[test]
fn every_bad_checksum_is_found() {
    let place = Place::new();
    let whole = small().end();
    for at in (0..whole.len() - 1024).step_by(512) {
        // A bit of every block; in a block of data it changes the data and nothing else.
        let mut bad = whole.clone();
        bad[at + 3] ^= 1;
        if let Err(err) = place.import(&bad, "bad") {
            assert_eq!(err.kind(), Kind::Corrupt, "block at {at}: {err}");
        }
        place.assert_canary("bad checksum");
    }
}

#[test]
fn an_error_of_the_reader_is_passed_on() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }
    let place = Place::new();
    let whole = small().end();
    let name = Reference::parse("io").unwrap();
    let err =
        place.store.import((&whole[..1000]).chain(Fails), &name, &ImportOptions::default()).unwrap_err();
    assert_eq!(err.errno(), Some(rustix::io::Errno::IO), "{err}");
    assert_eq!(place.left_over(), Vec::<String>::new());
}

/// Runs one `#[ignore]`d test of this program in a process of its own, on this store.
pub fn child(test: &str, store: &Path, wrapper: &[&str]) -> Command {
    let exe = std::env::current_exe().unwrap();
    let words: Vec<_> = wrapper.iter().map(Into::into).chain([exe.into_os_string()]).collect();
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("TARE_TEST_STORE", store)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The store that `child` said.
pub fn store_of_child() -> ImageStore {
    ImageStore::open(Path::new(&std::env::var("TARE_TEST_STORE").unwrap())).unwrap()
}

#[test]
#[ignore = "a part of a_dead_importer_leaves_nothing"]
fn child_imports_for_ever() {
    let file = header(&Entry { name: b"endless", size: Some(1 << 40), ..Entry::default() }, 0);
    struct Slow;
    impl Read for Slow {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1));
            Ok(into.len().min(4096))
        }
    }
    let name = Reference::parse("endless").unwrap();
    store_of_child().import((&file[..]).chain(Slow), &name, &ImportOptions::default()).unwrap();
}

#[test]
fn a_dead_importer_leaves_nothing_and_a_live_one_is_left_alone() {
    let place = Place::new();
    let layers = place.root().join("layers");
    // The one pending folder that a new importer is filling.
    let wait_for_new = |old: &[String]| -> Vec<String> {
        let start = Instant::now();
        loop {
            let now = names(&layers);
            if now.len() == 1 && !old.contains(&now[0]) && layers.join(&now[0]).join("tree/endless").exists()
            {
                return now;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "the importer did not start: {now:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let spawn = || child("faults::child_imports_for_ever", &place.root(), &[]).spawn().unwrap();
    let mut dead = spawn();
    let left_by_dead = wait_for_new(&[]);
    dead.kill().unwrap();
    dead.wait().unwrap();
    assert_eq!(names(&layers), left_by_dead, "killed, it cannot clean up");
    // The next importer removes it.
    let mut live = spawn();
    wait_for_new(&left_by_dead);
    place.import(&small().end(), "next").unwrap();
    // The live one's folder, and the new layer.
    assert_eq!(names(&layers).len(), 2);
    assert!(live.try_wait().unwrap().is_none(), "the live one goes on");
    live.kill().unwrap();
    live.wait().unwrap();
    place.import(&small().end(), "again").unwrap();
    assert_eq!(place.left_over(), Vec::<String>::new());
}

#[test]
#[ignore = "a part of processes_at_once"]
fn child_imports_once() {
    let name = Reference::parse(&format!("of-{}", std::process::id())).unwrap();
    let archive = small().file("large", &vec![3; 3 << 20]).end();
    store_of_child().import(&archive[..], &name, &ImportOptions::default()).unwrap();
}

#[test]
fn processes_at_once() {
    let place = Place::new();
    let children: Vec<_> =
        (0..4).map(|_| child("faults::child_imports_once", &place.root(), &[]).spawn().unwrap()).collect();
    for child in children {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }
    assert_eq!(place.store.list().unwrap().len(), 4);
    assert_eq!(names(&place.root().join("layers")).len(), 1);
    assert_eq!(place.left_over(), Vec::<String>::new());
}

#[test]
#[ignore = "a part of a_full_disk"]
fn child_fills_the_disk() {
    let store = store_of_child();
    let folder = Path::new(&std::env::var("TARE_TEST_STORE").unwrap()).to_owned();
    let name = |text| Reference::parse(text).unwrap();
    let options = ImportOptions::default();
    store.import(&small().end()[..], &name("fits"), &options).unwrap();
    let used = || rustix::fs::statvfs(&folder).map(|stat| stat.f_blocks - stat.f_bfree).unwrap();
    let before = used();
    // Blob and tree together are more than there is, whichever fills up first.
    for (case, archive) in [
        ("large", Tar::new().file("large", &vec![9; 6 << 20]).end()),
        ("many", (0..900).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), &[1; 9000])).end()),
    ] {
        for archive in [gzip(&archive), archive] {
            let err = store.import(&archive[..], &name("full"), &options).unwrap_err();
            assert_eq!(err.kind(), Kind::Exhausted, "{case}: {err}");
            assert!(err.to_string().contains("ENOSPC"), "{case}: {err}");
            assert!(err.hint_text().unwrap().contains(folder.to_str().unwrap()), "{:?}", err.hint_text());
            assert_eq!(names(&folder.join("layers")).len(), 1, "{case}");
            assert_eq!(used(), before, "{case}: what was written is given back");
        }
    }
    // Removal works on a disk without a free block.
    let filler = std::fs::File::create(folder.join("filler")).unwrap();
    let chunk = [0u8; 4096];
    while io::Write::write_all(&mut &filler, &chunk).is_ok() {}
    store.remove("fits").unwrap();
    assert!(store.list().unwrap().is_empty());
    println!("child is done");
}

/// F11, on a tmpfs of 5 MiB in a mount namespace of its own, which goes away with the process.
#[test]
fn a_full_disk() {
    let place = Place::new();
    let folder = place.folder.path().join("store");
    std::fs::create_dir(&folder).unwrap();
    let script = "mount -t tmpfs -o size=5m none \"$TARE_TEST_STORE\" && exec \"$@\"";
    let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"];
    let out = child("faults::child_fills_the_disk", &folder, &wrapper).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("child is done"), "{text}");
}

#[test]
#[ignore = "a part of without_privilege"]
fn child_is_nobody() {
    let store = store_of_child();
    let tar = small()
        .add(Entry { name: b"owned", uid: 5, gid: 6, mode: 0o4711, ..Entry::default() })
        .add(Entry { kind: b'5', name: b"closed", mode: 0, ..Entry::default() })
        .file("closed/in", b"x")
        .add(Entry { kind: b'3', name: b"null", device: (1, 3), ..Entry::default() });
    for _ in 0..2 {
        let image = store
            .import(&tar.clone().end()[..], &Reference::parse("mine").unwrap(), &ImportOptions::default())
            .unwrap();
        let layer = store.layer_path(&image.layers[0]);
        assert_eq!(std::fs::metadata(layer.join("owned")).unwrap().mode() & 0o7777, 0o4711);
        assert!(!layer.join("null").exists());
        store.remove("mine").unwrap();
        assert!(!layer.exists());
    }
    println!("child is done");
}

/// Without privilege, owners and devices are left out, and a folder closed to us can still be removed.
#[test]
fn without_privilege() {
    let folder = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode;
    std::fs::set_permissions(folder.path(), open(0o777)).unwrap();
    // Where this program lies, nobody may be able to go.
    let program = folder.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--exact", "faults::child_is_nobody", "--ignored", "--nocapture"])
        .env("TARE_TEST_STORE", folder.path().join("store"))
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("child is done"), "{text}");
}
