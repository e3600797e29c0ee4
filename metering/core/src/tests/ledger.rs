//! The operator's ledger against a slow model and its rules one at a time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::fixtures::{domain, key};
use crate::*;

const START: UnixSeconds = UnixSeconds(1_000_000);

fn network() -> NetworkId {
    NetworkId(B256::repeat_byte(9))
}

fn payer(number: u8) -> Address {
    Address::repeat_byte(number + 1)
}

fn channel(of: u8, number: u8) -> Channel {
    Channel {
        network: network(),
        payer: payer(of),
        payer_signer: key(1).address(),
        provider: key(number + 10).address(),
        salt: B256::repeat_byte(number),
    }
}

fn on_chain(time: UnixSeconds) -> ChannelOnChain {
    ChannelOnChain {
        block_time: time,
        signer_valid_to: time.after(365 * 86_400),
        claimed: Amount::ZERO,
        held: Amount::ZERO,
    }
}

fn ledger(total: u128, per_payer: u128) -> CapacityLedger {
    CapacityLedger::new(
        network(),
        CreditLine {
            total: Amount(total),
            per_payer: Amount(per_payer),
        },
    )
}

/// A deposit that is final.
fn set_deposit(ledger: &mut CapacityLedger, payer: Address, balance: Amount, pending: Amount) {
    let deposit = Deposit { balance, pending };
    ledger.set_deposit(payer, deposit, deposit, START);
}

fn close(channel: &Channel, cumulative: u128, number: u8) -> Signed<Close> {
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

#[derive(Clone, Debug)]
enum Step {
    Deposit(u8, u64),
    Pending(u8, u64),
    Reserve(u8, u8, u64, u64),
    ReserveAll(u8, [u64; 3], u64),
    Close(u8, u8, u64),
    Withdraw(u8, u64),
    Claim(u8, u8, u64),
    Pass(u64),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u8..2, 0u64..2_000).prop_map(|(p, more)| Step::Deposit(p, more)),
        1 => (0u8..2, 0u64..500).prop_map(|(p, pending)| Step::Pending(p, pending)),
        8 => (0u8..2, 0u8..3, 0u64..1_500, 1u64..82_000).prop_map(|(p, c, cap, t)| Step::Reserve(p, c, cap, t)),
        4 => (0u8..2, prop::array::uniform3(0u64..700), 1u64..82_000).prop_map(|(p, caps, t)| Step::ReserveAll(p, caps, t)),
        3 => (0u8..2, 0u8..3, 0u64..1_500).prop_map(|(p, c, most)| Step::Close(p, c, most)),
        2 => (0u8..2, 0u64..500).prop_map(|(p, amount)| Step::Withdraw(p, amount)),
        3 => (0u8..2, 0u8..3, 0u64..600).prop_map(|(p, c, amount)| Step::Claim(p, c, amount)),
        3 => (0u64..60_000).prop_map(Step::Pass),
        1 => Just(Step::Crash),
    ]
}

/// Everything that was ever signed, with nothing forgotten but by time.
#[derive(Default)]
struct Model {
    reservations: Vec<(u8, u8, u64, u64)>,
    withdrawals: Vec<(u8, u64, u64)>,
    claimed: BTreeMap<(u8, u8), u64>,
    balance: [u64; 2],
    pending: [u64; 2],
}

