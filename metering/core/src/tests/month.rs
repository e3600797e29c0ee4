//! The longest lease, second by second.

use std::time::Duration;

use super::fixtures::{ROUND_TRIP, chain, domain, epoch, operator_key, terms, wall};
use crate::*;

/// Both meters through 31 days: every second has counters, an echo, a receipt, a voucher and its storing. Signatures
/// and hashes are left out here (they would take minutes); the other tests make and check them all.
#[test]
fn a_lease_of_31_days_second_by_second() {
    let seconds = 31 * 86_400;
    let budget = 100 * u128::from(seconds) + 1_000_000_000;
    let terms = terms(1, 100, 1_000_000, seconds, budget);
    let new = ChannelState::default;
    let mut provider = ProviderMeter::new(terms.clone(), domain(), new(), ROUND_TRIP).unwrap();
    let mut payer = PayerMeter::new(
        terms.clone(),
        domain(),
        new(),
        ROUND_TRIP,
        ServiceProof::Echoes,
    )
    .unwrap();
    let signature = Signature([0; 65]);
    let (mut receipts, mut vouchers, mut renewals) = (0u64, 0u64, 0u64);
    let (mut up, mut down) = (0, 0);
    for millis in (0..).step_by(1000) {
        let now = epoch() + Duration::from_millis(millis);
        let due = provider.poll_timeout();
        if millis == 0 {
            renew(&mut provider, &terms, 0);
            provider.handle_ready(wall(), now);
            payer.handle_ready(now);
        } else {
            assert!(due.is_some_and(|at| at <= now), "a timer for each second");
            provider.handle_counters(up, down, now);
            payer.handle_counters(up, down, now);
            payer.handle_echo(now);
            up += 1_000;
            down += 20_000;
        }
        loop {
            if let Some(event) = provider.poll_event() {
                match event {
                    ProviderEvent::SignReceipt(message) => {
                        receipts += 1;
                        let receipt = Signed { message, signature };
                        provider.handle_signed(receipt.clone());
                        payer.accept(receipt, now).unwrap();
                    }
                    ProviderEvent::StoreVoucher(voucher) => {
                        provider.handle_stored(voucher.message.cumulative, now);
                    }
                    ProviderEvent::RenewReservation { .. } => {
                        renewals += 1;
                        renew(&mut provider, &terms, millis);
                    }
                    ProviderEvent::Gate(_) | ProviderEvent::Ended { .. } => {}
                    other => panic!("{other:?}"),
                }
            } else if let Some(event) = payer.poll_event() {
                match event {
                    PayerEvent::SignVoucher(order) => {
                        let message = Voucher {
                            channel_id: order.channel_id,
                            cumulative: order.cumulative,
                            receipt_hash: B256::ZERO,
                        };
                        payer
                            .handle_signed(Signed { message, signature }, now)
                            .unwrap();
                    }
                    PayerEvent::SendVoucher(voucher) => {
                        vouchers += 1;
                        provider.accept(voucher, None, now).unwrap();
                    }
                    PayerEvent::Ended { .. } => {}
                    other => panic!("{other:?}"),
                }
            } else {
                break;
            }
        }
        if provider.is_ended() {
            break;
        }
    }
    let usage = provider.usage();
    assert_eq!(usage.secs, seconds);
    assert_eq!(provider.due(), terms.prices.due(&usage).unwrap());
    assert!(payer.is_ended() && payer.paid() >= provider.due() && payer.paid() <= terms.budget);
    assert!(receipts >= seconds && vouchers >= seconds && renewals > 31);
}

fn renew(provider: &mut ProviderMeter, terms: &Terms, millis: u64) {
    let view = chain(millis);
    let reservation = Reservation {
        channel_id: terms.channel_id(),
        capacity: provider.capacity_wanted(),
        valid_until: view.block_time.after(23 * 3600),
    };
    let signed = Signed::sign(reservation, &domain(), &operator_key());
    let now = epoch() + Duration::from_millis(millis);
    assert_eq!(provider.handle_reservation(&signed, &view, now), Ok(true));
}
