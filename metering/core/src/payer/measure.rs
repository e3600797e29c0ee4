//! What the payer itself saw of the service.

use std::time::{Duration, Instant};

use crate::Usage;
use crate::clock::Traffic;

/// Bytes that may always be in flight.
const FLIGHT: u64 = 64 * 1024;
/// Tolerance on bytes: one part in this, 0.5 %.
const BYTES_TOLERANCE: u64 = 200;
/// Tolerance on time.
const TOLERANCE: Duration = Duration::from_secs(1);

/// The payer's own totals.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnMeasure {
    round_trip: Duration,
    /// Echoes further apart mean that there was no service in between. A provider notices a silence of a first slice.
    longest_gap: Duration,
    served: Duration,
    proven_at: Option<Instant>,
    traffic: Traffic,
    /// Largest recent growth between two readings, which are about a second apart.
    peak: u64,
}

impl OwnMeasure {
    pub(super) fn new(usage: &Usage, round_trip: Duration, first_slice: Duration) -> Self {
        Self {
            round_trip,
            longest_gap: first_slice + TOLERANCE,
            served: Duration::from_secs(usage.secs),
            proven_at: None,
            traffic: Traffic::from(usage),
            peak: 0,
        }
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.proven_at = Some(now);
    }

    /// The tunnel carries data at `now`; so it did since the last proof, unless that is too long ago.
    pub(super) fn prove(&mut self, now: Instant) {
        let Some(last) = self.proven_at else { return };
        let gap = now.saturating_duration_since(last);
        if gap <= self.longest_gap {
            self.served += gap;
        }
        self.proven_at = Some(now);
    }

    pub(super) fn counters(&mut self, up: u64, down: u64) {
        let (up, down) = self.traffic.read(up, down);
        let growth = up.saturating_add(down);
        self.peak = growth.max(self.peak - self.peak / 16);
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            secs: self.served.as_secs(),
            bytes_up: self.traffic.up(),
            bytes_down: self.traffic.down(),
        }
    }

    /// Most seconds that are paid for.
    pub(super) fn most_secs(&self) -> u64 {
        (self.served + TOLERANCE).as_secs()
    }

    /// Most bytes, both directions, that are paid for.
    pub(super) fn most_bytes(&self) -> u64 {
        let total = self.traffic.total();
        let flight = u128::from(self.peak) * (1000 + self.round_trip.as_millis()) / 1000;
        total
            .saturating_add(total / BYTES_TOLERANCE)
            .saturating_add(FLIGHT)
            .saturating_add(u64::try_from(flight).unwrap_or(u64::MAX))
    }

    pub(super) fn proven_at(&self) -> Option<Instant> {
        self.proven_at
    }
}
