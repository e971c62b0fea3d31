//! `tare-oci`: the OCI runtime, a drop-in for runc and crun. Their commands, options, output and words.
//!
//! ```text
//! words ─▶ sort (by the tables of options) ─▶ Call ─▶ create, exec, … ─▶ tare-runtime
//!                                              │                         └▶ foreground: signals, terminal, exit code
//!                                              └▶ failure ─▶ stderr, log
//! ```
//!
//! What a container is and does is `tare_runtime::container`'s affair. An option that is accepted has its effect.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tare_runtime::container::{Container, Runtime};
use tare_sys::{Error, Kind, Result};

use crate::print::terminal;
use crate::words::flag::{Flag, Given};
use crate::words::help;
use log::{Format, Level, Log};

mod checkpoint;
mod create;
mod events;
mod exec;
mod failure;
mod features;
mod foreground;
mod life;
mod list;
mod log;
mod spec;
mod update;
mod words;

/// The version of the specification that this follows.
pub const SPEC_VERSION: &str = "1.3.0";

/// One thing that can be done.
pub struct Command {
    name: &'static str,
    about: &'static str,
    /// What comes after the name, as the usage line shows it.
    operands: &'static str,
    /// How many words it needs that are no options, and how many it takes.
    words: (usize, usize),
    /// Everything after the first word belongs to somebody else: a command in the container, or ps(1).
    end_at_first: bool,
    flags: &'static [Flag],
    /// Does it; the value is the exit code.
    act: fn(&Call) -> Result<u8>,
    /// Exit code when the runtime itself fails: runc's.
    failed: u8,
}

impl Command {
    const fn new(
        name: &'static str,
        operands: &'static str,
        words: (usize, usize),
        flags: &'static [Flag],
        act: fn(&Call) -> Result<u8>,
        about: &'static str,
    ) -> Command {
        Command { name, about, operands, words, end_at_first: false, flags, act, failed: 1 }
    }

    const fn end_at_first(mut self) -> Command {
        self.end_at_first = true;
        self
    }

    const fn failing_with(mut self, code: u8) -> Command {
        self.failed = code;
        self
    }
}

/// One call of one command.
pub struct Call<'a> {
    given: Given<'a>,
    runtime: Runtime,
    log: &'a Log,
}

impl Call<'_> {
    /// The container that the first word names.
    fn id(&self) -> &str {
        self.given.words().first().copied().unwrap_or_default()
    }

    /// That container, which has to be there.
    fn container(&self) -> Result<Container> {
        self.runtime.container(self.id())
    }

    /// Says what went well enough but not quite.
    fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.log.write(Level::Warning, warning, log::Fields::new());
        }
    }

    /// A path, absolute: the container's process may have another working directory.
    fn path(&self, long: &str) -> Result<Option<PathBuf>> {
        let absolute = |text: &str| std::path::absolute(text).map_err(|err| err.to_string());
        self.given.value(long, absolute)
    }
}

static COMMANDS: [Command; 17] = [
    Command::new(
        "checkpoint",
        "[OPTIONS] ID",
        (1, 1),
        &checkpoint::CHECKPOINT,
        checkpoint::checkpoint,
        "Save a running container to files",
    ),
    Command::new(
        "create",
        "[OPTIONS] ID",
        (1, 1),
        &create::CREATE,
        create::create,
        "Create a container; its program waits for start",
    ),
    Command::new(
        "delete",
        "[OPTIONS] ID",
        (1, 1),
        &life::DELETE,
        life::delete,
        "Remove what is left of a container",
    ),
    Command::new(
        "events",
        "[OPTIONS] ID",
        (1, 1),
        &events::EVENTS,
        events::events,
        "Print what a container uses, and when it runs out of memory",
    ),
    Command::new(
        "exec",
        "[OPTIONS] ID COMMAND [ARG...] | -p FILE ID",
        (1, usize::MAX),
        &exec::EXEC,
        exec::exec,
        "Start one more process in a container",
    )
    .end_at_first()
    .failing_with(255),
    Command::new("features", "", (0, 0), &[], features::features, "Print what this runtime can do, as JSON"),
    Command::new(
        "kill",
        "[OPTIONS] ID [SIGNAL]",
        (1, 2),
        &life::KILL,
        life::kill,
        "Send a signal to a container (default SIGTERM)",
    ),
    Command::new("list", "[OPTIONS]", (0, 0), &list::LIST, list::list, "List containers"),
    Command::new("pause", "ID", (1, 1), &[], life::pause, "Freeze all processes of a container"),
    Command::new(
        "ps",
        "[OPTIONS] ID [PS OPTIONS]",
        (1, usize::MAX),
        &list::PS,
        list::ps,
        "List the processes of a container",
    )
    .end_at_first(),
    Command::new(
        "restore",
        "[OPTIONS] ID",
        (1, 1),
        &checkpoint::RESTORE,
        checkpoint::restore,
        "Make a container from saved files",
    ),
    Command::new("resume", "ID", (1, 1), &[], life::resume, "Let a frozen container go on"),
    Command::new(
        "run",
        "[OPTIONS] ID",
        (1, 1),
        &create::RUN,
        create::run,
        "Create a container, start it and wait for its end",
    ),
    Command::new("spec", "[OPTIONS]", (0, 0), &spec::SPEC, spec::spec, "Write a config.json to begin with"),
    Command::new("start", "ID", (1, 1), &[], life::start, "Start the program of a created container"),
    Command::new("state", "ID", (1, 1), &[], list::state, "Print the state of a container, as JSON"),
    Command::new(
        "update",
        "[OPTIONS] ID",
        (1, 1),
        &update::UPDATE,
        update::update,
        "Change the limits of a container",
    ),
];

