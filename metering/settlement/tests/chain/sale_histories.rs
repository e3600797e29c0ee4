//! Random histories of a token sale, step by step against a slow, obvious model. Amounts are a few wei, so that goal, cap
//! and rounding are met all the time.

use alloy_primitives::{Address, U256};
use ipsx_settlement::{Signer, Wallet};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::histories::runtime;
use crate::sale::{Error, HALF, Phase, SHARES, SUPPLY, Sale, force};
use crate::world::{DAY, HOUR, World};

/// Contributors; the last of them is a recipient and the beneficiary, too.
const PEOPLE: usize = 4;
const OPENS: u64 = HOUR;
const CLOSES: u64 = HOUR + crate::sale::PERIOD;

#[derive(Clone, Debug)]
enum Step {
    Limits(u128, u128),
    Contribute(usize, u128),
    Claim(usize),
    Refund(usize),
    Collect(usize),
    Force(u128),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let person = || 0..PEOPLE;
    let time = prop_oneof![3 => 1..2 * HOUR, 4 => DAY..12 * DAY, 1 => 20 * DAY..40 * DAY];
    prop_oneof![
        1 => (0..400u128, 0..2_000u128).prop_map(|(goal, cap)| Step::Limits(goal, cap)),
        7 => (person(), 0..700u128).prop_map(|(who, wei)| Step::Contribute(who, wei)),
        3 => person().prop_map(Step::Claim),
        3 => person().prop_map(Step::Refund),
        2 => person().prop_map(Step::Collect),
        1 => (1..3_000u128).prop_map(Step::Force),
        4 => time.prop_map(Step::Advance),
    ]
}

#[derive(Clone, Debug, Default)]
struct Person {
    /// Not taken yet.
    amount: u128,
    excess: u128,
    allotment: u128,
    /// At the address that it is paid to.
    wei: u128,
    tokens: u128,
}

#[derive(Clone, Debug, Default)]
struct Model {
    elapsed: u64,
    goal: u128,
    cap: u128,
    raised: u128,
    collected: bool,
    created: bool,
    forced: u128,
    people: [Person; PEOPLE],
}

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        let last = &mut model.people[PEOPLE - 1];
        last.allotment = SHARES[0] + SHARES[1] + SHARES[2];
        model
    }

    fn phase(&self) -> Phase {
        let over = self.elapsed >= CLOSES;
        if self.elapsed < OPENS {
            Phase::Announced
        } else if self.cap > 0 && (self.raised == self.cap || over && self.raised >= self.goal) {
            Phase::Succeeded
        } else if self.cap == 0 || over {
            Phase::Failed
        } else {
            Phase::Open
        }
    }

    fn limits(&mut self, goal: u128, cap: u128) -> bool {
        let good = self.phase() == Phase::Announced && goal > 0 && goal <= cap;
        if good {
            (self.goal, self.cap) = (goal, cap);
        }
        good
    }

    fn contribute(&mut self, who: usize, wei: u128) -> bool {
        let good = self.phase() == Phase::Open && wei > 0;
        if good {
            let taken = wei.min(self.cap - self.raised);
            let person = &mut self.people[who];
            person.amount += taken;
            person.excess += wei - taken;
            self.raised += taken;
            self.created = true;
        }
        good
    }

    /// The tokens to expect, give or take one unit.
    fn claim(&mut self, who: usize) -> Option<u128> {
        let phase = self.phase();
        let person = &mut self.people[who];
        if phase != Phase::Succeeded || person.amount == 0 && person.allotment == 0 {
            return None;
        }
        let amount = std::mem::take(&mut person.amount);
        let share = U256::from(HALF) * U256::from(amount) / U256::from(self.raised);
        Some(std::mem::take(&mut person.allotment) + share.to::<u128>())
    }

    fn refund(&mut self, who: usize) -> bool {
        let failed = self.phase() == Phase::Failed;
        let person = &mut self.people[who];
        let mut due = std::mem::take(&mut person.excess);
        if failed {
            due += std::mem::take(&mut person.amount);
        }
        person.wei += due;
        due > 0
    }

    fn collect(&mut self, who: usize) -> bool {
        let good = who == PEOPLE - 1 && self.phase() == Phase::Succeeded && !self.collected;
        if good {
            self.collected = true;
            self.people[who].wei += self.raised;
        }
        good
    }

    /// What the contract must hold: all that was sent and not taken.
    fn wei(&self) -> u128 {
        let kept = |p: &Person| match self.phase() {
            Phase::Succeeded => p.excess,
            _ => p.excess + p.amount,
        };
        let pot = match self.phase() {
            Phase::Succeeded if !self.collected => self.raised,
            _ => 0,
        };
        self.forced + pot + self.people.iter().map(kept).sum::<u128>()
    }
}

