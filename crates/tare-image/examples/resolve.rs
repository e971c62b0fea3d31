//! Looks an image up as often as it is told, and prints how long that takes in the middle, in nanoseconds:
//! `cargo run -p tare-image --example resolve -- STORE NAME TIMES`.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Instant;

use tare_image::ImageStore;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [store, name, times] = &words[..] else {
        return Err("usage: resolve STORE NAME TIMES".into());
    };
    let store = ImageStore::open(Path::new(store))?;
    let mut took = Vec::new();
    for _ in 0..times.parse::<usize>()?.max(1) {
        let start = Instant::now();
        store.resolve(name)?;
        took.push(start.elapsed());
    }
    took.sort();
    println!("{}", took[took.len() / 2].as_nanos());
    Ok(())
}
