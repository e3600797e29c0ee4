#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipsx_stun::{HEADER, Message, Transaction};
use proptest::prelude::*;

use super::*;

const TOKENS: [Token; 2] = [Token([1; 32]), Token([2; 32])];
const RATE: u64 = 1_000_000;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn relay() -> SocketAddr {
    at("192.0.2.1:41000")
}

fn sides() -> [SocketAddr; 2] {
    [at("198.51.100.7:40000"), at("203.0.113.9:51820")]
}

/// A data message of so many bytes.
fn data(length: usize) -> Vec<u8> {
    let mut datagram = vec![7; length];
    datagram[..4].copy_from_slice(&[4, 0, 0, 0]);
    datagram
}

struct World {
    port: Port,
    total: Pace,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            port: Port::new(TOKENS, Token([9; 32]), RATE, now),
            total: Pace::new(100 * RATE, now),
            now,
        }
    }

    /// One in which both sides have shown where they are.
    fn shown() -> Self {
        let mut world = Self::new();
        for (from, token) in sides().into_iter().zip(TOKENS) {
            assert!(matches!(world.show(from, token), Verdict::Shown(_)));
        }
        world
    }

    fn send(&mut self, from: SocketAddr, datagram: &[u8]) -> Verdict {
        let (total, now) = (&mut self.total, self.now);
        self.port.handle_datagram(from, datagram, total, now)
    }

    /// What a side sends that has this token, once it is challenged at this address.
    fn proof(&mut self, from: SocketAddr, token: Token) -> Vec<u8> {
        let mut party = Party::new(relay(), token, self.now);
        let hello = party.handle_timeout(|| [3; 12], self.now).unwrap();
        let Verdict::Challenge(challenge) = self.send(from, &hello) else {
            panic!("not challenged");
        };
        assert!(challenge.len() <= hello.len() && challenge.len() == HEADER);
        party.handle_message(relay(), &challenge, self.now).unwrap()
    }

    fn show(&mut self, from: SocketAddr, token: Token) -> Verdict {
        let proof = self.proof(from, token);
        self.send(from, &proof)
    }
}

#[test]
fn datagrams_go_to_the_other_side_once_both_have_shown_themselves() {
    let mut world = World::new();
    let [requester, provider] = sides();
    assert_eq!(
        world.show(requester, TOKENS[0]),
        Verdict::Shown(Side::Requester)
    );
    let alone = world.send(requester, &data(100));
    assert_eq!(alone, Verdict::Drop(Dropped::Alone));
    assert_eq!(
        world.show(provider, TOKENS[1]),
        Verdict::Shown(Side::Provider)
    );
    assert_eq!(
        world.send(requester, &data(100)),
        Verdict::Forward(provider)
    );
    assert_eq!(
        world.send(provider, &data(1452)),
        Verdict::Forward(requester)
    );
}

#[test]
fn a_side_that_is_seen_elsewhere_is_followed_after_one_challenge() {
    let mut world = World::shown();
    let [requester, provider] = sides();
    let moved = at("198.51.100.8:1234");
    let mut party = Party::new(relay(), TOKENS[0], world.now);
    // Its own next datagram is challenged, it need not wait until it says again where it is.
    let Verdict::Challenge(challenge) = world.send(moved, &data(100)) else {
        panic!("not challenged");
    };
    let proof = party.handle_message(relay(), &challenge, world.now);
    let shown = world.send(moved, &proof.unwrap());
    assert_eq!(shown, Verdict::Shown(Side::Requester));
    assert_eq!(world.send(moved, &data(100)), Verdict::Forward(provider));
    assert_eq!(world.send(provider, &data(100)), Verdict::Forward(moved));
    let before = world.send(requester, &data(100));
    assert!(matches!(before, Verdict::Challenge(_)), "{before:?}");
}

#[test]
fn only_wireguard_is_passed_on() {
    let mut world = World::shown();
    let [requester, provider] = sides();
    let of = |kind: u8, length: usize| {
        let mut datagram = data(length);
        datagram[0] = kind;
        datagram
    };
    for whole in [of(1, 148), of(2, 92), of(3, 64), of(4, 32), of(4, 1452)] {
        assert_eq!(world.send(requester, &whole), Verdict::Forward(provider));
    }
    let mut reserved = data(100);
    reserved[2] = 1;
    let mapped = Message::Mapped(requester).write(Transaction([0; 12]));
    let others = [
        of(1, 147),
        of(2, 93),
        of(3, 63),
        of(4, 31),
        of(5, 100),
        of(0, 100),
        reserved,
        mapped,
        vec![],
        vec![4],
    ];
    for other in others {
        let verdict = world.send(requester, &other);
        assert_eq!(verdict, Verdict::Drop(Dropped::NotWireGuard), "{other:?}");
    }
}

