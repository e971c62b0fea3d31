//! A Debian kernel for the guest: fetched once, unpacked, never installed.
//!
//! ```text
//! target/vm/6.12/
//!   vmlinux        the kernel as ELF, which qemu starts without unpacking it in the emulated machine
//!   modules/       /lib/modules of the guest, uncompressed because that loads faster there
//!   initrd.cpio    busybox and the modules that the guest needs before it has a root
//!   release        the kernel's full version
//! ```
//!
//! The folder appears by a rename when all of it is there, so a half-made one is never used. The flavour is
//! Debian's cloud kernel: a third of the size of the full one, and for containers it lacks nothing but 9p.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{output, program, run};

/// What the guest loads before it has a root; each with what it needs itself.
const EARLY_MODULES: [&str; 6] =
    ["virtio_pci", "virtio_console", "virtio_blk", "virtio_rng", "virtiofs", "overlay"];

/// The kernels that a guest can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's own.
    V6_1,
    /// The newer one of Debian 12's security archive: `lowerdir+`, and mounts from a user namespace's view.
    #[default]
    V6_12,
}

impl Kernel {
    /// Reads `6.1` or `6.12`.
    pub fn named(name: &str) -> Result<Kernel> {
        match name {
            "6.1" => Ok(Kernel::V6_1),
            "6.12" => Ok(Kernel::V6_12),
            other => bail!("there is no kernel `{other}`: it is 6.1 or 6.12"),
        }
    }

    /// The package that depends on the newest build.
    fn package(self) -> &'static str {
        match self {
            Kernel::V6_1 => "linux-image-cloud-amd64",
            Kernel::V6_12 => "linux-image-6.12-cloud-amd64",
        }
    }

    /// Where this kernel lies in the cache.
    pub fn folder(self, cache: &Path) -> PathBuf {
        cache.join(self.to_string())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 => "6.12",
        })
    }
}

/// Makes sure that the kernel is in the cache; asks the network only if it is not.
pub fn prepare(cache: &Path, kernel: Kernel) -> Result<()> {
    let folder = kernel.folder(cache);
    if folder.exists() {
        return Ok(());
    }
    fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
    let lock = File::create(cache.join("lock"))?;
    lock.lock().context("waiting for another one that fetches a kernel")?;
    if folder.exists() {
        return Ok(());
    }
    eprintln!("vm: fetching kernel {kernel} into {}", folder.display());
    let work = tempfile::Builder::new().prefix("new-").tempdir_in(cache)?;
    let made = work.path().join("made");
    fs::create_dir(&made)?;
    download(kernel, work.path())
        .and_then(|package| unpack(&package, work.path(), &made))
        .with_context(|| format!("preparing kernel {kernel}"))?;
    fs::rename(&made, &folder)?;
    Ok(())
}

/// Fetches the package; a machine whose package lists are missing or old gets new ones first.
fn download(kernel: Kernel, into: &Path) -> Result<PathBuf> {
    ensure!(
        program("apt-get").is_some() && program("dpkg-deb").is_some(),
        "the guest's kernel is a Debian package, and there is no apt-get to fetch it with"
    );
    if let Ok(file) = download_listed(kernel, into) {
        return Ok(file);
    }
    run(Command::new("apt-get").args(["-q", "-y", "update"]).stdout(Stdio::null()))?;
    download_listed(kernel, into)
}

fn download_listed(kernel: Kernel, into: &Path) -> Result<PathBuf> {
    let depends = output(Command::new("apt-cache").args(["depends", "--important", kernel.package()]))?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let name = name.with_context(|| format!("apt knows no package {}", kernel.package()))?;
    // The folder is root's, so apt's own user could not write there.
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "APT::Sandbox::User=root", "download", name]).current_dir(into);
    output(&mut command)?;
    let files = fs::read_dir(into)?.flatten().map(|entry| entry.path());
    let mut debs = files.filter(|path| path.extension().is_some_and(|end| end == "deb"));
    debs.next().with_context(|| format!("`apt-get download {name}` left no file"))
}

