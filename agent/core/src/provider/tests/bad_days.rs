//! Killed programs, brokers that come and go, and limits that are reached.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ipsx_market::messages::{AgentMessage, EndCause};
use ipsx_metering::Amount;

use super::fixture::*;
use super::world::World;

const MINUTE: Duration = Duration::from_secs(60);

fn world() -> World {
    let mut world = World::new(settings());
    world.connect(&[]);
    world
}

#[test]
fn a_killed_program_ends_its_leases_and_keeps_its_vouchers() {
    let mut world = world();
    let deal = world.lease(request(3_600, 4_000_000));
    world.run(Duration::from_secs(30));
    let stored = world.disk.channels[&deal.channel().id()].voucher.clone();
    let mut world = world.restart();
    assert_eq!(world.disk.finished[&deal.id()].cause, EndCause::Restarted);
    world.connect(&[deal.id()]);
    let report = world.ended[&deal.id()].clone();
    assert_eq!(report.cause, EndCause::Restarted);
    assert_eq!(report.voucher, Some(stored.clone()));
    assert!(report.usage.secs > 0 && report.amount > Amount::ZERO);
    // The same requester leases again through the same channel: numbers and sums go on.
    let mut again = request(60, 100_000);
    again.nonce = 2;
    let next = world.lease(again);
    assert_eq!(next.channel(), deal.channel());
    let ready = world.sent.iter().rev().find_map(|m| match m {
        AgentMessage::LeaseReady { ready, .. } => Some(ready.clone()),
        _ => None,
    });
    assert_eq!(ready.unwrap().latest_voucher, Some(stored.clone()));
    let report = world.run_to_end(&next, 2 * MINUTE);
    assert_eq!(report.cause, EndCause::Completed);
    let total = world.disk.channels[&deal.channel().id()].cumulative();
    assert!(total.0 >= stored.message.cumulative.0 + 60_000);
}

#[test]
fn a_broker_that_goes_away_does_not_end_what_runs() {
    let mut world = world();
    let deal = world.lease(request(60, 100_000));
    world.run(Duration::from_secs(10));
    world
        .provider
        .handle_link_down("gone".into(), Duration::from_secs(1));
    world.run(Duration::from_secs(10));
    assert_eq!(world.provider.leases(), 1);
    let offer = world.offer;
    world.sent.clear();
    world.connect(&[deal.id()]);
    assert_eq!(
        world.offer, offer,
        "the same offer goes into the book again"
    );
    let said = |m: &AgentMessage| match m {
        AgentMessage::LeaseReady { deal_id, .. } | AgentMessage::LeaseServing { deal_id } => {
            Some(*deal_id)
        }
        _ => None,
    };
    assert_eq!(world.sent.iter().filter_map(said).count(), 2);
    assert_eq!(
        world.run_to_end(&deal, 2 * MINUTE).cause,
        EndCause::Completed
    );
}

#[test]
fn a_broker_that_missed_the_end_is_told_when_it_comes_back() {
    let mut world = world();
    let deal = world.lease(request(60, 100_000));
    world
        .provider
        .handle_link_down("gone".into(), Duration::from_secs(1));
    let report = world.run_to_end(&deal, 2 * MINUTE);
    world.sent.clear();
    world.connect(&[deal.id()]);
    let told = world.sent.iter().any(|m| {
        matches!(m, AgentMessage::LeaseEnded { deal_id, report: told } if *deal_id == deal.id() && *told == report)
    });
    assert!(told);
}

#[test]
fn an_unknown_deal_is_given_back_at_once() {
    let mut world = world();
    let deal = world.propose(request(60, 100_000)).unwrap();
    let mut world = World::new(settings());
    world.connect(&[deal.id()]);
    assert_eq!(world.ended[&deal.id()].cause, EndCause::Restarted);
}

#[test]
fn the_months_limit_ends_leases_and_the_offer() {
    let mut settings = settings();
    settings.terms.capacity.bytes_per_month = 5 << 20;
    let mut world = World::new(settings);
    world.connect(&[]);
    let deal = world.lease(request(3_600, 4_000_000));
    world.weather.traffic = (0, 1 << 20);
    let report = world.run_to_end(&deal, 2 * MINUTE);
    assert_eq!(report.cause, EndCause::ProviderEnded);
    assert!(report.usage.bytes() <= 6 << 20);
    assert!(
        world
            .sent
            .iter()
            .any(|m| matches!(m, AgentMessage::WithdrawOffer { .. }))
    );
    // A restart does not forget it, a new month does.
    world.offer = None;
    let mut world = world.restart();
    world.connect(&[]);
    assert_eq!(world.offer, None);
    world.now = world.now.after(Duration::from_secs(32 * 86_400));
    world.provider.handle_timeout(world.now);
    world.work();
    assert!(world.offer.is_some());
}

#[test]
fn too_much_unclaimed_is_claimed_and_then_served_no_further() {
    let mut settings = settings();
    settings.exposure.per_payer = Amount(30_000);
    let mut world = World::new(settings);
    world.connect(&[]);
    let deal = world.lease(request(3_600, 4_000_000));
    let report = world.run_to_end(&deal, 2 * MINUTE);
    assert_eq!(report.cause, EndCause::ProviderEnded);
    assert!(report.amount <= Amount(31_000), "{}", report.amount);
    assert_eq!(world.claims.first(), Some(&true));
    assert!(world.propose(request(61, 100_000)).is_none());
    let claimed = world.disk.channels[&deal.channel().id()].cumulative();
    world.provider.handle_claimed(deal.channel().id(), claimed);
    assert!(world.propose(request(61, 100_000)).is_some());
}

#[test]
fn a_shutdown_ends_leases_withdraws_the_offer_and_signs_nothing_more() {
    let mut world = world();
    let deal = world.lease(request(3_600, 4_000_000));
    world.run(Duration::from_secs(10));
    let offer = world.offer.unwrap();
    world.provider.handle_shutdown(world.now);
    world.work();
    world.run(Duration::from_secs(3));
    assert!(world.provider.is_idle());
    assert_eq!(world.ended[&deal.id()].cause, EndCause::ProviderEnded);
    assert!(world.sent.contains(&AgentMessage::WithdrawOffer { offer }));
    assert!(world.propose(request(61, 100_000)).is_none());
}

#[test]
fn offers_are_renewed_before_they_expire() {
    let mut world = world();
    let first = world.offer.unwrap();
    for _ in 0..8 {
        world.now = world.now.after(Duration::from_secs(3_600));
        world.provider.handle_timeout(world.now);
        world.work();
    }
    assert_ne!(world.offer.unwrap(), first);
    assert!(world.propose(request(60, 100_000)).is_some());
}
