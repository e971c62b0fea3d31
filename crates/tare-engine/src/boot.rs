//! `system boot`: after a reboot, what asked for it runs again.

use tare_sys::Result;

use crate::container::{State, Status};
use crate::engine::{Engine, need_root};
use crate::start::{Attach, Started};

/// A container that boot has to do with, and what came of it.
#[derive(Debug)]
pub struct Booted {
    /// Its name.
    pub name: String,
    /// What the caller should know, or why it could not be started.
    pub result: Result<Vec<String>>,
}

impl Engine {
    /// Starts the containers that do not run and whose restart policy asks for it: `always`, and `unless-stopped` if
    /// nobody stopped them. One that was never started is left alone. Those that are older come first, because the
    /// younger may share namespaces with them; one that fails is tried once more in the end.
    pub fn boot(&self) -> Result<Vec<Booted>> {
        need_root()?;
        crate::sweep::sweep(&self.roots)?;
        let mut waiting = Vec::new();
        for id in self.roots.ids()? {
            let folders = self.roots.folders(&id);
            // One that is damaged is no reason to leave the others.
            let (Ok(record), Ok(status)) = (folders.record(), folders.status()) else { continue };
            let status = status.unwrap_or_else(Status::created);
            let host = &record.request.host_config;
            // An ordinary user's command has one network, and there is another for the others.
            let reachable = crate::machine::check_network(&host.network_mode).is_ok();
            if reachable && status.process().is_none() && wants(&host.restart_policy.name, &status) {
                waiting.push((record.created, record.name, id));
            }
        }
        waiting.sort();
        let (mut booted, mut again) = (Vec::new(), Vec::new());
        for (_, name, id) in waiting {
            match self.start_quietly(&id) {
                Ok(warnings) => booted.push(Booted { name, result: Ok(warnings) }),
                Err(_) => again.push((name, id)),
            }
        }
        for (name, id) in again {
            let result = self.start_quietly(&id);
            booted.push(Booted { name, result });
        }
        Ok(booted)
    }

    fn start_quietly(&self, id: &str) -> Result<Vec<String>> {
        match self.start_again(id, Attach::default())? {
            Some(Started::Detached(warnings)) => Ok(warnings),
            _ => Ok(Vec::new()),
        }
    }
}

/// Whether a container in this state is to run after a boot.
fn wants(policy: &str, status: &Status) -> bool {
    status.state != State::Created
        && match policy {
            "always" => true,
            "unless-stopped" => !status.stopped,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let status = |state, stopped| Status { state, stopped, ..Status::created() };
        for (policy, state, stopped, expected) in [
            ("always", State::Exited, false, true),
            ("always", State::Exited, true, true),
            ("always", State::Created, false, false),
            ("unless-stopped", State::Exited, false, true),
            ("unless-stopped", State::Exited, true, false),
            ("on-failure", State::Exited, false, false),
            ("no", State::Exited, false, false),
            ("", State::Exited, false, false),
        ] {
            assert_eq!(wants(policy, &status(state, stopped)), expected, "{policy} {state} {stopped}");
        }
    }
}
