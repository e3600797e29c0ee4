//! A broker whose store is PostgreSQL does what it does with SQLite.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]

mod parties;

use ipsx_broker::Broker;
use ipsx_broker::config::{Secret, StoreConfig};
use ipsx_market::deal::Binding;
use ipsx_market::http::{BoundDeal, DealView};
use ipsx_market::status::DealStatus;
use ipsx_tests::postgres::Server;
use parties::{TestAgent, TestBroker, TestRequester};

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_outlives_a_broker_on_postgres() {
    let Some(server) = Server::for_test() else {
        return;
    };
    let store = StoreConfig::Postgres(Secret::new(server.database("broker")));
    let broker = TestBroker::start_with(|config| config.store = store.clone()).await;
    let mut agent = TestAgent::connect(&broker, "127.0.1.1").await;
    agent.publish(agent.offer(1_000, 1)).await;
    let mut requester = TestRequester::with_deposit(&broker, 1_000_000).await;
    let request = requester.request("FR");
    let (proposed, deal) = tokio::join!(requester.ask(request), agent.accept());
    let bound = requester.sign(&proposed.unwrap()).await.unwrap();
    assert_eq!(bound.outcome.message.outcome, Binding::Bound);
    let (id, wallet) = (deal.id(), requester.0.wallet);
    let TestBroker { broker, directory } = broker;
    broker.shutdown().await;
    assert!(!directory.path().join("data/broker.db").exists());

    let mut config = parties::config(directory.path());
    config.store = store;
    let broker = Broker::start(config).await.unwrap();
    let info = broker.network_info().clone();
    let mut requester = TestRequester::at(wallet, broker.http_addr(), info);
    requester.sign_in().await;
    let outcome: BoundDeal = requester
        .get(&format!("/v1/deals/{id}/outcome"))
        .await
        .unwrap();
    assert_eq!(outcome, bound);
    let deals: Vec<DealView> = requester.get("/v1/deals").await.unwrap();
    assert_eq!(deals.len(), 1);
    assert_eq!(deals[0].status, DealStatus::Agreed);
    broker.shutdown().await;
}

/// The password is for the server, and for nobody who reads an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = parties::config(directory.path());
    let url = "postgres://ipsx:hunter2@127.0.0.1:1/market";
    config.store = StoreConfig::Postgres(Secret::new(url));
    assert!(!format!("{config:?}").contains("hunter2"));
    let Err(refused) = Broker::start(config).await else {
        panic!("there is no server at port 1");
    };
    assert_eq!(refused.exit_code(), 4);
    let said = refused.to_string();
    assert!(said.contains("PostgreSQL at 127.0.0.1:1/market"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
