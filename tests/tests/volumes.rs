//! Volumes: made, filled, shared, and never lost. `--volume NAME`, `--mount type=volume`, `tare volume`.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use tare_tests::{Host, busybox, eventually};

fn data(host: &Host, name: &str) -> PathBuf {
    host.root().join("volumes").join(name).join("_data")
}

fn volumes(host: &Host) -> Vec<String> {
    host.tare(["volume", "ls", "-q"]).run().ok().lines().map(str::to_owned).collect()
}

/// An image with a folder that has owners, modes, links and attributes, and that wants a volume on it.
fn image_with_content(host: &Host, name: &str, changes: &[&str]) {
    let tree = host.folder("tree");
    busybox::tree(&tree).unwrap();
    let folder = tree.join("seed");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/file"), "from the image").unwrap();
    std::os::unix::fs::symlink("sub/file", folder.join("link")).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(folder.join("sub/file"), fs::Permissions::from_mode(0o640)).unwrap();
    let owner = |path: PathBuf| {
        std::os::unix::fs::chown(&path, Some(70), Some(71)).unwrap();
    };
    owner(folder.join("sub/file"));
    owner(folder.clone());
    let archive = host.work().join(format!("{name}.tar"));
    // With the owners as they are, which `busybox::pack` does not keep.
    let packed = Command::new("tar")
        .arg("-C")
        .arg(&tree)
        .args(["--numeric-owner", "-cf"])
        .arg(&archive)
        .arg(".")
        .status();
    assert!(packed.is_ok_and(|status| status.success()));
    let changes = changes.iter().flat_map(|change| ["--change", change]);
    host.tare(["image", "import"]).args(changes).arg(&archive).arg(name).run().ok();
}

#[test]
fn a_volume_outlives_its_containers_and_keeps_true_owners() {
    let host = Host::new();
    host.sh(&["-v", "db-1:/data"], "echo hello > /data/file; chown 33:44 /data/file").ok();
    host.sh(&["-v", "db-1:/elsewhere:ro"], "cat /elsewhere/file; stat -c %u:%g /elsewhere/file")
        .prints("hello\n33:44");
    host.sh(&["-v", "db-1:/data:ro"], "echo x > /data/new").fails(1).complains_of(&["read-only"]);
    let meta = fs::metadata(data(&host, "db-1").join("file")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (33, 44), "ids on disk are the container's own");
    assert_eq!(volumes(&host), ["db-1"]);
    host.sh(&["--mount", "source=db-1,target=/m,readonly"], "cat /m/file").prints("hello");
    host.tare(["volume", "rm", "db-1"]).run().prints("db-1");
    assert!(volumes(&host).is_empty() && !data(&host, "db-1").exists());
}

#[test]
fn verbs_have_dockers_shapes() {
    let host = Host::new();
    host.tare(["volume", "create", "--label", "a=b", "data"]).run().prints("data");
    host.tare(["volume", "create", "data"]).run().prints("data");
    let text = host.tare(["volume", "inspect", "data"]).run().ok();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value[0]["Name"], "data");
    assert_eq!(value[0]["Driver"], "local");
    assert_eq!(value[0]["Scope"], "local");
    assert_eq!(value[0]["Labels"]["a"], "b");
    assert_eq!(value[0]["Options"], serde_json::Value::Null);
    assert_eq!(value[0]["Mountpoint"], data(&host, "data").to_str().unwrap());
    host.tare(["volume", "inspect", "-f", "{{.Name}}", "data"]).run().prints("data");
    let made = host.tare(["volume", "create"]).run().ok();
    assert!(made.len() == 64 && made.chars().all(|c| c.is_ascii_hexdigit()), "{made}");
    let table = host.tare(["volume", "ls"]).run().ok();
    assert!(table.starts_with("DRIVER    VOLUME NAME\n"), "{table}");
    host.tare(["volume", "ls", "-f", "label=a", "--format", "{{.Name}}"]).run().prints("data");
    let label = "{{.Label \"a\"}} {{.Label \"b\"}}|";
    host.tare(["volume", "ls", "--format", label, "-f", "name=data"]).run().prints("b |");
    host.tare(["volume", "create", "--name", "old-form"]).run().prints("old-form");
    host.tare(["volume", "create", "--name", "a1", "b1"]).run().fails(1).complains_of(&["two names"]);
    host.tare(["volume", "ls", "-q", "-f", "name=nothing"]).run().prints("");
    host.tare(["volume", "rm", "nosuch"]).run().fails(1).complains_of(&["get nosuch: no such volume"]);
    host.tare(["volume", "rm", "-f", "nosuch"]).run().ok();
    host.tare(["volume", "create", "a/b"]).run().fails(1).complains_of(&["invalid characters"]);
    host.tare(["volume", "create", "-d", "rexray", "x1"])
        .run()
        .fails(1)
        .complains_of(&["rexray", "not found"]);
    host.tare(["volume", "create", "-o", "colour=red", "x1"]).run().fails(1).complains_of(&["colour"]);
    host.sh(&["-v", "x:/data"], "true").fails(125).complains_of(&["invalid characters"]);
}

