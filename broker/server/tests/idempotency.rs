//! The same `Idempotency-Key` does a thing once, whatever becomes of broker and answer in between.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::time::Duration;

use ipsx_market::http::{DealView, PostWithdrawal, Problem, ProblemKind, ProposedDeal};
use ipsx_metering::Amount;
use ipsx_settlement::{Signer, Wallet};
use parties::program::Program;
use parties::{TestAgent, TestBroker, TestRequester};
use tokio::time::timeout;

const REQUESTS: &str = "/v1/requests";
const WITHDRAWALS: &str = "/v1/withdrawals";

fn kind(body: &[u8]) -> ProblemKind {
    serde_json::from_slice::<Problem>(body).unwrap().kind
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_good_for_one_thing() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 5)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let first = requester.request("FR");
    let body = requester.posted(first);

    // While the provider has not answered, the same is not begun again.
    let asking = requester.post_once(REQUESTS, "a", &body);
    let meanwhile = async {
        let (number, proposal) = agent.proposal().await;
        let (status, _, answer) = requester.post_once(REQUESTS, "a", &body).await.unwrap();
        assert_eq!((status, kind(&answer)), (409, ProblemKind::Conflict));
        agent.accept_proposal(number, &proposal).await
    };
    let (answer, deal) = tokio::join!(asking, meanwhile);
    let (status, replayed, answer) = answer.unwrap();
    assert_eq!((status, replayed), (200, false));
    let proposed: ProposedDeal = serde_json::from_slice(&answer).unwrap();
    assert_eq!(proposed.deal_id, deal.id());
    for _ in 0..3 {
        let again = requester.post_once(REQUESTS, "a", &body).await.unwrap();
        assert_eq!(again, (200, true, answer.clone()));
    }
    // Another body, another path, another wallet.
    let other = requester.request("FR");
    let other = requester.posted(other);
    let (status, _, problem) = requester.post_once(REQUESTS, "a", &other).await.unwrap();
    assert_eq!((status, kind(&problem)), (422, ProblemKind::KeyReused));
    let (status, _, problem) = requester.post_once(WITHDRAWALS, "a", &body).await.unwrap();
    assert_eq!((status, kind(&problem)), (422, ProblemKind::KeyReused));
    let stranger = TestRequester::with_deposit(&broker, 0).await;
    let (status, replayed, _) = stranger.post_once(REQUESTS, "a", &body).await.unwrap();
    assert_eq!((status, replayed), (400, false));
    // A refusal is an answer as well, with the same instance.
    let (status, _, refused) = requester.post_once(REQUESTS, "b", &body).await.unwrap();
    assert_eq!((status, kind(&refused)), (409, ProblemKind::Conflict));
    let again = requester.post_once(REQUESTS, "b", &body).await.unwrap();
    assert_eq!(again, (409, true, refused));
    // Keys that are none.
    for key in ["", "a b", &"k".repeat(256)] {
        let (status, _, problem) = requester.post_once(REQUESTS, key, &body).await.unwrap();
        assert_eq!((status, kind(&problem)), (400, ProblemKind::InvalidRequest));
    }
    // Consents: two keys, two of them; one key, one.
    let ask = PostWithdrawal {
        to: requester.wallet.address(),
        amount: Amount(10),
    };
    let one = requester.post_once(WITHDRAWALS, "w", &ask).await.unwrap();
    assert_eq!((one.0, one.1), (200, false));
    let same = requester.post_once(WITHDRAWALS, "w", &ask).await.unwrap();
    assert_eq!(same, (200, true, one.2));
    // Nothing went to anybody twice.
    let deals: Vec<DealView> = requester.get("/v1/deals").await.unwrap();
    assert_eq!(deals.len(), 1);
}

/// Killed anywhere between the request and its answer, with the agent's word in between: the same key gets the same
/// deal, and there is no second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_deed_and_answer_changes_nothing() {
    let wallet = Wallet::from_secret(&[0x77; 32]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let fund = ["--fund".to_string(), format!("{}=1000", wallet.address())];
    let mut program = Program::start(directory.path(), &fund);
    let mut requester = program.funded(wallet, 100_000_000).await;
    let (mut killed_before, mut killed_after) = (0, 0);
    for round in 0..8u64 {
        let secret = [0x40 + u8::try_from(round).unwrap(); 32];
        let wallet = Wallet::from_secret(&secret).unwrap();
        let mut agent = TestAgent::connect_as(wallet, program.agents, "127.0.1.1").await;
        agent.publish(agent.offer(1_000, 1)).await;
        let request = requester.request("FR");
        let id = request.id();
        let body = requester.posted(request);
        let key = format!("round-{round}");
        let asking = {
            let asking = requester.post_once(REQUESTS, &key, &body);
            tokio::pin!(asking);
            let (number, proposal) = tokio::select! {
                _ = &mut asking => panic!("nobody has accepted yet"),
                proposal = agent.proposal() => proposal,
            };
            agent.accept_proposal(number, &proposal).await;
            let wait = Duration::from_millis(4 * round);
            timeout(wait, asking).await.ok().flatten()
        };
        program.kill();
        program = Program::start(directory.path(), &fund);
        requester.url = format!("http://{}", program.http);
        let wallet = Wallet::from_secret(&secret).unwrap();
        let mut agent = TestAgent::connect_as(wallet, program.agents, "127.0.1.1").await;
        agent.publish(agent.offer(1_000, 1)).await;
        let retry = requester.post_once(REQUESTS, &key, &body);
        tokio::pin!(retry);
        let (status, _, answer) = tokio::select! {
            answer = &mut retry => {
                killed_after += 1;
                answer.unwrap()
            }
            _ = agent.accept() => {
                killed_before += 1;
                retry.await.unwrap()
            }
        };
        assert_eq!(status, 200, "{answer:?}");
        if let Some((_, _, first)) = asking {
            assert_eq!(answer, first, "round {round}");
        }
        let third = requester.post_once(REQUESTS, &key, &body).await.unwrap();
        assert_eq!(third, (200, true, answer));
        let deals: Vec<DealView> = requester.get("/v1/deals").await.unwrap();
        let of_this = deals.iter().filter(|view| view.deal.request == id);
        assert_eq!(of_this.count(), 1, "round {round}");
    }
    println!("{killed_before} kills before the deal was kept, {killed_after} after");
    assert!(killed_after > 0);
}
