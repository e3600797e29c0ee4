#![allow(clippy::unwrap_used)]

use ipsx_metering::{RequestId, U256};

use super::super::world::{World, config, key, offer, placement, resting};
use super::super::{MarketConfig, RequestFailure};
use super::*;
use crate::book::{HoldId, OfferBook};
use crate::messages::BrokerMessage;
use crate::offer::WeeklyHours;
use crate::resting::{NoRest, Resting, RestingLimits};
use crate::start::StartWindow;

impl World {
    /// Posts a request that may rest for so long.
    pub(crate) fn rest(&mut self, requester: u8, seconds: u64) -> RequestId {
        let until = self.now.after(seconds);
        let number = self.tickets + 1;
        let request = resting(requester, number, |request| request.rest_until = until);
        let id = request.message.id();
        self.post(request);
        id
    }

    /// An agent comes with an offer.
    pub(crate) fn come(&mut self, provider: u8, per_second: u128, leases: u32) {
        self.publish(provider, |offer| {
            offer.prices.per_second.0.0 = per_second;
            offer.capacity.leases = leases;
        });
    }

    pub(crate) fn publish(&mut self, provider: u8, change: impl FnOnce(&mut crate::offer::Offer)) {
        let (_, commands) = self.market.agent_joined(key(provider).address());
        self.run(commands);
        let mut offer = offer(provider, 5, 1);
        change(&mut offer);
        let placed = self.market.place(offer, placement(provider), self.now);
        placed.unwrap();
        self.run(Vec::new());
    }

    pub(crate) fn stands(&self, id: RequestId) -> RequestStatus {
        self.requests[&id].status
    }

    /// Whom providers are asked for, in the order of the proposals.
    pub(crate) fn asked(&self) -> Vec<RequestId> {
        let proposals = self.proposals.iter();
        proposals.map(|(.., p)| p.request.message.id()).collect()
    }

    pub(crate) fn decline(&mut self, provider: u8) {
        let address = key(provider).address();
        let at = self.proposals.iter().position(|(p, ..)| *p == address);
        let (_, number, _) = self.proposals.remove(at.unwrap());
        let commands = self.market.decline(address, number, "no", self.now);
        self.run(commands);
    }

    pub(crate) fn cancel(&mut self, requester: u8, id: RequestId) -> Result<(), RequestRefusal> {
        let address = key(requester).address();
        let commands = self.market.cancel(address, id, self.now)?;
        self.run(commands);
        Ok(())
    }

    /// What a look would propose by the obvious way: every request that rests, the oldest first, against every offer.
    pub(crate) fn slow_matches(&self) -> Vec<(RequestId, OfferId)> {
        let market = &self.market;
        let mut book = market.book.clone();
        let mut rest: Vec<_> = self
            .requests
            .values()
            .filter(|record| record.status == RequestStatus::Resting)
            .filter_map(|record| market.resting.of_id(record.id()))
            .filter(|resting| resting.asked.is_none())
            .collect();
        rest.sort_by_key(|resting| resting.record.number);
        let mut matches: Vec<(RequestId, OfferId)> = Vec::new();
        let mut more = std::collections::BTreeMap::<Address, usize>::new();
        for resting in rest {
            let request = &resting.record.request.message;
            let own = more.entry(request.payer).or_default();
            let (unstarted, count) = (market.unstarted(request.payer), request.count());
            if unstarted + *own + count > config().unstarted_deals || request.rest_until < self.now
            {
                continue;
            }
            let found = take_each(&mut book, resting, self.now);
            *own += found.len();
            matches.extend(found.into_iter().map(|offer| (request.id(), offer)));
        }
        matches
    }
}

/// Takes one lease after the other for a request, in the first second for which there are enough, or none if there is no such.
fn take_each(book: &mut OfferBook, resting: &Resting, now: UnixSeconds) -> Vec<OfferId> {
    let start = resting.record.request.message.start;
    if resting.record.request.message.count() == 1 {
        return take_from(book, resting, start, now);
    }
    let mut found = start.together(now);
    let found = found.find_map(|start| {
        let found = take_from(book, resting, start, now);
        (!found.is_empty()).then_some(found)
    });
    found.unwrap_or_default()
}

fn take_from(
    book: &mut OfferBook,
    resting: &Resting,
    start: StartWindow,
    now: UnixSeconds,
) -> Vec<OfferId> {
    let request = &resting.record.request.message;
    let (mut filter, distinct) = (request.filter.clone(), request.bundle.distinct);
    if request.count() > 1 {
        distinct.prepare(&mut filter.avoid);
    }
    let hold = |leg: usize| HoldId(1 << 60 | resting.record.number << 8 | leg as u64);
    let mut found = Vec::new();
    for leg in 0..request.count() {
        let wanted = Wanted {
            filter: &filter,
            start,
            ..Wanted::from(request)
        };
        let Ok(listing) = book.take(hold(leg), &wanted, now, &resting.tried) else {
            break;
        };
        let provider = listing.offer.provider;
        distinct.avoid_like(&mut filter.avoid, &listing.placement, provider);
        found.push(listing.id);
    }
    if request.bundle.all_or_nothing && found.len() < request.count() {
        for leg in 0..found.len() {
            book.release(hold(leg));
        }
        found.clear();
    }
    found
}

