//! Random histories of the operator's ledger against a slow model, and what is stored of it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::fixtures::domain;
use super::ledger::*;
use crate::*;

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

/// What was stored, update by update.
#[derive(Default)]
struct Stored(BTreeMap<Address, (PayerAccount, BTreeMap<ChannelId, Exposure>)>);

impl Stored {
    fn keep(&mut self, ledger: &mut CapacityLedger, payer: Address) {
        let update = ledger.take_update(payer);
        let Some(account) = update.account else {
            self.0.remove(&payer);
            return;
        };
        let (kept, channels) = self.0.entry(payer).or_default();
        *kept = account;
        for (id, exposure) in update.channels {
            match exposure {
                Some(exposure) => channels.insert(id, exposure),
                None => channels.remove(&id),
            };
        }
    }

    fn accounts(&self) -> Vec<(Address, PayerAccount)> {
        let whole = |(payer, (account, channels)): (&Address, &(PayerAccount, BTreeMap<_, _>))| {
            let mut account: PayerAccount = account.clone();
            account.channels = channels.clone().into_iter().collect();
            (*payer, account)
        };
        self.0.iter().map(whole).collect()
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
        let (mut model, mut stored) = (Model::default(), Stored::default());
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
                    stored.keep(&mut ledger, payer(0));
                    stored.keep(&mut ledger, payer(1));
                    let kept: Vec<_> = ledger.accounts().map(|(p, account)| (*p, account.clone())).collect();
                    prop_assert_eq!(&stored.accounts(), &kept);
                    let credit = CreditLine { total: Amount(line.into()), per_payer: Amount((line / 2).into()) };
                    ledger = CapacityLedger::restore(network(), credit, kept);
                    ledger.handle_final_time(UnixSeconds(now));
                }
            }
            // One is stored as it changes, the other when somebody looks.
            stored.keep(&mut ledger, payer(0));
            for (_, account) in ledger.accounts() {
                let all = || account.channels.iter().map(|(_, exposure)| exposure);
                prop_assert_eq!(account.channels.counted(), all().map(Exposure::counted).sum());
                prop_assert_eq!(account.channels.freed(), all().map(Exposure::freed).sum());
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
