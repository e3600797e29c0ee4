//! Where requesters reach a provider, and what it does for those behind a NAT.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use ipsx_market::messages::{AgentMessage, BrokerMessage, RelayToken};
use ipsx_market::place::Reachability;
use ipsx_metering::{B256, DealId};
use ipsx_tunnel_core::Reflected;

use super::fixture::*;
use super::world::World;
use crate::provider::{EndpointHint, ProviderEvent};

const OWN: &str = "127.0.1.1:51820";
const MAPPED: &str = "127.0.1.1:40123";
const REQUESTER: &str = "127.0.1.9:40000";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn reflector() -> SocketAddr {
    at("127.0.0.1:8483")
}

fn world() -> World {
    let mut world = World::new(settings());
    world.connect_by(Some(reflector()), &[]);
    world
}

fn hear(world: &mut World, message: BrokerMessage) {
    world.provider.handle_broker_message(message, world.now);
    world.work();
}

fn reached(world: &mut World, reachability: Option<Reachability>) {
    hear(world, BrokerMessage::Reached { reachability });
}

fn mapped(world: &mut World, mapped: &str) {
    world
        .provider
        .handle_reflected(Reflected::Mapped(at(mapped)));
    world.work();
}

/// What the broker was told of the endpoint.
fn endpoints(world: &World) -> Vec<(SocketAddr, Option<SocketAddr>)> {
    let told = world.sent.iter().filter_map(|message| match message {
        AgentMessage::Endpoint { endpoint, mapped } => Some((*endpoint, *mapped)),
        _ => None,
    });
    told.collect()
}

/// Where requesters were told that a lease is.
fn announced(world: &World, id: DealId) -> Vec<SocketAddr> {
    let told = world.sent.iter().filter_map(|message| match message {
        AgentMessage::LeaseReady { deal_id, ready } if *deal_id == id => Some(ready.endpoint),
        _ => None,
    });
    told.collect()
}

#[test]
fn the_reflector_is_asked_only_once_the_endpoint_was_not_reached() {
    let mut world = world();
    assert_eq!(world.reflectors, [(reflector(), false)]);
    assert_eq!(endpoints(&world), [(at(OWN), None)]);
    world.provider.handle_reflected(Reflected::Token(7));
    world.work();
    assert!(world.sent.contains(&AgentMessage::Token { token: 7 }));
    reached(&mut world, Some(Reachability::Direct));
    assert_eq!(world.reflectors.len(), 1, "there is nothing to ask");
    let direct = ProviderEvent::Reached {
        endpoint: at(OWN),
        reachability: Some(Reachability::Direct),
    };
    assert_eq!(world.events.last(), Some(&direct));

    reached(&mut world, Some(Reachability::Punched));
    assert_eq!(world.reflectors[1..], [(reflector(), true)]);
    assert_eq!(world.events.last(), Some(&direct), "nobody knows where yet");
    mapped(&mut world, MAPPED);
    mapped(&mut world, MAPPED);
    assert_eq!(endpoints(&world)[1..], [(at(OWN), Some(at(MAPPED)))]);
    let punched = ProviderEvent::Reached {
        endpoint: at(MAPPED),
        reachability: Some(Reachability::Punched),
    };
    assert_eq!(world.events.last(), Some(&punched));

    // The port was forwarded meanwhile.
    reached(&mut world, Some(Reachability::Direct));
    assert_eq!(world.reflectors[2..], [(reflector(), false)]);
    assert_eq!(endpoints(&world)[2..], [(at(OWN), None)]);
    mapped(&mut world, MAPPED);
    assert_eq!(endpoints(&world).len(), 3, "an answer that comes late");
}

#[test]
fn leases_are_told_where_the_provider_is_until_they_are_used() {
    let mut world = world();
    world.weather.payer_pays = false;
    let waiting = world.lease(request(600, 1_000_000));
    assert_eq!(announced(&world, waiting.id()), [at(OWN)]);
    reached(&mut world, Some(Reachability::Punched));
    mapped(&mut world, MAPPED);
    assert_eq!(announced(&world, waiting.id())[1..], [at(MAPPED)]);
    world.weather.payer_pays = true;
    world.run(Duration::from_secs(2));
    mapped(&mut world, "127.0.1.1:40124");
    assert_eq!(announced(&world, waiting.id()).len(), 2, "it is in use");
    // A mapping that new leases need is kept when the broker changes.
    world.disconnect();
    world.connect_by(Some(reflector()), &[waiting.id()]);
    assert_eq!(world.reflectors.last(), Some(&(reflector(), true)));
    let last = endpoints(&world).last().copied();
    assert_eq!(last, Some((at(OWN), Some(at("127.0.1.1:40124")))));
}

