//! Leases of honest parties, from seconds to a month.

use ipsx_market::messages::EndCause;
use ipsx_metering::ChannelState;

use super::simulation::Simulation;
use super::*;

#[test]
fn a_short_lease_is_paid_to_the_unit() {
    let mut lease = Simulation::new(8);
    lease.traffic = 100_000;
    lease.run(30);
    assert_eq!(lease.ended().reason, EndReason::Cause(EndCause::Completed));
    assert_eq!(lease.meter.usage().secs, 8);
    // Both sides end with the same voucher; it covers what was used, and less than a slice more.
    let (promised, due) = (lease.ended().report.amount, lease.meter.due());
    assert_eq!(lease.meter.paid(), promised);
    assert!(
        due.0 > 8 * 1_000 && promised >= due && promised.0 - due.0 < 2 * 5_000,
        "{promised} for {due}"
    );
    assert!(
        lease.seconds.len() >= 7 && lease.seconds.len() <= 9,
        "{}",
        lease.seconds.len()
    );
    assert_eq!(lease.lease.exit_seen(), Some(EXIT));
}

#[test]
fn the_exit_is_proven_before_the_second_voucher() {
    let mut lease = Simulation::new(8);
    lease.run(30);
    assert_eq!(lease.signed_before_check, 1);
    assert!(lease.checks >= 1);
}

#[test]
fn loss_costs_nothing_but_time() {
    for loss in [5, 9, 20] {
        let mut lease = Simulation::new(60);
        lease.loss = loss;
        lease.traffic = 100_000;
        lease.run(200);
        assert_eq!(
            lease.ended().reason.blame(),
            Blame::Nobody,
            "1 in {loss}: {:?}",
            lease.ended().reason
        );
        assert!(lease.ended().report.amount >= lease.meter.paid());
    }
}

#[test]
fn an_hour_is_checked_at_random_times() {
    let mut lease = Simulation::new(3_600);
    lease.run(3_700);
    assert_eq!(lease.ended().reason, EndReason::Cause(EndCause::Completed));
    assert!((12..=121).contains(&lease.checks), "{}", lease.checks);
    // What is prepaid and unused at the end is less than one slice of 30 s at full price.
    assert!((3_600 * 1_000..3_600 * 1_000 + 30 * 5_000).contains(&lease.ended().report.amount.0));
}

#[test]
fn the_budget_is_never_exceeded() {
    let mut deal = deal(&request(60));
    deal.budget = Amount(120_500);
    deal.prices.per_second.0.0 = 4_000;
    let mut lease = Simulation::on_channel(deal, ChannelState::default(), ChannelState::default());
    lease.run(90);
    assert!(lease.ended().report.amount <= Amount(120_500));
    assert!(matches!(
        lease.ended().report.cause,
        EndCause::BudgetSpent | EndCause::ProviderEnded | EndCause::Unpaid
    ));
}

#[test]
fn a_stop_is_told_and_the_rest_is_paid() {
    let mut lease = Simulation::new(600);
    lease.run(10);
    lease.lease.handle_stop(lease.now);
    lease.run(10);
    assert_eq!(
        lease.ended().reason,
        EndReason::Cause(EndCause::RequesterEnded)
    );
    assert_eq!(lease.ended().reason.blame(), Blame::Nobody);
    assert!(lease.meter.is_ended());
    // The most that is prepaid and unused is one slice.
    assert!(lease.ended().report.amount.0 <= 13 * 1_000 + 2 * 5_000);
}

#[test]
fn a_channel_goes_on_from_the_last_lease_and_after_a_lost_disk() {
    let mut first = Simulation::new(8);
    first.run(30);
    let paid = first.ended().report.amount;
    for mine in [first.disk.clone(), ChannelState::default()] {
        let mut again = deal(&request(8));
        again.salt = B256::repeat_byte(44);
        let mut second = Simulation::on_channel(again, mine, first.meter.state());
        second.run(30);
        assert_eq!(second.lease.paid_before(), paid);
        assert_eq!(second.ended().reason, EndReason::Cause(EndCause::Completed));
        assert_eq!(second.disk.cumulative(), Amount(2 * paid.0));
    }
}
