#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use ipsx_metering::{B256, UnixSeconds};

use super::super::bundling::tests::bundle;
use super::super::world::{World, config, key, offer, placement, resting};
use super::super::{Answered, Command, DealRefusal, Disputed, Market, Ticket};
use crate::avoid::Distinct;
use crate::deal::Deal;
use crate::fleet::ShardId;
use crate::place::Placement;
use crate::record::DealRecord;
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
    let (waited, ended) = world.market.forget(&france(), world.now);
    assert_eq!((waited, ended), (vec![waiting], vec![]));
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
    let left = world.market.forget(&france(), world.now);
    assert_eq!(left, (vec![], vec![]));
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
        let disputed = world.market.disputed(address, number).unwrap();
        assert_eq!((disputed.request, disputed.rests), (id, true));
        assert_eq!(world.market.disputed(key(9).address(), number), None);
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

/// A broker that has both countries, with a bundle of one address in each that is proposed.
fn bundled() -> (World, [Deal; 2]) {
    let mut world = world();
    world.market.share(1 << 32);
    world.ask_for(50, 2, Distinct::Provider, true);
    let deals = [world.accept(1), world.accept(2)];
    (world, deals)
}

/// What the market asks for is done, and nothing but the clock goes on.
fn execute_all(world: &mut World, commands: Vec<Command>) {
    world.run(commands);
    world.wait(1_000);
}

#[test]
fn a_bundle_that_has_not_begun_is_over_when_its_deals_come_to_several_brokers() {
    for bound in [false, true] {
        let (mut old, deals) = bundled();
        if bound {
            old.sign_all(50, &deals).unwrap();
            deals.iter().for_each(|deal| old.bind(deal));
        }
        let records: Vec<_> = old.stored.values().cloned().collect();
        let of = |shards: &BTreeSet<ShardId>, within: bool| {
            let here = |r: &&DealRecord| shards.contains(&ShardId::of(r)) == within;
            records.iter().filter(here).cloned().collect::<Vec<_>>()
        };
        let ended = if bound {
            DealStatus::Ended
        } else {
            DealStatus::Aborted
        };
        // The broker that keeps one of them.
        let (waited, commands) = old.market.forget(&france(), old.now);
        assert!(waited.is_empty());
        execute_all(&mut old, commands);
        assert_eq!(old.status(&deals[1]), ended);
        assert!(old.stored[&deals[1].id()].spared);
        // The one that takes over the other.
        let mut new = part(3);
        for record in &records {
            new.stored.insert(record.deal_id, record.clone());
            if let Some(outcome) = &record.outcome {
                new.outcomes.insert(record.deal_id, outcome.message.outcome);
            }
        }
        let commands = new.market.adopt(of(&france(), true), new.now);
        execute_all(&mut new, commands);
        assert_eq!(new.status(&deals[0]), ended);
        // One that takes over both goes on with them.
        let mut whole = part(3);
        assert_eq!(whole.market.adopt(records.clone(), whole.now), []);
        assert_eq!(whole.market.deals().count(), 2);
    }
}

#[test]
fn leases_that_stand_alone_or_have_begun_go_on_at_several_brokers() {
    let mut world = world();
    world.market.share(1 << 32);
    world.ask_for(50, 2, Distinct::Provider, false);
    let apart = [world.accept(1), world.accept(2)];
    let (_, commands) = world.market.forget(&france(), world.now);
    assert_eq!(commands, []);
    assert_eq!(world.status(&apart[1]), DealStatus::Proposed);

    let (mut world, deals) = bundled();
    world.sign_all(50, &deals).unwrap();
    for deal in &deals {
        world.bind(deal);
        world.ready(deal);
        world.connect(deal);
        world.serve(deal);
    }
    let (_, commands) = world.market.forget(&france(), world.now);
    assert_eq!(commands, []);
    assert_eq!(world.status(&deals[1]), DealStatus::Active);
}

