//! All commands, where they hang, and the way from words to one of them.
//!
//! Building clap's arguments for a command is put off until that command is chosen (`Command::defer`): a start
//! pays for one table of options, not for all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tare_engine::{Engine, MachineNetwork, Roots};
use tare_sys::{Context, Error, Kind, Result};

use crate::container::{
    attach, containers, copy, exec, export, inspect, life, ps, run, start, stats, update, why,
};
use crate::image::{carry, copy as image_copy, images, import, login, pull, registry, verify};
use crate::print::{failure, terminal};
use crate::system::{boot, disk, events, info, prune, warm};
use crate::words::flag::{self, Flag, Given};
use crate::words::help;
use crate::{network, volume};

/// One thing that can be done.
pub struct Verb {
    pub about: &'static str,
    /// What comes after the name, as the usage line shows it.
    pub operands: &'static str,
    /// How many words it needs that are no options.
    pub least: fn(&Given) -> usize,
    /// How many it takes.
    pub most: usize,
    /// Everything after the first word belongs to the container's command.
    pub words_end_options: bool,
    pub flags: &'static [Flag],
    /// Does it; the value is the exit code.
    pub act: fn(&Engine, &Given) -> Result<u8>,
    /// Exit code when tare itself fails.
    pub failed: u8,
}

/// A verb under a name.
pub struct Place {
    pub name: &'static str,
    pub also: &'static [&'static str],
    pub verb: &'static Verb,
}

impl Place {
    fn is_called(&self, word: &str) -> bool {
        self.name == word || self.also.contains(&word)
    }
}

const fn place(name: &'static str, verb: &'static Verb) -> Place {
    Place { name, also: &[], verb }
}

/// Verbs on one kind of object.
pub struct Group {
    pub name: &'static str,
    pub about: &'static str,
    pub places: &'static [Place],
}

/// What people use every day.
pub static COMMON: &[Place] = &[
    place("run", &run::RUN),
    place("ps", &ps::PS),
    place("pull", &pull::PULL),
    place("images", &images::LIST),
    place("import", &import::IMPORT),
    place("version", &info::VERSION),
    place("info", &info::INFO),
];

/// The other verbs at the top.
pub static OTHERS: &[Place] = &[
    place("attach", &attach::ATTACH),
    place("commit", &export::COMMIT),
    place("cp", &copy::COPY),
    place("create", &run::CREATE),
    place("diff", &export::DIFF),
    place("events", &events::EVENTS),
    place("exec", &exec::EXEC),
    place("export", &export::EXPORT),
    place("help", &help::HELP),
    place("history", &images::HISTORY),
    place("inspect", &inspect::ANY),
    place("kill", &containers::KILL),
    place("load", &carry::LOAD),
    place("login", &login::LOGIN),
    place("logout", &login::LOGOUT),
    place("logs", &containers::LOGS),
    place("pause", &life::PAUSE),
    place("port", &network::PORT),
    place("push", &pull::PUSH),
    place("rename", &life::RENAME),
    place("restart", &life::RESTART),
    place("rm", &containers::REMOVE),
    place("rmi", &images::REMOVE),
    place("save", &carry::SAVE),
    place("search", &registry::SEARCH),
    place("start", &start::START),
    place("stats", &stats::STATS),
    place("stop", &containers::STOP),
    place("tag", &carry::TAG),
    place("top", &stats::TOP),
    place("unpause", &life::UNPAUSE),
    place("update", &update::UPDATE),
    place("wait", &life::WAIT),
    place("why", &why::WHY),
];

/// The kinds of objects. A new group also gets a row in `command`.
pub static GROUPS: [Group; 7] = [CONTAINER, GENERATE, IMAGE, NETWORK, REGISTRY, SYSTEM, VOLUME];

