//! A relay's port, which is one lease's.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hmac::Mac;
use ipsx_stun::{Message, Transaction, is_stun};

use crate::{Pace, TAG, Token, mac, tag};

/// How long a challenge counts at least, and half of how long at most, in seconds.
const CHALLENGE: u64 = 30;
/// Challenges in a second, none of which is longer than what asked for it.
const CHALLENGES: u64 = 200;
/// A port that nothing was passed on by for so long is given up: keepalives alone are more frequent.
const IDLE: Duration = Duration::from_secs(180);
/// The longest challenge's input: an address, a port, a time.
const INPUT: usize = 16 + 2 + 8;

/// Who is relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who leases.
    Requester,
    /// Who lends.
    Provider,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Requester, Self::Provider];

    fn other(self) -> Self {
        match self {
            Self::Requester => Self::Provider,
            Self::Provider => Self::Requester,
        }
    }
}

/// What becomes of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the other side, which is there.
    Forward(SocketAddr),
    /// It goes nowhere; whoever sent it is sent this, which is no longer.
    Challenge(Vec<u8>),
    /// It goes nowhere; this side is where it came from.
    Shown(Side),
    /// It goes nowhere.
    Drop(Dropped),
}

/// Why a datagram goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It is no message of WireGuard's, and none that shows where a side is.
    NotWireGuard,
    /// It proves nothing.
    Proof,
    /// There were too many to be challenged.
    Strangers,
    /// The other side has not shown where it is.
    Alone,
    /// More than the lease, or all of them together, may have relayed.
    Rate,
}

impl Dropped {
    /// By which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotWireGuard => "not_wireguard",
            Self::Proof => "proof",
            Self::Strangers => "strangers",
            Self::Alone => "alone",
            Self::Rate => "rate",
        }
    }
}

/// Decides what becomes of what comes to a port.
#[derive(Debug)]
pub struct Port {
    tokens: [Token; 2],
    /// What challenges are made with.
    secret: Token,
    /// Where each side was last shown to be.
    shown: [Option<SocketAddr>; 2],
    pace: Pace,
    challenges: Pace,
    opened_at: Instant,
    used_at: Instant,
}

impl Port {
    /// A port of a lease whose requester and provider were given these tokens. `secret` is random and nobody else's; so many
    /// bytes a second are relayed, of both directions together.
    pub fn new(tokens: [Token; 2], secret: Token, bytes_per_second: u64, now: Instant) -> Self {
        Self {
            tokens,
            secret,
            shown: [None; 2],
            pace: Pace::new(bytes_per_second, now),
            challenges: Pace::new(CHALLENGES, now),
            opened_at: now,
            used_at: now,
        }
    }

    /// Takes a datagram that came to the port. `total` is the pace of all leases together.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        total: &mut Pace,
        now: Instant,
    ) -> Verdict {
        if is_stun(datagram) {
            return self.handle_stun(from, datagram, now);
        }
        if !is_wireguard(datagram) {
            return Verdict::Drop(Dropped::NotWireGuard);
        }
        let side = Side::BOTH
            .into_iter()
            .find(|side| self.at(*side) == Some(from));
        let Some(side) = side else {
            return self.challenge(from, now);
        };
        let Some(to) = self.at(side.other()) else {
            return Verdict::Drop(Dropped::Alone);
        };
        let length = datagram.len();
        if !self.pace.take(length, now) || !total.take(length, now) {
            return Verdict::Drop(Dropped::Rate);
        }
        self.used_at = now;
        Verdict::Forward(to)
    }

    /// When nothing will have been passed on for so long that the port may go; later, if something is meanwhile.
    pub fn idle_at(&self) -> Instant {
        self.used_at + IDLE
    }

    fn at(&self, side: Side) -> Option<SocketAddr> {
        self.shown[side as usize]
    }

    fn handle_stun(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Verdict {
        match Message::parse(datagram) {
            Some((Message::Request, _)) => self.challenge(from, now),
            Some((Message::Indication, proof)) => match self.proves(from, proof, now) {
                Some(side) => {
                    if self.at(side.other()) == Some(from) {
                        // Nobody is sent what it has sent itself.
                        self.shown[side.other() as usize] = None;
                    }
                    self.shown[side as usize] = Some(from);
                    Verdict::Shown(side)
                }
                None => Verdict::Drop(Dropped::Proof),
            },
            _ => Verdict::Drop(Dropped::NotWireGuard),
        }
    }

    fn challenge(&mut self, from: SocketAddr, now: Instant) -> Verdict {
        if !self.challenges.take(1, now) {
            return Verdict::Drop(Dropped::Strangers);
        }
        let challenge = self.challenge_of(from, self.period(now));
        Verdict::Challenge(Message::Indication.write(Transaction(challenge)))
    }

    /// Whose answer it is to a challenge that was sent there not long ago.
    fn proves(&self, from: SocketAddr, proof: Transaction, now: Instant) -> Option<Side> {
        let period = self.period(now);
        let recent = [Some(period), period.checked_sub(1)];
        recent.into_iter().flatten().find_map(|period| {
            let challenge = self.challenge_of(from, period);
            let mut sides = Side::BOTH.into_iter();
            sides.find(|side| {
                let expected = mac(&self.tokens[*side as usize].0, &challenge);
                expected.verify_truncated_left(&proof.0).is_ok()
            })
        })
    }

    /// Number of the half minute, since the port was opened.
    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.opened_at).as_secs() / CHALLENGE
    }

    /// Nothing is kept of it: it can be made again from where its answer comes from.
    fn challenge_of(&self, to: SocketAddr, period: u64) -> [u8; TAG] {
        let mut input = [0; INPUT];
        let ip = match to.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        input[..16].copy_from_slice(&ip.octets());
        input[16..18].copy_from_slice(&to.port().to_be_bytes());
        input[18..].copy_from_slice(&period.to_be_bytes());
        tag(mac(&self.secret.0, &input))
    }
}

/// Whether a datagram has the form of one of WireGuard's four messages.
fn is_wireguard(datagram: &[u8]) -> bool {
    let length = datagram.len();
    match datagram {
        [1, 0, 0, 0, ..] => length == 148,
        [2, 0, 0, 0, ..] => length == 92,
        [3, 0, 0, 0, ..] => length == 64,
        [4, 0, 0, 0, ..] => length >= 32,
        _ => false,
    }
}
