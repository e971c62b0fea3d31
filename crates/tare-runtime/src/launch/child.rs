//! The child's part of a launch. It runs in the container's namespaces with the spec already in memory, and
//! never returns: it ends in exec, or in a message that says why not.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Process, Spec};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use tare_cgroup::Entrance;
use tare_sys::channel::Channel;
use tare_sys::mount::{self, Change, Detached, NewFs, Propagation, attr};
use tare_sys::path::Root;
use tare_sys::process::{self, Side, namespace};
use tare_sys::{Context, Error, Kind, Result, signal, tty};

use super::message::{self, FromChild, ToChild};
use super::{Launch, attach};
use crate::capability::Sets;
use crate::mounts::{Options, known_kind};
use crate::namespaces::Namespaces;
use crate::user::User;
use crate::{devices, init, masks, sysctl};

/// Runs to exec. The exit status is seen by nobody but a parent that has been told why already.
pub fn run(launch: &Launch<'_>, namespaces: &Namespaces, channel: Channel) -> ! {
    let failed = match set_up(launch, namespaces, &channel) {
        Ok(never) => match never {},
        Err(err) => err,
    };
    let _ = message::send(&channel, &FromChild::Failed(failed), &[]);
    process::exit_now(1)
}

enum Never {}

fn set_up(launch: &Launch<'_>, namespaces: &Namespaces, channel: &Channel) -> Result<Never> {
    // Asked while /proc is still the host's.
    let ignored = signal::ignored();
    // A process of a joined pid namespace must not look into us: we still hold host fds (CVE-2016-9962).
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .doing(|| "prctl(PR_SET_DUMPABLE)")?;
    if let Entrance::V1(_) = launch.entrance {
        launch.entrance.join().doing(|| "join the container's cgroup")?;
    }
    if namespaces.joined_user().is_some() {
        enter_then_clone(namespaces, channel)?;
    }
    if namespaces.make_cgroup {
        process::unshare(namespace::CGROUP)?;
    }
    expect(channel, &|message| matches!(message, ToChild::Mapped))?;
    if namespaces.makes(namespace::USER) || namespaces.joined_user().is_some() {
        become_root()?;
    }
    if namespaces.joined_user().is_none() {
        namespaces.enter_joined()?;
    }
    rustix::process::setsid().doing(|| "setsid()")?;
    process::new_session_keyring(c"tare")?;
    let spec = launch.spec;
    if namespaces.makes(namespace::UTS) {
        set_names(spec)?;
    }
    if namespaces.makes(namespace::NET) {
        tare_sys::link::loopback_up()?;
    }
    let process =
        spec.process().as_ref().ok_or_else(|| Error::new(Kind::Usage, "the spec has no process"))?;

    let mut own = build_own(launch)?;
    if let (Some(sysctls), Some(proc)) = (spec.linux().as_ref().and_then(|l| l.sysctl().as_ref()), own.proc())
    {
        sysctl::write(proc, sysctls, namespaces)?;
    }
    let files = expect(channel, &|message| matches!(message, ToChild::Mounts))?;
    let mut parents = files.into_iter().map(Detached::from_fd);
    mount::set_propagation_of_all(Propagation::Slave)?;
    let tree = parents.next().ok_or_else(|| Error::new(Kind::Corrupt, "launch: the parent sent no root"))?;
    // On top of the old root; pivot_root below turns the two round.
    let old = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open(\"/\")")?;
    tree.attach(&old)?;
    drop(old);
    let root = Root::new(OwnedFd::from(tree));
    rustix::process::fchdir(&root).doing(|| "fchdir(root)")?;

    let mut dev_null = None;
    // Exec closes everything at once; one by one it would be a tenth of all our system calls.
    let mut kept = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let options = Options::of(mount)?;
        let theirs = options.bind || devices::is_dev(mount);
        let built = if theirs { parents.next() } else { own.take(mount) };
        let built = built.ok_or_else(|| {
            Error::new(
                Kind::Corrupt,
                format!("launch: nobody built the mount on {}", mount.destination().display()),
            )
        })?;
        let place = attach(&root, mount.destination(), &built, options.bind)?;
        if devices::is_dev(mount) {
            dev_null = Some(built.open("null", OFlags::PATH)?);
        }
        kept.push((place, built));
    }
    if let Some(folder) = own.cgroup_folder.take() {
        attach_cgroups(&folder, &own.cgroups)?;
    }
    let terminal = match process.terminal() {
        Some(true) => Some(open_terminal(&root, own.devpts.as_ref(), launch, channel)?),
        _ => None,
    };
    if let Some(linux) = spec.linux() {
        masks::hide(&root, linux.masked_paths().as_deref().unwrap_or_default(), dev_null.as_ref())?;
        masks::make_read_only(&root, linux.readonly_paths().as_deref().unwrap_or_default())?;
    }
    let user = launch.user.resolve(&root)?;
    let folder = open_folder(&root, process.cwd())?;
    if spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
        mount::change_attached(&root, &Change { set: attr::RDONLY, ..Change::default() })
            .doing(|| "make the root file system read-only")?;
    }
    mount::pivot_to_cwd()?;
    rustix::process::fchdir(&folder).doing(|| format!("chdir to {}", process.cwd().display()))?;
    attach_stdio(launch, terminal, &user)?;
    let command = Command::of(process, &user)?;
    take_identity(process, launch, &user)?;
    process::close_on_exec_from(3)?;
    signal::reset(ignored);
    signal::unblock_all()?;
    if launch.init {
        init::split()?;
    }
    // Looked up as the user who will run it, so that a refusal is the right one.
    let program = command.find()?;
    command.is_not_us(&program)?;
    message::send(channel, &FromChild::Ready, &[])?;
    Err(command.execute(&program))
}

