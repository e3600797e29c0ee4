//! Seconds of service, and traffic totals that survive a restart.

use std::time::{Duration, Instant};

use crate::Usage;

/// A stopwatch over service time; stands still while on hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceClock {
    served: Duration,
    running_since: Option<Instant>,
}

impl ServiceClock {
    /// Stands at `secs`.
    pub(crate) fn at(secs: u64) -> Self {
        Self {
            served: Duration::from_secs(secs),
            running_since: None,
        }
    }

    /// Service time until `now`.
    pub(crate) fn elapsed(&self, now: Instant) -> Duration {
        self.running_since.map_or(self.served, |since| {
            self.served + now.saturating_duration_since(since)
        })
    }

    /// When the service time will be `elapsed`, if it runs on; `None` while it stands still.
    pub(crate) fn instant_of(&self, elapsed: Duration) -> Option<Instant> {
        let since = self.running_since?;
        since.checked_add(elapsed.saturating_sub(self.served))
    }

    /// Starts, or runs on.
    pub(crate) fn run(&mut self, now: Instant) {
        self.running_since.get_or_insert(now);
    }

    /// Stops, as of `at`, which may lie in the past.
    pub(crate) fn stop(&mut self, at: Instant) {
        self.served = self.elapsed(at);
        self.running_since = None;
    }

    /// Takes `time` back.
    pub(crate) fn forgive(&mut self, time: Duration) {
        self.served = self.served.saturating_sub(time);
    }
}

/// Bytes of a lease, from counters that start at zero with the tunnel's peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    before: (u64, u64),
    latest: (u64, u64),
}

impl Traffic {
    /// Goes on from `usage`.
    pub(crate) fn from(usage: &Usage) -> Self {
        Self {
            before: (usage.bytes_up, usage.bytes_down),
            latest: (0, 0),
        }
    }

    /// Takes the counters' new values; smaller ones mean that the peer was made anew. Returns the growth.
    pub(crate) fn read(&mut self, up: u64, down: u64) -> (u64, u64) {
        if up < self.latest.0 || down < self.latest.1 {
            self.before = (self.up(), self.down());
            self.latest = (0, 0);
        }
        let growth = (up - self.latest.0, down - self.latest.1);
        self.latest = (up, down);
        growth
    }

    /// Bytes from requester to provider.
    pub(crate) fn up(&self) -> u64 {
        self.before.0.saturating_add(self.latest.0)
    }

    /// Bytes from provider to requester.
    pub(crate) fn down(&self) -> u64 {
        self.before.1.saturating_add(self.latest.1)
    }

    /// Bytes in both directions.
    pub(crate) fn total(&self) -> u64 {
        self.up().saturating_add(self.down())
    }
}
