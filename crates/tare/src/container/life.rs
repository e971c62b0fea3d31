//! The verbs that change what a container is doing: `pause`, `rename`, `restart`, `unpause`, `wait`.

use tare_engine::Engine;
use tare_sys::{Error, Kind, Result};

use crate::container::containers::{STOP_SIGNAL, STOP_TIMEOUT, seconds, signal};
use crate::print::failure::each;
use crate::print::terminal::say;
use crate::words::flag::Given;
use crate::words::tree::Verb;

const fn on_some(about: &'static str, act: fn(&Engine, &Given) -> Result<u8>) -> Verb {
    Verb {
        about,
        operands: "CONTAINER [CONTAINER...]",
        least: |_| 1,
        most: usize::MAX,
        words_end_options: false,
        flags: &[],
        act,
        failed: 1,
    }
}

pub static PAUSE: Verb = on_some("Pause all processes within one or more containers", |engine, given| {
    Ok(each(&given.words(), |word| engine.pause(word).and_then(|()| say(&format!("{word}\n")))))
});

pub static UNPAUSE: Verb = on_some("Unpause all processes within one or more containers", |engine, given| {
    Ok(each(&given.words(), |word| engine.unpause(word).and_then(|()| say(&format!("{word}\n")))))
});

pub static WAIT: Verb =
    on_some("Wait until one or more containers stop, then print their exit codes", |engine, given| {
        Ok(each(&given.words(), |word| {
            let exit = engine.wait(word)?;
            say(&format!("{}\n", exit.code))
        }))
    });

pub static RENAME: Verb = Verb {
    about: "Rename a container",
    operands: "CONTAINER NEW_NAME",
    least: |_| 2,
    most: 2,
    words_end_options: false,
    flags: &[],
    act: |engine, given| {
        let [container, name] = given.words()[..] else {
            return Err(Error::new(Kind::Usage, "a container and its new name are needed"));
        };
        engine.rename(container, name).map(|()| 0)
    },
    failed: 1,
};

pub static RESTART: Verb = Verb {
    about: "Restart one or more containers",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[STOP_SIGNAL, STOP_TIMEOUT],
    act: restart,
    failed: 1,
};

fn restart(engine: &Engine, given: &Given) -> Result<u8> {
    let (signal, timeout) = (given.value("signal", signal)?, given.value("timeout", seconds)?);
    Ok(each(&given.words(), |word| {
        engine.restart(word, signal, timeout)?;
        say(&format!("{word}\n"))
    }))
}
