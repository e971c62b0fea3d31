//! `tare network`, and `tare port`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use regex_lite::Regex;
use tare_engine::request::EndpointSettings;
use tare_engine::{Engine, NetworkSummary, Published, Subnet, WantedNetwork, WantedPool};
use tare_sys::{Error, Kind, Result};

use crate::container::containers;
use crate::print::failure::each;
use crate::print::human;
use crate::print::table::{self, Column, Row};
use crate::print::terminal::say;
use crate::words::flag::{Flag, Given};
use crate::words::parse::{self, Parsed, when};
use crate::words::tree::Verb;

const COLUMNS: [Column; 4] =
    [("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE")];
const HEADINGS: [Column; 1] = [("CreatedAt", "CREATED AT")];

pub static CREATE: Verb = Verb {
    about: "Create a network",
    operands: "[OPTIONS] NETWORK",
    least: |_| 1,
    most: 1,
    words_end_options: false,
    flags: &[
        Flag::switch("attachable", "Taken for Docker's sake; every network of ours can be attached to"),
        Flag::one("driver", "string", "macvlan", "Driver of the network (bridge|macvlan)").short('d'),
        Flag::many("gateway", "10.20.0.1", "Address of the bridge, one for each subnet"),
        Flag::switch("internal", "Let nothing of the network out, and nobody in"),
        Flag::many("ip-range", "10.20.0.128/25", "Give containers addresses from this part of the subnet"),
        Flag::switch("ipv6", "Give the network a subnet of IPv6 as well"),
        Flag::many("label", "KEY=value", "Set labels on the network"),
        Flag::many("opt", "mtu=1400", "Set options of the driver").short('o'),
        Flag::many("subnet", "10.20.0.0/24", "Use this subnet (usually one that is free)"),
    ],
    act: create,
    failed: 1,
};

pub static LIST: Verb = Verb {
    about: "List networks",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[
        Flag::many("filter", "driver=bridge", "Show only some (dangling|driver|id|label|name|scope|type=…)")
            .short('f'),
        Flag::one(
            "format",
            "string",
            "json",
            "Print as 'table', 'json' or by a template ('{{.Name}}', 'table {{.Name}}')",
        ),
        Flag::switch("no-trunc", "Do not shorten what is printed"),
        Flag::switch("quiet", "Print IDs only").short('q'),
    ],
    act: list,
    failed: 1,
};

pub static INSPECT: Verb = Verb {
    about: "Show all that is known of one or more networks",
    operands: "[OPTIONS] NETWORK [NETWORK...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::one("format", "string", "json", "Print as 'json' or by a template ('{{.Driver}}')").short('f'),
        Flag::switch("verbose", "Taken for Docker's sake; all is shown in any case").short('v'),
    ],
    act: inspect,
    failed: 1,
};

pub static REMOVE: Verb = Verb {
    about: "Remove one or more networks",
    operands: "[OPTIONS] NETWORK [NETWORK...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[Flag::switch("force", "A network that is not there is no error").short('f')],
    act: remove,
    failed: 1,
};

pub static PRUNE: Verb = Verb {
    about: "Remove all networks that no container uses",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[
        Flag::many("filter", "label=x", "Remove only some (label|label!|until=…)"),
        Flag::switch("force", "Do not ask").short('f'),
    ],
    act: prune,
    failed: 1,
};

pub static CONNECT: Verb = Verb {
    about: "Connect a container to a network",
    operands: "[OPTIONS] NETWORK CONTAINER",
    least: |_| 2,
    most: 2,
    words_end_options: false,
    flags: &[
        Flag::many("alias", "db", "Let it be found by this name as well"),
        Flag::one("ip", "address", "10.20.0.5", "Give it this address of IPv4"),
        Flag::one("ip6", "address", "fd00::5", "Give it this address of IPv6"),
        Flag::one("mac-address", "address", "02:42:0a:14:00:05", "Give it this hardware address"),
    ],
    act: connect,
    failed: 1,
};

pub static DISCONNECT: Verb = Verb {
    about: "Disconnect a container from a network",
    operands: "[OPTIONS] NETWORK CONTAINER",
    least: |_| 2,
    most: 2,
    words_end_options: false,
    flags: &[Flag::switch("force", "A container that is not there is no error").short('f')],
    act: disconnect,
    failed: 1,
};

pub static RELOAD: Verb = Verb {
    about: "Make the firewall's rules for containers anew, after it was flushed",
    operands: "",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[],
    act: |engine, _| engine.reload_networks().map(|()| 0),
    failed: 1,
};

pub static PORT: Verb = Verb {
    about: "List the published ports of a container",
    operands: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    least: |_| 1,
    most: 2,
    words_end_options: false,
    flags: &[],
    act: port,
    failed: 1,
};

