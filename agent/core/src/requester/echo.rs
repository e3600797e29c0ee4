//! Echoes: numbers that only who receives them can send back.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::event::PaymentPath;
use super::exit_check::next_random;

/// Echoes that may be under way at the same time: those of 8 s without an answer.
const UNDER_WAY: usize = 32;
/// How soon an echo that was answered is followed by another.
const PACE: Duration = Duration::from_millis(500);
/// An echo without an answer is followed by another after this, so that a lost packet is no interruption.
const RETRY: Duration = Duration::from_millis(250);

/// Sends two echoes a second, four while none is answered, and knows the answers.
#[derive(Debug)]
pub(crate) struct Echoes {
    seed: u64,
    path: PaymentPath,
    next: Instant,
    last: Instant,
    sent: VecDeque<(u64, Instant)>,
}

impl Echoes {
    pub(crate) fn new(seed: u64, path: PaymentPath, now: Instant) -> Self {
        Self {
            seed,
            path,
            next: now,
            last: now,
            sent: VecDeque::new(),
        }
    }

    /// When the next one is due; for ever away where receipts take their place.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// The number to send, if it is time.
    pub(crate) fn take_due(&mut self, connected: bool, now: Instant) -> Option<u64> {
        if now < self.next {
            return None;
        }
        self.next = now + self.retry(connected);
        self.last = now;
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
    pub(crate) fn answered(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let place = self.sent.iter().position(|(sent, _)| *sent == number)?;
        let (_, at) = self.sent.remove(place)?;
        self.next = self.next.max(self.last + PACE);
        Some(now.saturating_duration_since(at))
    }

    fn retry(&self, connected: bool) -> Duration {
        match (self.path, connected) {
            (PaymentPath::Tunnel, _) => RETRY,
            (PaymentPath::Broker, false) => Duration::from_secs(1),
            (PaymentPath::Broker, true) => Duration::from_secs(60),
        }
    }
}
