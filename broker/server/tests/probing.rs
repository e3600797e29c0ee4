//! Offers that are sold only once a probe has seen where they leave from.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use ipsx_broker::Broker;
use ipsx_market::echo::Echo;
use ipsx_market::evidence::TypeRule;
use ipsx_market::http::{OfferView, ProblemKind};
use ipsx_market::messages::BrokerMessage;
use ipsx_market::place::AddressType;
use ipsx_market::proof::{Appeal, ProbeOrder, ProbeOutcome};
use ipsx_metering::{B256, Signed};
use ipsx_settlement::{Signer, Wallet};
use parties::{TestAgent, TestBroker, TestRequester, agent};
use serde_json::Value;

/// A broker that sells nothing unproven.
async fn broker() -> TestBroker {
    TestBroker::start_with(|config| config.proofs.required = true).await
}

/// Whoever asks the broker's operator.
fn operator(broker: &TestBroker) -> TestRequester {
    let info = broker.broker.network_info().clone();
    TestRequester::at(Wallet::random(), broker.broker.admin_addr().unwrap(), info)
}

async fn order(operator: &TestRequester) -> Option<ProbeOrder> {
    operator.post("/probes", &()).await.unwrap()
}

/// What the broker says to whoever asks its echo from this address.
async fn echo(broker: &TestBroker, from: &str, nonce: B256) -> Signed<Echo> {
    let asker = TestRequester::stranger(broker).from(from);
    let path = format!("/v1/echo?nonce={nonce}");
    asker.get(&path).await.unwrap()
}

async fn tell(operator: &TestRequester, task: B256, echo: Signed<Echo>) -> Value {
    let outcome = ProbeOutcome::Seen {
        echo: Box::new(echo),
        latency_ms: Some(12),
        mbit_down: None,
    };
    let path = format!("/probes/{task}");
    operator.post(&path, &outcome).await.unwrap()
}

