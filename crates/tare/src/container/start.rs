//! `tare start`: start containers that were created or have ended.

use std::io::{self, IsTerminal};

use tare_engine::{Attach, Engine, Started};
use tare_sys::{Error, Kind, Result};

use crate::container::attach;
use crate::print::failure::{self, each};
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static START: Verb = Verb {
    about: "Start one or more stopped containers",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::switch("attach", "Attach stdout and stderr, and pass signals on").short('a'),
        Flag::one("checkpoint", "string", "c1", "Not supported; see `tare-oci restore`"),
        Flag::one("checkpoint-dir", "dir", "/srv/c", "Not supported; see `tare-oci restore`"),
        attach::DETACH_KEYS,
        Flag::switch("interactive", "Attach the container's stdin").short('i'),
    ],
    act: start,
    failed: 1,
};

fn start(engine: &Engine, given: &Given) -> Result<u8> {
    if let Some(long) = ["checkpoint", "checkpoint-dir"].into_iter().find(|long| given.text(long).is_some()) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("start --{long}: containers of the engine have no checkpoints"),
        )
        .hint("`tare-oci checkpoint` and `tare-oci restore` do that for OCI bundles"));
    }
    let (attach, stdin) = (given.on("attach")?, given.on("interactive")?);
    if attach || stdin {
        let [container] = given.words()[..] else {
            return Err(Error::new(Kind::Usage, "only one container can be attached to at a time")
                .hint("start the others without --attach and --interactive"));
        };
        return start_attached(
            engine,
            container,
            Attach { stdin, stdout: true, stderr: true, keys: attach::keys(given)? },
        );
    }
    Ok(each(&given.words(), |word| {
        if let Some(Started::Detached(warnings)) = engine.start_again(word, Attach::default())? {
            warnings.iter().for_each(|warning| failure::warn(warning));
        }
        say(&format!("{word}\n"))
    }))
}

fn start_attached(engine: &Engine, container: &str, attach: Attach) -> Result<u8> {
    let config = engine.inspect(container)?["Config"].clone();
    let is = |field: &str| config[field].as_bool().unwrap_or(false);
    let attach = Attach { stdin: attach.stdin && is("OpenStdin"), ..attach };
    if is("Tty") && attach.stdin && !io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "the input device is not a TTY"));
    }
    let Some(Started::Attached(mut attachment)) = engine.start_again(container, attach)? else {
        return Err(Error::new(Kind::Conflict, format!("the container {container} is running already")));
    };
    std::mem::take(&mut attachment.warnings).iter().for_each(|warning| failure::warn(warning));
    attach::follow(attachment, !is("Tty"))
}
