//! Imports an archive into a store and says how fast that was: `import ARCHIVE STORE NAME`.
#![forbid(unsafe_code)]

use std::time::Instant;

use tare_image::{ImageStore, ImportOptions, Reference};
use tare_sys::{Context, Error, Kind, Result};

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [archive, store, name] = &words[..] else {
        return Err(Error::new(Kind::Usage, "usage: import ARCHIVE STORE NAME"));
    };
    let file = std::fs::File::open(archive).doing(|| format!("open({archive:?})"))?;
    let start = Instant::now();
    let last = std::cell::Cell::default();
    let options =
        ImportOptions { progress: Some(&|progress| last.set(progress)), ..ImportOptions::default() };
    let image = ImageStore::open(store.as_ref())?.import(file, &Reference::parse(name)?, &options)?;
    let (seconds, progress) = (start.elapsed().as_secs_f64(), last.get());
    let megabytes = progress.bytes_out as f64 / 1e6;
    println!(
        "{}: {} entries, {megabytes:.0} MB of tar in {seconds:.2} s, {:.0} MB/s",
        image.id,
        progress.entries,
        megabytes / seconds
    );
    Ok(())
}
