//! The broker of one network: agents over QUIC, requesters over HTTP, a store, the operator's wallet and its chain.
//!
//! [`Broker::start`] runs one in this process; the program `ipsx-broker` is little more than that.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a shell reads the clock and owns sockets and files, for the pure crates"
)]

mod agents;
pub mod backup;
mod check;
mod clock;
pub mod config;
mod desk;
mod error;
mod fleet;
mod http;
mod mailbox;
mod metrics;
mod operator;
pub mod placement;
mod reflector;
mod relay;
mod store;
mod timekeeping;

use std::fs::{File, TryLockError};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipsx_market::http::NetworkInfo;
use ipsx_market::messages::PROTOCOL_VERSION;
use ipsx_metering::{Address, Amount, B256};
use ipsx_settlement::{Centralizer, Chain, VoucherStore, Wallet};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub use check::check;
pub use config::BrokerConfig;
pub use error::{GrantError, StartError};
pub use operator::Unsealed;

use agents::Listener;
use config::ChainConfig;
use desk::{Desk, Surroundings};
use fleet::Fleet;
use http::{App, HttpServer, InFlight, Limiter, Limits, Streams};
use metrics::Metrics;
use operator::{Operator, random};
use placement::{Databases, Placer};
use reflector::Reflector;
use relay::Relay;
use store::Store;

/// The requesters' interface as an OpenAPI 3.1 document, as `GET /openapi.json` has it.
pub fn openapi() -> &'static str {
    http::openapi()
}

/// Connections of the operator's at the same time.
const ADMIN_CONNECTIONS: usize = 32;
/// How long one of several brokers may keep a transaction open in which it asks for nothing.
const LEFT_ALONE: &str = "2s";
/// Time for an agent's handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A running broker. Dropping it stops it at once, as a crash would; [`Broker::shutdown`] lets answers go out first.
pub struct Broker {
    http_addr: SocketAddr,
    agents_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    info: NetworkInfo,
    data_dir: PathBuf,
    desk: Arc<Desk>,
    endpoint: quinn::Endpoint,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    /// Held as long as the data directory is in use.
    _lock: File,
}

impl Broker {
    /// Opens the store and the chain, creates the network on the first start, takes up unfinished deals, and
    /// listens. Returns once agents and requesters can connect.
    pub async fn start(config: BrokerConfig) -> Result<Self, StartError> {
        Self::start_with(config, &Unsealed::new()).await
    }

