//! Single rules of the two meters, one at a time.

use std::time::{Duration, Instant};

use super::fixtures::{
    ROUND_TRIP, block_time, chain, domain, epoch, key, operator_key, payer_key, terms, wall,
};
use crate::*;

fn at(millis: u64) -> Instant {
    epoch() + Duration::from_millis(millis)
}

/// Answers no receipt: where that matters, it is signed anew.
fn voucher(terms: &Terms, cumulative: u128) -> Signed<Voucher> {
    Signed::sign(
        Voucher {
            channel_id: terms.channel_id(),
            cumulative: Amount(cumulative),
            receipt_hash: B256::ZERO,
        },
        &domain(),
        &payer_key(),
    )
}

fn reservation(terms: &Terms, capacity: u128, seconds: u64) -> Signed<Reservation> {
    Signed::sign(
        Reservation {
            channel_id: terms.channel_id(),
            capacity: Amount(capacity),
            valid_until: block_time(0).after(seconds),
        },
        &domain(),
        &operator_key(),
    )
}

fn meter(terms: &Terms) -> ProviderMeter {
    ProviderMeter::new(terms.clone(), domain(), ChannelState::default(), ROUND_TRIP).unwrap()
}

fn events(meter: &mut ProviderMeter) -> Vec<ProviderEvent> {
    std::iter::from_fn(|| meter.poll_event()).collect()
}

/// A meter that serves on a first slice of 2 s.
fn serving(terms: &Terms) -> ProviderMeter {
    let mut meter = meter(terms);
    meter
        .handle_reservation(&reservation(terms, 60_000, 80_000), &chain(0), at(0))
        .unwrap();
    meter.handle_ready(wall(), at(0));
    meter.handle_voucher(voucher(terms, 2_000), at(0)).unwrap();
    meter.handle_stored(Amount(2_000), at(0));
    assert_ne!(meter.gate(), ServiceGate::Closed);
    events(&mut meter);
    meter
}

#[test]
fn nothing_passes_before_a_voucher_is_stored_and_covered() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = meter(&terms);
    meter.handle_ready(wall(), at(0));
    meter.accept(voucher(&terms, 2_000), None, at(10)).unwrap();
    assert_eq!(meter.gate(), ServiceGate::Closed);
    meter.handle_stored(Amount(2_000), at(20));
    assert_eq!(meter.gate(), ServiceGate::Closed);
    meter
        .handle_reservation(&reservation(&terms, 60_000, 80_000), &chain(0), at(30))
        .unwrap();
    assert_eq!(
        meter.gate(),
        ServiceGate::Open {
            byte_limit: u64::MAX
        }
    );
    // An amount that was never accepted can't be stored.
    meter.handle_stored(Amount(500_000), at(40));
    assert_eq!(meter.paid(), Amount(2_000));
}

#[test]
fn there_is_no_credit_before_the_second_voucher() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = serving(&terms);
    meter.handle_counters(10, 0, at(1_000));
    meter.handle_counters(20, 0, at(2_000));
    assert_eq!(meter.gate(), ServiceGate::Closed);
    assert_eq!(meter.due(), Amount(2_000));
    meter
        .accept(voucher(&terms, 2_001), None, at(2_500))
        .unwrap();
    meter.handle_stored(Amount(2_001), at(2_500));
    // Two seconds of credit now, but none of them was used when service stopped.
    assert_ne!(meter.gate(), ServiceGate::Closed);
    meter.handle_counters(30, 0, at(3_500));
    meter.handle_counters(40, 0, at(4_500));
    assert_eq!(meter.gate(), ServiceGate::Closed);
    assert_eq!(meter.due(), Amount(4_000));
    // Credit that was used is due first.
    meter
        .accept(voucher(&terms, 3_999), None, at(5_000))
        .unwrap();
    meter.handle_stored(Amount(3_999), at(5_000));
    assert_eq!(meter.gate(), ServiceGate::Closed);
    meter
        .accept(voucher(&terms, 4_000), None, at(5_100))
        .unwrap();
    meter.handle_stored(Amount(4_000), at(5_100));
    assert_ne!(meter.gate(), ServiceGate::Closed);
    assert_eq!(meter.usage().secs, 4);
}

#[test]
fn a_late_timer_counts_no_time_that_was_not_allowed() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = serving(&terms);
    meter.handle_timeout(at(50_000));
    assert_eq!(meter.usage().secs, 2);
    assert_eq!(meter.due(), Amount(2_000));
}

