//! What is dropped with a client, or before it has gone.

use super::pending::State;

impl State {
    /// Forgets everything: the client has gone.
    pub(crate) fn leave(&mut self) {
        let (held_told, kept_told) = (self.held_told, self.kept_told);
        *self = State { gone: true, base: self.next_seq(), held_told, kept_told, ..State::default() };
    }

    /// Drops all commands from the first held one on. How many there were.
    pub(crate) fn abandon_held(&mut self) -> usize {
        let first = (self.base..).zip(&self.queue).find(|(seq, _)| self.is_held(*seq)).map(|(seq, _)| seq);
        let Some(first) = first else { return 0 };
        let keep = (first - self.base) as usize;
        let dropped = self.queue.len() - keep;
        for pending in self.queue.drain(keep..) {
            self.bytes -= pending.len as usize;
            self.early -= pending.early();
        }
        self.lanes = None;
        dropped
    }

    /// Drops all commands: the connection is to be closed where the first one is. How many of them were held.
    pub(crate) fn abandon_all(&mut self) -> usize {
        let (held, _) = self.held();
        self.base = self.next_seq();
        self.queue.clear();
        (self.bytes, self.early, self.lanes, self.cut) = (0, 0, None, false);
        held
    }

    fn is_held(&self, seq: u64) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.holds(seq))
    }
}
