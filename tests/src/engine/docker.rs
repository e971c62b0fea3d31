//! A dockerd of one's own, with a containerd of its own and the runtime as its default.

use std::process::Command;

use crate::engine::archive;
use crate::engine::scratch::{Daemon, Scratch};
use crate::engine::{Client, containerd, program, runtime};

/// The daemons and their folder. Fields go in this order: the daemons end before the folder is cleared.
#[derive(Debug)]
pub struct Docker {
    /// The command line.
    pub client: Client,
    _dockerd: Daemon,
    _containerd: Daemon,
    /// Their folder.
    pub scratch: Scratch,
}

impl Docker {
    /// Starts them and loads the image. Nothing of the machine's network changes, and no container has one.
    #[track_caller]
    pub fn start() -> Docker {
        let network = ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"];
        Docker::with(&[&network[..], &["--ip-masq=false"]].concat(), vec!["--network=none".into()])
    }

    /// The same with Docker's bridge and its firewall, on the machine that the calling thread is on.
    #[track_caller]
    pub fn with_networks() -> Docker {
        Docker::with(&[], Vec::new())
    }

    #[track_caller]
    fn with(network: &[&str], every: Vec<String>) -> Docker {
        let runtime = runtime();
        let scratch = Scratch::new();
        let containerd = containerd::daemon(&scratch);
        let socket = format!("unix://{}", scratch.at("d.sock"));
        // The key would go to /etc/docker otherwise.
        let config = format!("{{ \"deprecated-key-path\": \"{}\" }}", scratch.at("key.json"));
        let config = scratch.file("daemon.json", &config);
        let runtime = format!("tare={}", runtime.display());
        let binary = program("dockerd").expect("dockerd is installed");
        let words = [
            ["--config-file", &config],
            ["--data-root", &scratch.at("droot")],
            ["--exec-root", &scratch.at("dx")],
            ["--pidfile", &scratch.at("dockerd.pid")],
            ["--host", &socket],
            ["--containerd", &scratch.at("c.sock")],
            ["--containerd-namespace", scratch.name()],
            ["--containerd-plugins-namespace", &format!("{}-plugins", scratch.name())],
            ["--add-runtime", &runtime],
            ["--default-runtime", "tare"],
            ["--exec-opt", "native.cgroupdriver=cgroupfs"],
            ["--cgroup-parent", &format!("/{}", scratch.name())],
            // Root of the test machine may not raise limits.
            ["--default-ulimit", "nofile=1024:4096"],
        ];
        let mut words = words.concat();
        words.extend(network);
        words.push("--userland-proxy=false");
        let dockerd = scratch.daemon(&binary, &words, || {
            let out = Command::new("docker").args(["-H", &socket, "info"]).output();
            out.is_ok_and(|out| out.status.success())
        });
        let client =
            Client::new("docker".into(), vec!["-H".into(), socket], vec![("HOME", scratch.at("home"))])
                .with_flags(every);
        let file = scratch.path().join("busybox.tar");
        archive::write(&scratch.path().join("image"), &file).expect("an image");
        client.call(["load", "-i"]).arg(&file).run().ok();
        Docker { client, _dockerd: dockerd, _containerd: containerd, scratch }
    }

    /// What is left of the containers; none is there any more.
    pub fn left(&self) -> Vec<String> {
        // The daemons name the folder in their command lines, and dockerd mounts its own on itself.
        let mount = format!("mount {}", self.scratch.at("droot"));
        let mut left = self.scratch.left(|thing| {
            thing == mount
                || thing.starts_with("process ")
                    && (thing.contains("containerd --config") || thing.contains("dockerd --config-file"))
        });
        let listed = self.client.call(["ps", "-a", "--no-trunc", "-q"]).run().stdout();
        left.extend(listed.lines().map(|id| format!("container {id}")));
        left
    }
}
