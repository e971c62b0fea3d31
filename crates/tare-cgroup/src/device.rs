//! Device rules: who may read, write and make which device nodes.
//!
//! The rules are a list in which the last one that matches wins, for each of read, write and mknod by itself;
//! what no rule matches is denied. v1 gets them as `devices.allow`/`devices.deny` lines ([`v1_lines`]), v2
//! as a BPF program ([`program()`]).

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use tare_sys::{Error, Kind, Result};

mod exceptions;
mod program;

pub(crate) use exceptions::{Exception as Allowed, allowed, v1_lines};
pub(crate) use program::program;

/// `BPF_DEVCG_ACC_*` (`linux/bpf.h`).
pub(crate) const MKNOD: u8 = 1;
pub(crate) const READ: u8 = 2;
pub(crate) const WRITE: u8 = 4;
pub(crate) const ALL: u8 = MKNOD | READ | WRITE;

/// The two sorts of device nodes, as `BPF_DEVCG_DEV_*` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Block = 1,
    Char = 2,
}

/// One rule; `None` matches all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub allow: bool,
    pub sort: Option<Sort>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Some of [`MKNOD`], [`READ`], [`WRITE`]; never empty.
    pub access: u8,
}

impl Rule {
    /// Whether it decides everything, so that what came before it does not count.
    pub(crate) fn is_total(&self) -> bool {
        self.sort.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// Whether the rules forbid nothing.
pub(crate) fn allow_all(rules: &[Rule]) -> bool {
    let from = rules.iter().rposition(Rule::is_total);
    from.is_some_and(|from| rules[from..].iter().all(|rule| rule.allow))
}

/// Reads the rules of a spec. Rules for FIFOs are left out: no kernel ever checked those.
///
/// Errors: [`Kind::Usage`] for an access that is not made of `r`, `w`, `m`, or a number out of range.
pub(crate) fn parse(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut parsed = Vec::with_capacity(rules.len());
    for rule in rules {
        let sort = match rule.typ() {
            None | Some(LinuxDeviceType::A) => None,
            Some(LinuxDeviceType::B) => Some(Sort::Block),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Sort::Char),
            Some(LinuxDeviceType::P) => continue,
        };
        parsed.push(Rule {
            allow: rule.allow(),
            sort,
            major: number(rule.major(), rule)?,
            minor: number(rule.minor(), rule)?,
            access: access(rule.access().as_deref().unwrap_or_default(), rule)?,
        });
    }
    Ok(parsed)
}

/// -1 is the `*` of writers that have no "none".
fn number(value: Option<i64>, rule: &LinuxDeviceCgroup) -> Result<Option<u32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value).map(Some).map_err(|_| {
            Error::new(Kind::Usage, format!("device rule \"{rule}\": {value} is not a device number"))
        }),
    }
}

/// No letters at all mean all of them.
fn access(letters: &str, rule: &LinuxDeviceCgroup) -> Result<u8> {
    let mut bits = 0;
    for letter in letters.chars() {
        bits |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("device rule \"{rule}\": {letter:?} is not an access"),
                )
                .hint("access is made of r (read), w (write) and m (mknod)"));
            }
        };
    }
    Ok(if bits == 0 { ALL } else { bits })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn reads_wildcards_and_refuses_nonsense() {
        let mut rule = LinuxDeviceCgroup::default();
        let all = Rule { allow: false, sort: None, major: None, minor: None, access: ALL };
        assert_eq!(parse(&[rule.clone()]).unwrap(), [all]);
        assert!(all.is_total());

        rule.set_major(Some(-1)).set_minor(Some(3)).set_access(Some("rw".into()));
        rule.set_typ(Some(LinuxDeviceType::C)).set_allow(true);
        let expected =
            Rule { allow: true, sort: Some(Sort::Char), major: None, minor: Some(3), access: READ | WRITE };
        assert_eq!(parse(&[rule.clone()]).unwrap(), [expected]);

        rule.set_access(Some("rx".into()));
        assert_eq!(parse(&[rule.clone()]).unwrap_err().kind(), Kind::Usage);
        rule.set_access(None).set_major(Some(-2));
        assert_eq!(parse(&[rule.clone()]).unwrap_err().kind(), Kind::Usage);
        rule.set_typ(Some(LinuxDeviceType::P)).set_major(None);
        assert!(parse(&[rule]).unwrap().is_empty());
    }

    /// What the rules mean, in the plainest words: the oracle for both translations.
    pub(crate) fn decide(rules: &[Rule], sort: Sort, major: u32, minor: u32, access: u8) -> bool {
        [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let last = rules.iter().rev().find(|rule| {
                rule.access & bit != 0
                    && rule.sort.is_none_or(|own| own == sort)
                    && rule.major.is_none_or(|own| own == major)
                    && rule.minor.is_none_or(|own| own == minor)
            });
            last.is_some_and(|rule| rule.allow)
        })
    }

    /// Rule lists that the translations are held against, over all devices of [`every_request`].
    pub(crate) fn rule_lists() -> Vec<Vec<Rule>> {
        let rule = |allow, sort, major, minor, access| Rule { allow, sort, major, minor, access };
        let (b, c) = (Some(Sort::Block), Some(Sort::Char));
        let deny_all = rule(false, None, None, None, ALL);
        let allow_all = rule(true, None, None, None, ALL);
        vec![
            vec![],
            vec![deny_all],
            vec![allow_all],
            vec![deny_all, rule(true, c, Some(1), Some(3), ALL)],
            // Docker's shape: all may be made, few may be opened.
            vec![
                deny_all,
                rule(true, c, None, None, MKNOD),
                rule(true, b, None, None, MKNOD),
                rule(true, c, Some(1), Some(3), ALL),
                rule(true, c, Some(1), Some(5), READ | WRITE),
                rule(true, c, Some(136), None, ALL),
                rule(true, b, Some(8), Some(0), READ),
            ],
            vec![allow_all, rule(false, b, None, None, ALL), rule(false, c, Some(1), Some(5), WRITE)],
            vec![deny_all, rule(true, c, Some(1), Some(3), ALL), rule(false, c, Some(1), Some(3), WRITE)],
            vec![deny_all, rule(true, c, Some(1), Some(3), ALL), rule(false, c, Some(1), None, ALL)],
            vec![rule(true, c, Some(1), Some(3), ALL), deny_all, rule(true, b, Some(8), None, READ)],
            vec![deny_all, rule(true, None, Some(1), None, READ), rule(true, None, None, Some(3), WRITE)],
            vec![allow_all, rule(false, None, None, None, WRITE), rule(true, c, Some(1), Some(3), WRITE)],
            vec![deny_all, rule(true, None, None, None, READ)],
            vec![rule(true, c, Some(u32::MAX), Some(1 << 31), ALL)],
        ]
    }

    pub(crate) fn every_request() -> impl Iterator<Item = (Sort, u32, u32, u8)> {
        let numbers = [0, 1, 3, 5, 8, 136, 1 << 31, u32::MAX];
        [Sort::Block, Sort::Char].into_iter().flat_map(move |sort| {
            numbers.into_iter().flat_map(move |major| {
                numbers
                    .into_iter()
                    .flat_map(move |minor| (1..=ALL).map(move |access| (sort, major, minor, access)))
            })
        })
    }

    #[test]
    fn knows_a_list_that_forbids_nothing() {
        for rules in rule_lists() {
            let open = every_request().all(|(sort, a, b, access)| decide(&rules, sort, a, b, access));
            assert_eq!(allow_all(&rules), open, "{rules:?}");
        }
    }
}
