//! `restore`: a container made of saved files.
//!
//! What `create` makes, this makes as well: folder, cgroup, record. In place of the launch there is criu, in the
//! container's cgroup and before a root that it alone sees; its first process becomes our child.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use tare_cgroup::{Cgroup, Hierarchies};
use tare_sys::mount::{self, Detached, Propagation};
use tare_sys::process::{self, Child, namespace};
use tare_sys::{Context, Error, Kind, Result};

use super::criu::{Criu, FIRST_FILE, Moment, Request, Setup};
use super::wire::Message;
use super::{Images, RestoreOptions, external, field};
use crate::container::create::{send_terminal, tell_pid};
use crate::container::record::{Folder, Record};
use crate::container::{Container, Runtime, Started, removal};
use crate::{devices, hooks, launch, namespaces, rdt, seccomp, spec};

/// criu's log.
const LOG: &str = "restore.log";

impl Runtime {
    /// Makes a container of what a [checkpoint](super::super::Container::checkpoint) has saved, and lets it go on.
    ///
    /// Errors: [`Kind::Unsupported`] without criu, [`Kind::Conflict`] for an id that is taken, and whatever criu
    /// cannot restore; then nothing of the container is left.
    pub fn restore(&self, id: &str, options: &RestoreOptions) -> Result<Started> {
        super::needs_root("restore a container")?;
        let config = options.bundle.join("config.json");
        let bytes = spec::read_file(&config)?;
        let spec = spec::parse(&bytes, &config)?;
        let (folder, lock) = Folder::make(&self.root, id)?;
        let new = Restored { runtime: self, folder: &folder, options, spec: &spec };
        let made = new.make(&bytes);
        if made.is_err() {
            let record = folder.record().ok().flatten();
            drop(lock);
            // The failure that got us here is the one to report.
            let _ = removal::delete(Container { folder, record }, true);
        }
        made
    }
}

/// A container on its way back.
struct Restored<'a> {
    runtime: &'a Runtime,
    folder: &'a Folder,
    options: &'a RestoreOptions,
    spec: &'a Spec,
}