const CONTAINER: Group = Group {
    name: "container",
    about: "Manage containers",
    places: &[
        place("attach", &attach::ATTACH),
        place("commit", &export::COMMIT),
        place("cp", &copy::COPY),
        place("create", &run::CREATE),
        place("diff", &export::DIFF),
        place("export", &export::EXPORT),
        place("exec", &exec::EXEC),
        place("inspect", &inspect::CONTAINER),
        place("kill", &containers::KILL),
        place("logs", &containers::LOGS),
        place("port", &network::PORT),
        place("prune", &prune::CONTAINERS),
        Place { name: "ls", also: &["list", "ps"], verb: &ps::PS },
        place("pause", &life::PAUSE),
        place("rename", &life::RENAME),
        place("restart", &life::RESTART),
        Place { name: "rm", also: &["remove"], verb: &containers::REMOVE },
        place("run", &run::RUN),
        place("start", &start::START),
        place("stats", &stats::STATS),
        place("stop", &containers::STOP),
        place("top", &stats::TOP),
        place("unpause", &life::UNPAUSE),
        place("update", &update::UPDATE),
        place("wait", &life::WAIT),
        place("why", &why::WHY),
    ],
};

const GENERATE: Group = Group {
    name: "generate",
    about: "Write files for other programs",
    places: &[place("systemd", &boot::GENERATE)],
};

const IMAGE: Group = Group {
    name: "image",
    about: "Manage images",
    places: &[
        place("compact", &verify::COMPACT),
        place("copy", &image_copy::COPY),
        place("history", &images::HISTORY),
        place("import", &import::IMPORT),
        place("inspect", &inspect::IMAGE),
        place("load", &carry::LOAD),
        Place { name: "ls", also: &["list"], verb: &images::LIST },
        place("prune", &prune::IMAGES),
        place("pull", &pull::PULL),
        place("push", &pull::PUSH),
        Place { name: "rm", also: &["remove"], verb: &images::REMOVE },
        place("save", &carry::SAVE),
        place("tag", &carry::TAG),
        place("verify", &verify::VERIFY),
    ],
};

const NETWORK: Group = Group {
    name: "network",
    about: "Manage networks",
    places: &[
        place("connect", &network::CONNECT),
        place("create", &network::CREATE),
        place("disconnect", &network::DISCONNECT),
        place("inspect", &network::INSPECT),
        Place { name: "ls", also: &["list"], verb: &network::LIST },
        place("prune", &network::PRUNE),
        place("reload", &network::RELOAD),
        Place { name: "rm", also: &["remove"], verb: &network::REMOVE },
    ],
};

const SYSTEM: Group = Group {
    name: "system",
    about: "Manage tare",
    places: &[
        place("boot", &boot::BOOT),
        place("df", &disk::DF),
        place("events", &events::EVENTS),
        place("info", &info::INFO),
        place("prune", &prune::SYSTEM),
        place("service", &boot::SERVICE),
        place("warm", &warm::WARM),
    ],
};

const REGISTRY: Group = Group {
    name: "registry",
    about: "Look around in registries",
    places: &[
        Place { name: "ls", also: &["list"], verb: &registry::LIST },
        place("referrers", &registry::REFERRERS),
        Place { name: "rm", also: &["remove"], verb: &registry::REMOVE },
        place("tags", &registry::TAGS),
    ],
};

const VOLUME: Group = Group {
    name: "volume",
    about: "Manage volumes",
    places: &[
        place("create", &volume::CREATE),
        place("inspect", &volume::INSPECT),
        Place { name: "ls", also: &["list"], verb: &volume::LIST },
        place("prune", &volume::PRUNE),
        Place { name: "rm", also: &["remove"], verb: &volume::REMOVE },
    ],
};

/// Options before the command.
pub static GLOBAL: &[Flag] = &[
    Flag::one(
        "root",
        "dir",
        "/var/lib/tare",
        "Folder of images and containers (default \"/var/lib/tare\", or $TARE_ROOT)",
    ),
    Flag::one(
        "run-root",
        "dir",
        "/run/tare",
        "Folder of what is running (default \"/run/tare\", or $TARE_RUN_ROOT)",
    ),
    Flag::switch("version", "Print the version and quit").short('v'),
];

/// Where words lead.
pub struct Spot {
    /// The words so far: `tare container ls`.
    pub path: String,
    pub target: Target,
}

