//! `tare attach`: stand between a container that runs and the terminal.

use std::io::{self, IsTerminal};

use tare_engine::{Attach, Attachment, Engine, Keys};
use tare_sys::{Error, Kind, Result};

use crate::container::run;
use crate::print::failure;
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub const DETACH_KEYS: Flag =
    Flag::one("detach-keys", "string", "ctrl-a,d", "Keys that leave the container (usually ctrl-p,ctrl-q)");

pub static ATTACH: Verb = Verb {
    about: "Attach stdin, stdout and stderr to a running container",
    operands: "[OPTIONS] CONTAINER",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[
        DETACH_KEYS,
        Flag::switch("no-stdin", "Do not attach stdin"),
        Flag::switch("sig-proxy", "Pass signals on to the process (default true)"),
    ],
    act: attach,
    failed: 1,
};

fn attach(engine: &Engine, given: &Given) -> Result<u8> {
    let [container] = given.words()[..] else {
        return Err(Error::new(Kind::Usage, "one container can be attached to"));
    };
    let config = engine.inspect(container)?["Config"].clone();
    let is = |field: &str| config[field].as_bool().unwrap_or(false);
    let stdin = is("OpenStdin") && !given.on("no-stdin")?;
    if is("Tty") && stdin && !io::stdin().is_terminal() {
        return Err(
            Error::new(Kind::Usage, "the input device is not a TTY").hint("use --no-stdin to look on only")
        );
    }
    let attach = Attach { stdin, stdout: true, stderr: true, keys: keys(given)? };
    let attachment = engine.attach(container, attach)?;
    follow(attachment, given.maybe("sig-proxy")?.unwrap_or(true) && !is("Tty"))
}

/// The keys that leave.
pub fn keys(given: &Given) -> Result<Keys> {
    given.text("detach-keys").filter(|text| !text.is_empty()).map_or(Ok(Keys::default()), Keys::parse)
}

/// Stands between until it ends, or the caller leaves.
pub fn follow(attachment: Attachment, pass_signals: bool) -> Result<u8> {
    let Some(exit) = attachment.relay(pass_signals)? else {
        eprintln!("read escape sequence");
        return Ok(0);
    };
    run::explain(&exit);
    if exit.unknown {
        failure::warn("the container's monitor was killed, so nobody knows how the container ended");
    }
    Ok(exit.code)
}
