//! The published ports of a container that runs: others in their place, and a firewall of the host's that changes.

use std::time::{Duration, Instant};

use tare_sys::Result;
use tare_sys::netlink::Netlink;

use super::Monitor;
use crate::network::ports;

/// How long a change of the host's firewall goes on before it is looked at: changes come in crowds.
const LOOK: Duration = Duration::from_millis(50);

impl Monitor {
    /// A firewall may be switched on while the container runs, and its ports are to be no way around that one either.
    pub(super) fn watch_firewall(&mut self) {
        let has_ports = !self.ports.is_empty() || !self.joined.reserved.is_empty();
        if has_ports && self.firewall.is_none() {
            self.firewall = Netlink::watch_firewall().ok();
            self.times.firewall = Some(Instant::now());
        }
    }

    pub(super) fn firewall_changed(&mut self) {
        if let Some(firewall) = &self.firewall {
            firewall.drain();
        }
        self.times.firewall.get_or_insert(Instant::now() + LOOK);
    }

    pub(super) fn look_at_firewall(&mut self) {
        if !ports::look_around(&self.roots) {
            self.times.firewall = Some(Instant::now() + LOOK);
        }
    }

    /// Publishes the ports that `container.json` has now.
    pub(super) fn republish(&mut self) -> Result<()> {
        let record = self.folders.record()?;
        let sockets = std::mem::take(&mut self.ports);
        let held = &mut self.joined.reserved;
        held.append(&mut ports::recognize(&self.roots, &record.id, sockets));
        // It has copies of the sockets, which would hold ports that are given up. Clients wait meanwhile.
        if let Some(proxy) = &mut self.proxy {
            proxy.change(&[], None, None)?;
        }
        let published = ports::republish(&self.roots, &record, held);
        let connection = published.as_ref().ok().and_then(Option::as_ref);
        if let Some(connection) = connection
            && let Some(known) =
                self.joined.connections.iter_mut().find(|known| known.network.id == connection.network.id)
        {
            *known = connection.clone();
        }
        // Of those that it held before some may be others by now, whether it worked or not.
        let endpoint = match connection {
            Some(connection) => Some(connection.endpoint.clone()),
            None => ports::published(&self.roots, &record.id),
        };
        if let Some(endpoint) = endpoint {
            let (ipv4, ipv6) = (endpoint.ipv4, endpoint.ipv6);
            match &mut self.proxy {
                Some(proxy) => proxy.change(&self.joined.reserved, ipv4, ipv6)?,
                None => self.proxy = ports::open_proxy(&self.roots, &self.joined.reserved, &endpoint)?,
            }
        }
        published?;
        self.record = record;
        self.watch_firewall();
        Ok(())
    }
}
