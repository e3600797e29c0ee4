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

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, clippy::unwrap_used)]
    use super::*;

    /// Milliseconds at which echoes leave within `until`, if each is answered after `answer`.
    fn sent(until: u64, answer: Option<u64>) -> Vec<u64> {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut echoes = Echoes::new(1, PaymentPath::Tunnel, start);
        let (mut sent, mut under_way) = (Vec::new(), VecDeque::new());
        for millis in (0..until).step_by(10) {
            if let Some(number) = echoes.take_due(true, at(millis)) {
                sent.push(millis);
                under_way.extend(answer.map(|after| (millis + after, number)));
            }
            while let Some((_, number)) = under_way.pop_front_if(|(due, _)| *due <= millis) {
                assert_eq!(
                    echoes.answered(number, at(millis)),
                    answer.map(Duration::from_millis)
                );
                assert_eq!(echoes.answered(number, at(millis)), None, "answered twice");
            }
        }
        sent
    }

    #[test]
    fn two_a_second_and_four_without_an_answer() {
        assert_eq!(sent(1_600, Some(50)), [0, 500, 1_000, 1_500]);
        assert_eq!(sent(1_100, None), [0, 250, 500, 750, 1_000]);
        // An answer that takes longer than the next echo is one all the same, over the slowest links as well.
        assert!(sent(20_000, Some(7_000)).len() > 40);
    }
}
