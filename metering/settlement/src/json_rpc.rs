//! Serves the embedded chain as JSON-RPC, for other processes on the machine and for common wallets.
//!
//! Request bytes in, response bytes out; whoever runs an HTTP server mounts it there.

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::chain::{Call, Chain, ChainError};
use crate::embedded::{EmbeddedBlock, EmbeddedChain, MinedTransaction};
use crate::rpc_format::{BlockTag, RpcCall, RpcFilter, RpcLog, RpcReceipt};

/// Requests in one batch at most.
const MAX_BATCH: usize = 100;
/// Events in one answer at most.
const MAX_LOGS: usize = 10_000;
/// Blocks in one fee history at most.
const MAX_HISTORY: u64 = 1_024;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const SERVER_ERROR: i64 = -32000;
const REVERTED: i64 = 3;

/// Answers one request or a batch. `None` if there is nothing to say, because all of it were notifications.
pub async fn respond(chain: &EmbeddedChain, body: &[u8]) -> Option<Vec<u8>> {
    let answer = match serde_json::from_slice(body) {
        Ok(request) => answer(chain, request).await?,
        Err(e) => failure(Value::Null, &Failure::new(PARSE_ERROR, e.to_string())),
    };
    Some(answer.to_string().into_bytes())
}

/// The same for a request that is parsed already.
pub async fn answer(chain: &EmbeddedChain, request: Value) -> Option<Value> {
    let Value::Array(batch) = request else {
        return answer_one(chain, request).await;
    };
    if batch.is_empty() || batch.len() > MAX_BATCH {
        let reason = format!("a batch holds 1 to {MAX_BATCH} requests");
        return Some(failure(Value::Null, &Failure::new(INVALID_REQUEST, reason)));
    }
    let mut answers = Vec::with_capacity(batch.len());
    for request in batch {
        answers.extend(answer_one(chain, request).await);
    }
    (!answers.is_empty()).then_some(Value::Array(answers))
}

async fn answer_one(chain: &EmbeddedChain, mut request: Value) -> Option<Value> {
    let id = request.get("id").cloned();
    let Some(method) = request.get("method").and_then(Value::as_str) else {
        let wrong = Failure::new(INVALID_REQUEST, "the request names no method".into());
        return Some(failure(id.unwrap_or_default(), &wrong));
    };
    let method = method.to_string();
    let params = match request.get_mut("params").map(Value::take) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(params)) => params,
        Some(_) => {
            let wrong = Failure::new(INVALID_PARAMS, "params should be a list".into());
            return Some(failure(id?, &wrong));
        }
    };
    let result = dispatch(chain, &method, Params(params)).await;
    let id = id?;
    Some(match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(wrong) => failure(id, &wrong),
    })
}

async fn dispatch(chain: &EmbeddedChain, method: &str, params: Params) -> Result<Value, Failure> {
    match method {
        "eth_chainId" => Ok(json!(U64::from(chain.chain_id().await?))),
        "net_version" => Ok(json!(chain.chain_id().await?.to_string())),
        "web3_clientVersion" => Ok(json!(concat!("ipsx-embedded/", env!("CARGO_PKG_VERSION")))),
        "eth_syncing" => Ok(json!(false)),
        "eth_accounts" => Ok(json!([])),
        "eth_blockNumber" => Ok(json!(U64::from(chain.head().await?.number))),
        "eth_getBlockByNumber" => {
            let tag: BlockTag = params.get(0)?;
            let whole: bool = params.optional(1)?.unwrap_or(false);
            Ok(chain
                .block(tag.fixed())
                .map_or(Value::Null, |block| block_json(chain, &block, whole)))
        }
        "eth_call" => Ok(json!(chain.call(&params.call()?).await?)),
        "eth_estimateGas" => Ok(json!(U64::from(chain.estimate_gas(&params.call()?).await?))),
        "eth_gasPrice" => Ok(json!(U64::from(chain.base_fee()))),
        "eth_maxPriorityFeePerGas" => Ok(json!("0x0")),
        "eth_feeHistory" => fee_history(chain, &params).await,
        "eth_getBalance" => Ok(json!(chain.balance(params.get(0)?).await?)),
        "eth_getCode" => Ok(json!(chain.code(params.get(0)?).await?)),
        "eth_getTransactionCount" => {
            let account: Address = params.get(0)?;
            Ok(json!(U64::from(chain.nonce(account).await?)))
        }
        "eth_sendRawTransaction" => {
            let raw: Bytes = params.get(0)?;
            Ok(json!(chain.send_raw_transaction(&raw).await?))
        }
        "eth_getTransactionReceipt" => {
            let hash: B256 = params.get(0)?;
            Ok(chain
                .transaction(hash)
                .map_or(Value::Null, |mined| receipt_json(chain, &mined)))
        }
        "eth_getTransactionByHash" => {
            let hash: B256 = params.get(0)?;
            Ok(chain
                .transaction(hash)
                .map_or(Value::Null, |mined| transaction_json(chain, &mined)))
        }
        "eth_getLogs" => logs(chain, params.get(0)?).await,
        _ => Err(Failure::new(
            METHOD_NOT_FOUND,
            format!("the embedded chain has no method {method}"),
        )),
    }
}

async fn logs(chain: &EmbeddedChain, filter: RpcFilter) -> Result<Value, Failure> {
    let filter = filter.into_filter(chain.head().await?.number);
    let logs = chain.logs(&filter).await?;
    if logs.len() > MAX_LOGS {
        return Err(Failure::new(
            SERVER_ERROR,
            format!("more than {MAX_LOGS} events match; ask for fewer blocks at a time"),
        ));
    }
    let found = logs
        .iter()
        .map(|log| RpcLog::new(log, hash_of(chain, log.block_number)));
    Ok(json!(found.collect::<Vec<_>>()))
}

