//! Offers that are sold only once a probe has seen where they leave from.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use hyper::Method;
use ipsx_broker::BrokerConfig;
use ipsx_market::echo::Echo;
use ipsx_market::evidence::TypeRule;
use ipsx_market::http::{OfferView, ProblemKind};
use ipsx_market::messages::BrokerMessage;
use ipsx_market::place::AddressType;
use ipsx_market::proof::{Appeal, Disagreement, ProbeOrder, ProbeOutcome, Timed, Withheld};
use ipsx_metering::{B256, Signed};
use ipsx_settlement::{Signer, Wallet};
use ipsx_tests::postgres::Server;
use parties::program::Program;
use parties::{TestAgent, TestBroker, TestRequester};
use serde_json::Value;

/// Where the agent is seen.
const HERE: &str = "127.0.1.1";
/// In another country.
const ELSEWHERE: &str = "127.0.2.9";

/// A broker, an agent with an offer of one lease, and a prober with money.
struct Scene {
    broker: TestBroker,
    agent: TestAgent,
    prober: TestRequester,
    operator: TestRequester,
}

/// Nothing unproven is sold.
fn required(config: &mut BrokerConfig) {
    config.proofs.required = true;
}

/// Whoever asks the broker's operator.
fn operator(broker: &TestBroker) -> TestRequester {
    let info = broker.broker.network_info().clone();
    TestRequester::at(Wallet::random(), broker.broker.admin_addr().unwrap(), info)
}

impl Scene {
    async fn new(change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let broker = TestBroker::start_with(change).await;
        let mut agent = TestAgent::connect(&broker, HERE).await;
        let offer = agent.offer(1_000, 1);
        agent.publish(offer).await;
        Self {
            prober: TestRequester::with_deposit(&broker, 1_000_000).await,
            operator: operator(&broker),
            agent,
            broker,
        }
    }

    /// The probe that is due.
    async fn order(&self) -> Option<ProbeOrder> {
        self.operator.post("/probes", &()).await.unwrap()
    }

    /// Asks for a lease for a probe; the agent signs it.
    async fn lease(&mut self, task: B256) {
        self.prober.probe = Some(task);
        let request = self.prober.request("FR");
        let (proposed, _) = tokio::join!(self.prober.ask(request), self.agent.accept());
        proposed.unwrap();
    }

    /// A probe that is due, and has its lease.
    async fn leased(&mut self) -> ProbeOrder {
        let order = self.order().await.unwrap();
        self.lease(order.task).await;
        order
    }

    /// What the broker says to whoever asks its echo from this address.
    async fn echo(&self, from: &str, nonce: B256) -> Signed<Echo> {
        let asker = TestRequester::stranger(&self.broker).from(from);
        let path = format!("/v1/echo?nonce={nonce}");
        asker.get(&path).await.unwrap()
    }

