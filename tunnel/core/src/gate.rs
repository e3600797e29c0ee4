//! Whether a peer's data passes.

use std::time::{Duration, Instant};

const NANOS: u128 = 1_000_000_000;

/// What a peer's data packets may do. Handshakes, keepalives and control datagrams pass every gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gate {
    /// No data in either direction.
    #[default]
    Closed,
    /// Data at any rate.
    Open,
    /// Data up to a rate, in each direction by itself.
    Throttled {
        /// Inner IP bytes per second and direction.
        bytes_per_second: u64,
    },
}

/// Token bucket: lets `rate` units per second pass, in bursts of at most `capacity`.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: u64,
    capacity: u64,
    /// Units times 10⁹, so that slow rates refill exactly.
    level: u128,
    filled_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: u64, capacity: u64, now: Instant) -> Self {
        Self {
            rate,
            capacity,
            level: u128::from(capacity) * NANOS,
            filled_at: now,
        }
    }

    /// Takes `amount` units if they are there.
    pub fn take(&mut self, amount: u64, now: Instant) -> bool {
        self.refill(now);
        match self.level.checked_sub(u128::from(amount) * NANOS) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed: Duration = now.saturating_duration_since(self.filled_at);
        if elapsed.is_zero() {
            return;
        }
        self.filled_at = now;
        let gained = elapsed.as_nanos().saturating_mul(u128::from(self.rate));
        self.level = self
            .level
            .saturating_add(gained)
            .min(u128::from(self.capacity) * NANOS);
    }
}

/// A gate together with the buckets that enforce it.
#[derive(Debug)]
pub(crate) struct GateKeeper {
    gate: Gate,
    inbound: Option<Bucket>,
    outbound: Option<Bucket>,
}

/// Why a gate did not let a packet pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Closed,
    Throttled,
}

impl GateKeeper {
    pub(crate) fn new(gate: Gate, now: Instant) -> Self {
        let bucket = match gate {
            Gate::Throttled { bytes_per_second } => {
                Some(Bucket::new(bytes_per_second, burst(bytes_per_second), now))
            }
            Gate::Closed | Gate::Open => None,
        };
        Self {
            gate,
            inbound: bucket.clone(),
            outbound: bucket,
        }
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    pub(crate) fn pass_inbound(&mut self, bytes: usize, now: Instant) -> Result<(), Refused> {
        pass(self.gate, self.inbound.as_mut(), bytes, now)
    }

    pub(crate) fn pass_outbound(&mut self, bytes: usize, now: Instant) -> Result<(), Refused> {
        pass(self.gate, self.outbound.as_mut(), bytes, now)
    }
}

fn pass(
    gate: Gate,
    bucket: Option<&mut Bucket>,
    bytes: usize,
    now: Instant,
) -> Result<(), Refused> {
    match (gate, bucket) {
        (Gate::Closed, _) => Err(Refused::Closed),
        (Gate::Throttled { .. }, Some(bucket)) => {
            if bucket.take(bytes as u64, now) {
                Ok(())
            } else {
                Err(Refused::Throttled)
            }
        }
        _ => Ok(()),
    }
}

/// A quarter of a second, but never less than two full packets: a smaller burst would pass nothing at all.
fn burst(bytes_per_second: u64) -> u64 {
    (bytes_per_second / 4).max(2 * crate::INNER_MTU as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn closed_passes_nothing_and_open_everything() {
        let now = Instant::now();
        let mut closed = GateKeeper::new(Gate::Closed, now);
        assert_eq!(closed.pass_inbound(1, now), Err(Refused::Closed));
        assert_eq!(closed.pass_outbound(1, now), Err(Refused::Closed));
        let mut open = GateKeeper::new(Gate::Open, now);
        for _ in 0..10_000 {
            assert_eq!(open.pass_inbound(1420, now), Ok(()));
        }
    }

    #[test]
    fn directions_are_throttled_apart() {
        let now = Instant::now();
        let mut keeper = GateKeeper::new(
            Gate::Throttled {
                bytes_per_second: 1000,
            },
            now,
        );
        assert_eq!(keeper.pass_inbound(2840, now), Ok(()));
        assert_eq!(keeper.pass_inbound(1, now), Err(Refused::Throttled));
        assert_eq!(keeper.pass_outbound(2840, now), Ok(()));
        assert_eq!(
            keeper.pass_inbound(1, now + Duration::from_millis(1)),
            Ok(())
        );
    }

    proptest! {
        #[test]
        fn never_passes_more_than_rate_and_burst(
            rate in 1u64..10_000_000,
            capacity in 1u64..1_000_000,
            steps in proptest::collection::vec((0u64..50_000, 0u64..2_000), 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate, capacity, start);
            let mut now = start;
            let mut passed = 0u128;
            for (micros, amount) in steps {
                now += Duration::from_micros(micros);
                if bucket.take(amount, now) {
                    passed += u128::from(amount);
                }
            }
            let allowed = u128::from(capacity) + (now - start).as_nanos() * u128::from(rate) / NANOS + 1;
            prop_assert!(passed <= allowed, "{passed} > {allowed}");
        }

        #[test]
        fn a_steady_flow_below_the_rate_always_passes(rate in 1_000u64..1_000_000) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate, 2_000, start);
            for step in 1..100u64 {
                prop_assert!(bucket.take(rate / 1_000, start + Duration::from_millis(step)));
            }
        }
    }
}