#[test]
fn silence_stops_the_clock_where_the_peer_was_last_heard() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = serving(&terms);
    meter
        .accept(voucher(&terms, 60_000), None, at(500))
        .unwrap();
    let renewed = reservation(&terms, 120_000, 80_001);
    meter
        .handle_reservation(&renewed, &chain(0), at(500))
        .unwrap();
    meter.handle_stored(Amount(60_000), at(500));
    for second in 1..=20 {
        meter.handle_counters(second * 100, 0, at(second * 1_000));
    }
    assert_eq!(meter.usage().secs, 20);
    // Traffic down alone is no sign of life.
    meter.handle_counters(2_000, 5_000, at(22_000));
    let timeout = meter.poll_timeout().unwrap();
    assert_eq!(timeout, at(23_000));
    meter.handle_timeout(timeout);
    assert_eq!(meter.gate(), ServiceGate::Closed);
    assert_eq!(meter.usage().secs, 20);
    assert!(events(&mut meter).iter().any(|event| matches!(
        event,
        ProviderEvent::Held {
            cause: HoldCause::PeerSilent,
            ..
        }
    )));
    meter
        .accept(voucher(&terms, 60_000), None, at(40_000))
        .unwrap();
    assert_ne!(meter.gate(), ServiceGate::Closed);
    // Of 20 s, a twentieth may be forgiven.
    assert_eq!(meter.usage().secs, 19);
}

#[test]
fn an_echo_is_a_sign_of_life_and_pays_for_nothing() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = serving(&terms);
    meter.handle_timeout(at(1_000));
    meter.handle_timeout(at(1_999));
    let silent = meter.poll_timeout().unwrap();
    assert_eq!(silent, at(2_000), "a first slice after the voucher");
    meter.handle_echo(at(1_999));
    // Two seconds are paid for: echoes keep the lease alive, and the gate shut.
    for half in 4..200 {
        meter.handle_echo(at(half * 500));
        meter.handle_timeout(at(half * 500));
        assert_eq!(meter.gate(), ServiceGate::Closed);
        assert_eq!(meter.due(), Amount(2_000));
    }
    assert!(meter.is_ended());
    let ended = events(&mut meter)
        .into_iter()
        .find_map(|event| match event {
            ProviderEvent::Ended { cause, .. } => Some(cause),
            _ => None,
        });
    assert_eq!(ended, Some(EndCause::Unpaid));
}

#[test]
fn holds_add_up_and_then_end_the_lease() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = serving(&terms);
    meter
        .accept(voucher(&terms, 50_000), None, at(100))
        .unwrap();
    let renewed = reservation(&terms, 600_000, 80_001);
    meter
        .handle_reservation(&renewed, &chain(0), at(100))
        .unwrap();
    meter.handle_stored(Amount(50_000), at(100));
    let mut now = 100;
    while !meter.is_ended() && now < 600_000 {
        now += 20_000;
        meter.handle_timeout(at(now));
        meter
            .accept(voucher(&terms, 50_000), None, at(now))
            .unwrap();
    }
    assert!((60_000..130_000).contains(&now), "{now}");
    assert!(events(&mut meter).iter().any(|event| matches!(
        event,
        ProviderEvent::Ended {
            cause: EndCause::PeerSilent,
            ..
        }
    )));
}

