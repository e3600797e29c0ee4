#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipsx_metering::{Amount, Signed, Usage};
use proptest::prelude::*;

use super::super::world::{NOW, World, config, key, offer, placement, request};
use super::*;
use crate::echo::Echo;
use crate::messages::{EndCause, EndReport};
use crate::proof::{ProofRules, Standing, Timed};
use crate::resting::RequestStatus;

const HOUR: u64 = 3_600;
const TASK: B256 = B256::repeat_byte(0xaa);
const NONCE: B256 = B256::repeat_byte(0xbb);

fn rules() -> ProofRules {
    ProofRules {
        required: true,
        validity: HOUR,
    }
}

fn restored(known: impl IntoIterator<Item = (Subject, Proof)>) -> Proofs {
    Proofs::restore(rules(), B256::repeat_byte(0x5e), known, NOW)
}

/// A market that asks for proofs, with an offer of each of these providers, none of which has one.
fn world(providers: &[u8]) -> World {
    let mut world = World::new();
    world.market = world.market.with_proofs(restored([]));
    for provider in providers {
        publish(&mut world, *provider);
    }
    world
}

fn publish(world: &mut World, provider: u8) -> bool {
    world.market.agent_joined(key(provider).address());
    let placed = world
        .market
        .place(offer(provider, 5, 2), placement(provider), world.now);
    placed.unwrap().withheld.is_none()
}

fn seen_at(address: IpAddr, at: UnixSeconds) -> ProbeOutcome {
    let echo = Echo {
        network: config().network,
        nonce: NONCE,
        seen: address,
        at,
    };
    ProbeOutcome::Seen {
        echo: Box::new(Signed::sign(echo, &config().domain, &key(99))),
        timed: Timed {
            latency_ms: Some(20),
            ..Timed::default()
        },
    }
}

/// Leases for the probe that is due, and tells what it saw.
fn probe(world: &mut World, provider: u8, seen: IpAddr) -> Standing {
    let order = world.market.next_probe(TASK, NONCE, world.now).unwrap();
    assert_eq!(order.provider, key(provider).address());
    ask_for(world, TASK).unwrap();
    world.accept(provider);
    tell(world, seen).unwrap()
}

fn ask_for(world: &mut World, task: B256) -> Result<(), ProbeRefusal> {
    world.tickets += 1;
    let ticket = Ticket(world.tickets);
    let seed = B256::repeat_byte(world.tickets as u8);
    let request = request(50, world.tickets);
    let now = world.now;
    let commands = world
        .market
        .request_for_probe(ticket, request, seed, task, now)?;
    world.run(commands);
    Ok(())
}

fn tell(world: &mut World, seen: IpAddr) -> Result<Standing, ProbeRefusal> {
    let (outcome, now) = (seen_at(seen, world.now), world.now);
    let probed = world.market.probed(TASK, outcome, Placement::at, 7, now)?;
    world.run(probed.1);
    Ok(probed.0.standing)
}

#[test]
fn an_unproven_offer_is_only_there_for_its_probe() {
    let mut world = world(&[1, 2]);
    let ticket = world.ask(60);
    assert!(world.answers[&ticket].is_err());
    assert_eq!(ask_for(&mut world, TASK), Err(ProbeRefusal::Unknown));
    // Both are due; the order among them is the subjects'.
    let order = world.market.next_probe(TASK, NONCE, world.now).unwrap();
    let first = if order.provider == key(1).address() {
        1
    } else {
        2
    };
    ask_for(&mut world, TASK).unwrap();
    world.accept(first);
    tell(&mut world, placement(first).address).unwrap();
    assert_eq!(world.market.book().for_sale(), 1);
    // It can be taken now, the other one can't.
    let ticket = world.ask(60);
    let deal = world.accept(first);
    assert_eq!(deal.exit_address, placement(first).address);
    assert!(world.answers[&ticket].is_ok());
}

#[test]
fn a_probe_asks_nobody_else_when_its_provider_declines() {
    let mut world = world(&[1]);
    world.market.next_probe(TASK, NONCE, world.now).unwrap();
    ask_for(&mut world, TASK).unwrap();
    let (provider, number, _) = world.proposals.pop().unwrap();
    let commands = world.market.decline(provider, number, "no", world.now);
    world.run(commands);
    assert!(world.answers[&Ticket(world.tickets)].is_err());
    assert_eq!(world.proposals.len(), 0);
}

