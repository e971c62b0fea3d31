//! Docker's `--change`: one Dockerfile instruction that alters an image's configuration.
//!
//! `CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`, `HEALTHCHECK`, `LABEL`, `STOPSIGNAL`, `USER`, `VOLUME`, `WORKDIR`, in the forms
//! that a Dockerfile has for them; variables are not expanded.

use tare_sys::{Error, Kind, Result};

use super::{Healthcheck, ImageConfig};

/// A checked change; [`apply`](Change::apply) cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replaces the command.
    Cmd(Vec<String>),
    /// Replaces the entrypoint.
    Entrypoint(Vec<String>),
    /// Sets environment variables.
    Env(Vec<(String, String)>),
    /// Adds ports, `80/tcp`.
    Expose(Vec<String>),
    /// Replaces the health check.
    Healthcheck(Healthcheck),
    /// Sets labels.
    Label(Vec<(String, String)>),
    /// Sets the signal that `stop` sends.
    StopSignal(String),
    /// Sets the user.
    User(String),
    /// Adds volumes.
    Volume(Vec<String>),
    /// Sets the working folder; a relative one goes on from the one before.
    WorkingDir(String),
}

impl Change {
    /// Reads one instruction, `ENV A=b`; [`Kind::Usage`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Change> {
        let bad = |why: String| Error::new(Kind::Usage, format!("change {text:?}: {why}"));
        let line = text.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let word = word.to_ascii_uppercase();
        // `CMD []` clears the command; everything else needs something to say.
        if rest.is_empty() {
            return Err(bad("an instruction and its value are needed".to_owned())
                .hint("for example: --change 'CMD [\"/bin/sh\"]' --change 'ENV LANG=C.UTF-8'"));
        }
        if rest.contains('\0') {
            return Err(bad("it holds a NUL character".to_owned()));
        }
        Ok(match word.as_str() {
            "CMD" => Change::Cmd(command(rest)),
            "ENTRYPOINT" => Change::Entrypoint(command(rest)),
            "ENV" => Change::Env(pairs(rest).map_err(bad)?),
            "LABEL" => Change::Label(pairs(rest).map_err(bad)?),
            "EXPOSE" => {
                let mut ports = Vec::new();
                for word in rest.split_whitespace() {
                    expose(word, &mut ports).map_err(bad)?;
                }
                Change::Expose(ports)
            }
            "HEALTHCHECK" => Change::Healthcheck(healthcheck(rest).map_err(bad)?),
            "STOPSIGNAL" => Change::StopSignal(one_word(rest).map_err(bad)?),
            "USER" => Change::User(one_word(rest).map_err(bad)?),
            "VOLUME" => Change::Volume(
                json_list(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect()),
            ),
            "WORKDIR" => Change::WorkingDir(rest.to_owned()),
            _ => {
                return Err(bad(format!("{word} is not an instruction that changes an image")).hint(
                    "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR can be changed",
                ));
            }
        })
    }

    /// Alters `config`.
    pub fn apply(&self, config: &mut ImageConfig) {
        match self {
            Change::Cmd(words) => config.cmd.clone_from(words),
            Change::Entrypoint(words) => config.entrypoint.clone_from(words),
            Change::Env(pairs) => {
                for (name, value) in pairs {
                    let prefix = format!("{name}=");
                    let line = format!("{prefix}{value}");
                    match config.env.iter_mut().find(|old| old.starts_with(&prefix)) {
                        Some(old) => *old = line,
                        None => config.env.push(line),
                    }
                }
            }
            Change::Expose(ports) => config.exposed_ports.extend(ports.iter().cloned()),
            Change::Healthcheck(check) => config.healthcheck = Some(check.clone()),
            Change::Label(pairs) => config.labels.extend(pairs.iter().cloned()),
            Change::StopSignal(signal) => config.stop_signal.clone_from(signal),
            Change::User(user) => config.user.clone_from(user),
            Change::Volume(paths) => config.volumes.extend(paths.iter().cloned()),
            Change::WorkingDir(dir) if dir.starts_with('/') => config.working_dir.clone_from(dir),
            Change::WorkingDir(dir) => {
                config.working_dir = format!("{}/{dir}", config.working_dir.trim_end_matches('/'));
            }
        }
    }
}

