//! What a NAT shows of the device's socket, as a reflector sees it, and tokens that reach the socket from there.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ipsx_stun::{Message, Transaction};

use crate::gate::Bucket;

/// How long to wait for an answer before asking again; doubled each time (RFC 8489 §6.2.1).
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// How often is asked while answers come: NATs forget a mapping that nothing leaves by after half a minute or more.
const KEPT: Duration = Duration::from_secs(20);
/// Tokens that are heard in a second, and at once: whoever sends others in the reflector's name keeps nobody busy.
const TOKENS: (u64, u64) = (1, 8);

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reflected {
    /// From outside, the socket has this address and port now.
    Mapped(SocketAddr),
    /// A token that nobody here has asked for.
    Token(u64),
}

/// Asks one reflector, from the device's socket.
#[derive(Debug)]
pub struct Reflection {
    reflector: SocketAddr,
    /// When to ask next, and how long to wait after it; none while nobody wants to know.
    next: Option<(Instant, Duration)>,
    /// The question that is not answered yet.
    asked: Option<Transaction>,
    tokens: Bucket,
}

impl Reflection {
    /// Hears tokens from the reflector's address, and asks it if it is to.
    pub fn new(reflector: SocketAddr, asks: bool, now: Instant) -> Self {
        Self {
            reflector,
            next: asks.then_some((now, FIRST_RETRY)),
            asked: None,
            tokens: Bucket::new(TOKENS.0, TOKENS.1, now),
        }
    }

    /// Takes a STUN message that came to the socket.
    pub fn handle_message(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        now: Instant,
    ) -> Option<Reflected> {
        if from.ip() != self.reflector.ip() {
            return None;
        }
        match Message::parse(message)? {
            (Message::Mapped(mapped), transaction)
                if from == self.reflector && self.asked == Some(transaction) =>
            {
                self.asked = None;
                self.next = self.next.map(|_| (now + KEPT, FIRST_RETRY));
                Some(Reflected::Mapped(mapped))
            }
            // From another port of its: what reaches this one comes through no mapping that asking has made.
            (Message::Indication, transaction) if self.tokens.take(1, now) => {
                Some(Reflected::Token(transaction.token()))
            }
            _ => None,
        }
    }

    /// The question to send, and to whom, if it is time. `draw` is random, and asked only then.
    pub fn handle_timeout(
        &mut self,
        draw: impl FnOnce() -> [u8; 12],
        now: Instant,
    ) -> Option<(SocketAddr, Vec<u8>)> {
        let (at, wait) = self.next?;
        if at > now {
            return None;
        }
        let transaction = Transaction(draw());
        self.asked = Some(transaction);
        self.next = Some((now + wait, (wait * 2).min(KEPT)));
        Some((self.reflector, Message::Request.write(transaction)))
    }

    /// When [`Self::handle_timeout`] has something to send.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, clippy::unwrap_used)]
    use super::*;

    const SEEN: &str = "203.0.113.9:40123";

    fn reflector() -> SocketAddr {
        "192.0.2.1:8483".parse().unwrap()
    }

    fn answer(question: &[u8], mapped: &str) -> Vec<u8> {
        let (message, transaction) = Message::parse(question).unwrap();
        assert_eq!(message, Message::Request);
        Message::Mapped(mapped.parse().unwrap()).write(transaction)
    }

    fn ask(reflection: &mut Reflection, draw: u8, now: Instant) -> Vec<u8> {
        let (to, question) = reflection.handle_timeout(|| [draw; 12], now).unwrap();
        assert_eq!(to, reflector());
        question
    }

    #[test]
    fn it_asks_until_it_is_answered_and_then_keeps_the_mapping() {
        let mut now = Instant::now();
        let mut reflection = Reflection::new(reflector(), true, now);
        let mut waits = Vec::new();
        for draw in 0..8 {
            ask(&mut reflection, draw, now);
            let next = reflection.poll_timeout().unwrap();
            waits.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(
            waits,
            [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]
        );
        let question = ask(&mut reflection, 9, now);
        let heard = reflection.handle_message(reflector(), &answer(&question, SEEN), now);
        assert_eq!(heard, Some(Reflected::Mapped(SEEN.parse().unwrap())));
        assert_eq!(reflection.poll_timeout(), Some(now + KEPT));
        now += KEPT;
        let question = ask(&mut reflection, 11, now);
        let other = "203.0.113.9:40124";
        let heard = reflection.handle_message(reflector(), &answer(&question, other), now);
        assert_eq!(heard, Some(Reflected::Mapped(other.parse().unwrap())));
    }

    #[test]
    fn only_the_reflectors_answer_to_the_last_question_counts() {
        let now = Instant::now();
        let mut reflection = Reflection::new(reflector(), true, now);
        let question = ask(&mut reflection, 1, now);
        let good = answer(&question, SEEN);
        let forged = Message::Mapped(SEEN.parse().unwrap()).write(Transaction([2; 12]));
        let elsewhere = "192.0.2.1:8484".parse().unwrap();
        let stranger = "198.51.100.1:8483".parse().unwrap();
        for (from, message) in [
            (reflector(), &forged),
            (elsewhere, &good),
            (stranger, &good),
        ] {
            assert_eq!(reflection.handle_message(from, message, now), None);
        }
        assert!(reflection.handle_message(reflector(), &good, now).is_some());
        let again = reflection.handle_message(reflector(), &good, now);
        assert_eq!(again, None, "an answer counts once");
    }

    #[test]
    fn tokens_are_heard_from_the_reflectors_address_and_not_too_many() {
        let now = Instant::now();
        let mut reflection = Reflection::new(reflector(), false, now);
        assert_eq!(reflection.poll_timeout(), None, "nobody wants to know");
        let token = Message::Indication.write(Transaction::from(7));
        let prober = "192.0.2.1:50000".parse().unwrap();
        let stranger = "198.51.100.1:50000".parse().unwrap();
        assert_eq!(reflection.handle_message(stranger, &token, now), None);
        let heard = (0..100).filter_map(|_| reflection.handle_message(prober, &token, now));
        assert_eq!(heard.collect::<Vec<_>>(), [Reflected::Token(7); 8]);
        let later = now + Duration::from_secs(1);
        assert!(reflection.handle_message(prober, &token, later).is_some());
    }
}
