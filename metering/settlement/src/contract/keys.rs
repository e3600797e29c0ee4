//! What is done by signature: session keys, and credits paid out to any address.

use alloy_primitives::{Address, Bytes, U256, aliases::U40};
use alloy_sol_types::SolCall;
use ipsx_metering::{
    Amount, Authorization, CreditsTransfer, NetworkId, Signed, TypedData, UnixSeconds,
};

use super::{Centralizer, ContractError};
use crate::bindings::{self, Centralizer as abi};
use crate::chain::TransactionReceipt;
use crate::transaction::Transaction;
use crate::wallet::Signer;

impl Centralizer {
    /// Registers a session key with the payer's signature; anyone may submit it.
    pub async fn authorize(
        &self,
        submitter: &dyn Signer,
        authorization: &Signed<Authorization>,
    ) -> Result<TransactionReceipt, ContractError> {
        self.authorize_with(
            submitter,
            &authorization.message,
            Bytes::copy_from_slice(&authorization.signature.0),
        )
        .await
    }

    /// The same for a payer that is a contract (ERC-1271), whose signature may have any form.
    pub async fn authorize_with(
        &self,
        submitter: &dyn Signer,
        authorization: &Authorization,
        signature: Bytes,
    ) -> Result<TransactionReceipt, ContractError> {
        let a = authorization.to_sol();
        let call = abi::authorizeCall {
            a: bindings::Authorization {
                network: a.network,
                payer: a.payer,
                signer: a.signer,
                validTo: a.validTo,
                nonce: a.nonce,
            },
            signature,
        };
        self.write(submitter, "authorise the session key", call)
            .await
    }

    /// Registers a session key by a transaction of its payer.
    pub async fn grant(
        &self,
        payer: &dyn Signer,
        network: NetworkId,
        signer: Address,
        valid_to: UnixSeconds,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = grant_call(network, signer, valid_to);
        self.write(payer, "authorise the session key", call).await
    }

    /// The same transaction, for a payer that this program has no key of: a contract wallet, most often.
    pub fn grant_transaction(
        &self,
        network: NetworkId,
        signer: Address,
        valid_to: UnixSeconds,
    ) -> Transaction {
        self.transaction(grant_call(network, signer, valid_to))
    }

    /// Ends a session key, 24 h from now at the latest, by its payer.
    pub async fn revoke(
        &self,
        payer: &dyn Signer,
        network: NetworkId,
        signer: Address,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = revoke_call(network, signer);
        self.write(payer, "revoke the session key", call).await
    }

    /// The same transaction, for a payer that this program has no key of.
    pub fn revoke_transaction(&self, network: NetworkId, signer: Address) -> Transaction {
        self.transaction(revoke_call(network, signer))
    }

    pub(super) fn transaction(&self, call: impl SolCall) -> Transaction {
        Transaction {
            to: Some(self.deployment.centralizer),
            data: call.abi_encode().into(),
            value: U256::ZERO,
        }
    }

    /// Pays the signer's credits out to any address.
    pub async fn withdraw_credits(
        &self,
        owner: &dyn Signer,
        to: Address,
        amount: Amount,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::withdrawCreditsCall {
            to,
            amount: U256::from(amount.0),
        };
        self.write(owner, "pay out credits", call).await
    }

    /// Pays credits out by their owner's signature; anyone may submit it and pay the gas.
    pub async fn transfer_credits(
        &self,
        submitter: &dyn Signer,
        transfer: &Signed<CreditsTransfer>,
    ) -> Result<TransactionReceipt, ContractError> {
        let t = transfer.message.to_sol();
        let call = abi::transferCreditsCall {
            t: bindings::CreditsTransfer {
                owner: t.owner,
                to: t.to,
                amount: t.amount,
                nonce: t.nonce,
                deadline: t.deadline,
            },
            signature: Bytes::copy_from_slice(&transfer.signature.0),
        };
        self.write(submitter, "transfer credits", call).await
    }
}

fn grant_call(network: NetworkId, signer: Address, valid_to: UnixSeconds) -> abi::grantCall {
    abi::grantCall {
        network: network.0,
        signer,
        // Later times are the latest that fits, which no chain reaches.
        validTo: U40::from(valid_to.0.min((1 << 40) - 1)),
    }
}

fn revoke_call(network: NetworkId, signer: Address) -> abi::revokeCall {
    abi::revokeCall {
        network: network.0,
        signer,
    }
}
