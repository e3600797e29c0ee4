// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.
//! How much of a kind of work fits a time, without a look at the clock for each piece.

use std::time::{Duration, Instant};

/// One cycle in so many is measured.
const SAMPLING_INTERVAL: u16 = 256;

/// Bounds the work of a cycle by a time.
///
/// In a few cycles it measures what an item of work takes, smoothed over the cycles that it measures; in the others it
/// only counts. Items should all take about as long.
#[derive(Debug)]
pub(crate) struct WorkLimiter {
    /// How long a cycle should take.
    cycle_time: Duration,
    /// When this cycle began, if it is measured.
    measured_since: Option<Instant>,
    cycle: u16,
    /// Items done in this cycle.
    completed: usize,
    /// Items of a cycle that is not measured; 0 until one was.
    allowed: usize,
    /// What an item takes, in nanoseconds, at least 1.
    item_nanos: u128,
}

impl WorkLimiter {
    pub(crate) fn new(cycle_time: Duration) -> Self {
        Self {
            cycle_time,
            measured_since: None,
            cycle: 0,
            completed: 0,
            allowed: 0,
            item_nanos: 1,
        }
    }

    /// Begins a cycle.
    pub(crate) fn start_cycle(&mut self, now: impl Fn() -> Instant) {
        self.completed = 0;
        let measured = self.cycle.is_multiple_of(SAMPLING_INTERVAL);
        self.measured_since = measured.then(now);
    }

    /// Whether the cycle has time for more.
    pub(crate) fn allow_work(&self, now: impl Fn() -> Instant) -> bool {
        match self.measured_since {
            Some(since) => now() - since < self.cycle_time,
            None => self.completed < self.allowed,
        }
    }

    /// Counts items that were done in this cycle.
    pub(crate) fn record_work(&mut self, items: usize) {
        self.completed += items;
    }

    /// Ends a cycle. One without work says nothing and does not count.
    pub(crate) fn finish_cycle(&mut self, now: impl Fn() -> Instant) {
        if self.completed == 0 {
            return;
        }
        if let Some(since) = self.measured_since.take() {
            let nanos = (now() - since).as_nanos() / self.completed as u128;
            // As QUIC smooths round trips (RFC 9002 §5.3).
            let smoothed = match self.allowed {
                0 => nanos,
                _ => (7 * self.item_nanos + nanos) / 8,
            };
            self.item_nanos = smoothed.max(1);
            let allowed = self.cycle_time.as_nanos() / self.item_nanos;
            // There has to be progress.
            self.allowed = usize::try_from(allowed).unwrap_or(usize::MAX).max(1);
        }
        self.cycle = self.cycle.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const CYCLE: Duration = Duration::from_millis(500);
    const BATCH: Duration = Duration::from_millis(100);

    /// Batches of `items` items, each of [`BATCH`], until the cycle's time is up.
    fn full_cycle(limiter: &mut WorkLimiter, clock: &Cell<Instant>, items: usize) -> usize {
        let now = || clock.get();
        limiter.start_cycle(now);
        let mut batches = 0;
        while limiter.allow_work(now) {
            limiter.record_work(items);
            clock.set(clock.get() + BATCH);
            batches += 1;
        }
        limiter.finish_cycle(now);
        batches
    }

    #[test]
    fn what_was_measured_once_bounds_the_cycles_until_it_is_measured_again() {
        let mut limiter = WorkLimiter::new(CYCLE);
        let clock = Cell::new(crate::now());
        assert_eq!(full_cycle(&mut limiter, &clock, 12), 5);
        assert_eq!(limiter.allowed, 60);

        // Counted, by items of any batch; and cycles without work change nothing.
        for items in [1, 2, 3, 5] {
            assert_eq!(full_cycle(&mut limiter, &clock, items), 60 / items);
            limiter.start_cycle(|| clock.get());
            limiter.finish_cycle(|| clock.get());
        }
        for _ in 5..SAMPLING_INTERVAL {
            limiter.start_cycle(|| clock.get());
            limiter.record_work(1);
            limiter.finish_cycle(|| clock.get());
        }

        // Measured anew: items take an eighth of what they took, which counts for an eighth.
        let before = limiter.item_nanos;
        assert_eq!(full_cycle(&mut limiter, &clock, 96), 5);
        let expected = (7 * before + BATCH.as_nanos() / 96) / 8;
        assert_eq!(limiter.item_nanos, expected);
        assert_eq!(limiter.allowed as u128, CYCLE.as_nanos() / expected);
        assert!(limiter.allowed > 60);
    }
}
