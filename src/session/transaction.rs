//! MULTI to EXEC: what a client queues, and the blocks that are made of it.
//!
//! Nothing reaches a node before EXEC: then `MULTI … EXEC` is written in one piece, so that a shared link never is
//! in a transaction between two clients' requests. What the proxy answers itself is answered at EXEC too, and its
//! replies take their places among those of the nodes.

use bytes::Bytes;

use super::control::Pause;
use super::docs::own_docs;
use super::gather::Gather;
use super::local::Client;
use super::planner::{Planner, Source};
use crate::backend::{Reply, Ticket};
use crate::command::{Barrier, Flags, KeyError, Merge, Route, Script, Spec, Survey, Transact, resolve};
use crate::config::{CrossSlot, SessionLimits};
use crate::error::ClientError;
use crate::protocol::{Args, RequestFramer, RequestLimits, write};
use crate::route::plan::{self, PlanError};

pub(super) const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
/// Why a command that the proxy answers is not queued.
const CHANGES: &str = "it changes the connection, which no transaction does here";
/// Why EXEC is refused where the proxy's own replies would be very many.
const REPLIES_TOO_LARGE: &str =
    "EXECABORT Transaction discarded because of: what this proxy answers itself exceeds its output_soft";
/// In [`Transaction::order`]: the proxy answers it.
const HERE: u32 = u32::MAX;

/// What a client has queued since MULTI.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    blocks: Vec<Block>,
    /// The requests that the proxy answers itself.
    here: Vec<u8>,
    /// For each command the block that it is in, or [`HERE`].
    order: Vec<u32>,
    /// A command was refused when it was to be queued: EXEC is too.
    failed: bool,
    /// Keys are watched: all must be in their slot.
    watches: bool,
    /// CLIENT PAUSE WRITE would hold one of its commands.
    writes: bool,
    /// Whoever gets one of its messages finds what was written before.
    publishes: bool,
}

/// Requests that go to a node in one piece.
#[derive(Debug)]
struct Block {
    /// None while there are only commands without keys.
    slot: Option<u16>,
    keys: usize,
    commands: u32,
    /// Whether any of them calls a script by its hash.
    scripts: bool,
    requests: Vec<u8>,
}

impl Transaction {
    /// One whose commands must be in the slot of the watched keys, if there are such.
    fn new(watched: Option<u16>) -> Self {
        let blocks = watched.map(|slot| Block::new(Some(slot))).into_iter().collect();
        Transaction { blocks, watches: watched.is_some(), ..Transaction::default() }
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        let blocks = self.blocks.iter().map(|block| size_of::<Block>() + block.requests.capacity());
        blocks.sum::<usize>() + self.here.capacity() + self.order.capacity() * size_of::<u32>()
    }

    /// Whether CLIENT PAUSE WRITE holds its EXEC.
    pub(super) fn writes(&self) -> bool {
        self.writes
    }

    /// How many commands are queued.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Refuses EXEC, and needs nothing of what was queued any more.
    fn fail(&mut self) {
        *self = Transaction { failed: true, ..Transaction::default() };
    }

    fn add(
        &mut self,
        spec: &'static Spec,
        route: Route,
        args: &Args<'_>,
        request: &[u8],
        limits: &SessionLimits,
        across: CrossSlot,
    ) -> Result<(), ClientError> {
        let refused =
            |reason: &'static str| ClientError::Refused { command: spec.name.into(), reason: reason.into() };
        if spec.flags.has(Flags::NO_MULTI) {
            return Err(ClientError::NotInTransaction);
        }
        if self.memory() + request.len() > limits.max_request || self.order.len() >= limits.max_arguments {
            return Err(ClientError::TransactionTooLarge);
        }
        let slot = match route {
            Route::Keyed if spec.keys.is_empty() => None,
            Route::Keyed | Route::Split | Route::Blocking => match plan::slot(spec, args) {
                Ok((slot, keys)) => Some((slot, keys)),
                Err(PlanError::CrossSlot) => return Err(ClientError::CrossSlot),
                Err(PlanError::Keys(KeyError::LetServerAnswer)) => None,
                // A server finds that only when it carries the command out.
                Err(PlanError::Keys(KeyError::Unpaired(_))) => return self.add_here(request),
            },
            Route::BySlotNumber => plan::slot_number(args).map(|slot| (slot, 0)),
            Route::AnyShard => None,
            Route::Local(local) if !local.may_be_queued() => return Err(refused(CHANGES)),
            Route::Listen(_) => return Err(refused(CHANGES)),
            Route::Local(_) | Route::Transaction(_) | Route::Survey(Survey::Docs) => {
                return self.add_here(request);
            }
            Route::AllShards | Route::Survey(_) | Route::Replicas => {
                return Err(refused("it goes to several nodes, and a transaction to one"));
            }
            Route::Clients(_) => {
                return Err(refused("all workers are asked, and a transaction goes to one node"));
            }
            Route::Refused(reason) => return Err(refused(reason)),
        };
        let at = self.block(slot.map(|(slot, _)| slot), across)?;
        self.writes |= Pause::Writes.holds(spec);
        self.publishes |= spec.barrier == Barrier::AfterOthers;
        let block = &mut self.blocks[at];
        block.keys += slot.map_or(0, |(_, keys)| keys);
        block.commands += 1;
        block.scripts |= spec.script == Script::Hash;
        block.requests.extend_from_slice(request);
        self.order.push(at as u32);
        Ok(())
    }

