//! The pool of warm networks: what the next container on the default network needs of the kernel and takes long to make,
//! made beforehand: a user and a network namespace, an id range, an address, the pair of links. One that was used is
//! never used again.
//!
//! ```text
//! <run>/warm/                        flock(2)ed by who fills it; where it is not, there is no pool
//!     size                           how many networks there are to be
//!     .<id>/                         one that is being made, or taken apart
//!     <id>/entry.json                one that is ready: its address, links, id range
//!          user, net                 its namespaces, each kept by a mount
//!     <id>.<container id>/           one that a container has taken
//!
//! system warm N ─▶ make … make        start ─▶ take: rename, claims passed on ─▶ launch enters the namespaces
//! monitor, once the container has settled or ended ─▶ look_after: unpin what it took, make another
//! sweep ─▶ what is half made, not as the network is now, or of a container that is gone, is taken apart
//! ```
//!
//! Its claims (see [`range`](crate::range) and [`tare_network::endpoint`]) are in the name of its own id until it is
//! taken. Without its folder they are nobody's, so taking it apart is no more than removing that.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};
use tare_network::network::DEFAULT;
use tare_network::{Connection, Endpoint, Network, link, names as name_server};
use tare_runtime::launch::{explain_clone, map_ids};
use tare_sys::channel::Channel;
use tare_sys::netlink::Netlink;
use tare_sys::process::{self, Child, Side, namespace};
use tare_sys::{Context, Error, Kind, Result, rootless};

use crate::container::{Record, Roots};
use crate::engine::{Engine, need_root};
use crate::network::{networks, wanted};
use crate::policy::{self, Share, Sharing};
use crate::range::Range;
use crate::removal::names;
use crate::sweep;

/// The most there can be: each keeps an address, an id range, and 300 KiB of the kernel's memory.
pub const MOST: usize = 256;

/// The files that a network's namespaces are kept by.
const PINS: [(&str, LinuxNamespaceType); 2] =
    [("user", LinuxNamespaceType::User), ("net", LinuxNamespaceType::Network)];

/// `entry.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Host id of its root.
    base: u32,
    /// The network as it was.
    network: Network,
    /// What is there on it.
    endpoint: Endpoint,
    /// Number and MTU of the bridge that it hangs on.
    bridge: (u32, u32),
    /// Device and inode of its network namespace: what `net` is as long as it is kept.
    kept: (u64, u64),
}

/// What a container takes from the pool.
#[derive(Debug)]
pub struct Made {
    /// Its id range, which it holds already.
    pub range: Range,
    /// Its network, and what it has there.
    pub connection: Connection,
    /// The namespaces to enter.
    pub namespaces: Vec<(LinuxNamespaceType, PathBuf)>,
}

/// The pool as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warm {
    /// How many networks there are to be.
    pub size: usize,
    /// The addresses of those that are ready.
    pub ready: Vec<String>,
}

/// The pool, where there is one.
#[derive(Debug)]
pub struct Pool<'a> {
    roots: &'a Roots,
    folder: PathBuf,
    all: Vec<String>,
}

