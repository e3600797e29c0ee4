//! Requests for several addresses that wait until there are as many.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::time::Duration;

use ipsx_market::deal::Deal;
use ipsx_market::http::{DealView, ProblemKind, RequestView};
use ipsx_market::messages::{AgentMessage, BrokerMessage};
use ipsx_market::request::Request;
use ipsx_market::resting::RequestStatus;
use ipsx_market::start::StartWindow;
use ipsx_market::status::DealStatus;
use ipsx_settlement::Wallet;
use ipsx_tests::postgres::Server;
use ipsx_tests::requester::now;
use parties::bundle::{BUNDLES, matched, one_at, program, rest, sign, three_at};
use parties::program::Program;
use parties::{TestAgent, TestBroker, TestRequester};

const DEPOSIT: u128 = 500_000;

/// A provider of one address.
async fn agent(broker: &TestBroker, number: u8) -> TestAgent {
    let mut agent = TestAgent::connect(broker, &format!("127.0.1.{number}")).await;
    agent.publish(agent.offer(1_000, 1)).await;
    agent
}

async fn status(requester: &TestRequester, deal: &Deal) -> DealStatus {
    let view: DealView = requester.deal(deal.id(), "").await.unwrap();
    view.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_rests_until_the_last_of_its_agents_comes() {
    let broker = TestBroker::start().await;
    let (mut a, mut b) = (agent(&broker, 1).await, agent(&broker, 2).await);
    let mut requester = TestRequester::with_deposit(&broker, DEPOSIT).await;
    let request = requester.several(3);
    let view = rest(&requester, request).await.unwrap();
    let id = view.request;
    assert_eq!(
        (view.status, &view.deals),
        (RequestStatus::Resting, &vec![])
    );
    assert_eq!(requester.resting(id, "").await.unwrap(), view);
    let mut c = agent(&broker, 3).await;
    let waiting = matched(&requester, id);
    let (proposed, ..) = tokio::join!(waiting, a.accept(), b.accept(), c.accept());
    assert_eq!(proposed.deals.len(), 3);
    let refused = requester.cancel(id).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::Conflict);
    let bound = sign(&requester, &proposed).await.unwrap();
    assert_eq!(bound.deals.len(), 3);
    for agent in [&mut a, &mut b, &mut c] {
        let (deal, _) = agent.bound().await;
        assert_eq!(deal.request, id);
    }
    // One that is taken back has nobody asked any more.
    let request = requester.several(2);
    let id = rest(&requester, request).await.unwrap().request;
    let cancelled = requester.cancel(id).await.unwrap();
    assert_eq!(cancelled.status, RequestStatus::Cancelled);
    assert_eq!(requester.cancel(id).await.unwrap(), cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_starts_later_rests_as_well() {
    let broker = TestBroker::start().await;
    let mut a = agent(&broker, 1).await;
    let mut requester = TestRequester::with_deposit(&broker, DEPOSIT).await;
    let mut request = requester.several(2);
    let earliest = now().after(3_600);
    request.start = StartWindow {
        earliest,
        latest: earliest.after(600),
    };
    let id = rest(&requester, request).await.unwrap().request;
    let mut b = agent(&broker, 2).await;
    let waiting = matched(&requester, id);
    let (proposed, ..) = tokio::join!(waiting, a.accept(), b.accept());
    let starts = proposed
        .deals
        .iter()
        .map(|proposed| proposed.deal.starts_at);
    assert_eq!(Vec::from_iter(starts), [earliest; 2]);
    assert!(
        proposed
            .deals
            .iter()
            .all(|proposed| proposed.deal.is_prepaid())
    );
    let bound = sign(&requester, &proposed).await.unwrap();
    assert_eq!(bound.deals.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_and_a_single_request_get_what_each_can_use() {
    let broker = TestBroker::start().await;
    let mut patient = TestRequester::with_deposit(&broker, DEPOSIT).await;
    let mut other = TestRequester::with_deposit(&broker, DEPOSIT).await;
    let older = patient.several(2);
    let older = rest(&patient, older).await.unwrap().request;
    let younger = other.rest("FR", 60).await.unwrap().request;
    // One alone is of no use to the older one.
    let mut a = agent(&broker, 1).await;
    let waiting = other.resting(younger, "?wait=20");
    let (view, deal) = tokio::join!(waiting, a.accept());
    assert_eq!(view.unwrap().status, RequestStatus::Matched);
    assert_eq!(deal.request, younger);
    let (mut b, mut c) = (agent(&broker, 2).await, agent(&broker, 3).await);
    let waiting = matched(&patient, older);
    let (proposed, ..) = tokio::join!(waiting, b.accept(), c.accept());
    sign(&patient, &proposed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_rests_on_when_one_of_its_providers_refuses() {
    let broker = TestBroker::start().await;
    let (mut a, mut b) = (agent(&broker, 1).await, agent(&broker, 2).await);
    let mut requester = TestRequester::with_deposit(&broker, DEPOSIT).await;
    let request = requester.several(3);
    let id = rest(&requester, request).await.unwrap().request;
    let mut c = agent(&broker, 3).await;
    let (first, (_, asked), (proposal, _)) = tokio::join!(a.accept(), b.proposal(), c.proposal());
    assert_eq!(asked.request.message.id(), id);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let reason = "not today".into();
    c.say(&AgentMessage::DeclineDeal { proposal, reason }).await;
    let told = a.hear().await;
    assert!(
        matches!(told, BrokerMessage::DealAborted { .. }),
        "{told:?}"
    );
    assert_eq!(status(&requester, &first).await, DealStatus::Aborted);
    let view = requester.resting(id, "").await.unwrap();
    assert_eq!((view.status, view.deals), (RequestStatus::Resting, vec![]));
    // Somebody else will do; who has signed in vain is asked again.
    let mut d = agent(&broker, 4).await;
    let waiting = matched(&requester, id);
    let (proposed, second, ..) = tokio::join!(waiting, a.accept(), b.accept(), d.accept());
    assert_eq!(proposed.deals.len(), 3);
    assert!(proposed.deals.iter().all(|p| p.deal_id != first.id()));
    sign(&requester, &proposed).await.unwrap();
    assert_eq!(status(&requester, &second).await, DealStatus::Agreed);
}

/// What a bundle says for itself when it is posted twice under one key.
async fn post_twice(requester: &TestRequester, mut request: Request) -> RequestView {
    request.rest_until = request.expires_at;
    let body = requester.posted(request);
    let mut answers = Vec::new();
    for replay in [false, true] {
        let answer = requester.post_once(BUNDLES, "k", &body).await;
        let (status, replayed, view) = answer.unwrap();
        assert_eq!((status, replayed), (202, replay));
        answers.push(view);
    }
    assert_eq!(answers[0], answers[1]);
    serde_json::from_slice(&answers[0]).unwrap()
}

/// The broker is killed while a bundle rests, while its providers are asked, and once all have signed.
async fn outlives_a_kill(store: &[String]) {
    let directory = tempfile::tempdir().unwrap();
    let wallet = || Wallet::from_secret(&[7; 32]).unwrap();
    let (program, options) = program(directory.path(), &[wallet()], store).await;
    let again = |program: Program| {
        program.kill();
        Program::start(directory.path(), &options)
    };
    let mut requester = program.funded(wallet(), 10_000_000).await;
    let (_a, _b) = (one_at(&program, 1).await, one_at(&program, 2).await);
    let request = requester.several(3);
    let view = post_twice(&requester, request).await;
    let id = view.request;

    // It rests, and two agents are too few also when they come back.
    let program = again(program);
    requester.url = format!("http://{}", program.http);
    assert_eq!(requester.resting(id, "").await.unwrap(), view);
    let [mut a, mut b, mut c] = three_at(&program).await;
    tokio::join!(a.accept(), b.accept(), c.proposal());
    tokio::time::sleep(Duration::from_millis(100)).await;

    // Two had signed: nothing is left of that, and it rests on.
    let program = again(program);
    requester.url = format!("http://{}", program.http);
    assert!(requester.deals().await.is_empty());
    assert_eq!(requester.resting(id, "").await.unwrap(), view);
    let [mut a, mut b, mut c] = three_at(&program).await;
    let waiting = matched(&requester, id);
    let (proposed, ..) = tokio::join!(waiting, a.accept(), b.accept(), c.accept());

    // All had: all of them can be bound.
    let program = again(program);
    requester.url = format!("http://{}", program.http);
    assert_eq!(matched(&requester, id).await.deals, proposed.deals);
    let bound = sign(&requester, &proposed).await.unwrap();
    assert_eq!(bound.deals.len(), 3);

    // One that was taken back stays so.
    let request = requester.several(4);
    let id = rest(&requester, request).await.unwrap().request;
    let cancelled = requester.cancel(id).await.unwrap();
    let program = again(program);
    requester.url = format!("http://{}", program.http);
    assert_eq!(requester.resting(id, "").await.unwrap(), cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn resting_bundles_outlive_a_kill_on_sqlite() {
    outlives_a_kill(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resting_bundles_outlive_a_kill_on_postgres() {
    let Some(server) = Server::for_test() else {
        return;
    };
    outlives_a_kill(&["--store".into(), server.database("broker")]).await;
}
