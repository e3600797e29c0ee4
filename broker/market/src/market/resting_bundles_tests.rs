//! Requests for several addresses that rest.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use ipsx_metering::U256;

use super::super::bundling::tests::bundle;
use super::super::world::{World, config, key, offer, placement, resting};
use super::super::{MarketConfig, RequestFailure};
use super::*;
use crate::avoid::Distinct;
use crate::deal::Deal;
use crate::offer::WeeklyHours;
use crate::resting::{NoRest, RestingLimits};
use crate::start::StartWindow;
use crate::status::DealStatus;

impl World {
    /// Posts a request for several addresses that may rest for so long.
    pub(crate) fn rest_for(
        &mut self,
        requester: u8,
        count: u8,
        distinct: Distinct,
        all_or_nothing: bool,
        seconds: u64,
    ) -> RequestId {
        self.rest_for_ahead((requester, count), distinct, all_or_nothing, seconds, 0)
    }

    /// The same, to start so many seconds later, or up to two hours after that.
    pub(crate) fn rest_for_ahead(
        &mut self,
        (requester, count): (u8, u8),
        distinct: Distinct,
        all_or_nothing: bool,
        seconds: u64,
        ahead: u64,
    ) -> RequestId {
        let (nonce, until) = (self.tickets + 1, self.now.after(seconds));
        let earliest = self.now.after(ahead);
        let start = StartWindow {
            earliest,
            latest: earliest.after(7_200),
        };
        let request = resting(requester, nonce, |request| {
            request.rest_until = until;
            if ahead > 0 {
                request.rest_until = until.min(start.latest);
                request.start = start;
            }
            request.bundle = bundle(nonce, count, distinct, all_or_nothing);
        });
        let id = request.message.id();
        self.post(request);
        id
    }

    /// The same for three of different providers, or none.
    fn rest_for_three(&mut self, requester: u8) -> RequestId {
        self.rest_for(requester, 3, Distinct::Provider, true, 600)
    }

    /// The deals of a request that are not turned down.
    fn deals_of(&self, id: RequestId) -> Vec<DealStatus> {
        let own = self.stored.values();
        let own = own.filter(|record| record.deal.request == id && !record.turned_down);
        own.map(|record| record.status()).collect()
    }

    fn leaves(&mut self, provider: u8) {
        let commands = self.market.agent_left(key(provider).address(), self.now);
        self.run(commands);
    }

    /// How many providers are asked for a request right now.
    fn asked_for(&self, id: RequestId) -> usize {
        self.asked().iter().filter(|asked| **asked == id).count()
    }

    fn accept_all(&mut self, providers: &[u8]) -> Vec<Deal> {
        let deals = providers.iter().map(|provider| self.accept(*provider));
        deals.collect()
    }
}

const PROPOSED: DealStatus = DealStatus::Proposed;

#[test]
fn a_bundle_rests_until_the_offer_comes_that_completes_it() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1)]);
    let id = world.rest_for_three(50);
    let Some(Ok(Answered::Rests(view))) = world.answers.values().next() else {
        panic!("{:?}", world.answers);
    };
    assert_eq!((view.request, view.status), (id, RequestStatus::Resting));
    assert_eq!((world.asked().len(), world.free()), (0, 2));
    // One that is too dear is none.
    world.come(4, 11, 1);
    assert!(world.asked().is_empty());
    world.come(3, 3, 1);
    assert_eq!(world.asked(), [id; 3]);
    world.accept_all(&[3, 1]);
    assert!(world.stored.is_empty(), "before all have signed");
    assert_eq!(world.stands(id), RequestStatus::Resting);
    world.accept(2);
    assert_eq!(world.stands(id), RequestStatus::Matched);
    assert_eq!(world.deals_of(id), [PROPOSED; 3]);
    assert!(world.market.resting().is_empty());
}

#[test]
fn what_comes_of_a_bundle_is_written_at_once() {
    let mut world = World::new();
    let id = world.rest_for(50, 2, Distinct::Provider, true, 600);
    world.come(1, 1, 1);
    world.come(2, 2, 1);
    world.accept(1);
    let (address, number, proposal) = world.proposals.pop().unwrap();
    let sold = world.market.book().get(proposal.offer).unwrap().offer;
    let terms = super::super::world::terms(2);
    let deal = Deal::new(&proposal, &sold, &terms);
    let hash = ipsx_metering::TypedData::signing_hash(&deal, &config().domain);
    let signature = key(2).sign_hash(hash);
    let commands = world
        .market
        .accept(address, number, &terms, signature, world.now);
    let stored = |command: &Command| match command {
        Command::Store { record, .. } => record.deal.request == id,
        Command::StoreRequest { record } => record.status == RequestStatus::Matched,
        _ => false,
    };
    assert_eq!((commands.len(), commands.iter().all(stored)), (3, true));
}