    async fn tell(&self, task: B256, outcome: &ProbeOutcome) -> (u16, Value) {
        let (path, body) = (format!("/probes/{task}"), serde_json::to_vec(outcome));
        let answer = self.operator.exchange(Method::POST, &path, body.unwrap());
        let (status, body) = answer.await;
        (status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    async fn tell_seen(&self, task: B256, echo: Signed<Echo>) -> (u16, Value) {
        let outcome = ProbeOutcome::Seen {
            echo: Box::new(echo),
            timed: Timed {
                latency_ms: Some(12),
                mbit_up: Some(20),
                mbit_down: Some(40),
            },
        };
        self.tell(task, &outcome).await
    }

    /// A whole probe, whose traffic leaves from this address; where that leaves the agent's.
    async fn probe(&mut self, from: &str) -> Value {
        let order = self.leased().await;
        let seen = self.echo(from, order.nonce).await;
        let (status, verdict) = self.tell_seen(order.task, seen).await;
        assert_eq!(status, 200, "{verdict}");
        verdict["standing"].clone()
    }

    /// What the agent is told next of its offer.
    async fn told(&mut self) -> Option<Withheld> {
        match self.agent.hear().await {
            BrokerMessage::OfferPlaced { withheld, .. } => withheld,
            other => panic!("{other:?}"),
        }
    }

    async fn for_sale(&self) -> Vec<OfferView> {
        let anybody = TestRequester::stranger(&self.broker);
        anybody.get("/v1/offers").await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_for_sale_once_a_probe_has_seen_it() {
    let mut scene = Scene::new(required).await;
    assert_eq!(scene.for_sale().await, []);
    let mut customer = TestRequester::with_deposit(&scene.broker, 1_000_000).await;
    let request = customer.request("FR");
    let refused = customer.ask(request).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NoMatch);

    let order = scene.leased().await;
    assert_eq!(order.provider, scene.agent.wallet.address());
    assert_eq!(scene.order().await, None, "one probe at a time");
    let seen = scene.echo(HERE, order.nonce).await;
    assert_eq!(seen.message.seen.to_string(), HERE);
    let (_, verdict) = scene.tell_seen(order.task, seen).await;
    assert!(verdict["standing"]["proven"]["until"].is_u64(), "{verdict}");
    assert_eq!(scene.told().await, None);
    let found = scene.for_sale().await;
    assert_eq!(found.len(), 1);
    let measured = found[0].placement.measured;
    assert_eq!(measured.latency_ms, Some(12));
    assert_eq!((measured.mbit_up, measured.mbit_down), (Some(20), Some(40)));
    // What was measured is what can be asked for.
    for (query, count) in [
        ("max_latency_ms=12", 1),
        ("max_latency_ms=11", 0),
        ("mbit_up=20&mbit_down=40", 1),
        ("mbit_up=21", 0),
        ("mbit_down=41", 0),
    ] {
        let path = format!("/v1/offers?{query}");
        let found: Vec<OfferView> = customer.get(&path).await.unwrap();
        assert_eq!(found.len(), count, "{query}");
    }
}

/// The broker is killed while a probe is under way, and right after it was told what one saw.
async fn outlives_kills(store: &[String]) {
    let directory = tempfile::TempDir::new().unwrap();
    let funded = || Wallet::from_secret(&[0x78; 32]).unwrap();
    let selling = || Wallet::from_secret(&[0x79; 32]).unwrap();
    let mut options: Vec<String> = vec!["--fund".into(), format!("{}=1000", funded().address())];
    options.extend(["--prove", "required"].map(String::from));
    options.extend_from_slice(store);
    let agent = async |program: &Program| {
        let mut agent = TestAgent::connect_as(selling(), program.agents, HERE).await;
        agent.publish(agent.offer(1_000, 4)).await;
        agent
    };
    let operator = async |program: &Program| {
        let info = program.network().await;
        TestRequester::at(Wallet::random(), program.admin.unwrap(), info)
    };
    let order = async |operator: &TestRequester| -> Option<ProbeOrder> {
        operator.post("/probes", &()).await.unwrap()
    };
    let seen = async |program: &Program, order: &ProbeOrder| {
        let info = program.network().await;
        let asker = TestRequester::at(Wallet::random(), program.http, info).from(HERE);
        let path = format!("/v1/echo?nonce={}", order.nonce);
        ProbeOutcome::Seen {
            echo: Box::new(asker.get(&path).await.unwrap()),
            timed: Timed::default(),
        }
    };
    let tell = async |operator: &TestRequester, task: B256, outcome: &ProbeOutcome| {
        let (path, body) = (format!("/probes/{task}"), serde_json::to_vec(outcome));
        let answer = operator.exchange(Method::POST, &path, body.unwrap());
        answer.await.0.as_u16()
    };

    let program = Program::start(directory.path(), &options);
    let mut prober = program.funded(funded(), 10_000_000).await;
    let mut seller = agent(&program).await;
    let asked = order(&operator(&program).await).await.unwrap();
    prober.probe = Some(asked.task);
    let request = prober.request("FR");
    let (proposed, _) = tokio::join!(prober.ask(request), seller.accept());
    proposed.unwrap();
    let outcome = seen(&program, &asked).await;
    program.kill();

    let program = Program::start(directory.path(), &options);
    prober.url = format!("http://{}", program.http);
    let mut seller = agent(&program).await;
    let admin = operator(&program).await;
    let late = tell(&admin, asked.task, &outcome).await;
    assert_eq!(late, 404, "nobody waits for it any more");
    let again = order(&admin).await.expect("it is due again");
    prober.probe = Some(again.task);
    let mut request = prober.request("FR");
    // The first lease may still begin.
    request.channel_salt = B256::repeat_byte(1);
    let (proposed, _) = tokio::join!(prober.ask(request), seller.accept());
    proposed.unwrap();
    assert_eq!(
        tell(&admin, again.task, &outcome).await,
        400,
        "another nonce"
    );
    let outcome = seen(&program, &again).await;
    assert_eq!(tell(&admin, again.task, &outcome).await, 200);
    program.kill();

    let program = Program::start(directory.path(), &options);
    prober.url = format!("http://{}", program.http);
    let _seller = agent(&program).await;
    let found: Vec<OfferView> = prober.get("/v1/offers").await.unwrap();
    assert_eq!(found.len(), 1, "proven before the kill");
    assert_eq!(order(&operator(&program).await).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_outlive_kills_on_sqlite() {
    outlives_kills(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_outlive_kills_on_postgres() {
    let Some(server) = Server::for_test() else {
        return;
    };
    outlives_kills(&["--store".into(), server.database("proofs")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_elsewhere_fails_and_its_provider_is_told_where() {
    let mut scene = Scene::new(required).await;
    let standing = scene.probe(ELSEWHERE).await;
    assert_eq!(standing["failing"]["disagreed"], 1, "{standing}");
    let what = Disagreement::Address;
    let seen = ELSEWHERE.parse().unwrap();
    assert_eq!(scene.told().await, Some(Withheld::Disagrees { what, seen }));
    assert_eq!(scene.for_sale().await, []);
    let proofs: Value = scene.operator.get("/proofs").await.unwrap();
    let sighting = &proofs[0]["sightings"][0];
    assert_eq!(sighting["disagreement"], "address", "{proofs}");
    assert_eq!(sighting["seen"]["country"], "DE", "{proofs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_proofs_are_optional_an_offer_is_for_sale_until_a_probe_disagrees() {
    let mut scene = Scene::new(|_| ()).await;
    assert_eq!(scene.for_sale().await.len(), 1);
    scene.probe(ELSEWHERE).await;
    assert!(scene.told().await.is_some());
    assert_eq!(scene.for_sale().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_databases_the_address_alone_is_compared() {
    let mut scene = Scene::new(|config| {
        required(config);
        config.country_db = None;
    })
    .await;
    let order = scene.order().await.unwrap();
    assert_eq!(order.country, None);
    scene.prober.probe = Some(order.task);
    let mut request = scene.prober.request("FR");
    request.filter.countries = Vec::new();
    let (proposed, _) = tokio::join!(scene.prober.ask(request), scene.agent.accept());
    proposed.unwrap();
    let seen = scene.echo(HERE, order.nonce).await;
    assert_eq!(scene.tell_seen(order.task, seen).await.0, 200);
    assert_eq!(scene.told().await, None);
    assert_eq!(scene.for_sale().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operators_word_on_this_very_probe_counts() {
    let mut scene = Scene::new(required).await;
    // Without a lease there is no exit to have seen.
    let order = scene.order().await.unwrap();
    let seen = scene.echo(HERE, order.nonce).await;
    assert_eq!(scene.tell_seen(order.task, seen.clone()).await.0, 409);
    let silent = ProbeOutcome::Silent { reason: "x".into() };
    assert_eq!(scene.tell(order.task, &silent).await.0, 409);
    scene.lease(order.task).await;
    // Signed by somebody who is in the way.
    let key = Wallet::random();
    let forged = Signed::sign(seen.message.clone(), &scene.prober.info.domain, key.key());
    assert_eq!(scene.tell_seen(order.task, forged).await.0, 400);
    // Said to somebody else, and changed on the way.
    let other = scene.echo(HERE, B256::repeat_byte(7)).await;
    assert_eq!(scene.tell_seen(order.task, other).await.0, 400);
    let mut changed = scene.echo(ELSEWHERE, order.nonce).await;
    changed.message.seen = HERE.parse().unwrap();
    assert_eq!(scene.tell_seen(order.task, changed).await.0, 400);
    assert_eq!(scene.for_sale().await, []);
    // And once only.
    assert_eq!(scene.tell_seen(order.task, seen.clone()).await.0, 200);
    assert_eq!(scene.tell_seen(order.task, seen).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_nobody_ordered_gets_no_lease_and_one_gets_one() {
    let mut scene = Scene::new(required).await;
    scene.prober.probe = Some(B256::repeat_byte(1));
    let request = scene.prober.request("FR");
    let refused = scene.prober.ask(request).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NotFound);
    let order = scene.leased().await;
    let request = scene.prober.request("FR");
    let refused = scene.prober.ask(request).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NotFound, "a second lease");
    assert_eq!(scene.order().await, None);
    let missed = ProbeOutcome::Missed { reason: "x".into() };
    assert_eq!(scene.tell(order.task, &missed).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_are_refused_in_words() {
    let scene = Scene::new(required).await;
    let anybody = TestRequester::stranger(&scene.broker);
    for path in [
        "/v1/echo",
        "/v1/echo?nonce=1",
        "/v1/echo?nonce=0xzz",
        "/v1/echo?nonce=0x00&nonce=0x00",
        "/v1/echo?what=0x00",
    ] {
        let refused = anybody.get::<Value>(path).await.unwrap_err();
        assert_eq!(refused.kind, ProblemKind::InvalidRequest, "{path}");
    }
    for path in ["/proofs?provider=me", "/proofs?from=me"] {
        let refused = scene.operator.get::<Value>(path).await.unwrap_err();
        assert_eq!(refused.kind, ProblemKind::InvalidRequest, "{path}");
    }
    let missed = ProbeOutcome::Missed { reason: "x".into() };
    assert_eq!(scene.tell(B256::repeat_byte(9), &missed).await.0, 404);
    for (path, body) in [
        ("/probes/1", r#"{"missed":{"reason":"x"}}"#),
        ("/probes/0x", r#"{"missed":{"reason":"x"}}"#),
    ] {
        let exchange = scene.operator.exchange(Method::POST, path, body.into());
        assert_eq!(exchange.await.0, 400, "{path}");
    }
    let task = scene.order().await.unwrap().task;
    for body in ["", "{}", r#"{"seen":{}}"#, r#"{"missed":{"reason":1}}"#] {
        let path = format!("/probes/{task}");
        let exchange = scene.operator.exchange(Method::POST, &path, body.into());
        assert_eq!(exchange.await.0, 400, "{body}");
    }
    // Strangers do not come upon what the operator's programs ask.
    for path in ["/probes", "/proofs"] {
        let refused = anybody.get::<Value>(path).await.unwrap_err();
        assert_eq!(refused.kind, ProblemKind::NotFound, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ruling_goes_before_the_databases_and_says_why() {
    let mut scene = Scene::new(|_| ()).await;
    let anybody = TestRequester::stranger(&scene.broker);
    let appeal = |provider, address: &str, text: &str| Appeal {
        network: anybody.info.network,
        provider,
        address: address.parse().unwrap(),
        address_type: AddressType::Residential,
        text: text.into(),
        at: ipsx_tests::requester::now(),
    };
    let post = async |appeal: Appeal, by: &Wallet| {
        let signed = Signed::sign(appeal, &anybody.info.domain, by.key());
        let body = serde_json::to_vec(&signed).unwrap();
        let answer = anybody.exchange(Method::POST, "/v1/appeals", body).await;
        answer.0.as_u16()
    };
    let (own, stranger) = (scene.agent.wallet.address(), Wallet::random());
    // Others' words, others' addresses, no words, too many, and those of another time are not taken.
    assert_eq!(post(appeal(own, HERE, "x"), &stranger).await, 400);
    let theirs = appeal(stranger.address(), HERE, "x");
    assert_eq!(post(theirs, &stranger).await, 404);
    let wallet = &scene.agent.wallet;
    assert_eq!(post(appeal(own, "127.0.1.2", "x"), wallet).await, 404);
    let long = "x".repeat(1_001);
    assert_eq!(post(appeal(own, HERE, &long), wallet).await, 400);
    assert_eq!(post(appeal(own, HERE, ""), wallet).await, 400);
    let mut old = appeal(own, HERE, "x");
    old.at.0 -= 601;
    assert_eq!(post(old, wallet).await, 400);
    assert_eq!(post(appeal(own, HERE, "a bill"), wallet).await, 204);
    assert_eq!(post(appeal(own, HERE, "again"), wallet).await, 409);

    let path = format!("/proofs?provider={own}");
    let proofs: Value = scene.operator.get(&path).await.unwrap();
    assert_eq!(proofs[0]["appeal"]["message"]["text"], "a bill", "{proofs}");
    let rule = async |kind: Option<&str>, provider, reason: &str| {
        let ruling = serde_json::json!({
            "provider": provider, "address": HERE, "address_type": kind, "reason": reason,
        });
        let body = serde_json::to_vec(&ruling).unwrap();
        let ruled = scene
            .operator
            .exchange(Method::POST, "/proofs/ruling", body);
        ruled.await.0.as_u16()
    };
    let residential = Some("residential");
    assert_eq!(rule(residential, stranger.address(), "x").await, 404);
    assert_eq!(rule(residential, own, "").await, 400);
    assert_eq!(rule(Some("castle"), own, "x").await, 400);
    assert_eq!(rule(residential, own, "seen the bill").await, 204);
    let BrokerMessage::OfferPlaced { placement, .. } = scene.agent.hear().await else {
        panic!("not placed anew");
    };
    assert_eq!(placement.address_type, Some(AddressType::Residential));
    let found = scene.for_sale().await;
    let evidence = found[0].placement.evidence.clone().unwrap();
    let found = evidence.address_type.unwrap();
    let why = (found.rule, found.found.as_str());
    assert_eq!(why, (TypeRule::Ruling, "seen the bill"));
    assert_eq!(evidence.databases.len(), 1);
    // An offer that is replaced keeps it, and so it can be taken back.
    scene.agent.offers.clear();
    let mut newer = scene.agent.offer(900, 1);
    newer.nonce = 2;
    scene.agent.publish(newer).await;
    let found = scene.for_sale().await;
    let kind = found[0].placement.address_type;
    assert_eq!(kind, Some(AddressType::Residential));
}