/// Waits for the parent's next message; a parent that is gone means that this container is not to be.
fn expect(channel: &Channel, wanted: &dyn Fn(&ToChild) -> bool) -> Result<Vec<OwnedFd>> {
    match message::receive::<ToChild>(channel)? {
        Some((message, files)) if wanted(&message) => Ok(files),
        Some((message, _)) => {
            Err(Error::new(Kind::Corrupt, format!("launch: unexpected message {message:?}")))
        }
        None => process::exit_now(1),
    }
}

/// Enters the joined namespaces and clones the real child there, as the parent's own child.
fn enter_then_clone(namespaces: &Namespaces, channel: &Channel) -> Result<()> {
    namespaces.enter_joined()?;
    // The new namespaces belong to the joined user namespace, so we have to be its root to make them.
    become_root()?;
    match process::clone_sibling(namespaces.make)? {
        Side::Child => Ok(()),
        Side::Parent(child) => {
            message::send(
                channel,
                &FromChild::Cloned(child.pid.as_raw_nonzero().get()),
                &[child.pidfd.as_fd()],
            )?;
            process::exit_now(0)
        }
    }
}

fn become_root() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    rustix::thread::set_thread_res_gid(gid, gid, gid).doing(|| "setresgid(0, 0, 0)")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).doing(|| "setresuid(0, 0, 0)")?;
    rustix::thread::set_thread_groups(&[]).doing(|| "setgroups([])")?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "prctl(PR_SET_DUMPABLE)")
}

fn set_names(spec: &Spec) -> Result<()> {
    if let Some(name) = spec.hostname() {
        rustix::system::sethostname(name.as_bytes()).doing(|| format!("sethostname({name:?})"))?;
    }
    if let Some(name) = spec.domainname() {
        rustix::system::setdomainname(name.as_bytes()).doing(|| format!("setdomainname({name:?})"))?;
    }
    Ok(())
}

/// The mounts that belong to the container's own namespaces, built and not yet attached.
#[derive(Default)]
struct Own {
    built: Vec<(PathBuf, Detached)>,
    devpts: Option<OwnedFd>,
    cgroup_folder: Option<OwnedFd>,
    cgroups: Vec<(String, Detached)>,
}

impl Own {
    fn take(&mut self, mount: &Mount) -> Option<Detached> {
        let at = self.built.iter().position(|(destination, _)| destination == mount.destination())?;
        Some(self.built.remove(at).1)
    }

