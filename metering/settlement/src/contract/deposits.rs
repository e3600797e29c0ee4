//! Deposits: tokens in, with an approval or a permit, and both ways out.

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolStruct, eip712_domain};
use ipsx_metering::{Amount, NetworkId, Signature, Signed, TypedData, UnixSeconds, Withdrawal};
use serde::{Deserialize, Serialize};

use super::claim::compact;
use super::{Centralizer, ContractError, uint96};
use crate::bindings::{self, Centralizer as abi, Erc20Permit as erc20};
use crate::chain::TransactionReceipt;
use crate::transaction::Transaction;
use crate::wallet::Signer;

/// A token owner's ERC-2612 permission for the contract to take tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPermit {
    /// Whose tokens.
    pub owner: Address,
    /// How many.
    pub amount: Amount,
    /// Last second at which it can be submitted.
    pub deadline: UnixSeconds,
    /// The owner's signature.
    pub signature: Signature,
}

impl SignedPermit {
    fn parts(&self) -> (u8, B256, B256) {
        let bytes = &self.signature.0;
        let word = |range| B256::from_slice(&bytes[range]);
        (bytes[64], word(0..32), word(32..64))
    }
}

impl Centralizer {
    /// Deposits the signer's tokens for `owner`: approves the contract if it may not take them yet, then deposits.
    pub async fn deposit(
        &self,
        signer: &dyn Signer,
        network: NetworkId,
        owner: Address,
        amount: Amount,
    ) -> Result<TransactionReceipt, ContractError> {
        self.allow(signer, amount).await?;
        let call = abi::depositCall {
            network: network.0,
            owner,
            amount: U256::from(amount.0),
        };
        self.write(signer, "deposit", call).await
    }

    /// Deposits in one transaction what the signer's permit is for. It works, too, if somebody else has submitted the
    /// permit first.
    pub async fn deposit_with_permit(
        &self,
        signer: &dyn Signer,
        network: NetworkId,
        owner: Address,
        permit: &SignedPermit,
    ) -> Result<TransactionReceipt, ContractError> {
        let (v, r, s) = permit.parts();
        let call = abi::depositWithPermitCall {
            network: network.0,
            owner,
            amount: U256::from(permit.amount.0),
            deadline: U256::from(permit.deadline.0),
            v,
            r,
            s,
        };
        self.write(signer, "deposit with a permit", call).await
    }

    /// Sends tokens from the signer's wallet to another one.
    pub async fn transfer_tokens(
        &self,
        signer: &dyn Signer,
        to: Address,
        amount: Amount,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = erc20::transferCall {
            to,
            value: U256::from(amount.0),
        };
        self.write_to(self.deployment.token, signer, "send tokens", call)
            .await
    }

    /// Signs a permit for the contract to take `amount` of the signer's IPSX tokens until `deadline`.
    pub async fn sign_permit(
        &self,
        signer: &dyn Signer,
        amount: Amount,
        deadline: UnixSeconds,
    ) -> Result<SignedPermit, ContractError> {
        let owner = signer.address();
        let nonce = self
            .read_from(
                self.deployment.token,
                "number the permit",
                erc20::noncesCall { owner },
            )
            .await?;
        let permit = bindings::Permit {
            owner,
            spender: self.deployment.centralizer,
            value: U256::from(amount.0),
            nonce,
            deadline: U256::from(deadline.0),
        };
        let domain = eip712_domain! {
            name: "IPSX",
            version: "1",
            chain_id: self.deployment.chain_id,
            verifying_contract: self.deployment.token,
        };
        Ok(SignedPermit {
            owner,
            amount,
            deadline,
            signature: signer.sign_hash(permit.eip712_signing_hash(&domain)),
        })
    }

    /// Submits a permit by itself; anyone may.
    pub async fn submit_permit(
        &self,
        submitter: &dyn Signer,
        permit: &SignedPermit,
    ) -> Result<TransactionReceipt, ContractError> {
        let (v, r, s) = permit.parts();
        let call = erc20::permitCall {
            owner: permit.owner,
            spender: self.deployment.centralizer,
            value: U256::from(permit.amount.0),
            deadline: U256::from(permit.deadline.0),
            v,
            r,
            s,
        };
        self.write_to(self.deployment.token, submitter, "submit the permit", call)
            .await
    }

    /// Asks to take up to `amount` of the deposit out after 48 h; 0 cancels.
    pub async fn request_withdraw(
        &self,
        owner: &dyn Signer,
        network: NetworkId,
        amount: Amount,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = request_call(network, amount);
        self.write(owner, "request the withdrawal", call).await
    }

    /// The same transaction, for an owner that this program has no key of.
    pub fn request_withdraw_transaction(&self, network: NetworkId, amount: Amount) -> Transaction {
        self.transaction(request_call(network, amount))
    }

    /// Takes what was asked for 48 h ago.
    pub async fn withdraw(
        &self,
        owner: &dyn Signer,
        network: NetworkId,
        to: Address,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = withdraw_call(network, to);
        self.write(owner, "withdraw", call).await
    }

    /// The same transaction, for an owner that this program has no key of.
    pub fn withdraw_transaction(&self, network: NetworkId, to: Address) -> Transaction {
        self.transaction(withdraw_call(network, to))
    }

    /// Takes a part of the deposit at once, with the operator's consent.
    pub async fn withdraw_with_operator(
        &self,
        owner: &dyn Signer,
        withdrawal: &Signed<Withdrawal>,
    ) -> Result<TransactionReceipt, ContractError> {
        let w = withdrawal.message.to_sol();
        let call = abi::withdrawWithOperatorCall {
            w: bindings::Withdrawal {
                network: w.network,
                owner: w.owner,
                to: w.to,
                amount: w.amount,
                nonce: w.nonce,
                deadline: w.deadline,
            },
            signature: compact(&withdrawal.signature),
        };
        self.write(owner, "withdraw with the operator's consent", call)
            .await
    }

    /// Lets the contract take `amount` of the signer's tokens, if it may not yet.
    pub(super) async fn allow(
        &self,
        signer: &dyn Signer,
        amount: Amount,
    ) -> Result<(), ContractError> {
        let question = erc20::allowanceCall {
            owner: signer.address(),
            spender: self.deployment.centralizer,
        };
        let action = "approve the contract";
        let token = self.deployment.token;
        let needed = U256::from(amount.0);
        if self.read_from(token, action, question).await? >= needed {
            return Ok(());
        }
        let call = erc20::approveCall {
            spender: self.deployment.centralizer,
            value: needed,
        };
        self.write_to(token, signer, action, call).await?;
        Ok(())
    }
}

fn request_call(network: NetworkId, amount: Amount) -> abi::requestWithdrawCall {
    abi::requestWithdrawCall {
        network: network.0,
        amount: uint96(amount),
    }
}

fn withdraw_call(network: NetworkId, to: Address) -> abi::withdrawCall {
    abi::withdrawCall {
        network: network.0,
        to,
    }
}
