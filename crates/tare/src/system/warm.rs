//! `tare system warm`: networks that are made before containers want them.

use tare_engine::Engine;
use tare_sys::{Error, Kind, Result};

use crate::print::table::{self, Column};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static WARM: Verb = Verb {
    about: "Keep networks ready for the next containers, or show those that are",
    operands: "[OPTIONS] [COUNT]",
    least: |_| 0,
    most: 1,
    words_end_options: false,
    flags: &[Flag::one(
        "format",
        "string",
        "json",
        "Print as 'table', 'json' or by a template ('{{.Size}} {{.Ready}}')",
    )],
    act: warm,
    failed: 1,
};

const COLUMNS: [Column; 4] =
    [("Network", "NETWORK"), ("Size", "SIZE"), ("Ready", "READY"), ("Addresses", "ADDRESSES")];

fn warm(engine: &Engine, given: &Given) -> Result<u8> {
    if let [count] = given.words()[..] {
        let size = count.parse().map_err(|_| {
            Error::new(Kind::Usage, format!("keep {count:?} warm networks: this is no number"))
                .hint("for example `tare system warm 4`; 0 keeps none")
        })?;
        engine.set_warm(size)?;
        return Ok(0);
    }
    let pool = engine.warm()?;
    let row = table::row([
        ("Network", "bridge".to_owned()),
        ("Size", pool.size.to_string()),
        ("Ready", pool.ready.len().to_string()),
        ("Addresses", pool.ready.join(",")),
    ]);
    table::print(given, &COLUMNS, &[], vec![row])?;
    Ok(0)
}
