//! Several addresses for one request: all of them are leased, or none.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::collections::BTreeSet;
use std::time::Duration;

use ipsx_market::deal::Binding;
use ipsx_market::http::{
    BoundBundle, BoundDeal, DealView, OfferView, PostWithdrawal, Problem, ProblemKind,
    ProposedBundle, SignBundle,
};
use ipsx_market::messages::{AgentMessage, BrokerMessage};
use ipsx_market::request::Request;
use ipsx_market::resting::RequestStatus;
use ipsx_market::status::DealStatus;
use ipsx_metering::{Amount, B256, Signed, Withdrawal};
use ipsx_settlement::{Signer, Wallet};
use ipsx_tests::postgres::Server;
use ipsx_tests::requester::now;
use parties::bundle::{BUNDLES, ask, path, program, sign, signatures, three_at};
use parties::program::Program;
use parties::{TestAgent, TestBroker, TestRequester};

/// More than the first reservations of three leases, and less than of six.
const DEPOSIT: u128 = 500_000;

/// Three providers of one address each.
async fn agents(broker: &TestBroker) -> [TestAgent; 3] {
    let mut agents = Vec::new();
    for from in ["127.0.1.1", "127.0.1.2", "127.0.1.3"] {
        let mut agent = TestAgent::connect(broker, from).await;
        agent.publish(agent.offer(1_000, 2)).await;
        agents.push(agent);
    }
    agents.try_into().ok().unwrap()
}

/// What all three sign.
async fn agree(requester: &mut TestRequester, agents: &mut [TestAgent; 3]) -> ProposedBundle {
    let request = requester.several(3);
    let [a, b, c] = agents;
    let asked = ask(requester, request);
    let (proposed, ..) = tokio::join!(asked, a.accept(), b.accept(), c.accept());
    proposed.unwrap()
}

async fn free_leases(requester: &TestRequester) -> u64 {
    let offers: Vec<OfferView> = requester.get("/v1/offers?country=FR").await.unwrap();
    offers
        .iter()
        .map(|offer| u64::from(offer.free_leases))
        .sum()
}

