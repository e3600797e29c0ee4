//! Points in time, as the caller tells them.

use core::ops;
pub use core::time::Duration;

/// A point in time, as microseconds since one that the caller chose.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant {
    micros: i64,
}

impl Instant {
    /// The start.
    pub const ZERO: Instant = Instant { micros: 0 };

    /// The point this many microseconds after the start.
    pub const fn from_micros(micros: i64) -> Instant {
        Instant { micros }
    }

    /// The point this many milliseconds after the start.
    pub const fn from_millis(millis: i64) -> Instant {
        Instant {
            micros: millis * 1000,
        }
    }

    /// The point this many seconds after the start.
    pub const fn from_secs(secs: i64) -> Instant {
        Instant {
            micros: secs * 1_000_000,
        }
    }

    /// Microseconds since the start.
    pub const fn total_micros(self) -> i64 {
        self.micros
    }
}

impl ops::Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, rhs: Duration) -> Instant {
        Instant::from_micros(self.micros + rhs.as_micros() as i64)
    }
}

impl ops::Sub<Instant> for Instant {
    type Output = Duration;

    fn sub(self, rhs: Instant) -> Duration {
        Duration::from_micros((self.micros - rhs.micros).unsigned_abs())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn test_instant_ops() {
        assert_eq!(
            Instant::from_millis(4) + Duration::from_millis(6),
            Instant::from_millis(10)
        );
        assert_eq!(
            Instant::from_secs(7) - Instant::from_millis(5),
            Duration::from_millis(6_995)
        );
        assert_eq!(Instant::from_micros(-3).total_micros(), -3);
    }
}
