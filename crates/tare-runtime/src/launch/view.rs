//! What the container sees: its own mounts built, all mounts attached, the terminal, the masks, and the step
//! over to the new root.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tare_sys::channel::Channel;
use tare_sys::mount::{self, Change, Detached, NewFs, Propagation, attr};
use tare_sys::path::Root;
use tare_sys::process::{self, namespace};
use tare_sys::{Context, Error, Kind, Result, tty};

use super::child::{Start, expect};
use super::message::{self, FromChild, ToChild};
use super::{Launch, hook_state, outside};
use crate::mounts::{self, Options};
use crate::rootfs::Rootfs;
use crate::{annotations, copy_up, devices, hooks, masks, sysctl};

/// The container's view, not yet stepped into.
pub struct View {
    /// The container's `/`.
    pub root: Root,
    /// The container's end of its terminal.
    pub terminal: Option<OwnedFd>,
    /// A mount namespace of its own, whose old root can be dropped.
    own: bool,
}

/// Sets everything up.
pub fn set_up(start: &Start<'_>, channel: &Channel) -> Result<View> {
    if start.namespaces.makes(namespace::MOUNT) {
        in_own_namespace(start, channel)
    } else {
        in_foreign_namespace(start, channel)
    }
}

/// In a mount namespace that others live in nothing may be mounted: the root is a folder that is there.
fn in_foreign_namespace(start: &Start<'_>, channel: &Channel) -> Result<View> {
    let spec = start.launch.spec;
    if let Some(joined) = start.namespaces.joined(namespace::MOUNT) {
        process::enter(joined.as_fd(), namespace::MOUNT)?;
    }
    if start.builder == outside::Builder::Parent {
        expect(channel, &|message| matches!(message, ToChild::Mounts { .. }))?;
    }
    let linux = spec.linux().as_ref();
    let wants = [
        ("mounts", spec.mounts().as_ref().map_or(0, Vec::len)),
        ("maskedPaths", linux.and_then(|linux| linux.masked_paths().as_ref()).map_or(0, Vec::len)),
        ("readonlyPaths", linux.and_then(|linux| linux.readonly_paths().as_ref()).map_or(0, Vec::len)),
        ("root.readonly", usize::from(is_read_only(start.launch))),
    ];
    if let Some((what, _)) = wants.iter().find(|(_, count)| *count > 0) {
        return Err(Error::new(
            Kind::Usage,
            format!("{what}: the container has no mount namespace of its own, so they would be others' too"),
        )
        .hint("add a namespace of type \"mount\" without a path to the spec, or leave them out"));
    }
    let Rootfs::Directory(path) = start.launch.rootfs else {
        return Err(Error::new(Kind::Unsupported, "stack layers without a mount namespace of one's own"));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open({path:?})"))?;
    let root = Root::new(root);
    let hooked = run_hooks(start, channel);
    hooked?;
    let wants_terminal = spec.process().as_ref().is_some_and(|process| process.terminal() == Some(true));
    let terminal = match wants_terminal {
        true => Some(open_terminal(&root, None, start.launch, channel)?),
        false => None,
    };
    Ok(View { root, terminal, own: false })
}

fn in_own_namespace(start: &Start<'_>, channel: &Channel) -> Result<View> {
    let launch = start.launch;
    let spec = launch.spec;
    let linux = spec.linux().as_ref();
    let mut own =
        Own::build(launch, start.namespaces.private(namespace::CGROUP) || start.namespaces.make_cgroup)?;
    if let Some(sysctls) = linux.and_then(|linux| linux.sysctl().as_ref()).filter(|all| !all.is_empty()) {
        sysctl::write(own.proc()?, sysctls, start.namespaces)?;
    }
    let propagation = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
    let (early, late) = mounts::root_propagation(propagation)?;
    let (without_nodes, built) = match start.builder {
        outside::Builder::Parent => {
            match expect(channel, &|message| matches!(message, ToChild::Mounts { .. }))? {
                (ToChild::Mounts { without_nodes }, files) => {
                    (without_nodes, files.into_iter().map(Detached::from_fd).collect())
                }
                _ => (false, Vec::new()),
            }
        }
        outside::Builder::Child => {
            let built = outside::build_with(launch, None, None)?;
            (built.without_nodes, built.mounts)
        }
    };
    mount::set_propagation_of_all(early)?;
    let private = early == Propagation::Private;
    let no_pivot = launch.bundle.is_some_and(|bundle| bundle.no_pivot);
    if no_pivot {
        hide_hosts_own()?;
    }
    let mut built = built.into_iter();
    let tree = built.next().ok_or_else(|| Error::new(Kind::Corrupt, "launch: nobody built the root"))?;
    tree.attach(place_of_root(launch)?)?;
    let root = Root::new(OwnedFd::from(tree));
    rustix::process::fchdir(&root).doing(|| "fchdir(root)")?;
    if private {
        let change = Change { propagation: Some(early), recursive: true, ..Change::default() };
        mount::change_attached(&root, &change).doing(|| "set rootfsPropagation")?;
    }

    let mut dev = devices::Dev::OfImage;
    let mut dev_null = None;
    let mut kept = Vec::new();
    let mut kernels = masks::Kernels::default();
    for mount in spec.mounts().iter().flatten() {
        let options = Options::of(mount)?;
        let theirs = options.bind || devices::is_dev(mount);
        let built = if theirs { built.next() } else { own.take(mount) };
        let built = built.ok_or_else(|| {
            Error::new(
                Kind::Corrupt,
                format!("launch: nobody built the mount on {}", mount.destination().display()),
            )
        })?;
        if options.copy_up
            && let Some(covered) = root.find(mount.destination())?
        {
            copy_up::copy_tree(covered.as_fd(), built.as_fd())
                .doing(|| format!("tmpcopyup to {}", mount.destination().display()))?;
            options.finish_copy_up(&built)?;
        }
        let place = mounts::attach(&root, mount, &options, &built)?;
        if devices::is_dev(mount) {
            if !without_nodes {
                dev_null = Some(built.open("null", OFlags::PATH)?);
            }
            dev = devices::Dev::Ours;
        } else if mount.destination() == Path::new("/dev") {
            dev = devices::Dev::Foreign;
        }
        kernels.note(mount.destination(), &built)?;
        kept.push((place, built));
    }
    own.attach_cgroups(&root)?;
    devices::complete(&root, spec, dev, without_nodes)?;
    run_hooks(start, channel)?;
    let process = spec.process().as_ref();
    let terminal = match process.and_then(|process| process.terminal()) {
        Some(true) => Some(open_terminal(&root, own.devpts.as_ref(), launch, channel)?),
        _ => None,
    };
    if let Some(linux) = linux {
        let (masked, read_only) = (linux.masked_paths().as_deref(), linux.readonly_paths().as_deref());
        masks::hide(&root, &kernels, masked.unwrap_or_default(), dev_null.as_ref())?;
        masks::make_read_only(&root, &kernels, read_only.unwrap_or_default())?;
    }
    // After the last thing made in it, even the working folder.
    if let Some(path) = process.map(|process| process.cwd()) {
        make_working_folder(&root, path)?;
    }
    if is_read_only(launch) {
        mount::change_attached(&root, &Change { set: attr::RDONLY, ..Change::default() })
            .doing(|| "make the root file system read-only")?;
    }
    if let Some((propagation, recursive)) = late {
        let change = Change { propagation: Some(propagation), recursive, ..Change::default() };
        mount::change_attached(&root, &change).doing(|| "set rootfsPropagation")?;
    }
    // Exec closes everything at once; one by one it would be a tenth of all our system calls.
    std::mem::forget((kept, own, dev_null, kernels));
    Ok(View { root, terminal, own: !no_pivot })
}

fn is_read_only(launch: &Launch<'_>) -> bool {
    launch.spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true))
}

