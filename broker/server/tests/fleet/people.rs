//! Agents and requesters that go to another broker when theirs is gone, and remember what they were promised.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request as HttpRequest, StatusCode};
use ipsx_market::deal::Binding;
use ipsx_market::http::{BoundDeal, EndDeal, PostRequest, ProposedDeal};
use ipsx_market::messages::{ALPN, BrokerMessage, EndCause, EndReport};
use ipsx_market::request::SignedRequest;
use ipsx_metering::{Amount, B256, DealId, Usage};
use ipsx_settlement::Wallet;
use quinn::{Endpoint, TransportConfig};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::parties::agent::{TestAgent, client_config};
use crate::parties::requester::TestRequester;

/// Leases that each agent lends at once.
pub const LEASES: usize = 2;
const ANSWER: Duration = Duration::from_secs(6);

/// What an agent has seen.
#[derive(Default)]
pub struct Seen {
    /// Leases that go on.
    running: HashSet<DealId>,
    /// Leases that it has heard of: that they are bound, or that they are over already.
    pub bound: HashSet<DealId>,
    /// The most that went on at once.
    pub most: usize,
}

/// An agent that lends until the test ends.
pub async fn lend(brokers: Vec<SocketAddr>, from: String, first: usize, seen: Arc<Mutex<Seen>>) {
    let wallet = [first as u8 + 1; 32];
    for broker in brokers.iter().cycle().skip(first) {
        let wallet = Wallet::from_secret(&wallet).unwrap();
        let talk = converse(wallet, *broker, from.clone(), Arc::clone(&seen));
        // The helpers panic when the connection is lost, which only ends this conversation.
        let _ = tokio::spawn(talk).await;
        sleep(Duration::from_millis(50)).await;
    }
}

async fn converse(wallet: Wallet, broker: SocketAddr, from: String, seen: Arc<Mutex<Seen>>) {
    let mut endpoint = Endpoint::client(format!("{from}:0").parse().unwrap()).unwrap();
    let mut config = client_config(ALPN);
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(Duration::from_secs(1)))
        .max_idle_timeout(Some(Duration::from_secs(2).try_into().unwrap()));
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    let connecting = endpoint.connect(broker, "ipsx-broker").unwrap();
    let connection = timeout(Duration::from_secs(2), connecting).await;
    let connection = connection.expect("it answers").expect("it takes agents");
    let mut agent = TestAgent::shake_hands(wallet, endpoint, connection).await;
    // What the broker knows of and this side does not serve is over; all the rest goes on.
    let running = seen.lock().unwrap().running.clone();
    for id in agent.unfinished.clone() {
        if !running.contains(&id) && seen.lock().unwrap().bound.contains(&id) {
            agent.end(id, EndCause::Completed, None).await;
        }
    }
    let offer = agent.offer(1_000, LEASES as u32);
    let signed = ipsx_metering::Signed::sign(offer.clone(), &agent.domain, agent.wallet.key());
    agent.offers.push(offer);
    agent
        .say(&ipsx_market::messages::AgentMessage::PublishOffer { offer: signed })
        .await;
    loop {
        let message = ipsx_tests::link::hear(&mut agent.recv).await;
        match message.expect("the connection lives") {
            BrokerMessage::Propose { proposal, terms } => {
                agent.accept_proposal(proposal, &terms).await;
            }
            BrokerMessage::DealBound { deal, .. } => {
                {
                    let mut seen = seen.lock().unwrap();
                    let id = deal.id();
                    if seen.bound.insert(id) {
                        seen.running.insert(id);
                    }
                    seen.most = seen.most.max(seen.running.len());
                }
                agent.ready(deal.id()).await;
            }
            BrokerMessage::EndLease { deal_id, .. } => {
                {
                    let mut seen = seen.lock().unwrap();
                    seen.bound.insert(deal_id);
                    seen.running.remove(&deal_id);
                }
                agent.end(deal_id, EndCause::Completed, None).await;
            }
            _ => {}
        }
    }
}

