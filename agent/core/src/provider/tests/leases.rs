//! Leases from proposal to report, on good and bad days.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ipsx_market::deal::Binding;
use ipsx_market::deal::Deal;
use ipsx_market::messages::{AgentMessage, BrokerMessage, EndCause};
use ipsx_market::payment::PayerMessage;
use ipsx_market::start::StartWindow;
use ipsx_metering::{Amount, B256, PricePerGib, Prices, Signed, TypedData, Voucher};
use ipsx_tunnel_core::Gate;

use super::fixture::*;
use super::world::World;
use crate::provider::{Command, PaymentPath, ProviderEvent};

const MINUTE: Duration = Duration::from_secs(60);

fn world() -> World {
    let mut world = World::new(settings());
    world.connect(&[]);
    world
}

#[test]
fn a_lease_runs_to_its_end_and_is_paid() {
    let mut world = world();
    let deal = world.lease(request(60, 100_000));
    assert_eq!(
        world.gates.get(&deal.id()),
        None,
        "nothing passes before the first voucher"
    );
    world.weather.traffic = (10_000, 100_000);
    let report = world.run_to_end(&deal, 2 * MINUTE);
    assert_eq!(report.cause, EndCause::Completed);
    assert_eq!(report.usage.secs, 60);
    assert_eq!(report.amount, Amount(60_000));
    let stored = &world.disk.channels[&deal.channel().id()];
    assert!(
        stored.cumulative() >= report.amount,
        "{} stored",
        stored.cumulative()
    );
    assert_eq!(report.voucher.as_ref(), Some(&stored.voucher));
    assert_eq!(world.gates[&deal.id()], Gate::Closed);
    assert!(!world.open[&deal.id()]);
    assert!(world.provider.is_idle());
    assert_eq!(world.disk.finished[&deal.id()], report);
    assert_eq!(world.claims, [false]);
    let seconds = world
        .events
        .iter()
        .filter(|e| matches!(e, ProviderEvent::LeaseSecond { .. }));
    assert!(seconds.count() >= 60);
}

#[test]
fn lost_messages_change_nothing() {
    let mut world = world();
    world.weather.loss = 20;
    let deal = world.lease(request(3_600, 4_000_000));
    let report = world.run_to_end(&deal, 80 * MINUTE);
    assert_eq!(report.cause, EndCause::Completed);
    assert_eq!(report.usage.secs, 3_600);
}

#[test]
fn a_payer_that_never_pays_gets_nothing() {
    let mut world = world();
    world.weather.payer_pays = false;
    let deal = world.lease(request(60, 100_000));
    let report = world.run_to_end(&deal, 3 * MINUTE);
    assert_eq!(report.cause, EndCause::NotStarted);
    assert_eq!(report.amount, Amount::ZERO);
    assert!(matches!(
        world.gates.get(&deal.id()),
        None | Some(Gate::Closed)
    ));
    assert!(world.disk.channels.is_empty());
}

#[test]
fn a_payer_that_stops_is_held_and_ended_within_its_credit() {
    let mut world = world();
    let deal = world.lease(request(3_600, 4_000_000));
    world.run(MINUTE);
    world.weather.payer_pays = false;
    let report = world.run_to_end(&deal, 5 * MINUTE);
    assert_eq!(report.cause, EndCause::Unpaid);
    let paid = world.disk.channels[&deal.channel().id()].cumulative();
    let unpaid = report.amount.saturating_sub(paid);
    assert!(
        unpaid <= Amount(3_000),
        "credit of 3 s at most, {unpaid} unpaid"
    );
    assert!(
        world
            .events
            .iter()
            .any(|e| matches!(e, ProviderEvent::LeaseOnHold { .. }))
    );
}