#[test]
fn a_challenge_is_for_one_address_and_not_for_long() {
    let [requester, provider] = sides();
    let mut world = World::new();
    let proof = world.proof(requester, TOKENS[0]);
    let wrong = Verdict::Drop(Dropped::Proof);
    // Whoever overheard it, or was given it, is not there.
    for other in [
        "198.51.100.7:40001",
        "198.51.100.8:40000",
        "203.0.113.9:51820",
    ] {
        assert_eq!(world.send(at(other), &proof), wrong, "{other}");
    }
    world.now += Duration::from_secs(29);
    assert_eq!(
        world.send(requester, &proof),
        Verdict::Shown(Side::Requester)
    );
    world.now += Duration::from_secs(31);
    assert_eq!(world.send(requester, &proof), wrong, "it is old");
    assert_eq!(
        world.show(requester, Token([5; 32])),
        wrong,
        "another token"
    );
    // What another port challenges is nothing here.
    let mut other = World::new();
    other.port = Port::new(TOKENS, Token([8; 32]), RATE, other.now);
    let proof = other.proof(provider, TOKENS[1]);
    assert_eq!(world.send(provider, &proof), wrong);
}

#[test]
fn two_ports_do_not_keep_each_other_busy() {
    let mut world = World::new();
    // As if another port had sent it, by its own name or somebody's who took it.
    let Verdict::Challenge(challenge) = world.send(at("192.0.2.1:41001"), &data(100)) else {
        panic!("not challenged");
    };
    let mut other = World::new();
    let answered = other.send(relay(), &challenge);
    assert_eq!(answered, Verdict::Drop(Dropped::Proof));
}

#[test]
fn nobody_is_sent_what_it_sent() {
    let mut world = World::shown();
    let [requester, provider] = sides();
    assert_eq!(
        world.show(requester, TOKENS[1]),
        Verdict::Shown(Side::Provider)
    );
    let verdict = world.send(requester, &data(100));
    assert_eq!(verdict, Verdict::Drop(Dropped::Alone));
    assert_eq!(
        world.show(provider, TOKENS[1]),
        Verdict::Shown(Side::Provider)
    );
}

#[test]
fn a_lease_is_relayed_no_faster_than_it_may() {
    let mut world = World::shown();
    let [requester, provider] = sides();
    let (start, mut passed) = (world.now, 0);
    while world.now < start + Duration::from_secs(10) {
        for from in [requester, provider] {
            if matches!(world.send(from, &data(1000)), Verdict::Forward(_)) {
                passed += 1000;
            }
        }
        world.now += Duration::from_micros(100);
    }
    // Ten seconds' worth, a quarter of one at once, and the last one.
    assert!(
        (10 * RATE..=10 * RATE + RATE / 4 + 2000).contains(&passed),
        "{passed}"
    );
}

#[test]
fn all_leases_together_are_relayed_no_faster_than_they_may() {
    let mut world = World::shown();
    world.total = Pace::new(RATE / 10, world.now);
    let [requester, _] = sides();
    let passed = (0..1000).filter(|_| {
        let verdict = world.send(requester, &data(100));
        matches!(verdict, Verdict::Forward(_))
    });
    assert_eq!(passed.count() as u64 * 100, RATE / 10 / 4);
}

#[test]
fn strangers_are_challenged_only_so_often() {
    let mut world = World::shown();
    let [requester, provider] = sides();
    let stranger = at("192.0.2.99:9");
    world.now += Duration::from_secs(1);
    let challenged = (0..10_000).filter(|_| {
        let verdict = world.send(stranger, &data(1000));
        matches!(verdict, Verdict::Challenge(_))
    });
    assert_eq!(challenged.count(), 50);
    // And the lease goes on.
    assert_eq!(
        world.send(requester, &data(100)),
        Verdict::Forward(provider)
    );
}

