//! A command with very many keys is cut little by little: others run meanwhile.

use bytes::Bytes;

use super::entry::Progress;
use super::gather::Gather;
use super::intake::TURN_BYTES;
use super::planner::{Planner, Source};
use super::turn::Turn;
use crate::backend::Ticket;
use crate::command::{KeyError, Spec};
use crate::protocol::{Args, Span};
use crate::route::plan::{Groups, Keys};

/// To send a key, perhaps as a part of its own, takes as long as to move so many bytes,
const KEY_BYTES: usize = 1024;
/// and to hash one, or to put it into its group, so many.
const GROUP_BYTES: usize = 128;

/// A command that is being split.
#[derive(Debug)]
pub(super) struct Splitting {
    seq: u64,
    writes: bool,
    request: Bytes,
    spans: Box<[Span]>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Grouping(Keys),
    /// The part of this number, whose keys begin at this place, has still to be sent, with those behind it.
    Sending(Groups, u32, usize),
}

impl Splitting {
    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        let keys = match &self.stage {
            Stage::Grouping(keys) => keys.memory(),
            Stage::Sending(groups, ..) => groups.memory(),
        };
        self.request.len() + size_of_val(&*self.spans) + keys
    }
}

impl Planner<'_> {
    /// Begins to split a request with very many keys.
    #[cold]
    pub(super) fn split_many(&mut self, spec: &'static Spec, args: &Args<'_>, request: Source<'_>) {
        let keys = match Keys::of(spec, args) {
            Ok(keys) => keys,
            Err(KeyError::LetServerAnswer) => return self.anywhere(spec, request),
            Err(error @ KeyError::Unpaired(_)) => return self.unpaired(spec, error),
        };
        let seq = self.gather(spec, request.bytes().len(), Gather::unknown(spec.merge));
        let (writes, request, spans) = (self.writes, request.to_bytes(), args.spans().into());
        let stage = Stage::Grouping(keys);
        self.state.splitting = Some(Box::new(Splitting { seq, writes, request, spans, stage }));
    }

    /// Goes on with it. What is left, if anything is.
    fn split_on(&mut self, mut splitting: Box<Splitting>) -> Option<Box<Splitting>> {
        let Splitting { seq, ref request, ref spans, ref mut stage, writes } = *splitting;
        let args = Args::new(request, spans);
        self.writes = writes;
        let share = self.session.worker.backend.allowance.share(&self.session.wakeup);
        let (groups, part, place) = match stage {
            Stage::Grouping(keys) => {
                let Some((groups, order)) = keys.group(&args, share / GROUP_BYTES) else {
                    return Some(splitting);
                };
                if let Some(slot) = groups.single_slot() {
                    self.split_none(seq, slot, groups.keys(), request);
                    return None;
                }
                self.state.parts(seq)?.set_parts(groups.iter().map(|group| group[0].0), order);
                *stage = Stage::Sending(groups, 0, 0);
                return Some(splitting);
            }
            Stage::Sending(groups, part, place) => (groups, part, place),
        };
        let (until, mut bytes) = (*place + share / KEY_BYTES, 0);
        while *place < until
            && bytes < TURN_BYTES
            && let Some(group) = groups.at(*place)
        {
            // It may have been answered meanwhile, as a whole.
            self.state.parts(seq)?;
            let mut request = Vec::new();
            groups.write(&args, group, &mut request);
            bytes += request.len();
            let ticket = Ticket { seq, part: *part };
            self.send(ticket, group[0].0, group.len(), Source::Owned(&request.into()));
            *part += 1;
            *place += group.len();
        }
        (*place < groups.keys()).then_some(splitting)
    }

    /// All keys share a slot: the request goes as it is.
    fn split_none(&mut self, seq: u64, slot: u16, keys: usize, request: &Bytes) {
        let Some(pending) = self.state.get(seq) else { return };
        (pending.slot, pending.progress) = (slot, Progress::Waiting);
        self.send(Ticket { seq, part: 0 }, slot, keys, Source::Owned(request));
    }
}

impl Turn {
    /// What is to be done before anything is planned. True if a command is being split, or its reply is being merged.
    #[inline(always)]
    pub(super) fn tell(&self) -> bool {
        let mut state = self.session.state.borrow_mut();
        self.session.tell_late(&mut state);
        state.merging || state.splitting.is_some()
    }

    /// Goes on with it. True if the command is not split yet.
    #[cold]
    pub(super) fn go_on(&mut self) -> bool {
        let mut state = self.session.state.borrow_mut();
        if std::mem::take(&mut state.merging) {
            let backend = &self.worker.backend;
            state.flush(backend.clock.now(), &backend.metrics);
        }
        let splits = state.splitting.is_some();
        drop(state);
        splits && self.split_on()
    }

    fn split_on(&mut self) -> bool {
        self.with_planner(|turn, planner| {
            let rest = planner.state.splitting.take();
            planner.state.splitting = rest.and_then(|rest| planner.split_on(rest));
            turn.full = planner.full.take().or(turn.full.take());
            planner.state.splitting.is_some()
        })
    }
}