async fn fee_history(chain: &EmbeddedChain, params: &Params) -> Result<Value, Failure> {
    let newest = chain.head().await?.number;
    let wanted: CountParam = params.get(0)?;
    let last = params.get::<BlockTag>(1)?.number(newest).min(newest);
    let percentiles: Option<Vec<serde::de::IgnoredAny>> = params.optional(2)?;
    let blocks = wanted.get().clamp(1, MAX_HISTORY).min(last + 1);
    let count = usize::try_from(blocks).unwrap_or(usize::MAX);
    let base_fee = U64::from(chain.base_fee());
    Ok(json!({
        "oldestBlock": U64::from(last + 1 - blocks),
        "baseFeePerGas": vec![base_fee; count + 1],
        "gasUsedRatio": vec![0; count],
        "reward": percentiles.map(|list| vec![vec!["0x0"; list.len()]; count]),
    }))
}

fn hash_of(chain: &EmbeddedChain, number: u64) -> Option<B256> {
    chain.block(Some(number)).map(|block| block.hash)
}

fn block_json(chain: &EmbeddedChain, block: &EmbeddedBlock, whole: bool) -> Value {
    let transactions: Vec<Value> = block
        .transaction
        .into_iter()
        .filter_map(|hash| match whole {
            true => chain
                .transaction(hash)
                .map(|mined| transaction_json(chain, &mined)),
            false => Some(json!(hash)),
        })
        .collect();
    json!({
        "number": U64::from(block.number),
        "hash": block.hash,
        "parentHash": block.parent,
        "timestamp": U64::from(block.timestamp.0),
        "baseFeePerGas": U64::from(chain.base_fee()),
        "gasLimit": U64::from(EmbeddedChain::BLOCK_GAS),
        "gasUsed": U64::from(block.gas_used),
        "transactions": transactions,
        "miner": Address::ZERO,
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": "0x",
        "size": "0x0",
        "nonce": "0x0000000000000000",
        "mixHash": B256::ZERO,
        "sha3Uncles": alloy_consensus::EMPTY_OMMER_ROOT_HASH,
        "uncles": [],
        "logsBloom": alloy_primitives::Bloom::ZERO,
        // The embedded chain keeps no tries.
        "stateRoot": B256::ZERO,
        "receiptsRoot": B256::ZERO,
        "transactionsRoot": B256::ZERO,
    })
}

fn receipt_json(chain: &EmbeddedChain, mined: &MinedTransaction) -> Value {
    let block = hash_of(chain, mined.receipt.block_number).unwrap_or_default();
    let kind = mined.envelope.tx_type() as u8;
    json!(RpcReceipt::new(&mined.receipt, block, kind))
}

fn transaction_json(chain: &EmbeddedChain, mined: &MinedTransaction) -> Value {
    let tx = &mined.envelope;
    let parity = U64::from(u64::from(tx.signature().v()));
    let price = U256::from(mined.receipt.effective_gas_price);
    json!({
        "hash": mined.receipt.transaction_hash,
        "type": U64::from(tx.tx_type() as u8),
        "blockNumber": U64::from(mined.receipt.block_number),
        "blockHash": hash_of(chain, mined.receipt.block_number),
        "transactionIndex": "0x0",
        "from": mined.receipt.from,
        "to": tx.to(),
        "nonce": U64::from(tx.nonce()),
        "value": tx.value(),
        "input": tx.input(),
        "gas": U64::from(tx.gas_limit()),
        "gasPrice": price,
        "maxFeePerGas": U256::from(tx.max_fee_per_gas()),
        "maxPriorityFeePerGas": tx.max_priority_fee_per_gas().map(U256::from),
        "chainId": tx.chain_id().map(U64::from),
        "accessList": [],
        "r": tx.signature().r(),
        "s": tx.signature().s(),
        "v": parity,
        "yParity": parity,
    })
}

/// The block count of `eth_feeHistory`: a quantity, or a plain number from some wallets.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum CountParam {
    Quantity(U64),
    Number(u64),
}

impl CountParam {
    fn get(&self) -> u64 {
        match self {
            Self::Quantity(count) => count.to(),
            Self::Number(count) => *count,
        }
    }
}

struct Params(Vec<Value>);

impl Params {
    fn get<T: DeserializeOwned>(&self, index: usize) -> Result<T, Failure> {
        self.optional(index)?
            .ok_or_else(|| Failure::new(INVALID_PARAMS, format!("parameter {index} is missing")))
    }

    fn optional<T: DeserializeOwned>(&self, index: usize) -> Result<Option<T>, Failure> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|e| Failure::new(INVALID_PARAMS, format!("parameter {index}: {e}"))),
        }
    }

    fn call(&self) -> Result<Call, Failure> {
        Ok(self.get::<RpcCall>(0)?.into())
    }
}

struct Failure {
    code: i64,
    message: String,
    data: Option<Bytes>,
}

impl Failure {
    fn new(code: i64, message: String) -> Self {
        Self {
            code,
            message,
            data: None,
        }
    }
}

impl From<ChainError> for Failure {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Reverted { data } => Self {
                code: REVERTED,
                message: "execution reverted".into(),
                data: Some(data),
            },
            ChainError::Rejected { reason } => Self::new(SERVER_ERROR, reason),
            other => Self::new(SERVER_ERROR, other.to_string()),
        }
    }
}

fn failure(id: Value, wrong: &Failure) -> Value {
    let mut error = json!({ "code": wrong.code, "message": wrong.message });
    if let Some(data) = &wrong.data {
        error["data"] = json!(data);
    }
    json!({ "jsonrpc": "2.0", "id": id, "error": error })
}
