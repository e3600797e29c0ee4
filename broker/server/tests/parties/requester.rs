//! A requester that speaks HTTP, and can be told to cheat.

use std::net::SocketAddr;
use std::str::FromStr;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ipsx_market::http::{
    BoundDeal, DealView, NetworkInfo, PostRequest, Problem, ProposedDeal, Session, SessionNonce,
    SignDeal, SignIn,
};
use ipsx_market::offer::Country;
use ipsx_market::proof::PROBE_HEADER;
use ipsx_market::request::{CounterSource, Filter, Request, SignedRequest, TunnelKey};
use ipsx_market::sign_in;
use ipsx_metering::{Amount, Authorization, B256, ChannelId, DealId, Signed, TypedData, Voucher};
use ipsx_settlement::{Signer, Wallet};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::TestBroker;
use super::agent::now;

pub struct TestRequester {
    pub wallet: Wallet,
    pub signer: Wallet,
    pub client: Client<HttpConnector, Full<Bytes>>,
    pub url: String,
    pub info: NetworkInfo,
    pub token: Option<String>,
    pub nonce: u64,
    /// The probe that it asks for.
    pub probe: Option<B256>,
}

impl TestRequester {
    /// Signed in, with `deposit` on the chain.
    pub async fn with_deposit(broker: &TestBroker, deposit: u128) -> Self {
        let mut requester = Self::stranger(broker);
        requester.sign_in().await;
        if deposit > 0 {
            requester.deposit(broker, deposit).await;
        }
        requester
    }

    /// Not signed in, without money.
    pub fn stranger(broker: &TestBroker) -> Self {
        let info = broker.broker.network_info().clone();
        Self::at(Wallet::random(), broker.broker.http_addr(), info)
    }

    pub fn at(wallet: Wallet, http: SocketAddr, info: NetworkInfo) -> Self {
        Self {
            signer: wallet.derive(b"session"),
            wallet,
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: format!("http://{http}"),
            info,
            token: None,
            nonce: 0,
            probe: None,
        }
    }

    pub async fn deposit(&self, broker: &TestBroker, amount: u128) {
        let amount = Amount(amount);
        broker
            .broker
            .grant(self.wallet.address(), amount)
            .await
            .unwrap();
        let contract = broker.broker.centralizer();
        contract
            .deposit(
                &self.wallet,
                self.info.network,
                self.wallet.address(),
                amount,
            )
            .await
            .unwrap();
    }

    pub async fn sign_in(&mut self) {
        let body = self.sign_in_body().await;
        let session: Session = self.post("/v1/session", &body).await.unwrap();
        self.token = Some(session.token);
    }

    pub async fn sign_in_body(&self) -> SignIn {
        let nonce: SessionNonce = self.post("/v1/session/nonce", &()).await.unwrap();
        let chain = self.info.domain.chain_id;
        let text = sign_in::message(self.wallet.address(), &nonce, chain, now()).unwrap();
        sign_in::sign(text, |hash| self.wallet.sign_hash(hash))
    }

    /// A request for a lease of a minute, for 2 units a second at most.
    pub fn request(&mut self, country: &str) -> Request {
        self.nonce += 1;
        Request {
            network: self.info.network,
            requester: self.wallet.address(),
            nonce: self.nonce,
            filter: Filter {
                countries: vec![Country::from_str(country).unwrap()],
                ..Filter::default()
            },
            max_prices: super::prices(2_000, 1_000_000),
            budget: Amount(100_000),
            seconds: 60,
            expected_bytes: 0,
            payer: self.wallet.address(),
            payer_signer: self.signer.address(),
            channel_salt: B256::ZERO,
            tunnel_key: TunnelKey(B256::repeat_byte(9)),
            counter_source: CounterSource::Both,
            expires_at: now().after(60),
        }
    }

    /// The same, whose connections come from this address.
    pub fn from(mut self, address: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_local_address(Some(address.parse().unwrap()));
        self.client = Client::builder(TokioExecutor::new()).build(connector);
        self
    }

