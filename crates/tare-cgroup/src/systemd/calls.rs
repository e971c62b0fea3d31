//! The few calls to systemd that a container needs.

use std::time::Duration;

use tare_sys::{Context, Error, Kind, Result};

use super::Property;
use crate::dbus::{Address, Bus, Call, Reply, Sort, Value};

/// How long systemd may take for one order, start to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// systemd drops a failed unit a moment after it was told to; so often is a taken name tried again.
const TRIES: u32 = 5;

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

const BUS: &str = "org.freedesktop.DBus";

/// A connection to the system's or a user's systemd.
#[derive(Debug)]
pub(crate) struct Systemd {
    bus: Bus,
}

impl Systemd {
    /// Connects by the bus, or where there is none by systemd's own socket. The connection is good for 30 s.
    ///
    /// Errors: [`Kind::Unsupported`] where there is no way to systemd, with what was tried.
    pub(crate) fn connect(user: bool) -> Result<Systemd> {
        let whose = if user { "the user's" } else { "the system's" };
        let places = places(user)?;
        let mut first = None;
        for (address, direct) in &places {
            match Bus::connect(address, PATIENCE) {
                Ok(bus) => return Systemd::greet(bus, *direct).doing(|| format!("reach {whose} systemd")),
                Err(err) => {
                    first.get_or_insert(err);
                }
            }
        }
        let err = first.unwrap_or_else(|| Error::new(Kind::Unsupported, "no address"));
        let err = err.context(format!("reach {whose} systemd"));
        Err(match user {
            true => err.hint(
                "a user's systemd needs a login session or lingering: loginctl enable-linger, and \
                 XDG_RUNTIME_DIR or DBUS_SESSION_BUS_ADDRESS set; or use the cgroupfs driver",
            ),
            false => err.hint("is systemd running here, and is dbus? else use the cgroupfs driver"),
        })
    }

    fn greet(mut bus: Bus, direct: bool) -> Result<Systemd> {
        // Without a bus between there is nobody to greet, and signals come unasked.
        if !direct {
            let hello = |member| Call { service: BUS, path: "/org/freedesktop/DBus", interface: BUS, member };
            answered(bus.call(&hello("Hello"), &[])?)?;
            let rule = format!("type='signal',sender='{SERVICE}',interface='{MANAGER}',member='JobRemoved'");
            answered(bus.call(&hello("AddMatch"), &[Value::Str(rule)])?)?;
        }
        let mut systemd = Systemd { bus };
        // Already subscribed is as good.
        systemd.ask("Subscribe", &[])?;
        Ok(systemd)
    }

    fn ask(&mut self, member: &str, body: &[Value]) -> Result<Reply> {
        self.bus.call(&Call { service: SERVICE, path: OBJECT, interface: MANAGER, member }, body)
    }

    fn text_property(&mut self, name: &str) -> Result<String> {
        let call = Call {
            service: SERVICE,
            path: OBJECT,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
        };
        let values = answered(self.bus.call(&call, &[Value::str(MANAGER), Value::str(name)])?)?;
        match values.into_iter().next() {
            Some(Value::Variant(inner)) => match *inner {
                Value::Str(text) => Ok(text),
                _ => Err(Error::new(Kind::Corrupt, format!("systemd's {name} is not a text"))),
            },
            _ => Err(Error::new(Kind::Corrupt, format!("systemd's {name} is not a value"))),
        }
    }

    /// The cgroup that this systemd manages, without slashes around it; empty for the root.
    pub(crate) fn root(&mut self) -> Result<String> {
        let root = self.text_property("ControlGroup")?;
        // Before v205 PID 1 named the cgroup that it sits in itself.
        let root = root.strip_suffix("/init.scope").unwrap_or(&root);
        if root.split('/').any(|part| part == "..") {
            return Err(Error::new(
                Kind::Unsupported,
                format!("systemd's cgroup {root} is outside of the cgroup namespace of this process"),
            ));
        }
        Ok(root.trim_matches('/').to_owned())
    }

    /// The version's first number, such as 252; 0 where it cannot be read.
    pub(crate) fn version(&mut self) -> Result<u32> {
        Ok(version(&self.text_property("Version")?))
    }

    /// Starts a transient unit, and waits until it is there. What is left over of a failed one of that name is
    /// cleared away first.
    ///
    /// Errors: [`Kind::Conflict`] if the unit exists; what systemd says, or how the job ended.
    pub(crate) fn start(&mut self, unit: &str, properties: Vec<Property>) -> Result<()> {
        let body = [
            Value::str(unit),
            Value::str("replace"),
            Value::Array("(sv)".into(), properties.into_iter().map(pair).collect()),
            Value::Array("(sa(sv))".into(), vec![]),
        ];
        let mut tries = 0;
        let reply = loop {
            match self.ask("StartTransientUnit", &body)? {
                Reply::Refused { name, .. } if name.ends_with(".UnitExists") && tries < TRIES => {
                    if tries > 0 {
                        std::thread::sleep(Duration::from_millis(10 << tries));
                    }
                    tries += 1;
                    self.reset_failed(unit)?;
                }
                reply => break reply,
            }
        };
        self.finish(unit, reply)
            .inspect_err(|_| drop(self.reset_failed(unit)))
            .doing(|| format!("start unit {unit}"))
    }