fn unpack(package: &Path, work: &Path, made: &Path) -> Result<()> {
    let tree = work.join("tree");
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree))?;
    let modules = tree.join("lib/modules");
    let entry = fs::read_dir(&modules)?.next().context("the package has no modules")??;
    let release = entry.file_name().to_string_lossy().into_owned();
    unpack_image(&tree.join("boot").join(format!("vmlinuz-{release}")), made)?;

    run(Command::new("find").arg(&modules).args(["-name", "*.ko.xz", "-exec", "xz", "-d", "{}", "+"]))?;
    run(Command::new("depmod").arg("-b").arg(&tree).arg(&release))?;
    let initrd = work.join("initrd");
    lay_out_initrd(&tree, &release, &initrd)?;
    pack(&initrd, File::create(made.join("initrd.cpio"))?)?;
    fs::rename(&modules, made.join("modules"))?;
    fs::write(made.join("release"), release)?;
    Ok(())
}

/// Takes the ELF image out of a bzImage; the offsets are those of the kernel's x86 boot protocol.
fn unpack_image(image: &Path, made: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let stream = payload(&bytes).with_context(|| format!("{} is no bzImage", image.display()))?;
    let tool = match stream {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', ..] => "xz",
        [0x1f, 0x8b, ..] => "gzip",
        other => bail!("the kernel is compressed in an unknown way: {:x?}", other.get(..4)),
    };
    let (packed, vmlinux) = (made.join("packed"), made.join("vmlinux"));
    fs::write(&packed, stream)?;
    let mut command = Command::new(tool);
    command.args(["-d", "-c", "-q"]).stdin(File::open(&packed)?).stdout(File::create(&vmlinux)?);
    run(&mut command)?;
    fs::remove_file(&packed)?;
    ensure!(fs::read(&vmlinux)?.starts_with(b"\x7fELF"), "what {tool} unpacked is no ELF image");
    Ok(())
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| image.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let setup_sectors = usize::from(*image.get(0x1f1)?);
    let offset = usize::try_from(word(0x248)?).ok()?;
    let length = usize::try_from(word(0x24c)?).ok()?;
    let start = (setup_sectors + 1) * 512 + offset;
    // The last word is the unpacked size, which is no part of the stream.
    image.get(start..(start + length).checked_sub(4)?)
}

fn lay_out_initrd(tree: &Path, release: &str, initrd: &Path) -> Result<()> {
    for folder in ["bin", "modules", "proc", "sys", "dev", "lower", "upper", "root"] {
        fs::create_dir_all(initrd.join(folder))?;
    }
    let busybox = program("busybox").context("there is no busybox (Debian package busybox-static)")?;
    fs::copy(busybox, initrd.join("bin/busybox"))?;
    let mut command = Command::new("modprobe");
    command.arg("-d").arg(tree).args(["-S", release, "-a", "--show-depends"]).args(EARLY_MODULES);
    let mut order: Vec<String> = Vec::new();
    for line in output(&mut command)?.lines() {
        let Some(file) = line.trim().strip_prefix("insmod ").map(|file| Path::new(file.trim())) else {
            continue;
        };
        let name = file.file_name().context("a module without a name")?.to_string_lossy().into_owned();
        if !order.contains(&name) {
            fs::copy(file, initrd.join("modules").join(&name))?;
            order.push(name);
        }
    }
    fs::write(initrd.join("modules/order"), order.join("\n") + "\n")?;
    Ok(())
}

/// Writes the tree as a cpio archive, as the kernel wants an initramfs.
pub fn pack(tree: &Path, to: File) -> Result<()> {
    let mut find = Command::new("find").arg(".").current_dir(tree).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().context("find has no stdout")?;
    let mut cpio = Command::new("cpio");
    run(cpio.args(["-o", "-H", "newc", "--quiet"]).current_dir(tree).stdin(names).stdout(to))?;
    ensure!(find.wait()?.success(), "listing {} failed", tree.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_found_by_the_boot_protocol() {
        let mut image = vec![0; 2048];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&8u32.to_le_bytes());
        image[1040..1044].copy_from_slice(b"data");
        assert_eq!(payload(&image), Some(&b"data"[..]));
        image.truncate(1041);
        assert_eq!(payload(&image), None);
        assert_eq!(payload(b"MZ"), None);
    }

    #[test]
    fn kernels_go_by_their_version() {
        assert_eq!(Kernel::named("6.1").unwrap().to_string(), "6.1");
        assert_eq!(Kernel::default().to_string(), "6.12");
        assert!(Kernel::named("7.0").is_err());
    }
}
