//! Builds, signs and sends transactions.

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_eips::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};

use crate::chain::{Chain, ChainError, TransactionReceipt};
use crate::outbox::{Entry, Outbox};
use crate::wallet::Signer;

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

/// [`Outbox::send`] without a memory: for what is looked at before it is done again.
pub async fn send(
    chain: &dyn Chain,
    signer: &dyn Signer,
    transaction: Transaction,
) -> Result<TransactionReceipt, ChainError> {
    Outbox::default().send(chain, signer, transaction).await
}

/// The transaction with the signer's signature, EIP-2718 encoded.
pub(crate) fn sign(entry: &Entry, signer: &dyn Signer) -> Vec<u8> {
    let fees = entry.fees();
    let transaction = TxEip1559 {
        chain_id: entry.chain_id,
        nonce: entry.nonce,
        gas_limit: entry.gas_limit,
        max_fee_per_gas: fees.max_fee_per_gas,
        max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
        to: entry.to.map_or(TxKind::Create, TxKind::Call),
        value: entry.value,
        access_list: Default::default(),
        input: entry.data.clone(),
    };
    let signature = signer.sign_hash(transaction.signature_hash());
    let r = B256::from_slice(&signature.0[..32]);
    let s = B256::from_slice(&signature.0[32..64]);
    let signature =
        alloy_primitives::Signature::from_scalars_and_parity(r, s, signature.0[64] == 28);
    transaction.into_signed(signature).encoded_2718()
}