#[test]
fn a_disk_that_takes_nothing_lets_nothing_pass() {
    let mut world = world();
    world.weather.disk_works = false;
    let deal = world.lease(request(60, 100_000));
    let report = world.run_to_end(&deal, 3 * MINUTE);
    assert_eq!(report.usage.secs, 0);
    assert!(matches!(
        world.gates.get(&deal.id()),
        None | Some(Gate::Closed)
    ));
}

#[test]
fn replays_forgeries_and_foreign_vouchers_pay_for_nothing() {
    let mut world = world();
    let deal = world.lease(request(3_600, 4_000_000));
    world.run(Duration::from_secs(20));
    let before = world.disk.channels[&deal.channel().id()].cumulative();
    let voucher = |cumulative: u128, channel_id| Voucher {
        channel_id,
        cumulative: Amount(cumulative),
        receipt_hash: B256::ZERO,
    };
    let domain = network().domain;
    let here = deal.channel().id();
    let forged = Signed::sign(voucher(50_000, here), &domain, &key(9));
    let foreign = Signed::sign(voucher(50_000, B256::ZERO.into()), &domain, &payer_signer());
    let over = Signed::sign(voucher(4_000_001, here), &domain, &payer_signer());
    let first = world.vouchers_sent[0].clone();
    world.weather.payer_pays = false;
    for bad in [forged, foreign, over, first] {
        let message = PayerMessage::Voucher(bad);
        world
            .provider
            .handle_payment(deal.id(), message, PaymentPath::Broker, world.now);
        world.work();
    }
    assert_eq!(world.disk.channels[&here].cumulative(), before);
    assert!(
        world
            .events
            .iter()
            .any(|e| matches!(e, ProviderEvent::VoucherRefused { .. }))
    );
    assert_eq!(world.refused, ["signature", "channel", "over_budget"]);
    // A replayer that goes on does not keep the lease alive.
    let until = world.now.instant + 5 * MINUTE;
    while !world.ended.contains_key(&deal.id()) {
        assert!(world.now.instant < until);
        let message = PayerMessage::Voucher(world.vouchers_sent[0].clone());
        world
            .provider
            .handle_payment(deal.id(), message, PaymentPath::Broker, world.now);
        world.step();
    }
    assert_eq!(world.ended[&deal.id()].cause, EndCause::Unpaid);
}

#[test]
fn answers_go_where_the_last_new_voucher_came_from() {
    let mut world = world();
    let deal = world.lease(request(3_600, 4_000_000));
    world.run(Duration::from_secs(5));
    world.weather.payer_pays = false;
    let paid = world.disk.channels[&deal.channel().id()].cumulative().0;
    let pay = |world: &mut World, cumulative: u128| {
        let answered = world.payers[&deal.id()].meter.state().receipt.unwrap();
        let message = Voucher {
            channel_id: deal.channel().id(),
            cumulative: Amount(cumulative),
            receipt_hash: answered.message.signing_hash(&network().domain),
        };
        let voucher = Signed::sign(message, &network().domain, &payer_signer());
        let message = PayerMessage::Voucher(voucher);
        world
            .provider
            .handle_payment(deal.id(), message, PaymentPath::Broker, world.now);
    };
    pay(&mut world, paid + 1);
    let stored = std::iter::from_fn(|| world.provider.poll_command())
        .find_map(|command| match command {
            Command::Store(store) => Some(store),
            _ => None,
        })
        .unwrap();
    world
        .provider
        .handle_stored(deal.id(), stored.cumulative(), world.now);
    let paths: Vec<_> = std::iter::from_fn(|| world.provider.poll_command())
        .filter_map(|command| match command {
            Command::Pay { path, .. } => Some(path),
            _ => None,
        })
        .collect();
    assert!(
        !paths.is_empty() && paths.iter().all(|path| *path == PaymentPath::Broker),
        "{paths:?}"
    );
}