impl View {
    /// Opens the working folder inside the root. A link to a folder of the host held open by us cannot be
    /// followed (CVE-2024-21626).
    pub fn working_folder(&self, path: &Path) -> Result<OwnedFd> {
        open_working_folder(&self.root, path)
    }

    /// Makes the root ours. What came before is gone for good, but without pivot_root.
    pub fn enter(&self) -> Result<()> {
        rustix::process::fchdir(&self.root).doing(|| "fchdir(root)")?;
        if self.own {
            return mount::pivot_to_cwd();
        }
        rustix::process::chroot(".").doing(|| "chroot(\".\")")
    }
}

/// Opens the folder that the process begins in, in words that callers of runc look for.
pub fn open_working_folder(root: &Root, path: &Path) -> Result<OwnedFd> {
    let refuse = |kind: Kind, why: &str| {
        Error::new(kind, format!("chdir to cwd ({path:?}) set in config.json failed: {why}"))
    };
    if !path.is_absolute() {
        return Err(refuse(Kind::Usage, "not an absolute path"));
    }
    root.open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(|err| match err.errno() {
        Some(Errno::NOENT) => refuse(Kind::CommandNotFound, "no such file or directory"),
        Some(Errno::NOTDIR) => refuse(Kind::CommandNotExecutable, "not a directory"),
        Some(Errno::ACCESS) => refuse(Kind::CommandNotExecutable, "permission denied"),
        Some(Errno::LOOP) => refuse(Kind::Corrupt, "it leads through a link of /proc, or in a circle"),
        _ => err,
    })
}

