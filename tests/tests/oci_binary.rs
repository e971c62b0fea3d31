//! The runtime's own binary, which no container may write to (CVE-2019-5736) or get hold of, and the host's
//! programs, which none may run: each test attacks it in its own way.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use serde_json::json;
use tare_tests::attack::{Canary, link_instead, repetitions, without_harm_to_the_binary};
use tare_tests::bundle::{is_ours, runtime};
use tare_tests::{Bundle, eventually};

/// Ways to say "the file that whoever executes this runs".
const SELVES: [&str; 3] = ["/proc/self/exe", "/proc/thread-self/exe", "/proc/1/exe"];

#[track_caller]
fn executable(path: &Path, content: impl AsRef<[u8]>) {
    let _ = fs::remove_file(path);
    fs::write(path, content).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its mode");
}

fn runs(bundle: &Bundle, args: &[&str]) {
    bundle.config(|config| config["process"]["args"] = json!(args));
}

/// A program whose loader is `interpreter`: of its own it has nothing.
fn program_loaded_by(interpreter: &str) -> Vec<u8> {
    // What a program of this machine begins with: its class, order of bytes, and processor (elf(5)).
    let busybox = fs::read("/bin/busybox").or_else(|_| fs::read("/usr/bin/busybox")).expect("busybox");
    let mut file = busybox[..20].to_vec();
    file[16..18].copy_from_slice(&2_u16.to_ne_bytes()); // ET_EXEC
    let (head, header, base) = (64_u64, 56_u64, 0x10_0000_u64);
    let start = head + 2 * header;
    let length = interpreter.len() as u64 + 1;
    file.extend(1_u32.to_ne_bytes()); // e_version
    for word in [base + start, head, 0] {
        file.extend(word.to_ne_bytes()); // e_entry, e_phoff, e_shoff
    }
    file.extend(0_u32.to_ne_bytes()); // e_flags
    for half in [head as u16, header as u16, 2, 64, 0, 0] {
        file.extend(half.to_ne_bytes());
    }
    // PT_INTERP and PT_LOAD: type, flags, offset, addresses, lengths, alignment.
    for (kind, flags, offset, length) in [(3_u32, 4_u32, start, length), (1, 5, 0, start + length)] {
        file.extend(kind.to_ne_bytes());
        file.extend(flags.to_ne_bytes());
        for word in [offset, base + offset, base + offset, length, length, 0x1000] {
            file.extend(word.to_ne_bytes());
        }
    }
    file.extend(interpreter.bytes().chain([0]));
    file
}

#[test]
fn cve_2019_5736_as_the_interpreter_of_a_script() {
    without_harm_to_the_binary(|| {
        for interpreter in SELVES {
            let bundle = Bundle::new();
            executable(&bundle.rootfs().join("bin/evil"), format!("#!{interpreter}\n"));
            bundle.detached(&[]);
            bundle.oci(["exec", bundle.id(), "/bin/evil"]).run();
            bundle.oci(["delete", "--force", bundle.id()]).run().ok();
            runs(&bundle, &["/bin/evil"]);
            bundle.oci(["run", bundle.id()]).run();
        }
    });
}

#[test]
fn cve_2019_5736_as_the_loader_of_a_program() {
    without_harm_to_the_binary(|| {
        for interpreter in SELVES {
            let bundle = Bundle::new();
            executable(&bundle.rootfs().join("bin/evil"), program_loaded_by(interpreter));
            bundle.detached(&[]);
            bundle.oci(["exec", bundle.id(), "/bin/evil"]).run();
            bundle.oci(["delete", "--force", bundle.id()]).run().ok();
            runs(&bundle, &["/bin/evil"]);
            bundle.oci(["run", bundle.id()]).run();
        }
        // The same way the program is good for something, so it is no dud that was refused above.
        let bundle = Bundle::new();
        executable(&bundle.rootfs().join("bin/evil"), program_loaded_by("/bin/busybox"));
        runs(&bundle, &["/bin/evil", "--list"]);
        let out = bundle.oci(["run", bundle.id()]).run();
        assert!(!out.stderr().contains("exec"), "the kernel takes it for a program: {out:#?}");
    });
}

#[test]
fn cve_2019_5736_as_the_shell_that_somebody_else_executes() {
    without_harm_to_the_binary(|| {
        let bundle = Bundle::new();
        bundle.detached(&[]);
        for target in SELVES {
            link_instead(&bundle.rootfs().join("bin/sh"), target);
            link_instead(&bundle.rootfs().join("bin/bash"), "sh");
            for words in [&["sh", "-c", "true"][..], &["/bin/sh", "-l"], &["/bin/bash"], &[target]] {
                let out = bundle.oci(["exec", bundle.id()]).args(words).run();
                // There, the first process is the container's own program.
                if is_ours() && target != "/proc/1/exe" {
                    assert!(out.code() != 0 && out.stdout().is_empty(), "{target} {words:?}: {out:#?}");
                }
            }
        }
        bundle.oci(["delete", "--force", bundle.id()]).run().ok();
        for target in SELVES {
            link_instead(&bundle.rootfs().join("bin/sh"), target);
            runs(&bundle, &["sh"]);
            let out = bundle.oci(["run", bundle.id()]).run();
            if is_ours() {
                assert!(out.code() != 0 && out.stdout().is_empty(), "{target}: {out:#?}");
            }
        }
    });
}