#[test]
fn an_endpoint_that_is_advertised_elsewhere_is_left_alone() {
    let elsewhere = at("198.51.100.9:4000");
    let mut world = World::new(crate::provider::Settings {
        endpoint: EndpointHint::Advertised(elsewhere),
        ..settings()
    });
    world.connect_by(Some(reflector()), &[]);
    reached(&mut world, None);
    assert_eq!(world.reflectors, [(reflector(), false)]);
    mapped(&mut world, MAPPED);
    assert_eq!(endpoints(&world), [(elsewhere, None)]);
}

#[test]
fn a_private_address_is_no_endpoint_for_who_is_seen_at_a_public_one() {
    for (listens, seen, endpoint) in [
        ("192.168.1.5:51820", "5.6.7.8", "5.6.7.8:51820"),
        ("0.0.0.0:51820", "5.6.7.8", "5.6.7.8:51820"),
        ("5.6.7.9:51820", "5.6.7.8", "5.6.7.9:51820"),
        ("192.168.1.5:51820", "192.168.1.6", "192.168.1.5:51820"),
    ] {
        let mut world = World::new(crate::provider::Settings {
            endpoint: EndpointHint::Listening(at(listens)),
            ..settings()
        });
        let (seen, now) = (seen.parse().unwrap(), world.now);
        world
            .provider
            .handle_link_up(seen, Some(reflector()), &[], now);
        world.work();
        assert_eq!(endpoints(&world), [(at(endpoint), None)], "{listens}");
    }
}

#[test]
fn without_a_reflector_nothing_is_said_or_asked() {
    let mut world = World::new(settings());
    world.connect(&[]);
    assert_eq!((endpoints(&world), world.reflectors.len()), (vec![], 0));
}

#[test]
fn a_nat_is_opened_for_the_requester_of_a_lease_that_waits() {
    let mut world = world();
    let punch = |deal_id| BrokerMessage::Punch {
        deal_id,
        endpoint: at(REQUESTER),
    };
    hear(&mut world, punch(DealId(Default::default())));
    assert_eq!(world.punched, [], "there is no such lease");
    world.weather.payer_pays = false;
    let deal = world.lease(request(600, 1_000_000));
    hear(&mut world, punch(deal.id()));
    assert_eq!(world.punched, [at(REQUESTER)]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.punched, [at(REQUESTER); 3]);
    world.weather.payer_pays = true;
    world.run(Duration::from_secs(20));
    assert_eq!(world.punched.len(), 3, "the requester is there");
    hear(&mut world, punch(deal.id()));
    assert_eq!(world.punched.len(), 3);
}

#[test]
fn a_relay_is_joined_for_a_lease_of_ones_own_and_left_with_it() {
    let mut world = world();
    let relay = |deal_id, relay: &str| BrokerMessage::Relay {
        deal_id,
        relay: at(relay),
        token: RelayToken(B256::repeat_byte(1)),
    };
    const FIRST: &str = "127.0.0.1:41000";
    const SECOND: &str = "127.0.0.1:41001";
    hear(&mut world, relay(DealId(Default::default()), FIRST));
    assert_eq!(world.relays, [], "there is no such lease");
    let deal = world.lease(request(20, 1_000_000));
    for nowhere in ["10.0.0.7:41000", "127.0.0.1:0", "224.0.0.1:41000"] {
        hear(&mut world, relay(deal.id(), nowhere));
    }
    assert_eq!(world.relays, [], "that is no relay");
    hear(&mut world, relay(deal.id(), FIRST));
    world.run(Duration::from_secs(5));
    assert_eq!(world.relays, [(at(FIRST), true)]);
    // Asked again, the broker says the same again.
    hear(&mut world, relay(deal.id(), FIRST));
    world.relays.pop();
    // The broker was started again: the lease goes on, by another port.
    hear(&mut world, relay(deal.id(), SECOND));
    let moved = [(at(FIRST), false), (at(SECOND), true)];
    assert_eq!(world.relays[1..], moved);
    world.run(Duration::from_secs(30));
    assert_eq!(world.relays[3..], [(at(SECOND), false)]);
    hear(&mut world, relay(deal.id(), FIRST));
    assert_eq!(world.relays.len(), 4, "the lease is over");
    let told = |event: &ProviderEvent| match event {
        ProviderEvent::LeaseRelayed { lease, relay } => Some((*lease, *relay)),
        _ => None,
    };
    let told: Vec<_> = world.events.iter().filter_map(told).collect();
    assert_eq!(told, [(deal.id(), at(FIRST)), (deal.id(), at(SECOND))]);
}
