//! Deadlines to the second, on the backend whose clock stands still.

use alloy_primitives::Address;
use ipsx_metering::{Amount, Signed, UnixSeconds, Withdrawal};
use ipsx_settlement::{
    Centralizer, ContractError, Deployment, Refusal, Signer, SkipReason, Wallet,
};

use crate::lifecycle::assert_refused;
use crate::world::{DAY, DEPOSIT, HOUR, World, paid, skipped};

#[tokio::test]
async fn a_claim_is_good_to_the_last_second_of_its_day() {
    let world = World::embedded().await;
    let until = world.now().await.after(HOUR);
    let channel = world.channel(1);
    world.advance(HOUR + DAY).await;
    let outcomes = world.settle(&[world.row(&channel, 10, until)]).await;
    assert_eq!(paid(&outcomes[0]), 10);
    world.advance(1).await;
    let outcomes = world.settle(&[world.row(&channel, 20, until)]).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::Expired);
}

#[tokio::test]
async fn keys_serve_to_their_last_second() {
    let world = World::embedded().await;
    let (client, people) = (&world.centralizer, &world.people);
    let now = world.now().await;
    let row = |number: u8, until: UnixSeconds| world.row(&world.channel(number), 10, until);
    client
        .rotate_operator(&people.admin, world.network, people.stranger.address())
        .await
        .unwrap();
    let outcomes = world
        .settle(&[row(1, now.after(DAY)), row(2, now.after(DAY + 1))])
        .await;
    assert_eq!(paid(&outcomes[0]), 10);
    assert_eq!(skipped(&outcomes[1]), SkipReason::NotOperator);
    client
        .revoke(&people.payer, world.network, people.session.address())
        .await
        .unwrap();
    let by_new_operator = |number: u8, until: UnixSeconds| {
        let mut row = row(number, until);
        let (message, key) = (row.reservation.message, people.stranger.key());
        row.reservation = Signed::sign(message, &world.domain(), key);
        row
    };
    let outcomes = world
        .settle(&[
            by_new_operator(3, now.after(DAY)),
            by_new_operator(4, now.after(DAY + 1)),
        ])
        .await;
    assert_eq!(paid(&outcomes[0]), 10);
    assert_eq!(skipped(&outcomes[1]), SkipReason::SignerExpired);
    // The next rotation waits until the last claim of the key before it has lapsed.
    world.advance(2 * DAY).await;
    let next = Wallet::random().address();
    let rotate = async || {
        client
            .rotate_operator(&people.admin, world.network, next)
            .await
    };
    assert_refused(rotate().await, Refusal::TooEarly(now.after(2 * DAY + 1)));
    world.advance(1).await;
    rotate().await.unwrap();
}

#[tokio::test]
async fn a_withdrawal_waits_for_the_last_claim_before_it() {
    let world = World::embedded().await;
    let (client, people) = (&world.centralizer, &world.people);
    let now = world.now().await;
    client
        .request_withdraw(&people.payer, world.network, DEPOSIT)
        .await
        .unwrap();
    let late = world.row(&world.channel(1), 10, now.after(DAY + 1));
    let outcomes = world.settle(&[late]).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::Unfunded);
    world.advance(2 * DAY).await;
    let to = people.payer.address();
    let withdraw = async || client.withdraw(&people.payer, world.network, to).await;
    assert_refused(withdraw().await, Refusal::TooEarly(now.after(2 * DAY + 1)));
    let last = world.row(&world.channel(2), 10, now.after(DAY));
    let outcomes = world.settle(&[last]).await;
    assert_eq!(paid(&outcomes[0]), 10);
    world.advance(1).await;
    withdraw().await.unwrap();
    assert_eq!(world.account().await.balance, Amount::ZERO);
}

#[tokio::test]
async fn a_hold_and_a_consent_end_on_the_second() {
    let world = World::embedded().await;
    let (client, people) = (&world.centralizer, &world.people);
    let now = world.now().await;
    let channel = world.channel(1);
    let too_long = world.row(&channel, 10, now.after(DAY + 1));
    assert_refused(
        client.hold(&people.provider, &too_long).await,
        Refusal::HoldTooLong,
    );
    let longest = world.row(&channel, 10, now.after(DAY));
    client.hold(&people.provider, &longest).await.unwrap();
    world.advance(2 * DAY).await;
    let release = async || client.release_hold(&people.stranger, &channel).await;
    assert_refused(release().await, Refusal::TooEarly(now.after(2 * DAY + 1)));
    world.advance(1).await;
    release().await.unwrap();

    let consent = |deadline: UnixSeconds| {
        let withdrawal = Withdrawal {
            network: world.network,
            owner: people.payer.address(),
            to: people.payer.address(),
            amount: Amount(1),
            nonce: 0,
            deadline,
        };
        Signed::sign(withdrawal, &world.domain(), people.operator.key())
    };
    let now = world.now().await;
    let late = consent(UnixSeconds(now.0 - 1));
    assert_refused(
        client.withdraw_with_operator(&people.payer, &late).await,
        Refusal::Expired,
    );
    client
        .withdraw_with_operator(&people.payer, &consent(now))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_wrong_deployment_is_named() {
    let world = World::embedded().await;
    let right = world.deployment();
    let nobody = Address::repeat_byte(9);
    for (wrong, words) in [
        (
            Deployment {
                chain_id: right.chain_id + 1,
                ..right
            },
            "the node is on chain",
        ),
        (
            Deployment {
                centralizer: nobody,
                ..right
            },
            "no contract at that address",
        ),
        (
            Deployment {
                token: nobody,
                ..right
            },
            "its token is",
        ),
    ] {
        let refused = Centralizer::connect(world.chain.clone(), wrong).await;
        let Err(ContractError::Mismatch { reason, .. }) = refused else {
            panic!("connected to {wrong:?}");
        };
        assert!(reason.contains(words), "{reason}");
    }
}
