//! Commands as data: one row for each command and subcommand, and everything that is read off a row. Which
//! arguments are keys, where a call goes, how replies merge, what it waits for, what `COMMAND` says about it.
//!
//! Nothing outside this module compares a command's name. Pure: no I/O, no lock, no clock.

mod bitset;
mod error;
pub mod glob;
mod keys;
mod kinds;
mod learn;
mod learned;
mod lookup;
pub mod reply;
mod row;
mod spec;
mod table;
#[cfg(test)]
mod tests;

pub use error::CommandError;
pub(crate) use error::repeat;
pub use keys::{Begin, Find, KeyError, KeyFlags, KeySpec};
pub use kinds::{
    Barrier, Clients, ClusterLocal, Family, Listen, Local, Merge, Route, Script, Slowlog, Survey, Transact,
    Whom,
};
pub use learn::Catalog;
pub use learned::Learned;
pub use lookup::{find, resolve};
pub use spec::{Categories, Flags, Patience, Spec, Tips};

/// Every row: the containers and plain commands, each container's subcommands right behind it.
pub fn table() -> impl Iterator<Item = &'static Spec> {
    table::TABLE.iter()
}

/// The name of every row, by its [`Spec::id`].
pub const NAMES: [&str; table::TABLE.len()] = {
    let mut names = [""; table::TABLE.len()];
    let mut id = 0;
    while id < names.len() {
        names[id] = table::TABLE[id].name;
        id += 1;
    }
    names
};
