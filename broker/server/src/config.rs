//! What the broker is told: a TOML file, then `IPSX_BROKER_*`, then flags; the later wins.

mod error;
mod keys;
mod load;
mod relay;
mod settings;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipsx_market::proof::ProofRules;
use ipsx_market::status::DealTimers;
use ipsx_metering::{Address, Amount, NetworkId};

pub use error::ConfigError;
pub use load::{ENV_PREFIX, PASSPHRASE_ENV, load};
pub use relay::RelayConfig;
pub use settings::Settings;

/// Where agents connect if nothing else is said.
const AGENTS_PORT: u16 = 8481;

/// Where deposits and claims are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainConfig {
    /// An EVM in this process, its state in the data directory.
    Embedded,
    /// A node.
    Rpc {
        /// URL of its JSON-RPC.
        url: String,
        /// URL that agents and requesters are told instead, when `url` holds a secret or is not theirs to reach.
        public_url: Option<String>,
        /// The `Centralizer`.
        centralizer: Address,
        /// Blocks on top of one that is taken for final: deposits count from then on.
        finality: u64,
        /// The network, when it exists already; else the broker creates it.
        network: Option<NetworkId>,
    },
}

/// Bounds on what others can make the broker hold or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Agents connected at the same time.
    pub agents: u32,
    /// Offers in the book.
    pub offers: u32,
    /// Offers of one provider.
    pub offers_per_provider: u32,
    /// Messages a second from one agent, on average; bursts of ten times as many.
    pub messages_per_second: u32,
    /// Agents' connections a second from one /24 of IPv4 or /48 of IPv6, on average, bursts of ten times as many; 0 for any
    /// number.
    pub prefix_connects_per_second: u32,
    /// Messages a second from all agents there; more wait.
    pub prefix_messages_per_second: u32,
    /// Proposed and unstarted deals of one payer.
    pub unstarted_deals: u32,
    /// Requests that rest.
    pub resting: u32,
    /// Requests that rest and that one payer is to pay.
    pub resting_per_payer: u32,
    /// HTTP requests at work at the same time.
    pub http_requests: u32,
    /// HTTP requests a second from one address, on average, bursts of ten times as many; 0 for any number.
    pub address_requests_per_second: u32,
    /// The same from one wallet.
    pub wallet_requests_per_second: u32,
    /// Seconds that a session's token counts.
    pub session_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            agents: 25_000,
            offers: 100_000,
            offers_per_provider: 256,
            messages_per_second: 100,
            prefix_connects_per_second: 50,
            prefix_messages_per_second: 2_000,
            unstarted_deals: 8,
            resting: 100_000,
            resting_per_payer: 32,
            http_requests: 1_024,
            address_requests_per_second: 200,
            wallet_requests_per_second: 100,
            session_seconds: 3_600,
        }
    }
}

/// Where deals, promises and sessions are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// In SQLite: `broker.db` in the data directory.
    Sqlite,
    /// In the database that this URL names (`postgres://USER:PASSWORD@HOST:PORT/DATABASE`, or `?host=/run/postgresql` for a
    /// socket's directory), which several brokers may share.
    Postgres(Secret),
}

impl StoreConfig {
    /// Server and database, without user and password, for whoever reads an error.
    pub(crate) fn place(&self) -> String {
        let Self::Postgres(url) = self else {
            return "broker.db".into();
        };
        let text = url.expose();
        let parsed = url::Url::parse(text).ok();
        let socket = parsed.as_ref().and_then(|url| {
            let mut pairs = url.query_pairs();
            pairs.find_map(|(key, value)| (key == "host").then(|| value.into_owned()))
        });
        let host = socket.or_else(|| parsed.as_ref()?.host_str().map(str::to_owned));
        let port = parsed.as_ref().and_then(url::Url::port);
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        let path = parsed.as_ref().map_or("", |url| url.path());
        format!(
            "PostgreSQL at {}{port}{path}",
            host.unwrap_or_else(|| "localhost".into())
        )
    }
}

/// A broker's place among several that share a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetConfig {
    /// URLs of NATS servers, parted by commas; they may hold a password.
    pub nats: Secret,
    /// This broker's name among the others.
    pub name: String,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where the reflector listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReflectorConfig {
    /// At the agents' address: on [`ReflectorConfig::PORT`] beside their default port, else on any that is free.
    Beside,
    /// There.
    At(SocketAddr),
    /// Nowhere: nobody behind a NAT is reached.
    Off,
}

