//! Random histories of a market: whatever anybody does, its promises hold.
#![allow(clippy::unwrap_used)]

use ipsx_metering::{TypedData, U256};
use proptest::prelude::*;

use super::world::{NOW, World, config, key, offer, placement, ready, report};
use super::*;
use crate::deal::{Binding, Deal};
use crate::messages::EndCause;
use crate::offer::WeeklyHours;
use crate::resting::RequestStatus;

#[derive(Clone, Debug)]
enum Act {
    Ask(u8),
    AskAhead(u8, u64),
    Rest(u8, u64),
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
            Act::Rest(requester, seconds) => {
                self.rest(requester, seconds);
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
                let signature = key(requester).sign_hash(deal.signing_hash(&config().domain));
                let signed = self
                    .market
                    .sign(deal.id(), key(requester).address(), signature, now);
                self.run(signed.unwrap_or_default());
            }
            Act::Fund(n, covered) => {
                let Some((_, _, deal)) = pick(n) else { return };
                if !covered {
                    let commands = self.market.give_up(deal.id(), now);
                    self.run(commands);
                } else if self.market.may_bind(deal.id(), now).is_ok() {
                    self.bind(&deal);
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
                let _ = self.market.place(
                    offer(provider, u128::from(provider), 2),
                    placement(provider),
                    now,
                );
                self.run(Vec::new());
            }
            Act::Wait(seconds) => self.wait(seconds),
            Act::Restart => self.restart(),
        }
    }

    /// What must hold after every step.
    fn check(&self) {
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
            assert!(own <= 2, "oversold");
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
            assert!(here.is_none_or(|h| h == record), "memory and store differ");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever anybody does: capacity is neither leaked nor oversold, every deal has at most one outcome, a deal that
    /// is over stays as it came out, memory and store agree, and with time everything comes to an end.
    #[test]
    fn any_history_keeps_the_promises(acts in prop::collection::vec(act(), 1..80)) {
        let mut world = World::with_offers(&[(1, 1, 2), (2, 2, 2), (3, 3, 2)]);
        let mut every_other_hour = offer(3, 3, 2);
        every_other_hour.nonce = 2;
        every_other_hour.weekly_hours = WeeklyHours(WeeklyHours::always().0 / U256::from(3u8));
        let placed = world.market.place(every_other_hour, placement(3), NOW);
        placed.unwrap();
        let mut deals = Vec::new();
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
    }
}
