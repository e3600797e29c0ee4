//! Session keys, operator keys and wallets that are contracts.

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, SolValue};
use ipsx_metering::{Amount, Authorization, Signed, TypedData, UnixSeconds};
use ipsx_settlement::{ContractError, Refusal, Signer, SkipReason, Transaction, Wallet, send};

use crate::lifecycle::assert_refused;
use crate::tokens::{create, test_code};
use crate::world::{DAY, HOUR, World, paid, skipped};

pub(crate) async fn a_revoked_key_serves_for_a_day(world: World) {
    let people = &world.people;
    let now = world.now().await;
    let within = world.row(&world.channel(1), 1_000, now.after(DAY - HOUR));
    let beyond = world.row(&world.channel(2), 1_000, now.after(DAY + HOUR));
    world
        .centralizer
        .revoke(&people.payer, world.network, people.session.address())
        .await
        .unwrap();
    let valid_to = valid_to(&world).await;
    assert!(valid_to.0 >= now.0 + DAY && valid_to.0 < now.0 + DAY + 600);
    let outcomes = world.settle(&[beyond]).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::SignerExpired);
    // Claimable until a day after the reservation, though the key ended long ago.
    world.advance(2 * DAY - 2 * HOUR).await;
    let outcomes = world.settle(&[within]).await;
    assert_eq!(paid(&outcomes[0]), 1_000);
}

pub(crate) async fn an_authorisation_never_shortens_and_a_revocation_voids_the_unsent(
    world: World,
) {
    let people = &world.people;
    let before = valid_to(&world).await;
    world.authorize(HOUR).await;
    assert_eq!(valid_to(&world).await, before);
    world.authorize(90 * DAY).await;
    assert!(valid_to(&world).await > before);

    let authorization = Authorization {
        network: world.network,
        payer: people.payer.address(),
        signer: people.session.address(),
        valid_to: world.now().await.after(300 * DAY),
        nonce: world.account().await.authorization_nonce,
    };
    let unsent = Signed::sign(authorization, &world.domain(), people.payer.key());
    world
        .centralizer
        .revoke(&people.payer, world.network, people.session.address())
        .await
        .unwrap();
    assert_refused(
        world.centralizer.authorize(&people.stranger, &unsent).await,
        Refusal::WrongNonce(unsent.message.nonce + 1),
    );
    let by_stranger = Signed::sign(
        Authorization {
            nonce: unsent.message.nonce + 1,
            ..unsent.message.clone()
        },
        &world.domain(),
        people.stranger.key(),
    );
    assert_refused(
        world
            .centralizer
            .authorize(&people.stranger, &by_stranger)
            .await,
        Refusal::InvalidSignature,
    );
}

pub(crate) async fn a_rotated_operator_serves_for_a_day(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let now = world.now().await;
    let within = world.row(&world.channel(1), 1_000, now.after(DAY - HOUR));
    let beyond = world.row(&world.channel(2), 1_000, now.after(DAY + HOUR));
    let fresh = Wallet::random();
    assert_refused(
        client
            .rotate_operator(&people.operator, world.network, fresh.address())
            .await,
        Refusal::NotAdmin,
    );
    client
        .rotate_operator(&people.admin, world.network, fresh.address())
        .await
        .unwrap();
    let mut renewed = beyond.clone();
    renewed.reservation = Signed::sign(
        beyond.reservation.message.clone(),
        &world.domain(),
        fresh.key(),
    );
    let outcomes = world.settle(&[beyond, renewed]).await;
    assert_eq!(skipped(&outcomes[0]), SkipReason::NotOperator);
    assert_eq!(paid(&outcomes[1]), 1_000);
    // Another rotation, which would cut the first key off, has to wait until nothing of it is claimable.
    world.advance(2 * DAY - 2 * HOUR).await;
    let early = client
        .rotate_operator(&people.admin, world.network, people.stranger.address())
        .await;
    assert!(matches!(
        early,
        Err(ContractError::Refused {
            reason: Refusal::TooEarly(_),
            ..
        })
    ));
    let outcomes = world.settle(&[within]).await;
    assert_eq!(paid(&outcomes[0]), 1_000);
    world.advance(3 * HOUR).await;
    client
        .rotate_operator(&people.admin, world.network, people.stranger.address())
        .await
        .unwrap();
}

