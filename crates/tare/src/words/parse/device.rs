//! `--device`, `--device-cgroup-rule`, the throttles of block devices, and `--ulimit`.

use tare_engine::request::{DeviceMapping, DeviceRequest, ThrottleDevice, Ulimit, WeightDevice};

use super::{Parsed, bytes};

/// The limits of getrlimit(2).
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `HOST[:CONTAINER][:rwm]`
pub fn device(text: &str) -> Parsed<DeviceMapping> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inside, permissions) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, last] if is_permissions(last) => (host, host, last),
        [host, inside] => (host, inside, "rwm"),
        [host, inside, permissions] => (host, inside, permissions),
        _ => return Err("it has more than three parts".to_owned()),
    };
    for path in [host, inside] {
        if !path.starts_with('/') {
            return Err(format!("{path:?} must begin with /"));
        }
    }
    if !is_permissions(permissions) {
        return Err(format!("{permissions:?} is not made of r (read), w (write) and m (mknod)"));
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: inside.to_owned(),
        cgroup_permissions: permissions.to_owned(),
    })
}

/// `all`, `2`, `device=0,1`, `"device=0,1",driver=nvidia`: Docker's words, with quotes around what has commas where
/// the next word could be meant. Without quotes a word without a key belongs to the list before it.
pub fn gpus(text: &str) -> Parsed<DeviceRequest> {
    let mut request = DeviceRequest::default();
    let mut counted = false;
    let mut lists: Vec<(String, String)> = Vec::new();
    for field in text.replace('"', "").split(',') {
        match (field.split_once('='), lists.last_mut()) {
            (Some((key, value)), _) if lists_have(key) => lists.push((key.to_owned(), value.to_owned())),
            (_, Some((key, list))) if key != "driver" && key != "count" => {
                *list += ",";
                *list += field;
            }
            (Some((key, _)), _) => return Err(format!("unexpected key '{key}' in '{field}'")),
            (None, _) => lists.push(("count".to_owned(), field.to_owned())),
        }
    }
    for (at, (key, value)) in lists.iter().enumerate() {
        if lists[..at].iter().any(|(other, _)| other == key) {
            return Err(format!("gpu request key '{key}' can be specified only once"));
        }
        let words = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        match key.as_str() {
            "driver" => request.driver.clone_from(value),
            "device" => request.device_ids = words(),
            "capabilities" => {
                request.capabilities = vec![words().into_iter().chain(["gpu".to_owned()]).collect()];
            }
            "options" => {
                for word in words() {
                    let (name, value) = word.split_once('=').unwrap_or((&word, ""));
                    request.options.insert(name.to_owned(), value.to_owned());
                }
            }
            _ => {
                counted = true;
                request.count = match value.as_str() {
                    "all" => -1,
                    text => super::number(0, 1024)(text)
                        .map_err(|_| "count must be an integer, or all".to_owned())?,
                };
            }
        }
    }
    if counted && !request.device_ids.is_empty() {
        return Err("cannot set both Count and DeviceIDs on device request".to_owned());
    }
    if !counted && request.device_ids.is_empty() {
        request.count = 1;
    }
    if request.capabilities.is_empty() {
        request.capabilities = vec![vec!["gpu".to_owned()]];
    }
    Ok(request)
}

fn lists_have(key: &str) -> bool {
    ["driver", "count", "device", "capabilities", "options"].contains(&key)
}

/// Some of `rwm`, each once.
fn is_permissions(text: &str) -> bool {
    let mut letters: Vec<char> = text.chars().collect();
    letters.sort_unstable();
    letters.dedup();
    !letters.is_empty() && letters.len() == text.len() && letters.iter().all(|letter| "rwm".contains(*letter))
}

/// `c 1:3 rwm`, `a *:* rwm`
pub fn rule(text: &str) -> Parsed<String> {
    let id = |part: &str| part == "*" || part.parse::<u32>().is_ok();
    match text.split(' ').collect::<Vec<_>>()[..] {
        [kind, numbers, permissions]
            if ["a", "b", "c"].contains(&kind)
                && numbers.split_once(':').is_some_and(|(major, minor)| id(major) && id(minor))
                && is_permissions(permissions) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("it must be a, b or c, then MAJOR:MINOR, then some of rwm".to_owned()),
    }
}

/// `/dev/sda:1mb`
pub fn byte_rate(text: &str) -> Parsed<ThrottleDevice> {
    throttle(text, bytes)
}

/// `/dev/sda:500`
pub fn weight(text: &str) -> Parsed<WeightDevice> {
    let (path, weight) = text.split_once(':').ok_or("it must be DEVICE:WEIGHT")?;
    if !path.starts_with("/dev/") {
        return Err(format!("{path:?} must begin with /dev/"));
    }
    match super::number(10, 1000)(weight).map(u16::try_from) {
        Ok(Ok(weight)) => Ok(WeightDevice { path: path.to_owned(), weight }),
        _ => Err(format!("the weight is {weight:?}: it must be from 10 to 1000")),
    }
}

/// `/dev/sda:1000`
pub fn operation_rate(text: &str) -> Parsed<ThrottleDevice> {
    throttle(text, super::number(0, i64::MAX))
}