/// The operator's consent that all of the deposit is taken out: nothing of it is promised.
async fn take_out(requester: &TestRequester) -> Result<Signed<Withdrawal>, Problem> {
    let ask = PostWithdrawal {
        to: requester.wallet.address(),
        amount: Amount(DEPOSIT),
    };
    requester.post("/v1/withdrawals", &ask).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_addresses_of_three_providers_are_bound_at_once() {
    let broker = TestBroker::start().await;
    let mut agents = agents(&broker).await;
    let mut requester = TestRequester::with_deposit(&broker, DEPOSIT).await;
    let proposed = agree(&mut requester, &mut agents).await;
    let providers: BTreeSet<_> = proposed.deals.iter().map(|p| p.deal.provider).collect();
    assert_eq!(providers.len(), 3);
    let view = requester.resting(proposed.request, "").await.unwrap();
    assert_eq!(
        (view.status, view.rest_until.0),
        (RequestStatus::Matched, 0)
    );
    assert_eq!(view.deals, proposed.deals);
    // Alone, or as two of three, none is bound.
    let alone = requester.sign(&proposed.deals[1]).await.unwrap_err();
    assert_eq!(alone.kind, ProblemKind::Conflict);
    assert!(alone.detail.contains("/v1/bundles"), "{alone:?}");
    let mut two = signatures(&requester, &proposed);
    two.signatures.pop();
    let refused = requester.post::<BoundBundle>(&path(&proposed), &two).await;
    assert_eq!(refused.unwrap_err().kind, ProblemKind::Conflict);
    let bound = sign(&requester, &proposed).await.unwrap();
    for (word, proposed) in bound.deals.iter().zip(&proposed.deals) {
        let (outcome, reservation) = (&word.outcome.message, word.reservation.as_ref().unwrap());
        assert_eq!(
            (outcome.deal_id, outcome.outcome),
            (proposed.deal_id, Binding::Bound)
        );
        let channel = proposed.deal.channel().id();
        assert_eq!(reservation.message.channel_id, channel);
    }
    let mut deals = BTreeSet::new();
    for agent in &mut agents {
        let (deal, _) = agent.bound().await;
        deals.insert(deal.id());
        agent.ready(deal.id()).await;
    }
    assert_eq!(deals, proposed.deals.iter().map(|p| p.deal_id).collect());
    // Sent again, it is answered as it was.
    assert_eq!(sign(&requester, &proposed).await.unwrap(), bound);
    let promised = take_out(&requester).await.unwrap_err();
    assert_eq!(promised.kind, ProblemKind::InsufficientDeposit);
    // What the deposit does not cover for all is bound for none.
    let more = agree(&mut requester, &mut agents).await;
    let refused = sign(&requester, &more).await.unwrap_err();
    assert_eq!(
        refused.kind,
        ProblemKind::InsufficientDeposit,
        "{refused:?}"
    );
    for proposed in &more.deals {
        let view = requester.deal(proposed.deal_id, "").await.unwrap();
        assert_eq!(view.status, DealStatus::Aborted);
    }
    for agent in &mut agents {
        let told = agent.hear().await;
        assert!(
            matches!(told, BrokerMessage::DealAborted { .. }),
            "{told:?}"
        );
    }
    // One of those that were bound does not begin: nor do the others.
    let first = proposed.deals[0].deal_id;
    let path = format!("/v1/deals/{first}/end");
    let end = serde_json::json!({ "report": {
        "cause": "not_started", "usage": { "secs": 0, "bytes_up": 0, "bytes_down": 0 },
        "amount": "0", "voucher": null,
    }});
    let view: DealView = requester.post(&path, &end).await.unwrap();
    assert_eq!(view.status, DealStatus::Ended);
    for proposed in &proposed.deals {
        let view = requester.deal(proposed.deal_id, "").await.unwrap();
        assert_eq!(view.status, DealStatus::Ended);
    }
    for agent in &mut agents {
        let told = agent.hear().await;
        assert!(matches!(told, BrokerMessage::EndLease { .. }), "{told:?}");
    }
    // What came of a request is told also when all of it is over, and only to its requester.
    let view = requester.resting(proposed.request, "").await.unwrap();
    assert_eq!(view.deals, proposed.deals);
    let mut stranger = TestRequester::stranger(&broker);
    stranger.sign_in().await;
    let refused = stranger.resting(proposed.request, "").await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refusal_sells_nothing() {
    let broker = TestBroker::start().await;
    let mut agents = agents(&broker).await;
    let mut requester = TestRequester::with_deposit(&broker, DEPOSIT).await;
    assert_eq!(free_leases(&requester).await, 6);
    let request = requester.several(3);
    let [a, b, c] = &mut agents;
    let refusing = async {
        let (first, (proposal, _), _) = tokio::join!(a.accept(), b.proposal(), c.proposal());
        // The first signature is there by then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let reason = "not today".into();
        b.say(&AgentMessage::DeclineDeal { proposal, reason }).await;
        first
    };
    let (refused, first) = tokio::join!(ask(&requester, request), refusing);
    let refused = refused.unwrap_err();
    assert_eq!((refused.kind, refused.status), (ProblemKind::NoMatch, 404));
    assert!(refused.detail.contains("not today"), "{refused:?}");
    // Whoever had signed is told, and free again.
    let told = a.hear().await;
    assert!(
        matches!(told, BrokerMessage::DealAborted { .. }),
        "{told:?}"
    );
    let view = requester.deal(first.id(), "").await.unwrap();
    assert_eq!(view.status, DealStatus::Aborted);
    // That is what became of the request, also if it is posted again.
    let view = requester.resting(first.request, "").await.unwrap();
    assert_eq!((view.status, view.deals), (RequestStatus::Refused, vec![]));
    assert_eq!(view.reason, Some(refused.detail));
    assert_eq!(free_leases(&requester).await, 6);
    take_out(&requester).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_offers_ask_nobody() {
    let broker = TestBroker::start().await;
    let mut agents = agents(&broker).await;
    let mut requester = TestRequester::with_deposit(&broker, DEPOSIT).await;
    let request = requester.several(4);
    let refused = ask(&requester, request).await;
    let refused = refused.unwrap_err();
    assert_eq!((refused.kind, refused.status), (ProblemKind::NoMatch, 404));
    assert!(refused.detail.contains("3 of 4 addresses"), "{refused:?}");
    assert!(requester.deals().await.is_empty());
    take_out(&requester).await.unwrap();
    // The first thing that a provider hears is the next request; without all or nothing, what there is will do.
    let mut requester = TestRequester::with_deposit(&broker, 2 * DEPOSIT).await;
    let mut request = requester.several(4);
    request.bundle.all_or_nothing = false;
    let id = request.id();
    let [a, b, c] = &mut agents;
    let asked = ask(&requester, request);
    let (proposed, deal, ..) = tokio::join!(asked, a.accept(), b.accept(), c.accept());
    assert_eq!(deal.request, id);
    let proposed = proposed.unwrap();
    assert_eq!((proposed.request, proposed.deals.len()), (id, 3));
    let bound: BoundDeal = requester.sign(&proposed.deals[2]).await.unwrap();
    assert_eq!(bound.outcome.message.outcome, Binding::Bound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_bundle_is_refused() {
    let broker = TestBroker::start().await;
    let mut requester = TestRequester::with_deposit(&broker, DEPOSIT).await;
    type Change = fn(&mut Request);
    let changes: [(Change, &str); 4] = [
        (|r| r.bundle.legs[1] = r.bundle.legs[0], "bundle.legs"),
        (
            |r| r.bundle.legs[0].tunnel_key = r.tunnel_key,
            "bundle.legs",
        ),
        (
            |r| r.bundle.legs[0].channel_salt = r.channel_salt,
            "bundle.legs",
        ),
        (
            |r| {
                r.start.latest = r.expires_at;
                r.rest_until = r.expires_at.after(1);
            },
            "rest_until",
        ),
    ];
    for (change, named) in changes {
        let mut request = requester.several(3);
        change(&mut request);
        let refused = ask(&requester, request).await.unwrap_err();
        assert_eq!(refused.kind, ProblemKind::InvalidRequest);
        assert!(refused.detail.contains(named), "{named}: {refused:?}");
    }
    let request = requester.several(65);
    let refused = ask(&requester, request).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::InvalidRequest);
    assert!(refused.detail.contains("at most 63"), "{refused:?}");
    let request = requester.several(2);
    let refused = requester.ask(request).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::InvalidRequest);
    assert!(refused.detail.contains(BUNDLES), "{refused:?}");
    // As many as a payer may have unstarted, and one more.
    let mut rich = TestRequester::with_deposit(&broker, 10 * DEPOSIT).await;
    let request = rich.several(9);
    let refused = ask(&rich, request).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::TooManyRequests);
    let request = requester.several(8);
    let refused = ask(&requester, request).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::InsufficientDeposit);
    let nothing = SignBundle {
        signatures: Vec::new(),
        authorization: None,
    };
    let path = format!("{BUNDLES}/{}/signatures", B256::ZERO);
    let refused = rich.post::<BoundBundle>(&path, &nothing).await;
    assert_eq!(refused.unwrap_err().kind, ProblemKind::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_booked_for_one_second_and_given_up_at_the_price_of_all() {
    let broker = TestBroker::start().await;
    let mut agents = agents(&broker).await;
    let mut requester = TestRequester::with_deposit(&broker, DEPOSIT).await;
    let mut request = requester.several(3);
    let starts = now().after(300);
    (request.start.earliest, request.start.latest) = (starts, starts);
    let [a, b, c] = &mut agents;
    let asked = ask(&requester, request);
    let (proposed, ..) = tokio::join!(asked, a.accept(), b.accept(), c.accept());
    let proposed = proposed.unwrap();
    assert!(proposed.deals.iter().all(|p| p.deal.starts_at == starts));
    // What is prepaid is so for each.
    let mut unpaid = signatures(&requester, &proposed);
    unpaid.signatures[2].prepaid = None;
    let to = path(&proposed);
    let refused = requester.post::<BoundBundle>(&to, &unpaid).await;
    assert_eq!(refused.unwrap_err().kind, ProblemKind::InvalidRequest);
    sign(&requester, &proposed).await.unwrap();
    let to = format!("/v1/deals/{}/end", proposed.deals[1].deal_id);
    let end = serde_json::json!({ "report": {
        "cause": "requester_ended", "usage": { "secs": 0, "bytes_up": 0, "bytes_down": 0 },
        "amount": "0", "voucher": null,
    }});
    let ended = requester.post::<DealView>(&to, &end).await;
    assert_eq!(ended.unwrap().status, DealStatus::Ended);
    for agent in &mut agents {
        agent.bound().await;
        let told = [agent.hear().await, agent.hear().await];
        let lost = matches!(
            told,
            [
                BrokerMessage::Forfeited { .. },
                BrokerMessage::EndLease { .. }
            ]
        );
        assert!(lost, "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_one_is_a_lease() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 2)).await;
    let mut requester = TestRequester::with_deposit(&broker, DEPOSIT).await;
    let request = requester.several(1);
    let (proposed, _) = tokio::join!(ask(&requester, request), agent.accept());
    let bound = sign(&requester, &proposed.unwrap()).await.unwrap();
    assert_eq!(bound.deals.len(), 1);
}

/// The broker is killed while providers are asked, once all have signed, and while the requester's signatures are bound.
async fn outlives_a_kill(store: &[String]) {
    let directory = tempfile::tempdir().unwrap();
    let wallet = |number: u8| Wallet::from_secret(&[number; 32]).unwrap();
    let wallets: Vec<_> = (1..8).map(wallet).collect();
    let (program, options) = program(directory.path(), &wallets, store).await;
    let mut requester = program.funded(wallet(1), 10_000_000).await;

    // Two have signed: nothing is left of it, and the same can be asked again under its key.
    let mut agents = three_at(&program).await;
    let request = requester.several(3);
    let body = requester.posted(request);
    let [a, b, c] = &mut agents;
    let killing = async {
        tokio::join!(a.accept(), b.accept(), c.proposal());
        tokio::time::sleep(Duration::from_millis(100)).await;
        program.kill();
    };
    let (lost, ()) = tokio::join!(requester.post_once(BUNDLES, "a", &body), killing);
    assert!(lost.is_none());
    let program = Program::start(directory.path(), &options);
    requester.url = format!("http://{}", program.http);
    assert!(requester.deals().await.is_empty());
    let mut agents = three_at(&program).await;
    let [a, b, c] = &mut agents;
    let asked = requester.post_once(BUNDLES, "a", &body);
    let (answer, ..) = tokio::join!(asked, a.accept(), b.accept(), c.accept());
    let (status, replayed, answer) = answer.unwrap();
    assert_eq!((status, replayed), (200, false));
    let again = requester.post_once(BUNDLES, "a", &body).await.unwrap();
    assert_eq!(again, (200, true, answer.clone()));

    // All have signed: all of them are still there to be bound.
    let proposed: ProposedBundle = serde_json::from_slice(&answer).unwrap();
    program.kill();
    let mut program = Program::start(directory.path(), &options);
    requester.url = format!("http://{}", program.http);
    let view = requester.resting(proposed.request, "").await.unwrap();
    assert_eq!(view.deals, proposed.deals);
    let bound = sign(&requester, &proposed).await.unwrap();
    assert_eq!(bound.deals.len(), 3);

    // Whenever it is killed while they are bound: all are or none, and the signatures sent again bind all.
    for (number, millis) in [(2, 0), (3, 3), (4, 6), (5, 10), (6, 15), (7, 40)] {
        let mut requester = program.funded(wallet(number), 10_000_000).await;
        let mut agents = three_at(&program).await;
        let proposed = agree(&mut requester, &mut agents).await;
        let body = signatures(&requester, &proposed);
        let url = path(&proposed);
        let killing = async {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            program.kill();
        };
        let (answered, ()) = tokio::join!(requester.post_once(&url, "s", &body), killing);
        program = Program::start(directory.path(), &options);
        requester.url = format!("http://{}", program.http);
        let deals = requester.deals().await;
        let statuses: BTreeSet<_> = deals.iter().map(|deal| deal.status).collect();
        assert_eq!((deals.len(), statuses.len()), (3, 1), "{statuses:?}");
        let status = statuses.into_iter().next().unwrap();
        assert!([DealStatus::Proposed, DealStatus::Agreed].contains(&status));
        assert!(answered.is_none() || status == DealStatus::Agreed);
        let (status, _, answer) = requester.post_once(&url, "s", &body).await.unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        let bound: BoundBundle = serde_json::from_slice(&answer).unwrap();
        assert_eq!(bound.deals.len(), 3);
        let deals = requester.deals().await;
        assert!(deals.iter().all(|deal| deal.status == DealStatus::Agreed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_outlive_a_kill_on_sqlite() {
    outlives_a_kill(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_outlive_a_kill_on_postgres() {
    let Some(server) = Server::for_test() else {
        return;
    };
    outlives_a_kill(&["--store".into(), server.database("broker")]).await;
}