/// Options before the command.
static GLOBAL: [Flag; 9] = [
    Flag::one(
        "cgroup-manager",
        "string",
        "cgroupfs",
        "Who makes cgroups: cgroupfs, systemd, or disabled for nobody",
    ),
    Flag::switch("debug", "Log what is being done (--log-level debug)"),
    Flag::one("log", "place", "/run/log.json", "Log to a file, or to journald:NAME or syslog:NAME"),
    Flag::one("log-format", "string", "json", "Lines of the log as text or json (default text)"),
    Flag::one("log-level", "string", "error", "What is logged: error, warning or debug (default warning)"),
    Flag::one(
        "root",
        "dir",
        "/run/tare-oci",
        "Folder of the containers (default \"/run/tare-oci\", or in $XDG_RUNTIME_DIR)",
    ),
    Flag::one(
        "rootless",
        "string",
        "auto",
        "Do without cgroups that the host does not grant: true, false or auto (default auto)",
    ),
    Flag::switch("systemd-cgroup", "Have systemd make cgroups (--cgroup-manager systemd)"),
    Flag::switch("version", "Print the version and quit").short('v'),
];

/// Whether the binary was called under the runtime's name.
pub fn is_called(words: &[OsString]) -> bool {
    words.first().is_some_and(|word| Path::new(word).file_name() == Some("tare-oci".as_ref()))
}

/// Does what the words say; the value is the exit code.
pub fn dispatch(words: Vec<OsString>) -> u8 {
    let words: Result<Vec<String>, OsString> = words.into_iter().skip(1).map(OsString::into_string).collect();
    let answer = match words {
        Ok(words) => perform(&words),
        Err(word) => {
            let what =
                format!("an argument is not UTF-8 text: {}", terminal::harmless(&word.to_string_lossy()));
            Err((Error::new(Kind::Usage, what), 1))
        }
    };
    answer.unwrap_or_else(|(error, code)| {
        failure::tell(None, &error, false);
        code
    })
}

/// Errors that come out of here have not been told; there is no log for them.
fn perform(words: &[String]) -> Result<u8, (Error, u8)> {
    let usage = |error: Error| (error.hint("'tare-oci help' lists commands and options"), 1);
    let global = words::sort(words, &GLOBAL, true).map_err(usage)?;
    let options = Given::new(&global, &GLOBAL);
    let shown = |text: String| terminal::say(&text).map(|()| 0).map_err(|error| (error, 1));
    if options.on("version").map_err(usage)? {
        return shown(version());
    }
    let (name, rest) = match global.words.split_first() {
        Some((name, rest)) if !global.help => (name.as_str(), rest),
        _ => return shown(overview()),
    };
    if matches!(name, "help" | "h") {
        return match rest.first() {
            Some(name) => shown(page(find(name).map_err(usage)?)),
            None => shown(overview()),
        };
    }
    let command = find(name).map_err(usage)?;
    let format = options.value("log-format", Format::parse).map_err(usage)?;
    let failed = |error: Error| (error, command.failed);
    let sorted =
        words::sort(rest, command.flags, command.end_at_first).and_then(|sorted| counted(command, sorted));
    if let Ok(true) = sorted.as_ref().map(|sorted| sorted.help) {
        return shown(page(command));
    }
    // Before anything is opened: an fd that the caller promised but did not open must not become one of ours.
    let passes_files = command.flags.iter().any(|flag| flag.long == create::PRESERVE_FDS.long);
    if let (Ok(sorted), true) = (&sorted, passes_files) {
        create::check_files(&Given::new(sorted, command.flags)).map_err(failed)?;
    }
    let log = open_log(&options, format).map_err(failed)?;
    let answer = sorted.and_then(|sorted| {
        let given = Given::new(&sorted, command.flags);
        let call = Call { given, runtime: runtime(&options)?, log: &log };
        log.debug(|| format!("{name} {:?} in {}", call.given.words(), call.runtime.root.display()));
        (command.act)(&call)
    });
    Ok(answer.unwrap_or_else(|mut error| {
        if error.kind() == Kind::Usage {
            error = error.hint(format!("'tare-oci {name} --help' shows how it is used"));
        }
        failure::tell(Some(&log), &error, format.is_some());
        command.failed
    }))
}

