//! `tare run`: make a container, start it, and stand between it and the terminal until it ends; and `tare create`, which
//! does the first of these.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use tare_engine::request::CreateRequest;
use tare_engine::{Attach, Created, Engine, Exit, PullOptions, Reference, Started};
use tare_sys::{Context, Error, Kind, Result};

use crate::container::attach;
use crate::image::pull;
use crate::print::{failure, human, terminal};
use crate::words::flag::Given;
use crate::words::tree::Verb;

mod flags;
mod request;

pub use request::{environment, restart_policy};

/// SIGKILL's exit code, which is also that of a container out of memory.
const KILLED: u8 = 128 + 9;

pub static RUN: Verb = Verb {
    about: "Create and start a new container from an image",
    operands: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    least: |given| usize::from(given.text("rootfs").is_none()),
    most: usize::MAX,
    words_end_options: true,
    flags: flags::FLAGS,
    act: run,
    failed: 125,
};

pub static CREATE: Verb = Verb {
    about: "Create a new container",
    operands: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    least: |given| usize::from(given.text("rootfs").is_none()),
    most: usize::MAX,
    words_end_options: true,
    flags: &flags::CREATE,
    act: create,
    failed: 1,
};

/// Creates the container, and pulls its image if `--pull` says so.
fn make(engine: &Engine, request: CreateRequest, given: &Given) -> Result<Created> {
    let image = request.config.image.clone();
    let options = PullOptions { platform: given.text("platform").map(str::to_owned) };
    if given.on("replace")? {
        if request.name.is_empty() {
            return Err(Error::new(Kind::Usage, "cannot replace container without --name being set"));
        }
        match engine.remove(&request.name, true, false) {
            Err(err) if err.kind() == Kind::NotFound => {}
            result => result?,
        }
    }
    let fetch = || {
        let tell = |line: &str| terminal::complain(line);
        pull::fetch(engine, &image, &options, given.on("quiet")?, &tell).map(drop)
    };
    let missing = match given.text("pull") {
        None | Some("missing") => true,
        Some("never") => false,
        Some("always") => {
            fetch()?;
            false
        }
        Some(other) => {
            return Err(Error::new(Kind::Usage, format!("--pull {other}: it is always, missing or never")));
        }
    };
    match engine.create(request) {
        // Looked for only now: an image that is there costs nothing.
        Err(err)
            if missing && err.kind() == Kind::NotFound && !image.is_empty() && !engine.has_image(&image) =>
        {
            let name = Reference::parse(&image)?;
            terminal::complain(&format!("Unable to find image '{name}' locally\n"));
            fetch()?;
            engine.create(request::request(given)?)
        }
        created => created,
    }
}

fn create(engine: &Engine, given: &Given) -> Result<u8> {
    let mut id_file = given.text("cidfile").filter(|path| !path.is_empty()).map(IdFile::claim).transpose()?;
    let created = make(engine, request::request(given)?, given)?;
    created.warnings.iter().for_each(|warning| failure::warn(warning));
    let id = created.id.clone();
    id_file.as_mut().map_or(Ok(()), |file| file.write(&id))?;
    created.keep()?;
    id_file.into_iter().for_each(IdFile::keep);
    terminal::say(&format!("{id}\n"))?;
    Ok(0)
}

