//! What is signed for one place counts nowhere else, and nothing forged counts anywhere.

use alloy_primitives::{Address, B256, U256};
use ipsx_metering::{Amount, Authorization, Domain, Signature, Signed, Withdrawal};
use ipsx_settlement::{Centralizer, Refusal, Signer, SkipReason, deploy_centralizer};

use crate::lifecycle::assert_refused;
use crate::world::{DAY, HOUR, World, create_network, paid, skipped};

pub(crate) async fn nothing_replays_elsewhere(world: World) {
    let people = &world.people;
    let until = world.now().await.after(HOUR);
    let channel = world.channel(1);
    let good = world.row(&channel, 1_000, until);

    // Another chain, and another contract on this one.
    let elsewhere = [
        Domain {
            chain_id: world.domain().chain_id + 1,
            ..world.domain()
        },
        Domain {
            contract: Address::repeat_byte(7),
            ..world.domain()
        },
    ];
    for domain in elsewhere {
        let mut row = good.clone();
        row.reservation = Signed::sign(row.reservation.message, &domain, people.operator.key());
        let outcomes = world.settle(&[row]).await;
        assert_eq!(skipped(&outcomes[0]), SkipReason::NotOperator);
        let mut row = good.clone();
        row.voucher = Signed::sign(row.voucher.message, &domain, people.session.key());
        let outcomes = world.settle(&[row]).await;
        assert_eq!(skipped(&outcomes[0]), SkipReason::NotPayerSigner);
    }

    // Another channel, and the same pair on another network.
    let mut other = good.clone();
    other.channel = world.channel(2);
    let outcomes = world.settle(std::slice::from_ref(&other)).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::NotOperator);
    other.reservation = world.reserve(&other.channel, 1_000, until);
    let outcomes = world.settle(&[other]).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::NotPayerSigner);
    let second = create_network(&world.centralizer, people, 2).await;
    let mut moved = good.clone();
    moved.channel.network = second;
    let outcomes = world.settle(&[moved]).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::SignerExpired);

    // A second contract for the same token on the same chain, with the same network.
    let token = world.deployment().token;
    let deployment = deploy_centralizer(world.chain.as_ref(), &people.founder, token)
        .await
        .unwrap();
    let twin = Centralizer::connect(world.chain.clone(), deployment)
        .await
        .unwrap();
    assert_eq!(create_network(&twin, people, 0).await, world.network);
    let payer = people.payer.address();
    twin.deposit(&people.payer, world.network, payer, Amount(5_000))
        .await
        .unwrap();
    let authorization = Authorization {
        network: world.network,
        payer,
        signer: people.session.address(),
        valid_to: until.after(DAY),
        nonce: 0,
    };
    let foreign = Signed::sign(authorization.clone(), &world.domain(), people.payer.key());
    assert_refused(
        twin.authorize(&people.stranger, &foreign).await,
        Refusal::InvalidSignature,
    );
    let own = Signed::sign(authorization, &twin.domain(), people.payer.key());
    twin.authorize(&people.stranger, &own).await.unwrap();
    let settled = twin
        .settle(&people.stranger, std::slice::from_ref(&good))
        .await
        .unwrap();
    assert_eq!(skipped(&settled.outcomes[0]), SkipReason::NotOperator);
    let outcomes = world.settle(&[good]).await;
    assert_eq!(paid(&outcomes[0]), 1_000);
}