/// Stops every process that it sees, and looks for a way through it: to write to its program, and to the host's
/// files by its working folder, its root and its open files. `$1` is a file that only the host has.
const ATTACKER: &str = r#"
    echo ready
    while :; do
        for p in /proc/[0-9]*; do
            [ $p = /proc/1 ] && continue
            kill -STOP ${p#/proc/}
            ( : >> $p/exe ) && echo "wrote to $p/exe"
            [ -e "$p/root$1" ] && echo "the host by $p/root"
            [ -e $p/cwd/config.json ] && echo "the host by $p/cwd"
            for f in $p/fd/*; do
                [ -e $f/config.json -o -e $f/state.json -o -e "$f$1" ] && echo "the host by $f"
            done
            kill -CONT ${p#/proc/}
        done 2>/dev/null
    done"#;

#[track_caller]
fn attacker(canary: &Canary) -> Bundle {
    let attacker = Bundle::new();
    runs(&attacker, &["sh", "-c", ATTACKER, "sh", &canary.at("secret")]);
    attacker.config(|config| {
        // CAP_KILL is there by default; it takes no more to stop those who come in.
        assert!(config["process"]["capabilities"]["bounding"].to_string().contains("CAP_KILL"));
    });
    attacker.detached(&[]);
    eventually("the attacker is at work", || attacker.printed().contains("ready"));
    attacker
}

#[test]
fn cve_2019_5736_and_2016_9962_a_process_of_exec_is_no_way_out_for_those_inside() {
    without_harm_to_the_binary(|| {
        let beside = Bundle::new();
        let canary = Canary::new(beside.work("canary"));
        let attacker = attacker(&canary);
        for _ in 0..repetitions(60) {
            attacker.oci(["exec", attacker.id(), "true"]).run().ok();
        }
        assert_eq!(attacker.printed().trim(), "ready");
        canary.is_untouched();
    });
}

#[test]
fn cve_2019_5736_and_2016_9962_who_joins_a_pid_namespace_is_no_way_out_for_those_inside() {
    without_harm_to_the_binary(|| {
        let victim = Bundle::sh("true");
        let canary = Canary::new(victim.work("canary"));
        let attacker = attacker(&canary);
        let path = format!("/proc/{}/ns/pid", attacker.state()["pid"]);
        victim.config(|config| {
            for namespace in config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
                if namespace["type"] == "pid" {
                    namespace["path"] = path.as_str().into();
                }
            }
        });
        for _ in 0..repetitions(30) {
            victim.oci(["run", victim.id()]).run().ok();
        }
        assert_eq!(attacker.printed().trim(), "ready");
        canary.is_untouched();
    });
}

#[test]
fn cve_2019_5736_while_it_waits_for_its_start_nobody_can_write_to_it() {
    if !is_ours() {
        return;
    }
    without_harm_to_the_binary(|| {
        let bundle = Bundle::new();
        bundle.created(&[]);
        let script = "( : >> /proc/1/exe ) 2>&1; ( : > /proc/1/exe ) 2>&1; readlink /proc/1/exe; true";
        let out = bundle.exec(&[], script);
        assert!(!out.stdout().is_empty(), "{out:#?}");
        // Through the same file, as the host's root: read-only whoever asks, and by every way that /proc has.
        let folder = format!("/proc/{}", bundle.state()["pid"]);
        let binary = fs::metadata(runtime()).expect("the binary");
        let mapped = fs::read_dir(format!("{folder}/map_files")).expect("its mappings");
        let ways =
            mapped.map(|entry| entry.expect("a mapping").path()).chain([Path::new(&folder).join("exe")]);
        let mut looked_at = 0;
        for way in ways {
            let Ok(meta) = fs::metadata(&way) else { continue };
            // A sealed copy, where it is one, is another file.
            if (meta.dev(), meta.ino()) == (binary.dev(), binary.ino()) || way.ends_with("exe") {
                let err = fs::OpenOptions::new().append(true).open(&way).expect_err("it is read-only");
                assert!(matches!(err.raw_os_error(), Some(1 | 26 | 30)), "{}: {err}", way.display());
                let held = rustix::fs::open(&way, OFlags::PATH, Mode::empty()).expect("a hold of it");
                let flags = rustix::fs::fstatvfs(&held).expect("its mount").f_flag;
                let sealed = rustix::fs::open(&way, OFlags::RDONLY, Mode::empty())
                    .and_then(rustix::fs::fcntl_get_seals)
                    .is_ok_and(|seals| seals.contains(rustix::fs::SealFlags::WRITE));
                assert!(flags.contains(StatVfsMountFlags::RDONLY) || sealed, "{}", way.display());
                looked_at += 1;
            }
        }
        assert!(looked_at > 0);
    });
}

#[test]
fn cve_2019_5736_with_ids_of_its_own_it_has_no_right_to_the_file() {
    without_harm_to_the_binary(|| {
        let bundle = Bundle::new();
        bundle.config(|config| {
            let map = json!([{ "containerID": 0, "hostID": 200_000, "size": 1000 }]);
            config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(json!({ "type": "user" }));
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
        });
        // Its root has to pass through the folders on the way.
        let parent = bundle.path();
        for folder in [parent.as_path(), parent.parent().expect("the bundle's folder lies in one")] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("opening the folder");
        }
        bundle.created(&[]);
        let script = "( : >> /proc/1/exe ) 2>/dev/null && echo wrote; \
                      ( : >> /proc/self/exe ) 2>/dev/null && echo wrote; true";
        bundle.exec(&[], script).prints("");
        bundle.oci(["exec", bundle.id(), "/proc/self/exe", "--list"]).run();
    });
}

/// Callers that pass nothing on, and that leave folders of the host's open; and the numbers to try.
const CALLERS: [(&str, std::ops::Range<i32>); 2] = [("exec \"$@\"", 3..12), (INHERITS, 3..20)];
const INHERITS: &str = "exec 3</ 4</etc 5</sys/fs/cgroup 7</ 9</; exec \"$@\"";

/// A program of the host's, from wherever below `/` an open folder is, and what it would print.
fn through(number: i32, marker: &str) -> String {
    format!("/proc/self/fd/{number}/../../../../../../../../../../../..{marker}")
}

#[track_caller]
fn hosts_program(canary: &Canary) -> String {
    let marker = canary.path().parent().expect("a folder").join("busybox");
    let program = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| Path::new(path).exists());
    executable(&marker, fs::read(program.expect("busybox")).expect("busybox"));
    marker.to_str().expect("a path of our own is text").to_owned()
}

#[test]
fn cve_2024_21626_no_program_is_reached_through_an_open_file_of_the_runtimes() {
    let bundle = Bundle::new();
    let canary = Canary::new(bundle.work("canary"));
    let marker = hosts_program(&canary);
    let numbers = || CALLERS.into_iter().flat_map(|(script, numbers)| numbers.map(move |n| (script, n)));
    for (script, number) in numbers() {
        runs(&bundle, &[&through(number, &marker), "echo", "the host's"]);
        let out = bundle.by_shell(script, ["run", bundle.id()]).run();
        assert!(out.code() != 0 && out.stdout().is_empty(), "{number}: {out:#?}");
    }
    runs(&bundle, &["sleep", "600"]);
    bundle.detached(&[]);
    for (script, number) in numbers() {
        let program = through(number, &marker);
        let out = bundle.by_shell(script, ["exec", bundle.id(), &program, "echo", "the host's"]).run();
        assert!(out.code() != 0 && out.stdout().is_empty(), "{number}: {out:#?}");
    }
    canary.is_untouched();
}

#[test]
fn cve_2024_21626_nor_is_one_when_a_created_container_is_started() {
    let bundle = Bundle::new();
    let canary = Canary::new(bundle.work("canary"));
    let marker = hosts_program(&canary);
    runs(&bundle, &["/bin/evil", "echo", "the host's"]);
    // While it is looked up it is a program, so that it comes as far as the start.
    let (decoy, evil) = (bundle.rootfs().join("bin/busybox"), bundle.rootfs().join("bin/evil"));
    for number in 3..20 {
        link_instead(&evil, decoy.file_name().expect("a name"));
        let inherits = bundle.by_shell(INHERITS, ["create", bundle.id()]);
        bundle.apart(inherits).ok();
        link_instead(&evil, through(number, &marker));
        let out = bundle.oci(["start", bundle.id()]).run();
        assert_ne!(out.code(), 0, "{number}: {out:#?}");
        assert_eq!(bundle.printed(), "", "{number}");
        bundle.oci(["delete", "--force", bundle.id()]).run().ok();
    }
    canary.is_untouched();
}

#[test]
fn cve_2024_21626_hooks_inside_have_no_file_of_the_hosts_open() {
    let bundle = Bundle::sh("cat /told");
    let script = "for fd in /proc/self/fd/*; do echo ${fd##*/} $(readlink $fd); done > /told";
    bundle.config(|config| {
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] });
        config["hooks"] = json!({ "startContainer": [hook] });
    });
    let told = bundle.by_shell(INHERITS, ["run", bundle.id()]).run().ok();
    // The shell's own are there too: the file that it writes to, and the folder that it lists.
    let number_and_file = |line: &str| -> Option<(u32, String)> {
        let (number, file) = line.split_once(' ')?;
        Some((number.parse().ok()?, file.to_owned()))
    };
    let open: Vec<_> = told.lines().filter_map(number_and_file).filter(|(number, _)| *number > 2).collect();
    assert!(told.lines().count() >= 3, "{told}");
    assert!(open.iter().all(|(_, file)| file.starts_with("/proc/") || file.is_empty()), "{told}");
}
