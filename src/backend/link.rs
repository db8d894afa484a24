//! One shared, pipelined connection to a node, from its first command to its end.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;

use super::handshake::Told;
use super::room::Room;
use super::send_buffer::{LARGE, SendBuffer};
use super::times::Times;
use super::{Account, Backend, Listener, Loss, Receiver, Server, Ticket, Wakeup};
use crate::metrics::{Owner, Phase};
use crate::net::NodeAddr;

/// Why a link ends that nobody uses any more, or whose node has left the cluster.
pub(super) const NOT_WANTED: &str = "nobody wants it any more";
/// Why a link gives up the reply that it is reading, and one that listens, which reads a message, itself.
pub(super) const OVER_MEMORY: &str = "what it reads is the largest, and max_memory is exceeded";

/// A connection that was given up with writes in doubt; to be killed at the node.
#[derive(Clone, Debug)]
pub struct OldLink {
    /// The node's number for it.
    pub client_id: u64,
    /// The name that it got with CLIENT SETNAME.
    pub name: String,
}

impl OldLink {
    /// Those without these numbers.
    pub(super) fn besides(all: &[Self], killed: &HashSet<u64>) -> Vec<Self> {
        all.iter().filter(|old| !killed.contains(&old.client_id)).cloned().collect()
    }
}

/// Where a link is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is being dialled; commands queue.
    Opening,
    /// Commands are written.
    Up,
    /// No new commands; ends when its last reply has come.
    Retired,
    /// It is gone.
    Closed,
}

/// One command that waits for its reply, or several that were written in one piece. Requests lie in the send buffer
/// one after the other, so an entry needs only its length.
pub(super) struct Entry {
    /// `None`: the reply is for nobody (ASKING, PING).
    pub(super) receiver: Option<Rc<dyn Receiver>>,
    pub(super) ticket: Ticket,
    pub(super) len: u32,
    /// How many replies come before the last one.
    pub(super) earlier: u32,
}

/// What is on its way; entries and their bytes go in step.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) send: SendBuffer,
    pub(super) entries: VecDeque<Entry>,
    pub(super) times: Times,
    /// Replies to the first entry that came before its last one.
    pub(super) earlier: Vec<u8>,
}

/// A shared connection. It is never used again once it ended: its node makes a new one.
pub struct Link {
    id: u32,
    addr: NodeAddr,
    backend: Rc<Backend>,
    bit: u64,
    pub(super) name: String,
    /// Who takes what the node says unasked; without one that is dropped.
    pub(super) listener: Option<Rc<dyn Listener>>,
    pub(super) state: Cell<State>,
    /// Set when it is up.
    pub(super) server: OnceCell<Server>,
    pub(super) queue: RefCell<Queue>,
    pub(super) wakeup: Wakeup,
    pub(super) room: Room,
    /// Set by the health check: the task gives up with this reason.
    pub(super) give_up: Cell<Option<&'static str>>,
    /// Whether anything was read since the last health check.
    pub(super) read_since: Cell<bool>,
    /// For how many health checks nothing has been read, while replies were due or while none were.
    pub(super) silent: Cell<u32>,
    /// Whether replies were due at the last health check.
    pub(super) was_due: Cell<bool>,
    /// What the account was told of: bytes of requests, and of what was read and is no whole reply.
    told: Cell<(usize, usize)>,
    /// The node's number for it, if it told.
    pub(super) client_id: Cell<Option<u64>>,
    /// On a link for what is large: how many commands may be on the node at a time; 0 is any number.
    pub(super) window: Cell<usize>,
    /// Attempts to end what it waits for that the node may still carry out.
    pub(super) unblocks: Cell<u32>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link {} to {} ({:?})", self.id, self.addr, self.state.get())
    }
}

impl Link {
    pub(super) fn new(
        id: u32,
        bit: u64,
        addr: NodeAddr,
        name: String,
        listener: Option<Rc<dyn Listener>>,
        backend: Rc<Backend>,
    ) -> Rc<Self> {
        let room = Room::new(backend.settings.link_queue);
        Rc::new(Link {
            id,
            bit,
            addr,
            backend,
            name,
            listener,
            state: Cell::new(State::Opening),
            server: OnceCell::new(),
            queue: RefCell::default(),
            wakeup: Wakeup::default(),
            room,
            give_up: Cell::new(None),
            read_since: Cell::new(false),
            silent: Cell::new(0),
            was_due: Cell::new(false),
            told: Cell::default(),
            client_id: Cell::new(None),
            window: Cell::new(0),
            unblocks: Cell::new(0),
        })
    }

    /// Its number, unique within the worker.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// A bit for each shared link; two that are there at the same time have the same one only if there are more than
    /// 64. None for the links that carry no commands of many sessions.
    #[inline]
    pub fn bit(&self) -> u64 {
        self.bit
    }

    /// The node that it leads to.
    pub fn addr(&self) -> &NodeAddr {
        &self.addr
    }

    /// What the node said of itself; nothing while it is being dialled.
    pub fn server(&self) -> Option<&Server> {
        self.server.get()
    }

    /// Keeps what the node told.
    pub(super) fn note(&self, told: Told) {
        self.client_id.set(told.client_id);
        _ = self.server.set(told.server);
    }

    /// Whether new commands may be queued.
    #[inline]
    pub fn takes_commands(&self) -> bool {
        matches!(self.state.get(), State::Up | State::Opening)
    }

