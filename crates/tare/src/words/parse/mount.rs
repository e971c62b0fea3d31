//! `--mount`, `--volume` and `--tmpfs`.

use tare_engine::request::Mount;

use super::{Parsed, absolute, boolean, bytes};

/// `type=bind,source=/srv,target=/data,readonly`
pub fn mount(text: &str) -> Parsed<Mount> {
    let mut mount = Mount::default();
    // What was given that only one type knows, for the message when it is the other.
    let (mut bind_only, mut image_only, mut tmpfs_only, mut volume_only) = (None, None, None, None);
    let mut must_be_read_only = false;
    for field in fields(text)? {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        let (key, bare) = (key.to_ascii_lowercase(), !field.contains('='));
        let switch =
            || if bare { Ok(true) } else { boolean(value).map_err(|why| format!("{field:?}: {why}")) };
        if key.starts_with("bind-") {
            bind_only = Some(key.clone());
        } else if key.starts_with("tmpfs-") {
            tmpfs_only = Some(key.clone());
        } else if key == "image-subpath" {
            image_only = Some(key.clone());
        } else if key.starts_with("volume-") {
            volume_only = Some(key.clone());
        }
        match key.as_str() {
            "readonly" | "ro" => mount.read_only = switch()?,
            "bind-nonrecursive" => mount.non_recursive = switch()?,
            "bind-create-src" => mount.create_source = switch()?,
            "type" | "source" | "src" | "target" | "destination" | "dst" | "bind-propagation"
            | "bind-recursive" | "tmpfs-size" | "tmpfs-mode" | "volume-subpath" | "volume-driver"
            | "volume-opt" | "volume-label" | "image-subpath"
                if bare || value.is_empty() =>
            {
                return Err(format!("{key} needs a value"));
            }
            "type" => mount.kind = value.to_ascii_lowercase(),
            "source" | "src" => mount.source = value.to_owned(),
            "target" | "destination" | "dst" => mount.target = value.to_owned(),
            "bind-propagation" => match value {
                "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                    value.clone_into(&mut mount.propagation)
                }
                _ => {
                    return Err(format!(
                        "bind-propagation can be [r]private, [r]slave or [r]shared, not {value:?}"
                    ));
                }
            },
            "bind-recursive" => match value {
                "enabled" => mount.non_recursive = false,
                "disabled" => mount.non_recursive = true,
                // Without a word for it, what is mounted below is as read-only as the mount itself.
                "writable" => (mount.read_only_non_recursive, must_be_read_only) = (true, true),
                "readonly" => must_be_read_only = true,
                _ => {
                    return Err(format!(
                        "bind-recursive can be enabled, disabled, writable or readonly, not {value:?}"
                    ));
                }
            },
            "tmpfs-size" => {
                mount.tmpfs_size = bytes(value).map_err(|why| format!("tmpfs-size is {value:?}: {why}"))?
            }
            "tmpfs-mode" => match u32::from_str_radix(value, 8) {
                Ok(mode) if mode <= 0o7777 => mount.tmpfs_mode = mode,
                _ => return Err(format!("tmpfs-mode is {value:?}: it must be octal, such as 1777")),
            },
            "consistency" => return Err("consistency has no meaning on Linux: leave it out".to_owned()),
            "image-subpath" => value.clone_into(&mut mount.image_options.subpath),
            "volume-nocopy" => mount.volume_options.no_copy = switch()?,
            "volume-subpath" => value.clone_into(&mut mount.volume_options.subpath),
            "volume-driver" => value.clone_into(&mut mount.volume_options.driver),
            "volume-opt" | "volume-label" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                let options = &mut mount.volume_options;
                let map = if key == "volume-opt" { &mut options.driver_options } else { &mut options.labels };
                map.insert(name.to_owned(), value.to_owned());
            }
            _ => return Err(format!("there is no key {key:?}")),
        }
    }
    if must_be_read_only && !mount.read_only {
        return Err("bind-recursive=writable and =readonly go with readonly".to_owned());
    }
    if mount.kind.is_empty() {
        // Docker's default.
        "volume".clone_into(&mut mount.kind);
    }
    let kind = mount.kind.clone();
    let foreign = || {
        let only =
            [(&bind_only, "bind"), (&image_only, "image"), (&tmpfs_only, "tmpfs"), (&volume_only, "volume")];
        let key =
            only.into_iter().filter(|(_, of)| *of != kind).find_map(|(key, of)| Some((key.clone()?, of)));
        key.map_or(Ok(()), |(key, kind)| Err(format!("{key} goes with type={kind}")))
    };
    match mount.kind.as_str() {
        "bind" => match foreign() {
            Err(why) => return Err(why),
            Ok(()) if mount.source.is_empty() => return Err("type=bind needs a source".to_owned()),
            Ok(()) => mount.source = on_host(&mount.source)?,
        },
        "tmpfs" => match foreign() {
            Err(why) => return Err(why),
            Ok(()) if !mount.source.is_empty() => return Err("type=tmpfs has no source".to_owned()),
            Ok(()) => {}
        },
        "volume" => {
            foreign()?;
            if mount.source.starts_with(['/', '.']) {
                return Err(
                    "the source of type=volume is a name; for a folder of the host use type=bind".to_owned()
                );
            }
        }
        "image" => {
            foreign()?;
            if mount.source.is_empty() {
                return Err("type=image needs a source".to_owned());
            }
            mount.read_only = true;
        }
        kind => return Err(format!("there is no type {kind:?}, only bind, image, tmpfs and volume")),
    }
    if mount.target.is_empty() {
        return Err("there is no target".to_owned());
    }
    absolute(&mount.target).map_err(|why| format!("the target is {:?}: {why}", mount.target))?;
    Ok(mount)
}

