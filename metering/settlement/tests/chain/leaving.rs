//! Random histories around an exit: what stays claimable for a day (I4), what later reservations can't touch (I5), and
//! that a payer who wants out is out after 48 hours, whatever everybody else does (I7).

use ipsx_metering::{Amount, Signed, UnixSeconds, Withdrawal};
use ipsx_settlement::{ClaimRow, ContractError, Signer};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::histories::runtime;
use crate::world::{DAY, DEPOSIT, HOUR, World};

const CHANNELS: usize = 4;

/// What happens at one second after the exit began.
#[derive(Clone, Debug)]
enum Act {
    Revoke,
    Rotate,
    RequestWithdraw(u128),
    Withdraw,
    WithdrawWithOperator(u128),
    Hold(usize),
    Claim(usize, u128),
}

/// Four reservations that were there before, and what is done to make them worthless.
#[derive(Clone, Debug)]
struct Exit {
    /// Capacity, and when it ends, at most a day after the exit began.
    reservations: [(u128, u64); CHANNELS],
    /// Seconds after the exit began, and what happens then.
    acts: Vec<(u64, Act)>,
    /// When each channel is claimed for the last time: per mille of the time until it lapses.
    last_claims: [u64; CHANNELS],
}

fn exit() -> impl Strategy<Value = Exit> {
    let channel = 0..CHANNELS;
    let act = prop_oneof![
        2 => Just(Act::Revoke),
        2 => Just(Act::Rotate),
        2 => prop_oneof![Just(u128::MAX), 0..DEPOSIT.0].prop_map(Act::RequestWithdraw),
        2 => Just(Act::Withdraw),
        1 => (0..DEPOSIT.0 / 2).prop_map(Act::WithdrawWithOperator),
        2 => channel.clone().prop_map(Act::Hold),
        2 => (channel, 1..200_000u128).prop_map(|(c, a)| Act::Claim(c, a)),
    ];
    let time = prop_oneof![2 => Just(0), 3 => 0..DAY, 1 => DAY..=2 * DAY];
    (
        prop::array::uniform4((1..DEPOSIT.0 / 8, prop_oneof![0..=DAY, Just(DAY)])),
        prop::collection::vec((time, act), 1..12),
        prop::array::uniform4(prop_oneof![0..=1_000u64, Just(1_000)]),
    )
        .prop_map(|(reservations, acts, last_claims)| Exit {
            reservations,
            acts,
            last_claims,
        })
}

async fn perform(
    world: &World,
    rows: &[ClaimRow],
    act: &Act,
    began: UnixSeconds,
) -> Result<(), TestCaseError> {
    let (client, people, network) = (&world.centralizer, &world.people, world.network);
    let payer = people.payer.address();
    match act {
        Act::Revoke => {
            let session = people.session.address();
            client
                .revoke(&people.payer, network, session)
                .await
                .unwrap();
        }
        Act::Rotate => {
            let next = people.stranger.address();
            tried(client.rotate_operator(&people.admin, network, next).await)?;
        }
        Act::RequestWithdraw(amount) => {
            let amount = Amount(*amount);
            client
                .request_withdraw(&people.payer, network, amount)
                .await
                .unwrap();
        }
        Act::Withdraw => {
            let done = client.withdraw(&people.payer, network, payer).await;
            prop_assert!(!tried(done)? || world.now().await > began.after(2 * DAY));
        }
        Act::WithdrawWithOperator(amount) => {
            // The operator keeps its sum: it consents to what no reservation may still claim.
            let account = world.account().await;
            let open = open_claims(world, rows).await;
            let withdrawal = Withdrawal {
                network,
                owner: payer,
                to: payer,
                amount: Amount((*amount).min(account.balance.0 - open)),
                nonce: account.withdrawal_nonce,
                deadline: world.now().await,
            };
            let consent = Signed::sign(withdrawal, &world.domain(), people.operator.key());
            tried(client.withdraw_with_operator(&people.payer, &consent).await)?;
        }
        Act::Hold(channel) => {
            tried(client.hold(&people.provider, &rows[*channel]).await)?;
        }
        Act::Claim(channel, cumulative) => {
            claim(world, &rows[*channel], *cumulative).await;
        }
    }
    Ok(())
}

/// What the reservations may still draw from the balance.
async fn open_claims(world: &World, rows: &[ClaimRow]) -> u128 {
    let mut open = 0;
    for row in rows {
        let channel = world.centralizer.channel(row.channel.id()).await.unwrap();
        let capacity = row.reservation.message.capacity.0;
        open += capacity.saturating_sub(channel.claimed.0 + channel.held.0);
    }
    open
}

async fn claim(world: &World, row: &ClaimRow, cumulative: u128) {
    let mut row = row.clone();
    row.voucher = world.promise(&row.channel, cumulative);
    world.settle(&[row]).await;
}

