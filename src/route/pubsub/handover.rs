//! A topic goes over from one connection to another while messages come: each is delivered once.
//!
//! For a while a topic is subscribed on both. The old connection's messages are delivered and remembered; the new
//! one's are held, unless they are remembered. When the new one is confirmed, the old one is asked for a sign of life:
//! what was published at the new node before comes only on the old one, and never if that node hangs. Half a second
//! after the sign the old one has no say any more: what is still held was never seen on it and is delivered, and what
//! it delivered a moment ago is still dropped when it comes on the new one. Only then is the old one left. Without a
//! sign messages may have been missed. The new one is asked for signs, too, before that and after it: if its node hangs
//! it shows late what the old one delivered, so the old one goes on meanwhile. An old one whose node hangs is left as
//! soon as the new one is confirmed. Messages are told apart by their bytes: of equal ones as many are delivered as were
//! published, unless a node is late.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::delivered::Delivered;
use super::entry::{Phase, Source};
use crate::net::NodeAddr;

/// How long both connections are listened to at least, and for how long after that late copies are dropped. From node
/// to node the last messages before a pause take up to a tenth of a second, and the tables of publishers change within
/// a few.
pub(super) const OVERLAP: Duration = Duration::from_millis(500);
/// So long the old one may take to show that it lives. Two nodes that do not hear of each other for half of
/// `cluster-node-timeout` cut their connection, and what was on its way between them is lost. And so long late copies
/// are dropped if the new one does not show that it lives.
const SILENCE: Duration = Duration::from_secs(2);
/// So long what the old connection delivers is remembered before the new one is asked to subscribe, which shows it late.
pub(super) const PRELUDE: Duration = Duration::from_millis(250);
/// More than this is not held: the old connection is late. While one of several new ones is still to be confirmed, what
/// comes besides may come twice.
const MOST_HELD: usize = 1 << 20;

/// Which connection a message came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The new connection is not confirmed yet. Since when only the old one is remembered.
    Begun(Instant),
    /// Both are, since then; the old one has not shown yet that it lives.
    Both(Instant),
    /// It has, then.
    Alive(Instant),
    /// Only the new one counts, since then.
    Over(Instant),
}

/// A message that waits.
#[derive(Debug)]
struct Held {
    hash: u64,
    /// The connection that it came on.
    line: u64,
    frame: Bytes,
}

/// One topic's going over.
#[derive(Debug)]
pub(super) struct Handover {
    /// Where plain messages come from afterwards.
    pub(super) to: NodeAddr,
    /// Where they came from before; `None` if that is the same.
    pub(super) from: Option<NodeAddr>,
    stage: Stage,
    hasher: RandomState,
    /// What the old connection delivered and the new one has not shown.
    delivered: Delivered,
    /// Whether a new connection is asked to subscribe, so that what was delivered since may come again.
    pub(super) asked: bool,
    /// What the new connection has shown and the old one has not.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// The numbers of the commands that ask for signs of life at this stage and are not answered; `None` if nobody
    /// is asked yet.
    signs: Option<Vec<u64>>,
    /// The old connection has ended: there is nothing to wait for.
    alone: bool,
    /// The old node hung: others may have cut it off meanwhile, also if it shows that it lives.
    pub(super) hung: bool,
}

impl Handover {
    pub(super) fn new(from: Option<NodeAddr>, to: NodeAddr, now: Instant) -> Self {
        Handover {
            from: from.filter(|from| *from != to),
            to,
            stage: Stage::Begun(now),
            hasher: RandomState::new(),
            delivered: Delivered::new(),
            asked: false,
            held: VecDeque::new(),
            held_bytes: 0,
            signs: None,
            alone: false,
            hung: false,
        }
    }

    /// Takes a message that came on this connection; true if it is to be delivered now.
    pub(super) fn take(&mut self, side: Side, line: u64, frame: &[u8], now: Instant) -> bool {
        let hash = self.hasher.hash_one(frame);
        match (side, self.stage) {
            (Side::Old, Stage::Over(_)) => false,
            (Side::Old, _) => {
                match self.held.iter().position(|held| held.hash == hash) {
                    Some(at) => {
                        self.held_bytes -= self.held.remove(at).map_or(0, |held| held.frame.len());
                    }
                    None => {
                        self.trim(now);
                        self.delivered.push(hash, now);
                    }
                }
                true
            }
            (Side::New, stage) => {
                if self.delivered.show(hash) {
                    return false;
                }
                let is_too_much = matches!(stage, Stage::Begun(_)) && self.held_bytes > MOST_HELD;
                if matches!(stage, Stage::Over(_)) || is_too_much {
                    return true;
                }
                self.held_bytes += frame.len();
                self.held.push_back(Held { hash, line, frame: Bytes::copy_from_slice(frame) });
                false
            }
        }
    }

