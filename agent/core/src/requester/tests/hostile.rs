//! Providers and brokers that cheat: what each of them gets is bounded and stated.

use ipsx_market::messages::EndCause;
use ipsx_market::payment::ProviderMessage;
use ipsx_metering::ChannelState;

use super::simulation::{Cheat, Simulation};
use super::*;

/// Two seconds at the deal's full price: the first slice.
fn first_slice(lease: &Simulation) -> u128 {
    2 * lease.deal.budget.0.div_ceil(u128::from(lease.deal.seconds))
}

fn run(seconds: u32, limit: u64, cheat: Cheat) -> Simulation {
    let mut lease = Simulation::new(seconds);
    lease.cheat = cheat;
    lease.run(limit);
    lease
}

#[test]
fn another_exit_gets_the_first_slice_and_no_more() {
    let mut lease = Simulation::new(60);
    lease.exit = Some(OTHER);
    lease.run(30);
    assert_eq!(
        lease.ended().reason,
        EndReason::WrongExit {
            sold: EXIT,
            seen: OTHER
        }
    );
    assert_eq!(lease.ended().reason.blame(), Blame::Provider);
    assert_eq!(lease.lease.progress().vouchers, 1);
    assert!(lease.ended().report.amount.0 <= first_slice(&lease));
}

#[test]
fn an_exit_that_changes_later_is_noticed() {
    let mut lease = Simulation::new(3_600);
    lease.run(100);
    lease.exit = Some(OTHER);
    lease.run(400);
    assert_eq!(lease.ended().report.cause, EndCause::WrongExit);
}

#[test]
fn an_exit_that_hides_gets_the_first_slice_and_no_more() {
    let mut lease = Simulation::new(60);
    lease.exit = None;
    lease.run(60);
    assert!(matches!(
        lease.ended().reason,
        EndReason::ExitUnknown | EndReason::Cause(EndCause::Unpaid)
    ));
    assert_eq!(lease.lease.progress().vouchers, 1);
    assert!(lease.ended().report.amount.0 <= first_slice(&lease));
}

#[test]
fn a_tunnel_that_carries_nothing_is_not_paid() {
    let lease = run(
        600,
        100,
        Cheat {
            deaf_after: Some(10),
            ..Cheat::default()
        },
    );
    assert_eq!(lease.ended().report.cause, EndCause::NoService);
    // Ten seconds were served; the tolerance is one second, and one slice may be prepaid.
    assert!(lease.ended().report.amount.0 <= 12 * 1_000 + first_slice(&lease));
}

#[test]
fn a_provider_that_never_answers_gets_nothing() {
    let lease = run(
        600,
        100,
        Cheat {
            deaf_after: Some(0),
            ..Cheat::default()
        },
    );
    assert_eq!(lease.ended().report.cause, EndCause::NotStarted);
    assert_eq!(lease.ended().report.amount, Amount::ZERO);
    assert_eq!(lease.ended().report.voucher, None);
}

#[test]
fn invented_seconds_are_not_paid() {
    let cheat = Cheat {
        receipt: Some(|receipt| {
            let honest = receipt.deal_amount;
            receipt.usage.secs *= 1_000;
            receipt.deal_amount = prices().due(&receipt.usage).unwrap();
            receipt.cumulative = Amount(receipt.cumulative.0 - honest.0 + receipt.deal_amount.0);
        }),
        ..Cheat::default()
    };
    let lease = run(600, 100, cheat);
    assert_eq!(lease.ended().report.cause, EndCause::Misbehaved);
    assert!(lease.disputes > 0);
    let served = u128::from(lease.ended().report.usage.secs + 2) * 1_000;
    assert!(lease.ended().report.amount.0 <= served + first_slice(&lease));
}

#[test]
fn invented_bytes_are_not_paid() {
    let cheat = Cheat {
        receipt: Some(|receipt| {
            let honest = receipt.deal_amount;
            receipt.usage.bytes_down += 1 << 30;
            receipt.deal_amount = prices().due(&receipt.usage).unwrap();
            receipt.cumulative = Amount(receipt.cumulative.0 - honest.0 + receipt.deal_amount.0);
        }),
        ..Cheat::default()
    };
    let lease = run(600, 100, cheat);
    assert_eq!(lease.ended().report.cause, EndCause::Misbehaved);
    assert!(lease.ended().report.amount.0 < 1 << 28);
}

#[test]
fn receipts_that_do_not_add_up_end_the_lease_unpaid() {
    let wrong: [fn(&mut ipsx_metering::Receipt); 3] = [
        |receipt| receipt.deal_amount.0 += 1,
        |receipt| receipt.cumulative.0 += 1,
        |receipt| receipt.channel_id.0 = B256::ZERO,
    ];
    for change in wrong {
        let lease = run(
            600,
            100,
            Cheat {
                receipt: Some(change),
                ..Cheat::default()
            },
        );
        assert!(
            matches!(lease.ended().reason, EndReason::Misbehaved(_)),
            "{:?}",
            lease.ended().reason
        );
        assert_eq!(lease.lease.progress().vouchers, 1);
        assert!(lease.ended().report.amount.0 <= first_slice(&lease));
    }
}

#[test]
fn a_provider_cannot_call_an_early_end_completed() {
    let lease = run(
        600,
        100,
        Cheat {
            ends: Some((10, EndCause::Completed)),
            ..Cheat::default()
        },
    );
    assert_eq!(lease.ended().report.cause, EndCause::ProviderEnded);
    assert_eq!(lease.ended().reason.blame(), Blame::Provider);
}

#[test]
fn a_provider_that_says_it_stored_more_than_was_signed_is_not_believed() {
    let lease = run(
        60,
        90,
        Cheat {
            stored: Some(Amount::MAX),
            ..Cheat::default()
        },
    );
    assert!(
        lease
            .seconds
            .iter()
            .all(|second| second.accepted == Amount::ZERO)
    );
}

#[test]
fn echoes_cannot_be_invented() {
    let mut lease = Simulation::new(600);
    lease.cheat.deaf_after = Some(5);
    lease.run(5);
    for guess in 0..1_000 {
        lease.deliver(ProviderMessage::Echo(guess));
    }
    lease.run(60);
    assert_eq!(lease.ended().report.cause, EndCause::NoService);
}

#[test]
fn a_broker_that_says_it_is_over_does_not_end_a_tunnel_that_works() {
    let mut lease = Simulation::new(60);
    lease.run(5);
    lease.lease.handle_over(lease.now);
    lease.run(90);
    assert_eq!(lease.ended().report.cause, EndCause::Completed);

    let mut dead = Simulation::new(600);
    dead.run(5);
    dead.cheat.deaf_after = Some(0);
    dead.lease.handle_over(dead.now);
    dead.run(10);
    assert_eq!(dead.ended().report.cause, EndCause::NoService);
}

#[test]
fn a_voucher_of_a_stranger_does_not_raise_the_channel() {
    // `check_ready` refuses it; here it is shown that nothing else would take it over.
    let own = ChannelState::default();
    let lease = Simulation::on_channel(deal(&request(8)), own.clone(), own);
    assert_eq!(lease.lease.paid_before(), Amount::ZERO);
}
