//! Which topics are to be looked at, and when. What happens costs what it concerns, whatever else waits meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::is_much_too_large;
use crate::net::NodeAddr;
use crate::protocol::Topics;

/// How often some try again that lack something, unless it is known when they may.
const TICK: Duration = Duration::from_millis(50);
/// So many of them do: the others follow the first one that succeeds.
const TRIES: usize = 16;

/// A topic's kind and name.
pub(super) type Topic = (Topics, Bytes);

/// What keeps topics from being subscribed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lack {
    /// Their slots have no owner.
    Owner,
    /// The node cannot be connected to, or not yet.
    Connection(NodeAddr),
    /// The node does not take them at the moment.
    Consent(NodeAddr),
}

/// Topics that lack the same.
#[derive(Default)]
struct Waits {
    fresh: HashSet<Topic>,
    /// Those that have tried again since all did.
    tried: HashSet<Topic>,
    /// When some are to try again; `None` while somebody does.
    next: Option<Instant>,
}

/// What is to be done.
#[derive(Default)]
pub(super) struct Agenda {
    queue: VecDeque<Topic>,
    /// Those that no longer lack what they did.
    released: Vec<Box<dyn Iterator<Item = Topic>>>,
    /// All topics, one after the other,
    all: Option<std::vec::IntoIter<Topic>>,
    /// and whether they are to be looked at once more.
    again: bool,
    alarms: BTreeMap<(Instant, u64), Topic>,
    last_alarm: u64,
    lacks: HashMap<Lack, Waits>,
}

impl Agenda {
    /// Looks at a topic soon.
    pub(super) fn push(&mut self, topic: Topic) {
        self.queue.push_back(topic);
    }

    /// Looks at every topic: once more, if that is being done.
    pub(super) fn look_at_all(&mut self) {
        self.again = true;
    }

    /// Looks at a topic then.
    pub(super) fn at(&mut self, time: Instant, topic: Topic) {
        self.last_alarm += 1;
        self.alarms.insert((time, self.last_alarm), topic);
    }

    /// A topic lacks this, until [`release`](Self::release) or its turn to try.
    pub(super) fn wait(&mut self, lack: Lack, topic: Topic, now: Instant) {
        let waits =
            self.lacks.entry(lack).or_insert_with(|| Waits { next: Some(now + TICK), ..Waits::default() });
        waits.tried.insert(topic);
    }

    /// Whether it is not yet time to try again.
    pub(super) fn is_early(&self, lack: &Lack, now: Instant) -> bool {
        let next = self.lacks.get(lack).and_then(|waits| waits.next);
        next.is_some_and(|next| next > now)
    }

    /// When some that lack this are to try again; `None` while somebody does.
    pub(super) fn retry(&mut self, lack: Lack, next: Option<Instant>) {
        self.lacks.entry(lack).or_default().next = next;
    }

    /// All that lack this are to be looked at.
    pub(super) fn release(&mut self, lack: &Lack) {
        let Some(waits) = self.lacks.get_mut(lack) else { return };
        for topics in [&mut waits.fresh, &mut waits.tried] {
            let topics = std::mem::take(topics);
            if !topics.is_empty() {
                self.released.push(Box::new(topics.into_iter()));
            }
        }
    }

    /// Nobody lacks this any more.
    pub(super) fn is_there(&mut self, lack: &Lack) {
        self.release(lack);
        self.lacks.remove(lack);
    }

    /// A topic is gone.
    pub(super) fn forget(&mut self, topic: &Topic) {
        for waits in self.lacks.values_mut() {
            _ = waits.fresh.remove(topic) || waits.tried.remove(topic);
        }
    }

