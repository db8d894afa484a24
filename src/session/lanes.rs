//! What keeps a session's commands on one slot in order while anything about that slot is changing.
//!
//! On the steady path there are no lanes: all commands of a slot go down one link, which keeps order by
//! itself. Lanes exist from the moment a command has to wait or the routes change under commands that
//! are on their way, until those have been answered. Per slot they know which commands are on their way,
//! on which link, and which are held back. The rules:
//!
//! - a command may be sent when none is held before it and all on their way are on the same link;
//! - a command is repeated only when no later one is on its way;
//! - a command is not repeated at all when a later one that shares a key with it took effect, or may have.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use bytes::Bytes;

use super::late::Late;
use super::noscript::{Asked, Before};
use crate::backend::Ticket;
use crate::command::{Learned, Route};
use crate::net::NodeAddr;
use crate::protocol::{RequestFramer, RequestLimits};

/// Where a held command goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// To the owner of its slot.
    Owner,
    /// To this node, with ASKING.
    Ask(NodeAddr),
}

/// A redirect that may be a script's own words: it counts once a refresh has confirmed it.
#[derive(Clone, Debug)]
pub(crate) struct Unconfirmed {
    /// The node that it names.
    pub(crate) to: NodeAddr,
    /// Whether its slot was known to be open since it came.
    pub(crate) was_open: bool,
    /// The node that sent it, and the epoch of its claims at that time, as far as was known.
    pub(crate) from: (NodeAddr, Option<u64>),
    /// The node that knows: its view decides,
    pub(crate) witness: NodeAddr,
    /// if it was asked for later than this.
    pub(crate) at: std::time::Instant,
}

/// A command that waits to be sent (again).
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) ticket: Ticket,
    pub(crate) request: Bytes,
    pub(crate) next: Next,
    /// Not before this time of the worker's clock, in nanoseconds,
    pub(crate) not_before: u64,
    /// unless there is a newer table than this one.
    pub(crate) tables: u64,
    pub(crate) history: History,
    pub(crate) unconfirmed: Option<Unconfirmed>,
    /// What goes in front of it.
    pub(crate) before: Before,
    /// A later command that shares a key with it took effect.
    pub(crate) forbidden: bool,
    /// What it does to which keys, once that was asked for.
    pub(crate) touched: OnceCell<Option<Touched>>,
    /// It was refused for a reason that passes: what follows would overtake it the moment that it does.
    pub(crate) alone: bool,
}

/// What a command has been through.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// How often it was sent, or could not be.
    pub(crate) tries: u32,
    /// Whether a node had it.
    pub(crate) sent: bool,
    /// The last error that the cluster gave for it, as it was sent.
    pub(crate) error: Option<Bytes>,
    /// The link on which the script that it calls was loaded last; 0 is none.
    pub(crate) loaded: u32,
    /// A question about its script is on its way in its place.
    pub(crate) asked: Option<Box<Asked>>,
}

#[derive(Debug)]
struct OnWay {
    ticket: Ticket,
    history: History,
}

/// One slot of one session.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// The link that everything on its way went down.
    link: u32,
    on_way: VecDeque<OnWay>,
    /// In the order in which the client sent them.
    held: VecDeque<Held>,
    /// A command that may well be refused where later ones are not: nothing may follow it until its reply.
    alone: Option<Ticket>,
}

/// Which links the next command of a lane may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Any.
    Open,
    /// The one that earlier commands are on.
    Only(u32),
    /// None.
    Closed,
}

impl Way {
    pub(crate) fn allows(self, link: u32) -> bool {
        self == Way::Open || self == Way::Only(link)
    }
}

/// All slots of one session that need watching.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    by_slot: HashMap<u16, Lane>,
    /// The slots in which commands are held.
    holding: BTreeSet<u16>,
    held: usize,
    held_bytes: usize,
    /// Commands on their way that were answered in their nodes' stead.
    pub(crate) late: Late,
    /// Commands from this one on were sent by the present routes, with nothing held before them.
    pub(crate) until: u64,
}

impl Lane {
    /// Whether any command is held back.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether a new command may go down `link` now.
    pub(crate) fn is_free_for(&self, link: u32) -> bool {
        self.held.is_empty() && self.way().allows(link)
    }

    /// Where the first held command may go now.
    pub(crate) fn way(&self) -> Way {
        match self.alone {
            Some(_) => Way::Closed,
            None if self.on_way.is_empty() => Way::Open,
            None => Way::Only(self.link),
        }
    }

