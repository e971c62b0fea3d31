//! The machine itself: qemu, the share, the disk, and what the command says on its way out.
//!
//! ```text
//! /run                       a tmpfs of our own namespace, which goes with it
//!   root/                    the read-only view of / that virtiofsd serves
//!   guest/                   init, and tare-vm/ with the scripts and the command: part of the initramfs
//!   initrd
//!   share.sock               virtiofsd <-> qemu
//!   out, err, status         sockets: what comes out of the guest's three ports
//!   console, qemu.log, virtiofsd.log
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::vm::share::{self, ROOT, RUN};
use crate::vm::{Options, SLOWNESS, cache, kernel};
use crate::workspace::{Workspace, program, quoted, run as run_program};

/// The exit status for a guest that never told one.
pub const BROKEN: u8 = 125;
/// The exit status for a guest that took too long, as timeout(1) has it.
const TOO_LONG: u8 = 124;
/// The exit status for a guest that the emulation broke while the command ran: see [`STALE_CODE`].
pub const BROKEN_BY_EMULATION: u8 = 123;

/// What the guest's kernel says when it dies of a flaw of the emulation. The kernel switches parts of its code on
/// and off while it runs (jump labels: the first device filter of a cgroup does it, and so does the first limit of
/// the processor); for a moment there is an `int3` where it does. qemu without KVM now and then keeps the
/// translation of that moment, and runs into it later.
const STALE_CODE: &str = "int3: 0000 [#";

/// Sparse: only what the guest writes takes room, and it is gone afterwards.
const DISK: u64 = 16 << 30;
/// The guest's memory in MiB; this machine gives only what is touched.
const MEMORY: &str = "4096";
const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// Nothing but the console, no checks of things that are not there, and no wait for what TCG cannot give. An oops
/// ends the guest: else the test whose process it killed would be blamed.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet loglevel=4 nokaslr mitigations=off \
    cryptomgr.notests no_timer_check random.trust_bootloader=on audit=0 psi=1 \
    systemd.unified_cgroup_hierarchy=1 systemd.show_status=0 oops=panic";

/// What runs in the guest, by the name that it has there.
const SCRIPTS: [(&str, &str); 5] = [
    ("init", include_str!("guest/init.sh")),
    ("tare-vm/pid1", include_str!("guest/pid1.sh")),
    ("tare-vm/units", include_str!("guest/units.sh")),
    ("tare-vm/session", include_str!("guest/session.sh")),
    ("tare-vm/as-user", include_str!("guest/as-user.sh")),
];

/// Variables of ours that the command gets: what steers builds and tests, and nothing that is about this host.
pub fn is_passed(name: &str) -> bool {
    matches!(name, "PATH" | "LANG" | "TERM")
        || ["LC_", "CARGO", "RUST", "TARE_"].iter().any(|start| name.starts_with(start))
}

/// Boots, runs, and gives the exit status. Whoever calls is process 1 of a namespace that ends with it.
pub fn run(workspace: &Workspace, options: &Options) -> Result<u8> {
    let kernel = options.kernel.folder(&cache(workspace));
    // Not in RUN: what tests write there should not take memory. It has no name, so it cannot stay.
    let disk = tempfile::tempfile_in(cache(workspace)).context("making the guest's disk")?;
    share::prepare()?;
    // virtiofsd holds every file that the guest has looked at.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })?;

    let disk = format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd());
    write_initrd(workspace, options, &kernel)?;
    let mut boots = 1;
    loop {
        let why = match boot(&kernel, &disk, options)? {
            Boot::Told(status) => return Ok(status),
            Boot::TooLong => {
                eprintln!("vm: the command did not end within {} s (--timeout)", options.timeout.as_secs());
                return Ok(TOO_LONG);
            }
            Boot::Panicked(why) if boots < BOOTS => {
                eprintln!("vm: the guest's kernel died before it ran anything ({why}); booting again");
                boots += 1;
                continue;
            }
            Boot::Broken => {
                show_logs();
                eprintln!(
                    "vm: the emulation broke the guest's kernel (an int3 that is not there); run the command again"
                );
                return Ok(BROKEN_BY_EMULATION);
            }
            Boot::Died(why) | Boot::Panicked(why) => why,
        };
        show_logs();
        bail!("the guest told no exit status ({why}); what it said is above");
    }
}

/// How often to boot a guest whose kernel dies on the way, of [`STALE_CODE`] while devices are found.
const BOOTS: u32 = 3;

/// How a boot went.
enum Boot {
    /// The command's exit status.
    Told(u8),
    TooLong,
    /// The kernel died, and the command had not said a word.
    Panicked(String),
    /// By [`STALE_CODE`], in the middle of the command.
    Broken,
    Died(String),
}

