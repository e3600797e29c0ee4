//! Transactions on a real node that go wrong: stuck, dropped, replaced, taken back, too dear, and a node that is away.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use ipsx_metering::Amount;
use ipsx_settlement::claims::{ClaimPolicy, plan, submit};
use ipsx_settlement::{
    Chain, ChainError, Outbox, Patience, Signer, Transaction, TransactionReceipt, VoucherStore,
    Wallet,
};
use serde_json::{Value, json};

use crate::anvil::Anvil;
use crate::world::{HOUR, World};

const RECEIVER: Address = Address::repeat_byte(9);

/// Impatient enough for a test, patient enough for a busy machine.
fn patience() -> Patience {
    Patience {
        raise_after: Duration::from_millis(500),
        give_up_after: Duration::from_secs(60),
        most_per_gas: None,
    }
}

fn one_wei() -> Transaction {
    wei(1)
}

fn wei(amount: u64) -> Transaction {
    Transaction {
        to: Some(RECEIVER),
        data: Default::default(),
        value: U256::from(amount),
    }
}

async fn ask(anvil: &Anvil, method: &'static str, params: Value) -> Value {
    anvil.chain.request(method, params).await.unwrap()
}

async fn received(anvil: &Anvil) -> u64 {
    anvil.chain.balance(RECEIVER).await.unwrap().to()
}

/// A node that makes blocks only when told to, and an account on it.
async fn slow_node() -> Option<(Arc<Anvil>, Arc<Wallet>)> {
    let anvil = Anvil::start().await?;
    let wallet = Wallet::random();
    anvil.fund(wallet.address()).await;
    ask(&anvil, "evm_setAutomine", json!([false])).await;
    Some((Arc::new(anvil), Arc::new(wallet)))
}

fn sending(
    anvil: &Arc<Anvil>,
    wallet: &Arc<Wallet>,
    outbox: &Outbox,
) -> tokio::task::JoinHandle<Result<TransactionReceipt, ChainError>> {
    sending_wei(1, anvil, wallet, outbox)
}

fn sending_wei(
    amount: u64,
    anvil: &Arc<Anvil>,
    wallet: &Arc<Wallet>,
    outbox: &Outbox,
) -> tokio::task::JoinHandle<Result<TransactionReceipt, ChainError>> {
    let (anvil, wallet, outbox) = (anvil.clone(), wallet.clone(), outbox.clone());
    tokio::spawn(async move {
        let transaction = wei(amount);
        outbox
            .send(&anvil.chain, wallet.as_ref(), transaction)
            .await
    })
}

/// The account's transactions that wait, by number: those that can go next and those that can't.
async fn waiting(anvil: &Anvil, wallet: &Wallet) -> (Vec<Value>, Vec<Value>) {
    let pool = ask(anvil, "txpool_content", json!([])).await;
    let of = |kind: &str| -> Vec<Value> {
        let accounts = pool[kind].as_object().into_iter().flatten();
        accounts
            .filter(|(account, _)| account.parse() == Ok(wallet.address()))
            .flat_map(|(_, numbers)| numbers.as_object().into_iter().flatten())
            .map(|(_, transaction)| transaction.clone())
            .collect()
    };
    (of("pending"), of("queued"))
}

