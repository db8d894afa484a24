//! Links on which a node speaks unasked: messages of channels, and what MONITOR shows.

use super::{Reply, Ticket};

/// Who takes what a node says unasked on a link that was opened for it. All calls are made while the link runs: the
/// listener must not call back into it.
pub trait Listener {
    /// A frame came; `asked` is the command that waits for its reply. True if this is that reply, which then goes to
    /// who sent the command, as ever.
    fn hear(&self, frame: &Reply<'_>, asked: Option<Ticket>) -> bool;

    /// All was handed out that has come so far.
    fn pause(&self);

    /// Nothing more will come: the link has ended, or could not be opened.
    fn ended(&self);
}
