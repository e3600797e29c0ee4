//! A broker with real sockets, an agent and a requester to talk to it.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses a part of this"
)]

pub mod agent;
pub mod bundle;
pub mod program;
pub mod requester;

use std::net::SocketAddr;
use std::path::Path;

use ipsx_broker::{Broker, BrokerConfig};
use ipsx_metering::{Amount, PricePerGib, PricePerSecond, Prices};
use tempfile::TempDir;

pub use agent::TestAgent;
pub use requester::TestRequester;

/// A broker on free ports that knows 127.0.1.0/24 as FR, 127.0.2.0/24 as DE and 127.0.3.0/24 as JP.
pub struct TestBroker {
    pub broker: Broker,
    pub directory: TempDir,
}

pub fn config(directory: &Path) -> BrokerConfig {
    let mut config = BrokerConfig::new(directory.join("data"));
    config.http_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.agents_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.admin_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    // One address asks for everybody here; the limits have tests of their own.
    config.limits.address_requests_per_second = 0;
    config.limits.wallet_requests_per_second = 0;
    let database = directory.join("places.mmdb");
    if !database.exists() {
        let places = [
            ("127.0.1.0/24", "FR"),
            ("127.0.2.0/24", "DE"),
            ("127.0.3.0/24", "JP"),
        ];
        write_database(&database, &places, 0);
    }
    config.country_db = Some(database);
    config
}

impl TestBroker {
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub async fn start_with(change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut config = config(directory.path());
        change(&mut config);
        let broker = Broker::start(config).await.unwrap();
        Self { broker, directory }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.broker.http_addr())
    }
}

pub fn prices(per_second: u128, per_gib: u128) -> Prices {
    Prices {
        per_second: PricePerSecond(Amount(per_second)),
        per_gib: PricePerGib(Amount(per_gib)),
    }
}

/// A database that was built at this time and knows these places; takes the place of one of before at once.
pub fn write_database(path: &Path, places: &[(&str, &str)], built_at: u64) {
    use maxminddb_writer::paths::IpAddrWithMask;
    let mut database = maxminddb_writer::Database::default();
    database.metadata.ip_version = maxminddb_writer::metadata::IpVersion::V4;
    database.metadata.binary_format_major_version = 2;
    database.metadata.database_type = "Test-Country".into();
    database.metadata.build_epoch = built_at;
    for (prefix, country) in places {
        let row = serde_json::json!({ "country": { "iso_code": country } });
        let data = database.insert_value(row).unwrap();
        let prefix: IpAddrWithMask = prefix.parse().unwrap();
        database.insert_node(prefix, data);
    }
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new).unwrap();
    database.write_to(&mut file).unwrap();
    std::fs::rename(new, path).unwrap();
}
