//! Devices by name: specs of the Container Device Interface, and GPUs by way of them.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use tare_tests::Host;

/// A spec with one device of that kind.
fn spec(kind: &str, name: &str, edits: &Value) -> String {
    json!({ "cdiVersion": "0.6.0", "kind": kind, "devices": [{ "name": name, "containerEdits": edits }] })
        .to_string()
}

#[test]
fn a_device_of_a_cdi_spec_comes_with_all_that_its_spec_says() {
    let host = Host::new();
    let folder = host.folder("cdi");
    let library = host.file("library", "of the host");
    // The hook runs in the container's namespaces, as its root.
    let hook = host.file("hook", "#!/bin/sh\nroot=$(sed 's/.*\"path\":\"\\([^\"]*rootfs\\)\".*/\\1/' config.json)\ncat >\"$root/state\"\necho $1 $WORD >\"$root/hooked\"\n");
    for file in [&library, &hook] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let edits = json!({
        "env": ["TOY=one", "A=spec"],
        "deviceNodes": [{ "path": "/dev/toy", "hostPath": "/dev/fuse", "permissions": "rw" }],
        "mounts": [{ "hostPath": library, "containerPath": "/opt/lib/toy.so", "options": ["ro", "nosuid", "nodev", "bind"] }],
        "hooks": [{ "hookName": "createContainer", "path": hook, "args": ["hook", "said"], "env": ["WORD=hello"] }],
        "additionalGids": [4444],
    });
    fs::write(folder.join("toy.json"), spec("tare.test/toy", "one", &edits)).expect("a spec");
    let script = "stat -c %t:%T /dev/toy; (: <>/dev/toy) && echo opened; echo $TOY $A; cat /opt/lib/toy.so; echo; \
                  (echo x >/opt/lib/toy.so) 2>/dev/null || echo read-only; id -G; cat /hooked; grep -c creating /state";
    let flags = ["--device", "tare.test/toy=one", "-e", "A=own"];
    let wanted = "a:e5\nopened\none spec\nof the host\nread-only\n0 4444\nsaid hello\n1";
    host.sh(&flags, script).prints(wanted);
    // Without it there is nothing of that, and the device cannot be made either.
    host.sh(&[], "ls /dev/toy /hooked /opt; mknod /x c 10 229 && (: <>/x)").fails(1);
    // It is there in each life anew, and for exec.
    host.detached(&["--name", "box", "--device", "tare.test/toy=one"], "sleep 60");
    host.tare(["restart", "-t", "0", "box"]).run().ok();
    host.tare(["exec", "box", "sh", "-c", "echo $TOY; id -G; cat /hooked; (: <>/dev/toy) && echo opened"])
        .run()
        .prints("one\n0 4444\nsaid hello\nopened");
    let requests = &host.inspect("box")["HostConfig"]["DeviceRequests"];
    assert_eq!(requests[0]["Driver"], "cdi");
    assert_eq!(requests[0]["DeviceIDs"], json!(["tare.test/toy=one"]));
}

#[test]
fn gpus_are_those_of_the_vendors_spec() {
    let host = Host::new();
    let no_spec = host.sh(&["--gpus", "all"], "true");
    no_spec.fails(125).complains_of(&[
        "could not select device driver",
        "nvidia.com/gpu",
        "/cdi",
        "nvidia-ctk cdi generate",
    ]);
    let folder = host.folder("cdi");
    let devices = ["0", "1", "GPU-5", "all"].map(|name| {
        format!("- name: \"{name}\"\n  containerEdits:\n    env: [\"GPU_{}=yes\"]\n", name.replace('-', "_"))
    });
    let yaml = format!("---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n{}", devices.concat());
    fs::write(folder.join("nvidia.yaml"), yaml).expect("a spec");
    for (asked, wanted) in [
        ("all", "GPU_all"),
        ("2", "GPU_0 GPU_1"),
        ("device=1,GPU-5", "GPU_1 GPU_GPU_5"),
        ("\"device=0\"", "GPU_0"),
    ] {
        let script = "echo $(env | sed -n 's/^\\(GPU_.*\\)=yes/\\1/p' | sort)";
        host.sh(&["--gpus", asked], script).prints(wanted);
    }
    host.sh(&["--gpus", "3"], "true")
        .fails(125)
        .complains_of(&["unresolvable CDI devices nvidia.com/gpu=2", "nvidia.com/gpu=GPU-5"]);
    host.tare(["create", "--name", "box", "--gpus", "all", "busybox", "true"]).run().ok();
    let wanted =
        json!([{ "Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {} }]);
    assert_eq!(host.inspect("box")["HostConfig"]["DeviceRequests"], wanted);
    let info: Value =
        serde_json::from_str(&host.tare(["info", "--format", "json"]).run().ok()).expect("JSON");
    assert!(
        info["DiscoveredDevices"]
            .as_array()
            .expect("a list")
            .contains(&json!({ "Source": "cdi", "ID": "nvidia.com/gpu=GPU-5" }))
    );
    assert_eq!(info["CDISpecDirs"], json!([folder]));
}

#[test]
fn a_spec_that_makes_no_sense_is_named_and_takes_no_other_with_it() {
    let host = Host::new();
    let folder = host.folder("cdi");
    let good = spec("tare.test/good", "one", &json!({ "env": ["GOOD=yes"] }));
    fs::write(folder.join("good.json"), good).expect("a spec");
    let bad = |edits: Value| spec("tare.test/toy", "one", &edits);
    let cases = [
        (
            "relative.json",
            bad(json!({ "mounts": [{ "hostPath": "etc", "containerPath": "/x" }] })),
            "absolute path",
        ),
        (
            "above.json",
            bad(json!({ "mounts": [{ "hostPath": "/etc", "containerPath": "/x/../../y" }] })),
            "'..'",
        ),
        ("version.json", bad(json!({})).replace("0.6.0", "7.0.0"), "7.0.0"),
        ("unknown.json", bad(json!({ "seccomp": "off" })), "seccomp"),
        ("huge.yaml", format!("# {}\n", "x".repeat(5 << 20)), "bytes"),
        ("torn.yaml", "cdiVersion: [".to_owned(), "torn.yaml"),
    ];
    for (name, text, why) in cases {
        let file = folder.join(name);
        fs::write(&file, text).expect("a spec");
        host.sh(&["--device", "tare.test/toy=one"], "true").fails(125).complains_of(&[name, why]);
        host.sh(&["--device", "tare.test/good=one"], "echo $GOOD").prints("yes");
        assert!(host.tare(["info"]).run().ok().contains(name));
        fs::remove_file(file).expect("removing the spec");
    }
    // What is sound in itself, and cannot be had.
    fs::write(folder.join("toy.json"), bad(json!({ "deviceNodes": [{ "path": "/dev/no-such" }] })))
        .expect("a spec");
    host.sh(&["--device", "tare.test/toy=one"], "true").fails(125).complains_of(&["/dev/no-such"]);
    fs::write(
        folder.join("toy.json"),
        bad(json!({ "mounts": [{ "hostPath": "/etc", "containerPath": "/proc" }] })),
    )
    .expect("a spec");
    host.sh(&["--device", "tare.test/toy=one"], "true").fails(125).complains_of(&["/proc"]);
    let hook = json!({ "hooks": [{ "hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 3"] }] });
    fs::write(folder.join("toy.json"), bad(hook)).expect("a spec");
    host.sh(&["--device", "tare.test/toy=one"], "true").fails(125).complains_of(&[
        "hook",
        "exit status 3",
        "no",
    ]);
    assert!(host.containers().is_empty());
    assert!(!Path::new("/y").exists());
}
