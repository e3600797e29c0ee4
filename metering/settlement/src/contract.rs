//! The `Centralizer`'s client: one typed method for each of the contract's functions.

mod claim;
mod deposits;
mod history;
mod keys;
mod networks;
mod state;

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, aliases::U96};
use alloy_sol_types::{SolCall, SolValue};
use ipsx_metering::{Amount, Domain, UnixSeconds};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::bindings::{self, Centralizer as abi};
use crate::chain::{Call, Chain, ChainError, TransactionReceipt};
use crate::outbox::Outbox;
use crate::refusal::Refusal;
use crate::transaction::{Transaction, send};
use crate::wallet::Signer;

pub use claim::{ClaimRow, RowOutcome, Settlement, SkipReason};
pub use deposits::SignedPermit;
pub use history::PaidClaim;
pub use networks::NewNetwork;
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
    outbox: Outbox,
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
            outbox: Outbox::default(),
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
            return Err(mismatch(format!(
                "the node is on chain {chain_id}, expected {}",
                deployment.chain_id
            )));
        }
        let code = client
            .chain
            .code(deployment.centralizer)
            .await
            .map_err(ContractError::Chain)?;
        if code.is_empty() {
            return Err(mismatch("there is no contract at that address".into()));
        }
        let token = match client.read("name its token", abi::tokenCall {}).await {
            Ok(token) => token,
            Err(ContractError::Chain(error)) => return Err(ContractError::Chain(error)),
            Err(_) => {
                return Err(mismatch(format!(
                    "it names no token, expected {}",
                    deployment.token
                )));
            }
        };
        if token != deployment.token {
            return Err(mismatch(format!(
                "its token is {token}, expected {}",
                deployment.token
            )));
        }
        let separator = client
            .read("name its domain", abi::domainSeparatorCall {})
            .await?;
        if separator != client.domain().eip712().separator() {
            return Err(mismatch("its signing domain differs".into()));
        }
        Ok(client)
    }

    /// The same, sending through this outbox. Clones made before still take turns with it.
    pub fn with_outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }

    /// What it sends through.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Brings the signer's transaction that was on its way, if there is one, to its end. To be called before looking at
    /// what is to be done: it may be done already.
    pub async fn resume(
        &self,
        signer: &dyn Signer,
    ) -> Result<Option<TransactionReceipt>, ContractError> {
        let _turn = self.sending.lock().await;
        self.outbox
            .resume(self.chain.as_ref(), signer)
            .await
            .map_err(ContractError::Chain)
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

    async fn read<C: SolCall>(
        &self,
        action: &'static str,
        call: C,
    ) -> Result<C::Return, ContractError> {
        self.read_from(self.deployment.centralizer, action, call)
            .await
    }

    /// Reads what is final; `None` if the contract was not there yet.
    async fn read_final<C: SolCall>(
        &self,
        action: &'static str,
        call: C,
    ) -> Result<Option<C::Return>, ContractError> {
        let call = Call::read(self.deployment.centralizer, call.abi_encode());
        let output = self.chain.call_final(&call).await;
        let output = output.map_err(ContractError::at(action))?;
        if output.is_empty() {
            return Ok(None);
        }
        C::abi_decode_returns(&output)
            .map(Some)
            .map_err(|e| ContractError::Unreadable {
                action,
                reason: e.to_string(),
            })
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
        let receipt = self
            .outbox
            .send(self.chain.as_ref(), signer, transaction)
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
