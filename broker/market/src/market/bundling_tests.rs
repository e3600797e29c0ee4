#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use ipsx_metering::U256;
use proptest::prelude::*;

use super::super::world::*;
use super::super::{Answered, RequestFailure, Ticket};
use super::*;
use crate::avoid::Distinct;
use crate::bundle::{Bundle, Leg as Keys};
use crate::http::ProposedDeal;
use crate::offer::Placement;
use crate::request::TunnelKey;
use crate::start::StartWindow;
use crate::status::DealStatus;

/// Several addresses for the request of this nonce.
pub(crate) fn bundle(nonce: u64, count: u8, distinct: Distinct, all_or_nothing: bool) -> Bundle {
    let keys = |leg: u8| Keys {
        tunnel_key: TunnelKey(B256::repeat_byte(100 + leg)),
        channel_salt: B256::from(U256::from(nonce << 32 | u64::from(leg))),
    };
    Bundle {
        legs: (1..count).map(keys).collect(),
        distinct,
        all_or_nothing,
    }
}

impl World {
    /// Asks for so many addresses at once.
    pub(crate) fn ask_for(
        &mut self,
        requester: u8,
        count: u8,
        distinct: Distinct,
        all_or_nothing: bool,
    ) -> Ticket {
        self.ask_for_ahead(requester, count, distinct, all_or_nothing, 0)
    }

    /// The same, to start so many seconds later, or up to ten minutes after that.
    pub(crate) fn ask_for_ahead(
        &mut self,
        requester: u8,
        count: u8,
        distinct: Distinct,
        all_or_nothing: bool,
        ahead: u64,
    ) -> Ticket {
        let (nonce, earliest) = (self.tickets + 1, self.now.after(ahead));
        let start = StartWindow {
            earliest,
            latest: earliest.after(600),
        };
        self.post(resting(requester, nonce, |request| {
            if ahead > 0 {
                request.start = start;
            }
            request.bundle = bundle(nonce, count, distinct, all_or_nothing);
        }))
    }

    fn bundled(&self, ticket: Ticket) -> &[ProposedDeal] {
        match self.answers.get(&ticket) {
            Some(Ok(Answered::Bundle(deals))) => deals,
            other => panic!("{other:?}"),
        }
    }

    fn incomplete(&self, ticket: Ticket) -> (usize, usize) {
        match self.answers.get(&ticket) {
            Some(Err(RequestFailure::Incomplete { found, wanted, .. })) => (*found, *wanted),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_cheapest_are_taken_and_nothing_is_written_before_all_have_signed() {
    let mut world = World::with_offers(&[(1, 1, 5), (2, 2, 5), (3, 3, 5), (4, 4, 5)]);
    let ticket = world.ask_for(50, 3, Distinct::Provider, true);
    let mut signed = BTreeSet::new();
    for provider in [3, 1, 2] {
        assert!(world.stored.is_empty() && world.answers.is_empty());
        signed.insert(world.accept(provider).id());
    }
    let deals = world.bundled(ticket);
    let ids: BTreeSet<_> = deals.iter().map(|proposed| proposed.deal_id).collect();
    assert_eq!(ids, signed);
    assert_eq!(world.stored.len(), 3);
    for (leg, proposed) in deals.iter().enumerate() {
        let deal = &proposed.deal;
        assert_eq!(usize::from(deal.leg), leg);
        assert_eq!(deal.sign_by, deals[0].deal.sign_by);
        assert_eq!(deal.start_by, deals[0].deal.start_by);
    }
    let keys: BTreeSet<_> = deals
        .iter()
        .map(|p| p.deal.requester_tunnel_key.0)
        .collect();
    let channels: BTreeSet<_> = deals.iter().map(|p| p.deal.channel().id()).collect();
    assert_eq!((keys.len(), channels.len()), (3, 3));
}

#[test]
fn too_few_are_none_or_as_many_as_there_are() {
    for all_or_nothing in [true, false] {
        let mut world = World::with_offers(&[(1, 1, 5), (2, 2, 5)]);
        let free = world.free();
        let ticket = world.ask_for(50, 3, Distinct::Address, all_or_nothing);
        if all_or_nothing {
            assert_eq!(world.incomplete(ticket), (2, 3));
            assert!(world.proposals.is_empty(), "nobody was asked");
            assert_eq!((world.free(), world.market.pending()), (free, 0));
        } else {
            world.accept(1);
            world.accept(2);
            assert_eq!(world.bundled(ticket).len(), 2);
        }
    }
}

#[test]
fn a_leg_that_is_refused_goes_on_and_the_last_refusal_gives_all_back() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1), (3, 3, 1)]);
    let free = world.free();
    let ticket = world.ask_for(50, 2, Distinct::Provider, true);
    let signed = world.accept(2);
    world.decline(1);
    world.decline(3);
    assert_eq!(world.incomplete(ticket), (1, 2));
    assert_eq!(world.status(&signed), DealStatus::Aborted);
    assert_eq!(world.free(), free);
    assert!(world.market.bundles.is_empty());
}

