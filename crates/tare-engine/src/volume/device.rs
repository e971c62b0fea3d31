//! Options of the driver `local`: what mount(8) would be told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Mount, MountBuilder};
use tare_sys::{Error, Kind, Result};

/// What a volume with these options is.
#[derive(Debug, PartialEq, Eq)]
pub enum Device {
    /// A folder of ours.
    Folder,
    /// A folder of the host, with these options of a bind mount.
    Bind(PathBuf, Vec<String>),
    /// A file system: its type, what to mount, options.
    FileSystem(String, String, Vec<String>),
}

/// Checks what a caller asks for.
pub fn check(options: &BTreeMap<String, String>) -> Result<()> {
    let bad = |what: String, hint: &str| Err(Error::new(Kind::Usage, what).hint(hint));
    for key in options.keys() {
        if !["type", "o", "device", "size", "inodes"].contains(&key.as_str()) {
            return bad(
                format!("invalid option: {key:?}"),
                "the options of the driver local are type, o, device and size",
            );
        }
    }
    if options.contains_key("inodes") {
        return bad("option inodes: only a size can be limited".to_owned(), "leave it out");
    }
    if let Some(text) = options.get("size") {
        size(text)?;
    }
    let given = |key: &str| options.get(key).is_some_and(|value| !value.is_empty());
    match (given("type"), given("device"), given("o")) {
        (false, false, false) => Ok(()),
        (_, false, _) => {
            bad("missing device in volume options".to_owned(), "say what to mount: --opt device=/dev/sdb1")
        }
        (false, true, _) => bad(
            "missing type in volume options".to_owned(),
            "say how: --opt type=nfs, or for a folder --opt type=none --opt o=bind",
        ),
        (true, true, _) => match of(options) {
            Device::Bind(path, _) if !path.is_absolute() => {
                bad(format!("device {}: not an absolute path", path.display()), "write it from /")
            }
            _ => Ok(()),
        },
    }
}

/// Reads them.
pub fn of(options: &BTreeMap<String, String>) -> Device {
    let text = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let (kind, device) = (text("type"), text("device"));
    let mut words: Vec<String> =
        text("o").split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    if device.is_empty() {
        return Device::Folder;
    }
    let bind = words.iter().any(|word| word == "bind" || word == "rbind");
    if bind || matches!(kind, "bind" | "none") {
        words.retain(|word| word != "bind" && word != "rbind");
        return Device::Bind(PathBuf::from(device), words);
    }
    if kind == "tmpfs" && options.contains_key("size") && !words.iter().any(|w| w.starts_with("size=")) {
        words.push(format!("size={}", text("size")));
    }
    Device::FileSystem(kind.to_owned(), device.to_owned(), words)
}

/// The spec's words for a file system, for the code that mounts those.
pub fn mount(kind: &str, device: &str, words: &[String]) -> Result<Mount> {
    MountBuilder::default()
        .destination("/")
        .typ(kind)
        .source(device)
        .options(words.to_vec())
        .build()
        .map_err(|err| Error::new(Kind::Corrupt, format!("mount {kind} {device}: {err}")))
}

/// A size as Docker takes it: `10G`, `500m`, bytes.
pub fn size(text: &str) -> Result<u64> {
    let bad = || {
        Error::new(Kind::Usage, format!("invalid size: {text:?}"))
            .hint("write a number, then k, m, g or t: size=10g")
    };
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << (10 * power)).filter(|size| *size > 0).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options() {
        let bind = map(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")]);
        assert_eq!(of(&bind), Device::Bind(PathBuf::from("/srv"), vec!["ro".to_owned()]));
        let nfs = map(&[("type", "nfs"), ("o", "addr=10.0.0.1,rw"), ("device", ":/x")]);
        let words = vec!["addr=10.0.0.1".to_owned(), "rw".to_owned()];
        assert_eq!(of(&nfs), Device::FileSystem("nfs".to_owned(), ":/x".to_owned(), words));
        assert_eq!(of(&map(&[("size", "1g")])), Device::Folder);
        assert!(check(&bind).is_ok() && check(&nfs).is_ok() && check(&map(&[])).is_ok());
    }

    #[test]
    fn nonsense_is_refused() {
        for pairs in [
            &[("colour", "red")][..],
            &[("type", "tmpfs")],
            &[("device", "/dev/sdb")],
            &[("o", "bind")],
            &[("size", "much")],
            &[("size", "0")],
            &[("size", "99999999999t")],
            &[("type", "none"), ("o", "bind"), ("device", "relative")],
        ] {
            assert_eq!(check(&map(pairs)).unwrap_err().kind(), Kind::Usage, "{pairs:?}");
        }
        assert_eq!(size("10G").unwrap(), 10 << 30);
    }
}