fn create(engine: &Engine, given: &Given) -> Result<u8> {
    let mut pools: Vec<WantedPool> = given
        .values("subnet", subnet)?
        .into_iter()
        .map(|subnet| WantedPool { subnet: Some(subnet), ..WantedPool::default() })
        .collect();
    // Each goes with the subnet that it lies in.
    for gateway in given.values("gateway", address)? {
        let of = pools.iter_mut().find(|pool| pool.subnet.is_some_and(|subnet| subnet.contains(gateway)));
        of.ok_or_else(|| given.wrong("gateway", &gateway.to_string(), "it lies in no --subnet"))?.gateway =
            Some(gateway);
    }
    for range in given.values("ip-range", subnet)? {
        let of = pools.iter_mut().find(|pool| pool.subnet.is_some_and(|subnet| subnet.contains(range.first)));
        of.ok_or_else(|| given.wrong("ip-range", &range.to_string(), "it lies in no --subnet"))?.range =
            Some(range);
    }
    let wanted = WantedNetwork {
        name: given.words()[0].to_owned(),
        driver: given.text("driver").unwrap_or_default().to_owned(),
        pools,
        internal: given.on("internal")?,
        ipv6: given.on("ipv6")?,
        options: given.values("opt", parse::pair("option"))?.into_iter().collect(),
        labels: given.values("label", parse::label)?.into_iter().collect::<BTreeMap<_, _>>(),
    };
    say(&format!("{}\n", engine.create_network(&wanted)?.id))?;
    Ok(0)
}

fn subnet(text: &str) -> Parsed<Subnet> {
    text.parse().map_err(|_| "it is no ADDRESS/PREFIX".to_owned())
}

fn address(text: &str) -> Parsed<IpAddr> {
    text.parse().map_err(|_| "it is no IP address".to_owned())
}

/// One `--filter KEY=VALUE`.
enum Filter {
    /// Whether no container asks for it; the ids of those.
    Dangling(bool, Vec<String>),
    Driver(String),
    Id(String),
    /// Docker takes it for a regular expression; what is none is taken as it is.
    Name(String, Option<Regex>),
    Label(String, bool),
    Scope(String),
    Builtin(bool),
    /// Made before this moment.
    Until(i128),
}

impl Filter {
    fn all(engine: &Engine, given: &Given, keys: &[&str]) -> Result<Vec<Filter>> {
        let one = |(key, value): (String, String)| Filter::of(engine, given, keys, &key, &value);
        given.values("filter", parse::pair("filter"))?.into_iter().map(one).collect()
    }

    fn of(engine: &Engine, given: &Given, keys: &[&str], key: &str, value: &str) -> Result<Filter> {
        let wrong = |why: &str| given.wrong("filter", &format!("{key}={value}"), why);
        if !keys.contains(&key) {
            return Err(Error::new(Kind::Usage, format!("invalid filter '{key}'"))
                .hint(format!("the key can be {}", keys.join(", "))));
        }
        Ok(match key {
            "dangling" => {
                let unused = engine.unused_networks()?.into_iter().map(|network| network.id);
                Filter::Dangling(parse::boolean(value).map_err(|why| wrong(&why))?, unused.collect())
            }
            "driver" => Filter::Driver(value.to_owned()),
            "id" => Filter::Id(value.to_owned()),
            "name" => Filter::Name(value.to_owned(), Regex::new(value).ok()),
            "scope" => Filter::Scope(value.to_owned()),
            "type" => match value {
                "builtin" | "custom" => Filter::Builtin(value == "builtin"),
                _ => return Err(wrong("it is builtin or custom")),
            },
            "until" => Filter::Until(when::moment(value).map_err(|why| wrong(&why))?),
            _ => Filter::Label(value.to_owned(), key == "label"),
        })
    }

    fn takes(&self, network: &NetworkSummary) -> bool {
        let has = |value: &str| {
            let (key, wanted) =
                value.split_once('=').map_or((value, None), |(key, value)| (key, Some(value)));
            network.labels.get(key).is_some_and(|label| wanted.is_none_or(|wanted| label == wanted))
        };
        match self {
            Filter::Dangling(wanted, unused) => unused.contains(&network.id) == *wanted,
            Filter::Driver(value) => network.driver == *value,
            Filter::Id(value) => network.id.starts_with(value.as_str()),
            Filter::Name(_, Some(pattern)) => pattern.is_match(&network.name),
            Filter::Name(value, None) => network.name.contains(value.as_str()),
            Filter::Label(value, wanted) => has(value) == *wanted,
            Filter::Scope(value) => value == "local",
            Filter::Builtin(wanted) => ["bridge", "host", "none"].contains(&network.name.as_str()) == *wanted,
            Filter::Until(moment) => when::moment(&network.created).is_ok_and(|created| created < *moment),
        }
    }
}

