//! The rules about the sources themselves: unsafe code, the length of files, the names of modules.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{UNSAFE_CRATE, list, text};
use crate::workspace::Workspace;

/// Longer files say why in their first lines, with the words "long because".
const LONG: usize = 800;
/// How far down the reason may be.
const REASON_WITHIN: usize = 15;
/// Names that say nothing: what is in such a module belongs to a noun that a newcomer knows.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "manager"];

/// What reading the sources found.
pub struct Findings {
    pub files: usize,
    pub broken: Vec<String>,
}

/// Reads every source file of every package in the workspace.
pub fn check(workspace: &Workspace) -> Result<Findings> {
    let mut findings = Findings { files: 0, broken: Vec::new() };
    for package in list(&workspace.metadata["packages"]) {
        let name = text(&package["name"]);
        let manifest = Path::new(text(&package["manifest_path"]));
        let folder = manifest.parent().context("a package without a folder")?;
        let roots: Vec<PathBuf> =
            list(&package["targets"]).iter().map(|target| PathBuf::from(text(&target["src_path"]))).collect();
        let mut files = Vec::new();
        collect(folder, &mut files)?;
        files.sort();
        for file in &files {
            let source = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            let shown = file.strip_prefix(&workspace.root).unwrap_or(file);
            let place = Place { package: name, path: shown, is_root: roots.contains(file) };
            findings.broken.extend(rules(&place, &source));
            findings.files += 1;
        }
    }
    Ok(findings)
}

/// Every .rs file below `folder`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Where a source file stands.
struct Place<'a> {
    package: &'a str,
    path: &'a Path,
    /// Does a crate begin here (lib.rs, main.rs, each file of tests/)?
    is_root: bool,
}

/// The rules that one file breaks.
fn rules(place: &Place<'_>, source: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let shown = place.path.display();
    let code = without_comments_and_strings(source);

    if place.package != UNSAFE_CRATE {
        if place.is_root && !code.contains("#![forbid(unsafe_code)]") {
            broken.push(format!("{shown}: a crate begins here without #![forbid(unsafe_code)]"));
        }
        if let Some((line, _)) = words(&code).find(|(_, word)| *word == "unsafe") {
            broken.push(format!("{shown}:{line}: `unsafe` outside {UNSAFE_CRATE}"));
        }
    }

    let length = source.lines().count();
    let has_reason = source
        .lines()
        .take(REASON_WITHIN)
        .any(|line| line.trim_start().starts_with("//") && line.contains("long because"));
    if length > LONG && !has_reason {
        broken.push(format!(
            "{shown}: {length} lines; cut it, or say \"long because …\" in its first {REASON_WITHIN} lines"
        ));
    }

    let stem = place.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        broken.push(format!("{shown}: `{stem}` says nothing; name the module for what it knows"));
    }
    let code_words: Vec<_> = words(&code).collect();
    for pair in code_words.windows(2) {
        let [(_, first), (line, name)] = pair else { continue };
        if *first == "mod" && EMPTY_NAMES.contains(name) {
            broken.push(format!("{shown}:{line}: `mod {name}` says nothing; name it for what it knows"));
        }
    }
    broken
}

/// The identifiers and keywords of some code, with their lines.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(index, line)| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .map(move |word| (index + 1, word))
    })
}

/// The same text with comments and the insides of strings blanked out, line for line.
///
/// A rough reading of Rust's tokens, enough to tell a word of code from a word about code.
fn without_comments_and_strings(source: &str) -> String {
    let mut rest = source;
    let mut code = String::with_capacity(source.len());
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest, code.chars().last()) {
            length
        } else if next == '"' {
            string(rest)
        } else {
            char_literal(rest).unwrap_or(0)
        };
        if skipped == 0 {
            code.push(next);
            rest = &rest[next.len_utf8()..];
        } else {
            // Lines have to stay where they are, or the numbers in the messages lie.
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            rest = &rest[skipped..];
        }
    }
    code
}

/// The length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a string that begins with a plain quotation mark.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw string, if one begins here and not in the middle of a name.
fn raw_string(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| (c.is_alphanumeric() || c == '_') && c != 'b' && c != 'c') {
        return None;
    }
    let after = text.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let opening = text.len() - body.len();
    Some(body.find(&end).map_or(text.len(), |at| opening + at + end.len()))
}

/// The length of a character literal, if this is one and not a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let mut after = text.strip_prefix('\'')?.char_indices();
    match after.next()? {
        (_, '\\') => {
            after.next()?;
            after.find(|(_, c)| *c == '\'').map(|(at, _)| at + 2)
        }
        _ => after.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORBID: &str = "#![forbid(unsafe_code)]\n";

    fn broken(package: &str, path: &str, is_root: bool, source: &str) -> Vec<String> {
        rules(&Place { package, path: Path::new(path), is_root }, source)
    }

    #[test]
    fn a_plain_root_is_fine() {
        assert!(broken("tare", "src/main.rs", true, &format!("//! tare\n{FORBID}fn main() {{}}")).is_empty());
    }

    #[test]
    fn a_root_has_to_forbid_unsafe_in_code_and_not_in_a_comment() {
        let found = broken("tare", "src/main.rs", true, "// #![forbid(unsafe_code)]\nfn main() {}");
        assert!(found[0].contains("without #![forbid(unsafe_code)]"), "{found:?}");
        assert!(broken("tare-sys", "src/lib.rs", true, "").is_empty());
        assert!(broken("tare", "src/part.rs", false, "").is_empty());
    }

    #[test]
    fn unsafe_is_seen_in_code_only() {
        let found = broken("tare", "src/a.rs", false, "fn a() {}\nunsafe fn b() {}\n");
        assert!(found[0].contains("src/a.rs:2"), "{found:?}");
        for innocent in [
            "// unsafe\n",
            "/* unsafe /* nested */ unsafe */\n",
            "const A: &str = \"unsafe \\\" unsafe\";\n",
            "const A: &str = r#\"unsafe \" unsafe\"#;\n",
            "const A: char = '\"'; const B: &str = \"unsafe\";\n",
            "const A: char = '\\''; const B: &str = \"unsafe\";\n",
            "fn a<'a>(x: &'a str) -> &'a str { x } // unsafe\n",
            "#![deny(unsafe_op_in_unsafe_fn)]\n",
        ] {
            assert!(broken("tare", "src/a.rs", false, innocent).is_empty(), "{innocent}");
        }
        assert!(broken("tare-sys", "src/a.rs", false, "unsafe fn b() {}").is_empty());
    }

    #[test]
    fn long_files_say_why() {
        let long = "fn a() {}\n".repeat(LONG + 1);
        assert!(broken("tare", "src/a.rs", false, &long)[0].contains("801 lines"));
        let reasoned = format!("//! A table; long because it is one row a call.\n{long}");
        assert!(broken("tare", "src/a.rs", false, &reasoned).is_empty());
        let in_code = format!("const A: &str = \"long because\";\n{long}");
        assert_eq!(broken("tare", "src/a.rs", false, &in_code).len(), 1);
    }

    #[test]
    fn empty_names_are_refused() {
        assert_eq!(broken("tare", "src/utils.rs", false, "").len(), 1);
        assert_eq!(broken("tare", "src/a.rs", false, "mod helpers;").len(), 1);
        assert!(broken("tare", "src/a.rs", false, "// mod helpers\nmod commons;").is_empty());
    }
}
