//! A rate that is not passed.

use std::time::{Duration, Instant};

/// How much may come at once, as time at the full rate: a flow between two ends takes a rate with less than this for a very
/// low one.
const AT_ONCE: Duration = Duration::from_millis(250);

/// Lets so many units a second pass, and a quarter of a second's at once.
#[derive(Clone, Debug)]
pub struct Pace {
    per_second: u64,
    /// When all that has passed would have passed at the full rate.
    passed_at: Instant,
}

impl Pace {
    /// A pace at which nothing has passed yet; of zero it is one.
    pub fn new(per_second: u64, now: Instant) -> Self {
        Self {
            per_second: per_second.max(1),
            passed_at: now,
        }
    }

    /// Whether so many units more may pass; if so, they have. The last ones may pass in part before their time.
    pub fn take(&mut self, units: usize, now: Instant) -> bool {
        let from = self.passed_at.max(now);
        if from.saturating_duration_since(now) >= AT_ONCE {
            return false;
        }
        let nanos = (units as u64).saturating_mul(1_000_000_000) / self.per_second;
        self.passed_at = from + Duration::from_nanos(nanos);
        true
    }
}