fn find(name: &str) -> Result<&'static Command> {
    let known = COMMANDS.iter().find(|command| command.name == name);
    known.ok_or_else(|| Error::new(Kind::Usage, format!("unknown command: {}", terminal::harmless(name))))
}

/// Checks the number of words.
fn counted(command: &Command, sorted: words::Words) -> Result<words::Words> {
    let (least, most) = command.words;
    let bound = match sorted.words.len() {
        _ if sorted.help => return Ok(sorted),
        count if count < least && least < most => format!("at least {least}"),
        count if count < least || (count > most && least == most) => format!("exactly {least}"),
        count if count > most => format!("at most {most}"),
        _ => return Ok(sorted),
    };
    Err(Error::new(Kind::Usage, format!("\"{}\" requires {bound} argument(s)", command.name)))
}

fn open_log(options: &Given, format: Option<Format>) -> Result<Log> {
    let level = options.value("log-level", Level::parse)?.unwrap_or(Level::Warning);
    let level = if options.on("debug")? { Level::Debug } else { level };
    Log::open(options.text("log").unwrap_or_default(), format.unwrap_or(Format::Text), level)
}

/// Where containers are, and who makes their cgroups.
fn runtime(options: &Given) -> Result<Runtime> {
    let rootless = match options.text("rootless") {
        None | Some("" | "auto") => !rustix::process::geteuid().is_root(),
        Some(_) => options.on("rootless")?,
    };
    let manager = |text: &str| match text {
        "cgroupfs" | "systemd" | "disabled" => Ok(text.to_owned()),
        _ => Err("it can be cgroupfs, systemd or disabled".to_owned()),
    };
    let manager = options.value("cgroup-manager", manager)?;
    let cgroup_manager = match (options.on("systemd-cgroup")?, manager) {
        (true, Some(other)) if other != "systemd" => {
            return Err(Error::new(
                Kind::Usage,
                format!("--systemd-cgroup contradicts --cgroup-manager {other}"),
            ));
        }
        (true, _) => "systemd".to_owned(),
        (false, manager) => manager.unwrap_or_else(|| "cgroupfs".to_owned()),
    };
    let root = match options.text("root") {
        Some("") | None => usual_root(),
        Some(root) => options
            .value("root", |root| std::path::absolute(root).map_err(|err| err.to_string()))?
            .unwrap_or_else(|| root.into()),
    };
    Ok(Runtime { root, cgroup_manager, rootless })
}

fn usual_root() -> PathBuf {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return PathBuf::from("/run/tare-oci");
    }
    // Where systemd puts the folder when it does not say so (pam_systemd(8)).
    let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    folder
        .map_or_else(|| PathBuf::from(format!("/run/user/{}", user.as_raw())), PathBuf::from)
        .join("tare-oci")
}

/// Docker and Podman read the words before the colons.
fn version() -> String {
    let commit = option_env!("TARE_COMMIT").unwrap_or("unknown");
    format!("tare-oci version {}\ncommit: {commit}\nspec: {SPEC_VERSION}\n", env!("CARGO_PKG_VERSION"))
}

fn overview() -> String {
    let width = terminal::width();
    let commands = COMMANDS.iter().map(|command| (command.name, command.about));
    format!(
        "Usage:  tare-oci [OPTIONS] COMMAND\n\nThe OCI runtime of tare, a drop-in for runc and crun\n{}{}\n\
         Run 'tare-oci COMMAND --help' for more on a command.\n",
        help::commands("Commands", commands, width),
        help::options("Global Options", &GLOBAL, width),
    )
}

fn page(command: &Command) -> String {
    let usage = format!("tare-oci {} {}", command.name, command.operands);
    let options = help::options("Options", command.flags, terminal::width());
    format!("Usage:  {}\n\n{}\n{options}", usage.trim_end(), command.about)
}

#[cfg(test)]
mod tests;