    /// Whether commands are written to it.
    pub fn is_up(&self) -> bool {
        self.state.get() == State::Up
    }

    /// Whether it is still being dialled.
    pub fn is_opening(&self) -> bool {
        self.state.get() == State::Opening
    }

    /// The node's number for it, once it is open and if the node told.
    pub fn client_id(&self) -> Option<u64> {
        self.client_id.get()
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.state.get() == State::Closed
    }

    /// Whether it was the proxy that ended it.
    pub fn is_given_up(&self) -> bool {
        self.give_up.get().is_some()
    }

    /// Request bytes that it holds.
    pub fn kept(&self) -> usize {
        self.queue.borrow().send.kept()
    }

    /// Bytes of the reply that it has not read to its end.
    pub fn reading(&self) -> usize {
        self.told.get().1
    }

    /// Keeps nothing of the reply that it is reading, whose command gets an error.
    pub fn drop_reply(&self) {
        if self.give_up.get().is_none() {
            self.give_up(OVER_MEMORY);
        }
    }

    /// Ends at once, whatever is on its way.
    pub(super) fn end(&self) {
        if self.state.get() == State::Opening {
            self.close(NOT_WANTED);
        }
        self.give_up(NOT_WANTED);
    }

    pub(super) fn give_up(&self, reason: &'static str) {
        self.give_up.set(Some(reason));
        self.wakeup.wake();
    }

    /// Lets it read on, after a pause.
    pub fn resume(&self) {
        self.wakeup.wake();
    }

    /// Keeps the account of its buffers: of what was read and is no whole reply, `reading` bytes.
    #[inline]
    pub(super) fn tell(&self, memory: &Account, reading: usize) {
        let queue = self.queue.borrow();
        let (kept, reading) = (queue.send.kept(), reading + queue.earlier.capacity());
        let told = self.told.replace((kept, reading));
        if told.0 != kept {
            memory.change(Owner::LinkRequests, told.0, kept);
        }
        if told.1 != reading {
            memory.change(Owner::LinkReplies, told.1, reading);
            memory.raise(reading, 0);
        }
    }

    /// Queues a copy of `request`; the reply goes to `receiver`.
    #[inline]
    pub fn push(&self, receiver: Rc<dyn Receiver>, ticket: Ticket, request: &[u8]) {
        let mut queue = self.queue.borrow_mut();
        queue.send.push(request);
        self.push_entry(&mut queue, receiver, ticket, request.len(), 0);
    }

    /// As [`Link::push`], without a copy if `request` is large.
    pub fn push_bytes(&self, receiver: Rc<dyn Receiver>, ticket: Ticket, request: Bytes) {
        self.push_block(receiver, ticket, request, 0);
    }

    /// Queues several requests in one piece, to which `earlier` replies come before the last one: `receiver` gets all
    /// of them at once, the earlier ones as [`Request::earlier`](super::Request::earlier). No other request comes
    /// between them, and none of them counts as sent before the last byte of all was.
    pub fn push_block(&self, receiver: Rc<dyn Receiver>, ticket: Ticket, requests: Bytes, earlier: u32) {
        let (mut queue, len) = (self.queue.borrow_mut(), requests.len());
        if len < LARGE {
            queue.send.push(&requests);
        } else {
            queue.send.push_large(requests);
        }
        self.push_entry(&mut queue, receiver, ticket, len, earlier);
    }

    #[inline]
    fn push_entry(
        &self,
        queue: &mut Queue,
        receiver: Rc<dyn Receiver>,
        ticket: Ticket,
        len: usize,
        earlier: u32,
    ) {
        queue.times.push(self.backend.clock.now());
        queue.entries.push_back(Entry { receiver: Some(receiver), ticket, len: len as u32, earlier });
        self.wakeup.wake();
        self.room.taken(queue.send.kept(), self.backend.clock.now());
    }

    /// Takes no new commands; those on their way are answered, those of a link that is only being
    /// dialled go back at once.
    pub fn retire(&self) {
        match self.state.get() {
            State::Up => self.state.set(State::Retired),
            State::Opening => _ = self.close(NOT_WANTED),
            State::Retired | State::Closed => {}
        }
        self.wakeup.wake();
    }

    /// Ends, and gives all commands back to who sent them. True if any write is in doubt.
    pub(super) fn close(&self, reason: &'static str) -> bool {
        self.state.set(State::Closed);
        let in_doubt = self.give_back(reason);
        if let Some(listener) = &self.listener {
            listener.ended();
        }
        in_doubt
    }

    /// Gives all commands back to who sent them. True if any write is in doubt.
    pub(super) fn give_back(&self, reason: &'static str) -> bool {
        let Queue { mut send, entries, times, .. } = self.queue.take();
        let (queued, on_node) = times.lost(&entries, self.backend.clock.tick());
        self.backend.metrics.phase_nanos[Phase::Queue.index()].add(queued);
        self.backend.metrics.phase_nanos[Phase::Node.index()].add(on_node);
        let (mut written, mut in_doubt) = (send.written_unanswered(), false);
        let mut loss = Loss { node: self.addr.clone(), sent: true, reason };
        for entry in entries {
            let len = u64::from(entry.len);
            loss.sent = written >= len;
            written = written.saturating_sub(len);
            if let Some(receiver) = entry.receiver {
                in_doubt |= receiver.lost(entry.ticket, &loss, send.front(entry.len as usize));
            }
            send.answer(entry.len as usize);
        }
        self.room.emptied();
        in_doubt
    }
}
