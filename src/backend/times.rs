//! How long the requests of a link were queued and how long the node took, from one reading of the clock for each
//! write and each read instead of one for each request.

use std::collections::VecDeque;

use super::link::Entry;

/// As many writes are remembered apart. Under steady load a few are on their way; more are those of a node that
/// hangs, and there neighbours are joined.
const MOST_WRITES: usize = 64;

/// Entries that were written at the same time, or in neighbouring writes.
#[derive(Clone, Copy, Debug)]
struct Write {
    entries: usize,
    /// When the first was written,
    at: u64,
    /// and how much later than that the others were, added up.
    later: u64,
}

impl Write {
    /// Takes out the first `count` entries, which were answered at `now`: for how long they had been written, added up.
    fn answer(&mut self, count: usize, now: u64) -> u64 {
        // Of joined writes the times are equalised: the sum over all their entries is exact.
        let later =
            if count == self.entries { self.later } else { self.later / self.entries as u64 * count as u64 };
        self.entries -= count;
        self.later -= later;
        ((now - self.at) * count as u64).saturating_sub(later)
    }

    fn join(mut self, next: &Write) -> Write {
        self.later += next.later + (next.at - self.at) * next.entries as u64;
        self.entries += next.entries;
        self
    }
}

/// The times of a link's entries, in nanoseconds of the worker's clock. Internal entries (ASKING, PING) are no
/// client's, and their times are passed over.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// What is on its way, the oldest first.
    writes: VecDeque<Write>,
    /// How many entries those are, and where the last of them ends in the stream of all requests.
    on_way: usize,
    end: u64,
    /// Internal entries, of all and of those that are not written yet.
    internal: usize,
    internal_queued: usize,
    /// The sum of the times at which requests were queued, and at which they were written. Both may wrap, since only
    /// their difference counts.
    pushed: u64,
    left: u64,
    /// How much of the time in the queue was told.
    told: u64,
}

impl Times {
    /// A request was queued.
    #[inline]
    pub(super) fn push(&mut self, now: u64) {
        self.pushed = self.pushed.wrapping_add(now);
    }

    /// An entry without a receiver was queued.
    pub(super) fn push_internal(&mut self) {
        self.internal += 1;
        self.internal_queued += 1;
    }

    /// How many of `entries` are requests.
    pub(super) fn requests(&self, entries: usize) -> usize {
        entries.saturating_sub(self.internal)
    }

    /// The stream was written up to `written`, which is all of it or not. Returns for how long requests have been in
    /// the queue since the last call, added up.
    pub(super) fn wrote(&mut self, entries: &VecDeque<Entry>, written: u64, all: bool, now: u64) -> u64 {
        let (mut new, mut requests) = (0, 0);
        if all {
            new = entries.len().saturating_sub(self.on_way);
            requests = new.saturating_sub(self.internal_queued);
            (self.internal_queued, self.end) = (0, written);
        } else {
            for entry in entries.iter().skip(self.on_way) {
                let end = self.end + u64::from(entry.len);
                if end > written {
                    break;
                }
                (self.end, new) = (end, new + 1);
                match entry.receiver {
                    Some(_) => requests += 1,
                    None => self.internal_queued -= 1,
                }
            }
        }
        self.left = self.left.wrapping_add((requests as u64).wrapping_mul(now));
        if new > 0 {
            self.on_way += new;
            self.writes.push_back(Write { entries: new, at: now, later: 0 });
            if self.writes.len() > MOST_WRITES {
                self.join_neighbours();
            }
        }
        self.queue_time(entries.len(), now)
    }

    /// Halves the number of writes.
    #[cold]
    fn join_neighbours(&mut self) {
        let joined = |pair: &[Write]| pair[1..].iter().fold(pair[0], Write::join);
        self.writes = self.writes.make_contiguous().chunks(2).map(joined).collect();
    }

    /// What was not told yet of the time in the queue, with what the requests have spent that are still there.
    fn queue_time(&mut self, entries: usize, now: u64) -> u64 {
        let waiting = entries.saturating_sub(self.on_way + self.internal_queued) as u64;
        let total = self.left.wrapping_add(waiting.wrapping_mul(now)).wrapping_sub(self.pushed);
        total.wrapping_sub(std::mem::replace(&mut self.told, total))
    }

    /// The first `replies` entries, none of them internal, were answered at `now`. `each` gets, for those that were
    /// written together, their number, how long the first of them took and how long all took, added up.
    pub(super) fn answered(&mut self, mut replies: usize, now: u64, mut each: impl FnMut(usize, u64, u64)) {
        while replies > 0
            && let Some(write) = self.writes.front_mut()
        {
            let count = replies.min(write.entries);
            each(count, now - write.at, write.answer(count, now));
            (replies, self.on_way) = (replies - count, self.on_way - count);
            if write.entries == 0 {
                self.writes.pop_front();
            }
        }
    }

