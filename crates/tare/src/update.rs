//! `update`: other limits for containers that exist, also while they run.

use tare_engine::{Engine, Update};
use tare_sys::{Error, Kind, Result};

use crate::failure::each;
use crate::flag::{Flag, Given};
use crate::parse::bandwidth;
use crate::terminal::say;
use crate::tree::Verb;

pub static UPDATE: Verb = Verb {
    about: "Change limits of one or more containers",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::one(
            "net-delay",
            "time",
            "50ms",
            "Hold back everything that the container sends (0 to stop that)",
        ),
        Flag::one("net-loss", "percent", "1%", "Lose some of what the container sends (0% to stop that)"),
        Flag::one(
            "net-rate",
            "rates",
            "in=10mbit,out=2mbit",
            "Bandwidth of the container, each way (0 for any)",
        ),
    ],
    act: update,
    failed: 1,
};

fn update(engine: &Engine, given: &Given) -> Result<u8> {
    let rates = given.value("net-rate", bandwidth::rates)?.unwrap_or_default();
    let update = Update {
        net_in: rates.incoming,
        net_out: rates.outgoing,
        net_delay: given.value("net-delay", bandwidth::delay)?,
        net_loss: given.value("net-loss", bandwidth::loss)?,
    };
    if update == Update::default() {
        return Err(Error::new(Kind::Usage, "update: nothing to change")
            .hint("name a limit, --net-rate in=10mbit for instance"));
    }
    Ok(each(&given.words(), |word| {
        engine.update(word, &update)?;
        say(&format!("{word}\n"))
    }))
}
