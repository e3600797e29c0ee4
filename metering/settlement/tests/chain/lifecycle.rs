//! The whole way of a deposit, and the refusals a person meets on it.

use alloy_primitives::B256;
use ipsx_metering::{Amount, CreditsTransfer, Signed, UnixSeconds, Withdrawal};
use ipsx_settlement::{ContractError, NewNetwork, Refusal, RowOutcome, Signer, Wallet};

use crate::world::{DAY, DEPOSIT, HOUR, POCKET, World, fee, paid};

pub(crate) async fn a_deposit_is_spent_and_the_rest_withdrawn(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let channel = world.channel(1);
    let until = world.now().await.after(HOUR);

    let first = world.settle(&[world.row(&channel, 100_000, until)]).await;
    assert_eq!(
        first,
        [RowOutcome::Settled {
            paid: Amount(100_000),
            fee: Amount(2_500),
            claimed: Amount(100_000),
            unpaid: Amount::ZERO,
            from_bond: Amount::ZERO,
        }]
    );
    let second = world.settle(&[world.row(&channel, 300_001, until)]).await;
    assert_eq!(paid(&second[0]), 200_001);
    let (earned, taken) = (300_001 - fee(300_001), fee(300_001));
    assert_eq!(world.credits(&people.provider).await, earned);
    assert_eq!(world.credits(&people.treasury).await, taken);

    let elsewhere = Wallet::random().address();
    client
        .withdraw_credits(&people.provider, elsewhere, Amount(earned))
        .await
        .unwrap();
    assert_eq!(world.tokens(elsewhere).await, earned);

    // Both ways out: at once with the operator, and after 48 hours without.
    let rest = DEPOSIT.0 - 300_001;
    let withdrawal = Withdrawal {
        network: world.network,
        owner: people.payer.address(),
        to: people.payer.address(),
        amount: Amount(200_000),
        nonce: 0,
        deadline: world.now().await.after(HOUR),
    };
    let signed = Signed::sign(withdrawal, &world.domain(), people.operator.key());
    client
        .withdraw_with_operator(&people.payer, &signed)
        .await
        .unwrap();
    let again = client.withdraw_with_operator(&people.payer, &signed).await;
    assert_refused(again, Refusal::WrongNonce(1));
    client
        .request_withdraw(&people.payer, world.network, Amount::MAX)
        .await
        .unwrap();
    world.advance(2 * DAY + 60).await;
    client
        .withdraw(&people.payer, world.network, people.payer.address())
        .await
        .unwrap();
    assert_eq!(world.account().await.balance, Amount::ZERO);
    let pocket = POCKET.0 + rest;
    assert_eq!(world.tokens(people.payer.address()).await, pocket);
    world.check_books().await;
}

pub(crate) async fn a_relayer_pays_out_credits_by_signature(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let until = world.now().await.after(HOUR);
    world
        .settle(&[world.row(&world.channel(1), 10_000, until)])
        .await;
    let to = Wallet::random().address();
    let transfer = |amount: u128, nonce: u64, deadline: UnixSeconds| {
        let transfer = CreditsTransfer {
            owner: people.provider.address(),
            to,
            amount: Amount(amount),
            nonce,
            deadline,
        };
        Signed::sign(transfer, &world.domain(), people.provider.key())
    };
    let good = transfer(9_000, 0, until);
    let mut stolen = good.clone();
    stolen.message.to = people.stranger.address();
    assert_refused(
        client.transfer_credits(&people.stranger, &stolen).await,
        Refusal::InvalidSignature,
    );
    client
        .transfer_credits(&people.stranger, &good)
        .await
        .unwrap();
    assert_eq!(world.tokens(to).await, 9_000);
    assert_refused(
        client.transfer_credits(&people.stranger, &good).await,
        Refusal::WrongNonce(1),
    );
    assert_refused(
        client
            .transfer_credits(&people.stranger, &transfer(751, 1, until))
            .await,
        Refusal::InsufficientFunds(Amount(750)),
    );
    let late = transfer(1, 1, world.now().await);
    world.advance(60).await;
    assert_refused(
        client.transfer_credits(&people.stranger, &late).await,
        Refusal::Expired,
    );
    world.check_books().await;
}

pub(crate) async fn refusals_are_named_before_anything_is_sent(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let network = world.network;
    let payer = people.payer.address();
    let nonce = world.chain.nonce(payer).await.unwrap();
    let too_much = POCKET.saturating_add(Amount(1));
    client
        .deposit(&people.payer, network, payer, POCKET)
        .await
        .unwrap();
    assert_refused(
        client
            .deposit(&people.payer, network, payer, too_much)
            .await,
        Refusal::Tokens {
            balance: Amount::ZERO,
            needed: too_much,
        },
    );
    let unknown = B256::repeat_byte(9).into();
    assert_refused(
        client
            .deposit(&people.founder, unknown, payer, Amount(5))
            .await,
        Refusal::NoSuchNetwork,
    );
    let greedy = NewNetwork {
        operator: people.operator.address(),
        admin: people.admin.address(),
        treasury: people.treasury.address(),
        fee_bps: 1_001,
        salt: B256::ZERO,
    };
    let created = client.create_network(&people.founder, greedy).await;
    assert_refused(created, Refusal::FeeTooHigh);
    let same = NewNetwork {
        fee_bps: crate::world::FEE_BPS,
        ..greedy
    };
    let created = client.create_network(&people.founder, same).await;
    assert_refused(created, Refusal::NetworkExists);
    assert_refused(
        client.withdraw(&people.payer, network, payer).await,
        Refusal::NothingPending,
    );
    assert_refused(
        client
            .withdraw_credits(&people.provider, payer, Amount(1))
            .await,
        Refusal::InsufficientFunds(Amount::ZERO),
    );
    let contract = world.deployment().centralizer;
    assert_refused(
        client
            .withdraw_credits(&people.provider, contract, Amount::ZERO)
            .await,
        Refusal::PayoutToSelf,
    );
    // Two approvals and one deposit; what was refused was never sent.
    assert_eq!(world.chain.nonce(payer).await.unwrap(), nonce + 3);
    world.check_books().await;
}

pub(crate) fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, ContractError>,
    expected: Refusal,
) {
    match result {
        Err(ContractError::Refused { reason, .. }) => assert_eq!(reason, expected),
        other => panic!("expected a refusal ({expected}), got {other:?}"),
    }
}