/// Whether the contract did it; any failure but its refusal is the test's.
fn tried<T>(result: Result<T, ContractError>) -> Result<bool, TestCaseError> {
    match result {
        Ok(_) => Ok(true),
        Err(ContractError::Refused { .. }) => Ok(false),
        Err(other) => Err(TestCaseError::fail(other.to_string())),
    }
}

async fn stays_claimable(exit: Exit) -> Result<(), TestCaseError> {
    let world = World::embedded().await;
    let began = world.now().await;
    let rows: Vec<_> = (1u8..)
        .zip(exit.reservations)
        .map(|(number, (capacity, end))| {
            world.row(&world.channel(number), capacity, began.after(end))
        })
        .collect();
    let mut acts = exit.acts.clone();
    for (index, permille) in exit.last_claims.iter().enumerate() {
        let (capacity, end) = exit.reservations[index];
        // At the latest in the last second of its day, and before anything else in that second.
        acts.insert(
            index,
            ((end + DAY) * permille / 1_000, Act::Claim(index, capacity)),
        );
    }
    acts.sort_by_key(|(time, _)| *time);
    let mut elapsed = 0;
    for (time, act) in &acts {
        world.advance(time - elapsed).await;
        elapsed = *time;
        perform(&world, &rows, act, began).await?;
        let bond = world.centralizer.network(world.network).await.unwrap().bond;
        prop_assert_eq!(bond, Amount::ZERO);
        if let Act::Claim(channel, cumulative) = act
            && elapsed <= exit.reservations[*channel].1 + DAY
        {
            let claimed = world.centralizer.claimed(rows[*channel].channel.id()).await;
            let capacity = exit.reservations[*channel].0;
            prop_assert!(
                claimed.unwrap().0 >= (*cumulative).min(capacity),
                "{:?}",
                act
            );
        }
    }
    for (row, (capacity, _)) in rows.iter().zip(exit.reservations) {
        let claimed = world.centralizer.claimed(row.channel.id()).await.unwrap();
        prop_assert_eq!(claimed.0, capacity);
    }
    world.check_books().await;
    Ok(())
}

/// What operator, admin, provider and strangers do together against a payer.
#[derive(Clone, Debug)]
enum Attack {
    /// Channel, promise (of those given), capacity, end relative to now, and whether the provider holds or claims.
    Row {
        channel: usize,
        promise: usize,
        capacity: u128,
        end: u64,
        hold: bool,
    },
    Release(usize),
    Rotate,
    AddBond(u128),
    RequestBond,
    WithdrawBond,
    DepositForPayer(u128),
    Advance(u64),
}

fn attack() -> impl Strategy<Value = Attack> {
    let capacity = prop_oneof![0..DEPOSIT.0, Just(u128::MAX)];
    let end = prop_oneof![3 => 0..DAY, 1 => Just(DAY), 2 => 0..20 * DAY];
    let row = (0..CHANNELS, 0..3usize, capacity, end, any::<bool>()).prop_map(
        |(channel, promise, capacity, end, hold)| Attack::Row {
            channel,
            promise,
            capacity,
            end,
            hold,
        },
    );
    prop_oneof![
        8 => row,
        1 => (0..CHANNELS).prop_map(Attack::Release),
        1 => Just(Attack::Rotate),
        1 => (1..1_000u128).prop_map(Attack::AddBond),
        1 => Just(Attack::RequestBond),
        1 => Just(Attack::WithdrawBond),
        1 => (1..1_000u128).prop_map(Attack::DepositForPayer),
        4 => prop_oneof![1..HOUR, HOUR..DAY].prop_map(Attack::Advance),
    ]
}

/// The payer's side of the story.
struct Siege {
    world: World,
    /// The vouchers that the payer has given, per channel, lowest first.
    promises: [[u128; 3]; CHANNELS],
    deposited: u128,
    /// Once the payer has asked: when, and for how much.
    exit: Option<(UnixSeconds, u128)>,
}

impl Siege {
    async fn perform(&mut self, attack: &Attack) -> Result<(), TestCaseError> {
        let (client, people) = (&self.world.centralizer, &self.world.people);
        let network = self.world.network;
        match attack {
            Attack::Row { .. } => self.row(attack).await?,
            Attack::Release(channel) => {
                let channel = self.world.channel(*channel as u8);
                tried(client.release_hold(&people.provider, &channel).await)?;
            }
            Attack::Rotate => {
                // To itself: whoever attacks keeps both keys.
                let next = people.operator.address();
                tried(client.rotate_operator(&people.admin, network, next).await)?;
            }
            Attack::AddBond(amount) => {
                let done = client.add_bond(&people.founder, network, Amount(*amount));
                done.await.unwrap();
            }
            Attack::RequestBond => {
                let done = client.request_bond(&people.admin, network, Amount(10_000));
                done.await.unwrap();
            }
            Attack::WithdrawBond => {
                let to = people.admin.address();
                tried(client.withdraw_bond(&people.admin, network, to).await)?;
            }
            Attack::DepositForPayer(amount) => {
                let payer = people.payer.address();
                let done = client.deposit(&people.founder, network, payer, Amount(*amount));
                done.await.unwrap();
                self.deposited += amount;
            }
            Attack::Advance(seconds) => self.wait(*seconds).await,
        }
        Ok(())
    }

