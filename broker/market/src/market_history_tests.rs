//! Random histories of a market: whatever anybody does, its promises hold.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipsx_metering::{RequestId, U256};
use proptest::prelude::*;

use super::world::{NOW, World, key, offer, ready, report};
use super::*;
use crate::avoid::Distinct;
use crate::deal::{Binding, Deal};
use crate::messages::EndCause;
use crate::offer::{Placement, WeeklyHours};
use crate::resting::RequestStatus;
use crate::status::DealStatus;

#[derive(Clone, Debug)]
enum Act {
    Ask(u8),
    AskAhead(u8, u64),
    AskFor(u8, u8, Distinct, bool, u64),
    Rest(u8, u64),
    RestFor(u8, u8, Distinct, bool, u64),
    Cancel(u8, usize),
    Accept(u8),
    Decline(u8),
    Sign(usize),
    Fund(usize, bool),
    Ready(usize),
    Serving(usize),
    Connected(usize),
    ProviderEnds(usize, EndCause),
    RequesterEnds(usize, EndCause),
    Leave(u8),
    Join(u8),
    Wait(u64),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let cause = prop::sample::select(vec![
        EndCause::Completed,
        EndCause::ProviderEnded,
        EndCause::RequesterEnded,
        EndCause::Restarted,
        EndCause::Unpaid,
        EndCause::NotStarted,
    ]);
    let deal = any::<usize>;
    prop_oneof![
        5 => (50u8..53).prop_map(Act::Ask),
        2 => (50u8..53, prop::sample::select(vec![10, 90, 4_000])).prop_map(|(r, s)| Act::AskAhead(r, s)),
        5 => (several(), prop::sample::select(vec![0, 0, 90, 4_000]))
            .prop_map(|((r, n, by, all), s)| Act::AskFor(r, n, by, all, s)),
        6 => (several(), prop::sample::select(vec![0, 0, 90, 4_000]))
            .prop_map(|((r, n, by, all), s)| Act::RestFor(r, n, by, all, s)),
        6 => (50u8..53, prop::sample::select(vec![5, 100, 10_000])).prop_map(|(r, s)| Act::Rest(r, s)),
        1 => (50u8..53, deal()).prop_map(|(r, n)| Act::Cancel(r, n)),
        6 => (1u8..4).prop_map(Act::Accept),
        1 => (1u8..4).prop_map(Act::Decline),
        6 => deal().prop_map(Act::Sign),
        6 => (deal(), prop::bool::weighted(0.9)).prop_map(|(d, f)| Act::Fund(d, f)),
        5 => deal().prop_map(Act::Ready),
        5 => deal().prop_map(Act::Serving),
        3 => deal().prop_map(Act::Connected),
        2 => (deal(), cause.clone()).prop_map(|(d, c)| Act::ProviderEnds(d, c)),
        2 => (deal(), cause).prop_map(|(d, c)| Act::RequesterEnds(d, c)),
        1 => (1u8..4).prop_map(Act::Leave),
        2 => (1u8..4).prop_map(Act::Join),
        3 => (0u64..40).prop_map(Act::Wait),
        1 => Just(Act::Wait(3_600)),
        1 => Just(Act::Restart),
    ]
}

fn several() -> impl Strategy<Value = (u8, u8, Distinct, bool)> {
    let distinct = prop::sample::select(Distinct::ALL.to_vec());
    (50u8..53, 2u8..4, distinct, prop::bool::weighted(0.8))
}