/// What is there.
#[derive(Clone, Copy)]
pub enum Target {
    Top,
    Group(&'static Group),
    Verb(&'static Verb),
}

/// The options of `target`.
pub fn flags(target: Target) -> &'static [Flag] {
    match target {
        Target::Top => GLOBAL,
        Target::Group(_) => &[],
        Target::Verb(verb) => verb.flags,
    }
}

/// Finds the command that words name, as far as they do; for help and errors, which clap gives without saying
/// where it was.
pub fn find<'a>(words: impl IntoIterator<Item = &'a str>) -> Spot {
    let mut spot = Spot { path: "tare".to_owned(), target: Target::Top };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word.starts_with('-') {
            if word == "--root" || word == "--run-root" {
                words.next();
            }
            continue;
        }
        let place = match spot.target {
            Target::Top => COMMON.iter().chain(OTHERS).find(|place| place.is_called(word)),
            Target::Group(group) => group.places.iter().find(|place| place.is_called(word)),
            Target::Verb(_) => break,
        };
        let group = GROUPS.iter().find(|group| group.name == word);
        spot.target = match (place, group, spot.target) {
            (Some(place), ..) => Target::Verb(place.verb),
            (None, Some(group), Target::Top) => Target::Group(group),
            _ => break,
        };
        spot.path = format!("{} {word}", spot.path);
    }
    spot
}

/// clap's view of it all.
fn command() -> Command {
    let top = bare("tare").args(GLOBAL.iter().map(Flag::arg)).arg(help_arg(true));
    let verbs =
        COMMON.iter().chain(OTHERS).map(|place| named(place).defer(|command| fill(command, top_verb)));
    top.subcommands(verbs).subcommands([
        group::<0>(),
        group::<1>(),
        group::<2>(),
        group::<3>(),
        group::<4>(),
        group::<5>(),
        group::<6>(),
    ])
}

/// clap's view of one group. What clap defers to is a plain function, which cannot capture the group: hence the
/// number.
fn group<const N: usize>() -> Command {
    bare(GROUPS[N].name).defer(|command| {
        let verb = |command| fill(command, |name| verb_in(GROUPS[N].places, name));
        command.arg(help_arg(true)).subcommands(GROUPS[N].places.iter().map(|place| named(place).defer(verb)))
    })
}

/// A command without what clap adds by itself; of an option given twice the last counts, as in Docker.
fn bare(name: &'static str) -> Command {
    Command::new(name).disable_help_flag(true).disable_help_subcommand(true).args_override_self(true)
}

fn named(place: &'static Place) -> Command {
    bare(place.name).aliases(place.also)
}

/// Gives a chosen command its arguments.
fn fill(command: Command, verb: fn(&str) -> Option<&'static Verb>) -> Command {
    let Some(verb) = verb(command.get_name()) else { return command };
    let short = !verb.flags.iter().any(|flag| flag.short == Some('h'));
    command.args(flag::args(verb.flags, verb.words_end_options)).arg(help_arg(short))
}

fn help_arg(short: bool) -> Arg {
    let arg = Arg::new("help").long("help").action(ArgAction::Help);
    if short { arg.short('h') } else { arg }
}

fn verb_in(places: &'static [Place], name: &str) -> Option<&'static Verb> {
    places.iter().find(|place| place.name == name).map(|place| place.verb)
}

fn top_verb(name: &str) -> Option<&'static Verb> {
    verb_in(COMMON, name).or_else(|| verb_in(OTHERS, name))
}

/// Does what the words say; the value is the exit code.
pub fn dispatch(words: Vec<OsString>) -> u8 {
    let known: Vec<_> =
        words.iter().skip(1).map(|word| word.to_str().unwrap_or_default().to_owned()).collect();
    let spot = || find(known.iter().map(String::as_str));
    match command().try_get_matches_from(words) {
        Ok(matches) => perform(&matches, &spot),
        Err(err) if err.kind() == ErrorKind::DisplayHelp => failure::report(help::show(&spot()), &spot, 1),
        Err(err) => failure::words(&err, &spot()),
    }
}

