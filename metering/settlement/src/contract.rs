//! The `Centralizer`'s client: one typed method for each of the contract's functions.

mod claim;
mod state;

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256, aliases::U96};
use alloy_sol_types::{SolCall, SolStruct, SolValue, eip712_domain};
use ipsx_metering::{
    Amount, Authorization, CreditsTransfer, Domain, NetworkId, Signature, Signed, TypedData,
    UnixSeconds, Withdrawal,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::bindings::{self, Centralizer as abi, Erc20Permit as erc20};
use crate::chain::{Call, Chain, ChainError, TransactionReceipt};
use crate::refusal::Refusal;
use crate::transaction::{Transaction, send};
use crate::wallet::Signer;

pub use claim::{ClaimRow, RowOutcome, Settlement, SkipReason};
pub use state::{AccountState, ChannelState, Credits, NetworkState};

/// Where the contracts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The token that deposits are made in.
    pub token: Address,
    /// The `Centralizer`.
    pub centralizer: Address,
}

impl Deployment {
    /// The EIP-712 domain that everything is signed for.
    pub fn domain(&self) -> Domain {
        Domain {
            chain_id: self.chain_id,
            contract: self.centralizer,
        }
    }
}

/// A call to the contract failed.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// The chain could not be asked.
    #[error(transparent)]
    Chain(ChainError),
    /// The contract said no; nothing was changed.
    #[error("the contract refused to {action}: {reason}")]
    Refused {
        /// What was asked of it.
        action: &'static str,
        /// Why not.
        reason: Refusal,
    },
    /// The state changed between the estimate and the block, and the transaction reverted.
    #[error("transaction {transaction} to {action} reverted in its block; ask again")]
    Reverted {
        /// What was asked of the contract.
        action: &'static str,
        /// The transaction.
        transaction: B256,
    },
    /// Not the contract that was expected there.
    #[error("{address} on chain {chain_id} is not the expected contract: {reason}")]
    Mismatch {
        /// Where it was looked for.
        address: Address,
        /// On which chain.
        chain_id: u64,
        /// What is different.
        reason: String,
    },
    /// An answer or event that this version does not understand.
    #[error("the contract's answer to {action} can't be read: {reason}")]
    Unreadable {
        /// What was asked of it.
        action: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl ContractError {
    fn at(action: &'static str) -> impl Fn(ChainError) -> Self {
        move |error| match error {
            ChainError::Reverted { data } => Self::Refused {
                action,
                reason: Refusal::decode(&data),
            },
            other => Self::Chain(other),
        }
    }
}

/// What a new network is made of.
#[derive(Clone, Copy, Debug)]
pub struct NewNetwork {
    /// Key that signs reservations.
    pub operator: Address,
    /// Cold key that rotates the operator and takes the bond.
    pub admin: Address,
    /// Who is credited the fees.
    pub treasury: Address,
    /// Fee in hundredths of a percent, at most 1,000.
    pub fee_bps: u16,
    /// Tells networks of the same parties apart.
    pub salt: B256,
}

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

/// Deploys the IPSX token, its whole supply going to `recipient`, and a `Centralizer` for it.
pub async fn deploy(
    chain: &dyn Chain,
    signer: &dyn Signer,
    recipient: Address,
) -> Result<Deployment, ContractError> {
    let mut code = bindings::ipsx_code().to_vec();
    code.extend_from_slice(&recipient.abi_encode());
    let token = create(chain, signer, "deploy the token", code).await?;
    deploy_centralizer(chain, signer, token).await
}

/// Deploys a `Centralizer` for a token that exists: it must not take fees on transfers or change balances by itself.
pub async fn deploy_centralizer(
    chain: &dyn Chain,
    signer: &dyn Signer,
    token: Address,
) -> Result<Deployment, ContractError> {
    let mut code = bindings::centralizer_code().to_vec();
    code.extend_from_slice(&token.abi_encode());
    let centralizer = create(chain, signer, "deploy the Centralizer", code).await?;
    Ok(Deployment {
        chain_id: chain.chain_id().await.map_err(ContractError::Chain)?,
        token,
        centralizer,
    })
}

async fn create(
    chain: &dyn Chain,
    signer: &dyn Signer,
    action: &'static str,
    code: Vec<u8>,
) -> Result<Address, ContractError> {
    let transaction = Transaction {
        to: None,
        data: code.into(),
        value: U256::ZERO,
    };
    let receipt = send(chain, signer, transaction)
        .await
        .map_err(ContractError::at(action))?;
    match receipt.contract_address {
        Some(address) if receipt.success => Ok(address),
        _ => Err(ContractError::Reverted {
            action,
            transaction: receipt.transaction_hash,
        }),
    }
}

/// The client of one deployed contract. Cheap to clone; clones take turns when they send.
#[derive(Clone)]
pub struct Centralizer {
    chain: Arc<dyn Chain>,
    deployment: Deployment,
    sending: Arc<Mutex<()>>,
}

impl Centralizer {
    /// Connects to a deployed contract and checks that it is the one described.
    pub async fn connect(
        chain: Arc<dyn Chain>,
        deployment: Deployment,
    ) -> Result<Self, ContractError> {
        let client = Self {
            chain,
            deployment,
            sending: Arc::new(Mutex::new(())),
        };
        let mismatch = |reason: String| ContractError::Mismatch {
            address: deployment.centralizer,
            chain_id: deployment.chain_id,
            reason,
        };
        let chain_id = client
            .chain
            .chain_id()
            .await
            .map_err(ContractError::Chain)?;
        if chain_id != deployment.chain_id {
            return Err(mismatch(format!("the node is on chain {chain_id}")));
        }
        let code = client
            .chain
            .code(deployment.centralizer)
            .await
            .map_err(ContractError::Chain)?;
        if code.is_empty() {
            return Err(mismatch("there is no contract at that address".into()));
        }
        let token = client.read("name its token", abi::tokenCall {}).await?;
        if token != deployment.token {
            return Err(mismatch(format!("its token is {token}")));
        }
        let separator = client
            .read("name its domain", abi::domainSeparatorCall {})
            .await?;
        if separator != client.domain().eip712().separator() {
            return Err(mismatch("its signing domain differs".into()));
        }
        Ok(client)
    }

    /// Where the contracts are.
    pub fn deployment(&self) -> Deployment {
        self.deployment
    }

    /// The EIP-712 domain that everything is signed for.
    pub fn domain(&self) -> Domain {
        self.deployment.domain()
    }

    /// The chain it is on.
    pub fn chain(&self) -> &Arc<dyn Chain> {
        &self.chain
    }

    /// Opens a network; its id binds the creator (the signer) and everything but the operator key.
    pub async fn create_network(
        &self,
        signer: &dyn Signer,
        network: NewNetwork,
    ) -> Result<NetworkId, ContractError> {
        let call = abi::createNetworkCall {
            operator: network.operator,
            admin: network.admin,
            treasury: network.treasury,
            feeBps: network.fee_bps,
            salt: network.salt,
        };
        self.write(signer, "create the network", call).await?;
        let id = (
            signer.address(),
            network.admin,
            network.treasury,
            network.fee_bps,
            network.salt,
        );
        Ok(NetworkId(alloy_primitives::keccak256(id.abi_encode())))
    }

    /// Replaces the operator key, by the admin.
    pub async fn rotate_operator(
        &self,
        admin: &dyn Signer,
        network: NetworkId,
        operator: Address,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::rotateOperatorCall {
            network: network.0,
            operator,
        };
        self.write(admin, "rotate the operator key", call).await
    }

    /// Adds the signer's tokens to a network's bond.
    pub async fn add_bond(
        &self,
        signer: &dyn Signer,
        network: NetworkId,
        amount: Amount,
    ) -> Result<TransactionReceipt, ContractError> {
        self.allow(signer, amount).await?;
        let call = abi::addBondCall {
            network: network.0,
            amount: U256::from(amount.0),
        };
        self.write(signer, "add to the bond", call).await
    }

    /// Gives 7 days' notice for a part of the bond, by the admin.
    pub async fn request_bond(
        &self,
        admin: &dyn Signer,
        network: NetworkId,
        amount: Amount,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::requestBondCall {
            network: network.0,
            amount: uint96(amount),
        };
        self.write(admin, "give notice for the bond", call).await
    }

    /// Takes the part of the bond that notice was given for, by the admin.
    pub async fn withdraw_bond(
        &self,
        admin: &dyn Signer,
        network: NetworkId,
        to: Address,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::withdrawBondCall {
            network: network.0,
            to,
        };
        self.write(admin, "take the bond", call).await
    }

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

    /// Asks to take up to `amount` of the deposit out after 48 h; 0 cancels.
    pub async fn request_withdraw(
        &self,
        owner: &dyn Signer,
        network: NetworkId,
        amount: Amount,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::requestWithdrawCall {
            network: network.0,
            amount: uint96(amount),
        };
        self.write(owner, "request the withdrawal", call).await
    }

    /// Takes what was asked for 48 h ago.
    pub async fn withdraw(
        &self,
        owner: &dyn Signer,
        network: NetworkId,
        to: Address,
    ) -> Result<TransactionReceipt, ContractError> {
        let call = abi::withdrawCall {
            network: network.0,
            to,
        };
        self.write(owner, "withdraw", call).await
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
            signature: claim::compact(&withdrawal.signature),
        };
        self.write(owner, "withdraw with the operator's consent", call)
            .await
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

    /// Lets the contract take `amount` of the signer's tokens, if it may not yet.
    async fn allow(&self, signer: &dyn Signer, amount: Amount) -> Result<(), ContractError> {
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

    async fn read<C: SolCall>(
        &self,
        action: &'static str,
        call: C,
    ) -> Result<C::Return, ContractError> {
        self.read_from(self.deployment.centralizer, action, call)
            .await
    }

    async fn read_from<C: SolCall>(
        &self,
        contract: Address,
        action: &'static str,
        call: C,
    ) -> Result<C::Return, ContractError> {
        let call = Call::read(contract, call.abi_encode());
        let output = self
            .chain
            .call(&call)
            .await
            .map_err(ContractError::at(action))?;
        C::abi_decode_returns(&output).map_err(|e| ContractError::Unreadable {
            action,
            reason: e.to_string(),
        })
    }

    async fn write<C: SolCall>(
        &self,
        signer: &dyn Signer,
        action: &'static str,
        call: C,
    ) -> Result<TransactionReceipt, ContractError> {
        self.write_to(self.deployment.centralizer, signer, action, call)
            .await
    }

    async fn write_to<C: SolCall>(
        &self,
        contract: Address,
        signer: &dyn Signer,
        action: &'static str,
        call: C,
    ) -> Result<TransactionReceipt, ContractError> {
        let transaction = Transaction {
            to: Some(contract),
            data: call.abi_encode().into(),
            value: U256::ZERO,
        };
        let turn = self.sending.lock().await;
        let receipt = send(self.chain.as_ref(), signer, transaction)
            .await
            .map_err(ContractError::at(action))?;
        drop(turn);
        if receipt.success {
            Ok(receipt)
        } else {
            Err(ContractError::Reverted {
                action,
                transaction: receipt.transaction_hash,
            })
        }
    }
}

/// Amounts above 2^96 - 1 stand for everything: no account can hold as much.
fn uint96(amount: Amount) -> U96 {
    U96::saturating_from(amount.0)
}

/// The contract's amounts fit into 128 bits by construction.
pub(crate) fn amount(value: U256) -> Amount {
    Amount(value.saturating_to())
}

pub(crate) fn time(value: U256) -> UnixSeconds {
    UnixSeconds(value.saturating_to::<u64>().min(UnixSeconds::MAX.0))
}
