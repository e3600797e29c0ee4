//! Leases that start later.
#![allow(clippy::unwrap_used)]

use ipsx_metering::U256;

use super::world::*;
use super::*;
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
