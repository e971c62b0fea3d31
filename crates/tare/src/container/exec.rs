//! `tare exec`: one more process in a container that runs.

use std::io::{self, IsTerminal};

use tare_engine::{Engine, ExecRequest};
use tare_sys::{Error, Kind, Result};

use crate::container::attach;
use crate::container::run::environment;
use crate::print::failure;
use crate::words::flag::{Flag, Given};
use crate::words::parse;
use crate::words::tree::Verb;

pub static EXEC: Verb = Verb {
    about: "Execute a command in a running container",
    operands: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    least: |_| 2,
    most: usize::MAX,
    words_end_options: true,
    flags: &[
        Flag::switch("detach", "Run the command in the background").short('d'),
        attach::DETACH_KEYS,
        Flag::many("env", "KEY=value", "Set environment variables (KEY alone takes the caller's value)")
            .short('e'),
        Flag::many("env-file", "app.env", "Read environment variables from a file"),
        Flag::switch("interactive", "Keep stdin open").short('i'),
        Flag::switch("privileged", "Give all capabilities to the command"),
        Flag::switch("tty", "Give the command a terminal").short('t'),
        Flag::one("user", "string", "1000:1000", "User to run as (name|uid[:group|gid])").short('u'),
        Flag::one("workdir", "string", "/app", "Folder to start in").short('w'),
    ],
    act: exec,
    failed: 1,
};

fn exec(engine: &Engine, given: &Given) -> Result<u8> {
    let request = ExecRequest {
        cmd: given.strings_after(1),
        env: environment(given)?,
        user: given.text("user").unwrap_or_default().to_owned(),
        working_dir: given.value("workdir", parse::absolute)?.unwrap_or_default(),
        privileged: given.on("privileged")?,
        tty: given.on("tty")?,
        stdin: given.on("interactive")? && !given.on("detach")?,
        detach: given.on("detach")?,
        keys: attach::keys(given)?,
    };
    if request.tty && request.stdin && !io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "the input device is not a TTY")
            .hint("leave out -t (--tty) when stdin is a file or a pipe"));
    }
    let container = given.words().first().copied().unwrap_or_default();
    match engine.exec(container, &request) {
        Err(error) => {
            let code = match error.kind() {
                Kind::CommandNotFound => 127,
                Kind::CommandNotExecutable => 126,
                _ => return Err(error),
            };
            failure::print(&error);
            Ok(code)
        }
        code => code,
    }
}
