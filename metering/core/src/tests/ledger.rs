//! The operator's ledger, its rules one at a time.

use super::fixtures::{domain, key};
use crate::*;

pub(super) const START: UnixSeconds = UnixSeconds(1_000_000);

pub(super) fn network() -> NetworkId {
    NetworkId(B256::repeat_byte(9))
}

pub(super) fn payer(number: u8) -> Address {
    Address::repeat_byte(number + 1)
}

pub(super) fn channel(of: u8, number: u8) -> Channel {
    Channel {
        network: network(),
        payer: payer(of),
        payer_signer: key(1).address(),
        provider: key(number + 10).address(),
        salt: B256::repeat_byte(number),
    }
}

pub(super) fn on_chain(time: UnixSeconds) -> ChannelOnChain {
    ChannelOnChain {
        block_time: time,
        signer_valid_to: time.after(365 * 86_400),
        claimed: Amount::ZERO,
        held: Amount::ZERO,
    }
}

pub(super) fn ledger(total: u128, per_payer: u128) -> CapacityLedger {
    CapacityLedger::new(
        network(),
        CreditLine {
            total: Amount(total),
            per_payer: Amount(per_payer),
        },
    )
}

/// A deposit that is final.
pub(super) fn set_deposit(
    ledger: &mut CapacityLedger,
    payer: Address,
    balance: Amount,
    pending: Amount,
) {
    let deposit = Deposit { balance, pending };
    ledger.set_deposit(payer, deposit, deposit, START);
}

pub(super) fn close(channel: &Channel, cumulative: u128, number: u8) -> Signed<Close> {
    Signed::sign(
        Close {
            channel_id: channel.id(),
            cumulative: Amount(cumulative),
        },
        &domain(),
        &key(number + 10),
    )
}

#[test]
fn promises_stop_at_the_deposit() {
    let mut ledger = ledger(0, 0);
    set_deposit(&mut ledger, payer(0), Amount(1_000), Amount(100));
    let until = START.after(3600);
    let first = ledger.reserve(&channel(0, 0), Amount(600), until, &on_chain(START));
    assert_eq!(first.unwrap().capacity, Amount(600));
    let refused = ledger.reserve(&channel(0, 1), Amount(301), until, &on_chain(START));
    assert_eq!(
        refused,
        Err(Refused::NotCovered {
            payer: payer(0),
            needed: Amount(301),
            available: Amount(300)
        })
    );
    assert!(
        ledger
            .reserve(&channel(0, 1), Amount(300), until, &on_chain(START))
            .is_ok()
    );
    // A renewal only adds what is new, a claim frees what it took, a withdrawal request stops everything.
    assert!(
        ledger
            .reserve(&channel(0, 0), Amount(601), until, &on_chain(START))
            .is_err()
    );
    set_deposit(&mut ledger, payer(0), Amount(500), Amount(100));
    let first = channel(0, 0);
    ledger.set_claimed(first.payer, first.id(), Amount(500), Amount::ZERO);
    assert_eq!(ledger.available(payer(0)), Amount::ZERO);
    assert_eq!(ledger.account(payer(0)).unwrap().committed(), Amount(400));
    set_deposit(&mut ledger, payer(0), Amount(500), Amount(101));
    assert!(
        ledger
            .reserve(
                &channel(0, 0),
                Amount(600),
                until.after(1),
                &on_chain(START)
            )
            .is_err()
    );
}

