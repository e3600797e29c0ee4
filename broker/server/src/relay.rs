//! Carries the WireGuard datagrams of leases whose two sides can't reach each other: each by a UDP port of its own.
//!
//! What becomes of a datagram is decided by an [`ipsx_relay::Port`]; a task for each port acts. Nothing of it is kept: after
//! a restart both sides are given another port as soon as the requester asks again.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ipsx_market::messages::RelayToken;
use ipsx_metering::{Address, B256, DealId};
use ipsx_relay::{Dropped, Pace, Port, Token, Verdict};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use crate::config::RelayConfig;
use crate::metrics::Metrics;
use crate::operator::random;

/// The longest datagram that is passed on: no tunnel's is longer where packets of Ethernet's size get through.
const LONGEST: usize = 2_048;
/// How often it is looked whether a port is still used.
const LOOK: Duration = Duration::from_secs(15);

/// The relay.
pub(crate) struct Relay {
    config: RelayConfig,
    /// The address that ports are opened at.
    listen: IpAddr,
    /// What both sides are told.
    public: IpAddr,
    leases: Mutex<HashMap<DealId, Lease>>,
    total: Arc<Mutex<Pace>>,
    metrics: Arc<Metrics>,
}

/// How both sides of a lease get to its port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ways {
    pub(crate) relay: SocketAddr,
    pub(crate) requester: RelayToken,
    pub(crate) provider: RelayToken,
}

/// Whose a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parties {
    /// Whose deposit pays: further wallets cost nothing, deposits do.
    pub(crate) payer: Address,
    pub(crate) provider: Address,
}

/// No port is to be had.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum NoRelay {
    /// The operator has not switched it on.
    #[error("this broker relays no leases; take an offer that is reached direct")]
    Off,
    /// All ports are used, or none can be opened.
    #[error(
        "all ports of this broker's relay are in use; try again later, or take an offer that is reached direct"
    )]
    Full,
    /// Whoever pays has as many ports as one may.
    #[error(
        "the deposit that is to pay has {0} relayed leases at this broker, and more at once are not allowed; end one of them, or take an offer that is reached direct"
    )]
    PayersShare(usize),
    /// The provider has.
    #[error(
        "this provider has {0} relayed leases at this broker, and more at once are not allowed; take another one's offer, or one that is reached direct"
    )]
    ProvidersShare(usize),
}

struct Lease {
    ways: Ways,
    parties: Parties,
    task: JoinHandle<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// A relay that opens its ports at `listen`, which others reach as `public`.
    pub(crate) fn new(
        config: RelayConfig,
        (listen, public): (IpAddr, IpAddr),
        metrics: Arc<Metrics>,
    ) -> Self {
        let total = Pace::new(config.bytes_per_second, Instant::now().into_std());
        Self {
            config,
            listen,
            public,
            leases: Mutex::default(),
            total: Arc::new(Mutex::new(total)),
            metrics,
        }
    }

    /// What requesters are told.
    pub(crate) fn address(&self) -> IpAddr {
        self.public
    }

    /// The port of a lease, which is opened now if it has none.
    pub(crate) fn open(self: &Arc<Self>, deal: DealId, parties: Parties) -> Result<Ways, NoRelay> {
        let mut leases = self.leases();
        if let Some(lease) = leases.get(&deal).filter(|lease| !lease.task.is_finished()) {
            return Ok(lease.ways);
        }
        self.check_shares(&leases, parties)?;
        let socket = self.bind(&leases).ok_or(NoRelay::Full)?;
        let port = socket.local_addr().map_err(|_| NoRelay::Full)?.port();
        let tokens = [random(), random()];
        let token = |bytes| RelayToken(B256::new(bytes));
        let ways = Ways {
            relay: SocketAddr::new(self.public, port),
            requester: token(tokens[0]),
            provider: token(tokens[1]),
        };
        let now = Instant::now().into_std();
        let rate = self.config.lease_bytes_per_second;
        let carrier = Carrier {
            socket,
            port: Port::new(tokens.map(Token), Token(random()), rate, now),
            total: Arc::clone(&self.total),
            metrics: Arc::clone(&self.metrics),
        };
        let task = tokio::spawn(carrier.run(Arc::downgrade(self), deal));
        let lease = Lease {
            ways,
            parties,
            task,
        };
        leases.insert(deal, lease);
        self.count(&leases);
        tracing::info!(%deal, port, "a lease is relayed");
        Ok(ways)
    }

