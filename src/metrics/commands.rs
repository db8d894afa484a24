//! Counts by command: labels come from the command table, what is not in it counts as `other`.

use std::sync::OnceLock;

use super::cells::Counter;

/// What a request counts as that names no command of the table.
pub(super) const OTHER: &str = "other";

/// Counts for each command and each value of another label. Most commands never fail, so a command's cells are made
/// when it first does.
#[derive(Debug)]
pub(super) struct ByCommand<const KINDS: usize> {
    /// By command; the last row is [`OTHER`]'s.
    rows: Box<[OnceLock<Box<[Counter; KINDS]>>]>,
}

impl<const KINDS: usize> ByCommand<KINDS> {
    pub(super) fn new(commands: usize) -> Self {
        Self { rows: (0..=commands).map(|_| OnceLock::new()).collect() }
    }

    /// Counts one; `None` is a request that names no command. Only the owning thread may call this.
    #[cold]
    pub(super) fn count(&self, command: Option<u16>, kind: usize) {
        let other = self.rows.len() - 1;
        let row = &self.rows[command.map_or(other, usize::from).min(other)];
        row.get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())))[kind].inc();
    }

    /// The count of a command's row and a kind.
    pub(super) fn value(&self, row: usize, kind: usize) -> u64 {
        self.rows[row].get().map_or(0, |cells| cells[kind].value())
    }
}
