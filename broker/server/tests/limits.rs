//! Pages of lists, and how often one may ask.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::collections::HashSet;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use ipsx_market::http::{DealView, OfferView, Problem, ProblemKind};
use ipsx_metering::B256;
use parties::{TestAgent, TestBroker, TestRequester};

/// Status, headers, body.
async fn get(
    requester: &TestRequester,
    path: &str,
    forwarded: Option<&str>,
) -> (StatusCode, hyper::HeaderMap, Bytes) {
    let mut request = Request::get(format!("{}{path}", requester.url));
    if let Some(token) = &requester.token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if let Some(client) = forwarded {
        request = request.header("x-forwarded-for", client);
    }
    let request = request.body(Full::default()).unwrap();
    let (parts, body) = requester
        .client
        .request(request)
        .await
        .unwrap()
        .into_parts();
    (
        parts.status,
        parts.headers,
        body.collect().await.unwrap().to_bytes(),
    )
}

/// The path of the next page, if there is one.
fn next_page(headers: &hyper::HeaderMap) -> Option<String> {
    let link = headers.get("link")?.to_str().unwrap();
    let path = link.strip_prefix('<').unwrap();
    Some(path.strip_suffix(">; rel=\"next\"").unwrap().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_come_page_by_page_whatever_comes_and_goes() {
    let broker = TestBroker::start().await;
    let requester = TestRequester::stranger(&broker);
    let mut agents = Vec::new();
    for price in [50, 10, 40, 20, 30] {
        let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
        agent.publish(agent.offer(price, 1)).await;
        agents.push(agent);
    }
    let (mut path, mut seen) = (
        Some("/v1/offers?limit=2&country=FR".to_string()),
        Vec::new(),
    );
    while let Some(page) = path {
        let (status, headers, body) = get(&requester, &page, None).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let offers: Vec<OfferView> = serde_json::from_slice(&body).unwrap();
        seen.extend(offers.iter().map(|offer| offer.prices.per_second.0.0));
        path = next_page(&headers);
        assert_eq!(path.is_some(), seen.len() < 4, "{page}");
        if seen.len() == 2 {
            // One before the next page comes, and one of it goes.
            let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
            agent.publish(agent.offer(5, 1)).await;
            let gone = agents.remove(4).offers.remove(0).id();
            let left = async {
                loop {
                    let all: Vec<OfferView> = requester.get("/v1/offers").await.unwrap();
                    if all.iter().all(|offer| offer.offer != gone) {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            let patience = std::time::Duration::from_secs(10);
            tokio::time::timeout(patience, left).await.unwrap();
            agents.push(agent);
        }
    }
    assert_eq!(seen, [10, 20, 40, 50]);
    for bad in ["cursor=", "cursor=00", "limit=x"] {
        let (status, ..) = get(&requester, &format!("/v1/offers?{bad}"), None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_stay_as_they_are_while_deals_come() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 8)).await;
    let mut requester = TestRequester::with_deposit(&broker, 10_000_000).await;
    let mut ids = Vec::new();
    for n in 0..5u8 {
        let mut request = requester.request("FR");
        request.channel_salt = B256::repeat_byte(n);
        let (proposed, _) = tokio::join!(requester.ask(request), agent.accept());
        ids.push(proposed.unwrap().deal_id);
    }
    let all: Vec<DealView> = requester.get("/v1/deals").await.unwrap();
    let all: Vec<_> = all.iter().map(|view| view.deal_id).collect();
    assert_eq!(all.len(), 5);
    let mut path = Some("/v1/deals?limit=2".to_string());
    let mut paged = Vec::new();
    while let Some(asked) = path {
        let (status, headers, body) = get(&requester, &asked, None).await;
        assert_eq!(status, StatusCode::OK);
        let views: Vec<DealView> = serde_json::from_slice(&body).unwrap();
        paged.extend(views.iter().map(|view| view.deal_id));
        path = next_page(&headers);
        // One more, which is newer than what is left to read.
        if paged.len() == 2 {
            let mut request = requester.request("FR");
            request.channel_salt = B256::repeat_byte(9);
            // Times are whole seconds; what comes in a later one is newer.
            tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
            let (proposed, _) = tokio::join!(requester.ask(request), agent.accept());
            proposed.unwrap();
        }
    }
    assert_eq!(paged, all);
    assert_eq!(paged.iter().collect::<HashSet<_>>(), ids.iter().collect());
    for bad in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=",
        "cursor=AAAA",
        "page=2",
    ] {
        let (status, _, _) = get(&requester, &format!("/v1/deals?{bad}"), None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let broker = TestBroker::start_with(|config| {
        config.limits.address_requests_per_second = 4;
        config.limits.wallet_requests_per_second = 2;
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let mut requester = TestRequester::stranger(&broker);
    requester.sign_in().await;
    let (status, headers, _) = get(&requester, "/v1/deals", None).await;
    assert_eq!(status, StatusCode::OK);
    let policy = "\"address\";q=40;w=10, \"wallet\";q=20;w=10";
    assert_eq!(headers["ratelimit-policy"], policy);
    assert!(
        headers["ratelimit"]
            .to_str()
            .unwrap()
            .contains("\"wallet\";r=19;t=1")
    );
    // The wallet's bucket is empty first, wherever it asks from.
    let mut refused = 0;
    for n in 0..60 {
        let client = format!("198.51.100.{n}");
        let (status, headers, body) = get(&requester, "/v1/deals", Some(&client)).await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            let problem: Problem = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem.kind, ProblemKind::TooManyRequests);
            assert!(
                problem.detail.contains("from this wallet"),
                "{}",
                problem.detail
            );
            assert_eq!(headers["retry-after"], "1");
            refused += 1;
        }
    }
    assert!(refused > 10, "{refused}");
    // An address has its own, whoever asks; others are not touched.
    let stranger = TestRequester::stranger(&broker);
    let mut refused = 0;
    for _ in 0..120 {
        let (status, _, body) = get(&stranger, "/v1/network", Some("203.0.113.1")).await;
        if status == StatusCode::TOO_MANY_REQUESTS {
            let problem: Problem = serde_json::from_slice(&body).unwrap();
            assert!(
                problem.detail.contains("from this address"),
                "{}",
                problem.detail
            );
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused}");
    let (status, _, _) = get(&stranger, "/v1/network", Some("203.0.113.2")).await;
    assert_eq!(status, StatusCode::OK);
}
