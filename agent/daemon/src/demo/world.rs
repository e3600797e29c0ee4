//! The demo's market: one broker with its chain, three providers, one requester, one web server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipsx_agent_core::provider::{ExposureLimits, OfferTerms};
use ipsx_broker::config::Secret;
use ipsx_broker::{Broker, BrokerConfig};
use ipsx_market::offer::{Capacity, Protocols, WeeklyHours};
use ipsx_metering::{Address, Amount, PricePerGib, PricePerSecond, Prices};
use ipsx_settlement::{Passphrase, Sealing, Signer, Wallet};
use ipsx_tunnel_core::{ExitPolicy, PortRange, Rule, RuleProtocol, Tier};
use rand::RngCore;
use rand::rngs::OsRng;
use tempfile::TempDir;

use super::places;
use super::web::Web;
use crate::broker::Broker as BrokerClient;
use crate::connect::Requester;
use crate::deposit::deposit;
use crate::exit_code::{ExitCode, Failure};
use crate::network::Network;
use crate::provider::{
    self, DomainFiles, ExitArgs, ProviderConfig, ProviderEvent, RunningProvider, payout_wallet,
};
use crate::store::{failure, write_private};

/// A thousandth of a token.
pub(crate) const MILLI: u128 = 1_000_000_000_000_000;
/// What the requester is given, and what it deposits of it.
const GRANT: Amount = Amount(20_000 * MILLI);
pub(crate) const DEPOSIT: Amount = Amount(10_000 * MILLI);
/// The network's fee: 1 %.
const FEE_BPS: u16 = 100;

/// Country, address and price per second in hundredths of a thousandth of a token.
const PLACES: [(&str, Ipv4Addr, u128); 3] = [
    ("FR", Ipv4Addr::new(127, 0, 1, 1), 180),
    ("DE", Ipv4Addr::new(127, 0, 1, 2), 150),
    ("JP", Ipv4Addr::new(127, 0, 1, 3), 200),
];

/// One provider of the demo.
pub(crate) struct DemoProvider {
    pub(crate) country: &'static str,
    pub(crate) address: IpAddr,
    pub(crate) prices: Prices,
    pub(crate) wallet: Arc<Wallet>,
    pub(crate) running: RunningProvider,
}

/// Everything that runs.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) broker: Broker,
    pub(crate) network: Network,
    pub(crate) treasury: Address,
    pub(crate) providers: Vec<DemoProvider>,
    pub(crate) requester: Arc<Requester>,
    pub(crate) web: Web,
    /// Removed with everything in it, unless the folder was named.
    _temporary: Option<TempDir>,
}

impl World {
    /// Starts all of it, in `data` or in a temporary folder.
    pub(crate) async fn start(data: Option<&Path>) -> Result<Self, Failure> {
        let temporary = match data {
            Some(_) => None,
            None => Some(
                tempfile::Builder::new()
                    .prefix("ipsx-demo-")
                    .tempdir()
                    .map_err(|error| {
                        Failure::new(
                            ExitCode::Storage,
                            format!(
                                "no temporary folder can be made: {error}; name one with --data"
                            ),
                        )
                    })?,
            ),
        };
        let folder = match (data, &temporary) {
            (Some(data), _) => data.to_path_buf(),
            (None, Some(temporary)) => temporary.path().to_path_buf(),
            (None, None) => return Err(Failure::internal("the demo has no folder")),
        };
        let passphrase = passphrase(&folder)?;
        let treasury = open_wallet(&folder.join("treasury"), &passphrase)
            .await?
            .address();
        let broker = start_broker(&folder, &passphrase, treasury).await?;
        let network = Network::on(broker.network_info().clone(), broker.chain()).await?;
        let web = Web::start().await.map_err(|error| {
            Failure::new(
                ExitCode::PortInUse,
                format!("the demo's web server cannot listen on 127.0.0.1: {error}"),
            )
        })?;
        let mut providers = Vec::new();
        for place in PLACES {
            providers
                .push(start_provider(&folder, &passphrase, place, &broker, &network, &web).await?);
        }
        let requester = start_requester(&folder, &passphrase, &broker, &network).await?;
        for provider in &mut providers {
            wait_until_placed(provider).await?;
        }
        Ok(Self {
            folder,
            broker,
            network,
            treasury,
            providers,
            requester: Arc::new(requester),
            web,
            _temporary: temporary,
        })
    }

    /// The broker's URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.broker.http_addr())
    }

    /// Where the broker's operator looks.
    pub(crate) fn admin_url(&self) -> String {
        let address = self.broker.admin_addr();
        address.map_or_else(String::new, |address| format!("http://{address}"))
    }

    /// Where a provider's earnings from the demo's requester go.
    pub(crate) fn payout(&self, provider: &DemoProvider) -> Address {
        payout_wallet(
            &provider.wallet,
            self.network.info.network,
            self.requester.wallet.address(),
        )
        .address()
    }

    /// Ends everything, the providers first: they tell the broker.
    pub(crate) async fn stop(self) {
        let stopping = self
            .providers
            .into_iter()
            .map(|provider| provider.running.shutdown());
        futures_util::future::join_all(stopping).await;
        self.broker.shutdown().await;
    }
}

/// The passphrase of the demo's wallets: drawn once, beside them, because they are worth nothing.
fn passphrase(folder: &Path) -> Result<String, Failure> {
    let file = folder.join("passphrase");
    if let Ok(text) = std::fs::read_to_string(&file) {
        return Ok(text.trim().to_string());
    }
    let mut random = [0; 16];
    OsRng.fill_bytes(&mut random);
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(&file, format!("{text}\n").as_bytes())?;
    Ok(text)
}