#[test]
fn only_what_it_lacks_has_a_bundle_looked_for() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1)]);
    let id = world.rest_for_three(50);
    let found = [1, 2].map(|provider| key(provider).address());
    let lacks = |world: &World| {
        let resting = world.market.resting.of_id(id).unwrap();
        resting.lacks().avoid.providers.clone()
    };
    assert_eq!(lacks(&world), found);
    let candidates = |world: &mut World, provider: u8| {
        let mut offer = offer(provider, 1, 1);
        offer.nonce = 2;
        let placed = world.market.place(offer, placement(provider), world.now);
        placed.unwrap();
        let changed = world.market.book.take_changed();
        world
            .market
            .book
            .waiting_for(&changed, &world.market.resting)
    };
    // Another offer of whom it would take already, and one of somebody else.
    assert!(candidates(&mut world, 1).is_empty());
    assert_eq!(candidates(&mut world, 3).len(), 1);
    world.leaves(3);
    // One that has gone is missed only when there is another one to take.
    world.leaves(2);
    assert_eq!(lacks(&world), found);
    world.come(4, 4, 1);
    let others = [1, 4].map(|provider| key(provider).address());
    assert_eq!(lacks(&world), others);
    world.come(2, 2, 1);
    assert_eq!(world.asked(), [id; 3]);
}

#[test]
fn fewer_are_taken_as_soon_as_there_is_one() {
    let mut world = World::new();
    let id = world.rest_for(50, 3, Distinct::Provider, false, 600);
    assert_eq!(world.stands(id), RequestStatus::Resting);
    world.come(1, 1, 1);
    world.decline(1);
    assert_eq!(world.stands(id), RequestStatus::Resting);
    world.come(2, 2, 1);
    assert_eq!(world.asked(), [id]);
    world.accept(2);
    assert_eq!(world.stands(id), RequestStatus::Matched);
    // What there is at once is all there will be.
    world.leaves(1);
    let ticket = world.tickets + 1;
    world.come(3, 3, 1);
    let id = world.rest_for(51, 2, Distinct::Provider, false, 600);
    world.accept(3);
    let answer = world.answers[&Ticket(ticket)].clone();
    assert!(matches!(answer, Ok(Answered::Bundle(deals)) if deals.len() == 1));
    assert!(!world.requests.contains_key(&id));
}

#[test]
fn a_bundle_rests_on_when_a_provider_refuses_and_those_that_signed_are_free() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1)]);
    let id = world.rest_for_three(50);
    world.come(3, 3, 1);
    let first = world.accept(1);
    world.decline(2);
    assert_eq!(world.status(&first), DealStatus::Aborted);
    assert_eq!(world.stands(id), RequestStatus::Resting);
    assert_eq!((world.deals_of(id).len(), world.free()), (0, 3));
    assert!(
        world.asked().len() == 1,
        "nobody answers the third any more"
    );
    world.proposals.clear();
    // Somebody else instead; who has signed before signs another deal.
    world.come(4, 4, 1);
    assert_eq!(world.asked(), [id; 3]);
    let deals = world.accept_all(&[1, 3, 4]);
    assert_ne!(deals[0].id(), first.id());
    assert_eq!(world.stands(id), RequestStatus::Matched);
    assert_eq!(world.deals_of(id), [PROPOSED; 3]);
}

#[test]
fn a_bundle_that_was_refused_as_it_was_posted_comes_to_rest() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1), (3, 3, 1)]);
    let id = world.rest_for_three(50);
    assert!(world.answers.is_empty());
    world.accept(1);
    world.decline(2);
    assert!(matches!(
        world.answers.values().next(),
        Some(Ok(Answered::Rests(_)))
    ));
    world.proposals.clear();
    world.publish(2, |offer| offer.nonce = 2);
    assert_eq!(world.asked(), [id; 3]);
    world.accept_all(&[1, 2, 3]);
    assert_eq!(world.stands(id), RequestStatus::Matched);
}