#[test]
fn a_request_rests_until_an_offer_comes() {
    let mut world = World::new();
    let id = world.rest(50, 600);
    let Some(Ok(Answered::Rests(view))) = world.answers.values().next() else {
        panic!("{:?}", world.answers);
    };
    assert_eq!((view.request, view.status), (id, RequestStatus::Resting));
    world.come(1, 11, 1);
    assert!(world.asked().is_empty(), "it is too dear");
    world.come(2, 5, 1);
    assert_eq!(world.asked(), [id]);
    assert_eq!(world.stands(id), RequestStatus::Resting);
    let deal = world.accept(2);
    assert_eq!(world.stands(id), RequestStatus::Matched);
    assert!(world.market.resting().is_empty());
    world.sign(50, &deal);
    world.bind(&deal);
}

#[test]
fn without_rest_until_nothing_rests() {
    let mut world = World::new();
    let ticket = world.ask(50);
    assert!(world.answers[&ticket].is_err());
    assert!(world.market.resting().is_empty());
}

#[test]
fn the_oldest_come_first_and_no_more_than_there_is_room_for() {
    let mut world = World::new();
    let [first, second, third] = [50, 51, 52].map(|requester| world.rest(requester, 600));
    world.come(1, 5, 2);
    assert_eq!(world.asked(), [first, second]);
    assert_eq!(world.free(), 0);
    world.accept(1);
    assert_eq!(world.stands(second), RequestStatus::Matched);
    // A lease that is given back is the next one's.
    world.decline(1);
    assert_eq!(world.asked(), [third]);
    assert_eq!(world.stands(first), RequestStatus::Resting);
}

#[test]
fn a_provider_that_refused_is_not_asked_again_for_the_same_offer() {
    let mut world = World::new();
    let id = world.rest(50, 600);
    world.come(1, 5, 1);
    world.decline(1);
    assert!(world.asked().is_empty());
    world.publish(1, |offer| offer.nonce = 2);
    assert_eq!(world.asked(), [id]);
    // One that does not answer at all has refused, too.
    world.wait(config().timers.propose + 1);
    assert!(world.asked().len() == 1 && world.market.pending() == 0);
}

#[test]
fn whoever_was_refused_by_the_first_rests_and_asks_the_others() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1)]);
    let id = world.rest(50, 600);
    for provider in 1..4 {
        assert!(world.answers.is_empty());
        world.decline(provider);
    }
    assert!(matches!(
        world.answers.values().next(),
        Some(Ok(Answered::Rests(_)))
    ));
    assert_eq!(world.asked(), [id]);
    world.accept(4);
    assert_eq!(world.stands(id), RequestStatus::Matched);
}

#[test]
fn a_request_asks_only_so_many() {
    let mut world = World::new();
    let id = world.rest(50, 600);
    for nonce in 1..=MOST_ASKED as u64 {
        assert_eq!(world.stands(id), RequestStatus::Resting);
        world.publish(1, |offer| offer.nonce = nonce);
        world.decline(1);
    }
    assert_eq!(world.stands(id), RequestStatus::Refused);
    assert_eq!(world.market.book().leases_held(), 0);
}

#[test]
fn a_request_is_cancelled_by_its_requester_also_while_a_provider_is_asked() {
    let mut world = World::new();
    let [first, second] = [50, 50].map(|requester| world.rest(requester, 600));
    let theirs = world.cancel(51, first);
    assert_eq!(theirs, Err(RequestRefusal::NotYours(first)));
    world.cancel(50, first).unwrap();
    assert_eq!(world.stands(first), RequestStatus::Cancelled);
    let again = world.cancel(50, first);
    assert_eq!(again, Err(RequestRefusal::Unknown(first)));
    world.come(1, 5, 1);
    assert_eq!(world.asked(), [second]);
    world.cancel(50, second).unwrap();
    assert_eq!(world.free(), 1);
    world.accept(1);
    assert!(world.stored.is_empty(), "nobody waits for this signature");
}

#[test]
fn a_request_expires_also_while_a_provider_is_asked() {
    let mut world = World::new();
    let [first, second] = [1, 3].map(|seconds| world.rest(50, seconds));
    assert_eq!(world.market.poll_timeout(), Some(world.now.after(2)));
    world.wait(2);
    assert_eq!(world.stands(first), RequestStatus::Expired);
    world.come(1, 5, 1);
    assert_eq!(world.asked(), [second]);
    world.wait(2);
    assert_eq!(world.stands(second), RequestStatus::Expired);
    assert_eq!((world.free(), world.market.pending()), (1, 0));
}

