//! A session's commands while the cluster changes: which are watched, held, or dropped.

use super::lanes::{Held, Lanes};
use super::pending::{Progress, State};
use crate::backend::Ticket;
use crate::metrics::WorkerMetrics;

impl State {
    /// Watches the slots until all that has come so far is answered.
    pub(crate) fn watch(&mut self) -> &mut Lanes {
        let next = self.next_seq();
        let lanes = self.lanes();
        lanes.until = next;
        lanes
    }

    /// The slots that are watched; begins to watch those of what is on its way.
    pub(crate) fn lanes(&mut self) -> &mut Lanes {
        let next = self.next_seq();
        self.lanes.get_or_insert_with(|| {
            let mut lanes = Box::<Lanes>::default();
            lanes.until = next;
            for (seq, pending) in (self.base..).zip(&self.queue) {
                match &pending.progress {
                    Progress::Waiting => {
                        let ticket = Ticket { seq, part: 0 };
                        lanes.on_way(pending.slot, ticket, pending.link);
                    }
                    Progress::Parts(gather) => {
                        for (part, slot, link) in gather.waiting() {
                            lanes.on_way(slot, Ticket { seq, part }, link);
                        }
                    }
                    Progress::Done(_) | Progress::Cut => {}
                }
            }
            lanes
        })
    }

    /// Holds a command back (again).
    pub(crate) fn hold(&mut self, slot: u16, held: Held) {
        let lanes = self.watch();
        lanes.hold(slot, held);
    }

    /// How many commands are held, and how many request bytes they have.
    pub(crate) fn held(&self) -> (usize, usize) {
        self.lanes.as_ref().map_or((0, 0), |lanes| (lanes.held(), lanes.held_bytes()))
    }

    /// Stops watching when everything that was sent by older routes has been answered.
    pub(crate) fn unwatch(&mut self) -> bool {
        let done = self.lanes.as_ref().is_some_and(|lanes| !lanes.is_holding() && self.base >= lanes.until);
        if done {
            self.lanes = None;
        }
        done
    }

    /// Drops all commands from the first held one on. How many there were.
    pub(crate) fn abandon_held(&mut self, metrics: &WorkerMetrics) -> usize {
        let first = (self.base..).zip(&self.queue).find(|(seq, _)| self.is_held(*seq)).map(|(seq, _)| seq);
        let Some(first) = first else { return 0 };
        let keep = (first - self.base) as usize;
        let (dropped, mut early) = (self.queue.len() - keep, 0);
        for pending in self.queue.drain(keep..) {
            self.bytes -= pending.len as usize;
            early += pending.early();
        }
        self.count_early(-(early as i64), metrics);
        self.lanes = None;
        dropped
    }

    /// Drops all commands: the connection is to be closed where the first one is. How many of them were held.
    pub(crate) fn abandon_all(&mut self, metrics: &WorkerMetrics) -> usize {
        let (held, _) = self.held();
        self.count_early(-(self.early as i64), metrics);
        self.base = self.next_seq();
        self.queue.clear();
        (self.bytes, self.lanes, self.cut) = (0, None, false);
        held
    }

    fn is_held(&self, seq: u64) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.holds(seq))
    }
}