#[test]
fn a_withdrawal_in_blocks_that_are_not_final_counts_when_finality_stalls() {
    let mut ledger = ledger(0, 0);
    ledger.handle_final_time(START);
    let certain = Deposit {
        balance: Amount(1_000),
        pending: Amount::ZERO,
    };
    let withdrawn = Deposit {
        balance: Amount(100),
        pending: Amount::ZERO,
    };
    // Such a balance is lower for claims only: whatever was withdrawn had been asked for in a final block.
    ledger.set_deposit(payer(0), certain, withdrawn, START.after(EXIT_DELAY - 1));
    assert_eq!(ledger.available(payer(0)), Amount(1_000));
    ledger.set_deposit(payer(0), certain, withdrawn, START.after(EXIT_DELAY));
    assert_eq!(ledger.available(payer(0)), Amount(100));
    ledger.handle_final_time(START.after(EXIT_DELAY));
    ledger.set_deposit(payer(0), withdrawn, withdrawn, START.after(EXIT_DELAY));
    assert_eq!(ledger.available(payer(0)), Amount(100));
}

#[test]
fn a_promise_counts_until_a_day_after_it_lapsed() {
    let mut ledger = ledger(0, 0);
    set_deposit(&mut ledger, payer(0), Amount(1_000), Amount::ZERO);
    let short = START.after(100);
    let long = START.after(1_000);
    let chan = channel(0, 0);
    ledger
        .reserve(&chan, Amount(900), short, &on_chain(START))
        .unwrap();
    ledger
        .reserve(&chan, Amount(400), long, &on_chain(START))
        .unwrap();
    assert_eq!(ledger.available(payer(0)), Amount(100));
    assert!(
        ledger
            .handle_final_time(short.after(CLAIM_WINDOW))
            .is_empty()
    );
    assert_eq!(
        ledger.handle_final_time(short.after(CLAIM_WINDOW + 1)),
        [payer(0)]
    );
    assert_eq!(ledger.available(payer(0)), Amount(600));
    ledger.handle_final_time(long.after(CLAIM_WINDOW + 1));
    assert_eq!(ledger.available(payer(0)), Amount(1_000));
    assert_eq!(ledger.account(payer(0)).unwrap().channels.len(), 0);
}

#[test]
fn a_close_frees_within_the_credit_line_only() {
    let mut ledger = ledger(500, 300);
    set_deposit(&mut ledger, payer(0), Amount(1_000), Amount::ZERO);
    let until = START.after(3600);
    for number in 0..2 {
        let promised = ledger.reserve(&channel(0, number), Amount(500), until, &on_chain(START));
        assert!(promised.is_ok());
    }
    let (one, two) = (channel(0, 0), channel(0, 1));
    let freed = ledger.close(&one, &close(&one, 250, 0), &domain());
    assert_eq!(freed, Ok(Freed::Now(Amount(250))));
    // A second one would go beyond what one payer may have.
    assert_eq!(
        ledger.close(&two, &close(&two, 400, 1), &domain()),
        Ok(Freed::Later)
    );
    assert_eq!(ledger.available(payer(0)), Amount(250));
    // Said twice is not freed twice; using the channel again counts it in full.
    assert_eq!(
        ledger.close(&one, &close(&one, 250, 0), &domain()),
        Ok(Freed::Now(Amount::ZERO))
    );
    assert!(
        ledger
            .reserve(&one, Amount(500), until.after(1), &on_chain(START))
            .is_ok()
    );
    assert_eq!(ledger.available(payer(0)), Amount::ZERO);
    let forged = close(&one, 0, 5);
    assert!(matches!(
        ledger.close(&one, &forged, &domain()),
        Err(Misbehaved::Provider(ProviderFault::CloseSignature { .. }))
    ));
    assert!(matches!(
        ledger.close(&one, &close(&two, 0, 1), &domain()),
        Err(Misbehaved::Provider(ProviderFault::CloseOfAnother { .. }))
    ));
}