/// One line of comma-separated values; a field in double quotes may hold commas, and `""` for a quote.
fn fields(text: &str) -> Parsed<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, tail) =
                rest.split_once(',').map_or((rest, None), |(field, tail)| (field, Some(tail)));
            if field.contains('"') {
                return Err("quotes must go round a whole key=value".to_owned());
            }
            fields.push(field.to_owned());
            match tail {
                Some(tail) => rest = tail,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next() {
                Some((at, '"')) if quoted[at + 1..].starts_with('"') => {
                    field.push('"');
                    chars.next();
                }
                Some((at, '"')) => break at + 1,
                Some((_, c)) => field.push(c),
                None => return Err("a quote is not closed".to_owned()),
            }
        };
        fields.push(field);
        match quoted[end..].strip_prefix(',') {
            Some(tail) => rest = tail,
            None if quoted[end..].is_empty() => return Ok(fields),
            None => return Err("quotes must go round a whole key=value".to_owned()),
        }
    }
}

/// What a `--volume` asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Volume {
    /// `SOURCE:TARGET[:OPTIONS]`, where the source is an absolute path of the host or the name of a volume.
    Bind(String),
    /// `TARGET`: a new volume without a name.
    Anonymous(String),
}

/// Reads a `--volume`. The options, and what may be a volume's name, are the engine's to judge.
pub fn volume(text: &str) -> Parsed<Volume> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => {
            let target = absolute(target)?;
            if target.trim_matches('/').is_empty() {
                return Err("it cannot cover /".to_owned());
            }
            return Ok(Volume::Anonymous(target));
        }
        [source, target] => (source, target, None),
        [source, target, options] => (source, target, Some(options)),
        _ => return Err("it has more than three parts".to_owned()),
    };
    absolute(target).map_err(|why| format!("the target is {target:?}: {why}"))?;
    if source.is_empty() {
        return Err("there is nothing before the colon".to_owned());
    }
    let source = if source.starts_with(['/', '.']) { on_host(source)? } else { source.to_owned() };
    let bind = match options {
        None => format!("{source}:{target}"),
        Some(options) => format!("{source}:{target}:{options}"),
    };
    Ok(Volume::Bind(bind))
}

/// A path on the host: absolute, or from here if it says so with a dot.
fn on_host(source: &str) -> Parsed<String> {
    if source.starts_with('/') {
        return Ok(source.to_owned());
    }
    if source != "." && source != ".." && !source.starts_with("./") && !source.starts_with("../") {
        return Err(format!("the source is {source:?}: it must begin with / or ./"));
    }
    let path = std::path::absolute(source).map_err(|err| format!("the folder we are in: {err}"))?;
    path.into_os_string().into_string().map_err(|path| format!("{path:?} is not UTF-8"))
}