#[test]
fn reservations_are_believed_only_within_their_rules() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = meter(&terms);
    let mut refuse = |reservation: Signed<Reservation>, view: ChainView| {
        let error = meter
            .handle_reservation(&reservation, &view, at(0))
            .unwrap_err();
        let Misbehaved::Operator(fault) = error else {
            panic!("{error}");
        };
        fault
    };
    let good = reservation(&terms, 60_000, 80_000);
    let mut forged = good.clone();
    forged.message.capacity = Amount(70_000);
    assert!(matches!(
        refuse(forged, chain(0)),
        OperatorFault::Signature { .. }
    ));
    let other_operator = ChainView {
        operator: key(7).address(),
        ..chain(0)
    };
    assert!(matches!(
        refuse(good.clone(), other_operator),
        OperatorFault::Signature { .. }
    ));
    let mut elsewhere = terms.clone();
    elsewhere.channel.salt = B256::ZERO;
    assert!(matches!(
        refuse(reservation(&elsewhere, 60_000, 80_000), chain(0)),
        OperatorFault::WrongChannel { .. }
    ));
    assert!(matches!(
        refuse(reservation(&terms, 60_000, 23 * 3600 + 1), chain(0)),
        OperatorFault::TooLong { .. }
    ));
    let key_ends = ChainView {
        signer_valid_to: block_time(0).after(79_999),
        ..chain(0)
    };
    assert!(matches!(
        refuse(good.clone(), key_ends),
        OperatorFault::OutlivesSigner { .. }
    ));
    let poor = ChainView {
        payable: Amount(59_999),
        ..chain(0)
    };
    assert!(matches!(
        refuse(good, poor),
        OperatorFault::NotCovered { .. }
    ));
    assert!(matches!(
        refuse(reservation(&terms, 1_999, 80_000), chain(0)),
        OperatorFault::TooSmall { .. }
    ));
    assert!(matches!(
        refuse(reservation(&terms, 60_000, 4), chain(0)),
        OperatorFault::TooShort { .. }
    ));
    let exact = reservation(&terms, 60_000, 23 * 3600);
    assert_eq!(meter.handle_reservation(&exact, &chain(0), at(0)), Ok(true));
    let shorter = reservation(&terms, 90_000, 3600);
    assert_eq!(
        meter.handle_reservation(&shorter, &chain(0), at(0)),
        Ok(false)
    );
}

#[test]
fn service_stops_two_slices_before_the_reservation_lapses() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = meter(&terms);
    meter
        .handle_reservation(&reservation(&terms, 60_000, 30), &chain(0), at(0))
        .unwrap();
    meter.handle_ready(wall(), at(0));
    for amount in [2_000, 30_000] {
        meter.accept(voucher(&terms, amount), None, at(0)).unwrap();
        meter.handle_stored(Amount(amount), at(0));
    }
    let mut renewals = 0;
    let mut now = 0;
    while !meter.is_ended() {
        now += 250;
        meter.handle_counters(now, 0, at(now));
        for event in events(&mut meter) {
            renewals += u32::from(matches!(event, ProviderEvent::RenewReservation { .. }));
        }
    }
    // 30 s less two first slices of 2 s; asked for every 5 s from half time on.
    assert_eq!(now, 26_000);
    assert_eq!(meter.usage().secs, 26);
    assert_eq!(renewals, 3);
}

#[test]
fn a_machine_that_slept_learns_the_time_from_the_chain() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = serving(&terms);
    meter.handle_block_time(block_time(0).after(10), at(100));
    assert!(!meter.is_ended());
    meter.handle_block_time(block_time(0).after(79_997), at(200));
    assert!(meter.is_ended());
}

#[test]
fn a_lease_that_is_not_renewed_ends_when_the_next_slice_is_not_covered() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = meter(&terms);
    meter
        .handle_reservation(&reservation(&terms, 20_000, 80_000), &chain(0), at(0))
        .unwrap();
    meter.handle_ready(wall(), at(0));
    let mut asked = false;
    let mut last = 0;
    for second in 0..30u64 {
        if meter.is_ended() {
            break;
        }
        last = u128::from(second) * 1_000 + 2_000;
        meter
            .accept(voucher(&terms, last), None, at(second * 1_000))
            .unwrap();
        meter.handle_stored(Amount(last), at(second * 1_000));
        for event in events(&mut meter) {
            asked |= matches!(event, ProviderEvent::RenewReservation { .. });
            if let ProviderEvent::Ended { cause, .. } = event {
                assert_eq!(cause, EndCause::Uncovered);
            }
        }
    }
    assert!(meter.is_ended() && asked);
    assert_eq!(last, 19_000);
    assert!(meter.due() <= meter.paid());
}

#[test]
fn vouchers_of_strangers_and_beyond_the_budget_are_refused() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = serving(&terms);
    let forged = Signed::sign(voucher(&terms, 5_000).message, &domain(), &key(9));
    assert!(matches!(
        meter.handle_voucher(forged, at(100)),
        Err(Misbehaved::Payer(PayerFault::Signature { .. }))
    ));
    let replayed = Signed::sign(
        voucher(&terms, 5_000).message,
        &Domain {
            chain_id: 1,
            ..domain()
        },
        &payer_key(),
    );
    assert!(matches!(
        meter.handle_voucher(replayed, at(100)),
        Err(Misbehaved::Payer(PayerFault::Signature { .. }))
    ));
    assert_eq!(
        meter.handle_voucher(voucher(&terms, 600_001), at(100)),
        Err(Misbehaved::Payer(PayerFault::OverBudget {
            cumulative: Amount(600_001),
            most: Amount(600_000)
        }))
    );
    assert_eq!(
        meter.handle_voucher(voucher(&terms, 1_999), at(100)),
        Ok(VoucherOutcome::Stale)
    );
    assert!(events(&mut meter).is_empty());
    // After the end, what the payer still pays is taken.
    meter.handle_end(EndCause::PayerEnded, at(1_500));
    assert_eq!(
        meter.accept(voucher(&terms, 3_000), None, at(1_600)),
        Ok(VoucherOutcome::Higher)
    );
    meter.handle_stored(Amount(3_000), at(1_700));
    assert_eq!(meter.paid(), Amount(3_000));
}