impl Restored<'_> {
    fn make(&self, config: &[u8]) -> Result<Started> {
        let (folder, spec, bundle) = (self.folder, self.spec, &self.options.bundle);
        folder.keep("config.json", config)?;
        let linux = spec.linux().as_ref();
        // criu restores the filter of what was saved; this is for `exec`.
        if let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) {
            folder.keep("filter", &seccomp::compile(profile)?.to_bytes())?;
        }
        let cgroup = self.cgroup()?;
        let path = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        let rootfs = bundle.join(path);
        let mut record = Record {
            oci_version: spec.version().clone(),
            id: folder.id().to_owned(),
            pid: 0,
            began: 0,
            boot: process::boot_id(),
            bundle: bundle.clone(),
            rootfs: rootfs.clone(),
            created: tare_sys::time::Moment::now().to_string(),
            owner: rustix::process::getuid().as_raw(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            cgroup: cgroup.location(),
            has_pid_namespace: namespaces::listed(spec) & namespace::PID != 0,
            rdt: None,
        };
        folder.write_record(&record)?;
        let place = folder.file("root");
        for made in [&place, &folder.notify()] {
            fs::create_dir(made).doing(|| format!("mkdir {}", made.display()))?;
        }
        external::make_places(&rootfs, spec, bundle)?;
        let (child, terminal) = self.run_criu(&cgroup, &rootfs, &place, &mut record)?;
        // In criu's own mount namespace something lay here; with us it is empty.
        let _ = fs::remove_dir(&place);
        match self.finish(record, &child, terminal) {
            Ok(terminal) => {
                let warnings = lost_privilege_lock(self.spec, child.pid).into_iter().collect();
                Ok(Started { child, terminal, warnings })
            }
            Err(err) => {
                let _ = process::signal(child.pidfd.as_fd(), 9);
                let _ = process::wait(child.pidfd.as_fd());
                Err(err)
            }
        }
    }

    fn cgroup(&self) -> Result<Cgroup> {
        let linux = self.spec.linux().as_ref();
        let resources = devices::with_defaults(linux.and_then(|linux| linux.resources().clone()))?;
        Cgroup::create_for(
            &Hierarchies::discover()?,
            &self.runtime.driver()?,
            self.folder.id(),
            linux.and_then(|linux| linux.cgroups_path().as_deref()).and_then(Path::to_str),
            &resources,
            &self.spec.annotations().clone().unwrap_or_default(),
            self.runtime.rootless,
        )
    }

    /// Answers with the first process, and our side of its terminal.
    fn run_criu(
        &self,
        cgroup: &Cgroup,
        rootfs: &Path,
        place: &Path,
        record: &mut Record,
    ) -> Result<(Child, Option<OwnedFd>)> {
        let (spec, bundle) = (self.spec, &self.options.bundle);
        let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let (message, joined) =
            external::restore_namespaces(Message::default(), spec, FIRST_FILE + streams.len() as i32)?;
        let message = external::restore_streams(message, &self.options.criu.images, FIRST_FILE)?;
        let message = external::restore_mounts(message, spec, bundle, cgroup, &self.folder.notify())?;
        let files: Vec<BorrowedFd<'_>> = streams.into_iter().chain(joined.iter().map(AsFd::as_fd)).collect();
        let entrance = cgroup.entrance()?;
        // criu mounts in the folders that we open for it, so they have to be open in its own mount namespace.
        let (images, criu) = with_root_at(rootfs, place, || {
            let images = Images::open(&self.options.criu, LOG)?;
            Ok((images, Criu::start(&Setup { files, entrance: Some(&entrance) })?))
        })?;
        let message = self.own_options(images.options(message, &self.options.criu), place, criu.pid())?;
        let (mut child, mut terminal) = (None, None);
        criu.perform(Request::Restore, &message, &images.log, &mut |mut moment: Moment<'_>| {
            match (moment.name, moment.pid) {
                ("setup-namespaces", Some(pid)) => self.at_namespaces(pid)?,
                ("orphan-pts-master", _) => terminal = moment.files.pop().or(terminal.take()),
                // Nothing of it runs before this is answered.
                ("post-restore", Some(pid)) => {
                    child = Some(self.at_restored(record, pid)?);
                }
                _ => {}
            }
            Ok(())
        })?;
        match child {
            Some(child) => Ok((child, terminal)),
            None => Err(Error::new(Kind::Corrupt, "criu restored the container and named no process")),
        }
    }

    /// What only a restore says.
    fn own_options(&self, message: Message, place: &Path, criu: Pid) -> Result<Message> {
        let mut message = message
            .bytes(field::ROOT, place.as_os_str().as_encoded_bytes())
            .switch(field::RST_SIBLING, true)
            // Its own `/dev` has other numbers than the saved one.
            .switch(field::EVASIVE_DEVICES, true);
        let texts = [
            (field::LSM_PROFILE, &self.options.lsm_profile),
            (field::LSM_MOUNT_CONTEXT, &self.options.lsm_mount_context),
        ];
        for (number, text) in texts {
            if let Some(text) = text {
                message = message.bytes(number, text);
            }
        }
        if self.options.criu.cgroups == super::CgroupsMode::Ignore {
            return Ok(message);
        }
        // The saved cgroups become those that criu is in by now: the new container's.
        let file = format!("/proc/{}/cgroup", criu.as_raw_nonzero());
        let text = fs::read_to_string(&file).doing(|| format!("read {file}"))?;
        for line in text.lines() {
            let mut words = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (words.next(), words.next()) else { continue };
            for controller in controllers.split(',') {
                let root = Message::default().bytes(1, controller).bytes(2, path);
                message = message.bytes(field::CG_ROOT, root);
            }
        }
        Ok(message)
    }

    /// The namespaces are there, and nothing in them.
    fn at_namespaces(&self, pid: Pid) -> Result<()> {
        let pid = pid.as_raw_nonzero().get();
        let linux = self.spec.linux().as_ref();
        let list = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        let own = |path: &Option<PathBuf>| path.as_ref().is_none_or(|path| path == Path::new(""));
        if list.iter().any(|one| one.typ() == LinuxNamespaceType::Network && own(one.path())) {
            external::raise_loopback(pid).doing(|| "bring up the loopback interface")?;
        }
        let Some(all) = self.spec.hooks() else { return Ok(()) };
        let bundle = &self.options.bundle;
        let state = launch::hook_state(self.spec, self.folder.id(), bundle, "creating", pid);
        let of = |list: &Option<Vec<Hook>>| list.clone().unwrap_or_default();
        hooks::run("prestart", &of(all.prestart()), &state, bundle)?;
        hooks::run("createRuntime", &of(all.create_runtime()), &state, bundle)
    }

    /// All of it is there, and does not run yet.
    fn at_restored(&self, record: &mut Record, pid: Pid) -> Result<Child> {
        let number = pid.as_raw_nonzero().get();
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .doing(|| format!("pidfd_open({number})"))?;
        record.pid = number;
        record.began = process::began(number).unwrap_or(0);
        if let Some(wanted) = self.spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) {
            record.rdt = rdt::join(wanted, self.folder.id(), pid)?;
        }
        self.folder.write_record(record)?;
        Ok(Child { pid, pidfd })
    }

    /// It runs: the caller is told.
    fn finish(&self, record: Record, child: &Child, terminal: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
        let terminal = send_terminal(terminal, self.options.console_socket.as_deref())?;
        tell_pid(self.options.pid_file.as_deref(), None, child.pid, child.pidfd.as_fd())?;
        let folder = Folder::open(&self.runtime.root, self.folder.id())?;
        let container = Container { folder, record: Some(record.clone()) };
        container.after_start(self.spec, &record, child.pidfd.as_fd(), None)?;
        Ok(terminal)
    }
}

/// What to say where criu has lost `no_new_privs` on the way, as those before 4.0 do: a set-user-ID program can give
/// the container's processes what they did not have.
fn lost_privilege_lock(spec: &Spec, pid: Pid) -> Option<String> {
    if spec.process().as_ref()?.no_new_privileges() != Some(true) {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let set = status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:"))?.trim() == "1";
    (!set).then(|| {
        "process.noNewPrivileges: this criu does not restore it, so set-user-ID programs work in the container"
            .to_owned()
    })
}

/// Does something in a mount namespace in which a root file system is seen at `place` as well, and comes back.
///
/// criu wants a root that is a mount point with nothing mounted over what is above it. Who is started here stays here,
/// and when it ends, however it does, the mount is gone.
fn with_root_at<T>(rootfs: &Path, place: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let what = || format!("show criu the root file system {}", rootfs.display());
    let open = |path: &Path, flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).doing(|| format!("open({path:?})"))
    };
    let back = open(Path::new("/proc/self/ns/mnt"), OFlags::RDONLY)?;
    let folder = open(Path::new("."), OFlags::PATH)?;
    process::unshare(namespace::MOUNT).doing(what)?;
    let laid = || {
        mount::set_propagation_of_all(Propagation::Slave)?;
        Detached::clone_path(rootfs, true)?.attach(open(place, OFlags::PATH | OFlags::DIRECTORY)?)
    };
    let result = laid().doing(what).and_then(|()| work());
    process::enter(back.as_fd(), namespace::MOUNT)?;
    // Entering has taken us to `/`.
    rustix::process::fchdir(&folder).doing(|| "fchdir(back)")?;
    result
}