    /// Never past the 48 hours of an exit: that is when the payer leaves.
    async fn wait(&self, seconds: u64) {
        let now = self.world.now().await;
        let seconds = match self.exit {
            Some((asked, _)) => seconds.min(asked.0 + 2 * DAY - now.0),
            None => seconds,
        };
        self.world.advance(seconds).await;
    }

    async fn row(&self, attack: &Attack) -> Result<(), TestCaseError> {
        let Attack::Row {
            channel,
            promise,
            capacity,
            end,
            hold,
        } = attack
        else {
            return Ok(());
        };
        let world = &self.world;
        let parameters = world.channel(*channel as u8);
        let until = world.now().await.after(*end);
        let row = ClaimRow {
            reservation: world.reserve(&parameters, *capacity, until),
            voucher: world.promise(&parameters, self.promises[*channel][*promise]),
            channel: parameters,
        };
        let before = world.account().await.balance.0;
        if *hold {
            let provider = &world.people.provider;
            tried(world.centralizer.hold(provider, &row).await)?;
        } else {
            world.settle(&[row]).await;
        }
        // I5: a reservation that ends later than a day after the request never draws on what was asked for.
        if let Some((asked, pending)) = self.exit
            && until > asked.after(DAY)
        {
            let after = world.account().await.balance.0;
            prop_assert!(after >= before.min(pending), "{before} {after} {pending}");
        }
        Ok(())
    }

    /// 48 hours and a second after it asked, the payer takes what it asked for.
    async fn leave(&self) -> Result<(), TestCaseError> {
        let (client, people) = (&self.world.centralizer, &self.world.people);
        let (asked, pending) = self.exit.unwrap();
        let now = self.world.now().await;
        self.world.advance(asked.0 + 2 * DAY + 1 - now.0).await;
        let (mut claimed, mut still_held) = (0, 0);
        for channel in 0..CHANNELS {
            let parameters = self.world.channel(channel as u8);
            // By anybody, and without the provider: unless the hold is on what was not asked for.
            tried(client.release_hold(&people.payer, &parameters).await)?;
            let state = client.channel(parameters.id()).await.unwrap();
            prop_assert!(state.claimed.0 <= self.promises[channel][2]);
            claimed += state.claimed.0;
            still_held += state.held.0;
        }
        let account = self.world.account().await;
        let to = ipsx_settlement::Wallet::random().address();
        let done = client.withdraw(&people.payer, self.world.network, to).await;
        prop_assert!(done.is_ok(), "{:?}", done);
        let got = self.world.tokens(to).await;
        prop_assert_eq!(got, pending.min(account.balance.0));
        // All that it deposited is in its hands, left where it wanted it, or was paid to its own vouchers.
        let rest = account.balance.0 - got;
        prop_assert_eq!(
            got + rest + still_held + claimed - account.debt.0,
            self.deposited
        );
        // What it asked for is less only by what it promised itself.
        let promised: u128 = self.promises.iter().map(|p| p[2]).sum();
        let owed = pending.min(self.deposited + account.debt.0);
        prop_assert!(
            got + promised >= owed,
            "{got} of {owed}, {promised} promised"
        );
        prop_assert!(pending < self.deposited || still_held == 0);
        self.world.check_books().await;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// I4: a revocation, rotation or withdrawal request leaves what ends within a day claimable until a day later.
    #[test]
    fn what_was_reserved_for_a_day_stays_claimable(exit in exit()) {
        runtime().block_on(stays_claimable(exit))?;
    }

    /// I7, and I5 on the way: operator, admin, provider and strangers together keep no payer in.
    #[test]
    fn a_payer_is_out_within_48_hours_against_everyone(
        promises in prop::array::uniform4(prop::array::uniform3(1..200_000u128)),
        before in prop::collection::vec(attack(), 0..12),
        after in prop::collection::vec(attack(), 0..20),
        pending in prop_oneof![Just(u128::MAX), Just(DEPOSIT.0), 1..DEPOSIT.0],
    ) {
        runtime().block_on(async {
            let mut promises = promises;
            promises.iter_mut().for_each(|p| p.sort_unstable());
            let world = World::embedded().await;
            let mut siege = Siege { world, promises, deposited: DEPOSIT.0, exit: None };
            for attack in &before {
                siege.perform(attack).await?;
            }
            let (client, payer) = (&siege.world.centralizer, &siege.world.people.payer);
            client.request_withdraw(payer, siege.world.network, Amount(pending)).await.unwrap();
            siege.exit = Some((siege.world.now().await, pending));
            for attack in &after {
                siege.perform(attack).await?;
            }
            siege.leave().await?;
            Ok::<(), TestCaseError>(())
        })?;
    }
}
