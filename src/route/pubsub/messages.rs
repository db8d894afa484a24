//! Messages of one topic that came one upon the other, on their way to all who are subscribed to it.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;

use crate::metrics::{Owner, WorkerMetrics};
use crate::protocol::{Protocol, Topics};

/// From so many bytes on they are shared by all who are to have them, instead of copied to each.
const SHARED: usize = 1024;

/// Some messages of one topic, whole frames of RESP3.
#[derive(Debug, Default)]
pub(in crate::route) struct Batch {
    pub(super) topic: Option<(Topics, Bytes)>,
    frames: Vec<u8>,
    /// Where each frame begins.
    starts: Vec<u32>,
}

impl Batch {
    pub(super) fn push(&mut self, frame: &[u8]) {
        self.starts.push(self.frames.len() as u32);
        self.frames.extend_from_slice(frame);
    }

    /// Adds what is the same in either version of the protocol.
    pub(in crate::route) fn push_line(&mut self, line: &[u8]) {
        self.frames.extend_from_slice(line);
    }

    pub(in crate::route) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Hands all of it to as many subscribers, one after the other.
    pub(in crate::route) fn hand_out(
        &mut self,
        metrics: &Arc<WorkerMetrics>,
        subscribers: usize,
        take: impl FnOnce(&Messages<'_>),
    ) {
        let shared = (subscribers > 1 && self.len() >= SHARED).then(Default::default);
        take(&Messages { frames: &self.frames, starts: &self.starts, metrics, shared });
        self.clear();
    }

    /// Throws them away.
    pub(super) fn clear(&mut self) {
        self.starts.clear();
        self.frames.clear();
        if self.frames.capacity() > SHARED {
            self.frames = Vec::new();
        }
    }
}

/// Messages of one topic, for one subscriber after the other.
#[derive(Debug)]
pub struct Messages<'a> {
    frames: &'a [u8],
    starts: &'a [u32],
    metrics: &'a Arc<WorkerMetrics>,
    /// Made when the first one wants it, for each version of the protocol; `None` if they are few bytes.
    shared: Option<[OnceCell<Bytes>; 2]>,
}

impl Messages<'_> {
    /// Appends them to what a client gets.
    pub fn copy_to(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(self.frames);
        if protocol == Protocol::Resp2 {
            self.starts.iter().for_each(|start| out[begin + *start as usize] = b'*');
        }
    }

    /// Them for many clients, if they are worth sharing. The bytes are in the account as long as anybody has them.
    pub fn shared(&self, protocol: Protocol) -> Option<Bytes> {
        let shared = &self.shared.as_ref()?[usize::from(protocol == Protocol::Resp3)];
        Some(shared.get_or_init(|| self.share(protocol)).clone())
    }

    fn share(&self, protocol: Protocol) -> Bytes {
        let mut bytes = Vec::with_capacity(self.frames.len());
        self.copy_to(protocol, &mut bytes);
        self.metrics.kept.add(Owner::Messages, bytes.len() as i64);
        Bytes::from_owner(Shared { bytes, metrics: self.metrics.clone() })
    }
}

/// Bytes that many have, counted once.
struct Shared {
    bytes: Vec<u8>,
    metrics: Arc<WorkerMetrics>,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // All who have it are of the worker whose cells these are.
        self.metrics.kept.add(Owner::Messages, -(self.bytes.len() as i64));
    }
}