#[test]
fn a_provider_that_leaves_after_its_signature_is_replaced() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1), (3, 3, 1)]);
    let ticket = world.ask_for(50, 2, Distinct::Provider, true);
    let gone = world.accept(1);
    let commands = world.market.agent_left(key(1).address(), world.now);
    world.run(commands);
    assert_eq!(world.status(&gone), DealStatus::Aborted);
    world.accept(2);
    world.accept(3);
    let providers: Vec<_> = world
        .bundled(ticket)
        .iter()
        .map(|p| p.deal.provider)
        .collect();
    assert_eq!(providers, [3, 2].map(|provider| key(provider).address()));
}

#[test]
fn one_that_stands_alone_is_filled_without_those_that_refuse() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1)]);
    let ticket = world.ask_for(50, 2, Distinct::Provider, false);
    world.decline(1);
    let deal = world.accept(2);
    assert_eq!(world.bundled(ticket)[0].deal, deal);
    // It is signed like any other.
    world.sign(50, &deal);
    world.bind(&deal);
    let ticket = world.ask_for(51, 2, Distinct::Provider, false);
    world.decline(1);
    assert_eq!(world.incomplete(ticket), (0, 2));
}

#[test]
fn silence_is_a_refusal() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1), (3, 3, 1)]);
    let free = world.free();
    let ticket = world.ask_for(50, 2, Distinct::Provider, true);
    world.accept(1);
    world.wait(config().timers.propose + 1);
    assert_eq!(world.proposals.last().unwrap().0, key(3).address());
    world.wait(config().timers.propose + 1);
    assert_eq!(world.incomplete(ticket), (1, 2));
    assert_eq!((world.free(), world.market.pending()), (free, 0));
}

#[test]
fn after_a_pause_nobody_is_asked_for_what_can_not_be_signed_in_time() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1), (3, 3, 1)]);
    let ticket = world.ask_for(50, 2, Distinct::Provider, true);
    let signed = world.accept(1);
    // Nobody looked at the clock meanwhile.
    world.wait(3_600);
    assert_eq!(world.incomplete(ticket), (1, 2));
    assert_eq!(world.status(&signed), DealStatus::Aborted);
    assert_eq!((world.free(), world.market.pending()), (3, 0));
}

#[test]
fn after_a_crash_nothing_is_left_of_what_not_all_have_signed() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1)]);
    world.ask_for(50, 2, Distinct::Provider, true);
    world.accept(1);
    world.restart();
    assert!(world.stored.is_empty());
    assert_eq!(world.market.book().leases_held(), 0);
}

#[test]
fn each_lease_counts_as_unstarted_also_while_others_are_asked() {
    let mut world = World::with_offers(&[(1, 1, 9), (2, 2, 9)]);
    world.ask_for(50, 2, Distinct::Provider, true);
    world.accept(1);
    let refused = world.ask_for(50, 2, Distinct::Provider, true);
    let expected = RequestFailure::TooManyUnstarted(config().unstarted_deals);
    assert_eq!(world.answers[&refused], Err(expected));
}