    fn proc(&self) -> Option<&Detached> {
        self.built.iter().find(|(destination, _)| destination == Path::new("/proc")).map(|(_, mount)| mount)
    }
}

fn build_own(launch: &Launch<'_>) -> Result<Own> {
    let mut own = Own::default();
    for mount in launch.spec.mounts().iter().flatten() {
        let options = Options::of(mount)?;
        if options.bind || devices::is_dev(mount) {
            continue;
        }
        let kind = mount.typ().as_deref().unwrap_or("none");
        let built = match kind {
            // On v1 there is one hierarchy a controller, gathered in a small folder (cgroups(7)).
            "cgroup" if matches!(launch.entrance, Entrance::V1(_)) => {
                let folder = NewFs::open("tmpfs")?.string("mode", "755")?.string("size", "64k")?;
                let folder = folder.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
                own.cgroup_folder = Some(folder.as_fd().try_clone_to_owned().doing(|| "dup(cgroup folder)")?);
                own.cgroups = build_cgroups(launch.cgroup_mounts)?;
                folder
            }
            "cgroup" => options.build_new("cgroup2", mount)?,
            kind => {
                let known = known_kind(kind).ok_or_else(|| {
                    Error::new(Kind::Usage, format!("mount {kind:?} on {}", mount.destination().display()))
                        .hint("the types are bind, tmpfs, proc, sysfs, devpts, mqueue, cgroup")
                })?;
                options.build_new(known, mount).map_err(|err| explain_new(err, known))?
            }
        };
        if kind == "devpts" {
            own.devpts = Some(built.as_fd().try_clone_to_owned().doing(|| "dup(devpts)")?);
        }
        own.built.push((mount.destination().clone(), built));
    }
    Ok(own)
}

fn build_cgroups(mounts: &[(String, Vec<String>)]) -> Result<Vec<(String, Detached)>> {
    mounts
        .iter()
        .map(|(name, options)| {
            let mut fs = NewFs::open("cgroup")?;
            for option in options {
                fs = match option.split_once('=') {
                    Some((key, value)) => fs.string(key, value)?,
                    None => fs.flag(option)?,
                };
            }
            let mount = fs.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
            Ok((name.clone(), mount))
        })
        .collect()
}

/// Attaches the hierarchies in their folder, a tmpfs that we made and nobody else has touched; it was
/// writable only for this.
fn attach_cgroups(folder: &OwnedFd, mounts: &[(String, Detached)]) -> Result<()> {
    for (name, mount) in mounts {
        let what = || format!("attach the cgroup {name}");
        rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o555)).doing(what)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        mount.attach(rustix::fs::openat(folder, name, flags, Mode::empty()).doing(what)?)?;
    }
    mount::change_attached(folder, &Change { set: attr::RDONLY, ..Change::default() })
}

