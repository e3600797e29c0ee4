//! What a provider sells, to whom it limits itself, and the time that drives it.

use std::time::{Duration, Instant};

use ipsx_market::IpNet;
use ipsx_market::offer::{
    Capacity, LONGEST_LEASE, Offer, PortRange, Protocols, SHORTEST_LEASE, Tier, WeeklyHours,
};
use ipsx_market::services::ServiceName;
use ipsx_metering::{Address, Amount, B256, Domain, NetworkId, Prices, UnixSeconds};
use ipsx_tunnel_core::Rates;

/// A Mbit/s, in bytes per second.
const BYTES_PER_MBIT: u64 = 125_000;

/// Both clocks at one moment: deadlines run on the monotonic one, signed times on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time.
    pub instant: Instant,
    /// Wall clock.
    pub unix: UnixSeconds,
}

impl Now {
    /// Both clocks `duration` later.
    pub fn after(self, duration: Duration) -> Self {
        Self {
            instant: self.instant + duration,
            unix: self.unix.after(duration.as_secs()),
        }
    }

    /// The monotonic moment at which the wall clock will show `time`, if it goes on evenly.
    pub fn instant_of(self, time: UnixSeconds) -> Instant {
        self.instant + Duration::from_secs(time.since(self.unix))
    }
}

/// The network that the provider joined, as checked against the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Chain and contract that settle.
    pub domain: Domain,
    /// The operator's wallet: only its outcomes and reservations count.
    pub operator: Address,
}

/// What is sold and for how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferTerms {
    /// Addresses offered. Empty: the one address that the broker sees the agent come from.
    pub prefixes: Vec<IpNet>,
    /// How leases can be used.
    pub protocols: Protocols,
    /// Services of the network that the leases come with.
    pub services: Vec<ServiceName>,
    /// How much can be sold at once.
    pub capacity: Capacity,
    /// What it costs.
    pub prices: Prices,
    /// Shortest lease in seconds.
    pub min_seconds: u32,
    /// Longest lease in seconds.
    pub max_seconds: u32,
    /// When leases may run, in hours of the week (UTC).
    pub weekly_hours: WeeklyHours,
}

/// Terms that no offer may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// Shortest and longest lease are out of range or order.
    #[error(
        "leases of {min} to {max} s can't be offered: --min-duration and --max-duration must be between {SHORTEST_LEASE} and {LONGEST_LEASE} s, the shorter first. Example: --min-duration 5 --max-duration 3600"
    )]
    Durations {
        /// The shortest.
        min: u32,
        /// The longest.
        max: u32,
    },
    /// Nothing for sale at once.
    #[error("--max-leases is 0: offer at least one lease at a time. Example: --max-leases 4")]
    NoLeases,
    /// No rate.
    #[error(
        "--mbit-up and --mbit-down must both be at least 1. Example: --mbit-up 20 --mbit-down 100"
    )]
    NoRate,
    /// No protocol.
    #[error("no protocol is offered: use wireguard, socks5, http-connect or several of them")]
    NoProtocol,
    /// No hour of the week.
    #[error(
        "--schedule leaves no hour of the week. Example: --schedule mon-fri:18-24,sat-sun:0-24"
    )]
    NoHours,
}

impl OfferTerms {
    /// Checks the ranges that every network imposes.
    pub fn validate(&self) -> Result<(), TermsError> {
        let (min, max) = (self.min_seconds, self.max_seconds);
        if min < SHORTEST_LEASE || max > LONGEST_LEASE || min > max {
            return Err(TermsError::Durations { min, max });
        }
        if self.capacity.leases == 0 {
            return Err(TermsError::NoLeases);
        }
        if self.capacity.mbit_up == 0 || self.capacity.mbit_down == 0 {
            return Err(TermsError::NoRate);
        }
        if self.protocols.is_empty() {
            return Err(TermsError::NoProtocol);
        }
        if self.weekly_hours.0.is_zero() {
            return Err(TermsError::NoHours);
        }
        Ok(())
    }

    /// The rates that all leases together are held to.
    pub fn rates(&self) -> Rates {
        Rates {
            up: bytes_per_second(self.capacity.mbit_up),
            down: bytes_per_second(self.capacity.mbit_down),
        }
    }

    /// A lease's part of these rates: what it was sold, but at least a tenth of an even part, which is what a lease
    /// that asked for no rate has beside those that did.
    pub(crate) fn weights(&self, mbit_up: u32, mbit_down: u32) -> Rates {
        let least = 10 * u64::from(self.capacity.leases.max(1));
        let all = self.rates();
        Rates {
            up: bytes_per_second(mbit_up).max(all.up / least),
            down: bytes_per_second(mbit_down).max(all.down / least),
        }
    }

    /// The offer of these terms, unsigned.
    pub(crate) fn offer(&self, settings: &Settings, nonce: u64, expires_at: UnixSeconds) -> Offer {
        Offer {
            network: settings.network.id,
            provider: settings.provider,
            nonce,
            prefixes: self.prefixes.clone(),
            protocols: self.protocols,
            policy_hash: settings.policy_hash,
            tier: settings.tier,
            ports: settings.ports.clone(),
            services: self.services.clone(),
            capacity: self.capacity,
            prices: self.prices,
            min_seconds: self.min_seconds,
            max_seconds: self.max_seconds,
            weekly_hours: self.weekly_hours,
            expires_at,
        }
    }
}

fn bytes_per_second(mbit: u32) -> u64 {
    u64::from(mbit) * BYTES_PER_MBIT
}

/// The most that may be served without having been claimed: what an operator and a payer acting together could
/// take from the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExposureLimits {
    /// Over all channels of one payer.
    pub per_payer: Amount,
    /// Over all payers of the network.
    pub per_network: Amount,
}

impl Default for ExposureLimits {
    /// 100 tokens per payer and 1,000 per network, in units of 10^-18.
    fn default() -> Self {
        const TOKEN: u128 = 1_000_000_000_000_000_000;
        Self {
            per_payer: Amount(100 * TOKEN),
            per_network: Amount(1_000 * TOKEN),
        }
    }
}

/// Everything that a [`Provider`](super::Provider) is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The network.
    pub network: Network,
    /// The provider's wallet.
    pub provider: Address,
    /// Keccak of the exit policy's canonical bytes.
    pub policy_hash: B256,
    /// Tier of that policy.
    pub tier: Tier,
    /// TCP ports that it opens at every public address; see [`open_ports`](super::open_ports).
    pub ports: Vec<PortRange>,
    /// What is sold.
    pub terms: OfferTerms,
    /// What may stay unclaimed.
    pub exposure: ExposureLimits,
    /// Where leases are reached, before a broker has said what it sees.
    pub endpoint: EndpointHint,
}

/// How the WireGuard endpoint that requesters are told is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointHint {
    /// As configured.
    Advertised(std::net::SocketAddr),
    /// Where it listens. At no address in particular, or at a private one while the broker sees a public one, it is reached
    /// at what the broker sees, with the same port.
    Listening(std::net::SocketAddr),
}
