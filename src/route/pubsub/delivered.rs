//! What a topic's old connection has delivered and the new one has not shown yet, by hashes.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// More are not remembered: of the oldest ones no copies come any more, unless the new connection is late by that many.
pub(super) const MOST: usize = 1 << 16;

#[derive(Debug)]
struct Message {
    at: Instant,
    hash: u64,
    /// The number of the one before it that is equal; 0 if there is none.
    equal: u64,
}

/// Messages, numbered from 1 on. Those that were shown stay until it is their turn to be forgotten.
#[derive(Debug)]
pub(super) struct Delivered {
    /// The oldest first.
    messages: VecDeque<Message>,
    /// The number of the oldest.
    first: u64,
    /// The number of the newest of equal ones that are not shown.
    newest: HashMap<u64, u64>,
}

impl Delivered {
    pub(super) fn new() -> Self {
        Delivered { messages: VecDeque::new(), first: 1, newest: HashMap::new() }
    }

    pub(super) fn push(&mut self, hash: u64, now: Instant) {
        if self.messages.len() == MOST {
            self.pop();
        }
        let number = self.first + self.messages.len() as u64;
        let equal = self.newest.insert(hash, number).unwrap_or(0);
        self.messages.push_back(Message { at: now, hash, equal });
    }

    /// The new connection has shown a message; false if it is not known. Of equal ones it is the newest: what is left
    /// over then is what was published before it all began.
    pub(super) fn show(&mut self, hash: u64) -> bool {
        let Some(number) = self.newest.remove(&hash) else { return false };
        let equal = self.messages[(number - self.first) as usize].equal;
        if equal >= self.first {
            self.newest.insert(hash, equal);
        }
        true
    }

    /// Forgets what is as old as this.
    pub(super) fn forget(&mut self, age: Duration, now: Instant) {
        while self.messages.front().is_some_and(|message| now.duration_since(message.at) >= age) {
            self.pop();
        }
        if self.messages.is_empty() {
            (self.messages, self.newest) = Default::default();
        }
    }

    fn pop(&mut self) {
        let Some(message) = self.messages.pop_front() else { return };
        if self.newest.get(&message.hash) == Some(&self.first) {
            self.newest.remove(&message.hash);
        }
        self.first += 1;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_messages_the_newest_is_shown_and_the_oldest_is_forgotten() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut delivered = Delivered::new();
        [(7, 0), (7, 10), (8, 20), (7, 30)]
            .into_iter()
            .for_each(|(hash, time)| delivered.push(hash, at(time)));
        assert!(delivered.show(7));
        delivered.push(7, at(40));
        // Those of 0, 10 and 40 are left, then that of 10 alone.
        assert!(delivered.show(7));
        delivered.forget(Duration::from_millis(40), at(40));
        assert!(delivered.show(7) && !delivered.show(7) && delivered.show(8) && !delivered.show(8));
        delivered.push(7, at(50));
        delivered.forget(Duration::from_millis(1), at(60));
        assert_eq!((delivered.len(), delivered.newest.len()), (0, 0));
        delivered.push(7, at(70));
        assert!(delivered.show(7) && !delivered.show(7));
    }

    #[test]
    fn no_more_are_remembered_than_may_be_and_many_are_found_as_quickly_as_few() {
        let (start, most) = (Instant::now(), MOST as u64);
        let mut delivered = Delivered::new();
        (0..4 * most).for_each(|hash| delivered.push(hash, start));
        assert_eq!((delivered.len(), delivered.newest.len()), (MOST, MOST));
        // Minutes, if each one was compared with all.
        assert!((0..3 * most).all(|hash| !delivered.show(hash)));
        assert!((3 * most..4 * most).all(|hash| delivered.show(hash)));
        assert!(delivered.newest.is_empty());
    }
}