    pub async fn ask(&self, request: Request) -> Result<ProposedDeal, Problem> {
        let (wallet, key) = (self.wallet.key(), self.signer.key());
        let request = SignedRequest::sign(request, &self.info.domain, wallet, key);
        self.post("/v1/requests", &PostRequest { request }).await
    }

    pub fn authorization(&self, nonce: u64) -> Signed<Authorization> {
        let message = Authorization {
            network: self.info.network,
            payer: self.wallet.address(),
            signer: self.signer.address(),
            valid_to: now().after(48 * 3_600),
            nonce,
        };
        Signed::sign(message, &self.info.domain, self.wallet.key())
    }

    pub fn signature(&self, proposed: &ProposedDeal) -> SignDeal {
        let hash = proposed.deal.signing_hash(&self.info.domain);
        SignDeal {
            signature: self.wallet.sign_hash(hash),
            authorization: Some(self.authorization(0)),
        }
    }

    pub async fn sign(&self, proposed: &ProposedDeal) -> Result<BoundDeal, Problem> {
        let path = format!("/v1/deals/{}/signature", proposed.deal_id);
        self.post(&path, &self.signature(proposed)).await
    }

    /// Signs; `None` when no answer comes, because the broker was killed.
    pub async fn post_raw(&self, proposed: &ProposedDeal) -> Option<BoundDeal> {
        let body = serde_json::to_vec(&self.signature(proposed)).unwrap();
        let request = hyper::Request::post(format!(
            "{}/v1/deals/{}/signature",
            self.url, proposed.deal_id
        ))
        .header("content-type", "application/json")
        .header(
            "authorization",
            format!("Bearer {}", self.token.as_ref().unwrap()),
        )
        .body(Full::new(Bytes::from(body)))
        .unwrap();
        let response = self.client.request(request).await.ok()?;
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    }

    pub fn voucher(&self, channel_id: ChannelId, cumulative: u128) -> Signed<Voucher> {
        let message = Voucher {
            channel_id,
            cumulative: Amount(cumulative),
            receipt_hash: B256::ZERO,
        };
        Signed::sign(message, &self.info.domain, self.signer.key())
    }

    pub async fn deal(&self, id: DealId, query: &str) -> Result<DealView, Problem> {
        self.get(&format!("/v1/deals/{id}{query}")).await
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        let (status, body) = self.exchange(Method::GET, path, Vec::new()).await;
        read(status, &body)
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Problem> {
        let body = serde_json::to_vec(body).unwrap();
        let (status, body) = self.exchange(Method::POST, path, body).await;
        read(status, &body)
    }

    /// Posts under an idempotency key; status, whether it is a replay, body. `None` when no answer comes.
    pub async fn post_once(
        &self,
        path: &str,
        key: &str,
        body: &impl Serialize,
    ) -> Option<(u16, bool, Bytes)> {
        let request = hyper::Request::post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .header("idempotency-key", format!("\"{key}\""))
            .header(
                "authorization",
                format!("Bearer {}", self.token.as_ref().unwrap()),
            )
            .body(Full::new(Bytes::from(serde_json::to_vec(body).unwrap())))
            .unwrap();
        let response = self.client.request(request).await.ok()?;
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotency-replayed");
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, replayed, body))
    }

    pub async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Bytes) {
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(task) = &self.probe {
            request = request.header(PROBE_HEADER, task.to_string());
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = self.client.request(request).await.unwrap();
        let status = response.status();
        let kind = response.headers().get("content-type").cloned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        if status.is_client_error() || status.is_server_error() {
            assert_eq!(kind.unwrap(), "application/problem+json", "{path}");
        }
        (status, body)
    }
}

fn read<T: DeserializeOwned>(status: StatusCode, body: &[u8]) -> Result<T, Problem> {
    if !status.is_success() {
        let problem: Problem = serde_json::from_slice(body).unwrap();
        assert_eq!(problem.status, status.as_u16());
        return Err(problem);
    }
    let text: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).unwrap()
    };
    Ok(serde_json::from_value(text).unwrap())
}