    /// A turn begins, with at most so many that are due by time.
    pub(super) fn begin(&mut self, now: Instant, most: usize, topics: impl FnOnce() -> Vec<Topic>) {
        if self.again && self.all.is_none() {
            self.again = false;
            // Each will say for itself what it lacks.
            self.lacks.values_mut().for_each(|waits| (waits.fresh, waits.tried) = Default::default());
            self.released.clear();
            self.all = Some(topics().into_iter());
        }
        for _ in 0..most {
            match self.alarms.first_entry() {
                Some(alarm) if alarm.key().0 <= now => self.queue.push_back(alarm.remove()),
                _ => break,
            }
        }
        self.lacks.retain(|lack, waits| {
            if waits.next.is_none_or(|next| next > now) {
                return waits.next.is_some() || !waits.is_empty();
            }
            if waits.fresh.is_empty() {
                std::mem::swap(&mut waits.fresh, &mut waits.tried);
            }
            let tries: Vec<Topic> = waits.fresh.iter().take(TRIES).cloned().collect();
            tries.iter().for_each(|topic| _ = waits.fresh.remove(topic));
            let any = !tries.is_empty();
            self.queue.extend(tries);
            // Where a connection is lacked, who tries finds out when it may be tried again.
            waits.next = Some(if matches!(lack, Lack::Connection(_)) { now } else { now + TICK });
            any
        });
    }

    /// The next topic to be looked at now.
    pub(super) fn next(&mut self) -> Option<Topic> {
        if let Some(topic) = self.queue.pop_front() {
            return Some(topic);
        }
        while let Some(topics) = self.released.last_mut() {
            if let Some(topic) = topics.next() {
                return Some(topic);
            }
            self.released.pop();
        }
        let topic = self.all.as_mut()?.next();
        if topic.is_none() {
            self.all = None;
        }
        topic
    }

    /// Gives back memory after there was much to look at.
    pub(super) fn shrink(&mut self) {
        if is_much_too_large(self.queue.capacity(), self.queue.len()) {
            self.queue.shrink_to(2 * self.queue.len());
        }
    }

    /// When there is something to look at, if nothing happens until then.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if !self.queue.is_empty() || !self.released.is_empty() || self.all.is_some() || self.again {
            return Some(now);
        }
        let alarm = self.alarms.keys().next().map(|(time, _)| *time);
        let waits = self.lacks.values().filter(|waits| !waits.is_empty()).filter_map(|waits| waits.next);
        waits.chain(alarm).min()
    }
}

impl Waits {
    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.tried.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(i: usize) -> Topic {
        (Topics::Channels, Bytes::from(i.to_string()))
    }

    fn all(agenda: &mut Agenda) -> usize {
        std::iter::from_fn(|| agenda.next()).count()
    }

    #[test]
    fn a_few_try_again_for_all_that_lack_the_same() {
        let (mut agenda, start) = (Agenda::default(), Instant::now());
        let lack = Lack::Connection(NodeAddr::new("a", 1));
        (0..10_000).for_each(|i| agenda.wait(lack.clone(), topic(i), start));
        agenda.retry(lack.clone(), Some(start + TICK));
        assert!(agenda.is_early(&lack, start) && agenda.due(start) == Some(start + TICK));
        agenda.begin(start, 1000, Vec::new);
        assert_eq!(all(&mut agenda), 0);
        for turn in 1..4 {
            let now = start + turn * TICK;
            agenda.begin(now, 1000, Vec::new);
            let tried: Vec<Topic> = std::iter::from_fn(|| agenda.next()).collect();
            assert_eq!(tried.len(), TRIES);
            tried.into_iter().for_each(|topic| agenda.wait(lack.clone(), topic, now));
            agenda.retry(lack.clone(), Some(now + TICK));
        }
        agenda.is_there(&lack);
        assert_eq!(all(&mut agenda), 10_000);
        assert_eq!(agenda.due(start), None);
    }

    #[test]
    fn all_topics_are_looked_at_once_more_for_all_that_happened_meanwhile() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        let topics = || (0..10).map(topic).collect();
        agenda.look_at_all();
        agenda.begin(now, 1000, topics);
        assert!(agenda.next().is_some());
        (0..5).for_each(|_| agenda.look_at_all());
        agenda.begin(now, 1000, topics);
        assert_eq!(all(&mut agenda), 9);
        agenda.begin(now, 1000, topics);
        assert_eq!(all(&mut agenda), 10);
        assert_eq!(agenda.due(now), None);
    }
}