    /// The new connection, which was there before, has shown a message early: the old one has delivered it, or will.
    pub(super) fn shown(&mut self, frame: &[u8]) {
        self.delivered.show(self.hasher.hash_one(frame));
    }

    /// Forgets what no connection that is asked from now on shows any more.
    pub(super) fn trim(&mut self, now: Instant) {
        if !self.asked && matches!(self.stage, Stage::Begun(_)) {
            self.delivered.forget(PRELUDE, now);
        }
    }

    /// Whether a new connection may be subscribed.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        !self.is_early(now) && !self.is_decided(now)
    }

    /// Whether a new connection may show what was delivered before that was remembered.
    pub(super) fn is_early(&self, now: Instant) -> bool {
        matches!(self.stage, Stage::Begun(since) if now < since + PRELUDE)
    }

    /// It goes elsewhere.
    pub(super) fn turn(&mut self, from: Option<NodeAddr>, to: NodeAddr, now: Instant) {
        self.from = from.filter(|from| *from != to);
        (self.to, self.hung) = (to, false);
        self.begin_anew(now);
    }

    /// There is one more to be confirmed.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        (self.stage, self.signs) = (Stage::Begun(now), None);
    }

    /// What a connection told is not waited with any more: an old one tells it.
    pub(super) fn drop_held(&mut self, line: u64) {
        self.held.retain(|held| held.line != line);
        self.held_bytes = self.held.iter().map(|held| held.frame.len()).sum();
    }

    /// All new connections are confirmed.
    pub(super) fn confirmed(&mut self, now: Instant) {
        if let Stage::Begun(_) = self.stage {
            self.stage = if self.from.is_some() { Stage::Both(now) } else { Stage::Alive(now) };
        }
    }

    /// Which side is to be asked for a sign of life now: then [`asked`](Self::asked) is to be called.
    pub(super) fn lacks_sign(&self, now: Instant) -> Option<Side> {
        match self.stage {
            _ if self.signs.is_some() => None,
            Stage::Both(_) => Some(Side::Old),
            Stage::Alive(since) | Stage::Over(since) if now >= since + OVERLAP / 2 => Some(Side::New),
            _ => None,
        }
    }

    /// Somebody is asked for a sign of life, by commands with these numbers.
    pub(super) fn asked(&mut self, signs: Vec<u64>) {
        self.signs = Some(signs);
    }

    /// A connection has given the sign that this command asks for, or, if it has ended, never will.
    pub(super) fn signed(&mut self, sign: u64, lives: bool, now: Instant) {
        let Some(signs) = &mut self.signs else { return };
        let waiting = signs.len();
        signs.retain(|waiting| *waiting != sign);
        if let Stage::Both(_) = self.stage
            && lives
            && signs.len() < waiting
        {
            (self.stage, self.signs) = (Stage::Alive(now), None);
        }
    }

    /// Whether the new connections have shown what was published before they were asked.
    fn is_signed(&self) -> bool {
        self.signs.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether the old connection may be left: then [`cut`](Self::cut) is to be called.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        // What one that hung tells when it goes on may come behind what it never heard of.
        let late = self.alone || self.hung || self.held_bytes > MOST_HELD;
        match self.stage {
            Stage::Both(since) => late || now >= since + SILENCE,
            Stage::Alive(since) => late || now >= since + OVERLAP && self.is_signed(),
            Stage::Begun(_) | Stage::Over(_) => false,
        }
    }

    /// Whether only the new connection counts, or will at once, wherever the topic is to be by now.
    pub(super) fn is_decided(&self, now: Instant) -> bool {
        self.is_cut() || self.is_due(now)
    }

    /// Whether a cut now may leave out messages.
    pub(super) fn may_miss(&self) -> bool {
        self.hung || matches!(self.stage, Stage::Both(_))
    }

    /// When it goes on by itself.
    pub(super) fn next(&self, now: Instant) -> Instant {
        match self.stage {
            Stage::Begun(since) => since + PRELUDE,
            Stage::Both(since) => since + SILENCE,
            Stage::Alive(since) | Stage::Over(since) if self.signs.is_none() => since + OVERLAP / 2,
            Stage::Over(since) if now >= since + OVERLAP => since + SILENCE,
            Stage::Alive(since) | Stage::Over(since) => since + OVERLAP,
        }
    }

    /// Whether more is held than may be.
    pub(super) fn is_full(&self) -> bool {
        matches!(self.stage, Stage::Both(_) | Stage::Alive(_)) && self.held_bytes > MOST_HELD
    }

    /// From now on only the new connection counts; what is to be delivered now.
    pub(super) fn cut(&mut self, now: Instant) -> VecDeque<Bytes> {
        let age = match self.stage {
            // What the new connection has not shown when it was asked was published before it was subscribed.
            Stage::Alive(since) if self.is_signed() => now.duration_since(since).saturating_sub(OVERLAP / 2),
            Stage::Alive(since) | Stage::Both(since) => now.duration_since(since),
            Stage::Begun(_) | Stage::Over(_) => OVERLAP / 2,
        };
        self.delivered.forget(age.max(OVERLAP / 2), now);
        (self.stage, self.signs) = (Stage::Over(now), None);
        self.held_bytes = 0;
        std::mem::take(&mut self.held).into_iter().map(|held| held.frame).collect()
    }

    /// One of the connections has ended, which is no harm.
    pub(super) fn lost(&mut self, source: &Source, now: Instant) {
        if source.phase == Phase::Leaving {
            self.alone = true;
        } else if source.confirmed && !self.is_cut() {
            self.begin_anew(now);
        }
    }

    /// Whether both connections are confirmed, so that the old one may be lost.
    pub(super) fn is_safe(&self) -> bool {
        !matches!(self.stage, Stage::Begun(_))
    }

    /// Whether only the new connections are left.
    pub(super) fn is_alone(&self) -> bool {
        self.alone || self.is_cut()
    }

    pub(super) fn is_cut(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// Whether no late copy is waited for any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        matches!(self.stage, Stage::Over(since)
            if now >= since + SILENCE || now >= since + OVERLAP && self.is_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::Side::{New, Old};
    use super::*;

    #[test]
    fn each_message_is_delivered_once_whichever_connection_shows_it_first() {
        let start = Instant::now();
        let mut handover = Handover::new(None, NodeAddr::new("b", 1), start);
        // Before the new one was subscribed, so that it never shows it.
        assert!(handover.take(Old, 1, b"tick", start));
        handover.confirmed(start);
        assert_eq!((handover.lacks_sign(start), handover.lacks_sign(start + OVERLAP / 2)), (None, Some(New)));
        // Nor this, which was late.
        assert!(handover.take(Old, 1, b"tock", start + OVERLAP / 4));
        let now = start + OVERLAP - Duration::from_millis(1);
        assert!(handover.take(Old, 1, b"1", now) && !handover.take(New, 2, b"1", now));
        assert!(!handover.take(New, 2, b"2", now) && handover.take(Old, 1, b"2", now));
        assert!(handover.take(Old, 1, b"3", now) && !handover.take(New, 2, b"4", now));
        assert!(!handover.take(New, 2, b"5", now) && !handover.is_due(now));
        let now = start + OVERLAP;
        sign(&mut handover, now);
        assert!(handover.is_due(now));
        let held: Vec<Bytes> = handover.cut(now).into();
        assert_eq!(held, ["4", "5"]);
        // Late copies on either side, and an equal one that is new.
        assert!(!handover.take(Old, 1, b"4", now) && !handover.take(New, 2, b"3", now));
        assert!(handover.take(New, 2, b"3", now) && handover.take(New, 2, b"tick", now));
        assert!(handover.take(New, 2, b"tock", now));
        sign(&mut handover, now);
        assert!(!handover.is_over(now) && handover.is_over(now + OVERLAP));
    }

    /// Those who are asked show that they live.
    fn sign(handover: &mut Handover, now: Instant) {
        handover.asked(vec![1, 2]);
        handover.signed(1, true, now);
        handover.signed(2, true, now);
    }

    /// The new connection is confirmed, and the old one has shown that it lives.
    fn alive(now: Instant) -> Handover {
        let mut handover = Handover::new(Some(NodeAddr::new("a", 1)), NodeAddr::new("b", 1), now);
        handover.confirmed(now);
        sign(&mut handover, now);
        handover
    }

    #[test]
    fn a_new_connection_that_hangs_for_a_while_shows_late_what_was_delivered() {
        let start = Instant::now();
        let mut handover = alive(start);
        assert!(handover.take(Old, 1, b"1", start));
        // It hangs before the old one is left: that one goes on meanwhile.
        let now = start + 3 * OVERLAP;
        assert_eq!(handover.lacks_sign(now), Some(New));
        handover.asked(vec![3]);
        assert!(!handover.is_due(now) && handover.take(Old, 1, b"2", now));
        assert!(!handover.take(New, 2, b"1", now));
        handover.signed(3, true, now);
        assert!(handover.is_due(now) && handover.cut(now).is_empty());
        // And afterwards.
        let now = now + OVERLAP;
        assert_eq!(handover.lacks_sign(now), Some(New));
        handover.asked(vec![4]);
        assert!(
            !handover.is_over(now) && !handover.take(New, 2, b"2", now) && handover.take(New, 2, b"3", now)
        );
        handover.signed(4, true, now);
        assert!(handover.is_over(now));
    }

    #[test]
    fn an_old_connection_whose_node_hung_is_left_before_it_tells_what_came_behind_a_gap() {
        let now = Instant::now();
        let mut handover = Handover::new(Some(NodeAddr::new("a", 1)), NodeAddr::new("b", 1), now);
        handover.hung = true;
        assert!(!handover.take(New, 2, b"1", now) && !handover.is_due(now));
        handover.confirmed(now);
        assert!(handover.is_due(now) && handover.may_miss());
        assert_eq!(handover.cut(now), ["1"]);
        assert!(!handover.take(Old, 1, b"2", now) && handover.take(New, 2, b"2", now));
    }

    #[test]
    fn what_was_delivered_is_remembered_if_the_old_connection_ends_while_the_new_one_hangs() {
        let start = Instant::now();
        let mut handover = alive(start);
        assert!(handover.take(Old, 1, b"1", start + OVERLAP));
        let now = start + 3 * OVERLAP;
        handover.asked(vec![3]);
        handover.alone = true;
        assert!(handover.is_due(now) && handover.cut(now).is_empty());
        assert!(!handover.take(New, 2, b"1", now) && handover.take(New, 2, b"2", now));
    }

    #[test]
    fn what_the_new_connection_cannot_show_any_more_is_forgotten_while_it_cannot_be_asked() {
        let (start, tick) = (Instant::now(), Duration::from_millis(1));
        let mut handover = Handover::new(Some(NodeAddr::new("a", 1)), NodeAddr::new("b", 1), start);
        let message = |i: u32| i.to_string().into_bytes();
        for i in 0..2000 {
            assert!(handover.take(Old, 1, &message(i), start + i * tick));
            assert!(handover.delivered.len() <= PRELUDE.as_millis() as usize);
        }
        // From now on what was published since, and a little before, may come again.
        handover.asked = true;
        (2000..4000).for_each(|i| assert!(handover.take(Old, 1, &message(i), start + i * tick)));
        let now = start + 4000 * tick;
        handover.confirmed(now);
        (1800..4000).for_each(|i| assert!(!handover.take(New, 2, &message(i), now)));
        assert_eq!(handover.held.len(), 0);
    }

    #[test]
    fn what_is_held_is_bounded_also_before_all_is_confirmed() {
        let now = Instant::now();
        let mut handover = Handover::new(None, NodeAddr::new("b", 1), now);
        let frame = |i: u32| [&i.to_le_bytes()[..], &[0; 65_536]].concat();
        let held = (0..100).filter(|i| !handover.take(New, 2, &frame(*i), now)).count();
        assert!(held < 20 && handover.held_bytes < MOST_HELD + 70_000, "{held}");
    }

    #[test]
    fn a_silent_old_connection_may_have_missed_something() {
        let start = Instant::now();
        let mut handover = Handover::new(Some(NodeAddr::new("a", 1)), NodeAddr::new("b", 1), start);
        handover.confirmed(start);
        assert_eq!(handover.lacks_sign(start), Some(Old));
        handover.asked(vec![1]);
        let now = start + SILENCE;
        assert!(!handover.is_due(now - OVERLAP) && handover.is_due(now) && handover.may_miss());
        handover.signed(1, false, now);
        assert!(handover.is_due(now) && handover.may_miss());
        handover.asked(vec![2]);
        handover.signed(2, true, now - OVERLAP / 2);
        assert!(!handover.is_due(now) && !handover.may_miss() && handover.lacks_sign(now) == Some(New));
        handover.asked(vec![3]);
        assert!(!handover.is_due(now + OVERLAP));
        handover.signed(3, true, now);
        assert!(handover.is_due(now + OVERLAP));
    }
}