/// `TARGET[:OPTIONS]`
pub fn tmpfs(text: &str) -> Parsed<(String, String)> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    match absolute(target) {
        Ok(target) if target.trim_matches('/').is_empty() => Err("it cannot cover /".to_owned()),
        Ok(target) => Ok((target, options.to_owned())),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn mounts() {
        let here = std::env::current_dir().unwrap();
        let here = here.to_str().unwrap();
        let table = [
            ("type=bind,src=/a,dst=/b", json!({"Type": "bind", "Source": "/a", "Target": "/b"})),
            (
                "type=bind,src=/a,dst=/b,readonly,bind-recursive=writable",
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, "ReadOnlyNonRecursive": true}),
            ),
            (
                "type=bind,src=/a,dst=/b,bind-recursive=readonly,readonly",
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true}),
            ),
            (
                "type=bind,source=/a,target=/b,readonly,bind-propagation=rslave,bind-recursive=disabled",
                json!({"ReadOnly": true, "Propagation": "rslave", "NonRecursive": true}),
            ),
            (
                "type=bind,src=./x,destination=/b,ro=false",
                json!({"Source": format!("{here}/x"), "ReadOnly": false}),
            ),
            ("src=db,dst=/b", json!({"Type": "volume", "Source": "db"})),
            (
                "type=volume,dst=/b,volume-subpath=x/y,volume-nocopy,volume-opt=type=nfs,\"volume-opt=o=a,b\",volume-label=k=v",
                json!({"VolumeOptions": {"NoCopy": true, "Subpath": "x/y", "Labels": {"k": "v"}, "Driver": "",
                    "DriverOptions": {"type": "nfs", "o": "a,b"}}}),
            ),
            (
                "type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=700",
                json!({"TmpfsSize": 1 << 20, "TmpfsMode": 0o700}),
            ),
            (r#"type=bind,"src=/a,b ""c""",dst=/b"#, json!({"Source": "/a,b \"c\""})),
            (
                "TYPE=Bind,src=/a=b,dst=/b,bind-create-src=true",
                json!({"Source": "/a=b", "CreateSource": true}),
            ),
        ];
        for (text, expected) in table {
            let found = serde_json::to_value(mount(text).unwrap()).unwrap();
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(&found[key], value, "{text}: {key}");
            }
            assert_ne!(found["Target"], Value::Null);
        }
    }

    #[test]
    fn wrong_mounts_say_why() {
        let table = [
            ("", "there is no key \"\""),
            ("type=bind,src=/a,dst=/b,", "there is no key \"\""),
            ("src=/a,dst=/b", "the source of type=volume is a name; for a folder of the host use type=bind"),
            ("type=volume,src=a,dst=/b,tmpfs-size=1m", "tmpfs-size goes with type=tmpfs"),
            ("type=bind,src=/a,dst=/b,volume-nocopy", "volume-nocopy goes with type=volume"),
            ("type=image,dst=/b", "type=image needs a source"),
            ("type=bind,src=/a,dst=/b,image-subpath=x", "image-subpath goes with type=image"),
            ("type=npipe,dst=/b", "there is no type \"npipe\", only bind, image, tmpfs and volume"),
            ("type=bind,dst=/b", "type=bind needs a source"),
            ("type=bind,src=/a", "there is no target"),
            ("type=bind,src=/a,dst=b", "the target is \"b\": it must begin with /"),
            ("type=bind,src,dst=/b", "src needs a value"),
            ("type=bind,src=/a,dst=/b,foo=1", "there is no key \"foo\""),
            (
                "type=bind,src=/a,dst=/b,readonly=perhaps",
                "\"readonly=perhaps\": it is neither true nor false",
            ),
            ("type=bind,src=/a,dst=/b,tmpfs-size=1m", "tmpfs-size goes with type=tmpfs"),
            ("type=tmpfs,dst=/b,bind-propagation=rslave", "bind-propagation goes with type=bind"),
            ("type=tmpfs,src=/a,dst=/b", "type=tmpfs has no source"),
            ("type=tmpfs,dst=/b,tmpfs-mode=9", "tmpfs-mode is \"9\": it must be octal, such as 1777"),
            ("type=bind,src=\"/a\",dst=/b", "quotes must go round a whole key=value"),
            ("\"type=bind", "a quote is not closed"),
            ("\"type=bind\"x", "quotes must go round a whole key=value"),
        ];
        for (text, why) in table {
            assert_eq!(mount(text).unwrap_err(), why, "{text}");
        }
    }

    #[test]
    fn binds() {
        let here = std::env::current_dir().unwrap();
        let here = here.to_str().unwrap();
        let bind = |text: &str| Ok(Volume::Bind(text.to_owned()));
        assert_eq!(volume("/a:/b"), bind("/a:/b"));
        assert_eq!(volume("/a:/b:ro,z"), bind("/a:/b:ro,z"));
        assert_eq!(volume("./a:/b:ro"), bind(&format!("{here}/a:/b:ro")));
        assert_eq!(volume(".:/b"), bind(&format!("{here}:/b")));
        assert_eq!(volume("data:/b:nocopy"), bind("data:/b:nocopy"));
        assert_eq!(volume("/a"), Ok(Volume::Anonymous("/a".to_owned())));
        for text in ["", "a", "/", "/a:b", "/a:", ":/b", "/a:/b:ro:x"] {
            assert!(volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn temporary_file_systems() {
        assert_eq!(tmpfs("/run"), Ok(("/run".to_owned(), String::new())));
        assert_eq!(
            tmpfs("/run:size=64m,mode=1777"),
            Ok(("/run".to_owned(), "size=64m,mode=1777".to_owned()))
        );
        assert!(tmpfs("run").is_err() && tmpfs("").is_err() && tmpfs("/").is_err());
    }
}
