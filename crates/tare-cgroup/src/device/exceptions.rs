//! Device rules as v1's `devices.allow` and `devices.deny` lines.
//!
//! The v1 kernel keeps a default and a list of exceptions to it, and a line that goes with the default only
//! takes away an exception with exactly its numbers. So the final state is worked out here and only that is
//! written. Source: Documentation/admin-guide/cgroup-v1/devices.rst, security/device_cgroup.c.

use tare_sys::{Error, Kind, Result};

use super::{MKNOD, READ, Rule, Sort, WRITE};
use crate::plan::Purpose;

/// An exception to the default, for the access bits in `access`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    pub sort: Sort,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u8,
}

impl Exception {
    fn same_devices(&self, other: &Exception) -> bool {
        (self.sort, self.major, self.minor) == (other.sort, other.major, other.minor)
    }

    fn contains(&self, other: &Exception) -> bool {
        self.sort == other.sort
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }

    fn overlaps(&self, other: &Exception) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.sort == other.sort && meet(self.major, other.major) && meet(self.minor, other.minor)
    }

    fn line(&self) -> String {
        let number = |value: Option<u32>| value.map_or("*".to_owned(), |value| value.to_string());
        let mut line = match self.sort {
            Sort::Block => "b ".to_owned(),
            Sort::Char => "c ".to_owned(),
        };
        line.push_str(&format!("{}:{} ", number(self.major), number(self.minor)));
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if self.access & bit != 0 {
                line.push(letter);
            }
        }
        line
    }
}

#[derive(Debug, Default)]
struct State {
    allow_by_default: bool,
    exceptions: Vec<Exception>,
}

impl State {
    fn of(rules: &[Rule]) -> Result<State> {
        let mut state = State::default();
        for rule in rules {
            if rule.is_total() {
                state = State { allow_by_default: rule.allow, exceptions: Vec::new() };
                continue;
            }
            for sort in [Sort::Block, Sort::Char] {
                if rule.sort.is_none_or(|own| own == sort) {
                    let Rule { major, minor, access, .. } = *rule;
                    state.take(rule.allow, Exception { sort, major, minor, access })?;
                }
            }
        }
        if !state.allow_by_default {
            state.join_bits();
        }
        state.drop_redundant();
        Ok(state)
    }

    fn take(&mut self, allow: bool, new: Exception) -> Result<()> {
        if allow != self.allow_by_default {
            match self.exceptions.iter_mut().find(|old| old.same_devices(&new)) {
                Some(old) => old.access |= new.access,
                None => self.exceptions.push(new),
            }
            return Ok(());
        }
        for old in &mut self.exceptions {
            if new.contains(old) {
                old.access &= !new.access;
            } else if new.overlaps(old) && old.access & new.access != 0 {
                let (verb, other) = if allow { ("allow", "denies") } else { ("deny", "allows") };
                return Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "device rule {verb} \"{}\": cgroup v1 cannot cut it out of an earlier rule that \
                         {other} \"{}\"",
                        new.line(),
                        old.line()
                    ),
                )
                .hint("name the single devices instead of the wider rule, or use cgroup v2"));
            }
        }
        self.exceptions.retain(|old| old.access != 0);
        Ok(())
    }

    /// The kernel wants all bits of a request in one exception, so where two allow the same device each must
    /// have the bits of both.
    fn join_bits(&mut self) {
        let all = self.exceptions.clone();
        // Where two overlap without one containing the other, their meeting is an exception of its own.
        for (at, one) in all.iter().enumerate() {
            for two in &all[at + 1..] {
                if one.overlaps(two) && !one.contains(two) && !two.contains(one) {
                    let meeting = Exception {
                        sort: one.sort,
                        major: one.major.or(two.major),
                        minor: one.minor.or(two.minor),
                        access: one.access | two.access,
                    };
                    match self.exceptions.iter_mut().find(|old| old.same_devices(&meeting)) {
                        Some(old) => old.access |= meeting.access,
                        None => self.exceptions.push(meeting),
                    }
                }
            }
        }
        let all = self.exceptions.clone();
        for one in &mut self.exceptions {
            let wider = all.iter().filter(|wider| wider.contains(one));
            one.access = wider.fold(one.access, |bits, wider| bits | wider.access);
        }
    }

    /// Every line is a write, so what a wider exception says already is left out.
    fn drop_redundant(&mut self) {
        let all = self.exceptions.clone();
        self.exceptions.retain(|one| {
            !all.iter().any(|wider| {
                !wider.same_devices(one) && wider.contains(one) && one.access & !wider.access == 0
            })
        });
    }
}

