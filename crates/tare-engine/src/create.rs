//! `create`: a container on disk, checked and written down, with nothing of it running.
//!
//! [`Engine::create`] leaves it in the hands of its caller, who either starts it at once (`run`) or [keeps](Created::keep)
//! it (`create`). Until one of the two nobody was told of it, and a killed caller leaves something that the next
//! sweep removes.

use std::path::Path;

use tare_cgroup::Hierarchies;
use tare_image::{ImageConfig, Platform};
use tare_sys::time::Moment;
use tare_sys::{Context, Error, Kind, Result, rootless};

use crate::container::{Folders, Lock, Record, Roots, Status};
use crate::engine::{Engine, need_root};
use crate::events::Event;
use crate::policy::volumes::Wanted;
use crate::policy::{self, ImageSays, Plan, Share};
use crate::request::CreateRequest;
use crate::{facts, host_image, links, name, removal, storage, sweep, volume};

/// A container that was made and not started yet.
pub struct Created {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the caller should know.
    pub warnings: Vec<String>,
    pub(crate) record: Record,
    pub(crate) plan: Plan,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) folders: Folders,
    pub(crate) lock: Lock,
    /// Base of the id range that another container holds and this one joins.
    pub(crate) shared: Option<u32>,
}

impl Created {
    /// Makes it last: from here on it is there until somebody removes it.
    pub fn keep(self) -> Result<()> {
        self.folders.write_status(&Status::created())?;
        removal::delete_run_folder(&self.folders);
        Ok(())
    }
}

impl Engine {
    /// Makes a container: checks the request, claims a name, writes it down. On failure nothing is left.
    pub fn create(&self, mut request: CreateRequest) -> Result<Created> {
        if !request.name.is_empty() {
            name::check(&request.name)?;
        }
        need_root()?;
        let image = self.find_image(&request)?;
        let says = ImageSays::of(&image.config);
        let sharing = policy::sharing(&request.host_config)?;
        links::resolve(&self.roots, &mut request)?;
        let hierarchies = Hierarchies::discover()?;
        let random = random()?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut facts = facts::gather(&request, &hierarchies)?;
        facts::add_cdi(&request, &mut facts)?;
        facts.id = id.clone();
        let folders = self.roots.folders(&id);
        facts.files = folders.run.clone();
        let shared = self.find_shared(&sharing, &mut facts)?;
        let inherited = volume::inherited(&self.roots, &request)?;
        let mut wanted = policy::volumes::wanted(&request, &image.config.volumes, inherited)?;
        volume::resolve(&self.roots, &mut wanted)?;
        self.resolve_images(&mut wanted)?;
        facts.mounts = wanted.iter().map(|wanted| wanted.point.clone()).collect();
        if matches!(sharing.user, Share::Host) || rootless::is_on() {
            tare_runtime::exe::make_read_only()?;
        }
        let plan = policy::plan(&request, &says, &facts)?;
        let exposed: Vec<String> = image.config.exposed_ports.iter().cloned().collect();
        crate::network::check(&request, &exposed)?;
        let stop_signal = request.config.stop_signal.as_deref().unwrap_or(&image.config.stop_signal);
        let stop_signal = if stop_signal.is_empty() { "SIGTERM" } else { stop_signal };
        let stop_signal = tare_sys::signal::number(stop_signal).ok_or_else(|| {
            Error::new(Kind::Usage, format!("--stop-signal {stop_signal}: there is no such signal"))
                .hint("use a name such as SIGTERM, or a number")
        })?;

        let size = storage::size(&request.host_config.storage_opt)?;
        if size != 0 && rootless::is_on() {
            return Err(Error::new(Kind::Unsupported, "--storage-opt size: disk quotas are root's to give")
                .hint("leave it out, or have root run this container"));
        }
        if size != 0 && image.id.is_empty() {
            return Err(Error::new(Kind::Usage, "--storage-opt size: this container has no writable layer on disk")
                .hint("it goes with an image; what a container of \"host\" writes is in memory, so --memory limits it"));
        }
        let lock = folders.make().map_err(crate::container::explain_full)?;
        // From here on there is something to undo.
        let mut undo = Undo { roots: &self.roots, id: id.clone(), name: None, armed: true };
        let name = self.claim_name(&request.name, &id, &random)?;
        undo.name = Some(name.clone());
        crate::log::check(&policy::logging(&request, &id, &name)?)?;
        let volumes = volume::Claims::make(&self.roots, &folders, &wanted)?;
        let limits = plan.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let parent = &request.host_config.cgroup_parent;
        let (cgroup, cgroup_unit) = crate::cgroup::place(&hierarchies, &id, parent, limits)?;
        let record = Record {
            name: name.clone(),
            created: Moment::now().to_string(),
            image_id: image.id,
            layers: image.layers,
            command: policy::command(&request.config, &says),
            cgroup,
            cgroup_unit,
            stop_signal,
            id: id.clone(),
            request,
            image: image.config,
            mounts: facts.mounts,
        };
        if !record.image_id.is_empty() {
            folders.make_writable_layer(size).map_err(crate::container::explain_full)?;
        }
        if volumes.want_content() {
            volumes.fill(&self.roots, &id, &self.rootfs(&record, &folders)?)?;
        }
        folders.write_record(&record).map_err(crate::container::explain_full)?;
        undo.armed = false;
        self.emit(&Event::container(&record, "create"));
        let warnings = plan.warnings.clone();
        Ok(Created { id, name, warnings, record, plan, hierarchies, folders, lock, shared })
    }

