//! The embedded chain on disk: closed, killed and torn, then opened again.

use std::path::Path;
use std::sync::Arc;

use alloy_primitives::U256;
use ipsx_metering::Amount;
use ipsx_settlement::{
    Centralizer, Chain, ChainError, Clock, Deployment, EmbeddedChain, Genesis, JournalError,
    Signer, Transaction, Wallet, deploy, send,
};

use crate::world::manual_clock;

async fn connect(chain: &EmbeddedChain, deployment: Deployment) -> Centralizer {
    Centralizer::connect(Arc::new(chain.clone()), deployment)
        .await
        .unwrap()
}

/// A chain at `path` on which `founder` has sent `receiver` one token three times.
async fn three_transfers(path: &Path, clock: Clock, founder: &Wallet) -> Deployment {
    let chain = EmbeddedChain::create(path, Genesis::funding([founder.address()]), clock).unwrap();
    let deployment = deploy(&chain, founder, founder.address()).await.unwrap();
    let client = connect(&chain, deployment).await;
    for _ in 0..3 {
        let to = deployment.centralizer;
        client
            .transfer_tokens(founder, to, Amount(1))
            .await
            .unwrap();
        chain.advance(60);
    }
    deployment
}

#[tokio::test]
async fn a_chain_is_the_same_after_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain");
    let (_, clock) = manual_clock();
    let founder = Wallet::random();
    let deployment = three_transfers(&path, clock.clone(), &founder).await;

    let chain = EmbeddedChain::open(&path, clock.clone()).unwrap();
    assert_eq!(chain.chain_id().await.unwrap(), deployment.chain_id);
    assert_eq!(chain.head().await.unwrap().number, 5);
    assert!(matches!(
        EmbeddedChain::open(&path, clock.clone()),
        Err(JournalError::InUse(_))
    ));
    let client = connect(&chain, deployment).await;
    let got = client.token_balance(deployment.centralizer).await.unwrap();
    assert_eq!(got, Amount(3));
    // Time was ahead of the clock when it closed, and does not go back.
    let last = chain.block(Some(5)).unwrap().timestamp;
    assert_eq!(last, clock().after(120));
    assert_eq!(chain.head().await.unwrap().timestamp, last);
    let to = deployment.centralizer;
    client
        .transfer_tokens(&founder, to, Amount(1))
        .await
        .unwrap();
    assert_eq!(chain.head().await.unwrap().number, 6);
}

#[tokio::test]
async fn every_torn_tail_leaves_whole_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain");
    let (_, clock) = manual_clock();
    let founder = Wallet::random();
    let deployment = three_transfers(&path, clock.clone(), &founder).await;
    let whole = std::fs::read(&path).unwrap();
    // The three transfers are the last few hundred bytes; each cut loses at most what it cuts into.
    let mut seen = Vec::new();
    for lost in (0..500).step_by(61) {
        std::fs::write(&path, &whole[..whole.len() - lost]).unwrap();
        let chain = EmbeddedChain::open(&path, clock.clone()).unwrap();
        let blocks = chain.head().await.unwrap().number;
        let client = connect(&chain, deployment).await;
        let got = client.token_balance(deployment.centralizer).await.unwrap();
        assert_eq!(u128::from(blocks), got.0 + 2);
        seen.push(blocks);
    }
    assert_eq!(seen[0], 5);
    assert!(seen.is_sorted_by(|a, b| a >= b) && *seen.last().unwrap() < 4);
}

#[tokio::test]
async fn two_chains_never_share_an_id_and_bad_transactions_stay_out() {
    let (_, clock) = manual_clock();
    let founder = Wallet::random();
    let genesis = || Genesis::funding([founder.address()]);
    let one = EmbeddedChain::in_memory(genesis(), clock.clone());
    let two = EmbeddedChain::in_memory(genesis(), clock.clone());
    assert_ne!(one.chain_id().await.unwrap(), two.chain_id().await.unwrap());

    let to_self = || Transaction {
        to: Some(founder.address()),
        data: Default::default(),
        value: U256::from(1),
    };
    let receipt = send(&one, &founder, to_self()).await.unwrap();
    assert!(receipt.success);
    let mined = one.transaction(receipt.transaction_hash).unwrap();
    let raw = alloy_eips::Encodable2718::encoded_2718(&mined.envelope);
    for (chain, what) in [
        (&one, "already in a block"),
        (&two, "the transaction is for"),
    ] {
        let error = chain.send_raw_transaction(&raw).await.unwrap_err();
        assert!(
            matches!(&error, ChainError::Rejected { reason } if reason.contains(what)),
            "{error}"
        );
    }
    let poor = Wallet::random();
    let rejected = send(&one, &poor, to_self()).await;
    assert!(matches!(rejected, Err(ChainError::Rejected { .. })));
    assert_eq!(one.head().await.unwrap().number, 1);
}
