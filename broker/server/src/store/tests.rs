//! The same tests on both databases.
#![allow(clippy::unwrap_used)]

#[path = "../../../market/tests/examples/mod.rs"]
#[allow(dead_code, reason = "made for the messages' golden files")]
mod examples;

use async_trait::async_trait;
use ipsx_market::deal::{Binding, Outcome};
use ipsx_market::http::DealEvent;
use ipsx_market::record::{Cause, DealRecord, Transition};
use ipsx_market::status::{ProviderStatus, Side};
use ipsx_metering::{Address, Amount, B256, RequestId, Signed, UnixSeconds};
use ipsx_tests::postgres::Server;
use tempfile::TempDir;

use super::*;
use crate::config::Secret;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// One test for each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::Place::sqlite().await).await;
            })*
        }
        mod postgresql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(place) = super::Place::postgres().await {
                    super::$name(place).await;
                }
            })*
        }
    };
}

mod deals;
mod requests;
mod tables;
mod wallets;
mod writing;

/// A store, and what it lives in.
struct Place {
    store: Store,
    config: StoreConfig,
    folder: TempDir,
    server: Option<Server>,
}

impl Place {
    async fn sqlite() -> Self {
        Self::open(StoreConfig::Sqlite, None).await
    }

    /// `None` where tests are to do without.
    async fn postgres() -> Option<Self> {
        let server = Server::for_test()?;
        let config = StoreConfig::Postgres(Secret::new(server.database("broker")));
        Some(Self::open(config, Some(server)).await)
    }

    async fn open(config: StoreConfig, server: Option<Server>) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&config, folder.path()).await.unwrap();
        Self {
            store,
            config,
            folder,
            server,
        }
    }

    async fn reopened(&self) -> Store {
        Store::open(&self.config, self.folder.path()).await.unwrap()
    }
}

/// A deal whose requester and request are told by `number`, newer the higher it is.
fn record(number: u8) -> DealRecord {
    let mut deal = examples::deal();
    deal.requester = Address::repeat_byte(number % 2 + 1);
    deal.request = RequestId(B256::repeat_byte(number));
    let mut record = DealRecord::new(
        deal,
        &examples::request(),
        examples::offer(),
        examples::placement(),
        examples::signed(examples::outcome(), &examples::provider()).signature,
        NOW.after(number.into()),
    );
    record.provider = ProviderStatus::Accepted;
    record
}

fn outcome(record: &DealRecord, outcome: Binding) -> Signed<Outcome> {
    let deal_id = record.deal_id;
    examples::signed(Outcome { deal_id, outcome }, &examples::operator())
}

fn change(record: &DealRecord) -> Entry {
    let moved = Transition {
        deal_id: record.deal_id,
        at: NOW,
        side: Side::Provider,
        provider: record.provider,
        requester: record.requester,
        cause: Cause::Signed,
    };
    Entry::Deal {
        record: Box::new(record.clone()),
        transitions: vec![moved],
    }
}

async fn save(store: &Store, changes: Vec<Entry>) -> Result<(), StoreError> {
    store.write(Entries(changes)).await
}

fn of_deal(change: &Change) -> &DealEvent {
    match &change.event {
        Event::Deal(event) => event,
        Event::Request(event) => panic!("{event:?}"),
    }
}

/// What a program that knows the tables might do.
struct Sql(&'static str);

#[async_trait]
impl Write for Sql {
    type Done = ();

    async fn write(&self, tx: &mut Tx) -> Result<(), StoreError> {
        tx.execute(self.0, []).await.map(drop)
    }
}
