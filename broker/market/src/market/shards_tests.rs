#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use ipsx_metering::{B256, UnixSeconds};

use super::super::world::{World, config, key, offer, placement, resting};
use super::super::{Command, DealRefusal, Market};
use crate::fleet::ShardId;
use crate::place::Placement;
use crate::resting::RequestStatus;
use crate::status::DealStatus;

fn france() -> BTreeSet<ShardId> {
    BTreeSet::from([ShardId::new(Some("FR".parse().unwrap()), key(1).address())])
}

fn placed(provider: u8, country: &str) -> Placement {
    Placement {
        country: Some(country.parse().unwrap()),
        ..placement(provider)
    }
}

/// Provider 1 lends cheap addresses in France, provider 2 dear ones in Germany.
fn world() -> World {
    let mut world = World::new();
    for (provider, price, country) in [(1, 2, "FR"), (2, 3, "DE")] {
        world.market.agent_joined(key(provider).address());
        let offer = offer(provider, price, 2);
        world
            .market
            .place(offer, placed(provider, country), world.now)
            .unwrap();
    }
    world
}

#[test]
fn a_shard_that_goes_takes_its_deals_offers_and_requests_and_nothing_else() {
    let mut world = world();
    let french = world.bound_deal(10, 1);
    let waiting = world.ask(11);
    assert_eq!(world.market.book().leases_held(), 2);
    assert_eq!(world.market.forget(&france()), [waiting]);
    assert_eq!(world.market.book().len(), 1);
    assert_eq!(world.market.book().leases_held(), 0);
    assert_eq!(world.market.pending(), 0);
    assert!(world.market.deal(french.id()).is_none());
    let refused = world
        .market
        .serving(key(1).address(), french.id(), world.now);
    assert_eq!(refused, Err(DealRefusal::Unknown(french.id())));
    // Nothing of it happens here any more, however long it takes: the deal is its new owner's.
    let stored = world.stored.clone();
    world.wait(1_000);
    assert_eq!(world.stored, stored);
    // Germany goes on.
    let german = world.bound_deal(12, 2);
    assert_eq!(world.status(&german), DealStatus::Agreed);
    assert_eq!(world.market.forget(&france()), []);
    assert!(world.market.deal(german.id()).is_some());
}

#[test]
fn a_shard_that_comes_goes_on_with_its_deals_and_sells_nothing_twice() {
    let mut old = world();
    let deals = [old.bound_deal(10, 1), old.bound_deal(11, 1)];
    let mut new = World::new();
    new.market.agent_joined(key(2).address());
    let now = new.now;
    new.market
        .place(offer(2, 3, 2), placed(2, "DE"), now)
        .unwrap();
    let records: Vec<_> = old.stored.values().cloned().collect();
    new.market.adopt(records.clone(), new.now);
    // Said twice, it is the same.
    new.market.adopt(records, new.now);
    assert_eq!(new.market.book().leases_held(), 2);
    // Its agent comes, hears of both, and offers again what is let already.
    let (mut unfinished, reminders) = new.market.agent_joined(key(1).address());
    let mut ids = [deals[0].id(), deals[1].id()];
    unfinished.sort_unstable();
    ids.sort_unstable();
    assert_eq!(unfinished, ids);
    assert_eq!(reminders.len(), 2);
    assert!(reminders.iter().all(|c| matches!(c, Command::Send { .. })));
    new.market
        .place(offer(1, 2, 2), placed(1, "FR"), now)
        .unwrap();
    assert_eq!(new.free(), 2, "Germany's alone");
    new.ask(12);
    assert_eq!(new.proposals[0].0, key(2).address());
    let report = super::super::world::report(crate::messages::EndCause::Completed);
    let ended = new
        .market
        .provider_ended(key(1).address(), deals[0].id(), report, new.now);
    new.run(ended.unwrap());
    assert!(new.stored[&deals[0].id()].status().is_over());
}