#[test]
fn a_proof_lapses_by_the_clock_and_survives_a_restart_before() {
    let mut world = world(&[1]);
    probe(&mut world, 1, placement(1).address);
    assert_eq!(world.market.book().for_sale(), 1);
    world.restart();
    let known = world.proofs.clone();
    world.market = world.market.with_proofs(restored(known));
    assert!(publish(&mut world, 1), "nothing is proven anew");
    assert_eq!(
        world.market.next_probe(TASK, NONCE, world.now),
        None,
        "not due yet"
    );
    world.wait(HOUR + 1);
    assert_eq!(world.market.book().for_sale(), 0);
    let told = &world.told.last().unwrap().1;
    assert!(matches!(
        told,
        BrokerMessage::OfferPlaced {
            withheld: Some(Withheld::Unproven { unanswered: 0 }),
            ..
        }
    ));
    probe(&mut world, 1, placement(1).address);
    assert_eq!(world.market.book().for_sale(), 1);
}

#[test]
fn customers_that_saw_another_exit_take_the_offer_off_until_a_probe_has_looked() {
    let mut world = world(&[1]);
    probe(&mut world, 1, placement(1).address);
    for customer in 60..63 {
        assert_eq!(world.market.book().for_sale(), 1);
        let deal = world.bound_deal(customer, 1);
        let (id, provider) = (deal.id(), key(1).address());
        let ready = super::super::world::ready();
        let commands = world.market.ready(provider, id, ready, world.now);
        world.run(commands.unwrap());
        let commands = world.market.serving(provider, id, world.now);
        world.run(commands.unwrap());
        let report = EndReport {
            cause: EndCause::WrongExit,
            usage: Usage::default(),
            amount: Amount::ZERO,
            voucher: None,
        };
        let requester = key(customer).address();
        for _ in 0..2 {
            let commands = world
                .market
                .requester_ended(requester, id, report.clone(), world.now);
            world.run(commands.unwrap_or_default());
        }
        let ended = EndReport {
            cause: EndCause::RequesterEnded,
            ..report
        };
        let commands = world.market.provider_ended(provider, id, ended, world.now);
        world.run(commands.unwrap_or_default());
    }
    assert_eq!(world.market.book().for_sale(), 0);
    world.wait(200);
    assert!(matches!(
        probe(&mut world, 1, placement(1).address),
        Standing::Proven { .. }
    ));
    assert_eq!(world.market.book().for_sale(), 1);
}

#[test]
fn an_offer_that_comes_from_another_address_has_to_be_proven_there() {
    let mut world = world(&[1]);
    probe(&mut world, 1, placement(1).address);
    let mut newer = offer(1, 5, 2);
    newer.nonce += 1;
    let moved = Placement::at([198, 51, 100, 1].into());
    let placed = world.market.place(newer, moved, world.now).unwrap();
    assert!(placed.withheld.is_some());
    assert_eq!(world.market.book().for_sale(), 0);
}

#[test]
fn a_range_is_not_proven_by_the_address_that_it_grows_from() {
    let mut world = world(&[1]);
    probe(&mut world, 1, placement(1).address);
    let mut range = offer(1, 5, 2);
    range.prefixes = vec!["192.0.2.0/24".parse().unwrap()];
    let placed = world.market.place(range, placement(1), world.now).unwrap();
    assert!(placed.withheld.is_some());
    assert_eq!(world.market.book().for_sale(), 1, "the address itself");
}

#[test]
fn a_provider_is_told_what_a_probe_saw_and_that_its_leases_are_silent() {
    let mut world = world(&[1, 2]);
    let elsewhere: IpAddr = [203, 0, 113, 9].into();
    let order = world.market.next_probe(TASK, NONCE, world.now).unwrap();
    let silent = match order.provider == key(1).address() {
        true => 1,
        false => 2,
    };
    let quiet = || ProbeOutcome::Silent {
        reason: "nothing".into(),
    };
    let probed = |world: &mut World| {
        let now = world.now;
        let probed = world.market.probed(TASK, quiet(), Placement::at, 7, now);
        probed.map(|(_, commands)| world.run(commands))
    };
    let refused = probed(&mut world);
    assert_eq!(
        refused,
        Err(ProbeRefusal::NotLeased),
        "of what was not leased"
    );
    ask_for(&mut world, TASK).unwrap();
    world.accept(silent);
    probed(&mut world).unwrap();
    let told = |world: &World| match &world.told.last().unwrap().1 {
        BrokerMessage::OfferPlaced { withheld, .. } => *withheld,
        other => panic!("{other:?}"),
    };
    assert_eq!(told(&world), Some(Withheld::Unproven { unanswered: 1 }));
    probe(&mut world, 3 - silent, elsewhere);
    let what = crate::proof::Disagreement::Address;
    let seen = elsewhere;
    assert_eq!(told(&world), Some(Withheld::Disagrees { what, seen }));
    assert_eq!(world.market.book().for_sale(), 0);
}

