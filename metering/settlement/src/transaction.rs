//! Builds, signs, sends and awaits transactions.

use std::time::Duration;

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};

use crate::chain::{Call, Chain, ChainError, TransactionReceipt};
use crate::wallet::Signer;

/// How long a transaction is waited for: a few blocks of a slow chain.
const INCLUSION: Duration = Duration::from_secs(90);
const FIRST_LOOK: Duration = Duration::from_millis(20);
const SLOWEST_LOOK: Duration = Duration::from_secs(2);

/// What a transaction does; the rest is filled in when it is sent.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The contract, or `None` for a deployment.
    pub to: Option<Address>,
    /// Calldata, or the code of a deployment.
    pub data: Bytes,
    /// Wei sent along.
    pub value: U256,
}

/// Sends a transaction from the signer's account and waits until it is in a block, reverted or not.
///
/// Gas is estimated first, so what would revert fails here, without costing anything. Not safe to call twice at once
/// for one account: both would take the same number.
pub async fn send(
    chain: &dyn Chain,
    signer: &dyn Signer,
    transaction: Transaction,
) -> Result<TransactionReceipt, ChainError> {
    let call = Call {
        from: signer.address(),
        to: transaction.to,
        data: transaction.data,
        value: transaction.value,
    };
    let gas = chain.estimate_gas(&call).await?;
    let fees = chain.fees().await?;
    let transaction = TxEip1559 {
        chain_id: chain.chain_id().await?,
        nonce: chain.nonce(call.from).await?,
        // The state may change before the block is made.
        gas_limit: gas + gas / 8,
        max_fee_per_gas: fees.max_fee_per_gas,
        max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
        to: call.to.map_or(TxKind::Create, TxKind::Call),
        value: call.value,
        access_list: Default::default(),
        input: call.data,
    };
    let hash = chain
        .send_raw_transaction(&sign(transaction, signer))
        .await?;
    included(chain, hash).await
}

/// The transaction with the signer's signature, EIP-2718 encoded.
fn sign(transaction: TxEip1559, signer: &dyn Signer) -> Vec<u8> {
    let signature = signer.sign_hash(transaction.signature_hash());
    let r = B256::from_slice(&signature.0[..32]);
    let s = B256::from_slice(&signature.0[32..64]);
    let signature =
        alloy_primitives::Signature::from_scalars_and_parity(r, s, signature.0[64] == 28);
    transaction.into_signed(signature).encoded_2718()
}

async fn included(chain: &dyn Chain, hash: B256) -> Result<TransactionReceipt, ChainError> {
    let mut pause = FIRST_LOOK;
    let mut waited = Duration::ZERO;
    loop {
        if let Some(receipt) = chain.receipt(hash).await? {
            return Ok(receipt);
        }
        if waited >= INCLUSION {
            return Err(ChainError::NotIncluded {
                hash,
                seconds: INCLUSION.as_secs(),
            });
        }
        tokio::time::sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(SLOWEST_LOOK);
    }
}
