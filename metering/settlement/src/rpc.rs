//! A node over JSON-RPC and HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use ipsx_metering::UnixSeconds;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;

use crate::chain::{Call, Chain, ChainError, Fees, Head, Log, LogFilter, TransactionReceipt};
use crate::connector::Connector;
use crate::rpc_format::{RpcCall, RpcFilter, RpcLog, RpcReceipt};

const TIMEOUT: Duration = Duration::from_secs(15);
/// Blocks on top of one that is taken for final, unless it is set: a few minutes on the main chain.
pub const FINALITY: u64 = 12;
/// Longer answers are taken for a broken or hostile node.
const MAX_ANSWER: usize = 64 << 20;

type Http = Client<HttpsConnector<Connector>, Full<hyper::body::Bytes>>;

/// Any EVM node that speaks JSON-RPC over HTTP or HTTPS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RpcChain {
    http: Http,
    url: Url,
    /// The URL without its path and credentials: keys stay out of messages.
    endpoint: String,
    timeout: Duration,
    finality: u64,
    next_id: Arc<AtomicU64>,
}

impl RpcChain {
    /// Prepares requests to a node; does not connect yet.
    pub fn new(url: &str) -> Result<Self, ChainError> {
        Self::via(url, Connector::default())
    }

    /// The same, with connections opened by `connector`.
    pub fn via(url: &str, connector: Connector) -> Result<Self, ChainError> {
        let unusable = |reason: &str| ChainError::Endpoint {
            endpoint: url.to_string(),
            reason: reason.to_string(),
        };
        let parsed = Url::parse(url).map_err(|e| unusable(&e.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(unusable("it should start with http:// or https://"));
        }
        let endpoint = match (parsed.host_str(), parsed.port_or_known_default()) {
            (Some(host), Some(port)) => format!("{}://{host}:{port}", parsed.scheme()),
            _ => return Err(unusable("it names no host")),
        };
        Ok(Self {
            http: client(&parsed, connector).map_err(|e| unusable(&e.to_string()))?,
            url: parsed,
            endpoint,
            timeout: TIMEOUT,
            finality: FINALITY,
            next_id: Arc::default(),
        })
    }

    /// Gives up on an answer after this long instead of 15 s.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Takes a block for final with this many on top of it, instead of [`FINALITY`].
    pub fn with_finality(mut self, blocks: u64) -> Self {
        self.finality = blocks;
        self
    }

    /// Sends any request that [`Chain`] has no method for, such as a test node's own ones.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, ChainError> {
        let malformed = |reason: String| ChainError::Malformed {
            method: method.into(),
            reason,
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let exchange = self.exchange(request.to_string());
        let answer = tokio::time::timeout(self.timeout, exchange)
            .await
            .map_err(|_| self.unreachable(format!("nothing came within {:?}", self.timeout)))??;
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|e| malformed(e.to_string()))?;
        if let Some(refusal) = answer.error {
            return Err(refusal.into());
        }
        if answer.id != id {
            return Err(malformed(format!("it answers request {}", answer.id)));
        }
        serde_json::from_value(answer.result).map_err(|e| malformed(e.to_string()))
    }

    /// Sends one request and returns the body of what came back, whatever its status.
    async fn exchange(&self, body: String) -> Result<hyper::body::Bytes, ChainError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.as_str())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .map_err(|e| self.unreachable(causes(&e)))?;
        let response = self
            .http
            .request(request)
            .await
            .map_err(|e| self.unreachable(causes(&e)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| self.unreachable(causes(e.as_ref())))?
            .to_bytes();
        // Some nodes send JSON-RPC errors with an error status.
        if !status.is_success() && serde_json::from_slice::<Answer>(&body).is_err() {
            return Err(self.unreachable(format!("it answered {status}")));
        }
        Ok(body)
    }

    fn unreachable(&self, reason: String) -> ChainError {
        ChainError::Unreachable {
            endpoint: self.endpoint.clone(),
            reason,
        }
    }

    async fn latest(&self) -> Result<RpcBlock, ChainError> {
        self.request("eth_getBlockByNumber", json!(["latest", false]))
            .await
    }

    /// Number of the newest block that is taken for final.
    async fn final_number(&self) -> Result<U64, ChainError> {
        let head = self.latest().await?.number.to::<u64>();
        Ok(U64::from(head.saturating_sub(self.finality)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RpcBlock {
    number: U64,
    timestamp: U64,
    base_fee_per_gas: Option<U256>,
}

/// A JSON-RPC response.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    result: Value,
    error: Option<NodeError>,
}

#[derive(Deserialize)]
struct NodeError {
    code: i64,
    message: String,
    #[serde(default)]
    data: Value,
}

impl From<NodeError> for ChainError {
    fn from(error: NodeError) -> Self {
        // Code 3 is a revert; nodes that do not use it say so in words. The contract's data is in one of two places.
        if error.code != 3 && !error.message.contains("revert") {
            return Self::Rejected {
                reason: error.message,
            };
        }
        let data = match &error.data {
            Value::Object(object) => object.get("data").and_then(Value::as_str),
            other => other.as_str(),
        };
        let data = data.and_then(|text| text.parse().ok()).unwrap_or_default();
        Self::Reverted { data }
    }
}

/// An HTTP client for a URL. The system's certificates are read only where they are needed.
fn client(url: &Url, connector: Connector) -> std::io::Result<Http> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = HttpsConnectorBuilder::new();
    let https = if url.scheme() == "https" {
        builder
            .with_provider_and_native_roots(Arc::unwrap_or_clone(provider))?
            .https_only()
            .enable_http1()
            .wrap_connector(connector)
    } else {
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector)
    };
    Ok(Client::builder(TokioExecutor::new()).build(https))
}