async fn offers(anybody: &TestRequester) -> Vec<OfferView> {
    anybody.get("/v1/offers").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_for_sale_once_a_probe_has_seen_it_and_stays_so_after_a_restart() {
    let broker = broker().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let mut prober = TestRequester::with_deposit(&broker, 1_000_000).await;
    let mut customer = TestRequester::with_deposit(&broker, 1_000_000).await;
    assert_eq!(offers(&customer).await, []);
    let request = customer.request("FR");
    let refused = customer.ask(request).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NoMatch);

    let operator = operator(&broker);
    let order = order(&operator).await.unwrap();
    assert_eq!(order.provider, agent.wallet.address());
    assert_eq!(self::order(&operator).await, None, "one probe at a time");
    prober.probe = Some(order.task);
    let request = prober.request("FR");
    let (proposed, _) = tokio::join!(prober.ask(request), agent.accept());
    proposed.unwrap();
    let seen = echo(&broker, "127.0.1.1", order.nonce).await;
    assert_eq!(seen.message.seen.to_string(), "127.0.1.1");
    let verdict = tell(&operator, order.task, seen).await;
    assert!(verdict["standing"]["proven"]["until"].is_u64(), "{verdict}");
    let heard = agent.hear().await;
    assert!(
        matches!(heard, BrokerMessage::OfferPlaced { for_sale: true, .. }),
        "{heard:?}"
    );
    let found = offers(&customer).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].placement.measured.latency_ms, Some(12));

    let TestBroker { broker, directory } = broker;
    broker.shutdown().await;
    let mut config = parties::config(directory.path());
    config.proofs.required = true;
    let broker = Broker::start(config).await.unwrap();
    let broker = TestBroker { broker, directory };
    let wallet = agent.wallet;
    let to = broker.broker.agents_addr();
    let mut agent = TestAgent::connect_as(wallet, to, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let anybody = TestRequester::stranger(&broker);
    assert_eq!(offers(&anybody).await.len(), 1, "proven before the restart");
    assert_eq!(self::order(&self::operator(&broker)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_elsewhere_fails_and_its_offer_is_not_sold() {
    let broker = broker().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let mut prober = TestRequester::with_deposit(&broker, 1_000_000).await;
    let operator = operator(&broker);
    let order = order(&operator).await.unwrap();
    prober.probe = Some(order.task);
    let request = prober.request("FR");
    let (proposed, _) = tokio::join!(prober.ask(request), agent.accept());
    proposed.unwrap();
    let seen = echo(&broker, "127.0.2.9", order.nonce).await;
    let verdict = tell(&operator, order.task, seen).await;
    assert_eq!(verdict["standing"]["failing"]["disagreed"], 1, "{verdict}");
    assert_eq!(offers(&prober).await, []);
    let proofs: Value = operator.get("/proofs").await.unwrap();
    let sighting = &proofs[0]["sightings"][0];
    assert_eq!(sighting["disagreement"], "address", "{proofs}");
    assert_eq!(sighting["seen"]["country"], "DE", "{proofs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operators_word_on_this_very_probe_counts() {
    let broker = broker().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let mut prober = TestRequester::with_deposit(&broker, 1_000_000).await;
    let operator = operator(&broker);
    // Without a lease there is no exit to have seen.
    let order = order(&operator).await.unwrap();
    let seen = echo(&broker, "127.0.1.1", order.nonce).await;
    let refused = try_tell(&operator, order.task, seen.clone()).await;
    assert_eq!(refused, 409);
    prober.probe = Some(order.task);
    let request = prober.request("FR");
    let (proposed, _) = tokio::join!(prober.ask(request), agent.accept());
    proposed.unwrap();
    // Signed by somebody who is in the way.
    let forged = Signed::sign(
        seen.message.clone(),
        &prober.info.domain,
        Wallet::random().key(),
    );
    assert_eq!(try_tell(&operator, order.task, forged).await, 400);
    // Said to somebody else.
    let other = echo(&broker, "127.0.1.1", B256::repeat_byte(7)).await;
    assert_eq!(try_tell(&operator, order.task, other).await, 400);
    assert_eq!(offers(&prober).await, []);
    // And once only.
    assert_eq!(try_tell(&operator, order.task, seen.clone()).await, 200);
    assert_eq!(try_tell(&operator, order.task, seen).await, 404);
}

async fn try_tell(operator: &TestRequester, task: B256, echo: Signed<Echo>) -> u16 {
    let outcome = ProbeOutcome::Seen {
        echo: Box::new(echo),
        latency_ms: None,
        mbit_down: None,
    };
    let body = serde_json::to_vec(&outcome).unwrap();
    let path = format!("/probes/{task}");
    let answer = operator.exchange(hyper::Method::POST, &path, body).await;
    answer.0.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_nobody_ordered_gets_no_lease() {
    let broker = broker().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let mut cheat = TestRequester::with_deposit(&broker, 1_000_000).await;
    cheat.probe = Some(B256::repeat_byte(1));
    let request = cheat.request("FR");
    let refused = cheat.ask(request).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ruling_goes_before_the_databases_and_says_why() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let anybody = TestRequester::stranger(&broker);
    let appeal = |provider, address: &str, text: &str| Appeal {
        network: anybody.info.network,
        provider,
        address: address.parse().unwrap(),
        address_type: AddressType::Residential,
        text: text.into(),
        at: agent::now(),
    };
    let own = agent.wallet.address();
    let key = agent.wallet.key();
    let post = async |appeal: Appeal, key| {
        let signed = Signed::sign(appeal, &anybody.info.domain, key);
        let body = serde_json::to_vec(&signed).unwrap();
        let path = "/v1/appeals";
        let answer = anybody.exchange(hyper::Method::POST, path, body).await;
        answer.0.as_u16()
    };
    // Others' words, others' addresses and too many words are not taken.
    let stranger = Wallet::random();
    assert_eq!(
        post(appeal(own, "127.0.1.1", "x"), stranger.key()).await,
        400
    );
    let theirs = appeal(stranger.address(), "127.0.1.1", "x");
    assert_eq!(post(theirs, stranger.key()).await, 404);
    assert_eq!(post(appeal(own, "127.0.1.2", "x"), key).await, 404);
    let long = "x".repeat(1_001);
    assert_eq!(post(appeal(own, "127.0.1.1", &long), key).await, 400);
    assert_eq!(post(appeal(own, "127.0.1.1", "a bill"), key).await, 204);
    assert_eq!(post(appeal(own, "127.0.1.1", "again"), key).await, 409);

    let operator = operator(&broker);
    let path = format!("/proofs?provider={own}");
    let proofs: Value = operator.get(&path).await.unwrap();
    assert_eq!(proofs[0]["appeal"]["message"]["text"], "a bill", "{proofs}");
    let ruling = serde_json::json!({
        "provider": own, "address": "127.0.1.1", "address_type": "residential", "reason": "seen the bill",
    });
    let body = serde_json::to_vec(&ruling).unwrap();
    let ruled = operator.exchange(hyper::Method::POST, "/proofs/ruling", body);
    assert_eq!(ruled.await.0.as_u16(), 204);
    let heard = agent.hear().await;
    let BrokerMessage::OfferPlaced { placement, .. } = heard else {
        panic!("{heard:?}");
    };
    assert_eq!(placement.address_type, Some(AddressType::Residential));
    let found = offers(&anybody).await;
    let evidence = found[0].placement.evidence.clone().unwrap();
    let found = evidence.address_type.unwrap();
    assert_eq!(
        (found.rule, found.found.as_str()),
        (TypeRule::Ruling, "seen the bill")
    );
    assert_eq!(evidence.databases.len(), 1);
}
