//! Datagrams from anywhere at a relay's port, and at the two sides of its lease.
//!
//! What is expected follows from what was sent before: a side is where it last answered a challenge that was sent there, and
//! nowhere else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipsx_relay::{Pace, Party, Port, Side, Token, Verdict};
use ipsx_stun::{HEADER, Message, Transaction};

use crate::bytes::Bytes;

/// Steps of one input.
const STEPS: usize = 128;
const TOKENS: [Token; 2] = [Token([1; 32]), Token([2; 32])];
const SIDES: [Side; 2] = [Side::Requester, Side::Provider];
/// Bytes a second of the lease, and of the whole relay.
const RATES: [u64; 2] = [40_000, 60_000];
/// The longest datagram that comes.
const LONGEST: usize = 2_048;
/// Challenges in a second.
const CHALLENGES: u64 = 200;
/// A challenge counts at least so long, and at most twice as long.
const COUNTS: Duration = Duration::from_secs(30);

pub(crate) fn check(input: &[u8]) {
    let mut bytes = Bytes(input);
    let mut world = World::new();
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        world.step(&mut bytes);
    }
    world.check_rates();
}

/// Where somebody sends from.
fn place(choice: u8) -> SocketAddr {
    let places = [
        "198.51.100.7:40000",
        "203.0.113.9:51820",
        "203.0.113.9:51821",
        "[2001:db8::7]:40000",
        "[2001:db8::8]:51820",
    ];
    places[usize::from(choice) % places.len()].parse().unwrap()
}

fn relay() -> SocketAddr {
    "192.0.2.1:41000".parse().unwrap()
}

struct World {
    port: Port,
    total: Pace,
    began: Instant,
    now: Instant,
    /// Where each side has shown that it is.
    shown: [Option<SocketAddr>; 2],
    /// Challenges, where they were sent, and when.
    challenges: Vec<(SocketAddr, Vec<u8>, Instant)>,
    /// A proof that was valid once, and where it was sent from.
    proof: Option<Vec<u8>>,
    forwarded: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            port: Port::new(TOKENS, Token([9; 32]), RATES[0], now),
            total: Pace::new(RATES[1], now),
            began: now,
            now,
            shown: [None; 2],
            challenges: Vec::new(),
            proof: None,
            forwarded: 0,
        }
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let choice = bytes.u8();
        let from = place(choice / 8);
        match choice % 8 {
            // Anything from anywhere.
            0 => drop(self.send(from, bytes.block())),
            // A question, such as both sides send.
            1 => {
                let question = Message::Request.write(Transaction(bytes.array()));
                self.send(from, &question);
            }
            // The answer to the latest challenge that was sent there, by one side or the other.
            2 => self.answer(from, usize::from(bytes.u8()) % 2),
            // An answer from where it does not belong, or again.
            3 => {
                if let Some(proof) = self.proof.clone() {
                    self.send(from, &proof);
                }
            }
            // One that was changed on the way.
            4 => {
                if let Some(mut proof) = self.proof.clone() {
                    proof[usize::from(bytes.u8()) % HEADER] ^= bytes.u8().max(1);
                    self.send(from, &proof);
                }
            }
            5 => {
                let mut data = vec![0; usize::from(bytes.u16()) % LONGEST];
                let kind = bytes.u8();
                if let Some(first) = data.first_mut() {
                    *first = kind % 6;
                }
                self.send(from, &data);
            }
            6 => self.now += Duration::from_millis(u64::from(bytes.u16())),
            _ => self.tell_a_party(from, bytes),
        }
    }

    /// A side's part: it answers nobody but its relay, and nothing but an indication.
    fn tell_a_party(&self, from: SocketAddr, bytes: &mut Bytes<'_>) {
        let mut party = Party::new(relay(), TOKENS[0], self.now);
        let message = bytes.block();
        assert_eq!(party.handle_message(from, message, self.now), None);
        if let Some(answer) = party.handle_message(relay(), message, self.now) {
            assert!(matches!(
                Message::parse(message),
                Some((Message::Indication, _))
            ));
            assert_eq!(answer.len(), HEADER, "no longer than what asks for it");
            assert_eq!(proof(message, TOKENS[0], self.now), answer);
        }
    }

    fn answer(&mut self, from: SocketAddr, side: usize) {
        let mut latest = self.challenges.iter().rev();
        let latest = latest.find(|(to, ..)| *to == from);
        let Some((_, challenge, at)) = latest.cloned() else {
            return;
        };
        let answer = proof(&challenge, TOKENS[side], self.now);
        self.proof = Some(answer.clone());
        let verdict = self.send(from, &answer);
        if self.now - at < COUNTS {
            assert_eq!(verdict, Verdict::Shown(SIDES[side]));
        }
    }

    /// Sends something to the port, and looks whether what becomes of it is right.
    fn send(&mut self, from: SocketAddr, datagram: &[u8]) -> Verdict {
        let idle_at = self.port.idle_at();
        let verdict = self
            .port
            .handle_datagram(from, datagram, &mut self.total, self.now);
        match &verdict {
            Verdict::Forward(to) => {
                let side = self.shown.iter().position(|at| *at == Some(from));
                let side = side.expect("it is from a side");
                assert_eq!(self.shown[1 - side], Some(*to), "it goes to the other side");
                assert_ne!(from, *to);
                assert!(
                    matches!(datagram, [1..=4, 0, 0, 0, ..]),
                    "of WireGuard's form"
                );
                assert!(self.port.idle_at() > self.now);
                self.forwarded += datagram.len();
            }
            Verdict::Challenge(challenge) => {
                assert!(challenge.len() <= datagram.len(), "nothing is amplified");
                assert_eq!(challenge.len(), HEADER);
                self.challenges.push((from, challenge.clone(), self.now));
            }
            Verdict::Shown(side) => {
                self.check_proof(from, *side, datagram);
                let other = 1 - *side as usize;
                self.shown[other].take_if(|at| *at == from);
                self.shown[*side as usize] = Some(from);
            }
            Verdict::Drop(reason) => assert!(!reason.name().is_empty()),
        }
        if !matches!(verdict, Verdict::Forward(_)) {
            assert_eq!(self.port.idle_at(), idle_at, "nothing was passed on");
        }
        verdict
    }

    /// Whoever counts as a side was sent a challenge there, not long ago, and has that side's token.
    fn check_proof(&self, from: SocketAddr, side: Side, datagram: &[u8]) {
        let proves = |(to, challenge, at): &(SocketAddr, Vec<u8>, Instant)| {
            *to == from
                && self.now - *at <= COUNTS * 2
                && proof(challenge, TOKENS[side as usize], self.now)[8..HEADER]
                    == datagram[8..HEADER]
        };
        assert!(self.challenges.iter().any(proves), "{from} proved nothing");
    }

    fn check_rates(&self) {
        let millis = (self.now - self.began).as_millis() as u64 + 250;
        let most = RATES[0] * millis / 1_000 + LONGEST as u64;
        assert!(self.forwarded as u64 <= most, "{} bytes", self.forwarded);
        let most = CHALLENGES * millis / 1_000 + 1;
        assert!(self.challenges.len() as u64 <= most);
    }
}

/// What a side answers to a challenge.
fn proof(challenge: &[u8], token: Token, now: Instant) -> Vec<u8> {
    let mut party = Party::new(relay(), token, now);
    party.handle_message(relay(), challenge, now).unwrap()
}