impl ReflectorConfig {
    /// The reflector's port beside 8481.
    pub const PORT: u16 = 8483;

    /// The address, for who listens to agents at this one.
    pub fn listen(self, agents: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::Beside if agents.port() == AGENTS_PORT => {
                Some(SocketAddr::new(agents.ip(), Self::PORT))
            }
            Self::Beside => Some(SocketAddr::new(agents.ip(), 0)),
            Self::At(address) => Some(address),
            Self::Off => None,
        }
    }
}

/// Everything that [`Broker::start`](crate::Broker::start) needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Store, wallet and the embedded chain's state.
    pub data_dir: PathBuf,
    /// Where deals, promises and sessions are kept.
    pub store: StoreConfig,
    /// The other brokers of the network, if this is one of several.
    pub fleet: Option<FleetConfig>,
    /// Where requesters connect (HTTP); port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// Where agents connect (QUIC); port 0 takes a free one.
    pub agents_listen: SocketAddr,
    /// Where agents and requesters ask what a NAT shows of them (STUN over UDP).
    pub reflector: ReflectorConfig,
    /// The relay, if there is one.
    pub relay: Option<RelayConfig>,
    /// Where the operator looks at the broker and steers it (HTTP); nobody but the operator should reach it. `None` for
    /// nowhere.
    pub admin_listen: Option<SocketAddr>,
    /// Names by which `admin_listen` may be asked besides addresses and `localhost`, in small letters.
    pub admin_hosts: Vec<String>,
    /// What agents and requesters are told instead of `agents_listen`, behind a NAT.
    pub agents_public: Option<SocketAddr>,
    /// What requesters reach `http_listen` by, behind a proxy; sign-in messages name it.
    pub public_url: Option<String>,
    /// Proxies before `http_listen` whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// MaxMind database with countries; without one, no address has a country.
    pub country_db: Option<PathBuf>,
    /// MaxMind database with regions, cities and coordinates; it knows countries, too.
    pub city_db: Option<PathBuf>,
    /// MaxMind database with autonomous systems.
    pub asn_db: Option<PathBuf>,
    /// The operator's keystore; `operator.json` in the data directory by default.
    pub wallet: Option<PathBuf>,
    /// File whose first line is the keystore's passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// The keystore's passphrase itself; goes before `passphrase_file`.
    pub passphrase: Option<Secret>,
    /// The chain.
    pub chain: ChainConfig,
    /// On the embedded chain: who receives tokens of the operator's, once each.
    pub fund: Vec<(Address, Amount)>,
    /// The network's fee in basis points, at most 1,000; fixed when the network is created.
    pub fee_bps: u16,
    /// Who receives the fee; the operator by default; fixed when the network is created.
    pub treasury: Option<Address>,
    /// Capacity that is promised again on a provider's word that it will claim no more; what the operator can afford to
    /// lose to a provider and a payer who lie together.
    pub credit_line: Amount,
    /// Claims for providers that are away are submitted from this worth on.
    pub claim_at_least: Amount,
    /// Limits of silence.
    pub timers: DealTimers,
    /// Whether addresses must be proven, and for how long they are.
    pub proofs: ProofRules,
    /// Bounds.
    pub limits: Limits,
}

impl BrokerConfig {
    /// The defaults: embedded chain, loopback, ports 8480 (HTTP), 8481 (QUIC) and 8482 (the operator's).
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            store: StoreConfig::Sqlite,
            fleet: None,
            http_listen: SocketAddr::from(([127, 0, 0, 1], 8480)),
            agents_listen: SocketAddr::from(([127, 0, 0, 1], AGENTS_PORT)),
            reflector: ReflectorConfig::Beside,
            relay: None,
            admin_listen: Some(SocketAddr::from(([127, 0, 0, 1], 8482))),
            admin_hosts: Vec::new(),
            agents_public: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            country_db: None,
            city_db: None,
            asn_db: None,
            wallet: None,
            passphrase_file: None,
            passphrase: None,
            chain: ChainConfig::Embedded,
            fund: Vec::new(),
            fee_bps: 100,
            treasury: None,
            credit_line: Amount::ZERO,
            claim_at_least: Amount(1),
            timers: DealTimers::default(),
            proofs: ProofRules::default(),
            limits: Limits::default(),
        }
    }
}