impl Pool<'_> {
    /// The pool, if there is one and the container asks for nothing that its networks have not: they are on the default
    /// network and have ids of their own. Without a pool, one system call.
    pub fn for_container<'a>(
        roots: &'a Roots,
        record: &Record,
        sharing: &Sharing,
    ) -> Result<Option<Pool<'a>>> {
        let own = [&sharing.user, &sharing.network].iter().all(|share| **share == Share::Private);
        if !own || rootless::is_on() {
            return Ok(None);
        }
        let wanted = wanted(&record.request)?;
        let usual = |settings: &crate::request::EndpointSettings| {
            settings.ipam_config.as_ref().is_none_or(|ipam| *ipam == Default::default())
                && settings.mac_address.is_empty()
        };
        match &wanted[..] {
            [(name, settings)] if name == DEFAULT && usual(settings) => Ok(Pool::open(roots)),
            _ => Ok(None),
        }
    }

    fn open(roots: &Roots) -> Option<Pool<'_>> {
        let folder = roots.run.join("warm");
        let entries = fs::read_dir(&folder).ok()?;
        let all = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        Some(Pool { roots, folder, all })
    }

    fn ready(&self) -> impl Iterator<Item = &String> {
        self.all.iter().filter(|name| !name.contains('.') && name.as_str() != "size")
    }

    /// Takes one that is ready, for a container whose run folder the caller has locked. `None`: it has to make its own.
    pub fn take(&self, container: &str) -> Option<Made> {
        for id in self.ready() {
            let name = format!("{id}.{container}");
            let folder = self.folder.join(&name);
            // Only one can do that.
            if fs::rename(self.folder.join(id), &folder).is_err() {
                continue;
            }
            match self.pass_on(id, container, &folder) {
                Ok(made) => return Some(made),
                // It is not what it was. The start does without.
                Err(_) => take_apart(&self.folder, &name),
            }
        }
        None
    }

    /// Has the container hold what was held for it.
    fn pass_on(&self, id: &str, container: &str, folder: &Path) -> Result<Made> {
        let entry = Entry::read(folder)?;
        entry.check(self.roots, folder)?;
        let range = Range::based(&self.roots.run, entry.base);
        range.pass_on(id, container)?;
        let endpoint = Endpoint { container: container.to_owned(), ..entry.endpoint };
        networks(self.roots).pass_on(&endpoint)?;
        Ok(Made {
            range,
            connection: Connection { network: entry.network, endpoint },
            namespaces: PINS.map(|(file, kind)| (kind, folder.join(file))).into(),
        })
    }
}

impl Entry {
    fn read(folder: &Path) -> Result<Entry> {
        let path = folder.join("entry.json");
        let text = fs::read(&path).doing(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text)
            .map_err(|err| Error::new(Kind::Corrupt, format!("read {}: {err}", path.display())))
    }

    /// Whether it is of use: the network, the bridge and the namespaces are those that it was made with. A reboot that
    /// kept `/run` leaves plain files, and another mount namespace has none of the mounts.
    fn check(&self, roots: &Roots, folder: &Path) -> Result<()> {
        let stale = |what: &str| Error::new(Kind::Conflict, format!("{}: {what}", folder.display()));
        if inode(&folder.join("net"))? != self.kept {
            return Err(stale("its namespaces are gone"));
        }
        if networks(roots).find(DEFAULT)? != self.network {
            return Err(stale("the network is another one"));
        }
        match link::find(&Netlink::open()?, &self.network.link)? {
            Some(bridge) if (bridge.index, bridge.mtu) == self.bridge => Ok(()),
            _ => Err(stale("the bridge is another one")),
        }
    }
}

fn inode(path: &Path) -> Result<(u64, u64)> {
    let meta = fs::metadata(path).doing(|| format!("stat {}", path.display()))?;
    Ok((meta.dev(), meta.ino()))
}

/// Whether claims in this name are of the pool.
pub fn holds(roots: &Roots, id: &str) -> bool {
    names(&roots.run.join("warm")).iter().any(|name| name.trim_start_matches('.').starts_with(id))
}

/// For a container that has started: what it took is its own from here on, and the pool gets another.
pub fn look_after(roots: &Roots, container: &str) {
    let Some(pool) = Pool::open(roots) else { return };
    for name in pool.all.iter().filter(|name| taker(name) == Some(container)) {
        take_apart(&pool.folder, name);
    }
    // A failure leaves the pool short until the next start. Nobody waits for it.
    let _ = fill(roots, false);
}

/// Takes apart what is of no use to anybody.
pub fn sweep(roots: &Roots) {
    let Some(pool) = Pool::open(roots) else { return };
    if pool.all.iter().any(|name| taker(name) == Some(""))
        && let Ok(alone) = lock(&pool.folder, FlockOperation::NonBlockingLockExclusive)
    {
        // Nobody is at it: what is half made was left by one who was killed.
        for name in names(&pool.folder).iter().filter(|name| taker(name) == Some("")) {
            take_apart(&pool.folder, name);
        }
        drop(alone);
        // Who came meanwhile has left it to us.
        let _ = fill(roots, false);
    }
    for name in &pool.all {
        let folder = pool.folder.join(name);
        let of_use = match taker(name) {
            Some("") => true,
            Some(container) => sweep::is_there(roots, container),
            None if name == "size" => true,
            None => Entry::read(&folder).and_then(|entry| entry.check(roots, &folder)).is_ok(),
        };
        if !of_use {
            take_apart(&pool.folder, name);
        }
    }
}