#[test]
fn a_port_that_passes_nothing_on_is_idle() {
    let mut world = World::shown();
    let [requester, _] = sides();
    let idle = Duration::from_secs(180);
    assert_eq!(world.port.idle_at(), world.now + idle);
    world.now += Duration::from_secs(25);
    assert!(matches!(
        world.send(requester, &data(32)),
        Verdict::Forward(_)
    ));
    assert_eq!(world.port.idle_at(), world.now + idle);
    let used = world.now;
    world.now += Duration::from_secs(100);
    world.show(requester, TOKENS[0]);
    world.send(at("192.0.2.99:9"), &data(100));
    assert_eq!(
        world.port.idle_at(),
        used + idle,
        "to be there is no use of it"
    );
}

#[test]
fn a_side_says_where_it_is_and_answers_its_relay_alone() {
    let mut now = Instant::now();
    let mut party = Party::new(relay(), TOKENS[0], now);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let hello = party.handle_timeout(|| [3; 12], now).unwrap();
        assert!(matches!(
            Message::parse(&hello),
            Some((Message::Request, _))
        ));
        assert_eq!(party.handle_timeout(|| [3; 12], now), None);
        waits.push((party.poll_timeout() - now).as_millis());
        now = party.poll_timeout();
    }
    assert_eq!(
        waits,
        [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]
    );
    let challenge = Message::Indication.write(Transaction([5; 12]));
    let request = Message::Request.write(Transaction([5; 12]));
    let beside = at("192.0.2.1:41001");
    assert_eq!(party.handle_message(beside, &challenge, now), None);
    assert_eq!(party.handle_message(relay(), &request, now), None);
    let answers = (0..1000).filter_map(|_| party.handle_message(relay(), &challenge, now));
    assert!(
        (1..=3).contains(&answers.count()),
        "many are somebody else's"
    );
}

/// Somebody sends something.
#[derive(Clone, Debug)]
enum Step {
    Data(usize, usize),
    Bytes(usize, Vec<u8>),
    Hello(usize),
    Show(usize, usize),
    Forge(usize, [u8; 12]),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..5usize;
    prop_oneof![
        4 => (who.clone(), 32..1500usize).prop_map(|(who, length)| Step::Data(who, length)),
        1 => (who.clone(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(who, bytes)| Step::Bytes(who, bytes)),
        1 => who.clone().prop_map(Step::Hello),
        2 => (who.clone(), 0..2usize).prop_map(|(who, side)| Step::Show(who, side)),
        1 => (who, any::<[u8; 12]>()).prop_map(|(who, proof)| Step::Forge(who, proof)),
        1 => (0..90_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn strangers_are_sent_nothing_and_get_nothing_through(steps in prop::collection::vec(step(), 1..120)) {
        let addresses: [SocketAddr; 5] = std::array::from_fn(|n| SocketAddr::from(([192, 0, 2, n as u8 + 10], 1000)));
        let mut world = World::new();
        // Where each side was last shown to be, by who really had its token.
        let mut shown: [Option<SocketAddr>; 2] = [None, None];
        for step in steps {
            let (from, length, verdict) = match step {
                Step::Wait(millis) => {
                    world.now += Duration::from_millis(millis);
                    continue;
                }
                Step::Show(who, side) => {
                    // As strangers do, it may come when too many were challenged.
                    world.now += Duration::from_secs(1);
                    let verdict = world.show(addresses[who], TOKENS[side]);
                    prop_assert!(matches!(verdict, Verdict::Shown(_)));
                    if shown[1 - side] == Some(addresses[who]) {
                        shown[1 - side] = None;
                    }
                    shown[side] = Some(addresses[who]);
                    continue;
                }
                Step::Data(who, length) => (addresses[who], length, world.send(addresses[who], &data(length))),
                Step::Bytes(who, bytes) => (addresses[who], bytes.len(), world.send(addresses[who], &bytes)),
                Step::Hello(who) => {
                    let hello = Message::Request.write(Transaction([1; 12]));
                    (addresses[who], hello.len(), world.send(addresses[who], &hello))
                }
                Step::Forge(who, proof) => {
                    let forged = Message::Indication.write(Transaction(proof));
                    (addresses[who], forged.len(), world.send(addresses[who], &forged))
                }
            };
            match verdict {
                Verdict::Forward(to) => {
                    let sides = [Some(from), Some(to)];
                    prop_assert!(sides == shown || sides == [shown[1], shown[0]]);
                    prop_assert!(from != to);
                }
                Verdict::Challenge(challenge) => prop_assert!(challenge.len() <= length),
                Verdict::Shown(_) => prop_assert!(false, "nobody had a token"),
                Verdict::Drop(_) => {}
            }
        }
    }
}
