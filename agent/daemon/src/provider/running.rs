//! Starts a provider and holds on to it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipsx_agent_core::provider::{
    ConsentText, EndpointHint, KnownChannel, Provider, ProviderEvent, Restored, Settings,
    open_ports, policy_hash,
};
use ipsx_metering::Address;
use ipsx_settlement::{Outbox, Signer, VoucherStore, Wallet};
use ipsx_tunnel_core::{DropCounts, ExitPolicy, IpNet, Ipv4Net, Ipv6Net, PublicKey, Rule};
use ipsx_tunnel_os as tunnel;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::address_pool::{CONTROL_PORT, GATEWAY, GATEWAY_V6, INNER_PREFIX_V4, INNER_PREFIX_V6};
use super::agent::{Agent, ProviderStatus};
use super::broker_link::{BrokerLink, LinkConfig};
use super::claimer::{ClaimNow, Claimer};
use super::config::{ProviderConfig, vouchers_path};
use super::error::ProviderError;
use super::exit_args::ExitKind;
use super::io::{Happening, Io, Peers, frames};
use super::keeper::{Job, Keeper};
use super::keys::{WalletKeys, market_key, tunnel_key};
use super::policies::Policies;
use super::records::Records;
use crate::clock::unix_now;
use crate::connections::{Owners, RecordSecret, Recorder};
use crate::metrics::Metrics;

/// Events that wait for a slow reader; later ones are lost to it.
const EVENTS: usize = 4_096;
/// Writes that wait for the disk.
const JOBS: usize = 1_024;

/// The recorder's thread.
pub(super) type JoinRecorder = std::thread::JoinHandle<()>;

/// A provider at work. Dropping it stops it at once, as a kill would; [`RunningProvider::shutdown`] ends leases,
/// tells the broker and claims what is to be claimed.
pub struct RunningProvider {
    events: mpsc::Receiver<ProviderEvent>,
    status: watch::Receiver<ProviderStatus>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    listen: SocketAddr,
    tunnel_key: PublicKey,
    metrics: Option<SocketAddr>,
}

impl RunningProvider {
    /// What happens, oldest first; `None` after the provider has ended.
    pub async fn event(&mut self) -> Option<ProviderEvent> {
        self.events.recv().await
    }

    /// Where it stands now.
    pub fn status(&self) -> ProviderStatus {
        *self.status.borrow()
    }

    /// UDP address of the WireGuard endpoint, with the port that was really taken.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where metrics are shown, if they are, with the port that was really taken.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// WireGuard key of the endpoint.
    pub fn tunnel_key(&self) -> PublicKey {
        self.tunnel_key
    }

    /// Ends leases, takes the offer back, tells the broker, and claims what is to be claimed. Returns the events
    /// that were left, the last ones included.
    pub async fn shutdown(mut self) -> Vec<ProviderEvent> {
        if let Some(stop) = self.stop.take() {
            // A provider that has ended by itself needs no word.
            let _ = stop.send(());
        }
        let mut left = Vec::new();
        while let Some(event) = self.events.recv().await {
            left.push(event);
        }
        left
    }
}

impl Drop for RunningProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a person has to accept before [`start`] works with this configuration.
pub fn consent_text(config: &ProviderConfig) -> ConsentText {
    ConsentText::new(&config.policy, &config.terms)
}

/// Whether the text was accepted before, in this data folder and for this exit policy.
pub async fn consent_given(
    config: &ProviderConfig,
    wallet: Address,
) -> Result<bool, ProviderError> {
    let text = consent_text(config);
    let records = Records::open(&config.data, wallet).await?;
    records.consent(|record| text.is_covered_by(record)).await
}

/// Records that the text was accepted now. Durable when it returns.
pub async fn accept_consent(config: &ProviderConfig, wallet: Address) -> Result<(), ProviderError> {
    let text = consent_text(config);
    let records = Records::open(&config.data, wallet).await?;
    records
        .put_consent(&text.accept(unix_now()), text.text())
        .await
}