pub(crate) async fn forged_rows_are_skipped(world: World) {
    let people = &world.people;
    let until = world.now().await.after(HOUR);
    let channel = world.channel(1);
    let good = world.row(&channel, 1_000, until);

    let mut tampered = good.clone();
    tampered.voucher.message.cumulative = Amount(2_000);
    let mut by_stranger = good.clone();
    by_stranger.voucher = Signed::sign(
        good.voucher.message.clone(),
        &world.domain(),
        people.stranger.key(),
    );
    let mut high = good.clone();
    high.voucher.signature = with_high_s(good.voucher.signature);
    let mut blank = good.clone();
    blank.voucher.signature = Signature([0; 65]);
    let rows = [tampered, by_stranger, high, blank];
    for outcome in world.settle(&rows).await {
        assert_eq!(skipped(&outcome), SkipReason::NotPayerSigner);
    }

    let mut larger = good.clone();
    larger.reservation.message.capacity = Amount(5_000);
    let mut longer = good.clone();
    longer.reservation.message.valid_until = until.after(1);
    let mut by_stranger = good.clone();
    by_stranger.reservation = Signed::sign(
        good.reservation.message.clone(),
        &world.domain(),
        people.stranger.key(),
    );
    let mut high = good.clone();
    high.reservation.signature = with_high_s(good.reservation.signature);
    let rows = [larger, longer, by_stranger, high];
    for outcome in world.settle(&rows).await {
        assert_eq!(skipped(&outcome), SkipReason::NotOperator);
    }

    // Nobody but the owner uses the operator's consent, and only as it was given.
    let withdrawal = Withdrawal {
        network: world.network,
        owner: people.payer.address(),
        to: people.payer.address(),
        amount: Amount(10),
        nonce: 0,
        deadline: until,
    };
    let consent = Signed::sign(withdrawal, &world.domain(), people.operator.key());
    let client = &world.centralizer;
    assert_refused(
        client
            .withdraw_with_operator(&people.stranger, &consent)
            .await,
        Refusal::NotOwner,
    );
    let mut more = consent.clone();
    more.message.amount = Amount(11);
    assert_refused(
        client.withdraw_with_operator(&people.payer, &more).await,
        Refusal::InvalidSignature,
    );
    world.advance(HOUR + 60).await;
    assert_refused(
        client.withdraw_with_operator(&people.payer, &consent).await,
        Refusal::Expired,
    );
}

pub(crate) async fn nothing_on_a_network_without_keys_is_paid(world: World) {
    let people = &world.people;
    let until = world.now().await.after(HOUR);
    // A signer of zero is what a broken signature recovers to: it can't be authorised.
    let authorization = Authorization {
        network: world.network,
        payer: people.payer.address(),
        signer: Address::ZERO,
        valid_to: until,
        nonce: world.account().await.authorization_nonce,
    };
    let signed = Signed::sign(authorization, &world.domain(), people.payer.key());
    assert_refused(
        world.centralizer.authorize(&people.stranger, &signed).await,
        Refusal::ZeroAddress,
    );
    let mut unsigned = world.row(&world.channel(1), 1_000, until);
    unsigned.channel.payer_signer = Address::ZERO;
    let channel = unsigned.channel.clone();
    unsigned.reservation = world.reserve(&channel, 1_000, until);
    unsigned.voucher.message.channel_id = channel.id();
    unsigned.voucher.signature = Signature([0; 65]);
    let outcomes = world.settle(std::slice::from_ref(&unsigned)).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::SignerExpired);

    // A network that nobody created has a zero operator: with a key authorised there, still nothing is paid.
    let nowhere = B256::repeat_byte(0xee).into();
    let authorization = Authorization {
        network: nowhere,
        payer: people.payer.address(),
        signer: people.session.address(),
        valid_to: until.after(DAY),
        nonce: 0,
    };
    let signed = Signed::sign(authorization, &world.domain(), people.payer.key());
    world
        .centralizer
        .authorize(&people.stranger, &signed)
        .await
        .unwrap();
    let mut row = world.row(&world.channel(1), 1_000, until);
    row.channel.network = nowhere;
    let channel = row.channel.clone();
    row.reservation = world.reserve(&channel, 1_000, until);
    row.voucher = world.promise(&channel, 1_000);
    let mut blank = row.clone();
    blank.reservation.signature = Signature([0; 65]);
    for outcome in world.settle(&[row, blank]).await {
        assert_eq!(skipped(&outcome), SkipReason::NotOperator);
    }
}

/// The other signature that is valid for the same key and message.
fn with_high_s(signature: Signature) -> Signature {
    let order: U256 = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"
        .parse()
        .unwrap();
    let mut high = signature;
    let s = U256::from_be_slice(&signature.0[32..64]);
    high.0[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
    high.0[64] = 55 - signature.0[64];
    high
}
