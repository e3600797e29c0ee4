#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::Answered;
use super::super::world::{World, key, offer, placement};

/// A market with one offer of these prefixes by provider 1, which was seen at 192.0.2.1.
fn selling(prefixes: &[&str]) -> World {
    let mut world = World::new();
    world.market.agent_joined(key(1).address());
    let mut offer = offer(1, 5, 32);
    offer.prefixes = prefixes.iter().map(|text| text.parse().unwrap()).collect();
    let now = world.now;
    world.market.place(offer, placement(1), now).unwrap();
    world
}

/// The addresses that `count` leases get, which all go on.
fn sold(world: &mut World, count: u8) -> Vec<IpAddr> {
    (10..10 + count)
        .map(|requester| world.bound_deal(requester, 1).exit_address)
        .collect()
}

#[test]
fn leases_of_a_prefix_get_addresses_of_their_own_while_there_are_enough() {
    let mut world = selling(&["192.0.2.0/29"]);
    // Six hosts; network and broadcast address are not sold.
    let six = sold(&mut world, 6);
    let distinct: BTreeSet<_> = six.iter().collect();
    assert_eq!(distinct.len(), 6, "{six:?}");
    let prefix: ipnet::IpNet = "192.0.2.0/29".parse().unwrap();
    assert!(
        prefix.hosts().all(|host| distinct.contains(&host)),
        "{six:?}"
    );
    // The next one shares.
    let seventh = world.bound_deal(40, 1).exit_address;
    assert!(six.contains(&seventh));
    // What the requester is shown is the address that is sold.
    let shown = world.answers.values().next_back().unwrap();
    let Ok(Answered::Deal(shown)) = shown else {
        panic!("{shown:?}")
    };
    assert_eq!(shown.placement.address, seventh);
}

#[test]
fn only_the_prefix_that_the_agent_was_seen_in_is_sold_and_only_if_it_is_narrow() {
    let seen = placement(1).address;
    for prefixes in [
        &[][..],
        &["192.0.2.0/23"],
        &["192.0.2.1/32"],
        &["198.51.100.0/24", "192.0.0.0/16"],
    ] {
        let mut world = selling(prefixes);
        assert_eq!(sold(&mut world, 3), vec![seen; 3], "{prefixes:?}");
    }
    let mut world = selling(&["198.51.100.0/24", "192.0.2.0/24"]);
    let prefix: ipnet::IpNet = "192.0.2.0/24".parse().unwrap();
    assert!(
        sold(&mut world, 5)
            .iter()
            .all(|address| prefix.contains(address))
    );
}

#[test]
fn no_address_is_sold_that_is_to_be_avoided() {
    let mut world = selling(&["192.0.2.0/29"]);
    let avoiding = |text: &str, nonce: u64| {
        super::super::world::resting(50, nonce, |request| {
            request.filter.avoid.prefixes = vec![text.parse().unwrap()];
        })
    };
    // The agent was seen at the first of six.
    for nonce in 1..=4 {
        world.post(avoiding("192.0.2.0/30", nonce));
        let (.., proposal) = world.proposals.last().unwrap().clone();
        let allowed: ipnet::IpNet = "192.0.2.4/30".parse().unwrap();
        assert!(allowed.contains(&proposal.exit_address), "{proposal:?}");
        world.accept(1);
        world.wait(60);
    }
    let none = world.post(avoiding("192.0.2.0/29", 5));
    let refused = world.answers[&none].clone().unwrap_err().to_string();
    assert!(
        refused.contains("fails by what is to be avoided"),
        "{refused}"
    );
}
