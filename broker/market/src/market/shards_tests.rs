#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::super::tests::{World, config, key, offer, placement};
use super::super::{Command, DealRefusal, Market};
use crate::fleet::ShardId;
use crate::place::Placement;
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
    let report = super::super::tests::report(crate::messages::EndCause::Completed);
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
