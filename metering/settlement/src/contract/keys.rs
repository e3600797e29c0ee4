//! What is done by signature: session keys, and credits paid out to any address.

use alloy_primitives::{Address, Bytes, U256};
use ipsx_metering::{Amount, Authorization, CreditsTransfer, NetworkId, Signed, TypedData};

use super::{Centralizer, ContractError};
use crate::bindings::{self, Centralizer as abi};
use crate::chain::TransactionReceipt;
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

    /// Ends a session key, 24 h from now at the latest, by its payer.
    pub async fn revoke(
        &self,
        payer: &dyn Signer,
        network: NetworkId,
        signer: Address,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::revokeCall {
            network: network.0,
            signer,
        };
        self.write(payer, "revoke the session key", call).await
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