/// Starts a provider. The broker need not be there yet: the link to it is tried until it is.
pub async fn start(
    config: ProviderConfig,
    wallet: Arc<Wallet>,
) -> Result<RunningProvider, ProviderError> {
    check(&config)?;
    let (records, vouchers, restored) = open_files(&config, wallet.address()).await?;
    let private_key = tunnel_key(&wallet);
    let mut background = Background::new()?;
    let shown = background.show_metrics(&config).await?;
    let owners = Owners::default();
    let (flows, recorder) = background.record(&config, &wallet, &owners).unzip();
    let policies = Policies::new(&config.policy, not_sold(&config));
    let tunnel = tunnel_config(&config, &private_key, policies.newest());
    let (endpoint, tunnel_events) = start_tunnel(&config, tunnel, flows)?;
    endpoint.set_capacity(config.terms.rates())?;
    let listen = endpoint.local_addr();
    let keys = WalletKeys {
        wallet: wallet.clone(),
        tunnel_key: market_key(&endpoint.public_key()),
    };
    let settings = settings(&config, wallet.address(), listen);
    let provider = Provider::new(settings, Box::new(keys), restored);
    let link = BrokerLink::open(LinkConfig {
        brokers: config.network.agents.clone(),
        bind: config.bind,
        network: config.network.rules,
        wallet: wallet.clone(),
    })?;

    let (told, events) = mpsc::channel(EVENTS);
    let (status_sender, status) = watch::channel(ProviderStatus::default());
    let (stop, stopped) = oneshot::channel();
    let tunnel_key = endpoint.public_key();
    if let Some(name) = &config.uapi {
        background.watch(&endpoint, name)?;
    }
    background.follow_domains(&config);
    let io = Io {
        domain: config.network.rules.domain,
        contract: config.network.contract.clone(),
        tunnel_key: private_key,
        claim_at_end: config.claim_at_end,
        link,
        outbox: None,
        tunnel: endpoint,
        tunnel_events,
        jobs: background.keep(records, vouchers.clone(), &config),
        claims: background.claim(vouchers, &config, &wallet),
        metrics: background.metrics,
        happened: background.happened,
        happenings: background.happenings,
        tasks: background.tasks,
        events: told,
        peers: Peers::new(owners),
        policies,
        recorder,
        egress_per_lease: !config.exit.egress.is_empty(),
        dropped: DropCounts::default(),
        frames: frames(),
        wallet,
    };
    let agent = Agent {
        provider,
        io,
        status: status_sender,
        most: (config.terms.capacity.leases, config.exposure.per_network),
    };
    Ok(RunningProvider {
        events,
        status,
        stop: Some(stop),
        task: tokio::spawn(agent.run(stopped)),
        listen,
        tunnel_key,
        metrics: shown,
    })
}

/// Records, vouchers and what an earlier run left, if the consent was given.
async fn open_files(
    config: &ProviderConfig,
    wallet: Address,
) -> Result<(Records, Arc<VoucherStore>, Restored), ProviderError> {
    let text = consent_text(config);
    let records = Records::open(&config.data, wallet).await?;
    if !records.consent(|record| text.is_covered_by(record)).await? {
        return Err(ProviderError::ConsentMissing);
    }
    records.put_served(&config.network).await?;
    let domain = config.network.rules.domain;
    let vouchers = VoucherStore::open(&vouchers_path(&config.data, domain), domain).await?;
    let restored = restore(config, &records, &vouchers).await?;
    Ok((records, Arc::new(vouchers), restored))
}

/// The tasks beside the loop, and where they report.
struct Background {
    tasks: JoinSet<()>,
    happened: mpsc::UnboundedSender<Happening>,
    happenings: mpsc::UnboundedReceiver<Happening>,
    metrics: Arc<Metrics>,
}

impl Background {
    fn new() -> Result<Self, ProviderError> {
        let (happened, happenings) = mpsc::unbounded_channel();
        Ok(Self {
            tasks: JoinSet::new(),
            happened,
            happenings,
            metrics: Arc::new(Metrics::new()?),
        })
    }

