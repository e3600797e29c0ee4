//! What a provider offers, and what the broker has seen of it.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use ipsx_metering::{
    Address, B256, OfferId, PricePerGib, PricePerSecond, Prices, TypedData, U256, UnixSeconds,
};
use serde::{Deserialize, Serialize};

pub use crate::place::{Country, NoCountry, Placement};
pub use crate::ports::PortRange;
use crate::services::ServiceName;
use crate::typed_data::sol;
use ipsx_metering::NetworkId;

/// Shortest lease that any offer may sell, in seconds.
pub const SHORTEST_LEASE: u32 = 5;
/// Longest lease that any offer may sell: 31 days, in seconds.
pub const LONGEST_LEASE: u32 = 31 * 24 * 3600;

/// A set of the protocols by which a lease can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Protocol>", into = "Vec<Protocol>")]
pub struct Protocols(u32);

/// A way to use a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Protocol {
    /// A WireGuard peer of the provider.
    Wireguard,
    /// SOCKS5 (RFC 1928), carried inside WireGuard.
    Socks5,
    /// HTTP CONNECT (RFC 9110 §9.3.6), carried inside WireGuard.
    HttpConnect,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 3] = [Self::Wireguard, Self::Socks5, Self::HttpConnect];

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wireguard => "wireguard",
            Self::Socks5 => "socks5",
            Self::HttpConnect => "http-connect",
        })
    }
}

/// No protocol has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no protocol; use wireguard, socks5 or http-connect")]
pub struct UnknownProtocol(String);

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(name: &str) -> Result<Self, UnknownProtocol> {
        let found = Self::ALL.into_iter().find(|p| p.to_string() == name);
        found.ok_or_else(|| UnknownProtocol(name.into()))
    }
}

impl Protocols {
    /// Every protocol.
    pub fn all() -> Self {
        Protocol::ALL.into_iter().collect()
    }

    /// The set as the bit mask that is signed: bit 0 WireGuard, 1 SOCKS5, 2 HTTP CONNECT.
    pub fn mask(self) -> u32 {
        self.0
    }

    /// Whether everything in `other` is here too.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Protocol> for Protocols {
    fn from_iter<I: IntoIterator<Item = Protocol>>(protocols: I) -> Self {
        Self(protocols.into_iter().fold(0, |mask, p| mask | p.bit()))
    }
}

impl From<Vec<Protocol>> for Protocols {
    fn from(protocols: Vec<Protocol>) -> Self {
        protocols.into_iter().collect()
    }
}

impl From<Protocols> for Vec<Protocol> {
    fn from(set: Protocols) -> Self {
        Protocol::ALL
            .into_iter()
            .filter(|p| set.0 & p.bit() != 0)
            .collect()
    }
}

/// How much an exit policy lets through; each tier includes those before it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Tier {
    /// TCP to the ports of the web, and names.
    #[default]
    #[serde(rename = "web")]
    Web,
    /// The same, and UDP.
    #[serde(rename = "web+udp")]
    WebUdp,
    /// Every port but those of mail.
    #[serde(rename = "open")]
    Open,
}

impl Tier {
    /// The TCP ports that the tier opens by itself.
    pub fn ports(self) -> Vec<PortRange> {
        let ranges: &[(u16, u16)] = match self {
            Self::Web | Self::WebUdp => &[(80, 80), (443, 443)],
            Self::Open => &[(1, 24), (26, 464), (466, 586), (588, u16::MAX)],
        };
        let ranges = ranges.iter();
        ranges
            .filter_map(|(first, last)| PortRange::new(*first, *last))
            .collect()
    }