    /// Adds what the proxy answers itself.
    fn add_here(&mut self, request: &[u8]) -> Result<(), ClientError> {
        self.here.extend_from_slice(request);
        self.order.push(HERE);
        Ok(())
    }

    /// The block for a command of this slot, or of none.
    fn block(&mut self, slot: Option<u16>, across: CrossSlot) -> Result<usize, ClientError> {
        let found = match slot {
            None => self.blocks.len().checked_sub(1),
            Some(_) => self.blocks.iter().position(|block| block.slot.is_none() || block.slot == slot),
        };
        if let Some(at) = found {
            self.blocks[at].slot = self.blocks[at].slot.or(slot);
            return Ok(at);
        }
        if self.watches {
            return Err(ClientError::CrossSlotWatch);
        }
        if !self.blocks.is_empty() && across == CrossSlot::Error {
            return Err(ClientError::CrossSlotTransaction);
        }
        self.blocks.push(Block::new(slot));
        Ok(self.blocks.len() - 1)
    }
}

impl Client {
    /// What a call within MULTI waits for. A block without keys could go to another node than what came before it.
    #[cold]
    pub(super) fn barrier(&self, route: Route) -> Barrier {
        let keyless = |transaction: &Transaction| transaction.blocks.iter().any(|b| b.slot.is_none());
        match (route, &self.transaction) {
            (Route::Transaction(Transact::Exec), Some(transaction))
                if transaction.watches || transaction.publishes || keyless(transaction) =>
            {
                Barrier::Full
            }
            (Route::Local(_), _) if route.is_immediate() => Barrier::Full,
            _ => Barrier::None,
        }
    }

    /// A request within MULTI could not be resolved.
    #[cold]
    pub(super) fn unqueueable(&mut self, spec: Option<&'static Spec>, planner: &Planner<'_>) {
        match spec.map(|spec| spec.route) {
            // A server gives up the whole transaction here.
            Some(Route::Transaction(Transact::Exec)) => {
                self.transaction = None;
                planner.session.watch.take();
            }
            _ => self.transaction.iter_mut().for_each(|transaction| transaction.fail()),
        }
    }

    /// Queues a command within MULTI, or says why not.
    pub(super) fn queue(
        &mut self,
        spec: &'static Spec,
        route: Route,
        args: &Args<'_>,
        request: &[u8],
        planner: &mut Planner<'_>,
    ) {
        let Some(transaction) = self.transaction.as_deref_mut() else { return };
        let settings = &planner.session.settings;
        let added = transaction.add(spec, route, args, request, &settings.limits, settings.across);
        if transaction.failed {
            // Nothing of it will be executed.
            transaction.fail();
        }
        match added {
            Ok(()) => return planner.answer(Some(spec), Bytes::from_static(b"+QUEUED\r\n")),
            Err(error) => planner.fail(spec, &error),
        }
        transaction.fail();
    }

    /// Carries out MULTI, EXEC, DISCARD, WATCH or UNWATCH.
    pub(super) fn transact(
        &mut self,
        what: Transact,
        spec: &'static Spec,
        args: &Args<'_>,
        source: Source<'_>,
        planner: &mut Planner<'_>,
    ) {
        let nested = self.transaction.is_some();
        match what {
            Transact::Multi if nested => planner.refuse_as(spec, "ERR MULTI calls can not be nested"),
            Transact::Multi => {
                let watched = planner.session.watch.borrow().as_ref().map(|watch| watch.slot);
                self.transaction = Some(Box::new(Transaction::new(watched)));
                planner.ok(spec);
            }
            Transact::Exec | Transact::Discard if !nested => {
                let name = if what == Transact::Exec { "EXEC" } else { "DISCARD" };
                planner.refuse_as(spec, format!("ERR {name} without MULTI"));
            }
            Transact::Exec => self.exec(spec, planner),
            Transact::Discard => {
                self.transaction = None;
                planner.session.watch.take();
                planner.ok(spec);
            }
            Transact::Watch if nested => planner.refuse_as(spec, "ERR WATCH inside MULTI is not allowed"),
            Transact::Watch => planner.watch(spec, args, source),
            Transact::Unwatch => {
                planner.session.watch.take();
                planner.ok(spec);
            }
        }
    }