/// Whether a network passes all filters of one kind or another; several of one kind are alternatives, but labels.
fn passes(filters: &[Filter], network: &NetworkSummary) -> bool {
    filters.iter().all(|filter| match filter {
        Filter::Label(..) => filter.takes(network),
        _ => filters
            .iter()
            .filter(|other| std::mem::discriminant(*other) == std::mem::discriminant(filter))
            .any(|filter| filter.takes(network)),
    })
}

fn list(engine: &Engine, given: &Given) -> Result<u8> {
    let filters = Filter::all(
        engine,
        given,
        &["dangling", "driver", "id", "label", "label!", "name", "scope", "type"],
    )?;
    let whole = given.on("no-trunc")?;
    let id = |network: &NetworkSummary| match whole {
        true => network.id.clone(),
        false => network.id.chars().take(12).collect(),
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut ids = String::new();
    for network in engine.list_networks()? {
        if !passes(&filters, &network) {
            continue;
        }
        ids += &format!("{}\n", if network.id.is_empty() { network.name.clone() } else { id(&network) });
        let row = table::row([
            ("CreatedAt", network.created.clone()),
            ("Driver", network.driver.clone()),
            ("ID", id(&network)),
            ("IPv4", "true".to_owned()),
            ("IPv6", network.ipv6.to_string()),
            ("Internal", network.internal.to_string()),
            ("Name", network.name.clone()),
            ("Scope", "local".to_owned()),
        ]);
        rows.push(table::labelled(row, &network.labels));
    }
    if given.on("quiet")? {
        say(&ids)?;
        return Ok(0);
    }
    table::print(given, &COLUMNS, &HEADINGS, rows)?;
    Ok(0)
}

fn inspect(engine: &Engine, given: &Given) -> Result<u8> {
    containers::show(given, |word| engine.inspect_network(word))
}

fn remove(engine: &Engine, given: &Given) -> Result<u8> {
    let force = given.on("force")?;
    Ok(each(&given.words(), |word| {
        match engine.remove_network(word) {
            Err(err) if force && err.kind() == Kind::NotFound => return Ok(()),
            result => result?,
        }
        say(&format!("{word}\n"))
    }))
}

fn prune(engine: &Engine, given: &Given) -> Result<u8> {
    let filters = Filter::all(engine, given, &["label", "label!", "until"])?;
    if !given.on("force")? {
        return Err(Error::new(Kind::Usage, "this removes all networks that no container uses")
            .hint("say --force if you mean it"));
    }
    let removed = engine.prune_networks(&|network| passes(&filters, network))?;
    if !removed.is_empty() {
        say(&format!("Deleted Networks:\n{}\n", removed.join("\n")))?;
    }
    Ok(0)
}

fn connect(engine: &Engine, given: &Given) -> Result<u8> {
    let [network, container] = given.words()[..] else { return Ok(1) };
    let mut settings = EndpointSettings::default();
    let aliases = given.strings("alias");
    if !aliases.is_empty() {
        settings.aliases = Some(aliases);
    }
    if let Some(address) = given.value("ip", parse::ip)? {
        settings.ipam_config.get_or_insert_default().ipv4_address = address;
    }
    if let Some(address) = given.value("ip6", parse::ip)? {
        settings.ipam_config.get_or_insert_default().ipv6_address = address;
    }
    settings.mac_address = given.text("mac-address").unwrap_or_default().to_owned();
    engine.connect_network(network, container, &settings)?;
    Ok(0)
}

fn disconnect(engine: &Engine, given: &Given) -> Result<u8> {
    let [network, container] = given.words()[..] else { return Ok(1) };
    engine.disconnect_network(network, container, given.on("force")?)?;
    Ok(0)
}

fn port(engine: &Engine, given: &Given) -> Result<u8> {
    let words = given.words();
    let container = words[0];
    let ports = engine.ports(container)?;
    let at = |port: &Published| human::socket(port.address, port.port);
    let Some(wanted) = words.get(1) else {
        let line = |port: &Published| format!("{}/{} -> {}\n", port.container_port, port.protocol, at(port));
        say(&ports.iter().map(line).collect::<String>())?;
        return Ok(0);
    };
    let wanted = if wanted.contains('/') { (*wanted).to_owned() } else { format!("{wanted}/tcp") };
    let is_it = |port: &&Published| format!("{}/{}", port.container_port, port.protocol) == wanted;
    let found: Vec<_> = ports.iter().filter(is_it).collect();
    if found.is_empty() {
        return Err(Error::new(
            Kind::NotFound,
            format!("no public port '{wanted}' published for {container}"),
        )
        .hint(format!("`tare port {container}` lists all")));
    }
    say(&found.into_iter().map(|port| format!("{}\n", at(port))).collect::<String>())?;
    Ok(0)
}
