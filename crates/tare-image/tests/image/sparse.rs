//! Files with holes, as GNU tar writes them in each of its four forms.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::archive::{Entry, Place, Tar};

fn sh(script: &str, cwd: &Path) -> String {
    let out = Command::new("sh").arg("-ec").arg(script).current_dir(cwd).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn files_with_holes_come_out_with_their_holes() {
    let place = Place::new();
    let from = place.folder.path().join("canary/from");
    std::fs::create_dir(&from).unwrap();
    // More pieces than a header and one block behind it have places for; holes in front, between, and at the end.
    let long = "n".repeat(120);
    sh(
        &format!(
            "for n in $(seq 1 60); do printf \"data $n\" | dd of=many bs=65536 seek=$n conv=notrunc status=none; done
             truncate -s 5M many
             printf x | dd of=front bs=1 seek=3000000 status=none
             truncate -s 3G hollow
             printf whole > full
             cp --sparse=always many {long}; ln many linked; chown 7:8 front; chmod 0640 front"
        ),
        &from,
    );
    let look = |at: &Path| {
        sh(
            "find . -type f -printf '%p %s %m %U:%G %n %T@\\n' | sort; sha256sum many front full linked n*",
            at,
        )
    };
    let cut = |text: &str| -> String {
        text.lines().map(|line| line.split('.').take(2).collect::<String>() + "\n").collect()
    };
    let before = look(&from);
    for form in ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"] {
        let pax = if form.starts_with("--sparse") { "--format=pax" } else { "" };
        sh(&format!("tar {pax} {form} --sparse --sort=name -cf ../a.tar ."), &from);
        let archive = std::fs::read(place.folder.path().join("canary/a.tar")).unwrap();
        let layer = place.unpack(&archive);
        let after = look(&layer);
        // Times in GNU's own format are whole seconds.
        match pax {
            "" => assert_eq!(cut(&after), cut(&before), "{form}"),
            _ => assert_eq!(after, before, "{form}"),
        }
        for (name, most) in [("many", 61 * 8), ("front", 16), ("hollow", 16)] {
            let blocks = layer.join(name).metadata().unwrap().blocks();
            assert!(blocks <= most + 64, "{form}: {name} has {blocks} blocks");
        }
        let size = place.store.image_of("test").unwrap().size;
        assert!(size < 1 << 20, "{form}: holes weigh nothing, {size}");
        place.store.remove("test").unwrap();
    }
}

#[test]
fn numbers_beyond_octal_are_read_too() {
    let place = Place::new();
    // 100 GiB, as Go writes it.
    let tar = Tar::new().add(Entry {
        name: b"GNUSparseFile.0/x",
        data: b"end",
        pax: &[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.name", b"d/huge"),
            ("GNU.sparse.size", b"107374182400"),
            ("GNU.sparse.numblocks", b"1"),
            ("GNU.sparse.map", b"107374182397,3"),
        ],
        ..Entry::default()
    });
    let layer = place.unpack(&tar.end());
    let file = layer.join("d/huge").metadata().unwrap();
    assert_eq!(file.len(), 100 << 30);
    assert!(file.blocks() < 64);
}
