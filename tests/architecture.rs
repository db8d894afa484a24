//! The rules of ARCHITECTURE.md, so that a wrong import fails and says why.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

const LEAVES: &[&str] = &["config", "error", "metrics", "net"];

/// What each part may import besides the leaves, and why no more.
const MAY_IMPORT: &[(&str, &[&str], &str)] = &[
    ("config", &[], "a leaf is used by all and knows none of them, or it could not be used by all"),
    ("error", &[], "a leaf is used by all and knows none of them, or it could not be used by all"),
    ("metrics", &[], "a leaf is used by all and knows none of them, or it could not be used by all"),
    ("net", &[], "a leaf is used by all and knows none of them, or it could not be used by all"),
    ("protocol", &[], "framing is pure: bytes in, events out, for clients and nodes alike"),
    ("command", &["protocol"], "facts about commands depend on no connection and no cluster"),
    ("backend", &["protocol"], "backend knows nodes, not slots: what a node is for is decided above it"),
    (
        "topology",
        &["backend", "protocol", "command"],
        "what the nodes tell of slots and commands is learned here, without knowing who uses it",
    ),
    ("route", &["topology", "backend", "protocol", "command"], "routing serves sessions and knows none"),
    (
        "session",
        &["route", "topology", "backend", "protocol", "command"],
        "a session does not know the worker or the listener that it runs on",
    ),
    (
        "server",
        &["session", "route", "topology", "backend", "protocol"],
        "workers run sessions; what a command means is none of their business",
    ),
    ("admin", &["topology"], "an operator's page shows state; it must not be able to touch the data path"),
    ("demo", &["protocol"], "the demo is a user of the proxy, not a part of it"),
    // Tie the parts together.
    (
        "run",
        &["server", "session", "route", "topology", "backend", "protocol", "command", "admin", "demo"],
        "",
    ),
];

/// Where nothing may wait, lock or read a clock: what is pure can be tested at every split and fuzzed.
const PURE: &[&str] = &[
    "protocol",
    "command",
    "route/plan.rs",
    "route/merge.rs",
    "route/scan.rs",
    "route/info.rs",
    "route/config.rs",
];
const IMPURE: &[&str] =
    &["std::io", "std::net", "std::fs", "tokio", "Instant", "SystemTime", "Mutex", "RwLock"];

/// A file is a page or two: what is longer has more than one subject. Lines before the tests count.
const LONGEST_FILE: usize = 350;
const MAY_BE_LONG: &[&str] = &["command/table.rs"];

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !matches!(file.name.as_str(), "lib.rs" | "main.rs")) {
        let part = file.modules[0].as_str();
        let Some((_, allowed, why)) = MAY_IMPORT.iter().find(|(name, ..)| *name == part) else {
            wrong.push(format!(
                "src/{}: `{part}` has no row in MAY_IMPORT: say what it may import",
                file.name
            ));
            continue;
        };
        for (line, import) in file.imports() {
            let known = MAY_IMPORT.iter().any(|(name, ..)| *name == import);
            if known && import != part && !LEAVES.contains(&&*import) && !allowed.contains(&&*import) {
                wrong.push(format!("src/{}:{line}: `{part}` must not import `{import}`: {why}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_is_pure_stays_pure() {
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| PURE.iter().any(|pure| file.is_in(pure))) {
        for (number, line) in file.code.lines().enumerate() {
            for word in IMPURE.iter().filter(|word| mentions(line, word)) {
                wrong.push(format!(
                    "src/{}:{}: `{word}`: this part does no I/O, holds no lock and reads no clock, so that \
                     every case can be tested without any",
                    file.name,
                    number + 1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_are_a_page_or_two() {
    let long = |file: &&Source| {
        file.code.lines().count() > LONGEST_FILE && !MAY_BE_LONG.contains(&file.name.as_str())
    };
    let wrong: Vec<_> = sources().iter().filter(long).map(|file| file.name.clone()).collect();
    assert!(wrong.is_empty(), "more than {LONGEST_FILE} lines before the tests; cut by subject: {wrong:?}");
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let code = "use crate::{net::{A, B}, error, config::{self, C}};\nlet x = crate::route::plan();\n\
                use super::super::server::X; // crate::admin\nconst S: &str = \"crate::session\";\n\
                use super::sibling;";
    let file = Source::new("topology/refresh.rs", code);
    let found: Vec<_> = file.imports().into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, ["net", "error", "config", "route", "server"]);
}

/// A file of `src`, without comments, strings and its tests.
struct Source {
    name: String,
    /// Its place in the tree of modules: `backend/link.rs` is `["backend", "link"]`.
    modules: Vec<String>,
    code: String,
}

impl Source {
    fn new(name: &str, text: &str) -> Self {
        let path = name.trim_end_matches(".rs").trim_end_matches("/mod");
        let modules = path.split('/').map(str::to_owned).collect();
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        Self { name: name.to_owned(), modules, code: strip(text) }
    }

    /// True for a file in a folder, for the folder's own file, and for the file itself.
    fn is_in(&self, place: &str) -> bool {
        self.name == place
            || self.name == format!("{place}.rs")
            || self.name.starts_with(&format!("{place}/"))
    }

    /// The parts of the crate that are named, with their lines.
    fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            if !self.code[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | ':')) {
                found.extend(heads(&self.code[at + "crate::".len()..]).into_iter().map(|name| (at, name)));
            }
        }
        // A chain of `super` that leaves the part names another one.
        for (at, _) in self.code.match_indices("super::") {
            if !self.code[..at].ends_with("super::") {
                let mut rest = &self.code[at..];
                let mut climbed = 0;
                while let Some(next) = rest.strip_prefix("super::") {
                    (rest, climbed) = (next, climbed + 1);
                }
                if climbed >= self.modules.len() {
                    found.extend(heads(rest).into_iter().map(|name| (at, name)));
                }
            }
        }
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(at, name)| (self.code[..at].lines().count().max(1), name)).collect()
    }
}

/// The first names behind `crate::`: one, or those of a group in braces.
fn heads(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(word(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(word(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Blanks comments and strings, and keeps the lines.
fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            // A quote in a character literal opens no string.
            '\'' if chars.peek() == Some(&'"') => {
                chars.next();
            }
            '"' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => out.extend(chars.next().filter(|c| *c == '\n')),
                        '\n' => out.push('\n'),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// True if `word` stands in `line` as a whole word.
fn mentions(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        Source::new(&name, &fs::read_to_string(path).unwrap())
    };
    files.iter().filter(|path| !path.ends_with("tests.rs")).map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