    /// Whether commands later than `ticket` are on their way.
    pub(crate) fn has_later_on_way(&self, ticket: Ticket) -> bool {
        // They are in order: what is held is sent before all that follows, or after all that is on its way.
        self.on_way.back().is_some_and(|last| last.ticket > ticket)
    }

    pub(crate) fn first_held(&mut self) -> Option<&mut Held> {
        self.held.front_mut()
    }
}

impl Lanes {
    pub(crate) fn lane(&mut self, slot: u16) -> &mut Lane {
        self.by_slot.entry(slot).or_default()
    }

    /// Whether any command is held.
    pub(crate) fn is_holding(&self) -> bool {
        self.held > 0
    }

    /// How many commands are held.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Request bytes of the commands that are held.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The slots in which commands are held.
    pub(crate) fn holding(&self) -> Vec<u16> {
        self.holding.iter().copied().collect()
    }

    /// Notes a command that went down `link` before anything was watched; 0 is no link: it was not sent yet.
    pub(crate) fn on_way(&mut self, slot: u16, ticket: Ticket, link: u32) {
        if link != 0 {
            self.sent(slot, ticket, link, History::default(), false);
        }
    }

    /// Notes that a command went down `link`; `alone` if nothing may follow it until its reply.
    pub(crate) fn sent(&mut self, slot: u16, ticket: Ticket, link: u32, history: History, alone: bool) {
        let lane = self.lane(slot);
        lane.link = link;
        lane.on_way.push_back(OnWay { ticket, history });
        if alone {
            lane.alone = Some(ticket);
        }
    }

    /// Notes that a command is not on its way any more; what it has been through.
    pub(crate) fn back(&mut self, slot: u16, ticket: Ticket) -> History {
        let Some(lane) = self.by_slot.get_mut(&slot) else { return History::default() };
        if lane.alone == Some(ticket) {
            lane.alone = None;
        }
        let at = lane.on_way.iter().position(|on_way| on_way.ticket == ticket);
        at.and_then(|at| lane.on_way.remove(at)).map(|on_way| on_way.history).unwrap_or_default()
    }

    /// Notes that a command on its way was answered in its node's stead; nothing of its slot overtakes it.
    pub(crate) fn answered_early(&mut self, slot: u16, ticket: Ticket, mut publishes: bool) {
        let Some(lane) = self.by_slot.get_mut(&slot) else { return };
        let Some(at) = lane.on_way.iter().position(|on_way| on_way.ticket == ticket) else { return };
        // What may be asked about its script is for nobody any more.
        lane.on_way[at].history = History::default();
        while let Some(first) = lane.on_way.front().map(|first| first.ticket)
            && first < ticket
            && let Some((_, before)) = self.late.remove(first)
        {
            publishes &= before;
            lane.on_way.pop_front();
        }
        self.late.add(ticket, slot, publishes);
    }

    /// Notes that a command is not on its way any more which was answered before.
    pub(crate) fn back_late(&mut self, ticket: Ticket) {
        if let Some((slot, _)) = self.late.remove(ticket) {
            self.back(slot, ticket);
        }
    }

    /// Whether what is on its way for `ticket` is a question about its script.
    pub(crate) fn is_asked(&self, slot: u16, ticket: Ticket) -> bool {
        let lane = self.by_slot.get(&slot);
        let on_way = lane.and_then(|lane| lane.on_way.iter().find(|on_way| on_way.ticket == ticket));
        on_way.is_some_and(|on_way| on_way.history.asked.is_some())
    }

    /// Notes that a command took effect, or may have: those before it must not be repeated after it.
    pub(crate) fn took_effect(&mut self, slot: u16, ticket: Ticket, request: &[u8], learned: &Learned) {
        let Some(lane) = self.by_slot.get_mut(&slot) else { return };
        // The parts of one command have no order among them, and there may be very many.
        let before = lane.held.iter_mut().take_while(|held| held.ticket.seq < ticket.seq);
        let mut repeats = before.filter(|held| held.history.tries > 0 && !held.forbidden).peekable();
        if repeats.peek().is_none() {
            return;
        }
        let later = Touched::by(request, learned);
        for held in repeats {
            let earlier = held.touched.get_or_init(|| Touched::by(&held.request, learned));
            held.forbidden = conflict(earlier.as_ref(), later.as_ref());
        }
    }