    /// The same with a wallet that may be open already, and is left open.
    pub async fn start_with(config: BrokerConfig, unsealed: &Unsealed) -> Result<Self, StartError> {
        let lock = prepare(&config.data_dir)?;
        // What can fail without leaving anything behind goes first.
        let placer = open_placer(&config)?;
        let http = HttpServer::bind(config.http_listen, "requesters", "http_listen").await?;
        let admin = match config.admin_listen {
            Some(address) => Some(HttpServer::bind(address, "the operator", "admin_listen").await?),
            None => None,
        };
        let admin_addr = admin.as_ref().map(HttpServer::address);
        let listener = Listener::bind(config.agents_listen)?;
        let reflector = bind_reflector(&config).await?;
        let left_alone = config.fleet.as_ref().map(|_| LEFT_ALONE);
        let store = Store::open_shared(&config.store, &config.data_dir, left_alone).await?;
        let operator = Arc::new(Operator::open(&config, &store, unsealed).await?);
        let vouchers = open_vouchers(&config, &operator).await?;
        let metrics = Metrics::new().map_err(|error| StartError::Internal(error.to_string()))?;
        let nonce_key = nonce_key(&store).await?;
        let (http_addr, agents_addr) = (http.address(), listener.address());
        let asked = reflector.as_deref().map(Reflector::address);
        let metrics = Arc::new(metrics);
        let relay = open_relay(&config, &metrics);
        let relayed = relay.as_deref().map(Relay::address);
        let info = network_info(&config, &operator, agents_addr, (asked, relayed));
        let (fleet, carrying) = match &config.fleet {
            None => (None, None),
            Some(own) => {
                let (fleet, carrying) = Fleet::connect(own, operator.network()).await?;
                (Some(fleet), Some(carrying))
            }
        };
        let surroundings = Surroundings {
            operator,
            placer,
            metrics,
            fleet: fleet.clone(),
            reflector: reflector.clone(),
            relay,
        };
        let opened = Desk::open(&config, store, vouchers, surroundings).await?;
        let (desk, releasing) = opened;
        // What ran out while the broker was away is settled before anybody can ask.
        if let Err(error) = desk.tick().await {
            releasing.abort();
            return Err(StartError::Internal(error.to_string()));
        }
        let (stop, stopping) = watch::channel(false);
        let app = Arc::new(App {
            desk: Arc::clone(&desk),
            info: info.clone(),
            uri: config
                .public_url
                .clone()
                .unwrap_or_else(|| format!("http://{http_addr}")),
            session_seconds: config.limits.session_seconds.into(),
            nonce_key,
            sign_ins: Semaphore::new(App::SIGN_INS),
            limits: Limits {
                addresses: Limiter::new("address", config.limits.address_requests_per_second),
                wallets: Limiter::new("wallet", config.limits.wallet_requests_per_second),
                trusted_proxies: config.trusted_proxies.clone(),
            },
            admin_hosts: config.admin_hosts.clone(),
            in_flight: InFlight::default(),
            // Streams are for long; they leave room for whoever comes with a question.
            streams: Streams::new(config.limits.http_requests as usize / 2),
            stop: stopping.clone(),
        });
        let endpoint = listener.open(&nonce_key)?;
        let limits = agents::Limits {
            handshake: HANDSHAKE,
            messages_per_second: config.limits.messages_per_second,
            agents: config.limits.agents,
            prefix_connects_per_second: config.limits.prefix_connects_per_second,
            prefix_messages_per_second: config.limits.prefix_messages_per_second,
        };
        let agents = agents::run(endpoint.clone(), Arc::clone(&desk), limits);
        let connections = config.limits.http_requests as usize;
        let requesters = http::router(Arc::clone(&app));
        let mut tasks = vec![
            tokio::spawn(http.run(requesters, connections, stopping.clone())),
            tokio::spawn(agents),
            tokio::spawn(timekeeping::keep_time(Arc::clone(&desk))),
            releasing,
        ];
        tasks.extend(carrying);
        tasks.extend(reflector.map(|reflector| tokio::spawn(reflector.run())));
        if let (Some(fleet), Some(store)) = (fleet, desk.shared.clone()) {
            let answers = http::brokers_router(Arc::clone(&app));
            tasks.extend(fleet.join(&desk, store, answers).await?);
        }
        if let Some(admin) = admin {
            let operators = http::admin_router(app);
            tasks.push(tokio::spawn(admin.run(
                operators,
                ADMIN_CONNECTIONS,
                stopping,
            )));
        }
        tracing::info!(%http_addr, %agents_addr, ?admin_addr, network = %info.network, operator = %info.operator, "broker started");
        Ok(Self {
            http_addr,
            agents_addr,
            admin_addr,
            info,
            data_dir: config.data_dir,
            desk,
            endpoint,
            stop,
            tasks,
            _lock: lock,
        })
    }

    /// Where requesters connect, with the port that was really taken.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where agents connect, with the port that was really taken.
    pub fn agents_addr(&self) -> SocketAddr {
        self.agents_addr
    }

    /// Where metrics, health and the operator's actions are, if anywhere.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// What `GET /v1/network` answers; `chain_rpc` is the path `/rpc` with the embedded chain.
    pub fn network_info(&self) -> &NetworkInfo {
        &self.info
    }

    /// The chain, embedded or a node.
    pub fn chain(&self) -> Arc<dyn Chain> {
        Arc::clone(self.desk.operator.centralizer().chain())
    }

    /// The contract, for whoever wants to look at balances from within this process.
    pub fn centralizer(&self) -> Centralizer {
        self.desk.operator.centralizer().clone()
    }

    /// The operator's wallet: on the embedded chain it owns all tokens at first.
    pub fn operator(&self) -> Arc<Wallet> {
        Arc::clone(self.desk.operator.wallet())
    }

    /// Sends tokens from the operator's wallet to a newcomer; returns the transaction, which is in a block.
    pub async fn grant(&self, to: Address, amount: Amount) -> Result<B256, GrantError> {
        Ok(self.desk.operator.grant(to, amount).await?)
    }

    /// Returns only when the broker can't go on, because its store has failed; it must be started again.
    pub async fn failed(&self) -> StartError {
        self.desk.failed().await;
        if self.desk.fleet.is_some() {
            return StartError::CutOff;
        }
        StartError::Store {
            path: self.data_dir.clone(),
            reason: "it can no longer be written (see the log); mend it and start the broker again"
                .into(),
        }
    }