impl Model {
    /// The most that can still be taken from a payer's balance, whoever acts together.
    fn takeable(&self, p: u8, now: u64) -> u64 {
        let mut sum = 0;
        for c in 0..3 {
            let live = self
                .reservations
                .iter()
                .filter(|(rp, rc, _, until)| (*rp, *rc) == (p, c) && now <= until + CLAIM_WINDOW);
            let highest = live.map(|(_, _, cap, _)| *cap).max().unwrap_or(0);
            let claimed = self.claimed.get(&(p, c)).copied().unwrap_or(0);
            sum += highest.saturating_sub(claimed);
        }
        let open = self.withdrawals.iter();
        sum + open
            .filter(|(wp, _, deadline)| *wp == p && now <= *deadline)
            .map(|(_, amount, _)| amount)
            .sum::<u64>()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// I6: with whatever providers close and claim all the same, deposits cover everything but the credit line.
    #[test]
    fn promises_never_exceed_deposits_by_more_than_the_credit_line(
        steps in prop::collection::vec(step(), 1..60),
        line in 0u64..600,
    ) {
        let mut ledger = ledger(line.into(), (line / 2).into());
        let mut model = Model::default();
        let mut now = START.0;
        let mut nonce = 0;
        for step in steps {
            let time = UnixSeconds(now);
            match step {
                Step::Deposit(p, more) => model.balance[usize::from(p)] += more,
                Step::Pending(p, pending) => {
                    // A request that would break the sum is refused here: the contract pays earlier claims first.
                    let free = model.balance[usize::from(p)].saturating_sub(model.takeable(p, now));
                    model.pending[usize::from(p)] = pending.min(free);
                }
                Step::Reserve(p, c, cap, seconds) => {
                    let claimed = model.claimed.get(&(p, c)).copied().unwrap_or(0);
                    let chain = ChannelOnChain { claimed: Amount(claimed.into()), ..on_chain(time) };
                    let until = time.after(seconds);
                    if ledger.reserve(&channel(p, c), Amount(cap.into()), until, &chain).is_ok() {
                        model.reservations.push((p, c, cap, until.0));
                    }
                }
                Step::ReserveAll(p, caps, seconds) => {
                    let (channels, until) = ([0, 1, 2].map(|c| channel(p, c)), time.after(seconds));
                    let chains = [0, 1, 2].map(|c| {
                        let claimed = model.claimed.get(&(p, c)).copied().unwrap_or(0);
                        ChannelOnChain { claimed: Amount(claimed.into()), ..on_chain(time) }
                    });
                    let asked = [0, 1, 2].map(|c| Asked {
                        channel: &channels[c],
                        capacity: Amount(caps[c].into()),
                        valid_until: until,
                        chain: &chains[c],
                    });
                    let (before, mut alone) = (ledger.clone(), ledger.clone());
                    let each = asked.iter().map(|a| alone.reserve(a.channel, a.capacity, until, a.chain));
                    let each: Result<Vec<_>, _> = each.collect();
                    prop_assert_eq!(&ledger.reserve_all(&asked), &each);
                    prop_assert_eq!(&ledger, if each.is_ok() { &alone } else { &before });
                    if each.is_ok() {
                        let promised = (0u8..3).zip(caps);
                        model.reservations.extend(promised.map(|(c, cap)| (p, c, cap, until.0)));
                    }
                }
                Step::Close(p, c, most) => {
                    let chan = channel(p, c);
                    ledger.close(&chan, &close(&chan, most.into(), c), &domain()).unwrap();
                }
                Step::Withdraw(p, amount) => {
                    let withdrawal = Withdrawal {
                        network: network(),
                        owner: payer(p),
                        to: payer(p),
                        amount: Amount(amount.into()),
                        nonce,
                        deadline: time.after(600),
                    };
                    nonce += 1;
                    if ledger.promise_withdrawal(&withdrawal).is_ok() {
                        model.withdrawals.push((p, amount, now + 600));
                    }
                }
                Step::Claim(p, c, amount) => {
                    let mine = model.reservations.iter().filter(|(rp, rc, _, until)| {
                        (*rp, *rc) == (p, c) && now <= until + CLAIM_WINDOW
                    });
                    let highest = mine.map(|(_, _, cap, _)| *cap).max().unwrap_or(0);
                    let claimed = model.claimed.entry((p, c)).or_default();
                    let due = amount
                        .min(highest.saturating_sub(*claimed))
                        .min(model.balance[usize::from(p)]);
                    *claimed += due;
                    model.balance[usize::from(p)] -= due;
                    let claimed = Amount((*claimed).into());
                    let claimer = channel(p, c);
                    ledger.set_claimed(claimer.payer, claimer.id(), claimed, Amount::ZERO);
                }
                Step::Pass(seconds) => {
                    now += seconds;
                    ledger.handle_final_time(UnixSeconds(now));
                }
                Step::Crash => {
                    let stored = serde_json::to_string(&ledger).unwrap();
                    let back: CapacityLedger = serde_json::from_str(&stored).unwrap();
                    prop_assert_eq!(&back, &ledger);
                    ledger = back;
                }
            }
            let mut short = 0;
            for p in 0..2u8 {
                let (balance, pending) = (model.balance[usize::from(p)], model.pending[usize::from(p)]);
                set_deposit(&mut ledger, payer(p), Amount(balance.into()), Amount(pending.into()));
                let missing = model.takeable(p, now).saturating_sub(balance - pending.min(balance));
                prop_assert!(missing <= line / 2, "payer {} is short of {}", p, missing);
                short += missing;
            }
            prop_assert!(short <= line, "short of {} with a credit line of {}", short, line);
        }
    }
}
