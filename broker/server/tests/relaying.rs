//! What requesters get of a relay, and when.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::time::Duration;

use ipsx_broker::config::RelayConfig;
use ipsx_market::deal::Deal;
use ipsx_market::http::{EndDeal, Problem, ProblemKind, RelayedWay, WantRelay};
use ipsx_market::messages::{BrokerMessage, EndCause, EndReport};
use ipsx_market::place::Reachability;
use ipsx_metering::{Amount, B256, Usage};
use parties::{TestAgent, TestBroker, TestRequester};

/// A broker at loopback that relays by these ports, so many of which one wallet may have.
async fn relaying(ports: std::ops::RangeInclusive<u16>, leases_per_wallet: usize) -> TestBroker {
    TestBroker::start_with(|config| {
        config.relay = Some(RelayConfig {
            ports,
            bytes_per_second: 1_000_000,
            lease_bytes_per_second: 1_000_000,
            leases_per_wallet,
        });
    })
    .await
}

/// A deal that is bound, of a request that asks for this.
async fn bound(
    requester: &mut TestRequester,
    agent: &mut TestAgent,
    way: Option<Reachability>,
) -> Deal {
    let mut request = requester.request("FR");
    request.filter.reachability = way;
    // Leases at the same time pay through channels of their own.
    request.channel_salt = B256::repeat_byte(way.map_or(1, |way| way as u8 + 2));
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    let proposed = proposed.unwrap();
    let early = wanted(requester, &deal).await.unwrap_err();
    assert_eq!(early, ProblemKind::Conflict);
    requester.sign(&proposed).await.unwrap();
    agent.bound().await;
    deal
}

async fn wanted(requester: &TestRequester, deal: &Deal) -> Result<RelayedWay, ProblemKind> {
    let answer = asked(requester, deal).await;
    answer.map_err(|problem| problem.kind)
}

async fn asked(requester: &TestRequester, deal: &Deal) -> Result<RelayedWay, Problem> {
    let path = format!("/v1/deals/{}/relay", deal.id());
    requester.post(&path, &WantRelay {}).await
}

async fn ended(requester: &TestRequester, deal: &Deal) {
    let report = EndReport {
        cause: EndCause::RequesterEnded,
        usage: Usage::default(),
        amount: Amount::ZERO,
        voucher: None,
    };
    let path = format!("/v1/deals/{}/end", deal.id());
    let body = EndDeal { report };
    requester
        .post::<serde_json::Value>(&path, &body)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_bound_deal_are_told_one_port_and_a_token_each() {
    let broker = relaying(21_200..=21_200, 8).await;
    let relay = broker.broker.network_info().relay.unwrap();
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 4);
    agent.publish(offer).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let deal = bound(&mut requester, &mut agent, None).await;
    let stranger = TestRequester::with_deposit(&broker, 0).await;
    let refused = wanted(&stranger, &deal).await.unwrap_err();
    assert_eq!(refused, ProblemKind::Forbidden);
    let way = wanted(&requester, &deal).await.unwrap();
    assert_eq!(way.relay, (relay, 21_200).into());
    // Nothing of what was refused was told before it; and asked again, it is the same.
    for again in [false, true] {
        let BrokerMessage::Relay {
            deal_id,
            relay,
            token,
        } = agent.hear().await
        else {
            panic!("not told");
        };
        assert_eq!((deal_id, relay), (deal.id(), way.relay));
        assert_ne!(token, way.token);
        if !again {
            assert_eq!(wanted(&requester, &deal).await.unwrap(), way);
        }
    }

    let second = bound(&mut requester, &mut agent, Some(Reachability::Relayed)).await;
    let full = wanted(&requester, &second).await.unwrap_err();
    assert_eq!(full, ProblemKind::Unavailable, "its only port is in use");
    ended(&requester, &deal).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let other = wanted(&requester, &second).await.unwrap();
    assert_ne!(
        other.token, way.token,
        "the port is the same, the lease another"
    );
    let refused = wanted(&requester, &deal).await.unwrap_err();
    assert!(matches!(
        refused,
        ProblemKind::Conflict | ProblemKind::NotFound
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_better_way_and_who_asks_another_broker_gets_no_relay() {
    let broker = relaying(21_210..=21_219, 8).await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 4);
    agent.publish(offer).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    for way in [Reachability::Direct, Reachability::Punched] {
        let deal = bound(&mut requester, &mut agent, Some(way)).await;
        let refused = wanted(&requester, &deal).await.unwrap_err();
        assert_eq!(refused, ProblemKind::Conflict, "{way}");
    }

    let broker = TestBroker::start().await;
    assert_eq!(broker.broker.network_info().relay, None);
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 4);
    agent.publish(offer).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let deal = bound(&mut requester, &mut agent, None).await;
    let refused = wanted(&requester, &deal).await.unwrap_err();
    assert_eq!(refused, ProblemKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_its_share_of_the_ports_is_told_what_to_do() {
    let broker = relaying(21_220..=21_229, 1).await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 4);
    agent.publish(offer).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let first = bound(&mut requester, &mut agent, None).await;
    let second = bound(&mut requester, &mut agent, Some(Reachability::Relayed)).await;
    let mut neighbour = TestRequester::with_deposit(&broker, 1_000_000).await;
    let third = bound(&mut neighbour, &mut agent, None).await;
    asked(&requester, &first).await.unwrap();
    let refused = asked(&requester, &second).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::TooManyRequests);
    assert!(refused.detail.contains("end one of them"), "{refused:?}");

    // Another requester is refused because of the provider, as long as that has its share.
    let refused = asked(&neighbour, &third).await.unwrap_err();
    assert_eq!(refused.kind, ProblemKind::TooManyRequests);
    let told = "take another one's offer";
    assert!(refused.detail.contains(told), "{refused:?}");

    ended(&requester, &first).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    asked(&neighbour, &third).await.unwrap();
}
