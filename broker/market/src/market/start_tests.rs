//! Leases that start later.
#![allow(clippy::unwrap_used)]

use ipsx_metering::U256;

use super::bundling::tests::bundle;
use super::world::*;
use super::*;
use crate::avoid::Distinct;
use crate::deal::Deal;
use crate::messages::{BrokerMessage, EndCause};
use crate::offer::WeeklyHours;
use crate::start::StartWindow;
use crate::status::DealStatus;

impl World {
    /// Asks for a lease that starts from so many seconds on, or so many later.
    pub(super) fn ask_ahead(&mut self, requester: u8, ahead: u64, within: u64) -> Ticket {
        let earliest = self.now.after(ahead);
        let start = StartWindow {
            earliest,
            latest: earliest.after(within),
        };
        self.post(resting(requester, self.tickets + 1, |request| {
            request.start = start
        }))
    }

    /// A bound deal that starts in an hour.
    fn booked(&mut self) -> Deal {
        self.ask_ahead(50, 3_600, 0);
        let deal = self.accept(1);
        self.sign(50, &deal);
        self.bind(&deal);
        deal
    }

    /// The same for three of different providers, which are good for anything only together.
    fn booked_together(&mut self) -> [Deal; 3] {
        self.ask_together(3, 3_600, 0);
        let deals = [1, 2, 3].map(|provider| self.accept(provider));
        self.sign_all(50, &deals).unwrap();
        deals.iter().for_each(|deal| self.bind(deal));
        deals
    }

    fn ask_together(&mut self, count: u8, ahead: u64, within: u64) -> Ticket {
        let (nonce, earliest) = (self.tickets + 1, self.now.after(ahead));
        self.post(resting(50, nonce, |request| {
            request.start = StartWindow {
                earliest,
                latest: earliest.after(within),
            };
            request.bundle = bundle(nonce, count, Distinct::Provider, true);
        }))
    }

    fn open(&mut self, deal: &Deal) {
        let commands = self
            .market
            .ready(deal.provider, deal.id(), ready(), self.now);
        self.run(commands.unwrap());
    }

    fn gives_up(&mut self, deal: &Deal) {
        let report = report(EndCause::RequesterEnded);
        let commands = self
            .market
            .requester_ended(deal.requester, deal.id(), report, self.now);
        self.run(commands.unwrap());
    }

    fn forfeited_for(&self, deal: &Deal) -> bool {
        let told = |(who, message): &(Address, BrokerMessage)| {
            *who == deal.provider && matches!(message, BrokerMessage::Forfeited { .. })
        };
        let told = self.told.iter().any(told);
        assert_eq!(told, self.forfeited.contains_key(&deal.channel().id()));
        told
    }
}

#[test]
fn an_address_is_held_until_its_lease_starts() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.booked();
    assert_eq!(deal.starts_at, world.now.after(3_600));
    assert_eq!(deal.start_by, world.now.after(3_660));
    assert!(deal.is_prepaid());
    assert_eq!(world.free(), 0, "nobody else gets it meanwhile");
    let other = world.ask(51);
    assert!(world.answers[&other].is_err());
    world.wait(3_595);
    assert_eq!(world.status(&deal), DealStatus::Agreed);
    world.open(&deal);
    let commands = world.market.serving(deal.provider, deal.id(), world.now);
    world.run(commands.unwrap());
    assert_eq!(world.status(&deal), DealStatus::Active);
    let report = report(EndCause::Completed);
    let commands = world
        .market
        .provider_ended(deal.provider, deal.id(), report, world.now);
    world.run(commands.unwrap());
    // The first voucher came by the usual way; told again it changes nothing.
    assert!(world.forfeited_for(&deal));
    assert_eq!(world.free(), 1);
}

#[test]
fn the_start_waits_for_hours_that_are_for_sale() {
    let mut world = World::new();
    world.market.agent_joined(key(1).address());
    let mut later = offer(1, 3, 1);
    // It is Friday, 14:00: two hours later.
    later.weekly_hours = WeeklyHours(U256::from(1u8) << (4 * 24 + 16));
    let now = world.now;
    world.market.place(later, placement(1), now).unwrap();
    for (ahead, within, starts) in [
        (0, 7_199, None),
        (0, 7_200, Some(7_200)),
        (7_300, 100, Some(7_300)),
        // A lease of 100 s ends with the hour.
        (10_700, 0, Some(10_700)),
        (10_701, 3_600, None),
    ] {
        let ticket = world.ask_ahead(50, ahead, within);
        let starts_at = world
            .proposals
            .pop()
            .map(|(.., proposal)| proposal.starts_at);
        assert_eq!(
            starts_at,
            starts.map(|starts| world.now.after(starts)),
            "{ahead} {within}"
        );
        assert_eq!(world.answers.contains_key(&ticket), starts.is_none());
        world.restart();
        let (_, commands) = world.market.agent_joined(key(1).address());
        world.run(commands);
        let mut again = offer(1, 3, 1);
        again.weekly_hours = WeeklyHours(U256::from(1u8) << (4 * 24 + 16));
        let now = world.now;
        world.market.place(again, placement(1), now).unwrap();
    }
}

#[test]
fn whoever_does_not_come_or_gives_up_loses_the_first_slice() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.booked();
    world.wait(3_595);
    world.open(&deal);
    world.wait(66);
    assert_eq!(world.status(&deal), DealStatus::NoShow);
    assert!(world.forfeited_for(&deal));
    // An agent that was away hears of it again.
    let told = world.told.len();
    let (_, commands) = world.market.agent_joined(deal.provider);
    world.run(commands);
    let again: Vec<_> = world.told[told..]
        .iter()
        .map(|(_, message)| message)
        .collect();
    assert!(
        matches!(
            again[..],
            [
                BrokerMessage::Forfeited { .. },
                BrokerMessage::EndLease { .. }
            ]
        ),
        "{again:?}"
    );

    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.booked();
    world.wait(600);
    world.gives_up(&deal);
    assert_eq!(world.status(&deal), DealStatus::Ended);
    assert!(world.forfeited_for(&deal));
}

