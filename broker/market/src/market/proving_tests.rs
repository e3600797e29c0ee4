#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use ipsx_metering::{Amount, Signed, Usage};

use super::super::tests::{World, config, key, offer, placement, request};
use super::*;
use crate::echo::Echo;
use crate::messages::{EndCause, EndReport};
use crate::proof::{ProofRules, Standing};

const HOUR: u64 = 3_600;
const TASK: B256 = B256::repeat_byte(0xaa);
const NONCE: B256 = B256::repeat_byte(0xbb);

fn rules() -> ProofRules {
    ProofRules {
        required: true,
        validity: HOUR,
    }
}

/// A market that asks for proofs, with an offer of each of these providers, none of which has one.
fn world(providers: &[u8]) -> World {
    let mut world = World::new();
    world.market = world.market.with_proofs(Proofs::restore(rules(), []));
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
    placed.unwrap().for_sale
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
        latency_ms: Some(20),
        mbit_down: None,
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
    let (ticket, seed) = (Ticket(world.tickets), B256::repeat_byte(7));
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
    world.market = world.market.with_proofs(Proofs::restore(rules(), known));
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
            for_sale: false,
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
        let ready = super::super::tests::ready();
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
    assert!(!placed.for_sale);
    assert_eq!(world.market.book().for_sale(), 0);
}

#[test]
fn a_range_is_not_proven_by_the_address_that_it_grows_from() {
    let mut world = world(&[1]);
    probe(&mut world, 1, placement(1).address);
    let mut range = offer(1, 5, 2);
    range.prefixes = vec!["192.0.2.0/24".parse().unwrap()];
    let placed = world.market.place(range, placement(1), world.now).unwrap();
    assert!(!placed.for_sale);
    assert_eq!(world.market.book().for_sale(), 1, "the address itself");
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
