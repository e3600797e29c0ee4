//! Random histories on the embedded EVM, step by step against the model; and the invariants that need no model.

use alloy_primitives::B256;
use ipsx_metering::{
    Amount, Authorization, Channel, CreditsTransfer, Reservation, Signed, UnixSeconds, Voucher,
    Withdrawal,
};
use ipsx_settlement::{ClaimRow, ContractError, Signer, Wallet};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::model::{CHANNELS, Model, ModelRow, PAYERS};
use crate::world::{DAY, HOUR, World};

#[derive(Clone, Debug)]
enum Step {
    Deposit(usize, u128),
    DepositWithPermit(usize, u128),
    RequestWithdraw(usize, u128),
    Withdraw(usize),
    WithdrawWithOperator(usize, u128),
    Authorize(usize, u64),
    Revoke(usize),
    Rotate,
    AddBond(u128),
    RequestBond(u128),
    WithdrawBond,
    /// By the treasury or the provider, by signature or in person.
    TakeCredits {
        treasury: bool,
        signed: bool,
        amount: u128,
    },
    Settle(Vec<RowStep>),
    Hold(RowStep),
    Release(usize),
    Advance(u64),
}

/// A row whose end is relative to now, minus three days.
#[derive(Clone, Debug)]
struct RowStep {
    channel: usize,
    cumulative: u128,
    capacity: u128,
    until: u64,
    previous_operator: bool,
    forged: bool,
}