struct Pair {
    sale: Sale,
    model: Model,
    /// Where each person is paid.
    pockets: [Address; PEOPLE],
}

impl Pair {
    async fn new() -> Self {
        let world = World::embedded().await;
        let sale = Sale::for_one(world).await;
        Self {
            sale,
            model: Model::new(),
            pockets: std::array::from_fn(|_| Wallet::random().address()),
        }
    }

    fn person(&self, who: usize) -> &Wallet {
        let people = &self.sale.world.people;
        [
            &people.payer,
            &people.provider,
            &people.stranger,
            &people.treasury,
        ][who]
    }

    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Limits(goal, cap) => {
                let done = self.sale.limits(*goal, *cap).await;
                prop_assert_eq!(done.is_ok(), self.model.limits(*goal, *cap));
            }
            Step::Contribute(who, wei) => {
                let done = self.sale.contribute(self.person(*who), *wei).await;
                prop_assert_eq!(done.is_ok(), self.model.contribute(*who, *wei));
            }
            Step::Claim(who) => {
                let pocket = self.pockets[*who];
                let done = self.sale.claim(self.person(*who), pocket).await;
                let expected = self.model.claim(*who);
                prop_assert_eq!(done.is_ok(), expected.is_some());
                if let Some(expected) = expected {
                    let person = &mut self.model.people[*who];
                    let got = self.sale.tokens(pocket).await - person.tokens;
                    prop_assert!(got.abs_diff(expected) <= 1, "{} for {}", got, expected);
                    person.tokens += got;
                }
            }
            Step::Refund(who) => {
                let done = self
                    .sale
                    .refund(self.person(*who), self.pockets[*who])
                    .await;
                prop_assert_eq!(done.is_ok(), self.model.refund(*who));
            }
            Step::Collect(who) => {
                let done = self
                    .sale
                    .collect(self.person(*who), self.pockets[*who])
                    .await;
                let early = matches!(done, Err(Error::NotNow(_) | Error::NothingDue(_)));
                prop_assert!(done.is_ok() || early || *who != PEOPLE - 1, "{:?}", done);
                prop_assert_eq!(done.is_ok(), self.model.collect(*who));
            }
            Step::Force(wei) => {
                force(&self.sale, *wei).await;
                self.model.forced += wei;
            }
            Step::Advance(seconds) => {
                self.model.elapsed += seconds;
                self.sale.world.advance(*seconds).await;
            }
        }
        Ok(())
    }

    /// Both hold the same, and no wei and no unit is anywhere else.
    async fn compare(&self) -> Result<(), TestCaseError> {
        let (sale, model) = (&self.sale, &self.model);
        prop_assert_eq!(sale.phase().await, model.phase());
        prop_assert_eq!(sale.raised().await, model.raised);
        prop_assert_eq!(sale.wei(sale.address).await, model.wei());
        let mut paid = 0;
        for (pocket, person) in self.pockets.iter().zip(&model.people) {
            prop_assert_eq!(sale.wei(*pocket).await, person.wei);
            prop_assert_eq!(sale.tokens(*pocket).await, person.tokens);
            paid += person.tokens;
        }
        prop_assert_eq!(sale.token().await.is_zero(), !model.created);
        if model.created {
            prop_assert_eq!(sale.tokens(sale.address).await, SUPPLY - paid);
        }
        prop_assert!(paid == 0 || model.phase() == Phase::Succeeded);
        Ok(())
    }

    /// Everybody comes for what is theirs, long after the end.
    async fn finish(&mut self) -> Result<(), TestCaseError> {
        self.take(&Step::Advance(CLOSES)).await?;
        for who in 0..PEOPLE {
            for step in [Step::Claim(who), Step::Refund(who), Step::Collect(who)] {
                self.take(&step).await?;
            }
        }
        self.compare().await?;
        // All that is left is what was forced on the contract; and the tokens, if there was no success.
        let (sale, model) = (&self.sale, &self.model);
        prop_assert_eq!(sale.wei(sale.address).await, model.forced);
        if model.phase() == Phase::Succeeded {
            prop_assert_eq!(sale.tokens(sale.address).await, 0);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_sale_is_the_models(limits in (1..400u128, 400..2_000u128), steps in prop::collection::vec(step(), 1..30)) {
        runtime().block_on(async {
            let mut pair = Pair::new().await;
            pair.take(&Step::Limits(limits.0, limits.1)).await?;
            for step in &steps {
                pair.take(step).await?;
                pair.compare().await?;
            }
            pair.finish().await?;
            Ok::<(), TestCaseError>(())
        })?;
    }
}