/// Waits until exactly one transaction waits, and it is another one than `not`.
async fn until_waiting(anvil: &Anvil, wallet: &Wallet, not: Option<B256>) -> (B256, u128) {
    for _ in 0..600 {
        if let [transaction] = &waiting(anvil, wallet).await.0[..] {
            let hash: B256 = serde_json::from_value(transaction["hash"].clone()).unwrap();
            if Some(hash) != not {
                let fee: U256 =
                    serde_json::from_value(transaction["maxFeePerGas"].clone()).unwrap();
                return (hash, fee.to());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no other transaction came");
}

#[tokio::test]
async fn a_stuck_transaction_offers_more_and_counts_once() {
    let Some((anvil, wallet)) = slow_node().await else {
        return;
    };
    let outbox = Outbox::default().with_patience(patience());
    let sent = sending(&anvil, &wallet, &outbox);
    let (first, fee) = until_waiting(&anvil, &wallet, None).await;
    let (second, higher) = until_waiting(&anvil, &wallet, Some(first)).await;
    assert!(higher >= fee + fee / 10, "{fee}, then {higher}");
    assert_ne!(first, second);
    ask(&anvil, "evm_mine", json!([])).await;
    let receipt = sent.await.unwrap().unwrap();
    assert!(receipt.success);
    assert_ne!(receipt.transaction_hash, first);
    assert_eq!(received(&anvil).await, 1);
    assert_eq!(anvil.chain.mined_nonce(wallet.address()).await.unwrap(), 1);
}

#[tokio::test]
async fn what_was_on_its_way_when_the_program_ended_is_not_sent_twice() {
    let Some((anvil, wallet)) = slow_node().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::in_folder(folder.path()).with_patience(patience());
    let sent = sending(&anvil, &wallet, &outbox);
    until_waiting(&anvil, &wallet, None).await;
    // The program is killed, and the node forgets what waited.
    sent.abort();
    let _ = sent.await;
    ask(&anvil, "anvil_dropAllTransactions", json!([])).await;
    // The next program finishes it before it sends anything of its own.
    let again = sending(&anvil, &wallet, &outbox);
    until_waiting(&anvil, &wallet, None).await;
    ask(&anvil, "evm_setAutomine", json!([true])).await;
    ask(&anvil, "evm_mine", json!([])).await;
    again.await.unwrap().unwrap();
    assert_eq!(received(&anvil).await, 2);
    assert_eq!(anvil.chain.mined_nonce(wallet.address()).await.unwrap(), 2);
    // Included while the program was away: its receipt is found, and nothing is sent.
    ask(&anvil, "evm_setAutomine", json!([false])).await;
    let sent = sending(&anvil, &wallet, &outbox);
    until_waiting(&anvil, &wallet, None).await;
    sent.abort();
    let _ = sent.await;
    ask(&anvil, "evm_mine", json!([])).await;
    let found = outbox.resume(&anvil.chain, wallet.as_ref()).await.unwrap();
    assert!(found.is_some_and(|receipt| receipt.success));
    let none = outbox.resume(&anvil.chain, wallet.as_ref()).await.unwrap();
    assert_eq!(none, None);
    assert_eq!(received(&anvil).await, 3);
}

#[tokio::test]
async fn a_number_that_another_program_used_is_named() {
    let Some((anvil, wallet)) = slow_node().await else {
        return;
    };
    let outbox = Outbox::default().with_patience(Patience {
        raise_after: Duration::from_secs(60),
        ..patience()
    });
    let ours = sending(&anvil, &wallet, &outbox);
    let (hash, _) = until_waiting(&anvil, &wallet, None).await;
    ask(&anvil, "anvil_dropTransaction", json!([hash])).await;
    let theirs = sending_wei(2, &anvil, &wallet, &outbox);
    until_waiting(&anvil, &wallet, Some(hash)).await;
    ask(&anvil, "evm_mine", json!([])).await;
    // Ours may come first when it is handed over again; one of the two counts, the other one hears why it does not.
    let (ours, theirs) = (ours.await.unwrap(), theirs.await.unwrap());
    let replaced = |sent: &Result<_, _>| matches!(sent, Err(ChainError::Replaced { nonce: 0 }));
    assert!(ours.is_ok() != theirs.is_ok(), "{ours:?} {theirs:?}");
    assert!(replaced(&ours) || replaced(&theirs), "{ours:?} {theirs:?}");
    let expected = if ours.is_ok() { 1 } else { 2 };
    assert_eq!(received(&anvil).await, expected);
}

#[tokio::test]
async fn a_gap_in_the_numbers_is_filled() {
    let Some((anvil, wallet)) = slow_node().await else {
        return;
    };
    let lost = sending(&anvil, &wallet, &Outbox::default());
    let (hash, _) = until_waiting(&anvil, &wallet, None).await;
    let outbox = Outbox::default().with_patience(patience());
    let held = sending(&anvil, &wallet, &outbox);
    for _ in 0..600 {
        if waiting(&anvil, &wallet).await.0.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lost.abort();
    ask(&anvil, "anvil_dropTransaction", json!([hash])).await;
    ask(&anvil, "evm_setIntervalMining", json!([1])).await;
    let receipt = held.await.unwrap().unwrap();
    assert!(receipt.success);
    assert_eq!(received(&anvil).await, 1);
    assert_eq!(anvil.chain.mined_nonce(wallet.address()).await.unwrap(), 2);
}

#[tokio::test]
async fn dear_gas_is_waited_out() {
    let Some(anvil) = Anvil::start().await else {
        return;
    };
    let wallet = Wallet::random();
    anvil.fund(wallet.address()).await;
    let price = 1_000_000_000_000_u64;
    let dear = json!([U256::from(price)]);
    ask(&anvil, "anvil_setNextBlockBaseFeePerGas", dear).await;
    ask(&anvil, "evm_mine", json!([])).await;
    let careful = Outbox::default().with_patience(Patience {
        most_per_gas: Some(u128::from(price) / 2),
        ..patience()
    });
    let refused = careful.send(&anvil.chain, &wallet, one_wei()).await;
    assert!(
        matches!(refused, Err(ChainError::TooExpensive { .. })),
        "{refused:?}"
    );
    assert_eq!(received(&anvil).await, 0);
    // In haste it is paid.
    let hasty = Outbox::default().with_patience(patience());
    hasty.send(&anvil.chain, &wallet, one_wei()).await.unwrap();
    let cheap = json!([U256::from(1_000_000_000_u64)]);
    ask(&anvil, "anvil_setNextBlockBaseFeePerGas", cheap).await;
    ask(&anvil, "evm_mine", json!([])).await;
    careful
        .send(&anvil.chain, &wallet, one_wei())
        .await
        .unwrap();
    assert_eq!(received(&anvil).await, 2);
}

#[tokio::test]
async fn a_node_that_is_killed_and_comes_back_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut anvil) = Anvil::start_keeping(folder.path()).await else {
        return;
    };
    let wallet = Wallet::random();
    anvil.fund(wallet.address()).await;
    ask(&anvil, "evm_setAutomine", json!([false])).await;
    let outbox = Outbox::in_folder(folder.path().join("outbox")).with_patience(patience());
    let chain = anvil.chain.clone();
    let sent = tokio::spawn(async move { outbox.send(&chain, &wallet, one_wei()).await });
    for _ in 0..600 {
        let pool = ask(&anvil, "txpool_status", json!([])).await;
        if pool["pending"] == json!("0x1") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anvil.restart().await;
    // The new node has never heard of it, and makes a block for each transaction that comes.
    let receipt = sent.await.unwrap().unwrap();
    assert!(receipt.success);
    assert_eq!(received(&anvil).await, 1);
}

#[tokio::test]
async fn a_claim_that_a_reorganisation_takes_back_is_made_again() {
    let Some(world) = World::anvil().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vouchers.db");
    let store = VoucherStore::open(&path, world.domain()).await.unwrap();
    let channel = world.channel(1);
    store.add_channel(&channel).await.unwrap();
    let voucher = world.promise(&channel, 500);
    store.accept(&voucher).await.unwrap();
    let until = world.now().await.after(HOUR);
    let reservation = world.reserve(&channel, 800, until);
    store.accept_reservation(&reservation).await.unwrap();
    let relayer = &world.people.stranger;
    let make_plan = async || {
        let now = world.now().await;
        let policy = ClaimPolicy::default();
        plan(&store, &world.centralizer, relayer.address(), now, policy)
            .await
            .unwrap()
    };
    for _ in 0..2 {
        let planned = make_plan().await;
        assert_eq!(planned.amount, Amount(500));
        let report = submit(&store, &world.centralizer, relayer, &planned)
            .await
            .unwrap();
        assert_eq!(report.paid, Amount(500));
        assert!(make_plan().await.claims.is_empty());
        // Paid, but not yet for good.
        assert_eq!(store.unclaimed().await.unwrap().len(), 1);
        world.reorganise(1).await;
    }
    let planned = make_plan().await;
    submit(&store, &world.centralizer, relayer, &planned)
        .await
        .unwrap();
    for _ in 0..ipsx_settlement::FINALITY {
        world.advance(1).await;
    }
    assert!(make_plan().await.claims.is_empty());
    assert!(store.unclaimed().await.unwrap().is_empty());
    assert_eq!(
        world.centralizer.claimed(channel.id()).await.unwrap(),
        Amount(500)
    );
}