#[test]
fn a_bundle_is_taken_back_or_expires_while_providers_are_asked() {
    for cancelled in [true, false] {
        let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1)]);
        let id = world.rest_for(50, 3, Distinct::Provider, true, 4);
        world.come(3, 3, 1);
        let signed = world.accept(1);
        if cancelled {
            world.cancel(50, id).unwrap();
        } else {
            world.wait(5);
        }
        let expected = match cancelled {
            true => RequestStatus::Cancelled,
            false => RequestStatus::Expired,
        };
        assert_eq!(world.stands(id), expected);
        assert_eq!(world.status(&signed), DealStatus::Aborted);
        assert_eq!((world.free(), world.market.pending()), (3, 0));
        // Nobody waits for this one.
        world.accept(2);
        assert_eq!(world.stored.len(), 1);
    }
}

#[test]
fn a_restart_keeps_a_bundle_and_its_age() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1)]);
    let [id, younger] = [50, 51].map(|requester| world.rest_for_three(requester));
    world.restart();
    world.come(1, 1, 1);
    world.come(2, 2, 1);
    assert!(world.asked().is_empty());
    world.come(3, 3, 1);
    assert_eq!(world.asked(), [id; 3]);
    world.accept_all(&[1, 2]);
    // Nothing is left of those.
    world.restart();
    assert_eq!((world.stored.len(), world.market.resting().len()), (0, 2));
    for provider in [3, 2, 1] {
        world.come(provider, 1, 1);
    }
    assert_eq!(world.asked(), [id; 3]);
    world.accept_all(&[1, 2, 3]);
    assert_eq!(world.stands(id), RequestStatus::Matched);
    assert_eq!(world.stands(younger), RequestStatus::Resting);
}

#[test]
fn an_offer_is_not_kept_for_a_bundle_that_it_does_not_complete() {
    let mut world = World::new();
    let older = world.rest_for(50, 2, Distinct::Provider, true, 600);
    let younger = world.rest(51, 600);
    world.come(1, 1, 1);
    assert_eq!(world.asked(), [younger]);
    world.decline(1);
    world.proposals.clear();
    // With a second one, the older request comes first.
    world.come(2, 2, 1);
    assert_eq!(world.asked(), [older; 2]);
}

/// Of two addresses at once, a younger request gets none before the older one has all that it needs; of what is too little for
/// the older one it gets its own.
#[test]
fn an_older_bundle_takes_all_that_it_needs_before_a_younger_request_gets_any() {
    let mut world = World::new();
    let older = world.rest_for_three(50);
    let younger = [51, 52].map(|requester| world.rest(requester, 600));
    for provider in [1, 2, 3, 4] {
        let (address, now) = (key(provider).address(), world.now);
        world.market.agent_joined(address);
        let offer = offer(provider, 5, 1);
        let placed = world.market.place(offer, placement(provider), now);
        placed.unwrap();
    }
    world.run(Vec::new());
    assert_eq!(world.asked(), [older, older, older, younger[0]]);
    // What it lets go it takes again first, as soon as that is enough.
    world.decline(2);
    assert_eq!(world.asked().last(), Some(&younger[1]));
    world.come(5, 5, 1);
    world.come(6, 5, 1);
    assert_eq!(world.stands(older), RequestStatus::Resting);
    let asked = world.asked();
    assert_eq!(asked[asked.len() - 3..], [older; 3], "{asked:?}");
}

const OPEN_AT: [(u8, u8); 3] = [(1, 15), (2, 16), (3, 15)];

/// A provider whose address is for sale in one hour only: it is Friday, 14:00.
fn comes_for_an_hour(world: &mut World, provider: u8) {
    let (_, hour) = OPEN_AT[usize::from(provider) - 1];
    world.publish(provider, |offer| {
        offer.weekly_hours = WeeklyHours(U256::from(1u8) << (4 * 24 + hour));
    });
}

#[test]
fn a_bundle_that_starts_later_rests_until_enough_are_for_sale_in_one_second() {
    let mut world = World::new();
    let id = world.rest_for_ahead((50, 2), Distinct::Provider, true, 3_000, 60);
    comes_for_an_hour(&mut world, 1);
    comes_for_an_hour(&mut world, 2);
    assert_eq!(world.stands(id), RequestStatus::Resting);
    assert!(world.asked().is_empty(), "one in each hour");
    // It is found although one for the same hour was found before.
    comes_for_an_hour(&mut world, 3);
    assert_eq!(world.asked(), [id; 2]);
    let starts: Vec<_> = world.proposals.iter().map(|(.., p)| p.starts_at).collect();
    assert_eq!(
        starts,
        [UnixSeconds(world.now.0 / 3_600 * 3_600 + 3_600); 2]
    );
    world.accept_all(&[1, 3]);
    assert_eq!(world.stands(id), RequestStatus::Matched);
    // One that takes fewer takes the first second for which there is any.
    let id = world.rest_for_ahead((51, 2), Distinct::Provider, false, 3_000, 60);
    assert_eq!(world.asked_for(id), 1);
    // One that finds nothing is over with its time.
    let late = world.rest_for_ahead((52, 3), Distinct::Provider, true, 3_000, 60);
    world.wait(3_001);
    assert_eq!(world.stands(late), RequestStatus::Expired);
}

