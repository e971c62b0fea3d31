//! Making an archive readable from anywhere: what comes by a pipe, or compressed, is written to a file without a name.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tare_sys::{Context, Error, Kind, Result};

use crate::unpack::{Compression, Limits, magic};

/// Bytes that tell a tar, gzip and zstd apart.
const HEAD: u64 = 512;

/// The archive itself where it is a plain tar in a file, else a copy of what is in it.
pub(super) fn seekable(mut input: File, scratch: &Path) -> Result<File> {
    let read = || "read the archive";
    let mut head = Vec::new();
    (&mut input).take(HEAD).read_to_end(&mut head).doing(read)?;
    let compression = magic::detect(&head)?;
    let is_file = input.metadata().doing(read)?.is_file();
    if is_file {
        input.rewind().doing(read)?;
        head.clear();
        if compression == Compression::None {
            return Ok(input);
        }
    }
    // Anonymous: gone with us, however we go.
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let copy = rustix::fs::open(scratch, flags, Mode::RUSR | Mode::WUSR)
        .doing(|| format!("make a file in {}", scratch.display()))?;
    let mut copy = File::from(copy);
    let limits = Limits::default();
    let bytes = Counted { inner: io::Cursor::new(head).chain(input), count: 0 };
    let mut bytes = BufReader::with_capacity(128 << 10, bytes);
    match compression {
        Compression::None => drop(io::copy(&mut bytes, &mut copy).map_err(damaged)?),
        Compression::Gzip => inflate(flate2::bufread::MultiGzDecoder::new(bytes), &mut copy, &limits)?,
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes).doing(|| "start zstd")?;
            decoder.window_log_max(limits.zstd_window_log).doing(|| "limit the window of zstd")?;
            inflate(decoder, &mut copy, &limits)?;
        }
    }
    Ok(copy)
}

/// Copies until the end, or until more comes out than any archive of images has in it.
fn inflate(mut from: impl Read + Taken, to: &mut File, limits: &Limits) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    let mut out = 0u64;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(damaged(err)),
        };
        out += n as u64;
        if out > limits.ratio_after && out / limits.ratio > from.taken() {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the archive inflates beyond reason: {} bytes became more than {out}", from.taken()),
            )
            .hint("if you trust it, decompress it first"));
        }
        to.write_all(&buffer[..n]).doing(|| "write the archive to the store")?;
    }
}

fn damaged(err: io::Error) -> Error {
    match rustix::io::Errno::from_io_error(&err) {
        Some(errno) => Error::syscall("copy the archive to the store", errno),
        None => Error::new(Kind::Corrupt, format!("the archive is damaged: {err}")),
    }
}

/// Bytes that have been read from below a decoder.
trait Taken {
    fn taken(&self) -> u64;
}

struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        self.count += n as u64;
        Ok(n)
    }
}

impl<R: Read> Taken for flate2::bufread::MultiGzDecoder<BufReader<Counted<R>>> {
    fn taken(&self) -> u64 {
        self.get_ref().get_ref().count
    }
}

impl<R: Read> Taken for zstd::stream::read::Decoder<'_, BufReader<Counted<R>>> {
    fn taken(&self) -> u64 {
        self.get_ref().get_ref().count
    }
}
