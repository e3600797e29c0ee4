//! Requests that wait for an offer.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use ipsx_market::deal::Binding;
use ipsx_market::http::{ProblemKind, RequestView};
use ipsx_market::resting::RequestStatus;
use ipsx_metering::RequestId;
use ipsx_settlement::{Signer, Wallet};
use ipsx_tests::postgres::Server;
use parties::program::Program;
use parties::{TestAgent, TestBroker, TestRequester};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_rests_until_an_agent_comes() {
    let broker = TestBroker::start().await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let view = requester.rest("FR", 60).await.unwrap();
    assert_eq!(
        (view.status, &view.deals),
        (RequestStatus::Resting, &vec![])
    );
    let id = view.request;
    assert_eq!(requester.resting(id, "").await.unwrap(), view);
    let metrics = metrics(&broker).await;
    assert!(metrics.contains("ipsx_requests_total{outcome=\"rests\"} 1"));
    assert!(metrics.contains("ipsx_requests_resting 1"), "{metrics}");
    // An agent elsewhere is not asked.
    let mut german = TestAgent::connect(&broker, "127.0.2.1").await;
    german.publish(german.offer(1_000, 1)).await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let waiting = requester.resting(id, "?wait=20");
    let (view, deal) = tokio::join!(waiting, agent.accept());
    let view = view.unwrap();
    assert_eq!(view.status, RequestStatus::Matched);
    let [proposed] = view.deals.try_into().unwrap();
    assert_eq!((proposed.deal_id, proposed.deal.request), (deal.id(), id));
    let bound = requester.sign(&proposed).await.unwrap();
    assert_eq!(bound.outcome.message.outcome, Binding::Bound);
    let refused = requester.cancel(id).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::Conflict);
    // One that found its offer at once can be asked after as well.
    german.publish(german.offer(1_000, 2)).await;
    let request = requester.request("DE");
    let id = request.id();
    let (proposed, _) = tokio::join!(requester.ask(request), german.accept());
    let view = requester.resting(id, "").await.unwrap();
    assert_eq!(view.status, RequestStatus::Matched);
    assert_eq!(view.deals, [proposed.unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_its_requesters() {
    let broker = TestBroker::start_with(|config| config.limits.resting_per_payer = 1).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let mut stranger = TestRequester::stranger(&broker);
    stranger.sign_in().await;
    let id = requester.rest("FR", 60).await.unwrap().request;
    for refused in [stranger.resting(id, "").await, stranger.cancel(id).await] {
        assert_eq!(refused.unwrap_err().kind, ProblemKind::Forbidden);
    }
    let unknown = RequestId(ipsx_metering::B256::repeat_byte(1));
    for refused in [
        requester.resting(unknown, "").await,
        requester.cancel(unknown).await,
    ] {
        assert_eq!(refused.unwrap_err().kind, ProblemKind::NotFound);
    }
    let refused = requester.rest("FR", 60).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::TooManyRequests);
    let cancelled = requester.cancel(id).await.unwrap();
    assert_eq!(cancelled.status, RequestStatus::Cancelled);
    assert_eq!(requester.cancel(id).await.unwrap(), cancelled);
    assert_eq!(requester.resting(id, "?wait=20").await.unwrap(), cancelled);
    // An agent that comes then is not asked.
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let request = requester.request("FR");
    let asked = request.id();
    let (_, deal) = tokio::join!(requester.ask(request), agent.accept());
    assert_eq!(deal.request, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_expires() {
    let broker = TestBroker::start().await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let id = requester.rest("FR", 1).await.unwrap().request;
    let view = requester.resting(id, "?wait=20").await.unwrap();
    assert_eq!(view.status, RequestStatus::Expired);
    let refused = requester.cancel(id).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::Conflict);
    let over = metrics(&broker).await;
    assert!(over.contains("ipsx_requests_rested_total{status=\"expired\"} 1"));
    // What can't rest says so.
    let mut too_long = requester.request("FR");
    too_long.rest_until = too_long.expires_at.after(1);
    let refused = requester.rest_as(too_long).await.unwrap_err();
    assert!(refused.detail.contains("rest_until"), "{refused:?}");
    let mut too_large = requester.request("FR");
    too_large.rest_until = too_large.expires_at;
    too_large.filter.asns = (1..=64).collect();
    let refused = requester.rest_as(too_large).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::InvalidRequest, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_drains_lets_requests_rest() {
    let broker = TestBroker::start().await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let id = requester.rest("FR", 60).await.unwrap().request;
    let short = requester.rest("FR", 3).await.unwrap().request;
    operate(&broker, "POST", "/drain").await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let view = requester.resting(id, "?wait=1").await.unwrap();
    assert_eq!(view.status, RequestStatus::Resting);
    // The clock goes on meanwhile.
    let view = requester.resting(short, "?wait=15").await.unwrap();
    assert_eq!(view.status, RequestStatus::Expired);
    operate(&broker, "POST", "/resume").await;
    assert_eq!(agent.accept().await.request, id);
}

/// The broker is killed while one request rests, another one's provider is asked, and a third is matched but not signed.
async fn outlives_a_kill(store: &[String]) {
    let directory = tempfile::tempdir().unwrap();
    let wallet = || Wallet::from_secret(&[0x77; 32]).unwrap();
    let mut options = vec!["--fund".into(), format!("{}=1000", wallet().address())];
    options.extend_from_slice(store);
    let program = Program::start(directory.path(), &options);
    let mut requester = program.funded(wallet(), 10_000_000).await;
    let mut ids = Vec::new();
    for country in ["JP", "DE", "FR"] {
        // Posted again under the same key, it is answered as it was the first time.
        let mut request = requester.request(country);
        request.rest_until = request.expires_at;
        let body = requester.posted(request);
        for replay in [false, true] {
            let answer = requester.post_once("/v1/requests", country, &body).await;
            let (status, replayed, view) = answer.unwrap();
            assert_eq!((status, replayed), (202, replay));
            let view: RequestView = serde_json::from_slice(&view).unwrap();
            ids.push(view.request);
        }
    }
    ids.dedup();
    let [japanese, german, french] = ids[..] else {
        panic!("{ids:?}")
    };
    let mut in_de = agent(&program, 0x66, "127.0.2.1").await;
    let (_, proposal) = in_de.proposal().await;
    assert_eq!(proposal.request.message.id(), german);
    let mut in_fr = agent(&program, 0x67, "127.0.1.1").await;
    let (view, deal) = tokio::join!(requester.resting(french, "?wait=20"), in_fr.accept());
    let matched = view.unwrap();
    assert_eq!(matched.deals[0].deal_id, deal.id());
    program.kill();

    let program = Program::start(directory.path(), &options);
    requester.url = format!("http://{}", program.http);
    assert_eq!(requester.resting(french, "").await.unwrap(), matched);
    for id in [japanese, german] {
        let view = requester.resting(id, "").await.unwrap();
        assert_eq!(view.status, RequestStatus::Resting);
    }
    let mut in_de = agent(&program, 0x66, "127.0.2.1").await;
    let (view, _) = tokio::join!(requester.resting(german, "?wait=20"), in_de.accept());
    let [proposed] = view.unwrap().deals.try_into().unwrap();
    let bound = requester.sign(&proposed).await.unwrap();
    assert_eq!(bound.outcome.message.outcome, Binding::Bound);
    let cancelled = requester.cancel(japanese).await.unwrap();
    program.kill();

    let program = Program::start(directory.path(), &options);
    requester.url = format!("http://{}", program.http);
    assert_eq!(requester.resting(japanese, "").await.unwrap(), cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn resting_requests_outlive_a_kill_on_sqlite() {
    outlives_a_kill(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resting_requests_outlive_a_kill_on_postgres() {
    let Some(server) = Server::for_test() else {
        return;
    };
    outlives_a_kill(&["--store".into(), server.database("broker")]).await;
}

/// What the operator's listener answers.
async fn operate(broker: &TestBroker, method: &str, path: &str) -> String {
    let address = broker.broker.admin_addr().unwrap().to_string();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    text
}

async fn metrics(broker: &TestBroker) -> String {
    operate(broker, "GET", "/metrics").await
}

async fn agent(program: &Program, key: u8, from: &str) -> TestAgent {
    let wallet = Wallet::from_secret(&[key; 32]).unwrap();
    let mut agent = TestAgent::connect_as(wallet, program.agents, from).await;
    agent.publish(agent.offer(1_000, 1)).await;
    agent
}