#[test]
fn ends_by_either_side_are_reported_with_their_cause() {
    for (said, reported) in [
        (EndCause::RequesterEnded, EndCause::RequesterEnded),
        (EndCause::WrongExit, EndCause::WrongExit),
        (EndCause::Completed, EndCause::RequesterEnded),
        (EndCause::Unpaid, EndCause::RequesterEnded),
    ] {
        let mut world = world();
        let deal = world.lease(request(60, 100_000));
        world.run(Duration::from_secs(10));
        world.end_by_payer(&deal, said);
        let report = world.run_to_end(&deal, Duration::from_secs(5));
        assert_eq!(report.cause, reported);
        assert!(
            (8..=10).contains(&report.usage.secs),
            "{}",
            report.usage.secs
        );
    }
    let mut world = world();
    let deal = world.lease(request(60, 100_000));
    world.run(Duration::from_secs(10));
    let message = BrokerMessage::EndLease {
        deal_id: deal.id(),
        cause: EndCause::RequesterEnded,
    };
    world.provider.handle_broker_message(message, world.now);
    world.work();
    assert_eq!(
        world.run_to_end(&deal, Duration::from_secs(5)).cause,
        EndCause::RequesterEnded
    );
    assert!(world.provider.is_idle());
}

#[test]
fn the_budget_ends_a_lease_that_time_does_not() {
    let mut world = world();
    let deal = world.lease(request(60, 20_000));
    let report = world.run_to_end(&deal, 2 * MINUTE);
    assert_eq!(report.cause, EndCause::BudgetSpent);
    assert_eq!(report.amount, Amount(20_000));
}

#[test]
fn a_reservation_is_renewed_or_the_lease_ends_covered() {
    for renews in [true, false] {
        let mut world = world();
        world.weather.broker_renews = renews;
        let deal = world.propose(request(600, 1_000_000)).unwrap();
        world.bind(&deal, 60_000);
        let report = world.run_to_end(&deal, 12 * MINUTE);
        if renews {
            assert_eq!(report.cause, EndCause::Completed);
        } else {
            assert_eq!(report.cause, EndCause::CapacityLapsed);
            assert!(report.amount <= Amount(60_000), "{} served", report.amount);
        }
    }
}

#[test]
fn bytes_are_paid_for_as_well_as_time() {
    let mut settings = settings();
    settings.terms.prices = Prices {
        per_gib: PricePerGib(Amount(1_000_000)),
        ..settings.terms.prices
    };
    let mut world = World::new(settings);
    world.connect(&[]);
    let mut request = request(60, 2_000_000);
    request.max_prices.per_gib = PricePerGib(Amount(1_000_000));
    let deal = world.lease(request);
    world.weather.traffic = (1 << 20, 20 << 20);
    let report = world.run_to_end(&deal, 10 * MINUTE);
    let paid = world.disk.channels[&deal.channel().id()].cumulative();
    assert!(
        report.usage.bytes() > 100 << 20,
        "{} bytes",
        report.usage.bytes()
    );
    assert!(report.amount > Amount(60_000));
    assert!(
        paid >= report.amount || report.amount.0 - paid.0 < 40_000,
        "{} of {}",
        paid,
        report.amount
    );
}

#[test]
fn what_is_not_bound_is_not_opened() {
    let domain = network().domain;
    let deal = |world: &mut World| world.propose(request(60, 100_000)).unwrap();
    let bound = |deal: &ipsx_market::deal::Deal, now: crate::provider::Now| {
        (
            requester().sign_hash(deal.signing_hash(&domain)),
            outcome(deal, Binding::Bound),
            reservation(deal, 100_000, now.unix.after(3_600)),
        )
    };
    for wrong in 0..5 {
        let mut world = world();
        let deal = deal(&mut world);
        let (mut signature, mut outcome, mut reservation) = bound(&deal, world.now);
        match wrong {
            0 => signature = key(9).sign_hash(deal.signing_hash(&domain)),
            1 => outcome = Signed::sign(outcome.message, &domain, &key(9)),
            2 => outcome.message.outcome = Binding::Aborted,
            3 => reservation.message.channel_id = B256::ZERO.into(),
            _ => reservation = Signed::sign(reservation.message, &domain, &key(9)),
        }
        let message = BrokerMessage::DealBound {
            deal: Box::new(deal.clone()),
            requester_signature: signature,
            outcome,
            reservation,
        };
        world.provider.handle_broker_message(message, world.now);
        world.work();
        assert!(world.open.is_empty(), "case {wrong} opened a peer");
        assert_eq!(
            world.ended[&deal.id()].cause,
            EndCause::Misbehaved,
            "case {wrong}"
        );
        assert!(world.provider.is_idle());
    }
}

