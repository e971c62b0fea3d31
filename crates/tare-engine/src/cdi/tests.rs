//! Specs as vendors write them, and as nobody should.

use super::*;

fn spec(text: &str) -> Result<Spec> {
    let folder = tempfile::tempdir().unwrap();
    let end = if text.trim_start().starts_with('{') { "json" } else { "yaml" };
    let file = folder.path().join(format!("x.{end}"));
    fs::write(&file, text).unwrap();
    read(&file)
}

/// The beginning of what `nvidia-ctk cdi generate` writes.
const NVIDIA: &str = r#"---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args:
    - nvidia-cdi-hook
    - update-ldcache
    - --folder
    - /usr/lib/x86_64-linux-gnu
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts:
  - containerPath: /usr/bin/nvidia-smi
    hostPath: /usr/bin/nvidia-smi
    options: [ro, nosuid, nodev, rbind, rprivate]
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      fileMode: 438
      permissions: rw
  name: "0"
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
  name: all
kind: nvidia.com/gpu
"#;

fn registry(texts: &[&str]) -> Registry {
    let specs = texts.iter().zip(0..).map(|(text, at)| (at, format!("/{at}").into(), spec(text).unwrap()));
    Registry { specs: specs.collect(), errors: Vec::new() }
}

fn gpus(driver: &str, count: i64, ids: &[&str]) -> DeviceRequest {
    DeviceRequest {
        driver: driver.to_owned(),
        count,
        device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        capabilities: vec![vec!["gpu".to_owned()]],
        ..DeviceRequest::default()
    }
}

#[test]
fn what_nvidias_tool_writes_is_read() {
    let registry = registry(&[NVIDIA]);
    assert_eq!(registry.names(), ["nvidia.com/gpu=0", "nvidia.com/gpu=all"]);
    let edits = registry.edits(&["nvidia.com/gpu=0".to_owned(), "nvidia.com/gpu=all".to_owned()]).unwrap();
    let paths: Vec<_> = edits.device_nodes.iter().map(|node| node.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia0"], "the spec's own edits come once");
    assert_eq!(
        (edits.device_nodes[1].file_mode, edits.device_nodes[1].permissions.as_str()),
        (Some(0o666), "rw")
    );
    assert_eq!((edits.mounts[0].options.len(), edits.hooks[0].args.len()), (5, 4));
}

#[test]
fn gpus_are_names_of_whichever_vendor_has_a_spec() {
    let amd = NVIDIA.replace("nvidia.com", "amd.com");
    let (one, both, none) = (registry(&[&amd]), registry(&[&amd, NVIDIA]), registry(&[]));
    let names = |registry: &Registry, request| registry.resolve(&[request]).map_err(|err| err.kind());
    assert_eq!(names(&one, gpus("", -1, &[])).unwrap(), ["amd.com/gpu=all"]);
    assert_eq!(names(&both, gpus("", 2, &[])).unwrap(), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
    assert_eq!(
        names(&both, gpus("amd", 0, &["1", "GPU-x"])).unwrap(),
        ["amd.com/gpu=1", "amd.com/gpu=GPU-x"]
    );
    assert_eq!(names(&one, gpus("nvidia", -1, &[])).unwrap_err(), Kind::NotFound);
    assert_eq!(names(&none, gpus("", -1, &[])).unwrap_err(), Kind::NotFound);
    assert_eq!(names(&both, gpus("vga", -1, &[])).unwrap_err(), Kind::Unsupported);
    let other = DeviceRequest { capabilities: vec![vec!["tpu".to_owned()]], ..gpus("", 1, &[]) };
    assert_eq!(names(&both, other).unwrap_err(), Kind::Unsupported);
}

#[test]
fn the_later_folder_wins_and_two_in_one_are_a_conflict() {
    let other = NVIDIA.replace("/dev/nvidiactl", "/dev/other");
    let mut both = registry(&[NVIDIA, &other]);
    let name = ["nvidia.com/gpu=0".to_owned()];
    assert_eq!(both.edits(&name).unwrap().device_nodes[0].path, Path::new("/dev/other"));
    both.specs[1].0 = 0;
    assert_eq!(both.edits(&name).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(both.edits(&["nvidia.com/gpu=7".to_owned()]).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn specs_that_make_no_sense_are_refused() {
    let json = |edits: &str| {
        format!(
            r#"{{"cdiVersion":"0.6.0","kind":"a.com/b","devices":[{{"name":"c","containerEdits":{edits}}}]}}"#
        )
    };
    spec(&json("{}")).unwrap();
    for edits in [
        r#"{"env":["NO"]}"#,
        r#"{"env":["=x"]}"#,
        r#"{"deviceNodes":[{"path":"dev/x"}]}"#,
        r#"{"deviceNodes":[{"path":"/dev/../etc/x"}]}"#,
        r#"{"deviceNodes":[{"path":"/dev/x","type":"p"}]}"#,
        r#"{"deviceNodes":[{"path":"/dev/x","permissions":"rx"}]}"#,
        r#"{"deviceNodes":[{"path":"/dev/x","hostPath":"x"}]}"#,
        r#"{"deviceNodes":[{"path":"/dev/x","colour":"red"}]}"#,
        r#"{"mounts":[{"hostPath":"/a","containerPath":"../b"}]}"#,
        r#"{"mounts":[{"hostPath":"","containerPath":"/b"}]}"#,
        r#"{"mounts":[{"hostPath":"/a","containerPath":"/b","type":"overlay"}]}"#,
        r#"{"hooks":[{"hookName":"poststop","path":"/bin/true"}]}"#,
        r#"{"hooks":[{"hookName":"createContainer","path":"true"}]}"#,
        r#"{"additionalGIDs":[-1]}"#,
        r#"{"intelRdt":{"closID":"x"}}"#,
        r#"{"netDevices":[{"hostInterfaceName":"eth0","name":"eth0"}]}"#,
    ] {
        assert!(spec(&json(edits)).is_err(), "{edits}");
    }
    for (from, to) in
        [("0.6.0", "9.0.0"), ("0.6.0", ""), ("a.com/b", "a.com"), ("a.com/b", "/b"), ("\"c\"", "\"c d\"")]
    {
        assert!(spec(&json("{}").replace(from, to)).is_err(), "{to}");
    }
    for text in ["", "{", "- a\n- b\n", "a: &x [*x]\n", "kind: a.com/b\n", "\0"] {
        assert!(spec(text).is_err(), "{text:?}");
    }
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &(b'b'..=b'z')
            .map(|c| format!("{0}: &{0} [{1}]\n", c as char, format!("*{},", (c - 1) as char).repeat(9)))
            .collect::<String>();
    assert!(spec(&bomb).is_err());
}

#[test]
fn names_are_told_from_paths() {
    for name in ["nvidia.com/gpu=0", "nvidia.com/gpu=all", "a/b=c", "v-1.x/c_d=GPU-1:2.3"] {
        assert!(is_name(name), "{name}");
    }
    for text in [
        "/dev/x",
        "/dev/x:/dev/y=z",
        "a=b",
        "a/b",
        "a/b=",
        "/b=c",
        "a/=c",
        "a/b=c d",
        "a/b=../x",
        "1/b=c",
        "a/b/c=d",
    ] {
        assert!(!is_name(text), "{text}");
    }
}