fn boot(kernel: &Path, disk: &str, options: &Options) -> Result<Boot> {
    format_disk(disk)?;
    for socket in ["out", "err", "status", "share.sock"] {
        // Those of the boot before.
        let _ = fs::remove_file(Path::new(RUN).join(socket));
    }
    let mut share = start_share()?;
    let out = Port::listen("out", |port| pass(port, io::stdout()).unwrap_or(1))?;
    let err = Port::listen("err", |port| pass(port, io::stderr()).unwrap_or(1))?;
    let status = Port::listen("status", |mut port| {
        let mut text = String::new();
        // A guest that dies in the middle of the word has told no status.
        let _ = port.read_to_string(&mut text);
        text.trim().parse::<u8>().ok()
    })?;
    let mut qemu = qemu(kernel, disk).spawn().context("starting qemu (Debian package qemu-system-x86)")?;
    let ended = wait(&mut qemu, &mut share.0, options.timeout)?;
    let said = out.finish().unwrap_or(0) + err.finish().unwrap_or(0);
    if let Some(status) = status.finish().flatten() {
        return Ok(Boot::Told(status));
    }
    let console = fs::read(Path::new(RUN).join("console")).unwrap_or_default();
    let console = String::from_utf8_lossy(&console);
    let panicked = said == 0 && console.contains("Kernel panic");
    Ok(match ended {
        End::TooLong => Boot::TooLong,
        End::Itself(status) if panicked => Boot::Panicked(format!("qemu: {status}")),
        End::Itself(_) if console.contains(STALE_CODE) => Boot::Broken,
        End::Itself(status) => Boot::Died(format!("qemu: {status}")),
        End::Share(status) => Boot::Died(format!("virtiofsd ended before it: {status}")),
    })
}

fn format_disk(disk: &str) -> Result<()> {
    File::options().write(true).open(disk)?.set_len(DISK)?;
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"]);
    // It is thrown away, so nothing has to survive a crash.
    run_program(command.args(["-O", "^has_journal"]).arg(disk)).context("formatting the guest's disk")
}

fn write_initrd(workspace: &Workspace, options: &Options, kernel: &Path) -> Result<()> {
    let guest = Path::new(RUN).join("guest");
    fs::create_dir_all(guest.join("tare-vm"))?;
    for (name, text) in SCRIPTS {
        put_script(&guest.join(name), text)?;
    }
    put_script(&guest.join("tare-vm/command"), &command_script(options)?)?;
    let folder = std::env::current_dir()?;
    let keep = [&workspace.root, &workspace.target, &folder];
    let keep: Vec<String> = keep.iter().map(|folder| folder.to_string_lossy().into_owned()).collect();
    let config = [
        ("flavour", if options.systemd { "systemd" } else { "bare" }.to_owned()),
        ("user", if options.user { "tester" } else { "root" }.to_owned()),
        ("modules", kernel.join("modules").to_string_lossy().into_owned()),
        ("keep", keep.join("\n")),
    ];
    let lines = config.iter().map(|(name, value)| format!("{name}={}\n", quoted(value)));
    fs::write(guest.join("tare-vm/config"), lines.collect::<String>())?;

    // The kernel takes several archives after one another.
    let initrd = Path::new(RUN).join("initrd");
    fs::copy(kernel.join("initrd.cpio"), &initrd)?;
    kernel::pack(&guest, File::options().append(true).open(&initrd)?)
}

fn put_script(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text)?;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o755))?)
}

/// The command with its environment and folder, as a script for sh.
fn command_script(options: &Options) -> Result<String> {
    let mut script = format!("#!/bin/sh\nexport TARE_VM=1 TARE_TEST_SLOWNESS={SLOWNESS}\n");
    for (name, value) in std::env::vars().filter(|(name, _)| is_passed(name)) {
        script.push_str(&format!("export {name}={}\n", quoted(&value)));
    }
    let folder = std::env::current_dir()?;
    script.push_str(&format!("cd {} || exit 126\nexec", quoted(&folder.to_string_lossy())));
    for word in &options.command {
        script.push_str(&format!(" {}", quoted(word)));
    }
    script.push('\n');
    Ok(script)
}