#[test]
fn a_reservation_that_the_chain_does_not_cover_waits_and_then_is_no_lease() {
    let mut world = world();
    world.payable = 10;
    let deal = world.lease(request(60, 100_000));
    assert!(world.open.is_empty());
    world.run(Duration::from_secs(5));
    world.payable = u128::MAX;
    world.run(Duration::from_secs(5));
    assert_eq!(
        world.open.get(&deal.id()),
        Some(&true),
        "the deposit became final"
    );

    let mut world = self::world();
    world.payable = 10;
    let deal = world.lease(request(60, 100_000));
    assert_eq!(
        world.run_to_end(&deal, 3 * MINUTE).cause,
        EndCause::NotStarted
    );
    assert!(world.open.is_empty());
}

#[test]
fn an_aborted_deal_frees_its_capacity() {
    let mut world = world();
    let deal = world.propose(request(60, 100_000)).unwrap();
    let forged = Signed::sign(
        outcome(&deal, Binding::Aborted).message,
        &network().domain,
        &key(9),
    );
    for (outcome, left) in [(forged, 1), (outcome(&deal, Binding::Aborted), 0)] {
        let message = BrokerMessage::DealAborted {
            deal_id: deal.id(),
            outcome,
        };
        world.provider.handle_broker_message(message, world.now);
        world.work();
        assert_eq!(world.provider.leases(), left);
    }
}

#[test]
fn a_deal_that_nobody_binds_is_forgotten() {
    let mut world = world();
    let deal = world.propose(request(60, 100_000)).unwrap();
    assert_eq!(
        world.run_to_end(&deal, 3 * MINUTE).cause,
        EndCause::NotStarted
    );
    assert!(world.provider.is_idle());
}

#[test]
fn a_channel_is_closed_at_what_it_paid() {
    let mut world = world();
    let deal = world.lease(request(10, 100_000));
    let report = world.run_to_end(&deal, MINUTE);
    let close = world.sent.iter().find_map(|message| match message {
        AgentMessage::CloseChannel { deal_id, close } if *deal_id == deal.id() => {
            Some(close.clone())
        }
        _ => None,
    });
    let close = close.unwrap();
    assert!(close.verify(&network().domain, deal.payout).is_ok());
    assert_eq!(close.message.channel_id, deal.channel().id());
    assert_eq!(
        Some(close.message.cumulative),
        report.voucher.map(|voucher| voucher.message.cumulative)
    );
}

#[test]
fn a_deal_far_ahead_holds_no_capacity_when_nobody_binds_it() {
    let mut world = world();
    let mut terms = proposal(request(60, 100_000), world.offer.unwrap(), world.now);
    terms.start_by = world.now.unix.after(47 * 3_600);
    let message = BrokerMessage::Propose {
        proposal: 1,
        terms: Box::new(terms),
    };
    world.provider.handle_broker_message(message, world.now);
    world.work();
    assert_eq!(world.provider.leases(), 1);
    world.run(2 * MINUTE);
    assert!(world.provider.is_idle());
}

