//! Random histories: whatever happens in whatever order, money and capacity stay in bounds.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ipsx_market::deal::Deal;
use ipsx_market::messages::{BrokerMessage, EndCause};
use ipsx_metering::{Amount, B256, DealId};
use ipsx_tunnel_core::Gate;
use proptest::prelude::*;

use super::fixture::*;
use super::world::World;
use crate::provider::ProviderEvent;

const PRICE: u128 = 1_000;

#[derive(Clone, Debug)]
enum Step {
    /// A requester asks for a lease of so many seconds, on one of three channels.
    Propose {
        channel: u8,
        seconds: u32,
    },
    /// The same, bound at once.
    Lease {
        channel: u8,
        seconds: u32,
    },
    /// The network binds the latest signed deal.
    Bind,
    Run {
        tenths: u16,
    },
    Pay(bool),
    Renew(bool),
    Disk(bool),
    Lose {
        percent: u32,
    },
    Disconnect,
    Connect,
    EndByPayer,
    EndByBroker,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (1u8..4, 5u32..90).prop_map(|(channel, seconds)| Step::Propose { channel, seconds }),
        6 => (1u8..4, 5u32..90).prop_map(|(channel, seconds)| Step::Lease { channel, seconds }),
        1 => Just(Step::Bind),
        8 => (1u16..200).prop_map(|tenths| Step::Run { tenths }),
        3 => proptest::bool::weighted(0.8).prop_map(Step::Pay),
        1 => any::<bool>().prop_map(Step::Renew),
        2 => proptest::bool::weighted(0.8).prop_map(Step::Disk),
        1 => (0u32..40).prop_map(|percent| Step::Lose { percent }),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        1 => Just(Step::EndByPayer),
        1 => Just(Step::EndByBroker),
        1 => Just(Step::Kill),
    ]
}

struct History {
    world: World,
    unbound: Vec<Deal>,
    nonce: u64,
}

impl History {
    fn apply(mut self, step: Step) -> Self {
        match step {
            Step::Propose { channel, seconds } => self.propose(channel, seconds),
            Step::Lease { channel, seconds } => {
                self.propose(channel, seconds);
                self.bind();
            }
            Step::Bind => self.bind(),
            Step::Run { tenths } => self
                .world
                .run(Duration::from_millis(100) * u32::from(tenths)),
            Step::Pay(pays) => self.world.weather.payer_pays = pays,
            Step::Renew(renews) => self.world.weather.broker_renews = renews,
            Step::Disk(works) => self.world.weather.disk_works = works,
            Step::Lose { percent } => self.world.weather.loss = percent,
            Step::Disconnect => self.world.disconnect(),
            Step::Connect => self.connect(),
            Step::EndByPayer => {
                if let Some(deal) = self.world.accepted.last().cloned() {
                    self.world.end_by_payer(&deal, EndCause::RequesterEnded);
                }
            }
            Step::EndByBroker => {
                let deal = self.world.accepted.first().map(Deal::id);
                if let (true, Some(deal_id)) = (self.world.link, deal) {
                    let message = BrokerMessage::EndLease {
                        deal_id,
                        cause: EndCause::RequesterEnded,
                    };
                    self.world
                        .provider
                        .handle_broker_message(message, self.world.now);
                    self.world.work();
                }
            }
            Step::Kill => self = self.kill(),
        }
        self
    }

    fn propose(&mut self, channel: u8, seconds: u32) {
        if self.world.offer.is_none() || !self.world.link {
            return;
        }
        self.nonce += 1;
        let mut request = request(seconds, PRICE * u128::from(seconds));
        request.nonce = self.nonce;
        request.channel_salt = B256::repeat_byte(channel);
        request.tunnel_key.0 = B256::repeat_byte(channel);
        self.unbound.extend(self.world.propose(request));
    }

    fn bind(&mut self) {
        let deal = if self.world.link {
            self.unbound.pop()
        } else {
            None
        };
        let Some(deal) = deal else {
            return;
        };
        // Every third reservation covers less than the lease.
        let share = if self.nonce.is_multiple_of(3) { 2 } else { 1 };
        let known = self.world.disk.channels.get(&deal.channel().id());
        let paid = known.map_or(0, |stored| stored.cumulative().0);
        self.world.bind(&deal, paid + deal.budget.0 / share);
    }

    fn connect(&mut self) {
        let unfinished: Vec<DealId> = self
            .world
            .accepted
            .iter()
            .map(Deal::id)
            .filter(|id| !self.world.ended.contains_key(id))
            .collect();
        self.world.connect(&unfinished);
    }

    fn kill(mut self) -> Self {
        let (weather, seen) = (self.world.weather, std::mem::take(&mut self.world.accepted));
        let ended = std::mem::take(&mut self.world.ended);
        self.world = self.world.restart();
        self.world.weather = weather;
        self.world.ended = ended;
        self.world.accepted = seen;
        self.connect();
        self
    }

    fn check(&self) {
        let world = &self.world;
        let capacity = world.settings.terms.capacity.leases as usize;
        assert!(world.provider.leases() <= capacity);
        for deal in &world.accepted {
            let open = !matches!(world.gates.get(&deal.id()), None | Some(Gate::Closed));
            let stored = world.disk.channels.get(&deal.channel().id());
            assert!(!open || stored.is_some(), "traffic before a stored voucher");
        }
        for event in &world.events {
            let ProviderEvent::LeaseEnded {
                cause,
                amount,
                paid,
                lease,
                ..
            } = event
            else {
                continue;
            };
            // What a killed run had not stored is lost to the report, not to the voucher store.
            if *cause == EndCause::Restarted {
                continue;
            }
            let credit = (2 * PRICE).max(paid.0 / 20);
            assert!(
                amount.0 <= paid.0 + credit,
                "{lease}: {amount} served, {paid} paid"
            );
            let deal = world.accepted.iter().find(|deal| deal.id() == *lease);
            assert!(deal.is_none_or(|deal| *amount <= deal.budget));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn bounds_hold_in_every_history(steps in proptest::collection::vec(step(), 5..60)) {
        let mut world = World::new(settings());
        world.connect(&[]);
        let mut history = History { world, unbound: Vec::new(), nonce: 0 };
        let mut most = std::collections::HashMap::new();
        for step in steps {
            history = history.apply(step);
            history.check();
            for (id, stored) in &history.world.disk.channels {
                let known = most.entry(*id).or_insert(Amount::ZERO);
                prop_assert!(stored.cumulative() >= *known, "a stored voucher was lost");
                *known = stored.cumulative();
            }
        }
        let mut world = history.world;
        world.connect(&[]);
        world.provider.handle_shutdown(world.now);
        world.work();
        world.run(Duration::from_secs(3));
        prop_assert!(world.provider.is_idle());
        for lease in world.disk.leases.keys() {
            prop_assert!(world.disk.finished.contains_key(lease), "{} has no end on disk", lease);
        }
        for (lease, open) in &world.open {
            prop_assert!(!open, "the peer of {} stays open", lease);
        }
        for (lease, gate) in &world.gates {
            prop_assert_eq!(*gate, Gate::Closed, "the gate of {} stays open", lease);
        }
    }
}
