//! CLIENT REPLY: which of its replies a client gets.

/// As a server's flags have it: they are looked at when a command is planned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replies {
    off: bool,
    skip: bool,
    skip_next: bool,
}

impl Replies {
    /// Whether every command is answered.
    #[inline]
    pub(super) fn are_all(self) -> bool {
        self == Replies::default()
    }

    /// Takes the next command in: true if it gets no reply.
    pub(super) fn next(&mut self) -> bool {
        let silent = self.off || self.skip;
        (self.skip, self.skip_next) = (self.skip_next, false);
        silent
    }

    /// ON, OFF or SKIP; false for anything else. Only ON is answered.
    pub(super) fn choose(&mut self, word: &[u8]) -> bool {
        let is = |known: &[u8]| word.eq_ignore_ascii_case(known);
        if is(b"ON") {
            (self.off, self.skip) = (false, false);
        } else if is(b"OFF") {
            self.off = true;
        } else if is(b"SKIP") {
            self.skip_next |= !self.off;
        } else {
            return false;
        }
        true
    }

    /// RESET, whose own reply may still be skipped.
    pub(super) fn reset(&mut self) {
        (self.off, self.skip_next) = (false, false);
    }
}
