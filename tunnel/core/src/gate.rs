//! Whether a peer's data passes.

use std::time::{Duration, Instant};

use crate::device::Side;

const NANOS: u128 = 1_000_000_000;

/// What a peer's data packets may do. Handshakes, keepalives and control datagrams pass every gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gate {
    /// No data in either direction.
    #[default]
    Closed,
    /// Data at any rate.
    Open,
    /// Data within limits.
    Limited(Limits),
}

impl Gate {
    /// Data up to this many inner IP bytes per second, in each direction by itself.
    pub const fn throttled(bytes_per_second: u64) -> Self {
        Self::Limited(Limits {
            rates: Rates {
                up: bytes_per_second,
                down: bytes_per_second,
            },
            byte_limit: u64::MAX,
        })
    }
}

/// Limits of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most in each direction.
    pub rates: Rates,
    /// Usage, both directions added up, that is never passed: a packet that would is refused. `u64::MAX` for no limit.
    pub byte_limit: u64,
}

/// Inner IP bytes per second, seen from the one who uses the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// From the client towards the internet.
    pub up: u64,
    /// From the internet towards the client.
    pub down: u64,
}

impl Rates {
    /// No limit in either direction.
    pub const UNLIMITED: Self = Self {
        up: u64::MAX,
        down: u64::MAX,
    };

    /// These rates in the directions of a device: what comes from its peer, and what goes to it.
    pub(crate) fn of(self, side: Side) -> (u64, u64) {
        match side {
            Side::Provider => (self.up, self.down),
            Side::Client { .. } | Side::Bare => (self.down, self.up),
        }
    }
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
        let holds = self.level(now) >= amount;
        if holds {
            self.level -= u128::from(amount) * NANOS;
        }
        holds
    }

    /// How many whole units could be taken.
    pub fn level(&mut self, now: Instant) -> u64 {
        self.refill(now);
        u64::try_from(self.level / NANOS).unwrap_or(u64::MAX)
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
    Credit,
    Capacity,
}

/// Where a packet goes, seen from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

impl GateKeeper {
    pub(crate) fn new(gate: Gate, side: Side, now: Instant) -> Self {
        let (inbound, outbound) = match gate {
            Gate::Limited(limits) => {
                let (inbound, outbound) = limits.rates.of(side);
                (bucket(inbound, now), bucket(outbound, now))
            }
            Gate::Closed | Gate::Open => (None, None),
        };
        Self {
            gate,
            inbound,
            outbound,
        }
    }