/// `["a", "b"]` as it stands, anything else for the shell.
fn command(text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

fn json_list(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

/// `NONE`, or options, `CMD` and a command (Dockerfile reference, HEALTHCHECK).
fn healthcheck(text: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option.split_once('=').ok_or_else(|| format!("--{option} has no value"))?;
        match name {
            "interval" => check.interval = span(value)?,
            "timeout" => check.timeout = span(value)?,
            "start-period" => check.start_period = span(value)?,
            "start-interval" => check.start_interval = span(value)?,
            "retries" => {
                let number =
                    value.parse::<u32>().map_err(|_| format!("{value:?} is not a number of retries"))?;
                check.retries = number.into();
            }
            _ => return Err(format!("--{name} is not an option of HEALTHCHECK")),
        }
        rest = after.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let words = |first: &str, more: Vec<String>| std::iter::once(first.to_owned()).chain(more).collect();
    check.test = match (word.to_ascii_uppercase().as_str(), command.trim()) {
        ("NONE", "") if check == Healthcheck::default() => words("NONE", Vec::new()),
        ("CMD", command) if !command.is_empty() => match json_list(command) {
            Some(list) => words("CMD", list),
            None => words("CMD-SHELL", vec![command.to_owned()]),
        },
        _ => return Err("NONE alone can follow, or CMD and a command".to_owned()),
    };
    Ok(check)
}

/// `1m30s` in nanoseconds: nothing, or at least a millisecond, as Docker has it.
fn span(text: &str) -> Result<i64, String> {
    let span = text.parse::<jiff::SignedDuration>().ok().map(|span| span.as_nanos());
    let span = span.and_then(|nanos| i64::try_from(nanos).ok());
    match span {
        Some(nanos) if nanos == 0 || nanos >= 1_000_000 => Ok(nanos),
        _ => Err(format!("{text:?} is not a length of time, as 30s or 1m30s, of at least 1ms")),
    }
}

fn one_word(text: &str) -> Result<String, String> {
    if text.contains(char::is_whitespace) {
        return Err("only one word can follow".to_owned());
    }
    Ok(text.to_owned())
}

/// `80`, `80/udp`, `8000-8010/tcp`; at most the 65,535 ports there are.
fn expose(text: &str, ports: &mut Vec<String>) -> Result<(), String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("{protocol:?} is not tcp, udp or sctp"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| {
        text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(|| format!("{text:?} is not a port"))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("the range {range} goes backwards"));
    }
    ports.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    Ok(())
}

/// `A=b C="d e"`, or the old form `A b c`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        return match text.split_once(char::is_whitespace) {
            Some((name, value)) => Ok(vec![(name.to_owned(), value.trim().to_owned())]),
            None => Err(format!("{text} has no value")),
        };
    }
    words(text)?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(format!("{word:?} has no name before '='")),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("{word:?} has no '='")),
        })
        .collect()
}

/// Words as a shell splits them: quotes and backslashes, nothing expanded.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => out.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(format!("the quote {open} is not closed"));
    }
    out.extend(word);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn applied(changes: &[&str]) -> ImageConfig {
        let mut config = ImageConfig::default();
        for change in changes {
            Change::parse(change).unwrap().apply(&mut config);
        }
        config
    }

    #[test]
    fn each_instruction() {
        let config = applied(&[
            "CMD [\"/bin/a\", \"b c\"]",
            "entrypoint echo \"$X\"",
            "ENV A=1 B=\"two words\" C=x\\ y",
            "ENV A 3 and more",
            "EXPOSE 80 53/udp 8000-8002",
            "LABEL a.b='it is' \"c d\"=e",
            "STOPSIGNAL SIGQUIT",
            "USER 1000:1000",
            "VOLUME /data /more",
            "VOLUME [\"/with space\"]",
            "WORKDIR /srv",
            "WORKDIR sub dir",
        ]);
        assert_eq!(config.cmd, ["/bin/a", "b c"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "echo \"$X\""]);
        assert_eq!(config.env, ["A=3 and more", "B=two words", "C=x y"]);
        let ports: Vec<_> = config.exposed_ports.iter().map(String::as_str).collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
        assert_eq!((config.labels["a.b"].as_str(), config.labels["c d"].as_str()), ("it is", "e"));
        assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("1000:1000", "SIGQUIT"));
        assert_eq!((config.volumes.len(), config.working_dir.as_str()), (3, "/srv/sub dir"));
    }

    #[test]
    fn health_checks() {
        let check = |text: &str| applied(&[text]).healthcheck.unwrap();
        let full = check(
            "HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=1h --start-interval=5s --retries=4 CMD test -e /x",
        );
        let seconds = 1_000_000_000;
        assert_eq!(
            (full.interval, full.timeout, full.start_period, full.start_interval, full.retries),
            (90 * seconds, seconds / 2, 3600 * seconds, 5 * seconds, 4)
        );
        assert_eq!(full.test, ["CMD-SHELL", "test -e /x"]);
        assert_eq!(check("healthcheck cmd [\"/bin/a\", \"b c\"]").test, ["CMD", "/bin/a", "b c"]);
        assert_eq!(check("HEALTHCHECK NONE").test, ["NONE"]);
    }

    #[test]
    fn refusals() {
        for bad in [
            "",
            "CMD",
            "FROM x",
            "RUN rm -rf /",
            "ENV A",
            "ENV =b",
            "ENV A=\"open",
            "EXPOSE 99999/xyz",
            "EXPOSE 0",
            "EXPOSE 70000",
            "EXPOSE 9-1",
            "USER a b",
            "ENV A=\0",
            "HEALTHCHECK",
            "HEALTHCHECK test",
            "HEALTHCHECK CMD",
            "HEALTHCHECK --interval=1s NONE",
            "HEALTHCHECK --interval=1 CMD x",
            "HEALTHCHECK --interval=-1s CMD x",
            "HEALTHCHECK --timeout=1us CMD x",
            "HEALTHCHECK --retries=-1 CMD x",
            "HEALTHCHECK --retries CMD x",
            "HEALTHCHECK --other=1 CMD x",
        ] {
            assert_eq!(Change::parse(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(CMD|ENV|LABEL|EXPOSE|VOLUME|WORKDIR|HEALTHCHECK)? ?.{0,40}") {
            if let Ok(change) = Change::parse(&text) {
                change.apply(&mut ImageConfig::default());
            }
        }
    }
}
