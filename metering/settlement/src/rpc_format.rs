//! The JSON of Ethereum's JSON-RPC, for the client and the server side alike.

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use serde::{Deserialize, Serialize};

use crate::chain::{Call, Log, LogFilter, TransactionReceipt};

/// The parameter of `eth_call` and `eth_estimateGas`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RpcCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Address>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<U256>,
    /// Newer name of `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Bytes>,
}

impl From<&Call> for RpcCall {
    fn from(call: &Call) -> Self {
        Self {
            from: Some(call.from),
            to: call.to,
            value: (!call.value.is_zero()).then_some(call.value),
            input: None,
            data: Some(call.data.clone()),
        }
    }
}

impl From<RpcCall> for Call {
    fn from(call: RpcCall) -> Self {
        Self {
            from: call.from.unwrap_or_default(),
            to: call.to,
            data: call.input.or(call.data).unwrap_or_default(),
            value: call.value.unwrap_or_default(),
        }
    }
}

/// An event, as in receipts and in the answer to `eth_getLogs`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RpcLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    block_number: U64,
    transaction_hash: B256,
    log_index: U64,
    #[serde(default)]
    block_hash: Option<B256>,
    #[serde(default)]
    transaction_index: Option<U64>,
    #[serde(default)]
    removed: bool,
}

#[cfg(feature = "embedded")]
impl RpcLog {
    pub(crate) fn new(log: &Log, block_hash: Option<B256>) -> Self {
        Self {
            address: log.address,
            topics: log.topics.clone(),
            data: log.data.clone(),
            block_number: U64::from(log.block_number),
            transaction_hash: log.transaction_hash,
            log_index: U64::from(log.log_index),
            block_hash,
            transaction_index: Some(U64::ZERO),
            removed: false,
        }
    }
}

impl From<RpcLog> for Log {
    fn from(log: RpcLog) -> Self {
        Self {
            address: log.address,
            topics: log.topics,
            data: log.data,
            block_number: log.block_number.to(),
            transaction_hash: log.transaction_hash,
            log_index: log.log_index.to(),
        }
    }
}

/// The answer to `eth_getTransactionReceipt`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RpcReceipt {
    transaction_hash: B256,
    block_number: U64,
    from: Address,
    to: Option<Address>,
    status: U64,
    gas_used: U64,
    effective_gas_price: U256,
    contract_address: Option<Address>,
    logs: Vec<RpcLog>,
    #[serde(default)]
    block_hash: Option<B256>,
    #[serde(default)]
    transaction_index: Option<U64>,
    #[serde(default)]
    cumulative_gas_used: Option<U64>,
    #[serde(default)]
    logs_bloom: Option<Bytes>,
    #[serde(default, rename = "type")]
    kind: Option<U64>,
}

#[cfg(feature = "embedded")]
impl RpcReceipt {
    pub(crate) fn new(receipt: &TransactionReceipt, block_hash: B256, kind: u8) -> Self {
        let logs = receipt.logs.iter();
        let mut bloom = alloy_primitives::Bloom::ZERO;
        for log in &receipt.logs {
            bloom.accrue_raw_log(log.address, &log.topics);
        }
        Self {
            transaction_hash: receipt.transaction_hash,
            block_number: U64::from(receipt.block_number),
            from: receipt.from,
            to: receipt.to,
            status: U64::from(u64::from(receipt.success)),
            gas_used: U64::from(receipt.gas_used),
            effective_gas_price: U256::from(receipt.effective_gas_price),
            contract_address: receipt.contract_address,
            logs: logs.map(|log| RpcLog::new(log, Some(block_hash))).collect(),
            block_hash: Some(block_hash),
            transaction_index: Some(U64::ZERO),
            cumulative_gas_used: Some(U64::from(receipt.gas_used)),
            logs_bloom: Some(Bytes::copy_from_slice(bloom.as_slice())),
            kind: Some(U64::from(kind)),
        }
    }
}

impl From<RpcReceipt> for TransactionReceipt {
    fn from(receipt: RpcReceipt) -> Self {
        Self {
            transaction_hash: receipt.transaction_hash,
            block_number: receipt.block_number.to(),
            from: receipt.from,
            to: receipt.to,
            success: receipt.status == U64::from(1),
            gas_used: receipt.gas_used.to(),
            effective_gas_price: receipt.effective_gas_price.saturating_to(),
            contract_address: receipt.contract_address,
            logs: receipt.logs.into_iter().map(Log::from).collect(),
        }
    }
}

/// One value or a list of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

#[cfg(feature = "embedded")]
impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// The parameter of `eth_getLogs`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RpcFilter {
    from_block: Option<BlockTag>,
    to_block: Option<BlockTag>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<OneOrMany<Address>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<Option<OneOrMany<B256>>>>,
}

impl From<&LogFilter> for RpcFilter {
    fn from(filter: &LogFilter) -> Self {
        let many =
            |values: &Vec<B256>| (!values.is_empty()).then(|| OneOrMany::Many(values.clone()));
        Self {
            from_block: Some(BlockTag::Number(U64::from(filter.from_block))),
            to_block: Some(match filter.to_block {
                Some(number) => BlockTag::Number(U64::from(number)),
                None => BlockTag::Name("latest".into()),
            }),
            address: (!filter.addresses.is_empty())
                .then(|| OneOrMany::Many(filter.addresses.clone())),
            topics: (!filter.topics.is_empty()).then(|| filter.topics.iter().map(many).collect()),
        }
    }
}

#[cfg(feature = "embedded")]
impl RpcFilter {
    /// The filter on a chain whose newest block is `newest`.
    pub(crate) fn into_filter(self, newest: u64) -> LogFilter {
        let topics = self.topics.unwrap_or_default();
        LogFilter {
            from_block: self.from_block.map_or(newest, |tag| tag.number(newest)),
            to_block: self.to_block.map(|tag| tag.number(newest)),
            addresses: self.address.map(OneOrMany::into_vec).unwrap_or_default(),
            topics: topics
                .into_iter()
                .map(|topic| topic.map(OneOrMany::into_vec).unwrap_or_default())
                .collect(),
        }
    }
}

/// A block, by its height or as `latest`, `earliest` and so on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum BlockTag {
    Number(U64),
    Name(String),
}

#[cfg(feature = "embedded")]
impl BlockTag {
    /// The height; every name but `earliest` means the newest block.
    pub(crate) fn number(&self, newest: u64) -> u64 {
        match self {
            Self::Number(number) => number.to(),
            Self::Name(name) if name == "earliest" => 0,
            Self::Name(_) => newest,
        }
    }

    /// The height, or `None` for the newest block by name.
    pub(crate) fn fixed(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number.to()),
            Self::Name(name) if name == "earliest" => Some(0),
            Self::Name(_) => None,
        }
    }
}