    /// Changes properties of a unit, until it ends.
    pub(crate) fn set(&mut self, unit: &str, properties: Vec<Property>) -> Result<()> {
        if properties.is_empty() {
            return Ok(());
        }
        let list = Value::Array("(sv)".into(), properties.into_iter().map(pair).collect());
        let reply = self.ask("SetUnitProperties", &[Value::str(unit), Value::Bool(true), list])?;
        answered(reply).map(drop).doing(|| format!("set properties of unit {unit}"))
    }

    /// Stops a unit and waits until it has; then forgets it, should it have failed. No such unit, no error.
    pub(crate) fn stop(&mut self, unit: &str) -> Result<()> {
        let reply = self.ask("StopUnit", &[Value::str(unit), Value::str("replace")])?;
        let stopped = match reply {
            Reply::Refused { name, .. } if no_such_unit(&name) => Ok(()),
            reply => self.finish(unit, reply).doing(|| format!("stop unit {unit}")),
        };
        self.reset_failed(unit)?;
        stopped
    }

    /// Asks systemd to move a process into the unit's cgroup: it may do what its user may not.
    pub(crate) fn attach(&mut self, unit: &str, pid: u32) -> Result<()> {
        let pids = Value::Array("u".into(), vec![Value::Uint32(pid)]);
        let reply = self.ask("AttachProcessesToUnit", &[Value::str(unit), Value::str(""), pids])?;
        answered(reply).map(drop).doing(|| format!("move process {pid} into unit {unit}"))
    }

    /// A unit that has not failed, or is not there, is as good.
    fn reset_failed(&mut self, unit: &str) -> Result<()> {
        self.ask("ResetFailedUnit", &[Value::str(unit)]).map(drop)
    }

    /// Waits for the job that an order has made.
    fn finish(&mut self, unit: &str, ordered: Reply) -> Result<()> {
        let values = answered(ordered)?;
        let Some(job @ Value::Path(_)) = values.first() else {
            return Err(Error::new(Kind::Corrupt, "systemd named no job"));
        };
        loop {
            let signal = self.bus.signal().doing(|| "wait for its job")?;
            if signal.sort != Sort::Signal || signal.interface != MANAGER || signal.member != "JobRemoved" {
                continue;
            }
            // Number, object, unit, result.
            let [_, ended, _, Value::Str(result)] = signal.body.as_slice() else { continue };
            if ended == job {
                return match result.as_str() {
                    "done" => Ok(()),
                    other => Err(Error::new(Kind::Kernel, format!("systemd's job ended as \"{other}\""))
                        .hint(format!("see systemctl status {unit} and journalctl -n 20"))),
                };
            }
        }
    }
}

fn pair((name, value): Property) -> Value {
    Value::Struct(vec![Value::Str(name), Value::Variant(Box::new(value))])
}

fn no_such_unit(error: &str) -> bool {
    error.ends_with(".NoSuchUnit")
}

/// The values of an answer, or the refusal as an error.
fn answered(reply: Reply) -> Result<Vec<Value>> {
    match reply {
        Reply::Values(values) => Ok(values),
        Reply::Refused { name, text } => {
            let kind = match name.rsplit('.').next().unwrap_or_default() {
                "UnitExists" => Kind::Conflict,
                "NoSuchUnit" => Kind::NotFound,
                "AccessDenied" | "InteractiveAuthorizationRequired" => Kind::Permission,
                "InvalidArgs" | "PropertyReadOnly" => Kind::Usage,
                "UnknownMethod" | "ServiceUnknown" => Kind::Unsupported,
                _ => Kind::Kernel,
            };
            let err = Error::new(kind, format!("systemd says: {text} ({name})"));
            Err(match kind {
                Kind::Conflict => err.hint("a container of that name runs, or systemctl stop that unit"),
                Kind::Permission => err.hint("only root may order the system's systemd: use the user's"),
                _ => err,
            })
        }
    }
}

/// `v252.38-1~deb12u1` is 252.
fn version(text: &str) -> u32 {
    let digits = text.trim_start_matches(|first: char| !first.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// Where systemd may be reached, best first, and whether it is systemd's own socket.
fn places(user: bool) -> Result<Vec<(Address, bool)>> {
    let runtime = std::env::var("XDG_RUNTIME_DIR").ok().filter(|folder| folder.starts_with('/'));
    let variable = if user { "DBUS_SESSION_BUS_ADDRESS" } else { "DBUS_SYSTEM_BUS_ADDRESS" };
    if let Some(list) = std::env::var(variable).ok().filter(|list| !list.is_empty()) {
        let address = Address::parse(&list)
            .ok_or_else(|| Error::new(Kind::Usage, format!("{variable}={list:?}: no unix socket in it")))?;
        let direct = matches!(&address, Address::Path(path) if path.ends_with("/systemd/private"));
        return Ok(vec![(address, direct)]);
    }
    Ok(match (user, runtime) {
        (false, _) => vec![
            (Address::Path("/run/dbus/system_bus_socket".into()), false),
            (Address::Path("/run/systemd/private".into()), true),
        ],
        (true, Some(folder)) => vec![
            (Address::Path(format!("{folder}/bus")), false),
            (Address::Path(format!("{folder}/systemd/private")), true),
        ],
        (true, None) => {
            return Err(Error::new(
                Kind::Unsupported,
                "reach the user's systemd: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set",
            )
            .hint("log in anew, or: export XDG_RUNTIME_DIR=/run/user/$(id -u)"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_its_first_number() {
        for (text, number) in
            [("252.38-1~deb12u1", 252), ("v245.4-1.fc32", 245), ("257", 257), ("", 0), ("x", 0)]
        {
            assert_eq!(version(text), number, "{text}");
        }
    }
}