    /// Holds a command back.
    pub(crate) fn hold(&mut self, slot: u16, held: Held) {
        self.held += 1;
        self.held_bytes += held.request.len();
        self.holding.insert(slot);
        let lane = self.lane(slot);
        let at = lane.held.partition_point(|other| other.ticket < held.ticket);
        lane.held.insert(at, held);
    }

    /// Whether command `seq`, or a part of it, is held.
    pub(crate) fn holds(&self, seq: u64) -> bool {
        self.holding.iter().any(|slot| {
            self.by_slot.get(slot).is_some_and(|lane| lane.held.iter().any(|held| held.ticket.seq == seq))
        })
    }

    /// Takes this command if it is the first one held in its slot.
    pub(crate) fn release_if_first(&mut self, slot: u16, ticket: Ticket) -> Option<Held> {
        let first = self.by_slot.get_mut(&slot)?.first_held()?.ticket;
        if first == ticket { self.release(slot) } else { None }
    }

    /// Takes the first held command of a slot.
    pub(crate) fn release(&mut self, slot: u16) -> Option<Held> {
        let lane = self.by_slot.get_mut(&slot)?;
        let held = lane.held.pop_front()?;
        if lane.held.is_empty() {
            self.holding.remove(&slot);
        }
        self.held -= 1;
        self.held_bytes -= held.request.len();
        Some(held)
    }
}

/// What requests in one piece do to which keys.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(super) keys: HashSet<Vec<u8>>,
    pub(super) reads_only: bool,
}

impl Touched {
    /// Of requests that were framed and planned before.
    pub(super) fn by(mut requests: &[u8], learned: &Learned) -> Option<Touched> {
        let (mut framer, mut touched) =
            (RequestFramer::default(), Touched { keys: HashSet::new(), reads_only: true });
        while !requests.is_empty() {
            let len = framer.next(requests, &RequestLimits::NONE).ok()??.len;
            let (request, rest) = requests.split_at(len);
            let args = framer.args(request);
            let spec = learned.resolve(&args).ok()?;
            spec.for_each_key(&args, &mut |index| _ = touched.keys.insert(args.get(index).to_vec())).ok()?;
            touched.reads_only &= spec.is_readonly() || matches!(spec.route, Route::Transaction(_));
            requests = rest;
        }
        Some(touched)
    }
}

/// Whether two requests share a key and at least one of them writes.
fn conflict(earlier: Option<&Touched>, later: Option<&Touched>) -> bool {
    let (Some(earlier), Some(later)) = (earlier, later) else { return true };
    let only_read = earlier.reads_only && later.reads_only;
    !only_read && earlier.keys.iter().any(|key| later.keys.contains(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &str) -> Vec<u8> {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let mut out = Vec::new();
        crate::protocol::write::request(&mut out, words.into_iter());
        out
    }

    fn conflict_of(earlier: &[u8], later: &[u8]) -> bool {
        let touched = |request| Touched::by(request, &Learned::default());
        conflict(touched(earlier).as_ref(), touched(later).as_ref())
    }

    fn conflicts(earlier: &str, later: &str) -> bool {
        conflict_of(&request(earlier), &request(later))
    }

    #[test]
    fn a_repeat_conflicts_with_a_later_command_on_the_same_key_unless_both_only_read() {
        assert!(conflicts("MSET {t}a 1 {t}b 1", "SET {t}a 2"));
        assert!(conflicts("GET {t}a", "SET {t}a 2"));
        assert!(conflicts("SET {t}a 2", "GET {t}a"));
        assert!(!conflicts("GET {t}a", "MGET {t}a {t}b"));
        assert!(!conflicts("MSET {t}a 1 {t}b 1", "SET {t}c 2"));
    }

    #[test]
    fn a_transaction_touches_what_its_commands_touch() {
        let block = ["MULTI", "GET {t}a", "SET {t}b 1", "EXEC"].map(request).concat();
        let learned = &Learned::default();
        assert!(conflict_of(&request("SET {t}a 2"), &block));
        assert!(conflict_of(&block, &request("GET {t}b")));
        assert!(!conflict_of(&block, &request("SET {t}c 2")));
        let reads = ["MULTI", "GET {t}a", "EXEC"].map(request).concat();
        let reads_only = |requests: &[u8]| Touched::by(requests, learned).unwrap().reads_only;
        assert!(reads_only(&reads) && !reads_only(&block));
    }
}