/// The file server; the guest hangs without it, so it is killed when it goes out of scope, not before.
fn start_share() -> Result<Killed> {
    ensure!(
        Path::new(VIRTIOFSD).exists(),
        "there is no {VIRTIOFSD} (Debian 12's package qemu-system-common has it)"
    );
    let socket = Path::new(RUN).join("share.sock");
    let mut command = Command::new(VIRTIOFSD);
    command.arg(format!("--socket-path={}", socket.display()));
    // No pool: glib asks for the number of processors when its pool grows, and virtiofsd's own seccomp filter
    // kills it for the question (sched_getaffinity).
    command
        .args(["--thread-pool-size=0", "--rlimit-nofile=0", "-o"])
        .arg(format!("source={ROOT},sandbox=chroot,cache=always,log_level=err"));
    let log = Path::new(RUN).join("virtiofsd.log");
    command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
    let mut share = Killed(command.spawn().context("starting virtiofsd")?);
    let start = Instant::now();
    while !socket.exists() {
        if share.0.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(10) {
            show_logs();
            bail!("virtiofsd did not start; what it said is above");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(share)
}

fn qemu(kernel: &Path, disk: &str) -> Command {
    let path = program("qemu-system-x86_64").unwrap_or_else(|| "qemu-system-x86_64".into());
    let mut command = Command::new(path);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-M", "q35,memory-backend=memory,hpet=off", "-m", MEMORY, "-smp", "2"]);
    command.arg("-object").arg(format!("memory-backend-memfd,id=memory,size={MEMORY}M,share=on"));
    // The oldest processor that today's distributions run on: what it lacks, TCG need not emulate.
    command.args(["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"]);
    command.arg("-kernel").arg(kernel.join("vmlinux")).args(["-initrd", "/run/initrd"]);
    command.args(["-append", KERNEL_COMMAND_LINE, "-device", "virtio-rng-pci"]);
    command.args(["-chardev", "socket,id=share,path=/run/share.sock"]);
    command.args(["-device", "vhost-user-fs-pci,chardev=share,tag=host,queue-size=256"]);
    command.arg("-drive").arg(format!("if=none,id=disk,format=raw,cache=unsafe,file={disk}"));
    command.args(["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-serial-pci"]);
    for port in ["out", "err", "status"] {
        command.arg("-chardev").arg(format!("socket,id={port},path={RUN}/{port}"));
        command.arg("-device").arg(format!("virtserialport,chardev={port},name={port}"));
    }
    command.args(["-chardev", "file,id=console,path=/run/console", "-serial", "chardev:console"]);
    let log = || File::options().create(true).append(true).open("/run/qemu.log");
    command.stdin(Stdio::null());
    if let (Ok(out), Ok(err)) = (log(), log()) {
        command.stdout(out).stderr(err);
    }
    // Apart from the terminal, whose ^C would have it end as if the guest were broken.
    command.process_group(0);
    command
}

/// How a guest's life came to its end.
enum End {
    /// qemu ended by itself, as it does when the guest shuts down.
    Itself(ExitStatus),
    /// The file server ended under it, and every look at a file would wait for ever.
    Share(ExitStatus),
    TooLong,
}

/// Waits for the end, and brings it about where it will not come.
fn wait(qemu: &mut Child, share: &mut Child, limit: Duration) -> Result<End> {
    let start = Instant::now();
    let mut alone: Option<(Instant, ExitStatus)> = None;
    loop {
        if let Some(status) = qemu.try_wait()? {
            return Ok(End::Itself(status));
        }
        // It also ends when qemu lets go of it, on qemu's way out.
        match (alone, share.try_wait()?) {
            (None, Some(status)) => alone = Some((Instant::now(), status)),
            (Some((since, status)), _) if since.elapsed() > Duration::from_secs(3) => {
                kill(qemu)?;
                return Ok(End::Share(status));
            }
            _ => {}
        }
        if start.elapsed() > limit {
            kill(qemu)?;
            return Ok(End::TooLong);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn kill(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn show_logs() {
    for name in ["virtiofsd.log", "qemu.log", "console"] {
        let text = fs::read(Path::new(RUN).join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(60)..];
        if !last.is_empty() {
            eprintln!("vm: the end of {name}:\n{}", last.join("\n"));
        }
    }
}

/// A process that does not outlive its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One way out of the guest: a socket that qemu connects to, read in a thread.
struct Port<T> {
    name: &'static str,
    reader: JoinHandle<Option<T>>,
}

impl<T: Send + 'static> Port<T> {
    fn listen(name: &'static str, read: impl FnOnce(UnixStream) -> T + Send + 'static) -> Result<Port<T>> {
        let listener = UnixListener::bind(Path::new(RUN).join(name))?;
        let reader = thread::spawn(move || listener.accept().ok().map(|(stream, _)| read(stream)));
        Ok(Port { name, reader })
    }

    /// Called when qemu has ended: waits until all that it sent has been read.
    fn finish(self) -> Option<T> {
        // If qemu never came, the reader still waits for it: this visit lets it go.
        drop(UnixStream::connect(Path::new(RUN).join(self.name)));
        self.reader.join().ok().flatten()
    }
}

/// Copies to the end. Nobody reading our own output is no reason to stop the guest.
fn pass(mut from: UnixStream, mut to: impl Write) -> io::Result<u64> {
    let mut bytes = [0; 1 << 14];
    let mut passed = 0;
    let mut open = true;
    loop {
        let length = from.read(&mut bytes)?;
        if length == 0 {
            return Ok(passed);
        }
        open = open && to.write_all(&bytes[..length]).and_then(|()| to.flush()).is_ok();
        passed += length as u64;
    }
}