fn explain_new(err: Error, kind: &str) -> Error {
    if err.errno() == Some(Errno::PERM) && matches!(kind, "proc" | "sysfs") {
        return err.hint(format!(
            "the kernel refuses a new {kind} to a user namespace while the caller's own is partly covered (a container in a container); try --userns=host"
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
    let devpts = devpts.ok_or_else(|| {
        Error::new(Kind::Usage, "open a terminal: the spec mounts no devpts").hint("mount devpts on /dev/pts")
    })?;
    let (ours, theirs) = tty::open_pair(devpts)?;
    if let Some((columns, rows)) = launch.terminal_size {
        tty::set_size(&ours, columns, rows)?;
    }
    message::send(channel, &FromChild::Terminal, &[ours.as_fd()])?;
    let console = Detached::clone_fd(&theirs, false)?;
    attach(root, Path::new("/dev/console"), &console, true)?;
    Ok(theirs)
}

/// Opens the working folder inside the root, making it where the image forgot to, as Docker does. A link to
/// a folder of the host held open by us cannot be followed (CVE-2024-21626).
fn open_folder(root: &Root, path: &Path) -> Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(Error::new(
            Kind::Usage,
            format!("working folder {}: not an absolute path", path.display()),
        ));
    }
    root.make_dirs(path, Mode::from_raw_mode(0o755))
        .doing(|| format!("open the working folder {}", path.display()))
}

fn attach_stdio(launch: &Launch<'_>, terminal: Option<OwnedFd>, user: &User) -> Result<()> {
    match (&terminal, launch.stdio) {
        (Some(terminal), _) => {
            tty::control(terminal)?;
            for target in 0..3 {
                process::dup_onto(terminal.as_fd(), target)?;
            }
            rustix::fs::fchown(terminal, Some(Uid::from_raw(user.uid)), None).doing(|| "fchown(terminal)")?;
        }
        (None, Some(files)) => {
            for (file, target) in files.into_iter().zip(0..) {
                own_pipe(file, user);
                process::dup_onto(file, target)?;
            }
        }
        (None, None) => {}
    }
    Ok(())
}

/// Lets the user open `/dev/stdout` again, which is their pipe. Files and terminals of the caller stay as
/// they are: a host's `/dev/null` is never chowned.
fn own_pipe(file: BorrowedFd<'_>, user: &User) {
    let pipe =
        rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    if pipe {
        // Where it is not ours to give (an inherited pipe), only the re-opening by name is lost.
        let _ = rustix::fs::fchown(file, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    }
}

/// Becomes the user, with the spec's capabilities and filter.
fn take_identity(process: &Process, launch: &Launch<'_>, user: &User) -> Result<()> {
    let sets = Sets::of(process.capabilities().as_ref());
    let no_new_privileges = process.no_new_privileges() == Some(true);
    sets.limit_bounding()?;
    rustix::thread::set_keep_capabilities(true).doing(|| "prctl(PR_SET_KEEPCAPS)")?;
    let groups: Vec<Gid> = user.groups.iter().map(|id| Gid::from_raw(*id)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&groups)
        .doing(|| format!("setgroups({:?})", user.groups))
        .map_err(explain_id)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .doing(|| format!("setresgid({})", user.gid))
        .map_err(explain_id)?;
    // Without no_new_privs, loading a filter needs CAP_SYS_ADMIN, which is about to go.
    if let (Some(filter), false) = (launch.filter, no_new_privileges) {
        tare_sys::seccomp::load(&filter.program, filter.flags)?;
    }
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .doing(|| format!("setresuid({})", user.uid))
        .map_err(explain_id)?;
    rustix::thread::set_keep_capabilities(false).doing(|| "prctl(PR_SET_KEEPCAPS)")?;
    // Changing the uid made us dumpable by the container's own root again where the host says so.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .doing(|| "prctl(PR_SET_DUMPABLE)")?;
    sets.apply()?;
    if let Some(mask) = process.user().umask() {
        rustix::process::umask(Mode::from_raw_mode(mask));
    } else {
        rustix::process::umask(Mode::from_raw_mode(0o022));
    }
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).doing(|| "prctl(PR_SET_NO_NEW_PRIVS)")?;
        if let Some(filter) = launch.filter {
            tare_sys::seccomp::load(&filter.program, filter.flags)?;
        }
    }
    Ok(())
}

fn explain_id(err: Error) -> Error {
    match err.errno() {
        Some(Errno::INVAL) => err.with_kind(Kind::Usage).hint(
            "the container's user namespace has the ids 0 to 65535; use one of these, or --userns=host",
        ),
        _ => err,
    }
}

/// What is to be executed.
struct Command {
    args: Vec<CString>,
    env: Vec<CString>,
    path: String,
}

impl Command {
    fn of(process: &Process, user: &User) -> Result<Command> {
        let nul = |what: &str| Error::new(Kind::Usage, format!("{what} with a NUL byte in it"));
        let args = process.args().as_deref().unwrap_or_default();
        let mut env: Vec<String> = process.env().clone().unwrap_or_default();
        if !env.iter().any(|pair| pair.starts_with("HOME=")) {
            env.push(format!("HOME={}", user.home));
        }
        let path =
            env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("/bin:/usr/bin").to_owned();
        let args = args
            .iter()
            .map(|arg| CString::new(arg.as_str()).map_err(|_| nul("an argument")))
            .collect::<Result<Vec<_>>>()?;
        let env = env
            .into_iter()
            .map(|pair| CString::new(pair).map_err(|_| nul("a variable")))
            .collect::<Result<_>>()?;
        if args.is_empty() {
            return Err(Error::new(Kind::Usage, "no command to run").hint("name one after the image"));
        }
        Ok(Command { args, env, path })
    }