/// Makes the working folder where the image forgot to, as Docker does.
fn make_working_folder(root: &Root, path: &Path) -> Result<()> {
    if !path.is_absolute() || root.find(path).is_ok_and(|found| found.is_some()) {
        return Ok(());
    }
    root.make_dirs(path, Mode::from_raw_mode(0o755))
        .map(drop)
        .doing(|| format!("make the working folder {}", path.display()))
}

/// Where the root is attached: over its own path for those hooks that look for it there, else over `/`, from
/// where nothing has to be looked up.
fn place_of_root(launch: &Launch<'_>) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if has_early_hooks(launch)
        && let Some(path) = launch.hooked.and_then(|hooked| hooked.root)
        && !launch.bundle.is_some_and(|bundle| bundle.no_pivot)
        && let Ok(place) = rustix::fs::open(path, flags, Mode::empty())
    {
        return Ok(place);
    }
    rustix::fs::open("/", flags, Mode::empty()).doing(|| "open(\"/\")")
}

fn has_early_hooks(launch: &Launch<'_>) -> bool {
    launch.hooked.is_some()
        && launch.spec.hooks().as_ref().is_some_and(|hooks| {
            has_hooks_outside(hooks)
                || hooks.create_container().as_ref().is_some_and(|hooks| !hooks.is_empty())
        })
}

fn has_hooks_outside(hooks: &oci_spec::runtime::Hooks) -> bool {
    [hooks.prestart(), hooks.create_runtime()].into_iter().flatten().any(|hooks| !hooks.is_empty())
}

/// Lets the parent run its hooks, then runs the one kind that is ours.
fn run_hooks(start: &Start<'_>, channel: &Channel) -> Result<()> {
    let launch = start.launch;
    let hooks = launch.spec.hooks().as_ref().filter(|_| launch.hooked.is_some());
    if launch.network.is_some() || hooks.is_some_and(has_hooks_outside) {
        message::send(channel, &FromChild::Attached, &[])?;
        expect(channel, &|message| matches!(message, ToChild::Go))?;
    }
    let (Some(hooked), Some(hooks)) = (launch.hooked, hooks) else { return Ok(()) };
    if let Some(list) = hooks.create_container() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let state = hook_state(launch.spec, hooked.id, hooked.folder, "creating", pid);
        hooks::run("createContainer", list, &state, hooked.folder)?;
    }
    Ok(())
}

/// Without pivot_root the old root stays below ours, so what there is the host's own to see is taken away first.
fn hide_hosts_own() -> Result<()> {
    for path in ["/proc", "/sys"] {
        mount::unmount(path).or_else(|_| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let place = rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open({path:?})"))?;
            NewFs::open("tmpfs")?.string("size", "0")?.mount(attr::RDONLY)?.attach(place)
        })?;
    }
    Ok(())
}

/// The mounts that belong to the container's own namespaces, built and not yet attached.
#[derive(Default)]
struct Own {
    built: Vec<(PathBuf, Detached)>,
    /// A procfs for our own use, where the spec mounts none.
    private_proc: Option<Detached>,
    devpts: Option<OwnedFd>,
    cgroup_folder: Option<OwnedFd>,
    cgroups: Vec<(String, Detached)>,
    cgroups_read_only: bool,
}