#[test]
fn withdrawals_and_reservations_share_the_deposit() {
    let mut ledger = ledger(0, 0);
    set_deposit(&mut ledger, payer(0), Amount(1_000), Amount::ZERO);
    let withdrawal = |amount, nonce| Withdrawal {
        network: network(),
        owner: payer(0),
        to: payer(5),
        amount: Amount(amount),
        nonce,
        deadline: START.after(600),
    };
    ledger.promise_withdrawal(&withdrawal(700, 0)).unwrap();
    let until = START.after(3600);
    let chan = channel(0, 0);
    assert!(
        ledger
            .reserve(&chan, Amount(301), until, &on_chain(START))
            .is_err()
    );
    assert!(
        ledger
            .reserve(&chan, Amount(300), until, &on_chain(START))
            .is_ok()
    );
    // Another consent with the same nonce replaces nothing: either may be used.
    ledger.promise_withdrawal(&withdrawal(100, 0)).unwrap();
    assert_eq!(ledger.available(payer(0)), Amount::ZERO);
    assert!(ledger.promise_withdrawal(&withdrawal(1, 1)).is_err());
    set_deposit(&mut ledger, payer(0), Amount(300), Amount::ZERO);
    ledger.set_withdrawal_nonce(payer(0), 1);
    assert_eq!(ledger.available(payer(0)), Amount::ZERO);
    ledger.handle_final_time(until.after(CLAIM_WINDOW + 1));
    assert_eq!(ledger.available(payer(0)), Amount(300));
}

#[test]
fn times_and_networks_are_checked() {
    let mut ledger = ledger(0, 0);
    set_deposit(&mut ledger, payer(0), Amount(1_000), Amount::ZERO);
    let chan = channel(0, 0);
    for until in [START, START.after(23 * 3600 + 1)] {
        assert!(matches!(
            ledger.reserve(&chan, Amount(1), until, &on_chain(START)),
            Err(Refused::BadTime { .. })
        ));
    }
    let key_ends = ChannelOnChain {
        signer_valid_to: START.after(10),
        ..on_chain(START)
    };
    assert!(
        ledger
            .reserve(&chan, Amount(1), START.after(11), &key_ends)
            .is_err()
    );
    assert!(
        ledger
            .reserve(&chan, Amount(1), START.after(10), &key_ends)
            .is_ok()
    );
    let foreign = Channel {
        network: NetworkId(B256::ZERO),
        ..chan
    };
    assert!(matches!(
        ledger.reserve(&foreign, Amount(1), START.after(5), &on_chain(START)),
        Err(Refused::WrongNetwork { .. })
    ));
}

#[test]
fn a_refused_promise_leaves_nothing_to_store() {
    let mut ledger = ledger(0, 0);
    let until = START.after(3600);
    let (first, second) = (channel(0, 0), channel(0, 1));
    let chain = on_chain(START);
    let asked = |channel, capacity| Asked {
        channel,
        capacity: Amount(capacity),
        valid_until: until,
        chain: &chain,
    };
    assert!(ledger.reserve_all(&[asked(&first, 1)]).is_err());
    assert_eq!(ledger.accounts().count(), 0);
    set_deposit(&mut ledger, payer(0), Amount(1_000), Amount::ZERO);
    ledger.take_update(payer(0));
    // The second does not fit, so the first is taken back, and a larger promise with it.
    let both = [asked(&first, 600), asked(&second, 300), asked(&first, 701)];
    assert!(ledger.reserve_all(&both).is_err());
    assert_eq!(ledger.take_update(payer(0)).channels, []);
    assert_eq!(ledger.available(payer(0)), Amount(1_000));
    ledger.reserve_all(&both[..2]).unwrap();
    let changed = ledger.take_update(payer(0)).channels;
    assert_eq!(changed.len(), 2);
    assert_eq!(ledger.take_update(payer(0)).channels, []);
    // A look at the chain that shows nothing new changes nothing.
    ledger.set_claimed(payer(0), first.id(), Amount::ZERO, Amount::ZERO);
    assert_eq!(ledger.take_update(payer(0)).channels, []);
    ledger.set_claimed(payer(0), first.id(), Amount(5), Amount::ZERO);
    assert_eq!(ledger.take_update(payer(0)).channels[0].0, first.id());
}