#[test]
fn a_bundle_takes_as_much_room_as_it_has_leases() {
    let mut world = World::new();
    let limit = config().resting.requests_per_payer;
    world.rest_for(50, 2, Distinct::Provider, true, 600);
    world.rest_for(50, 2, Distinct::Provider, true, 600);
    let refused = world.answers.values().last().unwrap().clone();
    let too_many = RequestFailure::NoRest(NoRest::TooMany(limit));
    assert_eq!(refused, Err(too_many));
    assert_eq!(world.market.resting().len(), 1);
    for requester in [51, 52] {
        world.rest_for_three(requester);
    }
    world.rest(53, 600);
    let refused = world.answers.values().last().unwrap().clone();
    assert_eq!(refused, Err(RequestFailure::NoRest(NoRest::Full(8))));
}

#[test]
fn a_bundle_waits_until_its_payer_may_have_as_many_unstarted_deals() {
    let mut world = World::new();
    let id = world.rest_for(50, 3, Distinct::Provider, true, 600);
    world.come(4, 1, 1);
    let other = world.ask(50);
    let deal = world.accept(4);
    assert!(world.answers[&other].is_ok());
    for provider in [1, 2, 3] {
        world.come(provider, 1, 1);
    }
    assert!(world.asked().is_empty());
    let commands = world.market.give_up(deal.id(), world.now);
    world.run(commands);
    assert_eq!(world.asked(), [id; 3]);
}

#[test]
fn a_bundle_is_refused_only_so_often_and_then_says_why() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1)]);
    let id = world.rest_for_three(50);
    for nonce in 1..=MOST_ASKED as u64 {
        assert_eq!(world.stands(id), RequestStatus::Resting);
        world.publish(3, |offer| offer.nonce = nonce);
        world.decline(3);
        world.proposals.clear();
    }
    let record = &world.requests[&id];
    assert_eq!(record.status, RequestStatus::Refused);
    let reason = record.reason.clone().unwrap();
    assert!(reason.starts_with("2 of 3 addresses"), "{reason}");
    assert_eq!(world.market.book().leases_held(), 0);
}

#[test]
fn a_refusal_after_signatures_is_written_down_with_its_reason() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1)]);
    for signs in [false, true] {
        let ticket = world.ask_for(50, 2, Distinct::Provider, true);
        let id = world.posted[&ticket].id();
        if signs {
            world.accept(1);
        }
        world.decline(2);
        world.proposals.clear();
        let failure = world.answers[&ticket].clone().unwrap_err();
        let kept = world
            .requests
            .get(&id)
            .map(|r| (r.status, r.reason.clone()));
        let refused = (RequestStatus::Refused, Some(failure.to_string()));
        assert_eq!(kept, signs.then_some(refused));
    }
}

/// Offers of several addresses are new each time that they change: many bundles that they do not complete are looked for
/// in parts, each once.
#[test]
fn many_bundles_are_looked_for_in_parts() {
    let mut world = World::new();
    let config = MarketConfig {
        resting: RestingLimits::default(),
        ..config()
    };
    world.market = Market::new(config, Vec::new(), world.now);
    for requester in 1..=100 {
        world.rest_for(requester, 3, Distinct::Address, true, 600);
    }
    let younger = world.rest(101, 600);
    world.market.agent_joined(key(200).address());
    let mut range = offer(200, 1, 2);
    range.prefixes = vec!["192.0.2.0/24".parse().unwrap()];
    let seen: IpAddr = "192.0.2.200".parse().unwrap();
    let place = crate::offer::Placement::at(seen);
    world.market.place(range, place, world.now).unwrap();
    let (mut looks, mut commands) = (0, Vec::new());
    while world.market.poll_timeout() == Some(UnixSeconds(0)) {
        looks += 1;
        commands.extend(world.market.match_resting(world.now));
    }
    // Two are found for each, and a third one is looked for in vain.
    assert_eq!(looks, (100 * 3_usize).div_ceil(SEARCHES));
    let Command::Send { message, .. } = &commands[0] else {
        panic!("{commands:?}");
    };
    let crate::messages::BrokerMessage::Propose { terms, .. } = &**message else {
        panic!("{message:?}");
    };
    assert_eq!(terms.request.message.id(), younger);
    assert_eq!(commands.len(), 1);
}