/// An error with its causes, on one line: the transport's own text leaves out what went wrong.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let line = next.to_string();
        if !text.ends_with(&line) {
            text = format!("{text}: {line}");
        }
        cause = next.source();
    }
    text
}

#[async_trait]
impl Chain for RpcChain {
    async fn chain_id(&self) -> Result<u64, ChainError> {
        let id: U64 = self.request("eth_chainId", json!([])).await?;
        Ok(id.to())
    }

    async fn head(&self) -> Result<Head, ChainError> {
        let block = self.latest().await?;
        Ok(Head {
            number: block.number.to(),
            timestamp: UnixSeconds(block.timestamp.to()),
        })
    }

    async fn call(&self, call: &Call) -> Result<Bytes, ChainError> {
        let params = json!([RpcCall::from(call), "latest"]);
        self.request("eth_call", params).await
    }

    async fn call_final(&self, call: &Call) -> Result<Bytes, ChainError> {
        let block = self.final_number().await?;
        self.request("eth_call", json!([RpcCall::from(call), block]))
            .await
    }

    async fn final_time(&self) -> Result<UnixSeconds, ChainError> {
        let number = self.final_number().await?;
        let block: RpcBlock = self
            .request("eth_getBlockByNumber", json!([number, false]))
            .await?;
        Ok(UnixSeconds(block.timestamp.to()))
    }

    async fn estimate_gas(&self, call: &Call) -> Result<u64, ChainError> {
        let gas: U64 = self
            .request("eth_estimateGas", json!([RpcCall::from(call)]))
            .await?;
        Ok(gas.to())
    }

    async fn fees(&self) -> Result<Fees, ChainError> {
        let base = self.latest().await?.base_fee_per_gas.unwrap_or_default();
        let tip: U256 = self.request("eth_maxPriorityFeePerGas", json!([])).await?;
        let tip: u128 = tip.saturating_to();
        Ok(Fees {
            // Six full blocks in a row double the base fee.
            max_fee_per_gas: (base.saturating_to::<u128>())
                .saturating_mul(2)
                .saturating_add(tip),
            max_priority_fee_per_gas: tip,
        })
    }

    async fn nonce(&self, account: Address) -> Result<u64, ChainError> {
        let nonce: U64 = self
            .request("eth_getTransactionCount", json!([account, "pending"]))
            .await?;
        Ok(nonce.to())
    }

    async fn mined_nonce(&self, account: Address) -> Result<u64, ChainError> {
        let nonce: U64 = self
            .request("eth_getTransactionCount", json!([account, "latest"]))
            .await?;
        Ok(nonce.to())
    }

    async fn balance(&self, account: Address) -> Result<U256, ChainError> {
        self.request("eth_getBalance", json!([account, "latest"]))
            .await
    }

    async fn code(&self, account: Address) -> Result<Bytes, ChainError> {
        self.request("eth_getCode", json!([account, "latest"]))
            .await
    }

    async fn send_raw_transaction(&self, raw: &[u8]) -> Result<B256, ChainError> {
        let raw = Bytes::copy_from_slice(raw);
        self.request("eth_sendRawTransaction", json!([raw])).await
    }

    async fn receipt(&self, transaction: B256) -> Result<Option<TransactionReceipt>, ChainError> {
        let receipt: Option<RpcReceipt> = self
            .request("eth_getTransactionReceipt", json!([transaction]))
            .await?;
        Ok(receipt.map(TransactionReceipt::from))
    }

    async fn logs(&self, filter: &LogFilter) -> Result<Vec<Log>, ChainError> {
        let logs: Vec<RpcLog> = self
            .request("eth_getLogs", json!([RpcFilter::from(filter)]))
            .await?;
        Ok(logs.into_iter().map(Log::from).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn unusable_urls_are_named() {
        for url in ["", "localhost:8545", "ftp://a", "http://"] {
            assert!(matches!(
                RpcChain::new(url),
                Err(ChainError::Endpoint { .. })
            ));
        }
        assert!(RpcChain::new("http://127.0.0.1:8545/key").is_ok());
        // Only a machine without any certificates can't talk TLS.
        assert!(matches!(
            RpcChain::new("https://node.example"),
            Ok(_) | Err(ChainError::Endpoint { .. })
        ));
    }

    #[tokio::test]
    async fn a_node_that_is_down_or_silent_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/secret", listener.local_addr().unwrap());
        let silent = RpcChain::new(&url)
            .unwrap()
            .with_timeout(Duration::from_millis(200));
        let error = silent.chain_id().await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable { .. }));
        assert!(!error.to_string().contains("secret"));
        drop(listener);
        let down = RpcChain::new(&url).unwrap();
        let error = down.chain_id().await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn reverts_are_told_from_other_refusals() {
        let error =
            |answer: Value| ChainError::from(serde_json::from_value::<NodeError>(answer).unwrap());
        let reverted = error(json!({"code": 3, "message": "execution reverted", "data": "0x1234"}));
        assert!(matches!(reverted, ChainError::Reverted { data } if data.as_ref() == [0x12, 0x34]));
        let nested =
            error(json!({"code": -32000, "message": "reverted", "data": {"data": "0x12"}}));
        assert!(matches!(nested, ChainError::Reverted { data } if data.as_ref() == [0x12]));
        let other = error(json!({"code": -32000, "message": "nonce too low"}));
        assert!(matches!(other, ChainError::Rejected { reason } if reason == "nonce too low"));
    }
}