/// The container that has taken one; `""` for one that is being made or taken apart.
fn taker(name: &str) -> Option<&str> {
    if name.starts_with('.') { Some("") } else { name.split_once('.').map(|(_, container)| container) }
}

/// Unpins the namespaces, which go where no container is in them, and with them their links.
fn take_apart(pool: &Path, name: &str) {
    let hidden = pool.join(format!(".{}", name.trim_start_matches('.')));
    // Nobody is to take it now; whoever has taken it already keeps it.
    if !name.starts_with('.') && fs::rename(pool.join(name), &hidden).is_err() {
        return;
    }
    for (file, _) in PINS {
        let path = hidden.join(file);
        // In a mount namespace without that mount there is nothing to unmount, and removing the file does it in the others.
        let _ = rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_file(hidden.join("entry.json"));
    let _ = fs::remove_dir(&hidden).or_else(|_| fs::remove_file(hidden));
}

fn lock(folder: &Path, how: FlockOperation) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let what = || format!("lock {}", folder.display());
    let folder = rustix::fs::open(folder, flags, Mode::empty()).doing(what)?;
    loop {
        match rustix::fs::flock(&folder, how) {
            Err(Errno::INTR) => continue,
            result => return result.doing(what).map(|()| folder),
        }
    }
}

fn size_of(folder: &Path) -> usize {
    fs::read_to_string(folder.join("size")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn set_size(folder: &Path, size: usize) -> Result<()> {
    let what = || format!("write {}", folder.join("size").display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).doing(what)?;
    let _lock = lock(folder, FlockOperation::LockExclusive)?;
    let new = folder.join(".size");
    fs::write(&new, size.to_string()).and_then(|()| fs::rename(&new, folder.join("size"))).doing(what)
}

/// Makes what is missing, and takes apart what is too many. `wait`: also where somebody else is at it.
fn fill(roots: &Roots, wait: bool) -> Result<()> {
    let operation =
        if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
    loop {
        let pool = roots.run.join("warm");
        let lock = match lock(&pool, operation) {
            // Who is at it looks again when it is done.
            Err(err) if !wait && err.errno() == Some(Errno::WOULDBLOCK) => return Ok(()),
            // Emptied meanwhile.
            Err(err) if err.errno() == Some(Errno::NOENT) => return Ok(()),
            lock => lock?,
        };
        loop {
            let Some(now) = Pool::open(roots) else { return Ok(()) };
            let (size, ready) = (size_of(&pool), now.ready().count());
            now.ready().skip(size).for_each(|name| take_apart(&pool, name));
            if ready >= size {
                break;
            }
            make(roots, &pool)?;
        }
        drop(lock);
        // What was taken after the last look has nobody else to replace it.
        let Some(now) = Pool::open(roots) else { return Ok(()) };
        let size = size_of(&pool);
        if now.ready().count() < size {
            continue;
        }
        if size == 0 {
            // Not as long as a container has one.
            let _ = fs::remove_dir(&pool);
        }
        return Ok(());
    }
}

/// Makes one. What fails is taken apart again.
fn make(roots: &Roots, pool: &Path) -> Result<()> {
    let mut random = [0; 32];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())
        .doing(|| "getrandom()")?;
    let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let hidden = format!(".{id}");
    let folder = pool.join(&hidden);
    fs::DirBuilder::new().mode(0o700).create(&folder).doing(|| format!("mkdir {}", folder.display()))?;
    let made = make_in(roots, &folder, &id).and_then(|()| {
        let ready = pool.join(&id);
        fs::rename(&folder, &ready).doing(|| format!("rename {}", folder.display()))
    });
    if made.is_err() {
        take_apart(pool, &hidden);
    }
    made.map_err(|err| err.context("make a network for the pool"))
}

fn make_in(roots: &Roots, folder: &Path, id: &str) -> Result<()> {
    let networks = networks(roots);
    let network = networks.find_or_make(DEFAULT)?;
    let seed = u32::from_str_radix(&id[..8], 16).unwrap_or_default();
    let range = Range::claim(&roots.run, id, seed)?;
    let endpoint = networks.claim(&network, id, id, &Default::default(), 0)?;
    let (ours, theirs) = Channel::pair()?;
    let child = match process::clone(namespace::USER | namespace::NET, None).map_err(explain_clone)? {
        Side::Parent(child) => child,
        // It is there until its namespaces are kept otherwise, or its parent is gone.
        Side::Child => {
            drop(ours);
            let _ = theirs.receive(&mut [0; 1]);
            process::exit_now(0)
        }
    };
    drop(theirs);
    let connection = [Connection { network, endpoint }];
    let kept = keep(roots, folder, &range, &connection, &child);
    drop(ours);
    let _ = process::wait(child.pidfd.as_fd());
    let (bridge, kept) = kept?;
    let [Connection { network, endpoint }] = connection;
    let entry = Entry { base: range.base, network, endpoint, bridge, kept };
    let text = serde_json::to_vec(&entry).map_err(|err| Error::new(Kind::Corrupt, err.to_string()))?;
    let path = folder.join("entry.json");
    fs::write(&path, text).doing(|| format!("write {}", path.display()))
}

/// Gives the namespaces of a process what a container needs in them, and keeps them. Answers the bridge, and which network
/// namespace it is.
fn keep(
    roots: &Roots,
    folder: &Path,
    range: &Range,
    connection: &[Connection],
    child: &Child,
) -> Result<((u32, u32), (u64, u64))> {
    let [uids, gids] = policy::id_mappings(range.maps()?)?;
    map_ids(child.pid, &uids, &gids)?;
    let pid = child.pid.as_raw_nonzero();
    let netns = crate::network::netns_of(pid.get())?;
    link::visit(netns.as_fd(), || {
        tare_sys::link::loopback_up()?;
        name_server::lead()
    })??;
    networks(roots).make_links(netns.as_fd(), connection, 0)?;
    let name = &connection[0].network.link;
    let bridge = link::find(&Netlink::open()?, name)?
        .ok_or_else(|| Error::new(Kind::Kernel, format!("look for the bridge {name}: it vanished again")))?;
    for (file, _) in PINS {
        let (source, target) = (format!("/proc/{pid}/ns/{file}"), folder.join(file));
        let what = || format!("mount {source} on {}", target.display());
        fs::File::create(&target).doing(what)?;
        rustix::mount::mount_bind(&source, &target).doing(what)?;
    }
    Ok(((bridge.index, bridge.mtu), inode(&folder.join("net"))?))
}

impl Engine {
    /// Sets how many networks the pool has, and makes them; 0: there is none any more.
    pub fn set_warm(&self, size: usize) -> Result<()> {
        need_root()?;
        if rootless::is_on() {
            return Err(Error::new(Kind::Unsupported, "keep warm networks as an ordinary user")
                .hint("it takes id ranges, which are root's to give"));
        }
        if size > MOST {
            return Err(Error::new(Kind::Usage, format!("keep {size} warm networks: {MOST} at most")));
        }
        let pool = self.roots.run.join("warm");
        let what = || format!("keep {size} warm networks in {}", pool.display());
        if size > 0 {
            let mut again = 0..16;
            loop {
                match set_size(&pool, size) {
                    // Whoever has emptied it before has just removed it.
                    Err(err) if err.errno() == Some(Errno::NOENT) && again.next().is_some() => {}
                    set => break set.doing(what)?,
                }
            }
        } else if pool.exists() {
            let _ = fs::remove_file(pool.join("size"));
        } else {
            return Ok(());
        }
        sweep::sweep(&self.roots)?;
        fill(&self.roots, true)?;
        // What those held that are no more.
        sweep::sweep(&self.roots)
    }

    /// The pool as it is now.
    pub fn warm(&self) -> Result<Warm> {
        sweep::sweep(&self.roots)?;
        let Some(pool) = Pool::open(&self.roots) else { return Ok(Warm::default()) };
        let address = |name: &String| {
            Entry::read(&pool.folder.join(name)).ok()?.endpoint.ipv4.map(|address| address.to_string())
        };
        let mut ready: Vec<_> = pool.ready().filter_map(address).collect();
        ready.sort();
        Ok(Warm { size: size_of(&pool.folder), ready })
    }
}