impl World {
    fn act(&mut self, act: Act, deals: &mut Vec<(u8, u8, Deal)>) {
        let now = self.now;
        let pick = |n: usize| deals.get(n % deals.len().max(1)).cloned();
        match act {
            Act::Ask(requester) => {
                self.ask(requester);
            }
            Act::AskAhead(requester, seconds) => {
                self.ask_ahead(requester, seconds, 600);
            }
            Act::AskFor(requester, count, distinct, all_or_nothing, ahead) => {
                self.ask_for_ahead(requester, count, distinct, all_or_nothing, ahead);
            }
            Act::Rest(requester, seconds) => {
                self.rest(requester, seconds);
            }
            Act::RestFor(requester, count, distinct, all_or_nothing, ahead) => {
                let who = (requester, count);
                self.rest_for_ahead(who, distinct, all_or_nothing, 10_000, ahead);
            }
            Act::Cancel(requester, n) => {
                let known: Vec<_> = self.requests.keys().copied().collect();
                let Some(id) = known.get(n % known.len().max(1)) else {
                    return;
                };
                let address = key(requester).address();
                let done = self.market.cancel(address, *id, now);
                self.run(done.unwrap_or_default());
            }
            Act::Accept(provider) => {
                let address = key(provider).address();
                let last = self.proposals.iter().rposition(|(p, ..)| *p == address);
                let known = last
                    .is_some_and(|at| self.market.book().get(self.proposals[at].2.offer).is_some());
                if known {
                    let requester = (50..53).find(|r| {
                        key(*r).address()
                            == self.proposals[last.unwrap()].2.request.message.requester
                    });
                    let deal = self.accept(provider);
                    deals.push((requester.unwrap(), provider, deal));
                }
            }
            Act::Decline(provider) => {
                let address = key(provider).address();
                if let Some(at) = self.proposals.iter().position(|(p, ..)| *p == address) {
                    let (_, number, _) = self.proposals.remove(at);
                    let commands = self.market.decline(address, number, "no", now);
                    self.run(commands);
                }
            }
            Act::Sign(n) => {
                let Some((requester, _, deal)) = pick(n) else {
                    return;
                };
                let legs = self.together(&deal, deals);
                if legs.len() > 1 {
                    let some = self.sign_all(requester, &legs[1..]);
                    assert!(some.is_err(), "a part of a bundle was signed");
                }
                // A refusal means that they are signed, or over.
                let _ = self.sign_all(requester, &legs);
            }
            Act::Fund(n, covered) => {
                let Some((_, _, deal)) = pick(n) else { return };
                let legs = self.together(&deal, deals);
                if !covered {
                    let given_up = legs.iter();
                    let given_up = given_up.flat_map(|leg| self.market.give_up(leg.id(), now));
                    let given_up = given_up.collect();
                    self.run(given_up);
                } else if legs
                    .iter()
                    .all(|leg| self.market.may_bind(leg.id(), now).is_ok())
                {
                    legs.iter().for_each(|leg| self.bind(leg));
                }
            }
            Act::Ready(n) => {
                let Some((_, provider, deal)) = pick(n) else {
                    return;
                };
                let done = self
                    .market
                    .ready(key(provider).address(), deal.id(), ready(), now);
                self.run(done.unwrap_or_default());
            }
            Act::Serving(n) => {
                let Some((_, provider, deal)) = pick(n) else {
                    return;
                };
                let done = self.market.serving(key(provider).address(), deal.id(), now);
                self.run(done.unwrap_or_default());
            }
            Act::Connected(n) => {
                let Some((requester, _, deal)) = pick(n) else {
                    return;
                };
                let done = self
                    .market
                    .connected(key(requester).address(), deal.id(), now);
                self.run(done.unwrap_or_default());
            }
            Act::ProviderEnds(n, cause) => {
                let Some((_, provider, deal)) = pick(n) else {
                    return;
                };
                let address = key(provider).address();
                let done = self
                    .market
                    .provider_ended(address, deal.id(), report(cause), now);
                self.run(done.unwrap_or_default());
            }
            Act::RequesterEnds(n, cause) => {
                let Some((requester, _, deal)) = pick(n) else {
                    return;
                };
                let address = key(requester).address();
                let done = self
                    .market
                    .requester_ended(address, deal.id(), report(cause), now);
                self.run(done.unwrap_or_default());
            }
            Act::Leave(provider) => {
                let commands = self.market.agent_left(key(provider).address(), now);
                self.run(commands);
            }
            Act::Join(provider) => {
                let (_, commands) = self.market.agent_joined(key(provider).address());
                self.run(commands);
                // A refusal means that it is there already.
                let first = offer(provider, u128::from(provider), 2);
                let _ = self.market.place(first, place(provider), now);
                self.run(Vec::new());
                let second = Placement::at([192, 0, 100, 10 + provider].into());
                let mut offer = offer(provider, 2, 1);
                offer.prefixes = vec![second.address.into()];
                let _ = self.market.place(offer, second, now);
                self.run(Vec::new());
            }
            Act::Wait(seconds) => self.wait(seconds),
            Act::Restart => self.restart(),
        }
    }

    /// What is signed and bound together with a deal.
    fn together(&self, deal: &Deal, deals: &[(u8, u8, Deal)]) -> Vec<Deal> {
        let record = self.market.deal(deal.id());
        if record.is_none_or(|record| record.together == 0) {
            return vec![deal.clone()];
        }
        let legs = deals.iter().map(|(.., other)| other);
        let legs = legs.filter(|other| other.request == deal.request);
        let legs = legs.filter(|other| self.market.deal(other.id()).is_some());
        legs.cloned().collect()
    }

