//! Where offers are, when the database that says so is replaced under a running broker.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use std::fs;
use std::time::Duration;

use ipsx_market::http::OfferView;
use ipsx_market::messages::BrokerMessage;
use ipsx_metering::UnixSeconds;
use parties::{TestAgent, TestBroker, TestRequester, write_database};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn offers_move_with_the_database_and_stay_when_it_is_broken() {
    let broker = TestBroker::start().await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    let offer = agent.offer(1_000, 1);
    agent.publish(offer).await;
    let requester = TestRequester::with_deposit(&broker, 1_000).await;
    let database = broker.directory.path().join("places.mmdb");

    write_database(&database, &[("127.0.1.0/24", "DE")], 1_700_000_000);
    let heard = agent.hear().await;
    let BrokerMessage::OfferPlaced { placement, .. } = heard else {
        panic!("{heard:?}");
    };
    assert_eq!(placement.country.unwrap().to_string(), "DE");
    let found: Vec<OfferView> = requester.get("/v1/offers?country=DE").await.unwrap();
    assert_eq!(found.len(), 1);
    let evidence = found[0].placement.evidence.as_ref().unwrap();
    assert_eq!(evidence.databases[0].built_at, UnixSeconds(1_700_000_000));
    let gone: Vec<OfferView> = requester.get("/v1/offers?country=FR").await.unwrap();
    assert_eq!(gone, []);

    fs::write(&database, "no database").unwrap();
    // Twice as long as until it is looked at.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let found: Vec<OfferView> = requester.get("/v1/offers?country=DE").await.unwrap();
    assert_eq!(found.len(), 1);
    let overview: Value = requester.get("/v1/overview").await.unwrap();
    let build = &overview["databases"][0];
    assert_eq!(build["built_at"], 1_700_000_000, "{overview}");
    assert_eq!(build["name"], "Test-Country");
}
