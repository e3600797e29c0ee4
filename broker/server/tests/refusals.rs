//! What requesters are refused, over real sockets: each with its kind of problem and one line that helps.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use hyper::{Method, StatusCode};
use ipsx_market::deal::Binding;
use ipsx_market::http::*;
use ipsx_market::messages::{BrokerMessage, EndCause, EndReport};
use ipsx_market::request::SignedRequest;
use ipsx_market::status::DealStatus;
use ipsx_metering::{Amount, B256, Signed, TypedData, Usage};
use ipsx_settlement::Signer;
use parties::agent::now;
use parties::{TestAgent, TestBroker, TestRequester};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_fits_says_what_to_change() {
    let broker = TestBroker::start().await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let request = requester.request("FR");
    let problem = requester.ask(request).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::NoMatch);
    assert!(
        problem.detail.contains("nothing is offered"),
        "{}",
        problem.detail
    );

    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(5_000, 1)).await;
    let request = requester.request("JP");
    let problem = requester.ask(request).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::NoMatch);
    assert!(
        problem.detail.contains("fails by the country"),
        "{}",
        problem.detail
    );

    let request = requester.request("FR");
    let problem = requester.ask(request).await.unwrap_err();
    assert_eq!(
        (problem.kind, problem.status),
        (ProblemKind::PriceTooLow, 409)
    );
    assert!(
        problem.detail.contains("5000 a second"),
        "{}",
        problem.detail
    );

    let mut request = requester.request("FR");
    request.max_prices = parties::prices(5_000, 1_000);
    request.budget = Amount(300_000);
    let (first, _) = tokio::join!(requester.ask(request.clone()), agent.accept());
    first.unwrap();
    request.nonce += 1;
    let problem = requester.ask(request).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::SoldOut);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_is_needed_and_covers_only_so_much() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 5)).await;
    let mut requester = TestRequester::with_deposit(&broker, 0).await;
    let request = requester.request("FR");
    let problem = requester.ask(request).await.unwrap_err();
    assert_eq!(
        (problem.kind, problem.status),
        (ProblemKind::InsufficientDeposit, 402)
    );
    assert!(
        problem.detail.contains("needs 100000"),
        "{}",
        problem.detail
    );

    // Enough for one lease; two are proposed at once, on channels of their own.
    requester.deposit(&broker, 150_000).await;
    let first = requester.request("FR");
    let mut second = requester.request("FR");
    second.channel_salt = B256::repeat_byte(1);
    let (first, deal) = tokio::join!(requester.ask(first), agent.accept());
    let (second, _) = tokio::join!(requester.ask(second), agent.accept());
    let (first, second) = (first.unwrap(), second.unwrap());
    requester.sign(&first).await.unwrap();
    assert_eq!(agent.bound().await.0, deal);
    let problem = requester.sign(&second).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::InsufficientDeposit);
    match agent.hear().await {
        BrokerMessage::DealAborted { deal_id, outcome } => {
            assert_eq!(deal_id, second.deal_id);
            assert_eq!(outcome.message.outcome, Binding::Aborted);
            outcome
                .verify(&agent.domain, requester.info.operator)
                .unwrap();
        }
        other => panic!("{other:?}"),
    }
    let told: BoundDeal = requester
        .get(&format!("/v1/deals/{}/outcome", second.deal_id))
        .await
        .unwrap();
    assert_eq!(
        (told.outcome.message.outcome, told.reservation),
        (Binding::Aborted, None)
    );
    let view = requester.deal(second.deal_id, "").await.unwrap();
    assert_eq!(view.status, DealStatus::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_right_is_refused() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 5)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let stranger = TestRequester::with_deposit(&broker, 0).await;

    let request = requester.request("FR");
    let forged = SignedRequest::sign(
        request.clone(),
        &requester.info.domain,
        stranger.wallet.key(),
        requester.signer.key(),
    );
    let posted = PostRequest { request: forged };
    let problem = requester
        .post::<ProposedDeal>("/v1/requests", &posted)
        .await
        .unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unauthorized);
    // Signed right, but in somebody else's session.
    let mut theirs = stranger.ask(request.clone()).await.unwrap_err();
    assert_eq!(theirs.kind, ProblemKind::InvalidRequest);
    for change in 0..6 {
        let mut bad = requester.request("FR");
        match change {
            0 => bad.network.0 = B256::repeat_byte(1),
            1 => bad.expires_at = ipsx_metering::UnixSeconds(now().0 - 1),
            2 => bad.budget = Amount::ZERO,
            3 => bad.seconds = 4,
            4 => bad.payer = stranger.wallet.address(),
            _ => bad.tunnel_key.0 = B256::ZERO,
        }
        theirs = requester.ask(bad).await.unwrap_err();
        assert_eq!(
            theirs.kind,
            ProblemKind::InvalidRequest,
            "{change}: {}",
            theirs.detail
        );
    }

    let (proposed, _) = tokio::join!(requester.ask(request.clone()), agent.accept());
    let proposed = proposed.unwrap();
    let problem = requester.ask(request).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Conflict);
    assert!(
        problem.detail.contains("was posted before"),
        "{}",
        problem.detail
    );

    let hash = proposed.deal.signing_hash(&requester.info.domain);
    let path = format!("/v1/deals/{}/signature", proposed.deal_id);
    let mut body = requester.signature(&proposed);
    body.signature = stranger.wallet.sign_hash(hash);
    let problem = requester.post::<BoundDeal>(&path, &body).await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unauthorized);
    // The right signature still binds it.
    requester.sign(&proposed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_key_must_be_authorized_for_long_enough() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 5)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    for case in 0..3 {
        let request = requester.request("FR");
        let (proposed, _) = tokio::join!(requester.ask(request), agent.accept());
        let proposed = proposed.unwrap();
        let mut body = requester.signature(&proposed);
        let mut authorization = requester.authorization(0).message;
        match case {
            0 => body.authorization = None,
            1 => authorization.valid_to = now().after(10),
            _ => authorization.signer = agent.wallet.address(),
        }
        if case > 0 {
            let signed = Signed::sign(
                authorization,
                &requester.info.domain,
                requester.wallet.key(),
            );
            body.authorization = Some(signed);
        }
        let path = format!("/v1/deals/{}/signature", proposed.deal_id);
        let problem = requester.post::<BoundDeal>(&path, &body).await.unwrap_err();
        assert_eq!(
            problem.kind,
            ProblemKind::InvalidRequest,
            "{case}: {}",
            problem.detail
        );
        assert!(matches!(
            agent.hear().await,
            BrokerMessage::DealAborted { .. }
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_deal_is_nobody_elses_business() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 5)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let mut stranger = TestRequester::with_deposit(&broker, 0).await;
    let request = requester.request("FR");
    let (proposed, _) = tokio::join!(requester.ask(request), agent.accept());
    let proposed = proposed.unwrap();
    let id = proposed.deal_id;
    let end = EndDeal {
        report: EndReport {
            cause: EndCause::RequesterEnded,
            usage: Usage::default(),
            amount: Amount::ZERO,
            voucher: None,
        },
    };
    let forbidden =
        |problem: Problem| assert_eq!(problem.kind, ProblemKind::Forbidden, "{problem:?}");
    forbidden(stranger.deal(id, "").await.unwrap_err());
    forbidden(stranger.sign(&proposed).await.unwrap_err());
    forbidden(
        stranger
            .post::<DealView>(&format!("/v1/deals/{id}/end"), &end)
            .await
            .unwrap_err(),
    );
    forbidden(
        stranger
            .post::<DealView>(&format!("/v1/deals/{id}/connected"), &Connected {})
            .await
            .unwrap_err(),
    );
    forbidden(
        stranger
            .get::<Frames>(&format!("/v1/deals/{id}/frames"))
            .await
            .unwrap_err(),
    );
    forbidden(
        stranger
            .post::<()>(&format!("/v1/deals/{id}/frames"), &Frames::default())
            .await
            .unwrap_err(),
    );
    let list: Vec<DealView> = stranger.get("/v1/deals").await.unwrap();
    assert!(list.is_empty());
    let list: Vec<DealView> = requester.get("/v1/deals").await.unwrap();
    assert_eq!(list.len(), 1);

    let unknown = format!("/v1/deals/{}", ipsx_metering::DealId(B256::repeat_byte(3)));
    assert_eq!(
        stranger.get::<DealView>(&unknown).await.unwrap_err().kind,
        ProblemKind::NotFound
    );
    let malformed = stranger
        .get::<DealView>("/v1/deals/0x12")
        .await
        .unwrap_err();
    assert_eq!(malformed.kind, ProblemKind::InvalidRequest);
    stranger.token = None;
    assert_eq!(
        stranger.deal(id, "").await.unwrap_err().kind,
        ProblemKind::Unauthorized
    );
    stranger.token = Some("ab".repeat(32));
    assert_eq!(
        stranger.deal(id, "").await.unwrap_err().kind,
        ProblemKind::Unauthorized
    );
    // Not connected yet: nothing to connect to.
    let early = requester
        .post::<DealView>(&format!("/v1/deals/{id}/connected"), &Connected {})
        .await;
    assert_eq!(early.unwrap_err().kind, ProblemKind::Conflict);
    // Its own requester may refuse it.
    let view: DealView = requester
        .post(&format!("/v1/deals/{id}/end"), &end)
        .await
        .unwrap();
    assert_eq!(view.status, DealStatus::Aborted);
    assert!(matches!(
        agent.hear().await,
        BrokerMessage::DealAborted { .. }
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_counts_once() {
    let broker = TestBroker::start().await;
    let requester = TestRequester::stranger(&broker);
    let body = requester.sign_in_body().await;
    let session: Session = requester.post("/v1/session", &body).await.unwrap();
    assert_eq!(session.token.len(), 64);
    let problem = requester
        .post::<Session>("/v1/session", &body)
        .await
        .unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unauthorized);
    assert!(problem.detail.contains("used before"), "{}", problem.detail);

    // A nonce that the broker did not give, signed right.
    let mut own: SessionNonce = requester.post("/v1/session/nonce", &()).await.unwrap();
    let last = own.nonce.pop().unwrap();
    own.nonce.push(if last == '0' { '1' } else { '0' });
    let chain = requester.info.domain.chain_id;
    let text =
        ipsx_market::sign_in::message(requester.wallet.address(), &own, chain, now()).unwrap();
    let body = ipsx_market::sign_in::sign(text, |hash| requester.wallet.sign_hash(hash));
    let problem = requester
        .post::<Session>("/v1/session", &body)
        .await
        .unwrap_err();
    assert!(
        problem.detail.contains("not of this broker"),
        "{}",
        problem.detail
    );

    let mut body = requester.sign_in_body().await;
    body.message = body.message.replace(
        &requester.wallet.address().to_string(),
        &requester.signer.address().to_string(),
    );
    let problem = requester
        .post::<Session>("/v1/session", &body)
        .await
        .unwrap_err();
    assert_eq!(problem.kind, ProblemKind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_a_problem() {
    let broker = TestBroker::start().await;
    let requester = TestRequester::with_deposit(&broker, 0).await;
    // The helper checks the content type of each.
    let status =
        |method: Method, path: &'static str, body: Vec<u8>| requester.exchange(method, path, body);
    let (found, body) = status(Method::GET, "/v2/everything", Vec::new()).await;
    assert_eq!(found, StatusCode::NOT_FOUND);
    let problem: Problem = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem.kind, ProblemKind::NotFound);
    let (found, body) = status(Method::DELETE, "/v1/offers", Vec::new()).await;
    assert_eq!(found, StatusCode::METHOD_NOT_ALLOWED);
    assert!(String::from_utf8_lossy(&body).contains("DELETE is not a method of /v1/offers"));
    let (found, _) = status(Method::POST, "/v1/requests", b"{".to_vec()).await;
    assert_eq!(found, StatusCode::BAD_REQUEST);
    let (found, _) = status(Method::POST, "/v1/requests", b"{\"request\": 3}".to_vec()).await;
    assert_eq!(found, StatusCode::BAD_REQUEST);
    let (found, _) = status(Method::POST, "/v1/requests", vec![b' '; 65 * 1024]).await;
    assert_eq!(found, StatusCode::PAYLOAD_TOO_LARGE);
    let (found, _) = status(Method::POST, "/rpc", vec![b' '; 257 * 1024]).await;
    assert_eq!(found, StatusCode::PAYLOAD_TOO_LARGE);
    let (found, body) = status(Method::GET, "/v1/offers?country=France", Vec::new()).await;
    assert_eq!(found, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(&body).contains("codes of two letters"));
    let (found, _) = status(Method::GET, "/v1/deals/x?wait=soon", Vec::new()).await;
    assert_eq!(found, StatusCode::BAD_REQUEST);

    let call = br#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}"#;
    let (found, body) = status(Method::POST, "/rpc", call.to_vec()).await;
    assert_eq!(found, StatusCode::OK);
    let chain = format!("{:#x}", requester.info.domain.chain_id);
    assert!(String::from_utf8_lossy(&body).contains(&chain));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_takes_only_what_is_not_promised() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 5)).await;
    let mut requester = TestRequester::with_deposit(&broker, 300_000).await;
    let request = requester.request("FR");
    let (proposed, _) = tokio::join!(requester.ask(request), agent.accept());
    requester.sign(&proposed.unwrap()).await.unwrap();
    let to = requester.wallet.address();
    let ask = |amount| PostWithdrawal {
        to,
        amount: Amount(amount),
    };
    let problem = requester
        .post::<SignedWithdrawal>("/v1/withdrawals", &ask(200_001))
        .await
        .unwrap_err();
    assert_eq!(problem.kind, ProblemKind::InsufficientDeposit);
    let consent: SignedWithdrawal = requester
        .post("/v1/withdrawals", &ask(200_000))
        .await
        .unwrap();
    let contract = broker.broker.centralizer();
    contract
        .withdraw_with_operator(&requester.wallet, &consent)
        .await
        .unwrap();
    assert_eq!(contract.token_balance(to).await.unwrap(), Amount(200_000));
    let problem = requester
        .post::<SignedWithdrawal>("/v1/withdrawals", &ask(1))
        .await
        .unwrap_err();
    assert_eq!(problem.kind, ProblemKind::InsufficientDeposit);
    let problem = requester
        .post::<SignedWithdrawal>("/v1/withdrawals", &ask(0))
        .await
        .unwrap_err();
    assert_eq!(problem.kind, ProblemKind::InvalidRequest);
}