    /// What must hold of requests for several addresses.
    fn check_bundles(&self) {
        let mut deals = BTreeMap::<RequestId, Vec<&DealRecord>>::new();
        for record in self.stored.values() {
            if record.turned_down {
                assert_eq!(record.status(), DealStatus::Aborted);
                assert!(record.requester_signature.is_none(), "nobody saw it");
            } else {
                deals.entry(record.deal.request).or_default().push(record);
            }
        }
        for record in self.requests.values() {
            let matched = record.status == RequestStatus::Matched;
            assert_eq!(matched, deals.contains_key(&record.id()));
        }
        let several = self.posted.values().filter(|request| request.count() > 1);
        for request in several {
            let Some(legs) = deals.get(&request.id()) else {
                continue;
            };
            for (at, leg) in legs.iter().enumerate() {
                for other in &legs[..at] {
                    assert!(is_distinct(request.bundle.distinct, leg, other));
                    assert_ne!(leg.deal.channel(), other.deal.channel());
                    let starts = [leg, other].map(|record| record.deal.starts_at);
                    assert!(request.start.is_now() || starts[0] == starts[1]);
                }
            }
            if !request.bundle.all_or_nothing {
                continue;
            }
            assert_eq!(legs.len(), request.count());
            let bound = legs.iter().filter(|leg| leg.is_bound()).count();
            assert!([0, legs.len()].contains(&bound), "a part is bound");
            let over = legs.iter().any(|leg| leg.status().is_over());
            let waits = legs.iter().any(|leg| leg.is_unstarted());
            assert!(!over || !waits, "one is over, and another one can begin");
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        self.check_bundles();
        let live = self.market.deals().count();
        assert_eq!(
            self.market.book().leases_held(),
            live + self.market.pending(),
            "capacity leaked"
        );
        for provider in 1u8..4 {
            let address = key(provider).address();
            let own = self
                .market
                .deals()
                .filter(|r| r.deal.provider == address)
                .count();
            assert!(own <= 3, "oversold");
        }
        let rest = self.requests.values();
        let rest: Vec<_> = rest
            .filter(|r| r.status == RequestStatus::Resting)
            .collect();
        assert_eq!(self.market.resting().len(), rest.len());
        for record in rest {
            let here = self.market.resting().get(record.id()).unwrap();
            assert_eq!(here.number, record.number);
            assert!(
                self.now <= record.request.message.rest_until,
                "it rests too long"
            );
        }
        for record in self.stored.values() {
            let word = self.outcomes.get(&record.deal_id);
            match (record.is_bound(), record.status()) {
                (true, _) => assert_eq!(word, Some(&Binding::Bound)),
                (false, DealStatus::Proposed) => assert_eq!(word, None),
                (false, _) => assert_eq!(word, Some(&Binding::Aborted)),
            }
            let forfeited = self.forfeited.contains_key(&record.deal.channel().id());
            assert_eq!(record.forfeited, forfeited);
            assert!(!forfeited || (record.prepaid.is_some() && record.status().is_over()));
            let here = self.market.deal(record.deal_id);
            assert_eq!(here.is_some(), record.closed_at.is_none());
            let written = here.map_or_else(|| record.clone(), |here| as_written(here, record));
            assert!(written == *record, "memory and store differ");
        }
    }
}

/// A deal in memory without a signature that is written with what comes of it.
fn as_written(here: &DealRecord, stored: &DealRecord) -> DealRecord {
    let mut written = here.clone();
    if !here.is_bound() && here.status() == DealStatus::Proposed {
        written.requester_signature = stored.requester_signature;
        written.requester = stored.requester;
    }
    written
}

/// Two providers have a network in common, and two a prefix; the second address of each is in the third one's prefix, and its
/// network is not known.
fn place(provider: u8) -> Placement {
    let network = if provider == 3 { 100 } else { 2 };
    let mut placement = Placement::at([192, 0, network, provider].into());
    placement.asn = Some(64_500 + u32::from(provider / 2));
    placement
}

fn is_distinct(by: Distinct, one: &DealRecord, other: &DealRecord) -> bool {
    let prefix = |record: &DealRecord| match record.deal.exit_address {
        IpAddr::V4(address) => address.octets()[..3].to_vec(),
        IpAddr::V6(address) => address.octets()[..6].to_vec(),
    };
    match by {
        Distinct::Address => one.deal.exit_address != other.deal.exit_address,
        Distinct::Prefix => prefix(one) != prefix(other),
        Distinct::Asn => one.placement.asn != other.placement.asn,
        Distinct::Provider => one.deal.provider != other.deal.provider,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever anybody does: capacity is neither leaked nor oversold, every deal has at most one outcome, a deal that
    /// is over stays as it came out, leases that are good only together are bound and begin together, memory and store agree, and with time everything comes to an end.
    #[test]
    fn any_history_keeps_the_promises(acts in prop::collection::vec(act(), 1..80)) {
        let mut world = World::new();
        let mut deals = Vec::new();
        (1..4).for_each(|provider| world.act(Act::Join(provider), &mut deals));
        let mut every_other_hour = offer(3, 3, 2);
        every_other_hour.nonce = 2;
        every_other_hour.weekly_hours = WeeklyHours(WeeklyHours::always().0 / U256::from(3u8));
        let placed = world.market.place(every_other_hour, place(3), NOW);
        placed.unwrap();
        for act in acts {
            world.act(act, &mut deals);
            world.check();
        }
        // A proposal that times out may be made to the next provider.
        (0..5).for_each(|_| world.wait(30_000));
        world.check();
        prop_assert_eq!(world.market.deals().count(), 0);
        prop_assert!(world.market.resting().is_empty());
        prop_assert_eq!(world.market.book().leases_held(), 0);
        prop_assert!(world.market.bundles.is_empty());
    }
}
