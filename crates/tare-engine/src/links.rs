//! `--link NAME[:ALIAS]`: names by which one container alone knows another, and, on the network `bridge`, variables that
//! tell it of the other's ports and variables. Docker's way from before there were networks, which old scripts use.
//!
//! A container keeps `ID:ALIAS`, so that the other may be renamed. The alias is answered by its name server (see
//! [`name_server`](crate::name_server)), with the address that the other has at that moment.

use crate::container::{Record, Roots, Status};
use crate::name;
use crate::network::networks;
use crate::policy::{Facts, Linked};
use crate::request::CreateRequest;
use tare_network::network::DEFAULT;
use tare_sys::{Context, Error, Kind, Result};

/// Finds the containers that a request wants to be linked to, and writes their ids in place of their names.
///
/// Errors: [`Kind::NotFound`] for one that there is not, [`Kind::Usage`] for what is no link, or without a network.
pub(crate) fn resolve(roots: &Roots, request: &mut CreateRequest) -> Result<()> {
    let host = &mut request.host_config;
    let mode = host.network_mode.as_str();
    if !host.links.is_empty()
        && (["host", "none", "private"].contains(&mode) || mode.starts_with("container:"))
    {
        return Err(Error::new(
            Kind::Usage,
            format!("conflicting options: --network {mode} can't be used with links"),
        )
        .hint("leave out --link, or name a network"));
    }
    for link in &mut host.links {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        // As Docker's API writes them: /db:/web/db.
        let (name, alias) = (name.trim_start_matches('/'), alias.rsplit('/').next().unwrap_or_default());
        name::check(alias).doing(|| format!("--link {link}"))?;
        let id = roots.find(name).doing(|| format!("--link {link}: could not get container for {name}"))?;
        *link = format!("{id}:{alias}");
    }
    Ok(())
}

/// Ids and aliases of those that a container is linked to.
pub(crate) fn of(record: &Record) -> impl Iterator<Item = (&str, &str)> {
    record.request.host_config.links.iter().filter_map(|link| link.split_once(':'))
}

/// As `inspect` shows them: `/db:/web/alias`. One that is gone is left out.
pub(crate) fn shown(roots: &Roots, record: &Record) -> Vec<String> {
    let name = |id: &str| roots.folders(id).record().map(|other| other.name);
    of(record)
        .filter_map(|(id, alias)| Some(format!("/{}:/{}/{alias}", name(id).ok()?, record.name)))
        .collect()
}

/// Adds what policy has to know of them. Only on the network `bridge` are there variables, as under Docker, and only
/// there do the others have to run.
pub(crate) fn add(roots: &Roots, record: &Record, facts: &mut Facts) -> Result<()> {
    if !["", "default", DEFAULT].contains(&record.request.host_config.network_mode.as_str()) {
        return Ok(());
    }
    for (id, alias) in of(record) {
        let folders = roots.folders(id);
        let other = folders.record().doing(|| format!("link to {alias}"))?;
        let status = folders.status()?.unwrap_or_else(Status::created);
        if status.process().is_none() {
            return Err(Error::new(
                Kind::Conflict,
                format!("cannot link to a non running container: {} AS {alias}", other.name),
            )
            .hint(format!("start it first: tare start {}", other.name)));
        }
        let connections = networks(roots).connections(id)?;
        let address = connections.iter().find(|connection| connection.network.name == DEFAULT);
        let Some(address) = address.and_then(|connection| connection.endpoint.ipv4) else {
            return Err(Error::new(
                Kind::Conflict,
                format!("cannot link to {} AS {alias}: it is not on the network {DEFAULT}", other.name),
            )
            .hint("put both on one network of their own (`tare network create`); names are found there without --link"));
        };
        let exposed = other.image.exposed_ports.iter().chain(other.request.config.exposed_ports.keys());
        facts.linked.push(Linked {
            name: format!("/{}/{alias}", record.name),
            alias: alias.to_owned(),
            address: address.into(),
            ports: exposed.cloned().collect(),
            env: crate::inspect::environment(&other.image.env, &other.request.config.env),
        });
    }
    Ok(())
}
