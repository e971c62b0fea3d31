//! `rename`.

use tare_sys::{Error, Kind, Result};

use crate::container::Status;
use crate::engine::Engine;
use crate::events::Event;
use crate::monitor::message::Order;
use crate::{name, sweep};

impl Engine {
    /// Gives a container another name; what is running in it does not notice.
    pub fn rename(&self, container: &str, new: &str) -> Result<()> {
        let new = new.trim_start_matches('/');
        name::check(new)?;
        let folders = self.find(container)?;
        // It may have been given by a rename that was killed half way, or be a killed removal's.
        sweep::free_name(&self.roots, new);
        let _alone = folders.change()?;
        let mut record = folders.record()?;
        if record.name == new {
            return Err(Error::new(
                Kind::Usage,
                "renaming a container with the same name as its current name",
            ));
        }
        self.roots.claim_name(new, &record.id)?;
        let old = std::mem::replace(&mut record.name, new.to_owned());
        if let Err(err) = folders.write_record(&record) {
            self.roots.release_name(new, &record.id);
            return Err(err);
        }
        self.roots.release_name(&old, &record.id);
        self.emit(&Event::container(&record, "rename").with("oldName", format!("/{old}")));
        self.tell_monitor(&folders)
    }

    /// Tells a monitor, where there is one, that `container.json` has changed.
    pub(crate) fn tell_monitor(&self, folders: &crate::container::Folders) -> Result<()> {
        let status = folders.status()?.unwrap_or_else(Status::created);
        if !status.runs() && !status.restarts() {
            return Ok(());
        }
        match self.order(folders, &Order::Reread) {
            // It has just ended: its next monitor reads it anyway.
            Err(err) if err.kind() == Kind::Conflict => Ok(()),
            told => told,
        }
    }
}