#[test]
fn so_many_rest_of_one_payer_and_of_all() {
    let mut world = World::new();
    let posted: Vec<_> = (0..4).map(|_| world.rest(50, 600)).collect();
    let refused = world.answers.values().last().unwrap().clone();
    assert_eq!(
        refused,
        Err(RequestFailure::NoRest(NoRest::TooMany(3))),
        "{posted:?}"
    );
    for requester in [51, 51, 51, 52, 52, 52] {
        world.rest(requester, 600);
    }
    let refused = world.answers.values().last().unwrap().clone();
    assert_eq!(refused, Err(RequestFailure::NoRest(NoRest::Full(8))));
    assert_eq!(world.market.resting().len(), 8);
    // Whatever becomes of them gives the room back.
    world.cancel(50, posted[0]).unwrap();
    let id = world.rest(50, 600);
    assert_eq!(world.stands(id), RequestStatus::Resting);
}

#[test]
fn a_restart_keeps_requests_and_their_order() {
    let mut world = World::new();
    let ids = [52, 50, 51].map(|requester| world.rest(requester, 600));
    world.come(1, 5, 1);
    assert_eq!(world.asked(), ids[..1]);
    world.restart();
    assert_eq!(world.market.resting().len(), 3);
    world.come(1, 5, 2);
    assert_eq!(world.asked(), ids[..2]);
    let younger = world.rest(53, 600);
    world.come(2, 5, 2);
    assert_eq!(world.asked(), [ids[0], ids[1], ids[2], younger]);
}

#[test]
fn whoever_has_enough_unstarted_deals_waits_for_one_to_start() {
    let mut world = World::with_offers(&[(1, 5, 8)]);
    let deals = [(); 3].map(|()| {
        world.ask(50);
        world.accept(1)
    });
    world.market.withdraw(key(1).address(), deals[0].offer);
    let ticket = world.tickets + 1;
    world.rest(50, 600);
    let refused = world.answers[&Ticket(ticket)].clone();
    assert_eq!(refused, Err(RequestFailure::TooManyUnstarted(3)));
    // One that rests already is passed over meanwhile.
    let mut world = World::new();
    let ids = [(); 3].map(|()| world.rest(50, 600));
    world.come(1, 5, 8);
    assert_eq!(world.asked(), ids);
    for _ in 0..3 {
        world.accept(1);
    }
    let fourth = resting(50, 99, |request| {
        request.rest_until = request.expires_at;
        // Another one posts what the same payer is to pay.
        request.requester = key(51).address();
    });
    assert_eq!(world.market.unstarted(fourth.message.payer), 3);
    let id = fourth.message.id();
    let record = at_rest(1_000, fourth, B256::ZERO, world.now);
    world.requests.insert(id, record.clone());
    world.market.restore(vec![record]);
    world.publish(1, |offer| {
        offer.nonce = 2;
        offer.capacity.leases = 8;
    });
    assert!(world.asked().is_empty());
    // The deals expire unsigned.
    world.wait(config().timers.sign + 1);
    assert_eq!(world.asked(), [id]);
}

#[test]
fn an_offer_is_found_when_its_hours_begin() {
    let mut world = World::new();
    let id = world.rest(50, 20_000);
    // It is Friday, 14:00: two hours later.
    let hours = WeeklyHours(U256::from(1u8) << (4 * 24 + 16));
    world.publish(1, |offer| offer.weekly_hours = hours);
    assert!(world.asked().is_empty());
    world.wait(7_199);
    assert!(world.asked().is_empty());
    assert_eq!(world.market.poll_timeout(), Some(world.now.after(1)));
    world.wait(1);
    assert_eq!(world.asked(), [id]);
}

#[test]
fn many_are_asked_in_parts() {
    let mut world = World::new();
    world.market = Market::new(
        MarketConfig {
            resting: RestingLimits::default(),
            ..config()
        },
        Vec::new(),
        world.now,
    );
    let ids: Vec<_> = (1..=150)
        .map(|requester| world.rest(requester, 600))
        .collect();
    let (_, commands) = world.market.agent_joined(key(1).address());
    world.run(commands);
    let placed = world
        .market
        .place(offer(1, 5, 140), placement(1), world.now);
    placed.unwrap();
    let first = world.market.match_resting(world.now);
    assert_eq!(first.len(), SEARCHES);
    assert_eq!(world.market.poll_timeout(), Some(UnixSeconds(0)));
    world.run(first);
    assert_eq!(world.asked(), ids[..140]);
    assert!(
        world
            .told
            .iter()
            .all(|(_, message)| matches!(message, BrokerMessage::Propose { .. }))
    );
}
