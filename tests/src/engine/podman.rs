//! Podman with folders of its own. It has no daemon; conmon is the parent of each container.

use crate::engine::archive;
use crate::engine::scratch::Scratch;
use crate::engine::{Client, program, runtime};

/// Podman's folder and how it is called.
#[derive(Debug)]
pub struct Podman {
    /// The command line.
    pub client: Client,
    /// Its folder.
    pub scratch: Scratch,
}

impl Podman {
    /// Makes the folder and loads the image.
    #[track_caller]
    pub fn start() -> Podman {
        let runtime = runtime();
        let scratch = Scratch::new();
        let at = |name: &str| scratch.at(name);
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            at("proot"),
            at("prun")
        );
        let storage = scratch.file("storage.conf", &storage);
        // Podman knows by its name whether a runtime can log JSON. Root may not raise limits here, so they are
        // named; and locks are files, because those in memory would be shared with the machine's own podman.
        let name = runtime.file_name().expect("a name").to_string_lossy().into_owned();
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=4096:4096\"]\n\
             log_driver = \"k8s-file\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             lock_type = \"file\"\nruntime_supports_json = [\"{name}\"]\ntmp_dir = \"{}\"\nvolume_path = \"{}\"\n\
             [network]\nnetwork_config_dir = \"{}\"\n",
            at("ptmp"),
            at("pvol"),
            at("pnet")
        );
        let config = scratch.file("containers.conf", &config);
        let env = vec![
            ("CONTAINERS_CONF", config),
            ("CONTAINERS_STORAGE_CONF", storage),
            ("HOME", scratch.folder("home")),
            ("TMPDIR", scratch.folder("tmp")),
        ];
        // The runtime keeps its own default root: what conmon calls in the end is `podman container cleanup`
        // without --runtime-flag, and that would look for the container elsewhere.
        let mut words = vec!["--runtime".to_owned(), runtime.display().to_string()];
        for (option, folder) in [("--root", "proot"), ("--runroot", "prun"), ("--tmpdir", "ptmp")] {
            words.extend([option.to_owned(), at(folder)]);
        }
        let client = Client::new(program("podman").expect("podman is installed"), words, env)
            .with_flags(vec!["--network=none".into(), format!("--cgroup-parent=/{}", scratch.name())])
            // conmon writes a file `oom` to where it was called from.
            .called_from(scratch.path())
            .with_removal(&["rm", "-f", "-v", "-t", "0"])
            .with_init(&["--init", "--init-path", "/usr/bin/docker-init"]);
        let file = scratch.path().join("busybox.tar");
        archive::write(&scratch.path().join("image"), &file).expect("an image");
        client.call(["load", "-q", "-i"]).arg(&file).run().ok();
        Podman { client, scratch }
    }

    /// What is left of the containers; none is there any more.
    pub fn left(&self) -> Vec<String> {
        let listed = self.client.call(["ps", "-a", "--no-trunc", "-q"]).run().stdout();
        // Podman makes a cgroup for its monitors, and keeps it.
        let mut left = self.scratch.left(|thing| thing.starts_with("cgroup ") && thing.ends_with("/conmon"));
        left.extend(listed.lines().map(|id| format!("container {id}")));
        left
    }
}
