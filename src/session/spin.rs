//! Polling for a moment before sleeping, while that pays.
//!
//! With one client most of a request's time goes into waking a core that has just gone to sleep: twice for
//! the proxy alone. A worker that goes on polling halves the latency. It does so only while requests
//! come one upon the other and few clients are waiting at once: under load a worker hardly sleeps, an
//! idle proxy always does, and sparse requests are not worth it.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use tokio::task::yield_now;

use super::Worker;
use crate::backend::Wakeup;

/// Polling ends when nothing has happened for this long: a round trip to a node and a client's own pause
/// fit in.
const PATIENCE_NANOS: u64 = 100_000;
/// So many turns must follow each other within that time (twice that while asleep, since waking takes
/// time of its own) before polling begins: a request and its reply are two.
const STREAK: u32 = 8;
/// More clients than this that wait at once give batches: those are worth more than being early.
const FEW: u32 = 4;
/// For so long after more of them waited at once there is no polling: a thousand clients take 25 ms in turn.
const CALM_NANOS: u64 = 100_000_000;

/// One worker's decision.
#[derive(Debug, Default)]
pub(super) struct Spin {
    allowed: bool,
    wakeup: Wakeup,
    spinning: Cell<bool>,
    streak: Cell<u32>,
    last: Cell<u64>,
    busy_until: Cell<u64>,
    /// Clients that wait for a reply.
    waiting: Cell<u32>,
}

impl Spin {
    pub(super) fn new(allowed: bool) -> Self {
        Spin { allowed, ..Spin::default() }
    }

    /// A client's turn has begun, at `now`.
    #[inline]
    pub(super) fn turn(&self, now: u64) {
        let gap = now - self.last.replace(now);
        if self.waiting.get() > FEW {
            self.busy_until.set(now + CALM_NANOS);
        }
        if self.spinning.get() || !self.allowed {
            return;
        }
        let streak = if gap <= 2 * PATIENCE_NANOS { self.streak.get() + 1 } else { 0 };
        self.streak.set(streak);
        if streak >= STREAK && now > self.busy_until.get() {
            self.spinning.set(true);
            self.wakeup.wake();
        }
    }

    /// A client has begun to wait for a reply, or waits for none any more.
    #[inline]
    pub(super) fn waits(&self, waits: bool) {
        let waiting = self.waiting.get();
        self.waiting.set(if waits { waiting + 1 } else { waiting - 1 });
    }
}

impl Worker {
    /// Polls while it pays, for ever.
    pub async fn spin(&self) {
        let Spin { wakeup, spinning, streak, last, busy_until, .. } = &self.spin;
        loop {
            poll_fn(|cx| {
                wakeup.begin(cx);
                if spinning.get() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            loop {
                // Lets every task run that can, then looks at the sockets without waiting.
                yield_now().await;
                let now = self.backend.clock.tick();
                if now > last.get() + PATIENCE_NANOS || now <= busy_until.get() {
                    break;
                }
            }
            spinning.set(false);
            streak.set(0);
        }
    }
}
