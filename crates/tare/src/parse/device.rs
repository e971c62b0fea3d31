//! `--device`, `--device-cgroup-rule`, the throttles of block devices, and `--ulimit`.

use tare_engine::request::{DeviceMapping, ThrottleDevice, Ulimit, WeightDevice};

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