    /// Another gate. At the same rates the buckets stay as full as they are.
    pub(crate) fn set(&mut self, gate: Gate, side: Side, now: Instant) {
        match (self.gate, gate) {
            (Gate::Limited(old), Gate::Limited(new)) if old.rates == new.rates => self.gate = gate,
            _ if self.gate == gate => {}
            _ => *self = Self::new(gate, side, now),
        }
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    /// Lets a packet of `bytes` pass, or says why not. `used` is what has passed so far, and `share` the peer's part
    /// of what the device carries in this direction. A refused packet takes nothing from either.
    pub(crate) fn pass(
        &mut self,
        direction: Direction,
        bytes: usize,
        used: u64,
        share: impl FnOnce(u64) -> bool,
        now: Instant,
    ) -> Result<(), Refused> {
        let bytes = bytes as u64;
        self.afford(bytes, used)?;
        let mut bucket = self.bucket(direction);
        if let Some(bucket) = &mut bucket
            && bucket.level(now) < bytes
        {
            return Err(Refused::Throttled);
        }
        if !share(bytes) {
            return Err(Refused::Capacity);
        }
        if let Some(bucket) = bucket {
            bucket.take(bytes, now);
        }
        Ok(())
    }

    /// Whether a packet of `bytes` may pass as far as rates don't matter: those are asked once, also for a packet that
    /// has to wait.
    pub(crate) fn afford(&self, bytes: u64, used: u64) -> Result<(), Refused> {
        match self.gate {
            Gate::Closed => Err(Refused::Closed),
            Gate::Limited(limits) if used.saturating_add(bytes) > limits.byte_limit => {
                Err(Refused::Credit)
            }
            Gate::Open | Gate::Limited(_) => Ok(()),
        }
    }

    /// Bytes that the peer's own bucket would let pass at once.
    pub(crate) fn room(&mut self, direction: Direction, now: Instant) -> u64 {
        self.bucket(direction)
            .map_or(u64::MAX, |bucket| bucket.level(now))
    }

    fn bucket(&mut self, direction: Direction) -> Option<&mut Bucket> {
        match direction {
            Direction::Inbound => self.inbound.as_mut(),
            Direction::Outbound => self.outbound.as_mut(),
        }
    }
}

fn bucket(rate: u64, now: Instant) -> Option<Bucket> {
    (rate != u64::MAX).then(|| Bucket::new(rate, burst(rate), now))
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

    fn pass(
        keeper: &mut GateKeeper,
        direction: Direction,
        bytes: usize,
        used: u64,
        now: Instant,
    ) -> Result<(), Refused> {
        keeper.pass(direction, bytes, used, |_| true, now)
    }

    #[test]
    fn closed_passes_nothing_and_open_everything() {
        let now = Instant::now();
        let mut closed = GateKeeper::new(Gate::Closed, Side::Provider, now);
        for direction in [Direction::Inbound, Direction::Outbound] {
            assert_eq!(
                pass(&mut closed, direction, 1, 0, now),
                Err(Refused::Closed)
            );
        }
        let mut open = GateKeeper::new(Gate::Open, Side::Provider, now);
        for _ in 0..10_000 {
            assert_eq!(pass(&mut open, Direction::Inbound, 1420, 0, now), Ok(()));
        }
    }

    #[test]
    fn directions_are_throttled_apart() {
        let now = Instant::now();
        let limits = Limits {
            rates: Rates {
                up: 1_000,
                down: 100_000,
            },
            byte_limit: u64::MAX,
        };
        let mut keeper = GateKeeper::new(Gate::Limited(limits), Side::Provider, now);
        let inbound = Direction::Inbound;
        assert_eq!(pass(&mut keeper, inbound, 2840, 0, now), Ok(()));
        assert_eq!(
            pass(&mut keeper, inbound, 1, 0, now),
            Err(Refused::Throttled)
        );
        assert_eq!(
            pass(&mut keeper, Direction::Outbound, 25_000, 0, now),
            Ok(())
        );
        let later = now + Duration::from_millis(1);
        assert_eq!(pass(&mut keeper, inbound, 1, 0, later), Ok(()));
        // The other end calls the same directions by the other names.
        let client = Side::Client {
            inner_v4: [10, 0, 0, 2].into(),
        };
        let mut keeper = GateKeeper::new(Gate::Limited(limits), client, now);
        assert_eq!(pass(&mut keeper, inbound, 25_000, 0, now), Ok(()));
    }

    #[test]
    fn a_packet_past_the_byte_limit_takes_nothing_with_it() {
        let now = Instant::now();
        let limits = Limits {
            rates: Rates {
                up: 10,
                down: u64::MAX,
            },
            byte_limit: 1_000,
        };
        let mut keeper = GateKeeper::new(Gate::Limited(limits), Side::Provider, now);
        let inbound = Direction::Inbound;
        assert_eq!(
            pass(&mut keeper, inbound, 501, 500, now),
            Err(Refused::Credit)
        );
        assert_eq!(pass(&mut keeper, inbound, 500, 500, now), Ok(()));
        // Neither does one that the other limit refuses.
        let refused = keeper.pass(inbound, 1_000, 0, |_| false, now);
        assert_eq!(refused, Err(Refused::Capacity));
        assert_eq!(keeper.room(inbound, now), 2 * 1420 - 500);
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
