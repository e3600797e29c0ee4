//! What the rest of the crate needs of a chain, whoever runs it.

use alloy_primitives::{Address, B256, Bytes, U256};
use async_trait::async_trait;
use ipsx_metering::UnixSeconds;

/// The newest block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Height; the genesis is 0.
    pub number: u64,
    /// The block's time: what the contract compares deadlines with.
    pub timestamp: UnixSeconds,
}

/// What an EIP-1559 transaction offers for gas, in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fees {
    /// The most that is paid per unit of gas.
    pub max_fee_per_gas: u128,
    /// The part of it that goes to the block's builder.
    pub max_priority_fee_per_gas: u128,
}

/// A message to the chain that is executed without a transaction, or whose gas is estimated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Call {
    /// Who asks; the zero address if that does not matter.
    pub from: Address,
    /// The contract, or `None` for a deployment.
    pub to: Option<Address>,
    /// Calldata, or the code of a deployment.
    pub data: Bytes,
    /// Wei sent along.
    pub value: U256,
}

impl Call {
    /// A read of `to`.
    pub fn read(to: Address, data: impl Into<Bytes>) -> Self {
        Self {
            to: Some(to),
            data: data.into(),
            ..Self::default()
        }
    }
}

/// An event that a contract emitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The contract.
    pub address: Address,
    /// The event's signature hash and its indexed fields.
    pub topics: Vec<B256>,
    /// The other fields, ABI encoded.
    pub data: Bytes,
    /// Height of its block.
    pub block_number: u64,
    /// The transaction that emitted it.
    pub transaction_hash: B256,
    /// Place among the block's events.
    pub log_index: u64,
}

/// Which events to return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// First block.
    pub from_block: u64,
    /// Last block; `None` for the newest.
    pub to_block: Option<u64>,
    /// Contracts; empty for all.
    pub addresses: Vec<Address>,
    /// For each topic the values that match; an empty list matches all.
    pub topics: Vec<Vec<B256>>,
}

impl LogFilter {
    /// Whether an event matches; `to_block` must be set apart from the newest block by the caller.
    pub fn matches(&self, log: &Log) -> bool {
        log.block_number >= self.from_block
            && self.to_block.is_none_or(|last| log.block_number <= last)
            && (self.addresses.is_empty() || self.addresses.contains(&log.address))
            && self.topics.iter().enumerate().all(|(place, wanted)| {
                wanted.is_empty()
                    || log
                        .topics
                        .get(place)
                        .is_some_and(|topic| wanted.contains(topic))
            })
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionReceipt {
    /// The transaction.
    pub transaction_hash: B256,
    /// Height of the block that holds it.
    pub block_number: u64,
    /// Who sent it.
    pub from: Address,
    /// Whom it called; `None` for a deployment.
    pub to: Option<Address>,
    /// False if it reverted.
    pub success: bool,
    /// Gas paid for.
    pub gas_used: u64,
    /// Wei paid per unit of gas.
    pub effective_gas_price: u128,
    /// What a deployment created.
    pub contract_address: Option<Address>,
    /// Events, in order.
    pub logs: Vec<Log>,
}

/// The chain did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// No answer from the node.
    #[error(
        "no answer from the chain at {endpoint}: {reason}. Check the URL and that the node runs"
    )]
    Unreachable {
        /// The node's URL.
        endpoint: String,
        /// What the transport said.
        reason: String,
    },
    /// The URL can't be used.
    #[error("{endpoint:?} is no usable chain endpoint: {reason}. Example: http://127.0.0.1:8545")]
    Endpoint {
        /// What was configured.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The contract reverted.
    #[error("the contract refused the call ({} bytes of reason: {data})", data.len())]
    Reverted {
        /// ABI-encoded error, empty when the contract gave none.
        data: Bytes,
    },
    /// The node would not take the call or transaction.
    #[error("the chain rejected the request: {reason}")]
    Rejected {
        /// The node's words.
        reason: String,
    },
    /// The node's answer makes no sense.
    #[error("the chain's answer to {method} is malformed: {reason}")]
    Malformed {
        /// JSON-RPC method.
        method: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A transaction was sent and is not in a block yet.
    #[error(
        "transaction {hash} is not in a block after {seconds} s. It may still be included: look it up before sending it again"
    )]
    NotIncluded {
        /// The transaction.
        hash: B256,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The number went to another transaction of the account.
    #[error(
        "transaction number {nonce} was used for something else: the account is used by another program too. Look at what happened, then ask again"
    )]
    Replaced {
        /// The number.
        nonce: u64,
    },
    /// Gas costs more than is allowed.
    #[error("gas costs {price} wei, more than the allowed {most}. Wait, or allow more")]
    TooExpensive {
        /// Wei for a unit of gas now, tip included.
        price: u128,
        /// What is allowed.
        most: u128,
    },
    /// What is on its way can't be remembered; nothing was sent.
    #[error("can't {action} {}, the note of the transaction on its way: {reason}", path.display())]
    Outbox {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The embedded chain can't write to its journal.
    #[error(transparent)]
    #[cfg(feature = "embedded")]
    Journal(#[from] crate::journal::JournalError),
}

/// A chain: an embedded EVM or a node.
#[async_trait]
pub trait Chain: Send + Sync {
    /// EIP-155 chain id.
    async fn chain_id(&self) -> Result<u64, ChainError>;
    /// The newest block.
    async fn head(&self) -> Result<Head, ChainError>;
    /// Executes a call on the newest state and returns its output; nothing is kept.
    async fn call(&self, call: &Call) -> Result<Bytes, ChainError>;
    /// The same on a state that no reorganisation takes back; no output if the contract was not there yet.
    async fn call_final(&self, call: &Call) -> Result<Bytes, ChainError>;
    /// Time of the newest block that no reorganisation takes back.
    async fn final_time(&self) -> Result<UnixSeconds, ChainError>;
    /// Gas that a transaction with this call needs; [`ChainError::Reverted`] if it can't succeed.
    async fn estimate_gas(&self, call: &Call) -> Result<u64, ChainError>;
    /// What to offer for gas so that a transaction is included soon.
    async fn fees(&self) -> Result<Fees, ChainError>;
    /// The number of an account's next transaction, those waiting included.
    async fn nonce(&self, account: Address) -> Result<u64, ChainError>;
    /// The same without those waiting: how many are in blocks.
    async fn mined_nonce(&self, account: Address) -> Result<u64, ChainError>;
    /// An account's wei.
    async fn balance(&self, account: Address) -> Result<U256, ChainError>;
    /// A contract's code; empty for other accounts.
    async fn code(&self, account: Address) -> Result<Bytes, ChainError>;
    /// Hands over a signed transaction (EIP-2718 encoded) and returns its hash.
    async fn send_raw_transaction(&self, raw: &[u8]) -> Result<B256, ChainError>;
    /// What became of a transaction; `None` while it is in no block.
    async fn receipt(&self, transaction: B256) -> Result<Option<TransactionReceipt>, ChainError>;
    /// Events, oldest first.
    async fn logs(&self, filter: &LogFilter) -> Result<Vec<Log>, ChainError>;
}