async fn open_wallet(folder: &Path, passphrase: &str) -> Result<Arc<Wallet>, Failure> {
    let (path, passphrase) = (folder.join("wallet.json"), Passphrase::new(passphrase));
    let opened = tokio::task::spawn_blocking(move || {
        if path.exists() {
            Wallet::open(&path, &passphrase)
        } else {
            Wallet::create_sealed(&path, &passphrase, Sealing::Quick)
        }
    });
    match opened.await {
        Ok(wallet) => Ok(Arc::new(wallet?)),
        Err(error) => Err(Failure::internal(format!(
            "a wallet's key derivation failed: {error}"
        ))),
    }
}

async fn start_broker(
    folder: &Path,
    passphrase: &str,
    treasury: Address,
) -> Result<Broker, Failure> {
    let data = folder.join("broker");
    std::fs::create_dir_all(&data).map_err(|error| failure("make", &data, error))?;
    let places_file = data.join("places.mmdb");
    places::write(
        &places_file,
        &PLACES.map(|(country, address, _)| (address, country)),
    )?;
    let mut config = BrokerConfig::new(data);
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    config.http_listen = any_port;
    config.admin_listen = Some(any_port);
    config.agents_listen = any_port;
    config.country_db = Some(places_file);
    config.passphrase = Some(Secret::new(passphrase));
    config.fee_bps = FEE_BPS;
    config.treasury = Some(treasury);
    Broker::start(config)
        .await
        .map_err(|error| Failure::internal(format!("the broker does not start: {error}")))
}

async fn start_provider(
    folder: &Path,
    passphrase: &str,
    (country, address, price): (&'static str, Ipv4Addr, u128),
    broker: &Broker,
    network: &Network,
    web: &Web,
) -> Result<DemoProvider, Failure> {
    let data = folder.join(format!("provider-{}", country.to_lowercase()));
    let wallet = open_wallet(&data, passphrase).await?;
    grant(broker, wallet.address(), Amount::ZERO).await?;
    let prices = Prices {
        per_second: PricePerSecond(Amount(price * MILLI / 100)),
        per_gib: PricePerGib(Amount(10 * MILLI)),
    };
    let config = ProviderConfig {
        network: network.clone(),
        data,
        listen: SocketAddr::new(address.into(), 0),
        bind: Some(address.into()),
        advertise: None,
        policy: policy(web.address()),
        domains: DomainFiles::default(),
        exit: ExitArgs::default(),
        terms: OfferTerms {
            prefixes: Vec::new(),
            protocols: Protocols::all(),
            services: Vec::new(),
            capacity: Capacity {
                leases: 4,
                mbit_up: 100,
                mbit_down: 1_000,
                bytes_per_month: u64::MAX,
            },
            prices,
            min_seconds: 5,
            max_seconds: 24 * 3_600,
            weekly_hours: WeeklyHours::always(),
        },
        exposure: ExposureLimits::default(),
        claim_at_end: true,
        claims: Default::default(),
        uapi: None,
        metrics: None,
        record_retention: 86_400,
        record_key: None,
    };
    // Whoever runs the demo shares nothing: every flow ends on this machine's loopback.
    provider::accept_consent(&config, wallet.address()).await?;
    let running = provider::start(config, wallet.clone()).await?;
    Ok(DemoProvider {
        country,
        address: address.into(),
        prices,
        wallet,
        running,
    })
}

/// Closed but for the demo's own web server.
fn policy(web: SocketAddr) -> ExitPolicy {
    let port = PortRange::new(web.port(), web.port());
    let rule = port.map(|port| Rule::new(web.ip().into(), RuleProtocol::Tcp, port));
    ExitPolicy {
        tier: Tier::Web,
        allow: rule.into_iter().collect(),
        ..ExitPolicy::default()
    }
}

async fn wait_until_placed(provider: &mut DemoProvider) -> Result<(), Failure> {
    let patience = std::time::Duration::from_secs(20);
    let placed = async {
        while let Some(event) = provider.running.event().await {
            match event {
                ProviderEvent::OfferPlaced { .. } => return Ok(()),
                ProviderEvent::OfferRefused { reason, .. } => return Err(reason),
                other => tracing::info!(provider = provider.country, "{other:?}"),
            }
        }
        Err("the provider ended".to_string())
    };
    let outcome = tokio::time::timeout(patience, placed).await;
    let reason = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(reason)) => reason,
        Err(_) => format!("no word from the broker within {} s", patience.as_secs()),
    };
    Err(Failure::internal(format!(
        "the demo's offer in {} was not placed: {reason}",
        provider.country
    )))
}

async fn start_requester(
    folder: &Path,
    passphrase: &str,
    broker: &Broker,
    network: &Network,
) -> Result<Requester, Failure> {
    let data = folder.join("requester");
    let wallet = open_wallet(&data, passphrase).await?;
    let client = BrokerClient::new(&format!("http://{}", broker.http_addr()));
    let requester = Requester::new(wallet, network.clone(), client, &data);
    let owner = requester.wallet.address();
    let account = network.contract.account(network.info.network, owner).await;
    let balance = account.map_err(crate::network::contract_failure)?.balance;
    // A folder that is used again has its deposit already.
    if balance < Amount(DEPOSIT.0 / 2) {
        grant(broker, owner, GRANT).await?;
        deposit(&requester, DEPOSIT).await?;
    }
    Ok(requester)
}

async fn grant(broker: &Broker, to: Address, amount: Amount) -> Result<(), Failure> {
    let granted = broker.grant(to, amount).await;
    granted.map(drop).map_err(|error| {
        Failure::internal(format!("{to} could not be given tokens and gas: {error}"))
    })
}