impl Own {
    fn build(launch: &Launch<'_>, has_cgroup_namespace: bool) -> Result<Own> {
        let mut own = Own::default();
        let label = annotations::mount_label(launch.spec)?;
        for mount in launch.spec.mounts().iter().flatten() {
            let options = Options::of(mount)?;
            if options.bind || devices::is_dev(mount) {
                continue;
            }
            let built = match mount.typ().as_deref().unwrap_or("none") {
                "cgroup" | "cgroup2" => own.build_cgroup(launch, mount, &options, has_cgroup_namespace)?,
                kind => options.build_new(kind, mount, label).map_err(|err| explain_new(err, kind))?,
            };
            if mount.typ().as_deref() == Some("devpts") {
                own.devpts = Some(built.as_fd().try_clone_to_owned().doing(|| "dup(devpts)")?);
            }
            own.built.push((mount.destination().clone(), built));
        }
        Ok(own)
    }

    fn take(&mut self, mount: &Mount) -> Option<Detached> {
        let at = self.built.iter().position(|(destination, _)| destination == mount.destination())?;
        Some(self.built.remove(at).1)
    }

    /// A procfs that nobody else has touched.
    fn proc(&mut self) -> Result<&Detached> {
        if let Some(at) = self.built.iter().position(|(destination, _)| destination == Path::new("/proc")) {
            return Ok(&self.built[at].1);
        }
        if self.private_proc.is_none() {
            self.private_proc = Some(NewFs::open("proc")?.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?);
        }
        self.private_proc.as_ref().ok_or_else(|| Error::new(Kind::Kernel, "no procfs"))
    }

    fn build_cgroup(
        &mut self,
        launch: &Launch<'_>,
        mount: &Mount,
        options: &Options,
        has_namespace: bool,
    ) -> Result<Detached> {
        if launch.cgroup_mounts.is_empty() {
            return match own_cgroup_tree(options, has_namespace) {
                // A user namespace may not, where the cgroup namespace is not its own.
                Err(err) if matches!(err.errno(), Some(Errno::PERM | Errno::BUSY)) => hosts_cgroup_tree(),
                result => result,
            }
            .doing(|| format!("mount cgroup on {}", mount.destination().display()));
        }
        // On v1 there is one hierarchy a controller, gathered in a small folder (cgroups(7)).
        let folder = NewFs::open("tmpfs")?.string("mode", "755")?.string("size", "64k")?;
        let folder = folder.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
        self.cgroups_read_only = !has_namespace || options.attributes() & attr::RDONLY != 0;
        self.cgroup_folder = Some(folder.as_fd().try_clone_to_owned().doing(|| "dup(cgroup folder)")?);
        let attributes =
            attr::NOSUID | attr::NODEV | attr::NOEXEC | if self.cgroups_read_only { attr::RDONLY } else { 0 };
        self.cgroups = match launch.bundle.filter(|_| !has_namespace) {
            Some(bundle) => bind_cgroups(&bundle.cgroup.paths(), attributes)?,
            None => new_cgroups(launch.cgroup_mounts, attributes)?,
        };
        Ok(folder)
    }

    /// Attaches the hierarchies in their folder, a tmpfs that we made and nobody else has touched; it was
    /// writable only for this.
    fn attach_cgroups(&mut self, _root: &Root) -> Result<()> {
        let Some(folder) = self.cgroup_folder.take() else { return Ok(()) };
        for (name, mount) in &self.cgroups {
            let what = || format!("attach the cgroup {name}");
            rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o555)).doing(what)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            mount.attach(rustix::fs::openat(&folder, name, flags, Mode::empty()).doing(what)?)?;
            // Mounted together, each has its own name as well.
            for alone in name.split(',').filter(|alone| *alone != name) {
                rustix::fs::symlinkat(name, &folder, alone).doing(what)?;
            }
        }
        if self.cgroups_read_only {
            mount::change_attached(&folder, &Change { set: attr::RDONLY, ..Change::default() })?;
        }
        Ok(())
    }
}

/// The unified tree as the container's cgroup namespace shows it. Without a namespace it is the host's: a new mount
/// would be writable (CVE-2023-25809), and made from the first cgroup namespace it would set the options of the
/// host's mount anew, such as `nsdelegate` (`apply_cgroup_root_flags` in kernel/cgroup/cgroup.c).
fn own_cgroup_tree(options: &Options, has_namespace: bool) -> Result<Detached> {
    if has_namespace { NewFs::open("cgroup2")?.mount(options.attributes()) } else { hosts_cgroup_tree() }
}