    fn claim_name(&self, asked: &str, id: &str, random: &[u8; 32]) -> Result<String> {
        if !asked.is_empty() {
            return match self.roots.claim_name(asked, id) {
                Err(err) if err.kind() == Kind::Conflict => {
                    // Its owner may be one that was killed half way. By name, because this container has none yet: a sweep
                    // counts as many names as containers.
                    sweep::sweep(&self.roots)?;
                    sweep::free_name(&self.roots, asked);
                    self.roots.claim_name(asked, id)
                }
                result => result,
            }
            .map(|()| asked.to_owned());
        }
        for attempt in 0.. {
            let start = 8 + (attempt as usize * 4) % 24;
            let name = name::make_up(
                [random[start], random[start + 1], random[start + 2], random[start + 3]],
                attempt,
            );
            match self.roots.claim_name(&name, id) {
                Err(err) if err.kind() == Kind::Conflict && attempt < 5 => continue,
                // Every made-up name is taken: the id is a name as well.
                Err(err) if err.kind() == Kind::Conflict => break,
                result => return result.map(|()| name),
            }
        }
        let name: String = id.chars().take(12).collect();
        self.roots.claim_name(&name, id).map(|()| name)
    }

    /// Finds the images that are mounted.
    fn resolve_images(&self, wanted: &mut [Wanted]) -> Result<()> {
        for wanted in wanted.iter_mut().filter(|wanted| wanted.point.kind == "image") {
            let name = wanted.point.source.display().to_string();
            let images = self.images()?;
            let image = images.resolve(&name).doing(|| format!("--mount type=image,source={name}"))?;
            wanted.point.layers = std::iter::once(images.mount_points())
                .chain(image.layers.iter().map(|layer| images.layer_path(layer)))
                .collect();
            wanted.point.name = image.image_id;
        }
        Ok(())
    }

    fn find_image(&self, request: &CreateRequest) -> Result<Found> {
        let config = &request.config;
        let shell = ImageConfig { cmd: vec!["/bin/sh".to_owned()], ..ImageConfig::default() };
        if !request.host_config.rootfs.is_empty() {
            let folder = &request.host_config.rootfs;
            if !Path::new(folder).is_dir() {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("use {folder} as the root file system: no such folder"),
                ));
            }
            return Ok(Found { config: shell, ..Found::default() });
        }
        if config.image == host_image::NAME {
            return Ok(Found { config: shell, ..Found::default() });
        }
        let images = self.images()?;
        let record = images.resolve(&config.image)?;
        if !request.platform.is_empty() {
            let wanted = Platform::parse(&request.platform)?;
            let found = images.list()?.into_iter().find(|image| image.id.to_string() == record.image_id);
            if let Some(image) = found.filter(|image| !image.platform.serves(&wanted)) {
                return Err(Error::new(Kind::NotFound, format!(
                    "image {} was found but does not match the specified platform: wanted {wanted}, actual: {}",
                    config.image, image.platform
                ))
                .hint("pull it for that platform: tare pull --platform …"));
            }
        }
        Ok(Found { id: record.image_id, layers: record.layers, config: record.config })
    }
}

/// What is known of an image.
#[derive(Default)]
struct Found {
    id: String,
    layers: Vec<String>,
    config: ImageConfig,
}

/// Takes back what `create` claimed, unless it came to its end.
struct Undo<'a> {
    roots: &'a Roots,
    id: String,
    name: Option<String>,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Some(name) = &self.name {
            self.roots.release_name(name, &self.id);
        }
        removal::move_folder(self.roots, &self.id);
        removal::empty(self.roots, &self.id);
    }
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).doing(|| "getrandom()")?;
    Ok(bytes)
}
