//! Leases that another wallet pays for: who may spend whose deposit, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use ipsx_market::http::{PostRequest, Problem, ProblemKind, ProposedDeal};
use ipsx_market::request::{Request, SignedRequest};
use ipsx_metering::{Signature, UnixSeconds};
use ipsx_settlement::Signer;
use parties::agent::now;
use parties::{TestAgent, TestBroker, TestRequester};

const DAY: u64 = 24 * 3_600;

/// A firm with a deposit, and an employee with a session key and no money.
struct Firm {
    broker: TestBroker,
    firm: TestRequester,
    employee: TestRequester,
}

impl Firm {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let firm = TestRequester::with_deposit(&broker, 1_000_000).await;
        let employee = TestRequester::with_deposit(&broker, 0).await;
        Self {
            broker,
            firm,
            employee,
        }
    }

    async fn grant(&self, valid_to: UnixSeconds) {
        let (contract, network) = (self.broker.broker.centralizer(), self.firm.info.network);
        let key = self.employee.signer.address();
        contract
            .grant(&self.firm.wallet, network, key, valid_to)
            .await
            .unwrap();
    }

    fn asked(&mut self) -> Request {
        let mut request = self.employee.request("FR");
        request.payer = self.firm.wallet.address();
        request
    }

    async fn refusal(&mut self) -> Problem {
        let asked = self.asked();
        self.employee.ask(asked).await.unwrap_err()
    }

    /// The same request with another word of the payer's than its session key's.
    async fn with_word(&mut self, word: impl Fn(&SignedRequest) -> Option<Signature>) -> Problem {
        let asked = self.asked();
        let employee = &self.employee;
        let (wallet, key) = (employee.wallet.key(), employee.signer.key());
        let mut request = SignedRequest::sign(asked, &employee.info.domain, wallet, key);
        request.payer_signature = word(&request);
        let posted = PostRequest { request };
        let answer = employee.post::<ProposedDeal>("/v1/requests", &posted);
        answer.await.unwrap_err()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_is_spent_by_the_keys_that_its_owner_appointed() {
    let mut world = Firm::start().await;
    let mut agent = TestAgent::connect(&world.broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 9)).await;

    let problem = world.refusal().await;
    assert_eq!(problem.kind, ProblemKind::InvalidRequest);
    assert!(problem.detail.contains("until 0"), "{}", problem.detail);

    // One that lasts a day or less may be a revoked one.
    world.grant(now().after(DAY / 2)).await;
    let problem = world.refusal().await;
    assert_eq!(problem.kind, ProblemKind::InvalidRequest);
    assert!(problem.detail.contains("longer"), "{}", problem.detail);

    world.grant(now().after(9 * DAY)).await;
    let problem = world.with_word(|_| None).await;
    assert_eq!(problem.kind, ProblemKind::Unauthorized);
    assert!(problem.detail.contains("lacks"), "{}", problem.detail);
    let problem = world.with_word(|request| Some(request.signature)).await;
    assert_eq!(problem.kind, ProblemKind::Unauthorized);

    // The firm's deposit pays, and the chain knows the key already.
    let asked = world.asked();
    let (proposed, deal) = tokio::join!(world.employee.ask(asked), agent.accept());
    let mut body = world.employee.signature(&proposed.unwrap());
    body.authorization = None;
    let path = format!("/v1/deals/{}/signature", deal.id());
    let bound: ipsx_market::http::BoundDeal = world.employee.post(&path, &body).await.unwrap();
    let channel = deal.channel();
    assert_eq!(channel.payer, world.firm.wallet.address());
    assert_eq!(channel.payer_signer, world.employee.signer.address());
    assert_eq!(bound.reservation.unwrap().message.channel_id, channel.id());
    assert!(matches!(
        agent.hear().await,
        ipsx_market::messages::BrokerMessage::DealBound { .. }
    ));

    // The key is good for what was promised, for a day; it begins nothing more from now on.
    let contract = world.broker.broker.centralizer();
    let (network, key) = (world.firm.info.network, world.employee.signer.address());
    contract
        .revoke(&world.firm.wallet, network, key)
        .await
        .unwrap();
    let problem = world.refusal().await;
    assert_eq!(problem.kind, ProblemKind::InvalidRequest);
    assert!(problem.detail.contains("not revoked"), "{}", problem.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_reaches_no_deposit_by_naming_it() {
    let mut world = Firm::start().await;
    let mut agent = TestAgent::connect(&world.broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 9)).await;
    world.grant(now().after(9 * DAY)).await;
    let firm = world.firm.wallet.address();
    let mut stranger = TestRequester::with_deposit(&world.broker, 1_000_000).await;

    // With a key of its own, which the firm has not appointed.
    let mut asked = stranger.request("FR");
    asked.payer = firm;
    let problem = stranger.ask(asked.clone()).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::InvalidRequest);
    // With the key that the firm did appoint, whose word it does not have, nor a replayed one.
    asked.payer_signer = world.employee.signer.address();
    let problem = stranger.ask(asked.clone()).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unauthorized);
    let theirs = world.asked();
    let employee = &world.employee;
    let domain = employee.info.domain;
    let (wallet, key) = (employee.wallet.key(), employee.signer.key());
    let theirs = SignedRequest::sign(theirs, &domain, wallet, key);
    let mut request =
        SignedRequest::sign(asked, &domain, stranger.wallet.key(), stranger.signer.key());
    request.payer_signature = theirs.payer_signature;
    let posted = PostRequest { request };
    let answer = stranger.post::<ProposedDeal>("/v1/requests", &posted);
    assert_eq!(answer.await.unwrap_err().kind, ProblemKind::Unauthorized);
    // The employee's own request is only taken from the employee.
    let posted = PostRequest { request: theirs };
    let answer = stranger.post::<ProposedDeal>("/v1/requests", &posted);
    assert_eq!(answer.await.unwrap_err().kind, ProblemKind::InvalidRequest);
}