#[test]
fn an_empty_volume_gets_what_the_image_has_there() {
    let host = Host::new();
    image_with_content(&host, "seeded", &[]);
    let show = "cd /seed; cat link; stat -c %u:%g:%a sub/file .; ls";
    let seen = "from the image70:71:640\n70:71:750\nlink\nsub";
    let run = |flags: &[&str], script: &str| {
        host.tare(["run", "--rm"]).args(flags).args(["seeded", "sh", "-c", script]).run()
    };
    run(&["-v", "seed-1:/seed"], show).prints(seen);
    // What the caller put there since is not undone.
    run(&["-v", "seed-1:/seed"], "rm /seed/link; echo mine > /seed/sub/file").ok();
    run(&["-v", "seed-1:/seed"], "ls /seed; cat /seed/sub/file").prints("sub\nmine");
    run(&["-v", "seed-2:/seed:nocopy"], "ls /seed | wc -l").prints("0");
    run(&["--mount", "type=volume,source=seed-3,target=/seed,volume-nocopy"], "ls /seed | wc -l").prints("0");
    // Nothing there in the image, or a file: nothing to copy.
    run(&["-v", "seed-4:/new/place"], "ls /new/place | wc -l").prints("0");
    assert!(!data(&host, "seed-1").parent().unwrap().join("filling").exists());
}

#[test]
fn anonymous_volumes_go_with_their_container_if_told_to() {
    let host = Host::new();
    image_with_content(&host, "wants", &["VOLUME /seed"]);
    host.tare(["run", "--rm", "-v", "/more", "wants", "sh", "-c", "touch /more/x; cat /seed/link"])
        .run()
        .prints("from the image");
    assert!(volumes(&host).is_empty(), "--rm takes them along");
    let id = host.tare(["run", "-d", "--name", "one", "wants", "true"]).run().ok();
    eventually("it has ended", || host.status(&id) == "exited");
    let mounts = host.inspect("one")["Mounts"].clone();
    assert_eq!(mounts[0]["Type"], "volume");
    assert_eq!(mounts[0]["Destination"], "/seed");
    assert_eq!(mounts[0]["RW"], true);
    let name = mounts[0]["Name"].as_str().unwrap().to_owned();
    assert_eq!(volumes(&host), std::slice::from_ref(&name));
    host.tare(["volume", "rm", &name]).run().fails(1).complains_of(&["volume is in use - [", &id]);
    host.tare(["rm", "one"]).run().ok();
    assert_eq!(volumes(&host), [name], "rm alone keeps them, as Docker does");
    host.tare(["run", "-d", "--name", "two", "-v", "named:/seed", "-v", "/anon", "wants", "true"]).run().ok();
    eventually("it has ended", || host.status("two") == "exited");
    host.tare(["rm", "-v", "two"]).run().ok();
    assert_eq!(volumes(&host).len(), 2, "the named one stays: {:?}", volumes(&host));
    host.tare(["volume", "prune"]).run().fails(1).complains_of(&["--force"]);
    let said = host.tare(["volume", "prune", "-f"]).run().ok();
    assert!(said.contains("Deleted Volumes:") && said.contains("Total reclaimed space:"), "{said}");
    assert_eq!(volumes(&host), ["named"]);
    host.tare(["volume", "prune", "-f", "-a"]).run().ok();
    assert!(volumes(&host).is_empty());
}

#[test]
fn volumes_from_takes_over_volumes_and_binds() {
    let host = Host::new();
    let folder = host.folder("bind");
    let bind = format!("{}:/bind", folder.display());
    host.detached(
        &["--name", "first", "-v", "shared:/data", "-v", "/anon", "-v", &bind],
        "touch /anon/a; sleep 60",
    );
    host.sh(&["--volumes-from", "first"], "touch /data/x /bind/y; ls /anon").prints("a");
    assert!(data(&host, "shared").join("x").exists() && folder.join("y").exists());
    host.sh(&["--volumes-from", "first:ro"], "touch /data/z").fails(1).complains_of(&["read-only"]);
    host.sh(&["--volumes-from", "first", "-v", "own:/data"], "ls /data | wc -l").prints("0");
    host.sh(&["--volumes-from", "nosuch"], "true").fails(125).complains_of(&["no such container", "nosuch"]);
    assert_eq!(volumes(&host).len(), 3, "the anonymous one belongs to the first: {:?}", volumes(&host));
    host.tare(["rm", "-f", "-v", "first"]).run().ok();
    assert_eq!(volumes(&host), ["own", "shared"]);
}

