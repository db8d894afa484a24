//! A session's commands while the cluster changes: which are watched and held.

use super::entry::Progress;
use super::lanes::{Held, Lanes};
use super::pending::State;
use crate::backend::Ticket;

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
                    Progress::Elsewhere | Progress::Done(_) | Progress::Cut => {}
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

    /// Stops watching when everything that was sent by older routes has been answered, by its node too.
    pub(crate) fn unwatch(&mut self) -> bool {
        let is_done =
            |lanes: &Lanes| !lanes.is_holding() && self.base >= lanes.until && lanes.late.is_empty();
        let done = self.lanes.as_deref().is_some_and(is_done);
        if done {
            self.lanes = None;
        }
        done
    }
}