    fn exec(&mut self, spec: &'static Spec, planner: &mut Planner<'_>) {
        let Some(transaction) = self.transaction.take() else { return };
        let Transaction { mut blocks, here, mut order, failed, watches, .. } = *transaction;
        if failed {
            planner.session.watch.take();
            return planner.refuse_as(spec, "EXECABORT Transaction discarded because of previous errors.");
        }
        let count = order.len();
        let Some(here) = self.answers(&here, order.iter().filter(|at| **at == HERE).count(), planner) else {
            planner.session.watch.take();
            return planner.refuse_as(spec, REPLIES_TOO_LARGE);
        };
        if blocks.is_empty() {
            return planner.answer(Some(spec), here.into());
        }
        if watches && let Some(block) = blocks.pop() {
            order.iter_mut().filter(|at| **at == HERE).for_each(|at| *at = 1);
            let earlier = block.commands + 1;
            return planner.exec_watched(spec, block.finish(), earlier, order, here);
        }
        if blocks.len() == 1 && blocks[0].commands as usize == count {
            return blocks.into_iter().for_each(|block| {
                let slot = block.slot.or_else(|| planner.routes.any_slot()).unwrap_or(0);
                let (keys, earlier) = (block.keys, block.commands + 1);
                let scripts = block.scripts;
                planner.block(spec, slot, keys, Source::Block(&block.finish(), earlier, scripts));
            });
        }
        let parts = blocks.len() as u32;
        order.iter_mut().filter(|at| **at == HERE).for_each(|at| *at = parts);
        planner.blocks(spec, blocks, order, here.into());
    }

    /// The replies to what the proxy answers itself, as an array; nothing if what was queued would make more of them than
    /// `output_soft` lets any client have unread. ECHO's are as long as its requests.
    fn answers(&mut self, mut requests: &[u8], count: usize, planner: &mut Planner<'_>) -> Option<Vec<u8>> {
        let (mut framer, mut replies) = (RequestFramer::default(), Vec::new());
        let most = planner.session.settings.limits.output_soft + requests.len();
        write::array(&mut replies, count);
        while let Ok(Some(framed)) = framer.next(requests, &RequestLimits::NONE) {
            if replies.len() > most {
                return None;
            }
            let (request, rest) = requests.split_at(framed.len);
            let args = framer.args(request);
            match resolve(&args).map(|spec| (spec.route, plan::slot(spec, &args))) {
                Ok((Route::Local(local), _)) => self.answer(local, &args, planner, &mut replies),
                Ok((Route::Survey(Survey::Docs), _)) => {
                    own_docs(planner.session, &args, self.protocol, &mut replies)
                }
                Ok((_, Err(PlanError::Keys(error)))) => write::error(&mut replies, error.to_string()),
                // UNWATCH: EXEC has just ended the watch.
                _ => write::simple(&mut replies, "OK"),
            }
            requests = rest;
        }
        Some(replies)
    }
}

impl Block {
    fn new(slot: Option<u16>) -> Self {
        Block { slot, keys: 0, commands: 0, scripts: false, requests: MULTI.to_vec() }
    }

    fn finish(mut self) -> Bytes {
        self.requests.extend_from_slice(EXEC);
        self.requests.into()
    }
}

impl Planner<'_> {
    /// Sends several blocks, whose replies become one with what the proxy answered `here`.
    fn blocks(&mut self, spec: &'static Spec, blocks: Vec<Block>, order: Vec<u32>, here: Bytes) {
        let gather = Gather::new(Merge::Exec, order, blocks.len() + 1);
        let seq = self.gather(spec, blocks.iter().map(|block| block.requests.len()).sum(), gather);
        for block in blocks {
            let slot = block.slot.or_else(|| self.routes.any_slot()).unwrap_or(0);
            let (keys, earlier) = (block.keys, block.commands + 1);
            let scripts = block.scripts;
            self.part(seq, slot, keys, Source::Block(&block.finish(), earlier, scripts));
        }
        let Some(part) = self.state.parts(seq).map(|gather| gather.add(0, 0)) else { return };
        let metrics = &self.session.worker.backend.metrics;
        self.state.complete(Ticket { seq, part }, Reply::Large(here), self.now, metrics);
    }

    fn ok(&mut self, spec: &'static Spec) {
        self.answer(Some(spec), Bytes::from_static(b"+OK\r\n"));
    }
}