#[test]
fn numbers_of_receipts_are_not_used_before_the_state_is_stored() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut first = serving(&terms);
    let stored = first.state();
    first.handle_counters(1, 0, at(1_000));
    let used: Vec<u64> = events(&mut first)
        .into_iter()
        .filter_map(|event| match event {
            ProviderEvent::SignReceipt(receipt) => Some(receipt.seq),
            _ => None,
        })
        .collect();
    assert_eq!(used, [0]);
    let mut again =
        ProviderMeter::new(terms.clone(), domain(), stored.clone(), ROUND_TRIP).unwrap();
    again
        .handle_reservation(&reservation(&terms, 60_000, 80_000), &chain(0), at(2_000))
        .unwrap();
    again.handle_ready(wall(), at(2_000));
    assert_ne!(again.gate(), ServiceGate::Closed);
    again.handle_counters(1, 0, at(3_000));
    let receipts = |events: &[ProviderEvent]| {
        events
            .iter()
            .any(|event| matches!(event, ProviderEvent::SignReceipt(_)))
    };
    let before = events(&mut again);
    assert!(!receipts(&before), "no number before the state is stored");
    again.handle_stored(Amount(2_000), at(3_100));
    again.handle_counters(2, 0, at(4_000));
    let after = events(&mut again);
    assert!(receipts(&after));
    assert!(again.state().next_seq > stored.next_seq);
}

#[test]
fn a_voucher_answers_a_receipt_that_was_not_answered_by_a_later_one() {
    let terms = terms(1, 1_000, 0, 600, 600_000);
    let mut meter = serving(&terms);
    let mut receipts = Vec::new();
    let mut cumulative = 2_000;
    let mut pay = |meter: &mut ProviderMeter, answered: B256, now: u64| {
        cumulative += 1_000;
        let message = Voucher {
            receipt_hash: answered,
            ..voucher(&terms, cumulative).message
        };
        let taken = meter.handle_voucher(Signed::sign(message, &domain(), &payer_key()), at(now));
        match taken {
            Ok(VoucherOutcome::Higher) => {
                meter.handle_stored(Amount(cumulative), at(now));
                assert!(meter.checked().is_some());
                true
            }
            Err(Misbehaved::Payer(PayerFault::UnknownReceipt { found, .. })) => {
                assert_eq!(found, answered);
                // Its money is kept, and earns nothing.
                let kept = events(meter).into_iter().any(|event| {
                    matches!(event,
                    ProviderEvent::KeepVoucher(kept) if kept.message.cumulative.0 == cumulative)
                });
                assert!(kept);
                let before = meter.paid();
                meter.handle_stored(Amount(cumulative), at(now));
                assert_eq!(meter.paid(), before);
                false
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(
        !pay(&mut meter, B256::ZERO, 100),
        "only the opening one answers none"
    );
    for second in 1..=4 {
        meter.handle_timeout(at(second * 1_000));
        for event in events(&mut meter) {
            if let ProviderEvent::SignReceipt(receipt) = event {
                receipts.push(receipt.signing_hash(&domain()));
            }
        }
        // The newest, twice: the payer may have measured more since.
        let newest = *receipts.last().unwrap();
        assert!(pay(&mut meter, newest, second * 1_000 + 10));
        assert!(pay(&mut meter, newest, second * 1_000 + 20));
    }
    assert!(!pay(&mut meter, receipts[0], 4_100), "answered before");
    assert!(!pay(&mut meter, B256::repeat_byte(7), 4_100));
    // After a restart the receipts of before are not known; what answers them is taken.
    let mut meter = ProviderMeter::new(terms.clone(), domain(), meter.state(), ROUND_TRIP).unwrap();
    assert!(pay(&mut meter, receipts[3], 5_000));
}
