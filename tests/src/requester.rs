//! A requester that speaks HTTP to a broker, and can be told to cheat.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ipsx_market::http::{
    BoundDeal, DealView, NetworkInfo, PostRequest, Problem, ProposedDeal, RequestView, Session,
    SessionNonce, SignDeal, SignIn,
};
use ipsx_market::offer::Country;
use ipsx_market::proof::PROBE_HEADER;
use ipsx_market::request::{CounterSource, Filter, Request, SignedRequest, TunnelKey};
use ipsx_market::sign_in;
use ipsx_market::start::StartWindow;
use ipsx_metering::{
    Amount, Authorization, B256, ChannelId, DealId, PricePerGib, PricePerSecond, Prices, RequestId,
    Signed, TypedData, UnixSeconds, Voucher,
};
use ipsx_settlement::{Centralizer, Deployment, RpcChain, Signer, Wallet};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A wallet at a broker, with connections of its own that it keeps.
#[derive(Debug)]
pub struct Requester {
    /// Who asks and pays.
    pub wallet: Wallet,
    /// The session key that signs vouchers.
    pub signer: Wallet,
    /// Its connections.
    pub client: Client<HttpConnector, Full<Bytes>>,
    /// The broker's.
    pub url: String,
    /// What the broker said of its network.
    pub info: NetworkInfo,
    /// Its session's, once it is signed in.
    pub token: Option<String>,
    /// Of the latest request.
    pub nonce: u64,
    /// The probe that it asks for.
    pub probe: Option<B256>,
}

impl Requester {
    /// Not signed in.
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

    /// The same, whose connections come from this address.
    pub fn from(mut self, address: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_local_address(Some(address.parse().unwrap()));
        self.client = Client::builder(TokioExecutor::new()).build(connector);
        self
    }

    /// What a broker says of its network.
    pub async fn network(http: SocketAddr) -> NetworkInfo {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let uri = format!("http://{http}/v1/network").parse().unwrap();
        let answer = client.get(uri).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    /// Deposits some of what the wallet has on the embedded chain, over the broker's JSON-RPC.
    pub async fn deposit(&self, amount: u128) {
        let chain = RpcChain::new(&format!("{}{}", self.url, self.info.chain_rpc)).unwrap();
        let deployment = Deployment {
            chain_id: self.info.domain.chain_id,
            token: self.info.token,
            centralizer: self.info.domain.contract,
        };
        let contract = Centralizer::connect(Arc::new(chain), deployment).await;
        let (contract, owner) = (contract.unwrap(), self.wallet.address());
        let network = self.info.network;
        let paid = contract.deposit(&self.wallet, network, owner, Amount(amount));
        paid.await.unwrap();
    }

    /// Opens a session.
    pub async fn sign_in(&mut self) {
        let body = self.sign_in_body().await;
        let session: Session = self.post("/v1/session", &body).await.unwrap();
        self.token = Some(session.token);
    }

    /// What opens a session.
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
            max_prices: Prices {
                per_second: PricePerSecond(Amount(2_000)),
                per_gib: PricePerGib(Amount(1_000_000)),
            },
            budget: Amount(100_000),
            seconds: 60,
            start: StartWindow::NOW,
            expected_bytes: 0,
            payer: self.wallet.address(),
            payer_signer: self.signer.address(),
            channel_salt: B256::ZERO,
            tunnel_key: TunnelKey(B256::repeat_byte(9)),
            counter_source: CounterSource::Both,
            expires_at: now().after(60),
            rest_until: UnixSeconds(0),
            bundle: Default::default(),
        }
    }

    /// Posts a request.
    pub async fn ask(&self, request: Request) -> Result<ProposedDeal, Problem> {
        self.post("/v1/requests", &self.posted(request)).await
    }

    /// Posts a request that finds no offer, to rest for so many seconds.
    pub async fn rest(&mut self, country: &str, seconds: u64) -> Result<RequestView, Problem> {
        let mut request = self.request(country);
        request.rest_until = now().after(seconds);
        self.rest_as(request).await
    }

    /// Posts a request that rests.
    pub async fn rest_as(&self, request: Request) -> Result<RequestView, Problem> {
        self.post("/v1/requests", &self.posted(request)).await
    }

    /// A request as it is posted.
    pub fn posted(&self, request: Request) -> PostRequest {
        let (wallet, key) = (self.wallet.key(), self.signer.key());
        let request = SignedRequest::sign(request, &self.info.domain, wallet, key);
        PostRequest { request }
    }

    /// A resting request as the broker has it.
    pub async fn resting(&self, id: RequestId, query: &str) -> Result<RequestView, Problem> {
        self.get(&format!("/v1/requests/{id}{query}")).await
    }

    /// Takes a resting request back.
    pub async fn cancel(&self, id: RequestId) -> Result<RequestView, Problem> {
        let path = format!("/v1/requests/{id}");
        let (status, body) = self.exchange(Method::DELETE, &path, Vec::new()).await;
        read(status, &body)
    }

    /// Lets the session key sign for two days.
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

    /// What binds a deal.
    pub fn signature(&self, proposed: &ProposedDeal) -> SignDeal {
        let hash = proposed.deal.signing_hash(&self.info.domain);
        SignDeal {
            signature: self.wallet.sign_hash(hash),
            authorization: Some(self.authorization(0)),
            prepaid: None,
        }
    }

    /// Posts the signature of a deal.
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

    /// A voucher of the session key.
    pub fn voucher(&self, channel_id: ChannelId, cumulative: u128) -> Signed<Voucher> {
        let message = Voucher {
            channel_id,
            cumulative: Amount(cumulative),
            receipt_hash: B256::ZERO,
        };
        Signed::sign(message, &self.info.domain, self.signer.key())
    }

    /// A deal as the broker has it.
    pub async fn deal(&self, id: DealId, query: &str) -> Result<DealView, Problem> {
        self.get(&format!("/v1/deals/{id}{query}")).await
    }

    /// All deals, newest first.
    pub async fn deals(&self) -> Vec<DealView> {
        let (mut deals, mut next) = (Vec::new(), Some("/v1/deals?limit=200".to_owned()));
        while let Some(path) = next {
            let token = self.token.as_ref().unwrap();
            let request = hyper::Request::get(format!("{}{path}", self.url))
                .header("authorization", format!("Bearer {token}"))
                .body(Full::default())
                .unwrap();
            let response = self.client.request(request).await.unwrap();
            let link = response.headers().get("link");
            let link = link.and_then(|link| link.to_str().ok()?.strip_prefix('<'));
            next = link.and_then(|link| Some(link.split_once('>')?.0.to_owned()));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            deals.extend(serde_json::from_slice::<Vec<DealView>>(&body).unwrap());
        }
        deals
    }

    /// Asks for something.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        let (status, body) = self.exchange(Method::GET, path, Vec::new()).await;
        read(status, &body)
    }

    /// Posts something.
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

    /// Asks anything; status and body.
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
    let nothing: &[u8] = b"null";
    let text = if body.is_empty() { nothing } else { body };
    Ok(serde_json::from_slice(text).unwrap())
}

/// The clock that the broker has, too.
pub fn now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(since.unwrap().as_secs())
}