    /// Closes the port of a lease, if it has one.
    pub(crate) fn close(&self, deal: DealId) {
        let mut leases = self.leases();
        if leases.remove(&deal).is_some() {
            self.count(&leases);
        }
    }

    /// Whether a lease has a port.
    pub(crate) fn has(&self, deal: DealId) -> bool {
        self.leases().contains_key(&deal)
    }

    /// All leases that have one.
    pub(crate) fn deals(&self) -> Vec<DealId> {
        self.leases().keys().copied().collect()
    }

    /// Nobody has all ports, however many leases it binds.
    fn check_shares(
        &self,
        leases: &HashMap<DealId, Lease>,
        parties: Parties,
    ) -> Result<(), NoRelay> {
        let most = self.config.leases_per_wallet;
        let parties_of = || leases.values().map(|lease| lease.parties);
        if parties_of().filter(|of| of.payer == parties.payer).count() >= most {
            return Err(NoRelay::PayersShare(most));
        }
        let same = |of: &Parties| of.provider == parties.provider;
        if parties_of().filter(same).count() >= most {
            return Err(NoRelay::ProvidersShare(most));
        }
        Ok(())
    }

    /// A port that no lease has, from anywhere in the range: whoever had it before may still send there.
    fn bind(&self, leases: &HashMap<DealId, Lease>) -> Option<UdpSocket> {
        let (first, last) = (*self.config.ports.start(), *self.config.ports.end());
        let count = u32::from(last.saturating_sub(first)) + 1;
        if leases.len() >= count as usize {
            return None;
        }
        let begin = u32::from_be_bytes(random()) % count;
        (0..count).find_map(|step| {
            let port = first + ((begin + step) % count) as u16;
            let address = SocketAddr::new(self.listen, port);
            let socket = std::net::UdpSocket::bind(address).ok()?;
            socket.set_nonblocking(true).ok()?;
            UdpSocket::from_std(socket).ok()
        })
    }

    fn count(&self, leases: &HashMap<DealId, Lease>) {
        let count = i64::try_from(leases.len()).unwrap_or(i64::MAX);
        self.metrics.relayed_leases.set(count);
    }

    fn leases(&self) -> std::sync::MutexGuard<'_, HashMap<DealId, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One port at work.
struct Carrier {
    socket: UdpSocket,
    port: Port,
    total: Arc<Mutex<Pace>>,
    metrics: Arc<Metrics>,
}

impl Carrier {
    /// Passes on until nobody needs it any more.
    async fn run(mut self, relay: Weak<Relay>, deal: DealId) {
        let mut look = interval(LOOK);
        let mut datagram = [0; LONGEST + 1];
        loop {
            tokio::select! {
                received = self.socket.recv_from(&mut datagram) => {
                    // An error is what a machine says that something did not reach.
                    if let Ok((length, from)) = received {
                        self.take(&datagram[..length], from);
                    }
                }
                _ = look.tick() => {
                    if self.port.idle_at() <= Instant::now().into_std() {
                        break;
                    }
                }
            }
        }
        tracing::debug!(%deal, "nothing is relayed any more");
        if let Some(relay) = relay.upgrade() {
            relay.close(deal);
        }
    }

    fn take(&mut self, datagram: &[u8], from: SocketAddr) {
        if datagram.len() > LONGEST {
            return self.drop_because(Dropped::NotWireGuard);
        }
        let verdict = {
            let mut total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now().into_std();
            self.port.handle_datagram(from, datagram, &mut total, now)
        };
        match verdict {
            Verdict::Forward(to) => match self.socket.try_send_to(datagram, to) {
                Ok(_) => self.metrics.relayed_bytes.inc_by(datagram.len() as u64),
                // A full buffer, or what a machine says of an earlier one: a tunnel does without a datagram.
                Err(error) => self.not_sent(&error),
            },
            Verdict::Challenge(challenge) => {
                if let Err(error) = self.socket.try_send_to(&challenge, from) {
                    self.not_sent(&error);
                }
            }
            Verdict::Shown(side) => tracing::debug!(?side, %from, "a side of a relayed lease"),
            Verdict::Drop(reason) => self.drop_because(reason),
        }
    }

    fn not_sent(&self, error: &io::Error) {
        tracing::trace!(%error, "a relay's socket");
        self.metrics
            .relay_dropped
            .with_label_values(&["not_sent"])
            .inc();
    }

    fn drop_because(&self, reason: Dropped) {
        self.metrics
            .relay_dropped
            .with_label_values(&[reason.name()])
            .inc();
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
