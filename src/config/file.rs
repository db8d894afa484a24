//! A configuration file as written: a tree of texts with their paths.

use std::fs::File;
use std::io::{self, Read};

use serde_yaml::{Mapping, Value};

use super::mistakes::Mistakes;
use super::read::Env;

/// What a file holds, if that is no more than `most` bytes: it may be a device that never ends.
pub(super) fn read_file(path: &str, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it has more than {} KiB", most / 1024)));
    }
    Ok(bytes)
}

/// A value as written, with `${NAME}` replaced. It may hold a password, so it has no `Debug`.
pub(super) enum Node {
    /// A text, number or boolean.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A section: its keys in their order.
    Map(Vec<(String, Node)>),
    /// What cannot be read, which was told. It keeps its place, so that what follows keeps its number.
    Mistake,
}

/// A section and where it stands; the default is an empty one.
#[derive(Clone, Default)]
pub(super) struct Section<'a> {
    /// `FILE: ` and the path of keys to it.
    path: String,
    is_top: bool,
    entries: &'a [(String, Node)],
}

impl Node {
    /// Reads a file's text. What is no YAML, or no section of keys, is a mistake.
    pub(super) fn parse(text: &str, file: &str, env: Env<'_>, mistakes: &mut Mistakes) -> Option<Self> {
        // Some editors put a mark before the text.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match serde_yaml::from_str::<Value>(text) {
            Ok(Value::Mapping(map)) => Some(Self::map(&map, &format!("{file}: "), env, mistakes)),
            Ok(Value::Null) => Some(Self::Map(Vec::new())),
            Ok(_) => {
                mistakes.add(file, "this is no list of `key: value`");
                None
            }
            Err(error) => {
                mistakes.add(file, format!("no YAML: {error}"));
                None
            }
        }
    }

    fn read(value: &Value, at: &str, env: Env<'_>, mistakes: &mut Mistakes) -> Self {
        match value {
            Value::Null => mistakes.add(at, "has no value: write one, or leave the key out"),
            Value::Bool(value) => return Self::Text(value.to_string()),
            Value::Number(value) => return Self::Text(value.to_string()),
            Value::String(text) => {
                return expand(text, at, env, mistakes).map_or(Self::Mistake, Self::Text);
            }
            Value::Sequence(values) => {
                let read = |(i, value)| Self::read(value, &format!("{at}[{i}]"), env, mistakes);
                return Self::List(values.iter().enumerate().map(read).collect());
            }
            Value::Mapping(map) => return Self::map(map, &format!("{at}."), env, mistakes),
            Value::Tagged(_) => mistakes.add(at, "has a YAML tag, which no setting takes"),
        }
        Self::Mistake
    }

    /// `at` ends with what separates it from a key.
    fn map(map: &Mapping, at: &str, env: Env<'_>, mistakes: &mut Mistakes) -> Self {
        let mut entries = Vec::with_capacity(map.len());
        for (key, value) in map {
            let Some(key) = key.as_str() else {
                mistakes.add(at.trim_end_matches([' ', '.', ':']), "a key here is no text: quote it");
                continue;
            };
            entries.push((key.to_owned(), Self::read(value, &format!("{at}{key}"), env, mistakes)));
        }
        Self::Map(entries)
    }

    /// This node as the section at `path`; a mistake if it is none.
    pub(super) fn section<'a>(&'a self, path: &str, mistakes: &mut Mistakes) -> Section<'a> {
        let entries = match self {
            Self::Map(entries) => &entries[..],
            Self::Mistake => &[],
            Self::Text(_) | Self::List(_) => {
                mistakes.add(path, "must be a section of `key: value` lines");
                &[]
            }
        };
        Section { path: path.to_owned(), is_top: false, entries }
    }

    /// The whole file as a section.
    pub(super) fn top<'a>(&'a self, file: &str) -> Section<'a> {
        let entries = if let Self::Map(entries) = self { &entries[..] } else { &[] };
        Section { path: file.to_owned(), is_top: true, entries }
    }
}

impl<'a> Section<'a> {
    /// What stands under a key, and where: `FILE: clusters.main.seeds`. A key with a dot is in a section of
    /// its own.
    pub(super) fn find(&self, key: &str) -> Option<(String, &'a Node)> {
        let mut entries = self.entries;
        let mut words = key.split('.').peekable();
        while let Some(word) = words.next() {
            let (_, node) = entries.iter().find(|(name, _)| name == word)?;
            match node {
                _ if words.peek().is_none() => return Some((self.at(key), node)),
                Node::Map(inner) => entries = inner,
                _ => return None,
            }
        }
        None
    }

    /// Whether no file has it.
    pub(super) fn is_absent(&self) -> bool {
        self.path.is_empty()
    }

    /// Where a key stands, or would.
    pub(super) fn at(&self, key: &str) -> String {
        format!("{}{}{key}", self.path, if self.is_top { ": " } else { "." })
    }

    /// Its keys and what stands under them.
    pub(super) fn entries(&self) -> &'a [(String, Node)] {
        self.entries
    }
}

/// Replaces each `${NAME}` by the variable of the environment; `$$` is a dollar sign.
fn expand(text: &str, at: &str, env: Env<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('$') {
        out += before;
        if let Some(after) = after.strip_prefix('$') {
            (out, rest) = (out + "$", after);
            continue;
        }
        let Some((name, after)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) else {
            mistakes.add(at, "a `$` stands before `{NAME}` of the environment, or is written `$$`");
            return None;
        };
        match env(name).map(|value| value.into_string()) {
            Some(Ok(value)) => out += &value,
            Some(Err(_)) => {
                mistakes.add(at, format!("the variable {name} of the environment is no UTF-8"));
                return None;
            }
            None => {
                mistakes.add(at, format!("the variable {name} is not set in the environment"));
                return None;
            }
        }
        rest = after;
    }
    Some(out + rest)
}
