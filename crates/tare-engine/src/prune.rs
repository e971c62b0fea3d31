//! Containers that have ended and are needed no more.

use tare_sys::disk::Counter;
use tare_sys::time::Moment;
use tare_sys::{Kind, Result};

use crate::container::Status;
use crate::engine::{Engine, need_root};
use crate::events::Event;
use crate::image_filter::ImageFilters;
use crate::sweep;

/// What a prune of containers took away.
#[derive(Clone, Debug, Default)]
pub struct PrunedContainers {
    /// Ids.
    pub removed: Vec<String>,
    /// Bytes on disk that are free now.
    pub freed: u64,
}

impl Engine {
    /// Removes the containers that do not run. Of the filters, labels and `until` count.
    ///
    /// Errors: those of the disk.
    pub fn prune_stopped(&self, filters: &ImageFilters) -> Result<PrunedContainers> {
        need_root()?;
        sweep::sweep(self.roots())?;
        let mut pruned = PrunedContainers::default();
        for id in self.roots().ids()? {
            let folders = self.roots().folders(&id);
            let Ok(record) = folders.record() else { continue };
            let status = folders.status()?.unwrap_or_else(Status::created);
            let labels = record.labels();
            let created = Moment::parse(&record.created).map_or(0, Moment::seconds);
            if status.runs()
                || !filters.has_labels(&labels)
                || filters.until.is_some_and(|until| created >= until)
            {
                continue;
            }
            let bytes = Counter::default().add(&folders.state)?;
            match self.remove(&id, false, false) {
                // It was started, or removed, just now.
                Err(err) if matches!(err.kind(), Kind::Conflict | Kind::NotFound) => continue,
                removed => removed?,
            }
            pruned.freed += bytes;
            pruned.removed.push(id);
        }
        if !pruned.removed.is_empty() {
            self.emit(&Event::new("container", "prune", "").with("reclaimed", pruned.freed));
        }
        Ok(pruned)
    }
}