fn run(engine: &Engine, given: &Given) -> Result<u8> {
    let request = request::request(given)?;
    let config = &request.config;
    // A terminal's signals come as characters: Ctrl-C reaches the process through its own terminal.
    let sig_proxy = given.maybe("sig-proxy")?.unwrap_or(true) && !config.tty;
    let attach = Attach {
        stdin: config.attach_stdin,
        stdout: config.attach_stdout,
        stderr: config.attach_stderr,
        keys: attach::keys(given)?,
    };
    if config.tty && attach.stdin && !io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "the input device is not a TTY")
            .hint("leave out -t (--tty) when stdin is a file or a pipe"));
    }
    // Nobody will see the output, so at least say whose it is.
    let silent = !attach.stdout && !attach.stderr;
    let stays = !request.host_config.auto_remove;
    let mut id_file = given.text("cidfile").filter(|path| !path.is_empty()).map(IdFile::claim).transpose()?;

    let created = make(engine, request, given)?;
    created.warnings.iter().for_each(|warning| failure::warn(warning));
    let id = created.id.clone();
    if let Some(Err(error)) = id_file.as_mut().map(|file| file.write(&id)) {
        // What was created holds the container's lock.
        drop(created);
        // Should this fail too, the first failure is still the one to hear of.
        let _ = engine.remove(&id, true, true);
        return Err(error);
    }
    let started = engine.start(created, attach);
    if started.is_ok() || stays {
        id_file.into_iter().for_each(IdFile::keep);
    }
    let (warnings, attachment) = match started {
        Ok(Started::Detached(warnings)) => (warnings, None),
        Ok(Started::Attached(mut attachment)) => (std::mem::take(&mut attachment.warnings), Some(attachment)),
        Err(error) => {
            // It is there to be looked at.
            if silent && stays {
                terminal::say(&format!("{id}\n"))?;
            }
            return Err(error);
        }
    };
    if let Some(path) = given.text("pidfile").filter(|path| !path.is_empty()) {
        write_pid(engine, &id, path)?;
    }
    warnings.iter().for_each(|warning| failure::warn(warning));
    if silent {
        terminal::say(&format!("{id}\n"))?;
    }
    let Some(attachment) = attachment else { return Ok(0) };
    attach::follow(attachment, sig_proxy)
}

/// Writes the number of the container's first process. One that has ended meanwhile has none any more: 0.
fn write_pid(engine: &Engine, id: &str, path: &str) -> Result<()> {
    let pid = engine.inspect(id).ok().and_then(|container| container["State"]["Pid"].as_i64()).unwrap_or(0);
    std::fs::write(path, pid.to_string()).doing(|| format!("--pidfile: write {path}"))
}

/// Says why, where the exit code alone would leave a person guessing.
pub fn explain(exit: &Exit) {
    if !exit.oom_killed || exit.code != KILLED {
        return;
    }
    failure::print(&out_of_memory(exit.memory_limit));
}

fn out_of_memory(limit: u64) -> Error {
    if limit == 0 {
        return Error::new(Kind::Exhausted, "the container was killed because the host ran out of memory")
            .hint("limit what each container may use with --memory");
    }
    let what =
        format!("the container was killed because it used up its memory limit ({})", human::limit(limit));
    let twice = human::limit(limit.saturating_mul(2)).to_lowercase();
    let twice = twice.replace(" bytes", "b").replace(' ', "").replace("ib", "");
    Error::new(Kind::Exhausted, what).hint(format!("give it more, for example: --memory {twice}"))
}

/// The file for the container's id. It must not exist: it may belong to another container that still runs.
struct IdFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl IdFile {
    /// Makes the file, empty. It goes again unless it is kept.
    fn claim(path: &str) -> Result<IdFile> {
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(IdFile { path: PathBuf::from(path), file, kept: false }),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::new(Kind::Conflict, format!("--cidfile: {path} is there already"))
                    .hint("make sure that its container is gone, then remove the file"))
            }
            Err(err) => Err(err).doing(|| format!("--cidfile: create {path}")),
        }
    }

    fn write(&mut self, id: &str) -> Result<()> {
        self.file.write_all(id.as_bytes()).doing(|| format!("--cidfile: write {}", self.path.display()))
    }

    /// The container is there: so is the file.
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.kept {
            // Already on the way out with an error; that one matters more.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_named_with_a_limit_that_can_be_typed() {
        let table = [(64 << 20, "64 MiB", "128m"), (3 << 29, "1.5 GiB", "3g"), (512 << 20, "512 MiB", "1g")];
        for (limit, text, twice) in table {
            let error = out_of_memory(limit);
            assert!(error.to_string().ends_with(&format!("its memory limit ({text})")), "{error}");
            assert_eq!(error.hint_text(), Some(&*format!("give it more, for example: --memory {twice}")));
        }
        assert!(out_of_memory(0).to_string().contains("the host"));
    }

    #[test]
    fn an_id_file_goes_unless_it_is_kept() {
        let path = std::env::temp_dir().join(format!("tare-cidfile-{}", std::process::id()));
        let name = path.to_str().unwrap();
        drop(IdFile::claim(name).unwrap());
        assert!(!path.exists());
        let mut file = IdFile::claim(name).unwrap();
        file.write("abc").unwrap();
        file.keep();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
        assert_eq!(IdFile::claim(name).err().map(|err| err.kind()), Some(Kind::Conflict));
        std::fs::remove_file(&path).unwrap();
    }
}
