#![allow(clippy::unwrap_used)]

use ipsx_metering::B256;

use super::super::world::*;
use super::*;

const AT: &str = "192.0.2.1:51820";

fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What the book says of the offer of the first provider.
fn reachability(world: &World) -> Option<Reachability> {
    let offers = world.market.book().offers_of(key(1).address());
    offers[0].placement.measured.reachability
}

fn name(world: &mut World) {
    let agent = (key(1).address(), [192, 0, 2, 1].into());
    let (at, now) = (endpoint(AT), world.now);
    let commands = world.market.endpoint_named(agent, at, None, now);
    world.run(commands);
}

#[test]
fn what_tokens_find_out_stands_in_the_book_as_long_as_the_agent_is_there() {
    let mut world = World::with_offers(&[(1, 5, 1)]);
    assert_eq!(reachability(&world), None);
    name(&mut world);
    let (to, token) = world.tried[0];
    assert_eq!(to, endpoint(AT));
    let (provider, now) = (key(1).address(), world.now);
    let commands = world.market.token_heard(provider, token ^ 1, now);
    world.run(commands);
    assert_eq!(reachability(&world), None);
    let commands = world.market.token_heard(provider, token, now);
    world.run(commands);
    assert_eq!(reachability(&world), Some(Reachability::Direct));
    let told = BrokerMessage::Reached {
        reachability: Some(Reachability::Direct),
    };
    assert_eq!(world.told.last().unwrap(), &(provider, told));
    let left = world.market.agent_left(provider, now);
    world.run(left);
    let placed = world.market.place(offer(1, 5, 1), placement(1), now);
    assert_eq!(placed.unwrap().placement.measured.reachability, None);
}

#[test]
fn time_ends_a_trial_and_a_filter_finds_what_came_of_it() {
    let mut world = World::with_offers(&[(1, 5, 2)]);
    name(&mut world);
    for _ in 0..4 {
        world.now = world.now.after(1);
        let commands = world.market.handle_timeout(world.now);
        world.run(commands);
    }
    assert_eq!(world.tried.len(), 3);
    assert_eq!(reachability(&world), Some(Reachability::Punched));
    for (nonce, way, found) in [
        (1, None, true),
        (2, Some(Reachability::Direct), false),
        (3, Some(Reachability::Punched), true),
    ] {
        let asked = world.post(resting(50, nonce, |request| {
            request.filter.reachability = way;
        }));
        let refused = world.answers.contains_key(&asked);
        assert_eq!(!refused, found, "{way:?}");
    }
}

#[test]
fn only_the_requester_of_a_bound_deal_has_it_relayed_and_not_against_its_own_word() {
    let mut world = World::with_offers(&[(1, 5, 4)]);
    let deal = world.bound_deal(50, 1);
    let (id, at) = (deal.id(), endpoint("198.51.100.1:41000"));
    let (requester, stranger) = (key(50).address(), key(51).address());
    let refused = world.market.may_be_relayed(stranger, id);
    assert!(matches!(refused, Err(DealRefusal::NotYours(_))));
    assert_eq!(world.market.may_be_relayed(requester, id), Ok(&deal));
    let token = RelayToken(B256::repeat_byte(7));
    let message = Box::new(BrokerMessage::Relay {
        deal_id: id,
        relay: at,
        token,
    });
    let provider = key(1).address();
    let told = world.market.relayed(id, at, token);
    assert_eq!(told, [Command::Send { provider, message }]);
    for (number, way, relayed) in [
        (60, Some(Reachability::Relayed), true),
        (61, Some(Reachability::Punched), false),
        (62, Some(Reachability::Direct), false),
    ] {
        world.post(resting(number, 1, |request| {
            request.filter.reachability = way;
        }));
        let proposed = world.accept(1);
        let (requester, id) = (key(number).address(), proposed.id());
        let early = world.market.may_be_relayed(requester, id);
        assert!(matches!(early, Err(DealRefusal::State { .. })), "{early:?}");
        world.sign(number, &proposed);
        world.bind(&proposed);
        let asked = world.market.may_be_relayed(requester, id);
        assert_eq!(asked.is_ok(), relayed, "{asked:?}");
    }
}

#[test]
fn a_provider_is_told_only_where_the_requester_of_a_bound_deal_is() {
    let mut world = World::with_offers(&[(1, 5, 2)]);
    let deal = world.bound_deal(50, 1);
    let (id, at) = (deal.id(), endpoint("198.51.100.7:40000"));
    let (requester, stranger) = (key(50).address(), key(51).address());
    let refused = world.market.requester_endpoint(stranger, id, at);
    assert!(matches!(refused, Err(DealRefusal::NotYours(_))));
    let told = world.market.requester_endpoint(requester, id, at).unwrap();
    let message = Box::new(BrokerMessage::Punch {
        deal_id: id,
        endpoint: at,
    });
    let provider = key(1).address();
    assert_eq!(told, [Command::Send { provider, message }]);
    let other = world.ask(52);
    assert!(!world.answers.contains_key(&other));
    let proposed = world.accept(1);
    let early = world
        .market
        .requester_endpoint(key(52).address(), proposed.id(), at);
    assert!(matches!(early, Err(DealRefusal::State { .. })));
}
