#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::super::world::*;
use super::super::{Answered, Market, RequestFailure, Ticket};
use super::*;
use crate::avoid::Distinct;
use crate::bundle::{Bundle, Leg as Keys};
use crate::request::TunnelKey;

impl World {
    /// Asks for so many addresses at once.
    fn ask_for(&mut self, count: u8, distinct: Distinct, all_or_nothing: bool) -> Ticket {
        let keys = |leg: u8| Keys {
            tunnel_key: TunnelKey(B256::repeat_byte(100 + leg)),
            channel_salt: B256::repeat_byte(100 + leg),
        };
        let bundle = Bundle {
            legs: (1..count).map(keys).collect(),
            distinct,
            all_or_nothing,
        };
        self.post(resting(50, self.tickets + 1, |request| {
            request.bundle = bundle
        }))
    }

    fn sign_all(&mut self, deals: &[crate::deal::Deal]) -> Result<(), DealRefusal> {
        use ipsx_metering::TypedData;
        let sign = |deal: &crate::deal::Deal| {
            (
                deal.id(),
                key(50).sign_hash(deal.signing_hash(&config().domain)),
            )
        };
        let signatures: Vec<_> = deals.iter().map(sign).collect();
        let (request, own) = (deals[0].request, key(50).address());
        let commands = self
            .market
            .sign_bundle(request, own, &signatures, self.now)?;
        self.run(commands);
        Ok(())
    }
}

fn market(offers: &[(u8, u128, u32)]) -> World {
    let mut world = World::with_offers(offers);
    let config = super::super::MarketConfig {
        unstarted_deals: 8,
        ..config()
    };
    let mut market = Market::new(config, Vec::new(), world.now);
    for (provider, price, leases) in offers {
        market.agent_joined(key(*provider).address());
        market
            .place(offer(*provider, *price, *leases), placement(*provider))
            .unwrap();
    }
    world.market = market;
    world
}

#[test]
fn the_cheapest_that_are_distinct_are_taken() {
    let mut world = market(&[(1, 1, 5), (2, 2, 5), (3, 3, 5)]);
    let ticket = world.ask_for(3, Distinct::Address, true);
    let deals = [1, 2, 3].map(|provider| world.accept(provider));
    let Some(Ok(Answered::Bundle(proposed))) = world.answers.get(&ticket) else {
        panic!("{:?}", world.answers)
    };
    assert_eq!(proposed.len(), 3);
    let addresses: BTreeSet<_> = deals.iter().map(|deal| deal.exit_address).collect();
    assert_eq!(addresses.len(), 3);
    let keys: BTreeSet<_> = deals
        .iter()
        .map(|deal| deal.requester_tunnel_key.0)
        .collect();
    assert_eq!(keys.len(), 3);
    // One of them alone is of no use.
    let alone = world.sign_all(&deals[..1]);
    assert_eq!(alone, Err(DealRefusal::Together(deals[0].id(), 3)));
    world.sign_all(&deals).unwrap();
    deals.iter().for_each(|deal| world.bind(deal));
    // One is never ready: the others don't begin either.
    for deal in &deals[1..] {
        let commands = world
            .market
            .ready(deal.provider, deal.id(), ready(), world.now);
        world.run(commands.unwrap());
    }
    world.wait(61);
    assert_eq!(world.status(&deals[0]), DealStatus::ProviderFailed);
    for deal in &deals[1..] {
        assert!(world.status(deal).is_over(), "{:?}", world.status(deal));
    }
}

#[test]
fn too_few_are_none_or_as_many_as_there_are() {
    for all_or_nothing in [true, false] {
        let mut world = market(&[(1, 1, 5), (2, 2, 5)]);
        let free = world.free();
        let ticket = world.ask_for(3, Distinct::Address, all_or_nothing);
        if all_or_nothing {
            let refused = world.answers[&ticket].clone().unwrap_err();
            assert!(
                matches!(
                    refused,
                    RequestFailure::Incomplete {
                        found: 2,
                        wanted: 3,
                        ..
                    }
                ),
                "{refused}"
            );
            assert!(world.proposals.is_empty(), "nobody was asked");
            assert_eq!(world.free(), free);
        } else {
            world.accept(1);
            world.accept(2);
            let answer = world.answers[&ticket].clone();
            assert!(matches!(answer, Ok(Answered::Bundle(deals)) if deals.len() == 2));
        }
    }
}

#[test]
fn a_leg_that_is_refused_goes_on_and_the_last_refusal_gives_all_back() {
    let mut world = market(&[(1, 1, 1), (2, 2, 1), (3, 3, 1)]);
    let free = world.free();
    let ticket = world.ask_for(2, Distinct::Provider, true);
    let signed = world.accept(2);
    let (provider, number, _) = world.proposals.remove(0);
    assert_eq!(provider, key(1).address());
    let commands = world.market.decline(provider, number, "no", world.now);
    world.run(commands);
    let (provider, number, _) = world.proposals.remove(0);
    assert_eq!(provider, key(3).address());
    let commands = world.market.decline(provider, number, "no", world.now);
    world.run(commands);
    assert!(world.answers[&ticket].is_err());
    assert_eq!(world.status(&signed), DealStatus::Aborted);
    assert_eq!(world.free(), free);
}
