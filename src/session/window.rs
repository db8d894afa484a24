//! How many commands of a client may be on their way: the replies to all of them are to fit into what it may leave
//! unread. One that asks for much and reads nothing would else have megabytes come before everybody else's replies.

use super::pending::State;
use crate::config::SessionLimits;

/// So many, before anything is known of the replies.
const FIRST: usize = 128;
/// So many at least: the node works on one while another's reply is on its way.
const FEWEST: usize = 4;

/// What one client may have on its way.
#[derive(Debug)]
pub(super) struct Window {
    /// So many commands, `session_in_flight` at most.
    pub(super) most: usize,
    /// All bytes that were written to the client.
    pub(super) written: u64,
    /// Replies, and bytes of them, when `most` was found.
    seen: (u64, u64),
}

impl Window {
    pub(super) fn new(limits: &SessionLimits) -> Self {
        Window { most: FIRST.min(limits.session_in_flight), written: 0, seen: (0, 0) }
    }

    /// To be called when as many commands are on their way as may be. True if more may be now: replies have come since.
    #[cold]
    pub(super) fn widens(&mut self, state: &State, limits: &SessionLimits) -> bool {
        let (replies, bytes) = (state.base(), self.written + state.out.len() as u64);
        let (more, length) = (replies - self.seen.0, bytes - self.seen.1);
        if more >= FIRST.min(self.most) as u64 / 2 {
            let fit = (limits.output_soft as u64).saturating_mul(more) / length.max(1);
            // What it is sent besides tells nothing of its replies.
            let fit = if state.subscriptions.is_some() { u64::MAX } else { fit };
            self.most = usize::try_from(fit).unwrap_or(usize::MAX).max(FEWEST).min(limits.session_in_flight);
            self.seen = (replies, bytes);
        }
        state.len() < self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_commands_are_on_their_way_as_their_replies_fit_into_output_soft() {
        let limits = SessionLimits::default();
        let (mut window, mut state) = (Window::new(&limits), State::default());
        assert_eq!(window.most, FIRST);
        let mut after = |replies: u64, length: u64| {
            state.base += replies;
            window.written += replies * length;
            window.widens(&state, &limits);
            window.most
        };
        assert_eq!(after(1, 4096), FIRST, "one reply says little");
        assert_eq!(after(99, 4096), 256);
        assert_eq!(after(1000, 10), limits.session_in_flight);
        assert_eq!(after(1000, 1 << 20), FEWEST);
        assert_eq!(after(2, 10), limits.session_in_flight);
    }
}
