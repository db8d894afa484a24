//! From a framed request to the links: what is planned goes straight into their buffers.

use std::rc::Rc;

use bytes::Bytes;

use super::Room;
use super::entry::{Pending, Progress};
use super::gather::Gather;
use super::intake::TURN_KEYS;
use super::lanes::{Held, History};
use super::planner::{Planner, Source};
use crate::backend::{BULK, Link, Reply, Ticket};
use crate::command::{CommandError, KeyError, Spec};
use crate::error::{ClientError, ErrorKind};
use crate::metrics::Reached;
use crate::protocol::Args;
use crate::route::plan::{self, Groups, PlanError};
use crate::topology::{Cause, slot_of};

impl Planner<'_> {
    /// Sends a request whose keys all hash to one slot, or answers it with the reason why not.
    #[inline(always)]
    pub(super) fn keyed(&mut self, spec: &'static Spec, args: &Args<'_>, request: Source<'_>) {
        // The plain case by itself, so that it is short.
        if let Some(index) = spec.first_key(args) {
            return self.one(spec, slot_of(args.get(index)), 1, request);
        }
        match plan::slot(spec, args) {
            Ok((slot, keys)) => self.one(spec, slot, keys, request),
            Err(PlanError::CrossSlot) => self.fail(spec, &ClientError::CrossSlot),
            Err(PlanError::Keys(KeyError::LetServerAnswer)) => self.anywhere(spec, request),
            Err(PlanError::Keys(error @ KeyError::Unpaired(_))) => self.unpaired(spec, error),
        }
    }

    /// Sends a request to the owner of the slot whose number is argument 2; what is none gets a server's error.
    #[cold]
    pub(super) fn by_slot_number(&mut self, spec: &'static Spec, args: &Args<'_>, request: Source<'_>) {
        match plan::slot_number(args) {
            Some(slot) => self.one(spec, slot, 0, request),
            None => self.anywhere(spec, request),
        }
    }

    /// Sends a request without keys to any shard.
    pub(super) fn anywhere(&mut self, spec: &'static Spec, request: Source<'_>) {
        // Without any owner it waits for slot 0's, as good as any.
        let slot = self.routes.any_slot().unwrap_or(0);
        self.one(spec, slot, 0, request);
    }

    #[inline]
    fn one(&mut self, spec: &'static Spec, slot: u16, keys: usize, request: Source<'_>) {
        if self.some_large {
            self.note_slot(slot);
        }
        let ticket = Ticket { seq: self.state.next_seq(), part: 0 };
        let len = request.len() as u32;
        let progress = Progress::Waiting;
        let (started, spec) = (self.now, Some(spec));
        self.state.push(Pending { started, spec, len, slot, link: 0, earlier: 0, silent: false, progress });
        self.send(ticket, slot, keys, request);
    }

    /// Sends requests of one slot in one piece, to which so many replies come before the one that counts.
    pub(super) fn block(&mut self, spec: &'static Spec, slot: u16, keys: usize, block: Source<'_>) {
        let earlier = if let Source::Block(_, earlier, _) = block { earlier } else { 0 };
        let ticket = Ticket { seq: self.state.next_seq(), part: 0 };
        let (started, spec, len) = (self.now, Some(spec), block.len() as u32);
        let progress = Progress::Waiting;
        self.state.push(Pending { started, spec, len, slot, link: 0, earlier, silent: false, progress });
        self.send(ticket, slot, keys, block);
    }

    /// Notes a command that is answered once something else has happened; its number.
    pub(super) fn expect(&mut self, spec: &'static Spec, slot: u16, len: usize) -> u64 {
        let seq = self.state.next_seq();
        let (started, spec, len, progress) = (self.now, Some(spec), len as u32, Progress::Elsewhere);
        self.state.push(Pending { started, spec, len, slot, link: 0, earlier: 0, silent: false, progress });
        seq
    }

    /// Sends one request, or holds it. Its entry must be there.
    #[inline]
    pub(super) fn send(&mut self, ticket: Ticket, slot: u16, keys: usize, request: Source<'_>) {
        if self.state.lanes.is_none()
            && !(keys > 1 && self.routes.any_open())
            && let Some(node) = self.routes.owner(slot)
            && let Ok(link) = node.link(self.protocol, self.session.affinity.get())
            && !link.is_opening()
            && !link.is_full()
        {
            self.state.set_link(ticket, link.id());
            return self.push(&link, ticket, request);
        }
        self.send_watched(ticket, slot, keys, request);
    }

    #[cold]
    fn send_watched(&mut self, ticket: Ticket, slot: u16, keys: usize, request: Source<'_>) {
        let mut is_down = true;
        let link = match self.routes.owner(slot) {
            Some(node) => {
                is_down = node.down_since().is_some();
                let bulk = self.session.is_bulk();
                let link = self.session.link_to(node, self.protocol).ok();
                if bulk && !self.session.is_bulk() {
                    self.state.watch();
                }
                link
            }
            None => {
                self.routes.refresh(Cause::Uncovered, None);
                None
            }
        };
        let worker = self.session.worker.clone();
        let (metrics, most) = (&worker.backend.metrics, worker.config.limits.max_held_bytes);
        // What is in the way of those whose node is down is not in the way of others.
        let most = match &link {
            Some(link) if link.is_full() || self.session.room.get() != Room::Here => usize::MAX,
            Some(_) if !is_down => 2 * most,
            _ => most,
        };
        // Whether it waits for a reply that is on its way, and not for an owner.
        let mut soon = false;
        if let Some(link) = link.filter(|link| !link.is_opening() && !link.is_full()) {
            let lane = self.state.lanes().lane(slot);
            if lane.is_free_for(link.id()) {
                let alone = keys > 1 && self.routes.is_open(slot);
                let lanes = if alone { self.state.watch() } else { self.state.lanes() };
                lanes.sent(slot, ticket, link.id(), History::default(), alone);
                self.state.set_link(ticket, link.id());
                return self.push(&link, ticket, request);
            }
            soon = !lane.is_holding();
        }
        if !soon && worker.held_bytes.get() >= most {
            let error = ClientError::ClusterDown { reason: "Too many commands wait for the cluster".into() };
            metrics.error(self.state.command(ticket), error.kind());
            metrics.reached[Reached::MaxHeldBytes.index()].add(1);
            self.state.complete(ticket, Reply::Small(&error.reply()), self.now, metrics);
            return;
        }
        let held = Held { not_before: 0, ..self.session.held(ticket, request.to_bytes(), 0) };
        self.state.hold(slot, held);
    }

    #[inline(always)]
    fn push(&mut self, link: &Rc<Link>, ticket: Ticket, request: Source<'_>) {
        self.state.wrote |= if self.writes { link.bit() } else { 0 };
        let session = self.session.clone();
        match request {
            Source::Slice(bytes) => link.push(session, ticket, bytes),
            Source::Owned(bytes) => link.push_bytes(session, ticket, bytes.clone()),
            Source::Block(bytes, earlier, scripts) => {
                session.push_block(link, ticket, bytes, earlier, scripts)
            }
        };
        if link.is_over() {
            self.full = Some(link.clone());
        }
    }

    /// Cuts a request by slot.
    pub(super) fn split(&mut self, spec: &'static Spec, args: &Args<'_>, request: Source<'_>) {
        if args.len() > TURN_KEYS || request.len() > BULK {
            return self.split_many(spec, args, request);
        }
        let groups = match Groups::of(spec, args) {
            Ok(groups) => groups,
            Err(KeyError::LetServerAnswer) => return self.anywhere(spec, request),
            Err(error @ KeyError::Unpaired(_)) => return self.unpaired(spec, error),
        };
        if let Some(slot) = groups.single_slot() {
            return self.one(spec, slot, groups.keys(), request);
        }
        let parts = groups.iter().count();
        let gather = Gather::new(spec.merge, groups.order(), parts);
        let seq = self.gather(spec, request.len(), gather);
        let mut part_request = Vec::new();
        for group in groups.iter() {
            part_request.clear();
            groups.write(args, group, &mut part_request);
            let slot = group[0].0;
            self.part(seq, slot, group.len(), Source::Slice(&part_request));
        }
    }

    /// Sends a request to every shard.
    pub(super) fn everywhere(&mut self, spec: &'static Spec, args: &Args<'_>, request: Source<'_>) {
        self.routes.refresh(Cause::AllShards, None);
        let slots = self.routes.shard_slots();
        if slots.is_empty() {
            // Nobody is known yet: it waits like any other command, and is spread when somebody is.
            return self.one(spec, 0, 0, request);
        }
        let gather = Gather::new(spec.merge, Vec::new(), slots.len());
        let seq = self.gather(spec, request.len(), gather);
        for slot in slots {
            self.part(seq, slot, 0, request);
        }
        let Some(own) = self.own_part(spec, args) else { return };
        let Some(part) = self.state.parts(seq).map(|gather| gather.add(0, 0)) else { return };
        let metrics = &self.session.worker.backend.metrics;
        self.state.complete(Ticket { seq, part }, Reply::Small(&own), self.now, metrics);
    }

    pub(super) fn gather(&mut self, spec: &'static Spec, len: usize, gather: Gather) -> u64 {
        let seq = self.state.next_seq();
        let progress = Progress::Parts(Box::new(gather));
        self.state.push(Pending {
            started: self.now,
            spec: Some(spec),
            len: len as u32,
            slot: 0,
            link: 0,
            earlier: 0,
            silent: false,
            progress,
        });
        seq
    }

    pub(super) fn part(&mut self, seq: u64, slot: u16, keys: usize, request: Source<'_>) {
        let Some(gather) = self.state.parts(seq) else { return };
        let part = gather.add(slot, 0);
        if let Source::Block(_, earlier, _) = request {
            gather.set_earlier(part, earlier);
        }
        self.send(Ticket { seq, part }, slot, keys, request);
    }

    /// Answers with an error that the proxy makes.
    pub(super) fn fail(&mut self, spec: &'static Spec, error: &ClientError) {
        self.refuse(Some(spec), error.kind(), error.reply());
    }

    /// Answers a request that names no command, or one wrongly.
    #[cold]
    pub(super) fn unresolved(&mut self, error: &CommandError<'_>) {
        let mut text = vec![b'-'];
        error.write_to(&mut text);
        text.extend_from_slice(b"\r\n");
        self.refuse(error.spec(), error.kind(), text);
    }

    /// Answers what is no command that could be planned.
    pub(super) fn refuse(&mut self, spec: Option<&'static Spec>, kind: ErrorKind, reply: Vec<u8>) {
        self.session.worker.backend.metrics.error(spec.map(|spec| spec.id), kind);
        self.answer(spec, reply.into());
    }

    /// Keys and values, or the parts of a key's definition, do not come in pairs.
    pub(super) fn unpaired(&mut self, spec: &'static Spec, error: KeyError) {
        let mut reply = Vec::new();
        crate::protocol::write::error(&mut reply, error.to_string());
        self.refuse(Some(spec), ErrorKind::WrongArity, reply);
    }

    /// Answers a command here: the reply only keeps its place.
    pub(super) fn answer(&mut self, spec: Option<&'static Spec>, reply: Bytes) {
        let seq = self.state.next_seq();
        let progress = Progress::Waiting;
        let started = self.now;
        self.state.push(Pending {
            started,
            spec,
            len: 0,
            slot: 0,
            link: 0,
            earlier: 0,
            silent: false,
            progress,
        });
        let metrics = &self.session.worker.backend.metrics;
        self.state.complete(Ticket { seq, part: 0 }, Reply::Large(reply), self.now, metrics);
    }
}
