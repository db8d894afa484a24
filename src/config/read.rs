//! From texts to values: a flag's wins, then the innermost section's, then the default.

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

use super::args::Flags;
use super::bounds::Bound;
use super::file::{Node, Section};
use super::mistakes::Mistakes;
use super::secret::Secret;
use super::settings::Setting;

/// Looks up a variable of the environment.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What values are read from, and the mistakes that are found in doing so. After a mistake something else stands
/// in for the value: the configuration must not be used.
pub(super) struct Reader<'a> {
    pub(super) flags: &'a Flags,
    pub(super) env: Env<'a>,
    pub(super) mistakes: &'a mut Mistakes,
}

/// A text, and where it was written.
pub(super) struct Written {
    pub(super) at: String,
    pub(super) text: String,
}

impl Reader<'_> {
    /// Reads with neither flags nor a file.
    pub(super) fn defaults<T>(read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        read(&mut Reader { flags: &Flags::default(), env: &|_| None, mistakes: &mut Mistakes::default() })
    }

    /// The text of a setting with one value.
    pub(super) fn text(
        &mut self,
        key: &str,
        flag: Option<&str>,
        sections: &[&Section<'_>],
    ) -> Option<Written> {
        if let Some(flag) = flag
            && let Some(text) = self.flags.values(flag).and_then(<[_]>::last)
        {
            return Some(Written { at: format!("--{flag}"), text: text.clone() });
        }
        let (at, node) = sections.iter().find_map(|section| section.find(key))?;
        match node {
            Node::Text(text) => Some(Written { at, text: text.clone() }),
            Node::List(_) | Node::Map(_) => {
                self.mistakes.add(at, "takes one value");
                None
            }
            Node::Mistake => None,
        }
    }

    /// The text of a setting, or its default.
    pub(super) fn text_or_default(&mut self, setting: &Setting, sections: &[&Section<'_>]) -> Written {
        let Setting { key, flag, default, .. } = *setting;
        self.text(key, flag, sections)
            .unwrap_or_else(|| Written { at: key.to_owned(), text: default.to_owned() })
    }

    /// The texts of a setting with several values; in a file one may stand for a list of one.
    pub(super) fn texts(&mut self, setting: &Setting, sections: &[&Section<'_>]) -> Vec<Written> {
        if let Some(flag) = setting.flag
            && let Some(values) = self.flags.values(flag)
        {
            let written = |text: &String| Written { at: format!("--{flag}"), text: text.clone() };
            return values.iter().map(written).collect();
        }
        let Some((at, node)) = sections.iter().find_map(|section| section.find(setting.key)) else {
            return Vec::new();
        };
        let Node::List(list) = node else {
            return self.text(setting.key, None, sections).into_iter().collect();
        };
        let mut written = Vec::with_capacity(list.len());
        for (i, node) in list.iter().enumerate() {
            let at = format!("{at}[{i}]");
            match node {
                Node::Text(text) => written.push(Written { at, text: text.clone() }),
                Node::List(_) | Node::Map(_) => self.mistakes.add(at, "takes one value"),
                Node::Mistake => {}
            }
        }
        written
    }

    /// Texts that are read by their type's own rules; `right` is added to its error.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, written: Vec<Written>, right: &str) -> Vec<T> {
        let mut values = Vec::with_capacity(written.len());
        for Written { at, text } in written {
            match text.trim().parse() {
                Ok(value) => values.push(value),
                Err(error) => self.mistakes.add(at, format!("{error}{right}")),
            }
        }
        values
    }

    /// One of two words; the first is the default.
    pub(super) fn choose<T: Copy>(
        &mut self,
        setting: &Setting,
        sections: &[&Section<'_>],
        choices: [(&str, T); 2],
    ) -> T {
        let Some(Written { at, text }) = self.text(setting.key, setting.flag, sections) else {
            return choices[0].1;
        };
        choices.iter().find(|(name, _)| *name == text).map_or_else(
            || {
                let [(one, _), (other, _)] = choices;
                self.mistakes.add(at, format!("`{text}` is neither `{one}` nor `{other}`"));
                choices[0].1
            },
            |(_, value)| *value,
        )
    }

    /// True for a flag that was given, or `true` in a file.
    pub(super) fn is_on(&mut self, setting: &Setting, sections: &[&Section<'_>]) -> bool {
        setting.flag.is_some_and(|flag| self.flags.values(flag).is_some())
            || self.choose(&Setting { flag: None, ..*setting }, sections, [("false", false), ("true", true)])
    }

    /// A whole number from 1 to `most`, if there is any.
    pub(super) fn number(
        &mut self,
        setting: &Setting,
        sections: &[&Section<'_>],
        most: usize,
    ) -> Option<usize> {
        let Written { at, text } = self.text(setting.key, setting.flag, sections)?;
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        if number.is_none() {
            self.mistakes.add(at, format!("`{text}` is no number from 1 to {most}"));
        }
        number
    }

    /// Passwords, newest first: of the flag's files, of the environment's variable, or of a file's list; `None`
    /// if there is a mistake in them.
    pub(super) fn secrets(
        &mut self,
        setting: &Setting,
        variable: &str,
        section: &Section<'_>,
    ) -> Option<Vec<Secret>> {
        let flag = setting.flag.unwrap_or_default();
        let secrets: Vec<Option<Secret>> = match (self.flags.values(flag), (self.env)(variable)) {
            (Some(_), Some(_)) => {
                let both = format!("{variable} is set as well: give one of the two");
                self.mistakes.add(format!("--{flag}"), both);
                vec![None]
            }
            (Some(files), None) => {
                let files: Vec<String> = files.to_vec();
                files.iter().map(|file| self.secret_file(&format!("--{flag}"), file)).collect()
            }
            (None, Some(value)) => {
                let secret = Secret::non_empty(value.into_vec());
                if secret.is_none() {
                    self.mistakes.add(variable, "is set, but empty: it must hold the password");
                }
                vec![secret]
            }
            (None, None) => match section.find(setting.key) {
                None => Vec::new(),
                Some((at, Node::List(nodes))) => {
                    let nodes = nodes.iter().enumerate();
                    nodes.map(|(i, node)| self.secret(&format!("{at}[{i}]"), node)).collect()
                }
                Some((at, node)) => vec![self.secret(&at, node)],
            },
        };
        secrets.into_iter().collect()
    }

    /// A text, or `file: PATH`.
    fn secret(&mut self, at: &str, node: &Node) -> Option<Secret> {
        match node {
            Node::Text(text) => {
                let secret = Secret::non_empty(text.clone().into_bytes());
                if secret.is_none() {
                    self.mistakes.add(at, "is empty: it must be the password");
                }
                secret
            }
            Node::Map(entries) => match &entries[..] {
                [(key, Node::Text(path))] if key == "file" => self.secret_file(at, path),
                _ => {
                    self.mistakes
                        .add(at, "write `file: PATH`, `${NAME}` of the environment, or the password");
                    None
                }
            },
            Node::List(_) => {
                self.mistakes.add(at, "is a list in a list: each entry is one password");
                None
            }
            Node::Mistake => None,
        }
    }

    fn secret_file(&mut self, at: &str, path: &str) -> Option<Secret> {
        Secret::from_file(path).map_err(|text| self.mistakes.add(at, text)).ok()
    }

    pub(super) fn duration(&mut self, bound: &Bound, sections: &[&Section<'_>]) -> Duration {
        let form = "duration such as 250ms, 30s or 2m";
        self.bounded(bound, sections, form, |text| humantime::parse_duration(text).ok())
    }

    /// A duration, or `off`.
    pub(super) fn optional(&mut self, bound: &Bound, sections: &[&Section<'_>]) -> Option<Duration> {
        let form = "duration such as 250ms, 30s or 2m (or `off`)";
        self.bounded(bound, sections, form, |text| match text {
            "off" => Some(None),
            text => humantime::parse_duration(text).ok().map(Some),
        })
    }

    pub(super) fn size(&mut self, bound: &Bound, sections: &[&Section<'_>]) -> usize {
        self.bounded(bound, sections, "size such as 64KiB, 512MiB or 1GiB", |text| {
            usize::try_from(text.parse::<ByteSize>().ok()?.as_u64()).ok()
        })
    }

    pub(super) fn count(&mut self, bound: &Bound, sections: &[&Section<'_>]) -> usize {
        self.bounded(bound, sections, "whole number", |text| text.parse().ok())
    }

    fn bounded<T: PartialOrd + Default>(
        &mut self,
        bound: &Bound,
        sections: &[&Section<'_>],
        form: &str,
        parse: fn(&str) -> Option<T>,
    ) -> T {
        let Some(Written { at, text }) = self.text(bound.name, Some(bound.flag), sections) else {
            return parse(bound.default).unwrap_or_default();
        };
        let (value, least, most) = (parse(&text), parse(bound.least), parse(bound.most));
        // `off`, where it can be read, lies in no range.
        if value.is_none() || text != "off" && (value < least || value > most) {
            let right = format!("`{text}` is no {form} from {} to {}", bound.least, bound.most);
            self.mistakes.add(at, right);
        }
        value.unwrap_or_default()
    }
}