fn throttle(text: &str, rate: impl Fn(&str) -> Parsed<i64>) -> Parsed<ThrottleDevice> {
    let (path, amount) = text.split_once(':').ok_or("it must be DEVICE:RATE")?;
    if !path.starts_with("/dev/") {
        return Err(format!("{path:?} must begin with /dev/"));
    }
    match rate(amount).map(u64::try_from) {
        Ok(Ok(rate)) if rate > 0 => Ok(ThrottleDevice { path: path.to_owned(), rate }),
        Ok(_) => Err("the rate must be at least 1".to_owned()),
        Err(why) => Err(format!("the rate is {amount:?}: {why}")),
    }
}

/// `NAME=SOFT[:HARD]`; -1 or `unlimited` for no limit.
pub fn ulimit(text: &str) -> Parsed<Ulimit> {
    let (name, limits) = text.split_once('=').ok_or("it must be NAME=SOFT[:HARD]")?;
    if !ULIMITS.contains(&name) {
        return Err(format!("{name:?} is not a limit: there are {}", ULIMITS.join(", ")));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let limit = |text: &str| match text {
        "unlimited" => Ok(-1),
        _ => super::number(-1, i64::MAX)(text).map_err(|why| format!("the limit is {text:?}: {why}")),
    };
    let (soft, hard) = (limit(soft)?, limit(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err("the soft limit is above the hard limit".to_owned());
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let table = [
            ("/dev/x", "/dev/x", "/dev/x", "rwm"),
            ("/dev/x:/dev/y", "/dev/x", "/dev/y", "rwm"),
            ("/dev/x:r", "/dev/x", "/dev/x", "r"),
            ("/dev/x:/dev/y:wr", "/dev/x", "/dev/y", "wr"),
        ];
        for (text, host, inside, permissions) in table {
            let found = device(text).unwrap();
            let found = (&*found.path_on_host, &*found.path_in_container, &*found.cgroup_permissions);
            assert_eq!(found, (host, inside, permissions), "{text}");
        }
        for text in
            ["", "x", "/dev/x:", "/dev/x:y", "/dev/x:/dev/y:", "/dev/x:/dev/y:rr", "/a:/b:r:w", "a.com/x=y"]
        {
            assert!(device(text).is_err(), "{text}");
        }
    }

    #[test]
    fn gpus_are_asked_for_in_dockers_words() {
        let table: [(&str, i64, &[&str]); 7] = [
            ("all", -1, &[]),
            ("2", 2, &[]),
            ("count=3,driver=nvidia", 3, &[]),
            ("device=0,1", 0, &["0", "1"]),
            ("\"device=0,1\",capabilities=utility", 0, &["0", "1"]),
            (
                "device=GPU-3a23c669-1f69-c64e-cf85-44e9b07e7a2a",
                0,
                &["GPU-3a23c669-1f69-c64e-cf85-44e9b07e7a2a"],
            ),
            ("driver=nvidia", 1, &[]),
        ];
        for (text, count, ids) in table {
            let found = gpus(text).unwrap();
            assert_eq!(
                (found.count, &found.device_ids[..]),
                (count, &ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()[..]),
                "{text}"
            );
            assert!(found.capabilities[0].contains(&"gpu".to_owned()), "{text}");
        }
        for text in ["", "some", "-1", "all,device=0", "all,all", "size=3", "count=x"] {
            assert!(gpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rules() {
        for text in ["c 1:3 rwm", "b 8:* r", "a *:* rwm"] {
            assert_eq!(rule(text), Ok(text.to_owned()));
        }
        for text in ["", "c", "x 1:3 r", "c 1 r", "c 1:3", "c 1:3 x", "c 1:3 r ", "c  1:3 r", "c -1:3 r"] {
            assert!(rule(text).is_err(), "{text}");
        }
    }

    #[test]
    fn throttles() {
        let found = byte_rate("/dev/sda:1mb").unwrap();
        assert_eq!((&*found.path, found.rate), ("/dev/sda", 1 << 20));
        assert_eq!(operation_rate("/dev/sda:1000").unwrap().rate, 1000);
        for text in ["", "/dev/sda", "sda:1mb", "/dev/sda:", "/dev/sda:0", "/dev/sda:-1", "/dev/sda:x"] {
            assert!(byte_rate(text).is_err() && operation_rate(text).is_err(), "{text}");
        }
        assert!(operation_rate("/dev/sda:1mb").is_err());
    }

    #[test]
    fn ulimits() {
        let table = [
            ("nofile=1024:2048", 1024, 2048),
            ("nofile=1024", 1024, 1024),
            ("nofile=-1", -1, -1),
            ("core=0:unlimited", 0, -1),
        ];
        for (text, soft, hard) in table {
            let found = ulimit(text).unwrap();
            assert_eq!((found.soft, found.hard), (soft, hard), "{text}");
        }
        for text in
            ["", "nofile", "nofile=", "files=1", "nofile=5:3", "nofile=-1:3", "nofile=1:2:3", "nofile=-2"]
        {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }
}