#[test]
fn what_is_let_is_not_probed_until_it_is_free() {
    let mut world = world(&[]);
    world.market.agent_joined(key(1).address());
    let single = offer(1, 5, 1);
    let id = single.id();
    let place = placement(1);
    world.market.place(single, place, world.now).unwrap();
    let hold = crate::book::HoldId(u64::MAX);
    let wanted = request(60, 1);
    let wanted = (&wanted.message).into();
    world
        .market
        .book
        .take_this(hold, id, &wanted, world.now)
        .unwrap();
    assert_eq!(world.market.next_probe(TASK, NONCE, world.now), None);
    world.market.book.release(hold);
    world.wait(60);
    assert!(world.market.next_probe(TASK, NONCE, world.now).is_some());
}

#[test]
fn a_range_answers_from_addresses_that_the_broker_draws() {
    let mut world = world(&[]);
    let mut range = offer(1, 5, 8);
    let prefix: ipnet::IpNet = "192.0.2.0/29".parse().unwrap();
    range.prefixes = vec![prefix];
    world.market.agent_joined(range.provider);
    let now = world.now;
    world.market.place(range, placement(1), now).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while world.market.book().for_sale() == 0 {
        assert!(seen.len() < 3);
        world.market.next_probe(TASK, NONCE, world.now).unwrap();
        ask_for(&mut world, TASK).unwrap();
        world.accept(1);
        let sold = world.market.proofs().sold(&TASK).unwrap();
        seen.insert(sold);
        tell(&mut world, sold).unwrap();
        world.wait(31);
    }
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|address| prefix.contains(address)));
}

#[test]
fn a_request_rests_until_the_address_is_proven() {
    let mut world = world(&[1]);
    let id = world.rest(60, 10_000);
    assert_eq!(world.requests[&id].status, RequestStatus::Resting);
    assert!(world.proposals.is_empty());
    probe(&mut world, 1, placement(1).address);
    let (provider, _, asked) = world.proposals.last().unwrap();
    assert_eq!(*provider, key(1).address());
    assert_eq!(asked.request.message.id(), id);
}

/// What may happen to a market that requires proofs.
#[derive(Clone, Debug)]
enum Act {
    Publish(u8, bool),
    Leave(u8),
    Order,
    Lease,
    Accept,
    Tell(Saw),
    Wait(u64),
    Restart,
}

#[derive(Clone, Debug)]
enum Saw {
    Here,
    Elsewhere,
    Nothing,
    NoLease,
}

