//! How soon a shard serves through the proxy after it serves at all.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{KillPrimary, Kind};
use crate::{
    conn::{Conn, PATIENCE},
    journal::Ms,
    keys::key,
    run::Run,
    support::Value,
    world::World,
};

/// How long after the new primary's first `+OK` a write through the proxy may take.
const BACK_WITHIN: Ms = 1000;
/// A thread that sleeps this much longer than it wanted to is on a machine that is too busy to judge by.
const BUSY: Ms = 100;
/// What was broken besides so shortly before the new primary's first `+OK` may slow the proxy.
const BESIDES: Ms = 500;
const PAUSE: Duration = Duration::from_millis(2);

/// Two clients that write all the time, one at the node that will be the primary and one at the proxy.
pub struct Watch {
    shared: Arc<Shared>,
    threads: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// The first `+OK` of the node, and the first one of the proxy behind it.
    direct: OnceLock<Instant>,
    proxied: OnceLock<Instant>,
    /// The longest that a thread overslept between them, in the time that the proxy has for it.
    overslept: AtomicU32,
}

impl Watch {
    pub fn begin(run: &Run, world: &World, shard: usize, replica: usize) -> Option<Self> {
        let tag = world.tags_of(shard).first().copied()?;
        let shared = Arc::new(Shared::default());
        let (node, proxy) = (world.addr(replica), run.listener(0));
        let [one, other] = [shared.clone(), shared.clone()];
        let direct = thread::spawn(move || {
            one.write(&node, &key(tag, "direct"), || one.direct.set(Instant::now()).is_ok());
            one.sleep_until_served();
        });
        let proxied = thread::spawn(move || {
            other.write(&proxy, &key(tag, "proxied"), || {
                other.direct.get().is_some() && other.proxied.set(Instant::now()).is_ok()
            });
        });
        Some(Self { shared, threads: [direct, proxied] })
    }

    /// The node that was away is back: what was seen meanwhile. `window` is that of the node.
    pub fn end(self, run: &Run, kind: Kind, window: usize) {
        let Self { shared, threads } = self;
        shared.over.store(true, Ordering::Release);
        let now = Instant::now();
        threads.into_iter().for_each(|thread| _ = thread.join());
        let Some(&direct) = shared.direct.get() else { return };
        // Without any it has lasted until now at least.
        let proxied = shared.proxied.get().copied().unwrap_or(now);
        let late = proxied.saturating_duration_since(direct).as_millis() as Ms;
        let journal = &run.journal;
        journal
            .most(&format!("ms at most behind the first answer of a new primary after {kind}"), late.into());
        if kind != KillPrimary {
            return;
        }
        let at = journal.at(direct);
        // What was broken or slept after that second is no excuse.
        let judged = late.min(BACK_WITHIN);
        let busy = shared.overslept.load(Ordering::Relaxed) > BUSY;
        if busy || journal.is_broken_besides(window, at.saturating_sub(BESIDES), at + judged) {
            return journal.count("takeovers after kill, not judged: busy, or more was broken", 1);
        }
        journal.count("takeovers after kill, judged", 1);
        if late > BACK_WITHIN {
            let what = format!("writes were taken {late} ms after the new primary's first +OK at {at}");
            journal.fault("late", what, String::new());
        }
    }
}

impl Shared {
    /// Writes again and again until it counts.
    fn write(&self, addr: &str, key: &str, counts: impl Fn() -> bool) {
        let mut conn = None;
        while !self.over.load(Ordering::Acquire) {
            if let Some(mut open) = conn.take().or_else(|| Conn::connect(addr, PATIENCE).ok())
                && let Ok(reply) = open.cmd(&["SET", key, "x"])
            {
                if reply == Value::ok() && counts() {
                    return;
                }
                conn = Some(open);
            }
            thread::sleep(PAUSE);
        }
    }

    fn sleep_until_served(&self) {
        let end = Instant::now() + Duration::from_millis(BACK_WITHIN.into());
        while self.proxied.get().is_none() && !self.over.load(Ordering::Acquire) {
            let before = Instant::now();
            if before > end {
                return;
            }
            thread::sleep(PAUSE);
            self.overslept
                .fetch_max(before.elapsed().saturating_sub(PAUSE).as_millis() as Ms, Ordering::Relaxed);
        }
    }
}
