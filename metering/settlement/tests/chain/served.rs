//! The embedded chain behind a real HTTP server, as the broker mounts it.

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use ipsx_settlement::{EmbeddedChain, RpcChain, json_rpc};
use serde_json::{Value, json};

use crate::world::{People, manual_clock};

pub(crate) struct Server {
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(chain: EmbeddedChain) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/rpc", listener.local_addr().unwrap());
        let answer = move |body: Bytes| {
            let chain = chain.clone();
            async move { json_rpc::respond(&chain, &body).await.unwrap_or_default() }
        };
        let app = Router::new().route("/rpc", post(answer));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, task }
    }

    pub(crate) fn client(&self) -> RpcChain {
        RpcChain::new(&self.url).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask(chain: &EmbeddedChain, request: Value) -> Value {
    json_rpc::answer(chain, request).await.unwrap()
}

fn chain() -> EmbeddedChain {
    let (_, clock) = manual_clock();
    let genesis = ipsx_settlement::Genesis::funding(People::new().addresses());
    EmbeddedChain::in_memory(genesis, clock)
}

#[tokio::test]
async fn wallets_find_what_they_ask_for() {
    let chain = chain();
    for (method, params) in [
        ("eth_chainId", json!([])),
        ("net_version", json!([])),
        ("eth_blockNumber", json!([])),
        ("eth_gasPrice", json!([])),
        ("eth_maxPriorityFeePerGas", json!([])),
        ("eth_getBlockByNumber", json!(["latest", false])),
        ("eth_getBlockByNumber", json!(["0x0", true])),
        ("eth_feeHistory", json!(["0x4", "latest", [10, 50]])),
        ("eth_feeHistory", json!([4, "latest", null])),
        ("eth_getLogs", json!([{ "fromBlock": "earliest" }])),
    ] {
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let answer = ask(&chain, request).await;
        assert_eq!(answer["id"], 7, "{method}: {answer}");
        assert!(!answer["result"].is_null(), "{method}: {answer}");
    }
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let chain = chain();
    for (request, code) in [
        (json!({ "id": 1 }), -32600),
        (json!({ "id": 1, "method": "eth_mine" }), -32601),
        (json!({ "id": 1, "method": "eth_getBalance" }), -32602),
        (
            json!({ "id": 1, "method": "eth_getBalance", "params": ["0x12"] }),
            -32602,
        ),
        (
            json!({ "id": 1, "method": "eth_getBalance", "params": {} }),
            -32602,
        ),
        (
            json!({ "id": 1, "method": "eth_sendRawTransaction", "params": ["0x12"] }),
            -32000,
        ),
        (json!([]), -32600),
        (json!(vec![json!({ "id": 1 }); 101]), -32600),
    ] {
        let answer = ask(&chain, request.clone()).await;
        assert_eq!(answer["error"]["code"], code, "{request}: {answer}");
    }
    let garbage = json_rpc::respond(&chain, b"{").await.unwrap();
    let garbage: Value = serde_json::from_slice(&garbage).unwrap();
    assert_eq!(garbage["error"]["code"], -32700);
}

#[tokio::test]
async fn batches_are_answered_in_order_and_notifications_not_at_all() {
    let chain = chain();
    let note = json!({ "method": "eth_chainId" });
    let batch = json!([
        { "id": "a", "method": "eth_chainId" }, note, { "id": "b", "method": "eth_nothing" }
    ]);
    let answers = ask(&chain, batch).await;
    assert_eq!(answers.as_array().unwrap().len(), 2);
    assert_eq!(answers[0]["id"], "a");
    assert_eq!(answers[1]["error"]["code"], -32601);
    assert!(json_rpc::answer(&chain, note).await.is_none());
}
