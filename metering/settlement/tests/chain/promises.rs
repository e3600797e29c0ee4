//! I6: an operator that keeps its sum never has its bond touched, whatever payer and provider do together: with blocks
//! that are not final yet, with crashes, and with leases that nobody comes to.

use std::collections::BTreeMap;

use ipsx_metering::{
    Amount, CapacityLedger, ChannelOnChain, Close, CreditLine, Deposit, Reservation, Signed,
    UnixSeconds, Withdrawal,
};
use ipsx_settlement::{AccountState, ChannelState, ClaimRow, ContractError, RowOutcome, Signer};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::histories::runtime;
use crate::world::{DAY, HOUR, World};

const CHANNELS: u8 = 3;
const BOND: Amount = Amount(1_000_000);

#[derive(Clone, Debug)]
enum Step {
    Deposit(u128),
    /// Everything up to now is final.
    Final,
    /// Asks the operator for a reservation: channel, capacity, seconds.
    Reserve(u8, u128, u64),
    /// Claims all of a reservation that was given.
    Claim(usize),
    Hold(usize),
    /// The provider says that it will claim no more than this, and claims all the same.
    Close(u8, u128),
    RequestWithdraw(u128),
    Withdraw,
    /// Asks the operator for its consent.
    Consent(u128),
    /// Executes a consent that was given.
    Execute(usize),
    Pass(u64),
    /// The operator's process dies: only what was stored is left.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let any = any::<usize>;
    prop_oneof![
        2 => (1..200_000u128).prop_map(Step::Deposit),
        4 => Just(Step::Final),
        8 => (0..CHANNELS, 0..1_200_000u128, 1..23 * HOUR).prop_map(|(c, a, t)| Step::Reserve(c, a, t)),
        6 => any().prop_map(Step::Claim),
        2 => any().prop_map(Step::Hold),
        2 => (0..CHANNELS, 0..1_000_000u128).prop_map(|(c, a)| Step::Close(c, a)),
        1 => prop_oneof![0..1_200_000u128, Just(1_000_000)].prop_map(Step::RequestWithdraw),
        1 => Just(Step::Withdraw),
        3 => (1..600_000u128).prop_map(Step::Consent),
        3 => any().prop_map(Step::Execute),
        3 => prop_oneof![1..HOUR, HOUR..DAY, Just(2 * DAY + 1)].prop_map(Step::Pass),
        1 => Just(Step::Crash),
    ]
}

/// What the operator knows of the chain for certain.
#[derive(Default)]
struct Certain {
    account: AccountState,
    channels: BTreeMap<u8, ChannelState>,
    time: UnixSeconds,
}

struct Desk {
    world: World,
    ledger: CapacityLedger,
    certain: Certain,
    given: Vec<(u8, Signed<Reservation>)>,
    consents: Vec<Signed<Withdrawal>>,
}

impl Desk {
    async fn open() -> Self {
        let world = World::embedded().await;
        let (client, network) = (&world.centralizer, world.network);
        let bonded = client.add_bond(&world.people.founder, network, BOND);
        bonded.await.unwrap();
        let mut desk = Self {
            ledger: CapacityLedger::new(network, CreditLine::default()),
            certain: Certain::default(),
            given: Vec::new(),
            consents: Vec::new(),
            world,
        };
        desk.finalise().await;
        desk
    }

    async fn finalise(&mut self) {
        let account = self.world.account().await;
        let mut channels = BTreeMap::new();
        for number in 0..CHANNELS {
            let id = self.world.channel(number).id();
            let state = self.world.centralizer.channel(id).await.unwrap();
            channels.insert(number, state);
        }
        self.certain = Certain {
            account,
            channels,
            time: self.world.now().await,
        };
        self.look().await;
        self.ledger.handle_final_time(self.certain.time);
    }

    /// As the broker looks before each promise: what is final, and requests to withdraw at sight.
    async fn look(&mut self) {
        let payer = self.world.people.payer.address();
        let seen = self.world.account().await;
        let account = self.certain.account;
        for (number, state) in &self.certain.channels {
            let id = self.world.channel(*number).id();
            self.ledger
                .set_claimed(payer, id, state.claimed, state.held);
        }
        let deposit = |state: &AccountState| Deposit {
            balance: state.balance,
            pending: state.pending,
        };
        let now = self.world.now().await;
        self.ledger
            .set_deposit(payer, deposit(&account), deposit(&seen), now);
        self.ledger
            .set_withdrawal_nonce(payer, account.withdrawal_nonce);
    }

    /// The claim of one reservation that was given; the number counts them round and round.
    fn row(&self, place: usize) -> Option<ClaimRow> {
        let place = place.checked_rem(self.given.len())?;
        let (number, reservation) = &self.given[place];
        let channel = self.world.channel(*number);
        Some(ClaimRow {
            voucher: self.world.promise(&channel, reservation.message.capacity.0),
            reservation: reservation.clone(),
            channel,
        })
    }

