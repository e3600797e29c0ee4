//! Echoes: numbers that only who receives them can send back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::event::PaymentPath;
use super::exit_check::next_random;

/// Echoes that may be under way at the same time.
const UNDER_WAY: usize = 8;

/// Sends echoes at a steady pace and knows the answers.
#[derive(Debug)]
pub(super) struct Echoes {
    seed: u64,
    path: PaymentPath,
    next: Instant,
    sent: VecDeque<(u64, Instant)>,
}

impl Echoes {
    pub(super) fn new(seed: u64, path: PaymentPath, now: Instant) -> Self {
        Self {
            seed,
            path,
            next: now,
            sent: VecDeque::new(),
        }
    }

    /// When the next one is due; for ever away where receipts take their place.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// The number to send, if it is time.
    pub(super) fn take_due(&mut self, connected: bool, now: Instant) -> Option<u64> {
        if now < self.next {
            return None;
        }
        self.next = now + self.pace(connected);
        if connected && self.path == PaymentPath::Broker {
            return None;
        }
        let number = next_random(&mut self.seed);
        if self.sent.len() == UNDER_WAY {
            self.sent.pop_front();
        }
        self.sent.push_back((number, now));
        Some(number)
    }

    /// The time since `number` was sent; `None` if it never was, or was answered already.
    pub(super) fn answered(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let place = self.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, at) = self.sent.remove(place)?;
        Some(now.saturating_duration_since(at))
    }

    fn pace(&self, connected: bool) -> Duration {
        match (self.path, connected) {
            (PaymentPath::Tunnel, false) => Duration::from_millis(250),
            (PaymentPath::Tunnel, true) | (PaymentPath::Broker, false) => Duration::from_secs(1),
            (PaymentPath::Broker, true) => Duration::from_secs(60),
        }
    }
}
