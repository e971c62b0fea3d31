//! The names of units: from `linux.cgroupsPath` to a unit, its slice and where both lie in the cgroup tree.

use tare_sys::{Error, Kind, Result};

/// `UNIT_NAME_MAX` of systemd, with the suffix.
const MAX_NAME: usize = 255;

/// Which unit a container is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `prefix-name.scope`, or a slice.
    pub unit: String,
    /// The slice around it.
    pub slice: String,
    /// Below the service manager's own cgroup, without a leading `/`.
    pub path: String,
}

impl Target {
    /// A slice holds no processes that systemd put there.
    pub(crate) fn is_slice(&self) -> bool {
        is_slice(&self.unit)
    }
}

pub(crate) fn is_slice(unit: &str) -> bool {
    unit.ends_with(".slice")
}

/// Reads `slice:prefix:name` as runc does. Without a path: `:tare:<id>`. No slice is `system.slice`, or
/// `user.slice` of a user's manager; no prefix leaves the name alone; a name that ends in `.slice` is one.
///
/// Errors: [`Kind::Usage`] for another shape, or a slice's name that systemd would not take.
pub(crate) fn target(cgroups_path: Option<&str>, id: &str, user: bool) -> Result<Target> {
    let default = format!(":tare:{id}");
    let path = cgroups_path.filter(|path| !path.is_empty()).unwrap_or(&default);
    let parts: Vec<&str> = path.split(':').collect();
    let [slice, prefix, name] = parts.as_slice() else {
        return Err(Error::new(
            Kind::Usage,
            format!("cgroupsPath {path:?}: with the systemd driver it is \"slice:prefix:name\""),
        )
        .hint("give for example \"system.slice:tare:web\", or use the cgroupfs driver for paths"));
    };
    if name.is_empty() {
        return Err(Error::new(Kind::Usage, format!("cgroupsPath {path:?}: no name after the second colon")));
    }
    let slice = match (*slice, user) {
        ("", false) => "system.slice",
        ("", true) => "user.slice",
        // runc's word for the root slice.
        ("-", _) => "-.slice",
        (slice, _) => slice,
    };
    let mut below = expand(slice)?;
    let unit = if is_slice(name) {
        let own = expand(name)?;
        // A slice's name says where it lies.
        below = own.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
        (*name).to_owned()
    } else if prefix.is_empty() {
        format!("{}.scope", escape(name))
    } else {
        format!("{}-{}.scope", escape(prefix), escape(name))
    };
    if unit.len() > MAX_NAME {
        return Err(Error::new(Kind::Usage, format!("systemd unit {unit}: longer than {MAX_NAME} bytes"))
            .hint("give the container a shorter id"));
    }
    let path = if below.is_empty() { unit.clone() } else { format!("{below}/{unit}") };
    Ok(Target { unit, slice: slice.to_owned(), path })
}

/// Where a slice lies: `a-b-c.slice` is `a.slice/a-b.slice/a-b-c.slice`; `-.slice` is the root.
///
/// Source: systemd.slice(5).
fn expand(slice: &str) -> Result<String> {
    let refuse = |why: &str| {
        Err(Error::new(Kind::Usage, format!("systemd slice {slice:?}: {why}"))
            .hint("write it as systemd.slice(5) says, for example machine.slice or a-b.slice for b within a"))
    };
    let Some(stem) = slice.strip_suffix(".slice") else {
        return refuse("the name does not end in .slice");
    };
    if stem == "-" {
        return Ok(String::new());
    }
    if stem.split('-').any(str::is_empty) {
        return refuse("a part of the name between dashes is empty");
    }
    if !stem.bytes().all(is_plain) || slice.len() > MAX_NAME {
        return refuse("not a name of a unit");
    }
    let ends = stem.match_indices('-').map(|(end, _)| end).chain([stem.len()]);
    Ok(ends.map(|end| format!("{}.slice", &stem[..end])).collect::<Vec<_>>().join("/"))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte)
}

/// What a unit's name cannot hold, such as the `+` that container ids may have, becomes `\x2b`.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match is_plain(byte) {
            true => escaped.push(byte.into()),
            false => escaped.push_str(&format!("\\x{byte:02x}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> (String, String, String) {
        let Target { unit, slice, path } = target(Some(path), "id", false).unwrap();
        (unit, slice, path)
    }

    #[test]
    fn slices_nest_by_their_dashes() {
        assert_eq!(expand("a-b-c.slice").unwrap(), "a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(expand("system.slice").unwrap(), "system.slice");
        assert_eq!(expand("-.slice").unwrap(), "");
        for bad in [
            "",
            ".slice",
            "a",
            "a.scope",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "--.slice",
            "a/b.slice",
            "../x.slice",
            "a b.slice",
            "a\n.slice",
        ] {
            assert_eq!(expand(bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }

    #[test]
    fn a_path_names_slice_and_unit() {
        let is = |path: &str, unit: &str, slice: &str, place: &str| {
            assert_eq!(of(path), (unit.to_owned(), slice.to_owned(), place.to_owned()), "{path}");
        };
        is("machine.slice:libpod:1f", "libpod-1f.scope", "machine.slice", "machine.slice/libpod-1f.scope");
        is("::web", "web.scope", "system.slice", "system.slice/web.scope");
        is("-:p:n", "p-n.scope", "-.slice", "p-n.scope");
        is("a-b.slice:p:n", "p-n.scope", "a-b.slice", "a.slice/a-b.slice/p-n.scope");
        is("a.slice:x:a-b.slice", "a-b.slice", "a.slice", "a.slice/a-b.slice");
        is(
            ":p:a+b/../c",
            "p-a\\x2bb\\x2f..\\x2fc.scope",
            "system.slice",
            "system.slice/p-a\\x2bb\\x2f..\\x2fc.scope",
        );
        is("", "tare-id.scope", "system.slice", "system.slice/tare-id.scope");
        assert_eq!(target(None, "id", true).unwrap().path, "user.slice/tare-id.scope");
    }

    #[test]
    fn another_shape_is_refused_with_the_right_one() {
        for bad in ["/docker/1", "a.slice:b", "a.slice:b:", "a:b:c:d", "a/b.slice:c:d", "nope:c:d"] {
            let err = target(Some(bad), "id", false).unwrap_err();
            assert!(
                err.kind() == Kind::Usage && err.to_string().contains(bad.split(':').next().unwrap()),
                "{bad}"
            );
        }
        assert!(target(Some(&format!("::{}", "x".repeat(300))), "id", false).is_err());
    }
}
