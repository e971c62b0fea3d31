//! `commit`: a container's image, and on top of it what the container has changed, as a new image.

use tare_cgroup::{Cgroup, Hierarchies};
use tare_image::store::CommitOptions;
use tare_image::{Change, ImageConfig, Reference};
use tare_sys::{Context, Error, Kind, Result};

use crate::carry::{is_host, name_of_host};
use crate::container::{Record, Status};
use crate::engine::{Engine, need_root};
use crate::events::Event;
use crate::image::familiar;
use crate::request::Config;
use crate::root::open_folder;

/// What to write into the new image.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// Its name; `None`: it has only its id.
    pub name: Option<String>,
    /// Dockerfile instructions for its configuration.
    pub changes: Vec<String>,
    /// Who made it.
    pub author: String,
    /// A remark.
    pub message: String,
    /// Let the container go on meanwhile: files may be caught half written.
    pub running: bool,
}

impl Engine {
    /// Makes an image of a container, running or not; answers with the image's id. A container that runs is paused
    /// meanwhile, if it can be.
    ///
    /// Errors: [`Kind::NotFound`]; [`Kind::Usage`] for changes or a name that make no sense; [`Kind::Unsupported`] for a
    /// container without layers; those of the disk.
    pub fn commit(&self, container: &str, asked: &CommitRequest) -> Result<String> {
        need_root()?;
        let name = asked.name.as_deref().map(Reference::parse).transpose()?;
        if let Some(name) = name.as_ref().filter(|name| is_host(name)) {
            return Err(name_of_host(name));
        }
        let changes = asked.changes.iter().map(|text| Change::parse(text)).collect::<Result<_>>()?;
        let folders = self.find(container)?;
        let record = folders.record()?;
        let what = || format!("commit {}", record.name);
        let (_, upper) = self.layers_of(&record, &folders, "commit")?;
        let store = self.images()?;
        let of_image = store.resolve(&record.image_id).doing(what)?.config;
        let options = CommitOptions {
            config: config_of(&record, of_image),
            changes,
            author: asked.author.clone(),
            message: asked.message.clone(),
            command: record.command.join(" "),
        };
        let runs = folders.status()?.unwrap_or_else(Status::created).process().is_some();
        let pause = if runs && !asked.running { Some(Pause::begin(&record).doing(what)?) } else { None };
        let image = store.commit(&record.image_id, open_folder(&upper).doing(what)?, name.as_ref(), &options);
        drop(pause);
        let id = image.doing(what)?.id.to_string();
        let event = Event::container(&record, "commit").with("comment", &asked.message).with("imageID", &id);
        // Docker writes no tag where none was given.
        self.emit(&event.with("imageRef", name.map_or_else(String::new, |name| familiar(&name.to_string()))));
        Ok(id)
    }
}

/// How the container was run: what was asked for, over what its image says.
fn config_of(record: &Record, image: ImageConfig) -> ImageConfig {
    let Config { user, env, cmd, working_dir, entrypoint, labels, stop_signal, .. } =
        record.request.config.clone();
    let said = |asked: String, image: String| if asked.is_empty() { image } else { asked };
    let mut config = ImageConfig {
        user: said(user, image.user),
        working_dir: said(working_dir, image.working_dir),
        stop_signal: stop_signal.unwrap_or(image.stop_signal),
        // A new entry point has nothing to do with the image's command.
        cmd: match (cmd.filter(|cmd| !cmd.is_empty()), &entrypoint) {
            (Some(cmd), _) => cmd,
            (None, Some(_)) => Vec::new(),
            (None, None) => image.cmd,
        },
        entrypoint: entrypoint.unwrap_or(image.entrypoint),
        healthcheck: crate::health::merged(&record.request.config, &record.image),
        env: image.env,
        labels: image.labels,
        ..image
    };
    config.labels.extend(labels);
    for line in env {
        let name = line.split_once('=').map_or(line.as_str(), |(name, _)| name);
        let is_it = |old: &String| old.split_once('=').map_or(old.as_str(), |(name, _)| name) == name;
        match config.env.iter().position(is_it) {
            Some(at) => config.env[at] = line,
            None => config.env.push(line),
        }
    }
    config
}

/// A container that stands still until this is dropped.
struct Pause(Option<Cgroup>);

impl Pause {
    fn begin(record: &Record) -> Result<Pause> {
        let cgroup = crate::cgroup::open(&Hierarchies::discover()?, record);
        if cgroup.is_frozen()? {
            // Somebody else paused it, and will let it go on.
            return Ok(Pause(None));
        }
        match cgroup.freeze() {
            Ok(()) => Ok(Pause(Some(cgroup))),
            Err(err) if err.kind() == Kind::Unsupported => {
                Err(Error::new(Kind::Unsupported, format!("pause it: {err}"))
                    .hint("--pause=false takes it as it runs; files may be caught half written"))
            }
            Err(err) => Err(err),
        }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.0 {
            // A container that stays paused is seen by `ps`, and `unpause` is the way on.
            let _ = cgroup.thaw();
        }
    }
}