#[test]
fn a_subpath_cannot_lead_out_of_its_volume() {
    let host = Host::new();
    host.sh(
        &["-v", "tree:/data"],
        "mkdir /data/sub; echo in > /data/sub/file; ln -s / /data/root; ln -s ../../../../../../etc /data/up",
    )
    .ok();
    let flag = |subpath: &str| format!("type=volume,source=tree,target=/part,volume-subpath={subpath}");
    host.sh(&["--mount", &flag("sub")], "cat /part/file").prints("in");
    host.sh(&["--mount", &flag("sub/file")], "cat /part").prints("in");
    host.sh(&["--mount", &flag("root")], "ls /part").prints("root\nsub\nup");
    host.sh(&["--mount", &flag("up")], "true").fails(125).complains_of(&["no such file"]);
    host.sh(&["--mount", &flag("nosuch")], "true").fails(125).complains_of(&["nosuch", "no such file"]);
    host.sh(&["--mount", &flag("../x")], "true").fails(125).complains_of(&["volume-subpath"]);
}

#[test]
fn driver_options_mount_what_they_name() {
    let host = Host::new();
    let folder = host.folder("elsewhere");
    host.file("elsewhere/file", "bound");
    let device = format!("device={}", folder.display());
    host.tare(["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "bound"]).run().ok();
    host.sh(&["-v", "bound:/data"], "cat /data/file; echo new > /data/new").prints("bound");
    assert_eq!(fs::read_to_string(folder.join("new")).unwrap(), "new\n");
    host.tare(["volume", "rm", "bound"]).run().ok();
    assert!(folder.join("file").exists(), "what it led to is not the volume's to remove");

    let memory = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,mode=0777"];
    host.tare(["volume", "create"]).args(memory).arg("memory").run().ok();
    host.tare(["volume", "create"])
        .args(["-o", "type=tmpfs", "-o", "device=tmpfs", "memory"])
        .run()
        .fails(1)
        .complains_of(&["unique"]);
    host.detached(
        &["--name", "holds", "--userns", "host", "-v", "memory:/m"],
        "echo kept > /m/file; sleep 60",
    );
    eventually("it wrote", || data(&host, "memory").join("file").exists());
    let fill =
        "cat /m/file; dd if=/dev/zero of=/m/big bs=64k count=64 2>&1 | grep -o 'No space left'; rm /m/big";
    host.sh(&["--userns", "host", "-v", "memory:/m"], fill).prints("kept\nNo space left");
    host.tare(["rm", "-f", "holds"]).run().ok();
    eventually("it is unmounted with its last container", || !data(&host, "memory").join("file").exists());
    host.tare(["volume", "rm", "memory"]).run().ok();
}

#[test]
fn many_at_once_make_one_volume_and_fill_it_once() {
    let host = Host::new();
    image_with_content(&host, "seeded", &[]);
    let script = "cat /seed/link; echo x >> /seed/count";
    let runs: Vec<_> = (0..12)
        .map(|_| {
            host.tare(["run", "--rm", "-v", "one:/seed", "-v", "two:/more", "seeded", "sh", "-c", script])
                .start()
        })
        .collect();
    for run in runs {
        run.wait().prints("from the image");
    }
    assert_eq!(fs::read_to_string(data(&host, "one").join("count")).unwrap().lines().count(), 12);
    // Removed and taken at the same time: either it is in use, or it is made anew; nothing half.
    let runs: Vec<_> = (0..12)
        .map(|_| {
            host.tare([
                "run",
                "--rm",
                "-v",
                "race:/data",
                "seeded",
                "sh",
                "-c",
                "echo x > /data/$HOSTNAME && cat /data/$HOSTNAME",
            ])
            .start()
        })
        .collect();
    let removals: Vec<_> = (0..12).map(|_| host.tare(["volume", "rm", "-f", "race"]).start()).collect();
    for run in runs {
        run.wait().prints("x");
    }
    for removal in removals {
        let out = removal.wait();
        assert!(out.code() == 0 || out.stderr().contains("volume is in use"), "{out:#?}");
    }
}

#[test]
fn no_data_is_lost_and_nothing_is_left_when_tare_is_killed_at_any_moment() {
    let host = Host::new();
    image_with_content(&host, "wants", &["VOLUME /seed"]);
    host.sh(&["-v", "precious:/p"], "echo 0 > /p/data").ok();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = seed;
    for round in 0..30 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let words: &[&str] = match round % 3 {
            0 => &["run", "--rm", "-v", "precious:/p", "-v", "new:/seed", "wants", "true"],
            1 => &["run", "--rm", "-v", "precious:/p", "wants", "true"],
            _ => &["volume", "rm", "new"],
        };
        let running = host.tare(words).start();
        std::thread::sleep(std::time::Duration::from_micros((random >> 33) % 25_000));
        host.note_ids();
        running.signal(Signal::KILL);
        running.wait();
        assert_eq!(fs::read_to_string(data(&host, "precious").join("data")).unwrap(), "0\n");
        let new = data(&host, "new");
        if fs::read_dir(&new).is_ok_and(|mut entries| entries.next().is_some()) {
            // Filled in one step.
            assert_eq!(fs::read_to_string(new.join("sub/file")).unwrap(), "from the image");
            assert!(new.join("link").is_symlink());
        }
    }
    eventually("no container is left", || host.containers().is_empty());
    let left = volumes(&host);
    assert!(left.iter().all(|name| name == "precious" || name == "new"), "{left:?}");
    assert_eq!(fs::read_dir(host.root().join("volumes/.pending")).map_or(0, Iterator::count), 0);
}

#[test]
fn a_volume_whose_folder_was_removed_by_hand_is_a_clear_error() {
    let host = Host::new();
    host.tare(["volume", "create", "gone"]).run().ok();
    fs::remove_file(host.root().join("volumes/gone/volume.json")).unwrap();
    assert_eq!(volumes(&host), ["gone"], "its data is there");
    fs::write(host.root().join("volumes/gone/volume.json"), "{damaged").unwrap();
    assert_eq!(volumes(&host), ["gone"]);
    host.sh(&["-v", "gone:/data"], "true").fails(125).complains_of(&["gone", "its data is in"]);
    fs::remove_dir_all(host.root().join("volumes")).unwrap();
    host.tare(["volume", "inspect", "gone"]).run().fails(1).complains_of(&["no such volume"]);
    assert!(volumes(&host).is_empty());
    host.sh(&["-v", "gone:/data"], "echo back > /data/x; cat /data/x").prints("back");
}

#[test]
fn thousands_of_volumes_are_listed_and_pruned() {
    let host = Host::new();
    host.tare(["volume", "create", "first"]).run().ok();
    let record = fs::read(host.root().join("volumes/first/volume.json")).unwrap();
    for n in 0..3000 {
        let folder = host.root().join(format!("volumes/many-{n}"));
        fs::create_dir_all(folder.join("_data")).unwrap();
        fs::create_dir(folder.join("users")).unwrap();
        fs::write(folder.join("volume.json"), &record).unwrap();
    }
    assert_eq!(volumes(&host).len(), 3001);
    host.tare(["volume", "prune", "-a", "-f"]).run().ok();
    assert!(volumes(&host).is_empty());
}

#[test]
fn a_missing_folder_of_the_host_is_made_as_docker_does() {
    let host = Host::new();
    let folder = host.work().join("made/below");
    host.sh(&["-v", &format!("{}:/data", folder.display())], "echo x > /data/x").ok();
    assert!(folder.join("x").exists());
    let other = host.work().join("other");
    let flag = format!("type=bind,source={},target=/data,bind-create-src", other.display());
    host.sh(&["--mount", &flag], "echo x > /data/x").ok();
    assert!(other.join("x").exists());
}

#[test]
fn an_image_can_be_mounted_read_only() {
    let host = Host::new();
    image_with_content(&host, "seeded", &[]);
    let flag = "type=image,source=seeded,target=/img";
    host.sh(
        &["--mount", flag],
        "cat /img/seed/link; stat -c %u:%g /img/seed/sub/file; touch /img/x 2>&1 | grep -o 'Read-only'",
    )
    .prints("from the image70:71\nRead-only");
    host.sh(&["--mount", &format!("{flag},image-subpath=seed/sub")], "ls /img").prints("file");
    host.sh(&["--mount", "type=image,source=nosuch,target=/img"], "true")
        .fails(125)
        .complains_of(&["nosuch"]);
    let id = host.detached(&["--mount", flag], "sleep 60");
    host.tare(["rmi", "seeded"]).run().fails(1).complains_of(&["is being used by running container"]);
    host.tare(["rm", "-f", &id]).run().ok();
}
