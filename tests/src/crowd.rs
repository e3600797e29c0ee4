//! Thousands of agents in one process: each with a wallet, a connection and an offer, sharing a few sockets.
//!
//! They do what a real agent does on its link: check who the broker is, prove their wallet, publish a signed offer, sign
//! the deals that are proposed, and come back after every loss, waiting at first as long as `ipsx provide` waits.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ipsx_market::deal::{Deal, Proposal, ProviderTerms};
use ipsx_market::messages::{ALPN, AgentMessage, BrokerMessage};
use ipsx_market::offer::{Capacity, Offer, Protocols, Tier, WeeklyHours};
use ipsx_market::request::TunnelKey;
use ipsx_metering::{
    Address, Amount, B256, Domain, NetworkId, PricePerGib, PricePerSecond, Prices, Signed,
    TypedData, UnixSeconds,
};
use ipsx_settlement::{Signer, Wallet};
use quinn::{ClientConfig, ConnectionError, Endpoint, TransportConfig};
use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::link::{self, Failure, Link, hear, say};

/// The agent's waits, as in `agent/daemon/src/provider/broker_link.rs`.
const PATIENCE: Duration = Duration::from_secs(20);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
const IDLE_LIMIT: Duration = Duration::from_secs(20);

/// Is told what an agent is told of deals.
pub type Witness = Arc<dyn Fn(Address, BrokerMessage) + Send + Sync>;

/// Who gathers.
#[derive(Clone)]
pub struct Plan {
    /// How many agents.
    pub agents: usize,
    /// Sockets that they share, each in a /24 of its own.
    pub sockets: u16,
    /// Between an agent's keep-alives.
    pub keep_alive: Duration,
    /// Leases that each offers at the same time.
    pub leases: u32,
    /// Who hears what the broker says to them once they are placed.
    pub witness: Option<Witness>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            agents: 1,
            sockets: 1,
            keep_alive: Duration::from_secs(5),
            leases: 1,
            witness: None,
        }
    }
}

/// Agents that stay until it is dropped.
pub struct Crowd {
    news: Arc<News>,
    _agents: JoinSet<()>,
}

/// What became of the agents so far.
#[derive(Debug, Default)]
struct News {
    placed: AtomicUsize,
    connects: AtomicUsize,
    losses: Mutex<BTreeMap<String, usize>>,
}

impl Crowd {
    /// Starts agents that connect to a broker all at once. Call it within a runtime.
    pub fn gather(broker: SocketAddr, plan: Plan) -> Self {
        let client = client_config(plan.keep_alive);
        let endpoints: Vec<_> = (0..plan.sockets).map(|n| endpoint(n, &client)).collect();
        let news = Arc::new(News::default());
        let mut tasks = JoinSet::new();
        for number in 0..plan.agents {
            let agent = Agent {
                broker,
                endpoint: endpoints[number % endpoints.len()].clone(),
                wallet: Wallet::random(),
                offer: OnceLock::new(),
                terms: OnceLock::new(),
                leases: plan.leases,
                witness: plan.witness.clone(),
                news: news.clone(),
            };
            tasks.spawn(agent.live());
        }
        Self {
            news,
            _agents: tasks,
        }
    }

    /// Agents whose offer is in the book now.
    pub fn placed(&self) -> usize {
        self.news.placed.load(Ordering::Relaxed)
    }

    /// Handshakes that were done since the start.
    pub fn connects(&self) -> usize {
        self.news.connects.load(Ordering::Relaxed)
    }

    /// Why connections were lost or not made, and how many.
    pub fn losses(&self) -> BTreeMap<String, usize> {
        self.news.losses.lock().unwrap().clone()
    }
}

struct Agent {
    broker: SocketAddr,
    endpoint: Endpoint,
    wallet: Wallet,
    /// Made once: the same offer is published again after a loss.
    offer: OnceLock<Offer>,
    terms: OnceLock<ProviderTerms>,
    leases: u32,
    witness: Option<Witness>,
    news: Arc<News>,
}

