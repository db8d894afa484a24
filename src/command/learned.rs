//! Commands that the table lacks: what was learned of them, to be looked up when the table has no such name.

use std::cmp::Ordering;

use super::error::CommandError;
use super::lookup::{find, resolve};
use super::spec::Spec;
use crate::protocol::Args;

/// All commands that were learned from one cluster.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Subcommands too, in the order of their names.
    specs: Vec<&'static Spec>,
}

impl Learned {
    /// As [`super::resolve`], for commands of the table and those that were learned.
    ///
    /// # Errors
    /// A server's, as there.
    pub fn resolve<'a>(&self, args: &Args<'a>) -> Result<&'static Spec, CommandError<'a>> {
        resolve(args).or_else(|error| self.resolve_after(error, args))
    }

    /// The same behind an error of [`super::resolve`], which stays if nothing was learned.
    ///
    /// # Errors
    /// A server's, as there.
    pub fn resolve_after<'a>(
        &self,
        error: CommandError<'a>,
        args: &Args<'a>,
    ) -> Result<&'static Spec, CommandError<'a>> {
        let found = match error {
            CommandError::Unknown(_) => self.lookup(args.get(0), b""),
            CommandError::UnknownSubcommand(container, _) => {
                self.lookup(container.name.as_bytes(), args.get(1))
            }
            CommandError::WrongArity(_) => None,
        };
        let mut spec = found.ok_or(error)?;
        if spec.container && args.len() > 1 {
            spec =
                self.lookup(args.get(0), args.get(1)).ok_or(CommandError::UnknownSubcommand(spec, *args))?;
        }
        if spec.accepts(args.len()) { Ok(spec) } else { Err(CommandError::WrongArity(spec)) }
    }

    /// As [`super::find`], for commands of the table and those that were learned.
    pub fn find(&self, name: &[u8]) -> Option<&'static Spec> {
        find(name).or_else(|| {
            let mut words = name.splitn(2, |&byte| byte == b'|');
            match (words.next()?, words.next()) {
                (_, Some(b"")) => None,
                (command, word) => self.lookup(command, word.unwrap_or_default()),
            }
        })
    }

    /// Every command and subcommand that was learned.
    pub fn specs(&self) -> impl Iterator<Item = &'static Spec> {
        self.specs.iter().copied()
    }

    /// Takes a command in, in place of an older one of that name.
    pub(super) fn insert(&mut self, spec: &'static Spec) {
        match self.specs.binary_search_by(|other| other.name.cmp(spec.name)) {
            Ok(at) => self.specs[at] = spec,
            Err(at) => self.specs.insert(at, spec),
        }
    }

    /// A command, or a subcommand if `word` is not empty, in any case.
    fn lookup(&self, command: &[u8], word: &[u8]) -> Option<&'static Spec> {
        if command.contains(&b' ') {
            return None;
        }
        let at = self.specs.binary_search_by(|spec| compare(spec.name, command, word)).ok()?;
        Some(self.specs[at])
    }
}

/// Where a name stands to one made of these words.
fn compare(name: &str, command: &[u8], word: &[u8]) -> Ordering {
    let space: &[u8] = if word.is_empty() { b"" } else { b" " };
    let other = [command, space, word].into_iter().flatten().map(u8::to_ascii_lowercase);
    name.bytes().cmp(other)
}