    /// When the first entry was written that has not been counted as answered.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.writes.front().map(|write| write.at)
    }

    /// The first entry, an internal one, was answered.
    pub(super) fn answered_internal(&mut self) {
        self.internal -= 1;
        if let Some(at) = self.writes.front().map(|write| write.at) {
            self.answered(1, at, |_, _, _| ());
        }
    }

    /// None of `entries` will be answered. How long their requests were in the queue, as far as it was not told, and on
    /// the node.
    pub(super) fn lost(mut self, entries: &VecDeque<Entry>, now: u64) -> (u64, u64) {
        let (mut rest, mut on_node) = (entries.iter(), 0);
        for write in &self.writes {
            let requests = rest.by_ref().take(write.entries).filter(|entry| entry.receiver.is_some()).count();
            on_node += ((now - write.at) * requests as u64).saturating_sub(write.later);
        }
        (self.queue_time(entries.len(), now), on_node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Loss, Receiver, Reply, Request, Ticket};
    use std::rc::Rc;

    struct Nobody;

    impl Receiver for Nobody {
        fn reply(&self, _: Ticket, _: Reply<'_>, _: Request<'_>) {}

        fn lost(&self, _: Ticket, _: &Loss, _: &[u8]) -> bool {
            false
        }
    }

    #[derive(Default)]
    struct Model {
        times: Times,
        entries: VecDeque<Entry>,
        queue_nanos: u64,
        answers: Vec<(usize, u64, u64)>,
    }

    impl Model {
        fn push(&mut self, now: u64, count: usize) {
            for _ in 0..count {
                self.times.push(now);
                let receiver: Option<Rc<dyn Receiver>> = Some(Rc::new(Nobody));
                self.entries.push_back(Entry {
                    receiver,
                    ticket: Ticket { seq: 0, part: 0 },
                    len: 10,
                    earlier: 0,
                });
            }
        }

        fn push_internal(&mut self) {
            self.times.push_internal();
            self.entries.push_back(Entry {
                receiver: None,
                ticket: Ticket { seq: 0, part: 0 },
                len: 10,
                earlier: 0,
            });
        }

        fn wrote(&mut self, written: u64, all: bool, now: u64) {
            self.queue_nanos += self.times.wrote(&self.entries, written, all, now);
        }

        fn answered(&mut self, replies: usize, now: u64) {
            self.entries.drain(..replies);
            let answers = &mut self.answers;
            self.times
                .answered(replies, now, |requests, longest, sum| answers.push((requests, longest, sum)));
        }
    }

    #[test]
    fn every_request_counts_from_its_own_push_and_its_own_write() {
        let mut model = Model::default();
        model.push(100, 2);
        model.push(130, 1);
        model.wrote(30, true, 150);
        assert_eq!(model.queue_nanos, 50 + 50 + 20);
        model.push(200, 2);
        model.wrote(50, true, 200);
        model.answered(4, 250);
        model.answered(1, 300);
        assert_eq!(model.answers, [(3, 100, 300), (1, 50, 50), (1, 100, 100)]);
        assert_eq!(model.times.lost(&model.entries, 400), (0, 0));
    }

    #[test]
    fn a_write_that_the_kernel_cuts_leaves_the_rest_in_the_queue() {
        let mut model = Model::default();
        model.push(100, 3);
        model.push_internal();
        model.push(100, 1);
        model.wrote(25, false, 110);
        assert_eq!(model.queue_nanos, 4 * 10, "also of those that are still there");
        model.wrote(45, false, 120);
        model.wrote(50, true, 140);
        assert_eq!(model.queue_nanos, 10 + 10 + 20 + 40);
        model.answered(3, 150);
        model.entries.pop_front();
        model.times.answered_internal();
        model.answered(1, 160);
        assert_eq!(model.answers, [(2, 40, 80), (1, 30, 30), (1, 20, 20)]);
        assert_eq!((model.times.on_way, model.times.requests(0)), (0, 0));
    }

    #[test]
    fn what_a_lost_link_had_counts_as_long_as_it_waited() {
        let mut model = Model::default();
        model.push(100, 1);
        model.push_internal();
        model.wrote(20, true, 110);
        model.push(120, 2);
        assert_eq!(model.times.lost(&model.entries, 150), (2 * 30, 40));
    }

    #[test]
    fn writes_to_a_node_that_hangs_are_joined_and_the_longest_stays() {
        let mut model = Model::default();
        for now in 0..10_000 {
            model.push(now, 1);
            model.wrote((now + 1) * 10, true, now);
            assert!(model.times.writes.len() <= MOST_WRITES);
        }
        model.answered(4_321, 10_000);
        model.answered(5_679, 10_000);
        let (sum, count) =
            model.answers.iter().fold((0, 0), |(sum, all), (count, _, nanos)| (sum + nanos, all + count));
        assert_eq!((count, sum), (10_000, 10_000 * 10_001 / 2));
        assert_eq!(model.answers[0].1, 10_000, "the longest is known");
    }
}