fn perform(matches: &ArgMatches, spot: &dyn Fn() -> Spot) -> u8 {
    let (mut found, mut places) = (None, None);
    let mut inner = matches;
    while let Some((name, sub)) = inner.subcommand() {
        inner = sub;
        match places {
            None => {
                found = top_verb(name);
                places = GROUPS.iter().find(|group| group.name == name).map(|group| group.places);
            }
            Some(places) => found = verb_in(places, name),
        }
    }
    let global = Given::new(matches, GLOBAL);
    let Some(verb) = found else {
        let answer = match global.on("version") {
            Ok(true) => terminal::say(&format!("tare version {}\n", env!("CARGO_PKG_VERSION"))).map(|()| 0),
            Ok(false) => help::show(&spot()),
            Err(error) => Err(error),
        };
        return failure::report(answer, spot, 1);
    };
    let given = Given::new(inner, verb.flags);
    if let Err(error) = counted(verb, &given, spot) {
        return failure::usage(&error, &spot());
    }
    tare_engine::recognize();
    let answer = roots(&global).and_then(|roots| {
        if !WITHOUT_MACHINE.iter().any(|alone| std::ptr::eq(*alone, verb)) {
            let warn = |warning: &str| eprintln!("warning: {warning}");
            if std::ptr::eq(verb, &boot::BOOT)
                && let Some(code) = tare_engine::enter_each(&roots, &warn)?
            {
                return Ok(code);
            }
            tare_engine::enter(&roots, || network(&roots, verb, &given), &warn)?;
        }
        (verb.act)(&Engine::new(roots), &given)
    });
    failure::report(answer, spot, verb.failed)
}

/// What an ordinary user can do without a machine of their own.
static WITHOUT_MACHINE: [&Verb; 5] =
    [&help::HELP, &info::VERSION, &login::LOGIN, &login::LOGOUT, &boot::SERVICE];

/// Which network an ordinary user's command has to be in.
fn network(roots: &Roots, verb: &Verb, given: &Given) -> MachineNetwork {
    if std::ptr::eq(verb, &run::RUN) {
        let hosts = given.texts("network").contains(&"host");
        return if hosts { MachineNetwork::Host } else { MachineNetwork::Own };
    }
    let words = given.words();
    // Of `exec`, all words but the first are the command.
    let containers = match () {
        () if [&start::START, &life::RESTART].iter().any(|starts| std::ptr::eq(*starts, verb)) => &words[..],
        () if std::ptr::eq(verb, &exec::EXEC) => &words[..1],
        () => &[],
    };
    tare_engine::machine_network_of(roots, containers)
}

/// Checks the number of words.
fn counted(verb: &Verb, given: &Given, spot: &dyn Fn() -> Spot) -> Result<()> {
    let (words, least) = (given.words().len(), (verb.least)(given));
    let (bound, count) = match () {
        () if words < least && least == verb.most => ("", least),
        () if words < least => ("at least ", least),
        () if words > verb.most && least == verb.most => ("", verb.most),
        () if words > verb.most => ("at most ", verb.most),
        () => return Ok(()),
    };
    let requires = if count == 0 {
        "takes no arguments".to_owned()
    } else {
        format!("requires {bound}{count} argument{}", if count == 1 { "" } else { "s" })
    };
    Err(Error::new(Kind::Usage, format!("'{}' {requires}", spot().path)))
}

/// The folders to work in: from the options, else from the environment, else the system's.
fn roots(given: &Given) -> Result<Roots> {
    let usual = tare_engine::default_roots();
    let folder = |long: &str, variable: &str, default: PathBuf| {
        let folder = given.text(long).map(PathBuf::from);
        let folder = folder.or_else(|| std::env::var_os(variable).map(PathBuf::from));
        let folder = folder.filter(|folder| folder != Path::new("")).unwrap_or(default);
        std::path::absolute(&folder).doing(|| format!("find the folder {}", folder.display()))
    };
    Ok(Roots {
        state: folder("root", "TARE_ROOT", usual.state)?,
        run: folder("run-root", "TARE_RUN_ROOT", usual.run)?,
    })
}

/// What clap says to words without the program's name.
#[cfg(test)]
pub fn parse_for_test(words: &[&str]) -> Result<ArgMatches, clap::Error> {
    command().try_get_matches_from([&["tare"], words].concat())
}

#[cfg(test)]
mod tests;