    fn name(&self) -> String {
        self.args[0].to_string_lossy().into_owned()
    }

    /// The program's path, looked up in the container's PATH as execvp(3) would.
    fn find(&self) -> Result<CString> {
        let name = self.name();
        if name.is_empty() {
            return Err(self.refuse(Kind::CommandNotFound, "exec: \"\": executable file not found in $PATH"));
        }
        if name.contains('/') {
            return Ok(self.args[0].clone());
        }
        let mut denied = false;
        for folder in self.path.split(':') {
            let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(&name);
            match executable(&candidate) {
                Ok(true) => {
                    use std::os::unix::ffi::OsStrExt;
                    return CString::new(candidate.as_os_str().as_bytes())
                        .map_err(|_| Error::new(Kind::Usage, "PATH with a NUL byte in it"));
                }
                Ok(false) => denied = true,
                Err(_) => {}
            }
        }
        Err(if denied {
            self.refuse(Kind::CommandNotExecutable, &format!("exec: {name:?}: permission denied"))
        } else {
            self.refuse(Kind::CommandNotFound, &format!("exec: {name:?}: executable file not found in $PATH"))
                .hint(format!("the image has no such command in {}", self.path))
        })
    }

    /// Refuses to run our own binary inside: an image can name it through /proc/self/exe, and would then have a
    /// process of the host's file to work on (CVE-2019-5736).
    fn is_not_us(&self, program: &CString) -> Result<()> {
        let ours = rustix::fs::stat("/proc/self/exe");
        match (ours, rustix::fs::stat(program.as_c_str())) {
            (Ok(ours), Ok(theirs)) if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) => {
                Err(self.refuse(
                    Kind::CommandNotExecutable,
                    &format!(
                        "exec: {:?}: permission denied: it is the engine itself",
                        program.to_string_lossy()
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Executes; comes back only with the reason why not, in words that callers of runc look for.
    fn execute(&self, program: &CString) -> Error {
        let errno = process::exec(program, &self.args, &self.env);
        let path = program.to_string_lossy();
        match errno {
            Errno::NOENT if Path::new(&*path).exists() => self
                .refuse(Kind::CommandNotFound, &format!("exec: {path:?}: no such file or directory"))
                .hint("the file is there, but its interpreter or loader is not: look at its first line (CRLF?), or at its architecture"),
            Errno::NOENT | Errno::NOTDIR => self
                .refuse(Kind::CommandNotFound, &format!("exec: {path:?}: no such file or directory")),
            Errno::ACCESS if Path::new(&*path).is_dir() => {
                self.refuse(Kind::CommandNotExecutable, &format!("exec: {path:?}: is a directory"))
            }
            Errno::ACCESS => self
                .refuse(Kind::CommandNotExecutable, &format!("exec: {path:?}: permission denied"))
                .hint("is it executable for this user, on a mount without noexec?"),
            Errno::NOEXEC => self
                .refuse(Kind::CommandNotExecutable, &format!("exec: {path:?}: exec format error"))
                .hint("a program for another architecture, or a script without a first line like #!/bin/sh"),
            Errno::PERM => Error::syscall(format!("exec {path:?}"), errno)
                .with_kind(Kind::CommandNotExecutable)
                .hint("its file capabilities ask for more than the container may have"),
            _ => Error::syscall(format!("exec {path:?}"), errno).with_kind(Kind::CommandNotExecutable),
        }
    }

    fn refuse(&self, kind: Kind, words: &str) -> Error {
        Error::new(kind, words)
    }
}

fn executable(path: &Path) -> std::result::Result<bool, Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(false);
    }
    match rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    ) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}