#[test]
fn an_adopted_market_is_the_one_that_a_restart_makes() {
    let mut world = world();
    world.bound_deal(10, 1);
    let records: Vec<_> = world.stored.values().cloned().collect();
    let restarted = Market::new(config(), records.clone(), world.now);
    let mut adopted = Market::new(config(), Vec::new(), world.now);
    adopted.adopt(records, world.now);
    assert_eq!(adopted.poll_timeout(), restarted.poll_timeout());
    assert_eq!(adopted.deals().count(), 1);
}

/// A broker's part of a market that others share, with a French provider.
fn part(provider: u8) -> World {
    let mut world = World::new();
    world.market.share(u64::from(provider) << 32);
    world.market.agent_joined(key(provider).address());
    world
}

#[test]
fn a_request_rests_at_each_broker_and_the_first_word_counts() {
    let (mut one, mut other) = (part(1), part(2));
    let until = one.now.after(600);
    let request = resting(50, 1, |request| request.rest_until = until);
    let id = request.message.id();
    // It does not come to rest by itself.
    let ticket = one.post(request.clone());
    assert!(one.answers[&ticket].is_err(), "{:?}", one.answers);
    let seed = B256::repeat_byte(7);
    let record = one.market.rest_everywhere(request, seed, one.now).unwrap();
    for (world, provider) in [(&mut one, 1), (&mut other, 2)] {
        world.market.put_to_rest(record.clone(), world.now);
        // Said twice, it is the same.
        world.market.put_to_rest(record.clone(), world.now);
        world.requests.insert(id, record.clone());
        assert_eq!(world.market.resting().len(), 1);
        world
            .market
            .place(offer(provider, 5, 1), placed(provider, "FR"), world.now)
            .unwrap();
        world.run(Vec::new());
        let (address, number, _) = world.proposals[0].clone();
        assert_eq!(world.market.resting_asker(address, number), Some(id));
        assert_eq!(world.market.resting_asker(key(9).address(), number), None);
    }
    one.accept(1);
    assert_eq!(one.requests[&id].status, RequestStatus::Matched);
    // The other one hears of it: its provider is free again, and what it signs leads to nothing.
    other.market.drop_request(id, other.now);
    assert_eq!((other.free(), other.market.pending()), (1, 0));
    other.accept(2);
    assert!(other.stored.is_empty());
    other.market.drop_request(id, other.now);
    other.wait(1_000);
    assert_eq!(other.requests[&id].status, RequestStatus::Resting);
}

#[test]
fn requests_from_several_brokers_keep_their_ages_and_are_told_apart() {
    let mut world = part(1);
    let until = world.now.after(600);
    let seed = B256::repeat_byte(7);
    let mut ids = Vec::new();
    for (number, age) in [(1, 20), (2, 10), (3, 10)] {
        let request = resting(50 + number, 1, |request| request.rest_until = until);
        let now = UnixSeconds(world.now.0 - 100 + age);
        let record = world.market.rest_everywhere(request, seed, now).unwrap();
        ids.push(record.id());
        world.requests.insert(record.id(), record.clone());
        world.market.put_to_rest(record, world.now);
    }
    assert_eq!(world.market.resting().len(), 3, "two have the same number");
    let now = world.now;
    world
        .market
        .place(offer(1, 5, 3), placed(1, "FR"), now)
        .unwrap();
    world.run(Vec::new());
    let asked = world.proposals.iter();
    let asked: Vec<_> = asked.map(|(.., p)| p.request.message.id()).collect();
    assert_eq!(asked, [ids[1], ids[2], ids[0]]);
    // One that comes when its time is up is over at once.
    let late = resting(60, 1, |request| request.rest_until = UnixSeconds(1));
    let record = world.market.rest_everywhere(late, seed, UnixSeconds(1));
    let record = record.unwrap();
    let id = record.id();
    world.requests.insert(id, record.clone());
    world.market.put_to_rest(record, world.now);
    world.wait(1);
    assert_eq!(world.requests[&id].status, RequestStatus::Expired);
}
