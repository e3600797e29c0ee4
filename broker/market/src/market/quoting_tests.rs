#![allow(clippy::unwrap_used)]

use std::cmp::Ordering;

use super::super::Answered;
use super::super::bundling::tests::bundle;
use super::super::world::{World, resting};
use super::*;
use crate::avoid::Distinct;

/// A request for so many addresses of different providers.
fn several(nonce: u64, count: u8) -> Request {
    let request = resting(50, nonce, |request| {
        request.bundle = bundle(nonce, count, Distinct::Provider, true);
    });
    request.message
}

impl World {
    fn quote(&mut self, request: &Request) -> Quote {
        let before = (self.free(), self.market.book().leases_held());
        let quote = self.market.quote(request, self.now).unwrap();
        assert_eq!(
            (self.free(), self.market.book().leases_held()),
            before,
            "nothing is held"
        );
        quote
    }
}

#[test]
fn whoever_has_more_of_them_comes_first_then_who_is_cheaper() {
    let parts: [&[(u8, u128, u32)]; 4] = [
        &[(1, 2, 1), (2, 4, 1), (3, 9, 1)],
        &[(4, 3, 1), (5, 4, 1), (6, 9, 1)],
        // The cheapest for one, and then for no more.
        &[(7, 1, 5), (8, 1, 5)],
        &[(9, 1, 9)],
    ];
    let wish = several(1, 3);
    let quotes = parts.map(|offers| World::with_offers(offers).quote(&wish));
    assert_eq!(quotes.map(|quote| quote.missing()), [0, 0, 1, 2]);
    assert!(quotes.is_sorted_by(|a, b| a.cmp(b) == Ordering::Less));
    // For one address it is the other way round.
    let one = resting(50, 1, |_| ()).message;
    let [a, b, c, _] = parts.map(|offers| World::with_offers(offers).quote(&one));
    assert!(c < a && a < b);
    assert_eq!(c.missing(), 0);
}

#[test]
fn what_is_quoted_is_what_is_asked_for() {
    let mut world = World::with_offers(&[(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1)]);
    let before = world.quote(&several(1, 3));
    let ticket = world.ask_for(50, 3, Distinct::Provider, true);
    for provider in [1, 2, 3] {
        world.accept(provider);
    }
    let Some(Ok(Answered::Bundle(deals))) = world.answers.get(&ticket) else {
        panic!("{:?}", world.answers);
    };
    let wish = several(1, 3);
    let wanted = Wanted::from(&wish);
    let costs = deals.iter().map(|p| wanted.cost(&p.deal.prices));
    assert_eq!(before.cost(), costs.sum());
    // One is left.
    assert_eq!(world.quote(&several(2, 3)).missing(), 2);
    world.ask_for(51, 1, Distinct::Provider, true);
    let none = world.market.quote(&several(2, 3), world.now).unwrap_err();
    let RequestFailure::Incomplete {
        found: 0,
        wanted: 3,
        reason,
    } = none
    else {
        panic!("{none:?}");
    };
    assert!(!reason.is_empty());
}