    async fn reserve(&mut self, number: u8, capacity: u128, seconds: u64) {
        self.look().await;
        let now = self.world.now().await;
        let state = self.certain.channels[&number];
        let chain = ChannelOnChain {
            block_time: now,
            signer_valid_to: now.after(30 * DAY),
            claimed: state.claimed,
            held: state.held,
        };
        let channel = self.world.channel(number);
        let until = now.after(seconds);
        let promised = self
            .ledger
            .reserve(&channel, Amount(capacity), until, &chain);
        if promised.is_ok() {
            let reservation = self.world.reserve(&channel, capacity, until);
            self.given.push((number, reservation));
        }
    }

    async fn consent(&mut self, amount: u128) {
        self.look().await;
        let people = &self.world.people;
        let owner = people.payer.address();
        let withdrawal = Withdrawal {
            network: self.world.network,
            owner,
            to: owner,
            amount: Amount(amount),
            nonce: self.world.account().await.withdrawal_nonce,
            deadline: self.world.now().await.after(900),
        };
        if self.ledger.promise_withdrawal(&withdrawal).is_ok() {
            let key = people.operator.key();
            let signed = Signed::sign(withdrawal, &self.world.domain(), key);
            self.consents.push(signed);
        }
    }

    fn close(&mut self, number: u8, cumulative: u128) {
        let channel = self.world.channel(number);
        let close = Close {
            channel_id: channel.id(),
            cumulative: Amount(cumulative),
        };
        let key = self.world.people.provider.key();
        let signed = Signed::sign(close, &self.world.domain(), key);
        let domain = self.world.domain();
        self.ledger.close(&channel, &signed, &domain).unwrap();
    }

    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let (client, people, network) = (
            &self.world.centralizer,
            &self.world.people,
            self.world.network,
        );
        let payer = people.payer.address();
        match step {
            Step::Deposit(amount) => {
                let amount = Amount(*amount);
                let done = client.deposit(&people.founder, network, payer, amount);
                done.await.unwrap();
            }
            Step::Final => self.finalise().await,
            Step::Reserve(number, capacity, seconds) => {
                self.reserve(*number, *capacity, *seconds).await;
            }
            Step::Claim(place) => {
                let Some(row) = self.row(*place) else {
                    return Ok(());
                };
                if let RowOutcome::Settled {
                    unpaid, from_bond, ..
                } = self.world.settle(&[row]).await[0]
                {
                    prop_assert_eq!((unpaid, from_bond), (Amount::ZERO, Amount::ZERO));
                }
            }
            Step::Hold(place) => {
                if let Some(row) = self.row(*place) {
                    allowed(client.hold(&people.provider, &row).await)?;
                }
            }
            Step::Close(number, cumulative) => self.close(*number, *cumulative),
            Step::RequestWithdraw(amount) => {
                let asked = client.request_withdraw(&people.payer, network, Amount(*amount));
                asked.await.unwrap();
            }
            Step::Withdraw => allowed(client.withdraw(&people.payer, network, payer).await)?,
            Step::Consent(amount) => self.consent(*amount).await,
            Step::Execute(place) if !self.consents.is_empty() => {
                let consent = &self.consents[place % self.consents.len()];
                allowed(client.withdraw_with_operator(&people.payer, consent).await)?;
            }
            Step::Execute(_) => {}
            Step::Pass(seconds) => self.world.advance(*seconds).await,
            Step::Crash => {
                let stored = serde_json::to_string(&self.ledger).unwrap();
                self.ledger = serde_json::from_str(&stored).unwrap();
            }
        }
        Ok(())
    }
}

/// A refusal by the contract is as good as anything; whatever else fails is the test's.
fn allowed<T>(result: Result<T, ContractError>) -> Result<(), TestCaseError> {
    match result {
        Ok(_) | Err(ContractError::Refused { .. }) => Ok(()),
        Err(other) => Err(TestCaseError::fail(other.to_string())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn an_operator_that_keeps_its_sum_keeps_its_bond(steps in prop::collection::vec(step(), 1..50)) {
        runtime().block_on(play(&steps))?;
    }
}

/// A payer may ask, wait and withdraw while no block becomes final.
#[test]
fn what_is_withdrawn_while_finality_stalls_is_not_promised() {
    let steps = [
        Step::RequestWithdraw(926_339),
        Step::Pass(2 * DAY + 1),
        Step::Withdraw,
        Step::Reserve(0, 100_000, 1),
        Step::Claim(0),
        Step::Reserve(0, 50_000, 1),
        Step::Claim(0),
    ];
    runtime().block_on(play(&steps)).unwrap();
}

async fn play(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut desk = Desk::open().await;
    for step in steps {
        desk.take(step).await?;
        let network = desk.world.centralizer.network(desk.world.network).await;
        prop_assert_eq!(network.unwrap().bond, BOND, "after {:?}", step);
        prop_assert_eq!(desk.world.account().await.debt, Amount::ZERO);
    }
    desk.world.check_books().await;
    Ok(())
}