    /// The name that people and signed messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::WebUdp => "web+udp",
            Self::Open => "open",
        }
    }
}

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(name: &str) -> Result<Self, UnknownTier> {
        let all = [Self::Web, Self::WebUdp, Self::Open];
        all.into_iter()
            .find(|t| t.as_str() == name)
            .ok_or_else(|| UnknownTier(name.into()))
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No tier has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no tier; use web, web+udp or open")]
pub struct UnknownTier(String);

/// How much of the provider can be sold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Capacity {
    /// Leases at the same time.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000000))]
    pub leases: u32,
    /// Mbit/s from the requesters, all leases together.
    pub mbit_up: u32,
    /// Mbit/s to the requesters, all leases together.
    pub mbit_down: u32,
    /// Bytes in a calendar month (UTC), both directions; `u64::MAX` is no limit.
    pub bytes_per_month: u64,
}

/// Which hours of the week (UTC) are for sale: bit 0 is Monday 00:00 to 01:00, bit 167 Sunday 23:00 to 24:00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WeeklyHours(pub U256);

impl WeeklyHours {
    /// Always.
    pub fn always() -> Self {
        Self((U256::from(1u8) << 168) - U256::from(1u8))
    }

    /// Whether `time` falls into an hour that is for sale.
    pub fn contains(&self, time: UnixSeconds) -> bool {
        // 1970-01-01 was a Thursday: three days after a Monday.
        let hour = (time.0 / 3600 + 3 * 24) % 168;
        self.0.bit(hour as usize)
    }
}

/// A provider's offer; signed by its wallet as EIP-712 typed data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Network on which it is offered.
    pub network: NetworkId,
    /// The provider's wallet.
    pub provider: Address,
    /// Distinguishes a provider's offers; a higher one replaces a lower one for the same prefixes.
    pub nonce: u64,
    /// Addresses offered. Empty: the one address that the broker sees the agent come from.
    pub prefixes: Vec<IpNet>,
    /// How leases can be used.
    pub protocols: Protocols,
    /// Keccak of the exit policy's canonical bytes.
    pub policy_hash: B256,
    /// Tier of that policy.
    pub tier: Tier,
    /// TCP ports that the policy opens at every public address, in order and apart from each other.
    pub ports: Vec<PortRange>,
    /// Services of the network that the provider takes part in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceName>,
    /// What can be sold at once.
    pub capacity: Capacity,
    /// What it costs.
    pub prices: Prices,
    /// Shortest lease in seconds, at least [`SHORTEST_LEASE`].
    pub min_seconds: u32,
    /// Longest lease in seconds, at most [`LONGEST_LEASE`].
    pub max_seconds: u32,
    /// When leases may run.
    pub weekly_hours: WeeklyHours,
    /// After this second the offer is void.
    pub expires_at: UnixSeconds,
}

impl Offer {
    /// The offer's id.
    pub fn id(&self) -> OfferId {
        OfferId(self.struct_hash())
    }
}

impl TypedData for Offer {
    type Sol = sol::Offer;

    fn to_sol(&self) -> sol::Offer {
        sol::Offer {
            network: self.network.0,
            provider: self.provider,
            nonce: self.nonce,
            prefixes: self.prefixes.iter().map(ToString::to_string).collect(),
            protocols: self.protocols.mask(),
            policyHash: self.policy_hash,
            tier: self.tier.to_string(),
            ports: self.ports.iter().map(ToString::to_string).collect(),
            services: self.services.iter().map(ToString::to_string).collect(),
            leases: self.capacity.leases,
            mbitUp: self.capacity.mbit_up,
            mbitDown: self.capacity.mbit_down,
            bytesPerMonth: self.capacity.bytes_per_month,
            pricePerSecond: price_per_second(self.prices.per_second),
            pricePerGib: price_per_gib(self.prices.per_gib),
            minSeconds: self.min_seconds,
            maxSeconds: self.max_seconds,
            weeklyHours: self.weekly_hours.0,
            expiresAt: crate::typed_data::uint40(self.expires_at),
        }
    }
}

pub(crate) fn price_per_second(price: PricePerSecond) -> u128 {
    price.0.0
}

pub(crate) fn price_per_gib(price: PricePerGib) -> u128 {
    price.0.0
}