fn act() -> impl Strategy<Value = Act> {
    let saw = prop::sample::select(vec![
        Saw::Here,
        Saw::Here,
        Saw::Here,
        Saw::Elsewhere,
        Saw::Nothing,
        Saw::NoLease,
    ]);
    prop_oneof![
        2 => (1u8..4, any::<bool>()).prop_map(|(provider, range)| Act::Publish(provider, range)),
        1 => (1u8..4).prop_map(Act::Leave),
        4 => Just(Act::Order),
        4 => Just(Act::Lease),
        4 => Just(Act::Accept),
        4 => saw.prop_map(Act::Tell),
        3 => (1u64..200).prop_map(Act::Wait),
        1 => Just(Act::Wait(HOUR)),
        1 => Just(Act::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, what is for sale is what its proof says, the disk has what memory has, and no probe is lost.
    #[test]
    fn for_sale_is_what_is_proven(required: bool, acts in prop::collection::vec(act(), 1..120)) {
        let rules = ProofRules { required, validity: HOUR };
        let restored = |known: BTreeMap<Subject, Proof>, now| {
            Proofs::restore(rules, B256::repeat_byte(1), known, now)
        };
        let mut world = World::new();
        world.market = world.market.with_proofs(restored(BTreeMap::new(), NOW));
        let (mut nonce, mut order) = (0, None::<ProbeOrder>);
        for act in acts {
            let now = world.now;
            match act {
                Act::Publish(provider, range) => {
                    nonce += 1;
                    let mut published = offer(provider, 5, 2);
                    published.nonce += nonce;
                    let prefix: ipnet::IpNet = "192.0.2.0/24".parse().unwrap();
                    published.prefixes.extend(range.then_some(prefix));
                    world.market.agent_joined(published.provider);
                    world.market.place(published, placement(provider), now).unwrap();
                    world.run(Vec::new());
                }
                Act::Leave(provider) => {
                    let commands = world.market.agent_left(key(provider).address(), now);
                    world.run(commands);
                }
                Act::Order => {
                    let id = B256::from(ipsx_metering::U256::from(nonce));
                    nonce += 1;
                    order = world.market.next_probe(id, NONCE, now).or(order);
                }
                Act::Lease => {
                    let task = order.as_ref().map(|order| order.task);
                    let _ = task.map(|task| ask_for(&mut world, task));
                }
                Act::Accept => {
                    let last = world.proposals.last().map(|(provider, ..)| *provider);
                    let mut signers = 1u8..4;
                    let signer = signers.find(|p| Some(key(*p).address()) == last);
                    let offered = world.proposals.last();
                    let there = offered.is_some_and(|(.., p)| world.market.book().get(p.offer).is_some());
                    if let Some(signer) = signer.filter(|_| there) {
                        world.accept(signer);
                    }
                }
                Act::Tell(saw) => {
                    let Some(order) = order.take() else { continue };
                    let sold = world.market.proofs().sold(&order.task);
                    let seen = sold.unwrap_or(placement(9).address);
                    let outcome = match saw {
                        Saw::Here => seen_at(seen, now),
                        Saw::Elsewhere => seen_at([203, 0, 113, 1].into(), now),
                        Saw::Nothing => ProbeOutcome::Silent { reason: String::new() },
                        Saw::NoLease => ProbeOutcome::Missed { reason: String::new() },
                    };
                    let told = world.market.probed(order.task, outcome, Placement::at, nonce, now);
                    if let Ok((_, commands)) = told {
                        world.run(commands);
                    }
                }
                Act::Wait(seconds) => world.wait(seconds),
                Act::Restart => {
                    let known = world.proofs.clone();
                    world.restart();
                    world.market = world.market.clone().with_proofs(restored(known, now));
                }
            }
            let (book, proofs) = (world.market.book(), world.market.proofs());
            let mut for_sale = 0;
            for id in book.ids() {
                let listing = book.get(id).unwrap();
                let subject = Subject::of(&listing.offer, listing.placement.address);
                let withheld = proofs.withheld(&subject, world.now);
                prop_assert_eq!(book.is_for_sale(id), withheld.is_none());
                for_sale += u64::from(withheld.is_none());
            }
            prop_assert_eq!(book.for_sale(), for_sale);
            for (subject, proof) in proofs.all().filter(|(_, proof)| !proof.is_blank()) {
                prop_assert_eq!(&world.proofs[subject].standing, &proof.standing);
                prop_assert_eq!(&world.proofs[subject].sightings, &proof.sightings);
            }
            prop_assert!(proofs.is_consistent());
        }
    }
}

#[test]
fn who_only_came_and_went_is_forgotten() {
    let mut world = world(&[1, 2]);
    // The first address is looked at, whichever it is.
    let order = world.market.next_probe(TASK, NONCE, world.now).unwrap();
    let missed = ProbeOutcome::Missed {
        reason: "no".into(),
    };
    let probed = world
        .market
        .probed(TASK, missed, Placement::at, 7, world.now);
    world.run(probed.unwrap().1);
    world.market.forget_proofs(world.now);
    assert_eq!(world.market.proofs().all().count(), 2);
    for provider in [1, 2] {
        world.market.agent_left(key(provider).address(), world.now);
    }
    world.market.forget_proofs(world.now);
    let left: Vec<_> = world.market.proofs().all().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0.provider, order.provider);
}
