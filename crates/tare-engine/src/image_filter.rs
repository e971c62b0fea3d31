//! Which images a list or a prune means: Docker's filters.

use std::collections::BTreeMap;

use tare_image::Reference;
use tare_image::store::{Image, ImageStore};
use tare_sys::Result;
use tare_sys::time::Moment;

/// Filters; all have to hold, and of several values of one, any.
#[derive(Clone, Debug, Default)]
pub struct ImageFilters {
    /// Images without a name, or those with one.
    pub dangling: Option<bool>,
    /// Labels that an image has, `NAME` or `NAME=VALUE`; all of them.
    pub labels: Vec<String>,
    /// Labels that it has not.
    pub without_labels: Vec<String>,
    /// Made before this image was.
    pub before: Option<String>,
    /// Made after this image was.
    pub since: Option<String>,
    /// Made before this moment, in seconds since 1970.
    pub until: Option<i64>,
    /// Patterns of names, with or without a tag: `*`, `?` and `[a-z]`, none of them for a `/`.
    pub references: Vec<String>,
}

/// [`ImageFilters`], with the images that they name looked up.
pub(crate) struct Chosen<'a> {
    filters: &'a ImageFilters,
    before: Option<Moment>,
    since: Option<Moment>,
}

impl ImageFilters {
    /// Whether something with these labels is meant.
    pub(crate) fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |label: &String| match label.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|have| have == value),
            None => labels.contains_key(label),
        };
        self.labels.iter().all(has) && !self.without_labels.iter().any(has)
    }

    /// Looks up what the filters name.
    ///
    /// Errors: [`tare_sys::Kind::NotFound`] for an image that `before` or `since` names.
    pub(crate) fn choose(&self, store: &ImageStore) -> Result<Chosen<'_>> {
        let created = |name: &Option<String>| {
            name.as_deref().map(|name| Ok(moment(&store.image_of(name)?))).transpose()
        };
        Ok(Chosen { filters: self, before: created(&self.before)?, since: created(&self.since)? })
    }
}

impl Chosen<'_> {
    /// Whether an image is meant.
    pub(crate) fn takes(&self, image: &Image) -> bool {
        let filters = self.filters;
        let created = moment(image);
        filters.dangling.is_none_or(|dangling| image.names.is_empty() == dangling)
            && filters.has_labels(&image.config.labels)
            && self.before.is_none_or(|before| created < before)
            && self.since.is_none_or(|since| created > since)
            && filters.until.is_none_or(|until| created.seconds() < until)
    }

    /// Whether a name of an image is meant; an image without one has `None`.
    pub(crate) fn takes_name(&self, name: Option<&Reference>) -> bool {
        let patterns = &self.filters.references;
        patterns.is_empty()
            || name.is_some_and(|name| {
                let texts = [name.to_string(), name.familiar_name(), name.full(), name.name()];
                patterns.iter().any(|pattern| texts.iter().any(|text| matches(pattern, text)))
            })
    }
}

/// When an image was made, in seconds since 1970.
pub(crate) fn seconds(image: &Image) -> i64 {
    moment(image).seconds()
}

fn moment(image: &Image) -> Moment {
    Moment::parse(&image.created).unwrap_or(Moment(0))
}

/// Go's path.Match: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before a character that means itself.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    matches_at(&pattern, &text)
}

fn matches_at(mut pattern: &[char], mut text: &[char]) -> bool {
    // Where to go on if what follows the last '*' does not fit: one character further.
    let mut retry: Option<(&[char], &[char])> = None;
    loop {
        let step = match pattern {
            ['*', rest @ ..] => {
                retry = Some((rest, text));
                pattern = rest;
                continue;
            }
            [] if text.is_empty() => return true,
            [] => None,
            [first, rest @ ..] => text.split_first().and_then(|(c, after)| {
                let rest = match first {
                    '?' if *c != '/' => Some(rest),
                    '[' if *c != '/' => in_class(rest, *c),
                    '\\' => rest.split_first().and_then(|(literal, rest)| (literal == c).then_some(rest)),
                    '?' | '[' => None,
                    first => (first == c).then_some(rest),
                };
                Some((rest?, after))
            }),
        };
        match (step, retry) {
            (Some((rest, after)), _) => (pattern, text) = (rest, after),
            (None, Some((rest, [c, after @ ..]))) if *c != '/' => {
                retry = Some((rest, after));
                (pattern, text) = (rest, after);
            }
            (None, _) => return false,
        }
    }
}

/// What follows a class that has `c` in it.
fn in_class(class: &[char], c: char) -> Option<&[char]> {
    let end = class.iter().skip(1).position(|c| *c == ']')? + 1;
    let (class, rest) = (&class[..end], &class[end + 1..]);
    let (negated, class) = match class {
        ['^', class @ ..] => (true, class),
        class => (false, class),
    };
    let mut found = false;
    let mut at = 0;
    while at < class.len() {
        let last = if class.get(at + 1) == Some(&'-') { class.get(at + 2) } else { None };
        found |= (class[at]..=*last.unwrap_or(&class[at])).contains(&c);
        at += if last.is_some() { 3 } else { 1 };
    }
    (found != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_gos() {
        let table = [
            ("busybox", "busybox", true),
            ("busy*", "busybox", true),
            ("busy*", "busybox:1/x", false),
            ("*:1.?", "busybox:1.3", true),
            ("*/*/app", "localhost:5000/team/app", true),
            ("*", "a/b", false),
            ("*box", "boxbox", true),
            ("[a-c]usybox", "busybox", true),
            ("[^a-c]usybox", "busybox", false),
            ("b[", "b[", false),
            ("b\\*", "b*", true),
            ("", "", true),
            ("", "a", false),
            ("a**b", "axxb", true),
        ];
        for (pattern, text, yes) in table {
            assert_eq!(matches(pattern, text), yes, "{pattern} {text}");
        }
    }
}