alloy_sol_types::sol! {
    function setMood(uint8 mood) external;
    function execute(address to, bytes data) external;
}

pub(crate) async fn a_contract_wallet_pays_until_it_turns_bad(world: World) {
    let (client, people) = (&world.centralizer, &world.people);
    let mut code = test_code(include_str!(
        "../../../contracts/artifacts/test/ContractWallet.json"
    ));
    code.extend_from_slice(&people.payer.address().abi_encode());
    let payer = create(&world, code).await;
    client
        .deposit(&people.founder, world.network, payer, Amount(5_000))
        .await
        .unwrap();
    let authorize = async |nonce: u64| {
        let authorization = Authorization {
            network: world.network,
            payer,
            signer: people.session.address(),
            valid_to: world.now().await.after(10 * DAY),
            nonce,
        };
        let hash = authorization.signing_hash(&world.domain());
        let signature = Bytes::copy_from_slice(&people.payer.sign_hash(hash).0);
        client
            .authorize_with(&people.stranger, &authorization, signature)
            .await
    };
    let set_mood = async |mood: u8| {
        let transaction = Transaction {
            to: Some(payer),
            data: setMoodCall { mood }.abi_encode().into(),
            value: U256::ZERO,
        };
        send(world.chain.as_ref(), &people.stranger, transaction)
            .await
            .unwrap();
    };
    let row = async |number: u8| {
        let mut row = world.row(&world.channel(number), 1_000, world.now().await.after(HOUR));
        row.channel.payer = payer;
        let (channel, until) = (row.channel.clone(), row.reservation.message.valid_until);
        row.reservation = world.reserve(&channel, 1_000, until);
        row.voucher = world.promise(&channel, 1_000);
        row
    };
    // What it executes: as its members would through their own interface.
    let execute = async |transaction: Transaction| {
        let to = transaction.to.unwrap();
        let data = executeCall {
            to,
            data: transaction.data,
        }
        .abi_encode();
        let transaction = Transaction {
            to: Some(payer),
            data: data.into(),
            value: U256::ZERO,
        };
        send(world.chain.as_ref(), &people.payer, transaction)
            .await
            .unwrap()
    };
    let valid_to = async |key: Address| {
        let known = client.signer_valid_to(world.network, payer, key).await;
        known.unwrap()
    };
    let (key, until) = (people.stranger.address(), world.now().await.after(10 * DAY));
    let grant = |until| client.grant_transaction(world.network, key, until);
    execute(grant(until)).await;
    assert_eq!(valid_to(key).await, until);
    execute(grant(UnixSeconds(until.0 - DAY))).await;
    assert_eq!(valid_to(key).await, until, "a grant never shortens");
    execute(client.revoke_transaction(world.network, key)).await;
    assert!(valid_to(key).await <= world.now().await.after(DAY));
    // A grant is its sender's own: the payer's keys are the payer's to appoint.
    let by_stranger = client.grant(&people.stranger, world.network, key, until);
    by_stranger.await.unwrap();
    assert!(valid_to(key).await < until);
    assert_refused(
        client
            .grant(&people.stranger, world.network, Address::ZERO, until)
            .await,
        Refusal::ZeroAddress,
    );
    authorize(1).await.unwrap();
    assert_eq!(paid(&world.settle(&[row(1).await]).await[0]), 1_000);
    // Refusing, then burning all gas it is given: no new key, and the one granted before still pays.
    set_mood(1).await;
    assert_refused(authorize(2).await, Refusal::InvalidSignature);
    set_mood(2).await;
    assert!(authorize(2).await.is_err());
    assert_eq!(paid(&world.settle(&[row(2).await]).await[0]), 1_000);
}

async fn valid_to(world: &World) -> UnixSeconds {
    let (payer, session): (Address, Address) =
        (world.people.payer.address(), world.people.session.address());
    world
        .centralizer
        .signer_valid_to(world.network, payer, session)
        .await
        .unwrap()
}