fn row_step() -> impl Strategy<Value = RowStep> {
    (
        0..CHANNELS,
        0..6_000u128,
        0..6_000u128,
        prop_oneof![4 => 3 * DAY..4 * DAY, 1 => DAY..6 * DAY],
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.05),
    )
        .prop_map(
            |(channel, cumulative, capacity, until, previous_operator, forged)| RowStep {
                channel,
                cumulative,
                capacity,
                until,
                previous_operator,
                forged,
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let payer = 0..PAYERS;
    prop_oneof![
        2 => (payer.clone(), 1..3_000u128).prop_map(|(p, a)| Step::Deposit(p, a)),
        1 => (payer.clone(), 1..500u128).prop_map(|(p, a)| Step::DepositWithPermit(p, a)),
        2 => (payer.clone(), 0..4_000u128).prop_map(|(p, a)| Step::RequestWithdraw(p, a)),
        2 => payer.clone().prop_map(Step::Withdraw),
        1 => (payer.clone(), 0..2_000u128).prop_map(|(p, a)| Step::WithdrawWithOperator(p, a)),
        1 => (payer.clone(), 0..20 * DAY).prop_map(|(p, s)| Step::Authorize(p, s)),
        1 => payer.prop_map(Step::Revoke),
        1 => Just(Step::Rotate),
        1 => (1..500u128).prop_map(Step::AddBond),
        1 => (0..500u128).prop_map(Step::RequestBond),
        1 => Just(Step::WithdrawBond),
        2 => (any::<bool>(), any::<bool>(), 0..2_000u128)
            .prop_map(|(treasury, signed, amount)| Step::TakeCredits { treasury, signed, amount }),
        6 => prop::collection::vec(row_step(), 0..5).prop_map(Step::Settle),
        3 => row_step().prop_map(Step::Hold),
        2 => (0..CHANNELS).prop_map(Step::Release),
        3 => prop_oneof![4 => 1..HOUR, 4 => HOUR..DAY, 4 => DAY..3 * DAY, 1 => 7 * DAY..8 * DAY]
            .prop_map(Step::Advance),
    ]
}

/// The chain and the model side by side.
struct Pair {
    world: World,
    model: Model,
    payers: [Wallet; PAYERS],
    operators: Wallet,
}

impl Pair {
    async fn new() -> Self {
        let world = World::embedded().await;
        let operators = Wallet::random();
        let payers = [
            world.people.payer.derive(b"0"),
            world.people.payer.derive(b"1"),
        ];
        let model = Model {
            now: world.now().await.0,
            ..Model::default()
        };
        let mut pair = Self {
            world,
            model,
            payers,
            operators,
        };
        // The world's own operator is rotated away, so that keys are numbered from the model's start.
        pair.model.operator = 0;
        for payer in &pair.payers {
            let founder = &pair.world.people.founder;
            let wei = ipsx_settlement::Transaction {
                to: Some(payer.address()),
                data: Default::default(),
                value: alloy_primitives::U256::from(10u64).pow(alloy_primitives::U256::from(20)),
            };
            ipsx_settlement::send(pair.world.chain.as_ref(), founder, wei)
                .await
                .unwrap();
        }
        for payer in 0..PAYERS {
            pair.take(&Step::Authorize(payer, 10 * DAY)).await.unwrap();
            pair.take(&Step::Deposit(payer, 3_000)).await.unwrap();
        }
        pair
    }

    fn operator(&self, number: u64) -> Wallet {
        match number {
            0 => Wallet::from_secret(&self.world.people.operator.secret()).unwrap(),
            number => self.operators.derive(&number.to_be_bytes()),
        }
    }

    fn channel(&self, index: usize) -> Channel {
        Channel {
            network: self.world.network,
            payer: self.payers[index % PAYERS].address(),
            payer_signer: self.world.people.session.address(),
            provider: self.world.people.provider.address(),
            salt: B256::with_last_byte(index as u8 + 1),
        }
    }

    /// The row for the model, and as it is signed.
    fn row(&self, step: &RowStep) -> (ModelRow, ClaimRow) {
        let until = (self.model.now + step.until).saturating_sub(3 * DAY);
        let operator = self
            .model
            .operator
            .saturating_sub(u64::from(step.previous_operator));
        let channel = self.channel(step.channel);
        let domain = self.world.domain();
        let reservation = Reservation {
            channel_id: channel.id(),
            capacity: Amount(step.capacity),
            valid_until: UnixSeconds(until),
        };
        let voucher = Voucher {
            channel_id: channel.id(),
            cumulative: Amount(step.cumulative),
            receipt_hash: B256::ZERO,
        };
        let signer = match step.forged {
            true => self.world.people.stranger.key(),
            false => self.world.people.session.key(),
        };
        let claim = ClaimRow {
            channel,
            reservation: Signed::sign(reservation, &domain, self.operator(operator).key()),
            voucher: Signed::sign(voucher, &domain, signer),
        };
        let model = ModelRow {
            channel: step.channel,
            cumulative: step.cumulative,
            capacity: step.capacity,
            until,
            operator,
            forged: step.forged,
        };
        (model, claim)
    }

    /// Takes a step on both sides; they must agree on what came of it.
    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let network = self.world.network;
        let client = self.world.centralizer.clone();
        let people = &self.world.people;
        match step {
            Step::Deposit(payer, amount) => {
                self.model.deposit(*payer, *amount);
                let owner = self.payers[*payer].address();
                let done = client
                    .deposit(&people.founder, network, owner, Amount(*amount))
                    .await;
                prop_assert!(done.is_ok());
            }
            Step::DepositWithPermit(payer, amount) => {
                self.model.deposit(*payer, *amount);
                let owner = self.payers[*payer].address();
                let deadline = UnixSeconds(self.model.now);
                let permit = client.sign_permit(&people.founder, Amount(*amount), deadline);
                let permit = permit.await.unwrap();
                let done = client.deposit_with_permit(&people.founder, network, owner, &permit);
                prop_assert!(done.await.is_ok());
            }
            Step::RequestWithdraw(payer, amount) => {
                self.model.request_withdraw(*payer, *amount);
                let owner = &self.payers[*payer];
                let done = client.request_withdraw(owner, network, Amount(*amount));
                prop_assert!(done.await.is_ok());
            }
            Step::Withdraw(payer) => {
                let owner = &self.payers[*payer];
                let before = self.world.tokens(owner.address()).await;
                let done = client.withdraw(owner, network, owner.address()).await;
                let taken = self.world.tokens(owner.address()).await - before;
                let expected = self.model.withdraw(*payer);
                prop_assert_eq!(agreed(done)?.then_some(taken), expected);
            }
            Step::WithdrawWithOperator(payer, amount) => {
                let done = self.withdraw_with_operator(*payer, *amount).await;
                let expected = self.model.withdraw_with_operator(*payer, *amount);
                prop_assert_eq!(agreed(done)?, expected);
            }
            Step::Authorize(payer, seconds) => {
                let valid_to = self.model.now + seconds;
                self.model.authorize(*payer, valid_to);
                let done = self.authorize(*payer, valid_to).await;
                prop_assert!(done.is_ok());
            }
            Step::Revoke(payer) => {
                self.model.revoke(*payer);
                let session = people.session.address();
                let done = client.revoke(&self.payers[*payer], network, session);
                prop_assert!(done.await.is_ok());
            }
            Step::Rotate => {
                let next = self.operator(self.model.operator + 1).address();
                let done = client.rotate_operator(&people.admin, network, next).await;
                prop_assert_eq!(agreed(done)?, self.model.rotate());
            }
            Step::AddBond(amount) => {
                self.model.bond += amount;
                let done = client.add_bond(&people.founder, network, Amount(*amount));
                prop_assert!(done.await.is_ok());
            }
            Step::RequestBond(amount) => {
                self.model.request_bond(*amount);
                let done = client.request_bond(&people.admin, network, Amount(*amount));
                prop_assert!(done.await.is_ok());
            }
            Step::WithdrawBond => {
                let to = people.admin.address();
                let before = self.world.tokens(to).await;
                let done = client.withdraw_bond(&people.admin, network, to).await;
                let taken = self.world.tokens(to).await - before;
                let expected = self.model.withdraw_bond();
                prop_assert_eq!(agreed(done)?.then_some(taken), expected);
            }
            Step::TakeCredits {
                treasury,
                signed,
                amount,
            } => {
                let done = self.take_credits(*treasury, *signed, *amount).await;
                let expected = self.model.take_credits(*treasury, *amount);
                prop_assert_eq!(agreed(done)?, expected);
            }
            Step::Settle(rows) => {
                let (model, rows): (Vec<_>, Vec<_>) = rows.iter().map(|r| self.row(r)).unzip();
                let expected: Vec<_> = model.iter().map(|r| self.model.settle(r)).collect();
                let settled = client.settle(&people.stranger, &rows).await;
                // I10: whatever the rows are, the batch goes through.
                prop_assert!(settled.is_ok(), "{:?}", settled);
                prop_assert_eq!(settled.unwrap().outcomes, expected);
            }
            Step::Hold(row) => {
                let (model, row) = self.row(row);
                let done = client.hold(&people.provider, &row).await;
                prop_assert_eq!(agreed(done)?, self.model.hold(&model));
            }
            Step::Release(channel) => {
                let parameters = self.channel(*channel);
                let done = client.release_hold(&people.stranger, &parameters).await;
                let expected = self.model.release_by_anyone(*channel);
                prop_assert_eq!(agreed(done)?, expected);
            }
            Step::Advance(seconds) => {
                self.model.now += seconds;
                self.world.advance(*seconds).await;
            }
        }
        Ok(())
    }

    async fn authorize(&self, payer: usize, valid_to: u64) -> Result<(), ContractError> {
        let owner = &self.payers[payer];
        let client = &self.world.centralizer;
        let account = client.account(self.world.network, owner.address()).await?;
        let authorization = Authorization {
            network: self.world.network,
            payer: owner.address(),
            signer: self.world.people.session.address(),
            valid_to: UnixSeconds(valid_to),
            nonce: account.authorization_nonce,
        };
        let signed = Signed::sign(authorization, &self.world.domain(), owner.key());
        client.authorize(owner, &signed).await?;
        Ok(())
    }

    async fn withdraw_with_operator(
        &self,
        payer: usize,
        amount: u128,
    ) -> Result<ipsx_settlement::TransactionReceipt, ContractError> {
        let owner = &self.payers[payer];
        let client = &self.world.centralizer;
        let account = client.account(self.world.network, owner.address()).await?;
        let withdrawal = Withdrawal {
            network: self.world.network,
            owner: owner.address(),
            to: owner.address(),
            amount: Amount(amount),
            nonce: account.withdrawal_nonce,
            deadline: UnixSeconds(self.model.now),
        };
        let operator = self.operator(self.model.operator);
        let consent = Signed::sign(withdrawal, &self.world.domain(), operator.key());
        client.withdraw_with_operator(owner, &consent).await
    }

    async fn take_credits(
        &self,
        treasury: bool,
        signed: bool,
        amount: u128,
    ) -> Result<ipsx_settlement::TransactionReceipt, ContractError> {
        let (client, people) = (&self.world.centralizer, &self.world.people);
        let owner = match treasury {
            true => &people.treasury,
            false => &people.provider,
        };
        let to = people.stranger.address();
        if !signed {
            return client.withdraw_credits(owner, to, Amount(amount)).await;
        }
        let order = CreditsTransfer {
            owner: owner.address(),
            to,
            amount: Amount(amount),
            nonce: client.credits(owner.address()).await?.nonce,
            deadline: UnixSeconds(self.model.now),
        };
        let order = Signed::sign(order, &self.world.domain(), owner.key());
        client.transfer_credits(&people.stranger, &order).await
    }

    /// The two sides hold the same, I1 and I2.
    async fn compare(&self) -> Result<(), TestCaseError> {
        let client = &self.world.centralizer;
        for (owner, expected) in self.payers.iter().zip(&self.model.payers) {
            let account = client
                .account(self.world.network, owner.address())
                .await
                .unwrap();
            prop_assert_eq!(account.balance.0, expected.balance);
            prop_assert_eq!(account.pending.0, expected.pending);
            prop_assert_eq!(account.debt.0, expected.debt);
        }
        for (index, expected) in self.model.channels.iter().enumerate() {
            let channel = client.channel(self.channel(index).id()).await.unwrap();
            prop_assert_eq!(channel.claimed.0, expected.claimed);
            prop_assert_eq!(channel.held.0, expected.held);
            let promised = expected.highest_voucher.min(expected.highest_capacity);
            prop_assert!(channel.claimed.0 <= promised);
        }
        let people = &self.world.people;
        prop_assert_eq!(
            self.world.credits(&people.provider).await,
            self.model.provider
        );
        prop_assert_eq!(
            self.world.credits(&people.treasury).await,
            self.model.treasury
        );
        let bond = client.network(self.world.network).await.unwrap().bond;
        prop_assert_eq!(bond.0, self.model.bond);
        let totals = client.totals().await.unwrap();
        prop_assert!(totals.conserved(), "{:?}", totals);
        Ok(())
    }
}

/// Whether the contract did it; anything but a refusal of its own is a failure.
fn agreed<T>(result: Result<T, ContractError>) -> Result<bool, TestCaseError> {
    match result {
        Ok(_) => Ok(true),
        Err(ContractError::Refused { .. }) => Ok(false),
        Err(other) => Err(TestCaseError::fail(other.to_string())),
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_the_models(steps in prop::collection::vec(step(), 1..30)) {
        runtime().block_on(async {
            let mut pair = Pair::new().await;
            for step in &steps {
                pair.take(step).await?;
                pair.compare().await?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}