/// The host's tree, to look at.
fn hosts_cgroup_tree() -> Result<Detached> {
    let tree = Detached::clone_path(Path::new("/sys/fs/cgroup"), true)?;
    let attributes = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    tree.change(&Change { set: attributes, recursive: true, ..Change::default() })?;
    Ok(tree)
}

/// The hierarchies as the cgroup namespace shows them.
fn new_cgroups(mounts: &[(String, Vec<String>)], attributes: u64) -> Result<Vec<(String, Detached)>> {
    let mount = |(name, words): &(String, Vec<String>)| {
        let mut fs = NewFs::open("cgroup")?;
        for word in words {
            fs = match word.split_once('=') {
                Some((key, value)) => fs.string(key, value)?,
                None => fs.flag(word)?,
            };
        }
        Ok((name.clone(), fs.mount(attributes)?))
    };
    mounts.iter().map(mount).collect()
}

/// The container's own folders of the host's hierarchies: without a namespace a new mount would show all of it.
fn bind_cgroups(paths: &BTreeMap<String, String>, attributes: u64) -> Result<Vec<(String, Detached)>> {
    let bind = |(name, path): (&String, &String)| {
        let tree = Detached::clone_path(Path::new(path), false)?;
        tree.change(&Change {
            set: attributes,
            propagation: Some(Propagation::Private),
            ..Change::default()
        })?;
        Ok((name.clone(), tree))
    };
    paths.iter().filter(|(name, _)| !name.is_empty()).map(bind).collect()
}

fn explain_new(err: Error, kind: &str) -> Error {
    if err.errno() == Some(Errno::PERM) && matches!(kind, "proc" | "sysfs") {
        return err.hint(format!(
            "the kernel refuses a new {kind} to a user namespace while the caller's own is partly covered (a container in a container), or where the network namespace is the host's (sysfs); try --userns=host, or bind the host's"
        ));
    }
    err
}

/// Opens the container's terminal, sends our side to the parent and binds theirs to `/dev/console`.
fn open_terminal(
    root: &Root,
    devpts: Option<&OwnedFd>,
    launch: &Launch<'_>,
    channel: &Channel,
) -> Result<OwnedFd> {
    let (ours, theirs) = match devpts {
        Some(devpts) => tty::open_pair(devpts)?,
        None => open_pair_in(root)?,
    };
    let process = launch.spec.process().as_ref();
    let wished = process.and_then(|process| process.console_size());
    let wished = wished.map(|size| (size.width() as u16, size.height() as u16));
    if let Some((columns, rows)) = launch.terminal_size.or(wished) {
        tty::set_size(&ours, columns, rows)?;
    }
    message::send(channel, &FromChild::Terminal, &[ours.as_fd()])?;
    if devpts.is_some() {
        let console = Detached::clone_fd(&theirs, false)?;
        mounts::attach_at(root, Path::new("/dev/console"), &console)?;
    }
    Ok(theirs)
}

/// A new terminal of the devpts that is mounted at `/dev/pts` inside; nothing else will do (CVE-2025-52565).
pub fn open_pair_in(root: &Root) -> Result<(OwnedFd, OwnedFd)> {
    /// `DEVPTS_SUPER_MAGIC` (linux/magic.h).
    const DEVPTS: u64 = 0x1cd1;
    let what = || "open a terminal in the container's /dev/pts";
    let devpts = root
        .open(Path::new("/dev/pts"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
        .doing(what)
        .map_err(|err| err.hint("mount devpts on /dev/pts"))?;
    let stat = rustix::fs::fstatfs(&devpts).doing(|| "fstatfs(/dev/pts)")?;
    if stat.f_type as u64 != DEVPTS {
        return Err(Error::new(Kind::Corrupt, format!("{}: it is not a devpts", what()))
            .hint("mount devpts on /dev/pts"));
    }
    let pair = tty::open_pair(&devpts)?;
    let stat = rustix::fs::fstat(&pair.0).doing(|| "fstat(ptmx)")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || rustix::fs::major(stat.st_rdev) != 5
    {
        return Err(Error::new(Kind::Corrupt, format!("{}: its ptmx is not a terminal's", what())));
    }
    Ok(pair)
}
