//! `--filter` for images, in Docker's words.

use tare_engine::ImageFilters;
use tare_sys::Result;

use crate::words::flag::Given;
use crate::words::parse::when;

/// What a command may be asked to filter by.
const KNOWN: [&str; 8] = ["before", "dangling", "label", "label!", "reference", "since", "until", ""];

/// The filters that were given.
pub fn given(given: &Given) -> Result<ImageFilters> {
    let mut filters = ImageFilters::default();
    for (name, value) in given.values("filter", pair)? {
        match name.as_str() {
            "before" => filters.before = Some(value),
            "dangling" => {
                let wrong = |why: String| given.wrong("filter", &format!("dangling={value}"), &why);
                filters.dangling = Some(crate::words::parse::boolean(&value).map_err(wrong)?);
            }
            "label" => filters.labels.push(value),
            "label!" => filters.without_labels.push(value),
            "reference" => filters.references.push(value),
            "since" => filters.since = Some(value),
            _ => {
                let wrong = |why: String| given.wrong("filter", &format!("until={value}"), &why);
                filters.until = Some(moment(&value).map_err(wrong)?);
            }
        }
    }
    Ok(filters)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is not NAME=VALUE")?;
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() || !KNOWN.contains(&name.as_str()) {
        return Err(format!("there is no filter {name:?}: there are {}", KNOWN[..7].join(", ")));
    }
    Ok((name, value.trim().to_owned()))
}

/// A moment in seconds since 1970.
fn moment(text: &str) -> Result<i64, String> {
    when::moment(text).map(|nanoseconds| i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_pairs() {
        assert_eq!(moment("1795521600"), Ok(1_795_521_600));
        let now = jiff::Timestamp::now().as_second();
        assert!((moment("24h").unwrap() - (now - 86400)).abs() < 5);
        assert!(moment("yesterday").is_err() && moment("").is_err());
        assert_eq!(pair("label!=a=b"), Ok(("label!".to_owned(), "a=b".to_owned())));
        assert_eq!(pair("Dangling=true"), Ok(("dangling".to_owned(), "true".to_owned())));
        for bad in ["dangling", "=x", "colour=red"] {
            assert!(pair(bad).is_err(), "{bad}");
        }
    }
}
