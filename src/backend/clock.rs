//! The time, read once a turn instead of once a request.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Nanoseconds since the process began, as of the last [`Clock::tick`].
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    now: Cell<u64>,
}

impl Clock {
    /// A clock that counts from `start`.
    pub fn since(start: Instant) -> Self {
        Clock { start, now: Cell::new(0) }
    }

    /// Reads the time.
    #[inline]
    pub fn tick(&self) -> u64 {
        self.now.set(self.start.elapsed().as_nanos() as u64);
        self.now.get()
    }

    /// The time as it was read last.
    #[inline]
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// What `nanos` of this clock are for everybody else.
    pub fn instant(&self, nanos: u64) -> Instant {
        self.start + Duration::from_nanos(nanos)
    }
}