impl Agent {
    async fn live(self) {
        let mut wait = FIRST_RETRY;
        loop {
            let was_placed = match Box::pin(timeout(PATIENCE, self.join())).await {
                Ok(Ok(link)) => {
                    self.news.placed.fetch_add(1, Ordering::Relaxed);
                    let lost = self.stay(link).await;
                    self.news.placed.fetch_sub(1, Ordering::Relaxed);
                    self.note(&lost.to_string());
                    true
                }
                Ok(Err(failed)) => {
                    self.note(&failed.to_string());
                    false
                }
                Err(_) => {
                    self.note("no answer in time");
                    false
                }
            };
            if was_placed {
                wait = FIRST_RETRY;
            }
            let part = rand::thread_rng().gen_range(0.5..1.0);
            sleep(wait.mul_f64(part)).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
    }

    fn note(&self, reason: &str) {
        let mut losses = self.news.losses.lock().unwrap();
        *losses.entry(reason.to_owned()).or_default() += 1;
    }

    /// From dialling until the offer is placed.
    async fn join(&self) -> Result<Link, Failure> {
        let connection = self.endpoint.connect(self.broker, "ipsx")?.await?;
        let mut link = Link::shake_hands(connection, &self.wallet).await?;
        self.news.connects.fetch_add(1, Ordering::Relaxed);
        let offer = self.offer(link.network).clone();
        let offer = Signed::sign(offer, &link.domain, self.wallet.key());
        say(&mut link.send, &AgentMessage::PublishOffer { offer }).await?;
        loop {
            match hear(&mut link.recv).await? {
                BrokerMessage::OfferPlaced { .. } => return Ok(link),
                // What was bound while it was away is said first.
                message @ BrokerMessage::DealBound { .. } => {
                    if let Some(witness) = &self.witness {
                        witness(self.wallet.address(), message);
                    }
                }
                other => return Err(format!("{other:?}").into()),
            }
        }
    }

    /// Signs what is proposed until the connection is lost; says why it was.
    async fn stay(&self, mut link: Link) -> ConnectionError {
        while let Ok(message) = hear(&mut link.recv).await {
            if let BrokerMessage::Propose { proposal, terms } = message {
                let accepted = self.accept(proposal, &terms, &link.domain, link.network);
                if say(&mut link.send, &accepted).await.is_err() {
                    break;
                }
            } else if let Some(witness) = &self.witness {
                witness(self.wallet.address(), message);
            }
        }
        link.connection.closed().await
    }

    fn accept(
        &self,
        number: u64,
        proposal: &Proposal,
        domain: &Domain,
        network: NetworkId,
    ) -> AgentMessage {
        let terms = self.terms.get_or_init(|| ProviderTerms {
            payout: self.wallet.derive(b"payout").address(),
            agent_key: self.wallet.derive(b"agent").address(),
            tunnel_key: TunnelKey(B256::repeat_byte(5)),
        });
        let deal = Deal::new(proposal, self.offer(network), terms);
        AgentMessage::AcceptDeal {
            proposal: number,
            terms: terms.clone(),
            signature: self.wallet.sign_hash(deal.signing_hash(domain)),
        }
    }

    fn offer(&self, network: NetworkId) -> &Offer {
        self.offer.get_or_init(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let prices = Prices {
                per_second: PricePerSecond(Amount(1_000)),
                per_gib: PricePerGib(Amount(1_000)),
            };
            Offer {
                network,
                provider: self.wallet.address(),
                nonce: 1,
                prefixes: Vec::new(),
                protocols: Protocols::all(),
                policy_hash: B256::repeat_byte(7),
                tier: Tier::Web,
                ports: Tier::Web.ports(),
                services: Vec::new(),
                capacity: Capacity {
                    leases: self.leases,
                    mbit_up: 100,
                    mbit_down: 100,
                    bytes_per_month: u64::MAX,
                },
                prices,
                min_seconds: 5,
                max_seconds: 3_600,
                weekly_hours: WeeklyHours::always(),
                expires_at: UnixSeconds(now.unwrap().as_secs() + 7_200),
            }
        })
    }
}

/// The `n`-th socket, at 127.A.B.1.
fn endpoint(n: u16, client: &ClientConfig) -> Endpoint {
    let [high, low] = n.to_be_bytes();
    let address = Ipv4Addr::new(127, high + 1, low, 1);
    let mut endpoint = Endpoint::client(SocketAddr::from((address, 0))).unwrap();
    endpoint.set_default_client_config(client.clone());
    endpoint
}

fn client_config(keep_alive: Duration) -> ClientConfig {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(keep_alive))
        .max_idle_timeout(IDLE_LIMIT.try_into().ok())
        .mtu_discovery_config(None)
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams(0u8.into());
    link::client_config(ALPN, transport)
}