/// File and line of every write that brings about what `rules` say.
///
/// A fresh cgroup has its parent's permissions, so there "allow all" is left unsaid: a parent that does not
/// allow all would refuse it.
///
/// Errors: [`Kind::Unsupported`] where v1 cannot express the rules.
pub(crate) fn v1_lines(rules: &[Rule], purpose: Purpose) -> Result<Vec<(&'static str, String)>> {
    let state = State::of(rules)?;
    let (reset, except) = match state.allow_by_default {
        true => ("devices.allow", "devices.deny"),
        false => ("devices.deny", "devices.allow"),
    };
    let mut lines = Vec::with_capacity(state.exceptions.len() + 1);
    if !state.allow_by_default || purpose == Purpose::Update {
        lines.push((reset, "a".to_owned()));
    }
    lines.extend(state.exceptions.iter().map(|exception| (except, exception.line())));
    Ok(lines)
}

/// The rules as a list of what is allowed; `None` where they do not come down to one.
pub(crate) fn allowed(rules: &[Rule]) -> Option<Vec<Exception>> {
    State::of(rules).ok().filter(|state| !state.allow_by_default).map(|state| state.exceptions)
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::super::tests::{decide, every_request, rule_lists};
    use super::*;

    /// What the kernel answers in this state (security/device_cgroup.c).
    fn kernel(state: &State, sort: Sort, major: u32, minor: u32, access: u8) -> bool {
        let matching = |one: &&Exception| {
            one.sort == sort
                && one.major.is_none_or(|own| own == major)
                && one.minor.is_none_or(|own| own == minor)
        };
        let mut matching = state.exceptions.iter().filter(matching);
        match state.allow_by_default {
            true => !matching.any(|one| one.access & access != 0),
            false => matching.any(|one| access & !one.access == 0),
        }
    }

    #[test]
    fn decides_as_the_rules_say_or_refuses_to_try() {
        let mut refused = 0;
        for rules in rule_lists() {
            let Ok(state) = State::of(&rules) else {
                refused += 1;
                continue;
            };
            for (sort, major, minor, access) in every_request() {
                assert_eq!(
                    kernel(&state, sort, major, minor, access),
                    decide(&rules, sort, major, minor, access),
                    "{rules:?} {state:?}: {sort:?} {major}:{minor} {access}"
                );
            }
        }
        assert_eq!(refused, 1, "only the allow within a wider deny is beyond v1");
    }

    #[test]
    fn writes_no_line_twice_and_none_that_says_nothing() {
        let rule = |allow, major, minor, access| Rule { allow, sort: Some(Sort::Char), major, minor, access };
        let total = Rule { allow: false, sort: None, major: None, minor: None, access: ALL };
        let rules = [
            total,
            rule(true, None, None, MKNOD),
            rule(true, Some(1), Some(3), READ),
            rule(true, Some(1), Some(7), MKNOD),
        ];
        let lines = v1_lines(&rules, Purpose::Create).unwrap();
        let expected = [("devices.deny", "a"), ("devices.allow", "c *:* m"), ("devices.allow", "c 1:3 rm")];
        assert_eq!(lines, expected.map(|(file, line)| (file, line.to_owned())));
    }

    #[test]
    fn allow_all_is_only_written_where_it_may_not_be_so() {
        let total = [Rule { allow: true, sort: None, major: None, minor: None, access: ALL }];
        assert!(v1_lines(&total, Purpose::Create).unwrap().is_empty());
        assert_eq!(v1_lines(&total, Purpose::Update).unwrap(), [("devices.allow", "a".to_owned())]);
    }
}
