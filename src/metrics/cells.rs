//! The cells that counts live in. One thread writes a cell, any thread may read it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this: two would lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one, as [`add`](Self::add).
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// The count.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A value that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away, as [`add`](Self::add).
    #[inline]
    pub fn sub(&self, n: i64) {
        self.add(n.wrapping_neg());
    }

    /// Replaces the value. Only the owning thread may call this.
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// The upper border of the first bucket: half of what a round trip through a proxy takes on one machine.
const FIRST_NANOS: u64 = 50_000;
/// Each bucket ends at twice the one before; the last border is 13.1 s.
const BORDERS: usize = 19;

/// Durations, in buckets whose borders double from 50 µs to 13.1 s, and one above.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BORDERS + 1],
    sum_nanos: Counter,
}

impl Histogram {
    /// Counts one duration in nanoseconds. Only the owning thread may call this.
    #[inline]
    pub fn record(&self, nanos: u64) {
        self.buckets[Self::bucket(nanos)].inc();
        self.sum_nanos.add(nanos);
    }

    /// Counts `count` durations, at least one, of `nanos` together, as if they were equal; as [`record`](Self::record).
    pub(super) fn record_all(&self, nanos: u64, count: u64) {
        self.buckets[Self::bucket(nanos / count.max(1))].add(count);
        self.sum_nanos.add(nanos);
    }

    #[inline]
    fn bucket(nanos: u64) -> usize {
        let doublings = u64::BITS - (nanos.saturating_sub(1) / FIRST_NANOS).leading_zeros();
        (doublings as usize).min(BORDERS)
    }

    /// The upper border of each bucket but the last, in seconds.
    pub(super) fn borders() -> impl Iterator<Item = f64> {
        (0..BORDERS).map(|bucket| (FIRST_NANOS << bucket) as f64 / 1e9)
    }

    /// Adds the counts to `buckets` and returns the sum in seconds.
    pub(super) fn sum_into(&self, buckets: &mut [u64; BORDERS + 1]) -> f64 {
        for (total, bucket) in buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.value();
        }
        self.sum_nanos.value() as f64 / 1e9
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::value).sum()
    }

    pub(super) const BUCKETS: usize = BORDERS + 1;
}

const MINUTE_NANOS: u64 = 60_000_000_000;

/// The longest duration of the last one to two minutes.
#[derive(Debug, Default)]
pub(super) struct Longest {
    /// The minute that `current` is of; `before` is of the one before it.
    minute: Gauge,
    current: Gauge,
    before: Gauge,
}

impl Longest {
    /// Notes a duration; `now` and `nanos` are nanoseconds. Only the owning thread may call this.
    pub(super) fn record(&self, now: u64, nanos: u64) {
        let (minute, last) = ((now / MINUTE_NANOS) as i64, self.minute.value());
        if minute != last {
            self.before.set(if minute == last + 1 { self.current.value() } else { 0 });
            self.current.set(0);
            self.minute.set(minute);
        }
        self.current.set(self.current.value().max(nanos as i64));
    }

    /// The longest in nanoseconds, as of `now`; 0 if there was none.
    pub(super) fn value(&self, now: u64) -> i64 {
        match (now / MINUTE_NANOS) as i64 - self.minute.value() {
            ..=0 => self.current.value().max(self.before.value()),
            1 => self.current.value(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_under_the_first_border_that_it_does_not_exceed() {
        let borders: Vec<u64> = Histogram::borders().map(|seconds| (seconds * 1e9).round() as u64).collect();
        assert_eq!((borders[0], borders[BORDERS - 1]), (50_000, 13_107_200_000));
        for nanos in [0, 1, 49_999, 50_000, 50_001, 100_000, 100_001, 999_999_999, 13_107_200_000, u64::MAX] {
            let expected = borders.iter().position(|border| nanos <= *border).unwrap_or(BORDERS);
            assert_eq!(Histogram::bucket(nanos), expected, "{nanos}");
        }
    }

    #[test]
    fn a_histogram_keeps_sum_and_count() {
        let histogram = Histogram::default();
        histogram.record(1_000_000);
        histogram.record(2_000_000_000);
        let mut buckets = [0; Histogram::BUCKETS];
        assert!((histogram.sum_into(&mut buckets) - 2.001).abs() < 1e-9);
        assert_eq!((histogram.count(), buckets.iter().sum::<u64>()), (2, 2));
    }

    #[test]
    fn the_longest_is_of_the_last_one_to_two_minutes() {
        let longest = Longest::default();
        longest.record(1, 700);
        longest.record(2, 300);
        assert_eq!(
            (longest.value(3), longest.value(2 * MINUTE_NANOS - 1), longest.value(2 * MINUTE_NANOS)),
            (700, 700, 0)
        );
        longest.record(MINUTE_NANOS, 500);
        assert_eq!((longest.value(MINUTE_NANOS), longest.value(2 * MINUTE_NANOS)), (700, 500));
        longest.record(9 * MINUTE_NANOS, 1);
        assert_eq!(longest.value(9 * MINUTE_NANOS), 1);
    }
}
