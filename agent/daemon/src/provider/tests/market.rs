//! A real broker with its embedded chain, real providers on 127.0.1.x, and a web server that says whom it saw.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipsx_broker::{Broker, BrokerConfig};
use ipsx_market::offer::{Capacity, Protocols, WeeklyHours};
use ipsx_metering::{Address, Amount, PricePerGib, PricePerSecond, Prices};
use ipsx_settlement::{RpcChain, Signer, Wallet};
use ipsx_tunnel_core::{ExitPolicy, Tier};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::network::Network;
use crate::provider::{
    DomainFiles, ExitArgs, ExposureLimits, OfferTerms, ProviderConfig, ProviderEvent,
    RunningProvider, accept_consent, start,
};

pub(super) const TOKEN: u128 = 1_000_000_000_000_000_000;
pub(super) const PRICE: u128 = TOKEN / 1_000;
/// Nothing in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Market {
    pub(super) broker: Option<Broker>,
    config: BrokerConfig,
    folder: TempDir,
}

impl Market {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = BrokerConfig::new(folder.path().join("broker"));
        config.http_listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        config.admin_listen = None;
        config.agents_listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let broker = Broker::start(config.clone()).await.unwrap();
        // A broker that is started again is to be found where it was.
        config.http_listen = broker.http_addr();
        config.agents_listen = broker.agents_addr();
        Self {
            broker: Some(broker),
            config,
            folder,
        }
    }

    pub(super) fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    /// Kills the broker.
    pub(super) fn kill_broker(&mut self) {
        drop(self.broker.take());
    }

    /// Starts the broker again on the same data and ports.
    pub(super) async fn restart_broker(&mut self) {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match Broker::start(self.config.clone()).await {
                Ok(broker) => return self.broker = Some(broker),
                // The old one's sockets close in the background.
                Err(error) => assert!(tokio::time::Instant::now() < until, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.config.http_listen)
    }

    /// The network as another process sees it: the chain over JSON-RPC.
    pub(super) async fn network(&self) -> Network {
        let chain = RpcChain::new(&format!("{}/rpc", self.url())).unwrap();
        Network::on(self.broker().network_info().clone(), Arc::new(chain))
            .await
            .unwrap()
    }

    pub(super) async fn grant(&self, to: Address, tokens: u128) {
        self.broker()
            .grant(to, Amount(tokens * TOKEN))
            .await
            .unwrap();
    }

    /// A provider's configuration at 127.0.1.`host`, whose exit may reach `origin`.
    pub(super) async fn provider_config(&self, host: u8, origin: SocketAddr) -> ProviderConfig {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 1, host));
        let mut policy = ExitPolicy::new(Tier::Web);
        policy.allow.push(
            format!("127.0.0.1/32:tcp/{}", origin.port())
                .parse()
                .unwrap(),
        );
        ProviderConfig {
            network: self.network().await,
            data: self.folder.path().join(format!("provider-{host}")),
            listen: SocketAddr::new(address, 0),
            bind: Some(address),
            advertise: None,
            policy,
            domains: DomainFiles::default(),
            exit: ExitArgs::default(),
            terms: terms(),
            exposure: ExposureLimits::default(),
            claim_at_end: true,
            claims: Default::default(),
            uapi: None,
            metrics: None,
            record_retention: 86_400,
            record_key: None,
        }
    }

    /// A provider with its offer in the book.
    pub(super) async fn provider(
        &self,
        config: ProviderConfig,
        wallet: &Arc<Wallet>,
    ) -> RunningProvider {
        accept_consent(&config, wallet.address()).await.unwrap();
        let mut provider = start(config, wallet.clone()).await.unwrap();
        wait_for(&mut provider, |event| {
            matches!(event, ProviderEvent::OfferPlaced { .. })
        })
        .await;
        provider
    }
}

pub(super) fn terms() -> OfferTerms {
    OfferTerms {
        prefixes: Vec::new(),
        protocols: Protocols::all(),
        services: Vec::new(),
        capacity: Capacity {
            leases: 2,
            mbit_up: 20,
            mbit_down: 100,
            bytes_per_month: u64::MAX,
        },
        prices: Prices {
            per_second: PricePerSecond(Amount(PRICE)),
            per_gib: PricePerGib(Amount(0)),
        },
        min_seconds: 5,
        max_seconds: 3_600,
        weekly_hours: WeeklyHours::always(),
    }
}

/// Waits for an event; the result is every event up to it.
pub(super) async fn wait_for(
    provider: &mut RunningProvider,
    wanted: impl Fn(&ProviderEvent) -> bool,
) -> Vec<ProviderEvent> {
    let mut seen = Vec::new();
    let found = async {
        while let Some(event) = provider.event().await {
            let found = wanted(&event);
            seen.push(event);
            if found {
                return true;
            }
        }
        false
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    assert_eq!(found, Ok(true), "it did not happen; this did: {seen:#?}");
    seen
}

/// A web server that answers every connection with the address that it saw, and then with `extra` bytes.
pub(super) async fn origin(extra: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, from)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let body = format!("{}\n{}", from.ip(), "x".repeat(extra));
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}
