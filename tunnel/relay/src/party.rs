//! One side of a relayed lease, at its own socket.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipsx_stun::{Message, Transaction};

use crate::{Pace, Token, mac, tag};

/// How long to wait before saying again where this side is; doubled each time, as each of three datagrams may be lost.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest such wait: NATs forget a mapping that nothing leaves by after half a minute or more.
const KEPT: Duration = Duration::from_secs(20);
/// Challenges that are answered in a second: whoever sends others in the relay's name keeps nobody busy.
const ANSWERS: u64 = 8;

/// Shows a relay where this side is, and that it is still there.
#[derive(Debug)]
pub struct Party {
    relay: SocketAddr,
    token: Token,
    /// When to say it next, and how long to wait after it.
    next: (Instant, Duration),
    answers: Pace,
}

impl Party {
    /// The side that this token was given to, which has not shown itself yet.
    pub fn new(relay: SocketAddr, token: Token, now: Instant) -> Self {
        Self {
            relay,
            token,
            next: (now, FIRST_WAIT),
            answers: Pace::new(ANSWERS, now),
        }
    }

    /// The lease's port.
    pub fn relay(&self) -> SocketAddr {
        self.relay
    }

    /// Whether it is this side of this port.
    pub fn is(&self, relay: SocketAddr, token: Token) -> bool {
        self.relay == relay && self.token == token
    }

    /// Takes a STUN message that came to the socket; what it is answered with, to the relay, if it is a challenge.
    pub fn handle_message(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        if from != self.relay {
            return None;
        }
        let (Message::Indication, challenge) = Message::parse(message)? else {
            return None;
        };
        if !self.answers.take(1, now) {
            return None;
        }
        let proof = Transaction(tag(mac(&self.token.0, &challenge.0)));
        Some(Message::Indication.write(proof))
    }

    /// What to send to the relay, if it is time. `draw` is random, and asked only then.
    pub fn handle_timeout(
        &mut self,
        draw: impl FnOnce() -> [u8; 12],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let (at, wait) = self.next;
        if at > now {
            return None;
        }
        self.next = (now + wait, (wait * 2).min(KEPT));
        Some(Message::Request.write(Transaction(draw())))
    }

    /// When [`Self::handle_timeout`] has something to send.
    pub fn poll_timeout(&self) -> Instant {
        self.next.0
    }
}