#[test]
fn nothing_is_lost_to_a_provider_that_is_not_there() {
    // It is never ready.
    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.booked();
    world.wait(3_661);
    assert_eq!(world.status(&deal), DealStatus::ProviderFailed);
    assert!(!world.forfeited_for(&deal));
    // It is late, and the requester does not wait.
    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.booked();
    world.wait(3_601);
    world.gives_up(&deal);
    assert!(!world.forfeited_for(&deal));
    // It takes its word back.
    let mut world = World::with_offers(&[(1, 3, 1)]);
    let deal = world.booked();
    let report = report(EndCause::ProviderEnded);
    let commands = world
        .market
        .provider_ended(deal.provider, deal.id(), report, world.now);
    world.run(commands.unwrap());
    assert_eq!(world.status(&deal), DealStatus::ProviderFailed);
    assert!(!world.forfeited_for(&deal));
}

#[test]
fn a_deal_ahead_that_is_signed_and_never_funded_is_not_held_for_long() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    world.ask_ahead(50, 3_600, 0);
    let deal = world.accept(1);
    world.sign(50, &deal);
    // A broker that was killed in between has nobody who funds it.
    world.restart();
    world.wait(81);
    assert_eq!(world.status(&deal), DealStatus::Expired);
    assert!(world.market.may_bind(deal.id(), world.now).is_err());
}

#[test]
fn leases_ahead_are_limited_like_all_that_have_not_started() {
    let mut world = World::with_offers(&[(1, 3, 9)]);
    for _ in 0..3 {
        world.booked();
    }
    let ticket = world.ask_ahead(50, 3_600, 0);
    let refused = Err(RequestFailure::TooManyUnstarted(3));
    assert_eq!(world.answers[&ticket], refused);
}

#[test]
fn several_start_in_one_second() {
    let mut world = World::with_offers(&[(1, 3, 1)]);
    for (provider, hour) in [(2, 15), (3, 16), (4, 16)] {
        world.market.agent_joined(key(provider).address());
        let mut later = offer(provider, 1, 1);
        // It is Friday, 14:00.
        later.weekly_hours = WeeklyHours(U256::from(1u8) << (4 * 24 + hour));
        let (place, now) = (placement(provider), world.now);
        world.market.place(later, place, now).unwrap();
    }
    for (count, ahead, within, starts) in [
        (2, 0, 7_200, Some(3_600)),
        (3, 0, 7_200, Some(7_200)),
        (2, 7_300, 0, Some(7_300)),
        // All of it lies in the hours that are for sale.
        (3, 10_700, 0, Some(10_700)),
        (2, 10_701, 60, None),
        (3, 0, 7_199, None),
    ] {
        let ticket = world.ask_together(count, ahead, within);
        let asked: Vec<_> = world.proposals.drain(..).collect();
        let expected = starts.map(|starts| vec![world.now.after(starts); count.into()]);
        let found: Vec<_> = asked.iter().map(|(.., p)| p.starts_at).collect();
        assert_eq!(found, expected.unwrap_or_default(), "{count} {ahead}");
        assert_eq!(world.answers.contains_key(&ticket), starts.is_none());
        for (who, number, _) in asked {
            let commands = world.market.decline(who, number, "no", world.now);
            world.run(commands);
            world.proposals.clear();
        }
        assert_eq!(world.market.book().leases_held(), 0);
    }
}

#[test]
fn what_is_prepaid_for_several_is_lost_by_the_requesters_fault_only() {
    let offers = [(1, 3, 1), (2, 3, 1), (3, 3, 1)];
    let lost = |world: &World, deals: &[Deal; 3]| {
        let lost = [0, 1, 2].map(|leg| world.forfeited_for(&deals[leg]));
        assert!(lost.iter().all(|one| *one == lost[0]), "{lost:?}");
        lost[0]
    };
    // It does not come.
    let mut world = World::with_offers(&offers);
    let deals = world.booked_together();
    assert!(
        deals
            .iter()
            .all(|deal| deal.starts_at == deals[0].starts_at)
    );
    world.wait(3_595);
    deals.iter().for_each(|deal| world.open(deal));
    world.wait(66);
    assert!(lost(&world, &deals));
    // It gives one up.
    let mut world = World::with_offers(&offers);
    let deals = world.booked_together();
    world.gives_up(&deals[1]);
    assert_eq!(world.status(&deals[2]), DealStatus::Ended);
    assert!(lost(&world, &deals));
    // One provider is not there, and the requester waits or does not.
    for waits in [true, false] {
        let mut world = World::with_offers(&offers);
        let deals = world.booked_together();
        world.wait(3_595);
        world.open(&deals[0]);
        world.open(&deals[1]);
        if waits {
            world.wait(66);
            assert_eq!(world.status(&deals[2]), DealStatus::ProviderFailed);
        } else {
            world.wait(6);
            world.gives_up(&deals[2]);
        }
        assert_eq!(world.status(&deals[0]), DealStatus::Ended);
        assert!(!lost(&world, &deals));
    }
    // One takes its word back.
    let mut world = World::with_offers(&offers);
    let deals = world.booked_together();
    let report = report(EndCause::ProviderEnded);
    let (market, now) = (&mut world.market, world.now);
    let commands = market.provider_ended(deals[0].provider, deals[0].id(), report, now);
    world.run(commands.unwrap());
    assert_eq!(world.status(&deals[1]), DealStatus::Ended);
    assert!(!lost(&world, &deals));
}
