//! The cluster's nodes and the connections to them. It knows nodes, not slots, and nothing of sessions:
//! who waits for a reply is a [`Receiver`].

mod acknowledge;
mod allowance;
mod apart;
mod call;
mod clock;
mod connection;
mod dedicated;
mod gate;
mod handshake;
mod health;
mod internal;
mod link;
mod listener;
mod memory;
mod node;
mod refusing;
mod room;
mod send_buffer;
mod share;
mod times;
mod wakeup;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::config::ClusterAuth;
use crate::metrics::WorkerMetrics;
use crate::net::NodeAddr;

pub use allowance::Allowance;
pub use apart::{Affinity, Apart, BULK};
pub use call::Answer;
pub use clock::Clock;
pub use dedicated::{Dedicated, Use};
pub use gate::{DialGate, Down, GateLimits, Permit, Purpose};
pub use handshake::{DialError, Server, Told, open};
pub use internal::PING;
pub use link::Link;
pub use listener::Listener;
pub use memory::{Account, Memory, Victim, WORTHWHILE, WORTHWHILE_INPUT, give_back_free_pages};
pub use node::Node;
pub use send_buffer::LARGE;
pub use wakeup::Wakeup;

/// Names the command of a session that a reply is for: its number there, and which part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// Counts the session's commands.
    pub seq: u64,
    /// Which part of a command that was split; 0 otherwise.
    pub part: u32,
}

/// A whole reply, as the node sent it.
#[derive(Debug)]
pub enum Reply<'a> {
    /// In the reading buffer: to be copied.
    Small(&'a [u8]),
    /// Large, and taken out of the reading buffer without a copy.
    Large(Bytes),
}

impl Reply<'_> {
    /// The reply's bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Reply::Small(bytes) => bytes,
            Reply::Large(bytes) => bytes,
        }
    }

    /// The reply as bytes of its own.
    #[inline]
    pub fn into_bytes(self) -> Bytes {
        match self {
            // As `Bytes::copy_from_slice`, which is not always inlined.
            Reply::Small(bytes) => Bytes::from(Box::<[u8]>::from(bytes)),
            Reply::Large(bytes) => bytes,
        }
    }
}

/// A link ended before a command's reply came.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The node that the link led to.
    pub node: NodeAddr,
    /// Whether the command's last byte had been accepted by the kernel: only then can it have been executed.
    pub sent: bool,
    /// Why the link ended, for people.
    pub reason: &'static str,
}

/// Who waits for replies on a link. Both calls are made while the link runs: the receiver must not
/// call back into it, but wake its own task.
pub trait Receiver {
    /// The reply to `ticket` came; `request` are the bytes that it answers.
    fn reply(&self, ticket: Ticket, reply: Reply<'_>, request: Request<'_>);

    /// The reply to `ticket` has begun, and is large: see [`BULK`].
    fn is_large(&self, _ticket: Ticket) {}

    /// A link for which it [waits](Link::wait_for_room) has room again, or has ended.
    fn has_room(&self) {}

    /// No reply to `ticket` will come. Returns true if a write's outcome is unknown.
    fn lost(&self, ticket: Ticket, loss: &Loss, request: &[u8]) -> bool;
}

/// The request that a reply answers; looked up only when somebody asks.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    link: &'a Rc<Link>,
    queue: &'a link::Queue,
    len: usize,
}

impl<'a> Request<'a> {
    /// Its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.queue.send.front(self.len)
    }

    /// Its bytes, to keep; those of a large request are shared, not copied.
    pub fn to_bytes(&self) -> Bytes {
        self.queue.send.front_bytes(self.len)
    }

    /// The replies that came before the last one, to requests that were sent in one piece.
    pub fn earlier(&self) -> &'a [u8] {
        &self.queue.earlier
    }

    /// For how long, at most, it has been on the node at `now`: replies that are read at once count as one.
    pub fn on_node(&self, now: u64) -> u64 {
        self.queue.times.oldest().map_or(0, |at| now.saturating_sub(at))
    }

    /// The link that it was sent on.
    pub fn link(&self) -> &'a Rc<Link> {
        self.link
    }
}

/// What every link of one worker shares.
#[derive(Debug)]
pub struct Backend {
    /// How to open and watch links.
    pub settings: Settings,
    /// Bounds the dials and connections of the whole process.
    pub gate: Arc<DialGate>,
    /// The worker's clock.
    pub clock: Clock,
    /// Counts for this worker.
    pub metrics: Arc<WorkerMetrics>,
    /// What links and sessions keep.
    pub memory: Account,
    /// Every link that has not ended, by its number.
    pub links: RefCell<HashMap<u32, Weak<Link>>>,
    /// Where links and sessions read into; what is left over goes to a buffer of their own, so that
    /// an idle connection holds none.
    pub scratch: RefCell<Box<[u8]>>,
    /// What those may move who have much to move.
    pub allowance: Allowance,
}

impl Backend {
    /// The link of this number, if it has not ended.
    pub fn link(&self, id: u32) -> Option<Rc<Link>> {
        self.links.borrow().get(&id)?.upgrade()
    }

    /// All links that have not ended.
    pub fn all_links(&self) -> Vec<Rc<Link>> {
        self.links.borrow().values().filter_map(Weak::upgrade).collect()
    }
}

/// How links are opened and watched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the configuration calls the cluster.
    pub cluster: Arc<str>,
    /// What to show to the nodes.
    pub credentials: Option<ClusterAuth>,
    /// Shared links per node and protocol version, at least 1.
    pub connections_per_node: usize,
    /// Connecting and the handshake together may take this long.
    pub connect_timeout: Duration,
    /// Bytes of one reply.
    pub max_reply: usize,
    /// Request bytes of a link beyond which those who have some on it add no more.
    pub link_queue: usize,
    /// A link is given up when replies are due and nothing has come for this long.
    pub link_timeout: Duration,
}

/// Makes room to read into, where `wanted` more bytes make something whole.
///
/// What the other side announces is believed by `least` until something of it has come, then up to `most`, then as
/// far as it has proven; what it does not announce is grown for by a quarter. `BytesMut::reserve` alone would double, and
/// keep what was read before.
pub fn make_room(buffer: &mut BytesMut, wanted: usize, least: usize, most: usize) {
    let (len, spare) = (buffer.len(), buffer.capacity() - buffer.len());
    if spare < if wanted == 0 { least } else { wanted.min(least) } {
        let believed = if len < PROVEN { least } else { len.max(most) };
        let more = (wanted.min(believed) + least).max(len / 4);
        let mut grown = BytesMut::with_capacity(len + more);
        grown.extend_from_slice(buffer);
        *buffer = grown;
    }
}

/// Of so much, most of what is read at once, more is believed.
const PROVEN: usize = SCRATCH / 2;

/// As much is read at once: the window in which the kernel batches under load.
pub const SCRATCH: usize = 64 * 1024;