#[test]
fn a_bundle_rests_at_each_broker_until_one_of_them_has_all_of_it() {
    for all_or_nothing in [true, false] {
        let mut world = part(1);
        let until = world.now.after(600);
        let request = resting(50, 1, |request| {
            request.rest_until = until;
            request.bundle = bundle(1, 2, Distinct::Provider, all_or_nothing);
        });
        let id = request.message.id();
        let seed = B256::repeat_byte(7);
        let record = world.market.rest_everywhere(request, seed, world.now);
        let record = record.unwrap();
        world.requests.insert(id, record.clone());
        world.market.put_to_rest(record, world.now);
        let come = |world: &mut World, provider| {
            let offer = offer(provider, 5, 1);
            world.market.agent_joined(key(provider).address());
            let placed = world.market.place(offer, placed(provider, "FR"), world.now);
            placed.unwrap();
        };
        come(&mut world, 1);
        if all_or_nothing {
            world.run(Vec::new());
            assert!(world.proposals.is_empty(), "one is too few");
        }
        come(&mut world, 2);
        world.run(Vec::new());
        let asked = world.proposals.clone();
        assert_eq!(asked.len(), 2);
        for (provider, number, _) in &asked {
            let disputed = world.market.disputed(*provider, *number).unwrap();
            assert_eq!((disputed.request, disputed.rests), (id, true));
        }
        // One refuses and there is no other. Nothing is matched by that, as another broker may match it meanwhile.
        world.accept(1);
        world.decline(2);
        assert_eq!(world.requests[&id].status, RequestStatus::Resting);
        assert!(world.stored.values().all(|record| record.turned_down));
        if !all_or_nothing {
            // What is signed is taken once none has.
            let (number, disputed) = world.market.undecided().unwrap();
            assert_eq!((disputed.request, disputed.rests), (id, true));
            let commands = world.market.fill(number, world.now);
            world.run(commands);
            assert_eq!(world.requests[&id].status, RequestStatus::Matched);
            assert_eq!((world.stored.len(), world.market.undecided()), (1, None));
            continue;
        }
        assert_eq!(world.market.undecided(), None);
        come(&mut world, 3);
        world.run(Vec::new());
        world.accept(1);
        // Another broker was first: whoever has signed is let go.
        let commands = world.market.drop_request(id, world.now);
        world.run(commands);
        assert!(world.stored.values().all(|record| record.turned_down));
        assert_eq!((world.free(), world.market.pending()), (3, 0));
        assert_eq!(world.requests[&id].status, RequestStatus::Resting);
    }
}

#[test]
fn a_bundle_that_was_filled_elsewhere_is_asked_for_no_more() {
    let mut world = world();
    world.market.share(1 << 32);
    let ticket = world.ask_for(50, 2, Distinct::Provider, true);
    let signed = world.accept(1);
    let (provider, number, proposal) = world.proposals[0].clone();
    let disputed = Disputed {
        request: proposal.request.message.id(),
        requester: key(50).address(),
        rests: false,
    };
    assert_eq!(world.market.disputed(provider, number), Some(disputed));
    let commands = world.market.was_filled(provider, number, world.now);
    world.run(commands);
    assert!(world.answers[&ticket].is_err());
    assert_eq!(world.status(&signed), DealStatus::Aborted);
    assert_eq!((world.free(), world.market.pending()), (4, 0));
    // Whoever has asked all brokers says that it is refused, if it is.
    assert!(world.requests.is_empty());
}

/// Two of these, or fewer; the second provider refuses.
fn half_signed() -> (World, Ticket, Deal, Disputed) {
    let mut world = world();
    world.market.share(1 << 32);
    let ticket = world.ask_for(50, 2, Distinct::Provider, false);
    let (provider, number, proposal) = world.proposals[0].clone();
    let disputed = Disputed {
        request: proposal.request.message.id(),
        requester: key(50).address(),
        rests: false,
    };
    assert_eq!(world.market.disputed(provider, number), Some(disputed));
    let signed = world.accept(1);
    assert_eq!(world.market.undecided(), None, "the other one is asked");
    world.decline(2);
    assert!(!world.answers.contains_key(&ticket) && world.stored.is_empty());
    (world, ticket, signed, disputed)
}

#[test]
fn a_bundle_that_takes_fewer_is_filled_by_a_refusal_once_brokers_have_decided() {
    let (mut world, ticket, signed, disputed) = half_signed();
    let (number, undecided) = world.market.undecided().unwrap();
    assert_eq!(undecided, disputed);
    let commands = world.market.fill(number, world.now);
    world.run(commands);
    let Ok(Answered::Bundle(deals)) = &world.answers[&ticket] else {
        panic!("{:?}", world.answers);
    };
    assert_eq!(deals.len(), 1);
    assert_eq!(world.status(&signed), DealStatus::Proposed);
    assert_eq!(world.market.undecided(), None);
    // Said again, it changes nothing.
    assert_eq!(world.market.fill(number, world.now), []);
    assert_eq!(world.market.filled_before(number, world.now), []);

    let (mut world, ticket, signed, _) = half_signed();
    let (number, _) = world.market.undecided().unwrap();
    let commands = world.market.filled_before(number, world.now);
    world.run(commands);
    assert!(world.answers[&ticket].is_err());
    assert!(world.stored[&signed.id()].turned_down);
    assert_eq!((world.free(), world.market.pending()), (4, 0));
    assert_eq!(world.market.undecided(), None);
}

#[test]
fn one_address_is_disputed_if_its_request_may_have_come_to_rest() {
    let mut world = world();
    world.market.share(1 << 32);
    world.ask(50);
    let (provider, number, _) = world.proposals[0].clone();
    assert_eq!(world.market.disputed(provider, number), None);
    let until = world.now.after(600);
    let ticket = world.post(resting(51, 1, |request| request.rest_until = until));
    let (provider, number, _) = world.proposals[1].clone();
    let disputed = world.market.disputed(provider, number).unwrap();
    assert!(!disputed.rests);
    let commands = world.market.was_filled(provider, number, world.now);
    world.run(commands);
    assert!(world.answers[&ticket].is_err());
    assert_eq!((world.free(), world.market.pending()), (3, 1));
}