    /// Shows the metrics, if they are to be, and says where.
    async fn show_metrics(
        &mut self,
        config: &ProviderConfig,
    ) -> Result<Option<SocketAddr>, ProviderError> {
        let Some(address) = config.metrics else {
            return Ok(None);
        };
        let failed = |source| ProviderError::Metrics { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let taken = listener.local_addr().map_err(failed)?;
        self.tasks.spawn(self.metrics.clone().serve(listener));
        Ok(Some(taken))
    }

    fn keep(
        &mut self,
        records: Records,
        vouchers: Arc<VoucherStore>,
        config: &ProviderConfig,
    ) -> mpsc::Sender<Job> {
        let (jobs, queue) = mpsc::channel(JOBS);
        let keeper = Keeper {
            records,
            vouchers,
            network: config.network.rules.id,
            happened: self.happened.clone(),
            behind: HashMap::new(),
            ends_behind: Vec::new(),
            reserved: HashMap::new(),
        };
        self.tasks.spawn(keeper.run(queue));
        jobs
    }

    #[cfg(target_os = "linux")]
    fn watch(&mut self, endpoint: &tunnel::Provider, name: &str) -> Result<(), ProviderError> {
        let watch = tunnel::Watch::open(endpoint.clone(), name)?;
        self.tasks.spawn(watch.serve());
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn watch(&mut self, _: &tunnel::Provider, _: &str) -> Result<(), ProviderError> {
        Err(ProviderError::NoWatch)
    }

    /// Tells of the policy that the files with domains make when one changes.
    fn follow_domains(&mut self, config: &ProviderConfig) {
        let (files, policy) = (config.domains.clone(), config.policy.clone());
        self.tasks.spawn(files.watch(policy, self.happened.clone()));
    }

    /// The connection record, if one is to be kept, and where the exit tells it of flows.
    fn record(
        &self,
        config: &ProviderConfig,
        wallet: &Wallet,
        owners: &Owners,
    ) -> Option<(mpsc::Sender<tunnel::FlowEvent>, JoinRecorder)> {
        if config.record_retention == 0 {
            return None;
        }
        let own = || RecordSecret::of_wallet(wallet).key();
        let key = config.record_key.unwrap_or_else(own);
        let retention = config.record_retention;
        let (recorder, flows) = Recorder::new(&config.data, key, retention, owners.clone());
        let happened = self.happened.clone();
        let thread = recorder.spawn(move |lease, recorded| {
            // Nobody listens when the provider has ended.
            let _ = happened.send(Happening::Connections(lease, recorded));
        });
        Some((flows, thread))
    }

    fn claim(
        &mut self,
        vouchers: Arc<VoucherStore>,
        config: &ProviderConfig,
        wallet: &Arc<Wallet>,
    ) -> mpsc::Sender<ClaimNow> {
        let (claims, asked) = mpsc::channel(1);
        // What this wallet has sent, for every contract and network of the folder.
        let outbox = Outbox::in_folder(config.data.join("outbox"));
        let claimer = Claimer {
            vouchers,
            contract: config.network.contract.clone().with_outbox(outbox),
            wallet: wallet.clone(),
            settings: config.claims,
            happened: self.happened.clone(),
            metrics: self.metrics.clone(),
        };
        self.tasks.spawn(claimer.run(asked));
        claims
    }
}

fn check(config: &ProviderConfig) -> Result<(), ProviderError> {
    config.terms.validate()?;
    config.exit.check()?;
    let prefixes = &config.terms.prefixes;
    let named = config.exit.prefixes();
    let ours = |net: &ipsx_market::IpNet| {
        named.contains(net) || Some(net.addr()) == config.bind && net.hosts().count() == 1
    };
    if !prefixes.iter().all(ours) {
        return Err(ProviderError::Prefixes);
    }
    let advertised = config
        .advertise
        .filter(|a| a.port() == 0 || a.ip().is_unspecified());
    advertised.map_or(Ok(()), |address| Err(ProviderError::Advertise(address)))
}

fn settings(config: &ProviderConfig, provider: Address, listen: SocketAddr) -> Settings {
    Settings {
        network: config.network.rules,
        provider,
        policy_hash: policy_hash(&config.policy),
        tier: market_tier(config.policy.tier),
        ports: open_ports(&config.policy),
        terms: config.terms.clone(),
        exposure: config.exposure,
        endpoint: match config.advertise {
            Some(endpoint) => EndpointHint::Advertised(endpoint),
            None => EndpointHint::Listening(listen),
        },
    }
}

fn market_tier(tier: ipsx_tunnel_core::Tier) -> ipsx_market::offer::Tier {
    match tier {
        ipsx_tunnel_core::Tier::Web => ipsx_market::offer::Tier::Web,
        ipsx_tunnel_core::Tier::WebUdp => ipsx_market::offer::Tier::WebUdp,
        ipsx_tunnel_core::Tier::Open => ipsx_market::offer::Tier::Open,
    }
}

/// The tunnel's end, with the exit that was chosen.
fn start_tunnel(
    config: &ProviderConfig,
    tunnel: tunnel::ProviderConfig,
    flows: Option<mpsc::Sender<tunnel::FlowEvent>>,
) -> Result<(tunnel::Provider, mpsc::Receiver<tunnel::ProviderEvent>), ProviderError> {
    Ok(match config.exit.exit {
        ExitKind::Userspace => match flows {
            Some(flows) => tunnel::Provider::start_recorded(tunnel, flows)?,
            None => tunnel::Provider::start(tunnel)?,
        },
        #[cfg(target_os = "linux")]
        ExitKind::Kernel => {
            let v4 = Ipv4Net::new(tunnel.gateway_v4, INNER_PREFIX_V4).map(IpNet::from);
            // Without an address to leave from, IPv6 is refused before it reaches the kernel.
            let v6 = tunnel
                .gateway_v6
                .filter(|_| sells_v6(config))
                .map(|gateway| Ipv6Net::new(gateway, INNER_PREFIX_V6).map(IpNet::from));
            let kernel = tunnel::KernelExitConfig {
                folder: config.data.clone(),
                inner: [Some(v4), v6].into_iter().flatten().flatten().collect(),
                egress: config.exit.egress.clone(),
                interfaces: config.exit.egress_interface.clone(),
            };
            // It runs programs, each for some milliseconds, before anything else has begun.
            tokio::task::block_in_place(|| {
                tunnel::Provider::start_with_kernel_exit(tunnel, &kernel, flows)
            })?
        }
    })
}

fn tunnel_config(
    config: &ProviderConfig,
    private_key: &ipsx_tunnel_core::PrivateKey,
    policy: ExitPolicy,
) -> tunnel::ProviderConfig {
    let (egress_v4, egress_v6) = match config.bind {
        Some(IpAddr::V4(address)) => (Some(address), None),
        Some(IpAddr::V6(address)) => (None, Some(address)),
        None => (None, None),
    };
    tunnel::ProviderConfig {
        private_key: private_key.clone(),
        listen: config.listen,
        egress_v4,
        egress_v6,
        gateway_v4: GATEWAY,
        gateway_v6: Some(GATEWAY_V6),
        control_port: CONTROL_PORT,
        policy,
        limits: tunnel::ExitLimits::default(),
    }
}

/// What would leave from an address that is not sold: all of the IP version that none is of. It is closed; whoever
/// tries is told at once, and takes the other version.
fn not_sold(config: &ProviderConfig) -> Vec<Rule> {
    let versions = [
        ("0.0.0.0/0:any/*", sells_v4(config)),
        ("::/0:any/*", sells_v6(config)),
    ];
    let closed = versions.into_iter().filter(|(_, sold)| !sold);
    closed
        .map(|(everything, _)| everything.parse().expect("the rule is well-formed"))
        .collect()
}

fn sells_v4(config: &ProviderConfig) -> bool {
    sold(config).iter().any(IpAddr::is_ipv4)
}

fn sells_v6(config: &ProviderConfig) -> bool {
    sold(config).iter().any(IpAddr::is_ipv6)
}

/// Addresses of each IP version that is sold. Where none is chosen, it is what the broker sees: of its own version.
fn sold(config: &ProviderConfig) -> Vec<IpAddr> {
    let ranges = config.exit.egress.iter().map(|range| range.prefix.addr());
    let chosen: Vec<_> = ranges.chain(config.bind).collect();
    if chosen.is_empty() {
        return vec![config.network.info.agents.ip().to_canonical()];
    }
    chosen
}

/// What an earlier run left behind. The voucher store has the last word on what was paid.
async fn restore(
    config: &ProviderConfig,
    records: &Records,
    vouchers: &VoucherStore,
) -> Result<Restored, ProviderError> {
    let network = config.network.rules.id;
    let mut states = records.channels().await?;
    let mut channels = Vec::new();
    for mut stored in vouchers.channels().await? {
        if stored.channel.network != network {
            continue;
        }
        let id = stored.channel.id();
        // The chain knows of claims that this program was killed over.
        if let Ok(claimed) = config.network.contract.claimed(id).await {
            stored.claimed = stored.claimed.max(claimed);
        }
        let mut state = states.remove(&id).unwrap_or_default();
        let kept = stored
            .voucher
            .as_ref()
            .map(|voucher| voucher.message.cumulative);
        if kept.is_some_and(|kept| kept > state.cumulative()) {
            state.voucher = stored.voucher;
        }
        channels.push(KnownChannel {
            channel: stored.channel,
            state,
            claimed: stored.claimed,
        });
    }
    Ok(Restored {
        channels,
        unfinished: records.unfinished(network).await?,
        month: records.month(network).await?,
    })
}