    /// Stops at once, as a crash would, but tells agents that they should go elsewhere.
    pub async fn abandon(self) {
        let told = agents::close(&self.endpoint);
        // Whoever does not hear it notices by itself.
        let _ = tokio::time::timeout(Duration::from_millis(300), told).await;
    }

    /// Stops listening, lets answers under way go out, closes the store.
    pub async fn shutdown(mut self) {
        // Nobody listens any more if this fails.
        let _ = self.stop.send(true);
        agents::close(&self.endpoint).await;
        let mut tasks = std::mem::take(&mut self.tasks).into_iter();
        for listening in tasks.by_ref().take(2) {
            // A panic in it was logged where it happened.
            let _ = listening.await;
        }
        for rest in tasks {
            rest.abort();
            // Files are closed when the last task has let go of them.
            let _ = rest.await;
        }
        self.desk.close().await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.desk.halt();
        for task in &self.tasks {
            task.abort();
        }
        self.endpoint.close(0u32.into(), b"");
    }
}

/// Makes the data directory and takes it for this process.
fn prepare(directory: &Path) -> Result<File, StartError> {
    let failed = |reason: String| StartError::Store {
        path: directory.to_path_buf(),
        reason,
    };
    std::fs::create_dir_all(directory).map_err(|error| failed(error.to_string()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Wallet, passphrase and everybody's deals: nobody else's to read.
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(directory, private).map_err(|error| failed(error.to_string()))?;
    }
    let lock = File::create(directory.join("broker.lock"));
    let lock = lock.map_err(|error| failed(error.to_string()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(failed(
            "another broker uses it; stop that one, or set data_dir to another directory".into(),
        )),
        Err(TryLockError::Error(error)) => Err(failed(error.to_string())),
    }
}

fn open_placer(config: &BrokerConfig) -> Result<Placer, StartError> {
    let files = Databases {
        country: config.country_db.as_deref(),
        city: config.city_db.as_deref(),
        asn: config.asn_db.as_deref(),
    };
    Placer::open(&files).map_err(|error| StartError::Database {
        key: error.key,
        path: error.path,
        reason: error.reason,
    })
}

async fn bind_reflector(config: &BrokerConfig) -> Result<Option<Arc<Reflector>>, StartError> {
    let Some(listen) = config.reflector.listen(config.agents_listen) else {
        return Ok(None);
    };
    let public = config.agents_public.map(|public| public.ip());
    let agents = config.agents_listen.ip();
    let public = public.or(listen.ip().is_unspecified().then_some(agents));
    Ok(Some(Arc::new(Reflector::bind(listen, public).await?)))
}

/// The relay, at the agents' address.
fn open_relay(config: &BrokerConfig, metrics: &Arc<Metrics>) -> Option<Arc<Relay>> {
    let listen = config.agents_listen.ip();
    let public = config.agents_public.map_or(listen, |public| public.ip());
    let relay = config.relay.clone()?;
    let metrics = Arc::clone(metrics);
    Some(Arc::new(Relay::new(relay, (listen, public), metrics)))
}

async fn open_vouchers(
    config: &BrokerConfig,
    operator: &Operator,
) -> Result<VoucherStore, StartError> {
    let path = config.data_dir.join("vouchers.db");
    let opened = VoucherStore::open(&path, operator.domain()).await;
    opened.map_err(|error| StartError::Store {
        reason: error.to_string(),
        path,
    })
}

fn network_info(
    config: &BrokerConfig,
    operator: &Operator,
    agents: SocketAddr,
    (reflector, relay): (Option<SocketAddr>, Option<IpAddr>),
) -> NetworkInfo {
    let (deployment, state) = (operator.centralizer().deployment(), operator.state());
    NetworkInfo {
        version: PROTOCOL_VERSION,
        network: operator.network(),
        domain: deployment.domain(),
        token: deployment.token,
        operator: state.operator,
        fee_bps: state.fee_bps,
        treasury: state.treasury,
        agents: config.agents_public.unwrap_or(agents),
        reflector,
        relay,
        chain_rpc: match &config.chain {
            ChainConfig::Embedded => "/rpc".into(),
            ChainConfig::Rpc {
                url, public_url, ..
            } => public_url.as_ref().unwrap_or(url).clone(),
        },
    }
}

/// What sign-in nonces are proved with; kept, so that one given out before a restart still counts.
async fn nonce_key(store: &Store) -> Result<[u8; 32], StartError> {
    const KEY: &str = "nonce_key";
    if let Some(key) = store.meta::<B256>(KEY).await? {
        return Ok(key.0);
    }
    Ok(store.first_meta(KEY, B256::from(random::<32>())).await?.0)
}