/// What the requesters have seen.
#[derive(Default)]
pub struct Deals {
    /// Bound, by the network's word that they hold.
    pub bound: HashMap<DealId, BoundDeal>,
    /// When one was bound, by country.
    pub times: Vec<(&'static str, Instant)>,
    /// Why requests failed, and how often.
    pub failures: HashMap<String, usize>,
}

/// A requester that leases one address after the other until the test ends.
pub struct Customer {
    pub requester: TestRequester,
    pub brokers: Vec<SocketAddr>,
    pub country: &'static str,
    pub deals: Arc<Mutex<Deals>>,
}

impl Customer {
    pub async fn lease(mut self) {
        let mut turn = 0;
        loop {
            if let Err(failure) = self.once(&mut turn).await {
                self.note(failure);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn note(&self, failure: String) {
        let mut deals = self.deals.lock().unwrap();
        *deals.failures.entry(failure).or_default() += 1;
    }

    async fn once(&mut self, turn: &mut usize) -> Result<(), String> {
        let mut request = self.requester.request(self.country);
        // A channel serves one lease at a time.
        request.channel_salt = B256::left_padding_from(&self.requester.nonce.to_be_bytes());
        let (wallet, key) = (self.requester.wallet.key(), self.requester.signer.key());
        let domain = self.requester.info.domain;
        let request = SignedRequest::sign(request, &domain, wallet, key);
        let body = PostRequest { request };
        let proposed: ProposedDeal = self.ask(turn, "/v1/requests", &body).await?;
        let id = proposed.deal_id;
        let path = format!("/v1/deals/{id}/signature");
        let signature = self.requester.signature(&proposed);
        let mut bound: Result<BoundDeal, String> = Err("never asked".into());
        for _ in 0..8 {
            bound = self.ask(turn, &path, &signature).await;
            match &bound {
                // Said again until there is an answer: it may be bound.
                Err(failure) if failure.starts_with('5') || failure.starts_with("no ") => {
                    sleep(Duration::from_millis(250)).await;
                }
                _ => break,
            }
        }
        let bound = bound?;
        if bound.outcome.message.outcome != Binding::Bound {
            return Err("aborted".into());
        }
        {
            let mut deals = self.deals.lock().unwrap();
            deals.bound.insert(id, bound);
            deals.times.push((self.country, Instant::now()));
        }
        sleep(Duration::from_millis(300)).await;
        let report = EndReport {
            cause: EndCause::RequesterEnded,
            usage: Usage::default(),
            amount: Amount::ZERO,
            voucher: None,
        };
        let path = format!("/v1/deals/{id}/end");
        for _ in 0..20 {
            let ended: Result<Value, String> = self
                .ask(
                    turn,
                    &path,
                    &EndDeal {
                        report: report.clone(),
                    },
                )
                .await;
            if ended.is_ok() {
                break;
            }
            sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    /// Asks a broker, and the next one after a failure.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        turn: &mut usize,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, String> {
        let broker = self.brokers[*turn % self.brokers.len()];
        let answer = timeout(ANSWER, self.post(broker, path, body)).await;
        let (status, body) = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(_) => {
                *turn += 1;
                return Err(format!("no answer to {}", path.rsplit('/').next().unwrap()));
            }
        };
        if status.is_server_error() {
            *turn += 1;
        }
        if !status.is_success() {
            let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
            let detail = problem["detail"].as_str().unwrap_or("?");
            return Err(format!("{} {detail}", status.as_u16()));
        }
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }

    async fn post(
        &self,
        broker: SocketAddr,
        path: &str,
        body: &impl Serialize,
    ) -> Option<(StatusCode, Bytes)> {
        let token = self.requester.token.as_ref().unwrap();
        let request = HttpRequest::builder()
            .method(Method::POST)
            .uri(format!("http://{broker}{path}"))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"))
            .body(Full::new(Bytes::from(serde_json::to_vec(body).unwrap())))
            .unwrap();
        let response = self.requester.client.request(request).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, body))
    }
}