#[test]
fn a_payer_that_asks_too_much_gets_no_answers() {
    let mut world = world();
    let deal = world.lease(request(600, 1_000_000));
    world.run(Duration::from_secs(5));
    let mut answers = 0;
    for number in 0..1_000 {
        let message = PayerMessage::Echo(number);
        world
            .provider
            .handle_payment(deal.id(), message, PaymentPath::Broker, world.now);
        answers += std::iter::from_fn(|| world.provider.poll_command()).count();
    }
    assert!(answers <= 10, "{answers} answers");
    world.run(Duration::from_secs(2));
    assert!(!world.ended.contains_key(&deal.id()));
}

#[test]
fn a_refused_offer_is_tried_again_later() {
    let mut world = world();
    let offer = world.offer.take().unwrap();
    let message = BrokerMessage::OfferRefused {
        offer,
        reason: "full".into(),
    };
    world.provider.handle_broker_message(message, world.now);
    world.work();
    assert_eq!(world.offer, None);
    world.run(Duration::from_secs(61));
    assert_eq!(world.offer, Some(offer));
}

/// A deal that starts in ten minutes, bound.
fn booked(world: &mut World) -> Deal {
    let earliest = world.now.unix.after(600);
    let mut ahead = request(60, 100_000);
    ahead.start = StartWindow {
        earliest,
        latest: earliest,
    };
    let deal = world.propose(ahead).unwrap();
    assert!(deal.is_prepaid());
    world.bind(&deal, deal.budget.0);
    deal
}

#[test]
fn the_peer_of_a_lease_that_starts_later_is_opened_then() {
    let mut world = world();
    let deal = booked(&mut world);
    let is_booked = |event: &ProviderEvent| matches!(event, ProviderEvent::LeaseBooked { starts_at, .. } if *starts_at == deal.starts_at);
    assert!(world.events.iter().any(is_booked));
    world.run(Duration::from_secs(594));
    assert!(!world.open.contains_key(&deal.id()));
    world.run(Duration::from_secs(2));
    assert!(world.open[&deal.id()]);
    let report = world.run_to_end(&deal, 3 * MINUTE);
    assert_eq!((report.cause, report.usage.secs), (EndCause::Completed, 60));
}

#[test]
fn what_an_absent_requester_has_prepaid_is_kept() {
    let mut world = world();
    let deal = booked(&mut world);
    world.weather.payer_pays = false;
    world.run(Duration::from_secs(600 + 90));
    let voucher = Voucher {
        channel_id: deal.channel().id(),
        cumulative: deal.terms().first_slice(),
        receipt_hash: B256::ZERO,
    };
    let voucher = Signed::sign(voucher, &network().domain, &payer_signer());
    let (deal_id, cause) = (deal.id(), EndCause::NotStarted);
    for message in [
        BrokerMessage::Forfeited {
            deal_id,
            voucher: voucher.clone(),
        },
        BrokerMessage::EndLease { deal_id, cause },
    ] {
        world.provider.handle_broker_message(message, world.now);
        world.work();
    }
    assert_eq!(world.disk.channels[&deal.channel().id()].voucher, voucher);
    let report = world.run_to_end(&deal, MINUTE);
    assert_eq!(report.amount, Amount::ZERO);
    assert!(!world.open[&deal.id()]);
}

#[test]
fn a_requester_that_gives_up_before_the_start_has_prepaid_too() {
    let mut world = world();
    let deal = booked(&mut world);
    world.run(MINUTE);
    let voucher = Voucher {
        channel_id: deal.channel().id(),
        cumulative: deal.terms().first_slice(),
        receipt_hash: B256::ZERO,
    };
    let voucher = Signed::sign(voucher, &network().domain, &payer_signer());
    let deal_id = deal.id();
    let cause = EndCause::RequesterEnded;
    for message in [
        BrokerMessage::Forfeited { deal_id, voucher },
        BrokerMessage::EndLease { deal_id, cause },
    ] {
        world.provider.handle_broker_message(message, world.now);
        world.work();
    }
    assert!(world.disk.channels.contains_key(&deal.channel().id()));
    assert!(world.provider.is_idle() && !world.open.contains_key(&deal_id));
}