#[test]
fn one_provider_carries_several_legs_that_differ_by_address() {
    let mut world = World::new();
    world.market.agent_joined(key(1).address());
    let mut range = offer(1, 1, 4);
    range.prefixes = vec!["192.0.2.0/29".parse().unwrap()];
    let placed = world.market.place(range, placement(1), world.now);
    placed.unwrap();
    let refused = world.ask_for(50, 2, Distinct::Provider, true);
    assert_eq!(world.incomplete(refused), (1, 2));
    let ticket = world.ask_for(50, 3, Distinct::Address, true);
    for _ in 0..3 {
        world.accept(1);
    }
    let exits = world.bundled(ticket).iter().map(|p| p.deal.exit_address);
    assert_eq!(exits.collect::<BTreeSet<_>>().len(), 3);
}

/// An offer of the slow model.
#[derive(Clone, Copy, Debug)]
struct Sold {
    provider: u8,
    place: u8,
    price: u128,
    leases: u32,
}

impl Sold {
    /// What it has in common with offers that it is not distinct from.
    fn class(&self, by: Distinct) -> Option<u8> {
        match by {
            Distinct::Address => Some(self.place),
            Distinct::Prefix => Some(self.place / 2),
            Distinct::Asn => self.placement().asn.map(|asn| asn as u8),
            Distinct::Provider => Some(self.provider),
        }
    }

    fn placement(&self) -> Placement {
        let mut placement = Placement::at([10, 0, self.place / 2, self.place].into());
        placement.asn = (self.place > 0).then_some(u32::from(self.place / 3 + 1));
        placement
    }
}

fn sold() -> impl Strategy<Value = Sold> {
    (1u8..5, 0u8..8, 1u128..6, 1u32..3).prop_map(|(provider, place, price, leases)| Sold {
        provider,
        place,
        price,
        leases,
    })
}

/// The least that so many distinct leases cost together, by trying all.
fn cheapest(offers: &[Sold], count: usize, by: Distinct, taken: &mut Vec<u8>) -> Option<u128> {
    if count == 0 {
        return Some(0);
    }
    let (first, others) = offers.split_first()?;
    let without = cheapest(others, count, by, taken);
    let Some(class) = first.class(by).filter(|class| !taken.contains(class)) else {
        return without;
    };
    taken.push(class);
    let with = cheapest(others, count - 1, by, taken).map(|cost| cost + first.price);
    taken.pop();
    with.into_iter().chain(without).min()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// As trying every choice says: leases are found whenever there are any, for the least that they can cost.
    #[test]
    fn no_other_choice_is_cheaper(
        offers in prop::collection::vec(sold(), 0..7),
        count in 2u8..4,
        distinct in prop::sample::select(Distinct::ALL.to_vec()),
    ) {
        // Offers of the same addresses share what is free.
        let mut offers = offers;
        let mut known = BTreeSet::new();
        offers.retain(|sold| known.insert((sold.provider, sold.place)));
        let mut world = World::new();
        let mut prices = BTreeMap::new();
        for (nonce, sold) in offers.iter().enumerate() {
            world.market.agent_joined(key(sold.provider).address());
            let mut offer = offer(sold.provider, sold.price, sold.leases);
            offer.nonce = nonce as u64 + 1;
            offer.prefixes = vec![sold.placement().address.into()];
            prices.insert(offer.id(), sold.price);
            world.market.place(offer, sold.placement(), world.now).unwrap();
        }
        let ticket = world.ask_for(50, count, distinct, true);
        let best = cheapest(&offers, usize::from(count), distinct, &mut Vec::new());
        let asked: u128 = world.proposals.iter().map(|(.., p)| prices[&p.offer]).sum();
        match best {
            Some(cost) => {
                prop_assert_eq!(world.proposals.len(), usize::from(count));
                prop_assert_eq!(asked, cost);
            }
            None => {
                prop_assert_eq!(world.incomplete(ticket).1, usize::from(count));
                prop_assert!(world.proposals.is_empty());
                prop_assert_eq!(world.market.book().leases_held(), 0);
            }
        }
    }
}
