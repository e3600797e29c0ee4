//! What a requester asks for.

use std::fmt;

use ipnet::IpNet;
use ipsx_metering::{Address, Amount, B256, NetworkId, Prices, RequestId, TypedData, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::offer::{Country, Protocols, Tier, price_per_gib, price_per_second};
use crate::typed_data::{sol, uint40};
pub use ipsx_metering::CounterSource;

/// Which IP versions the leased address may be of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpVersion {
    /// Either.
    #[default]
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Conditions on an offer and its placement. Empty lists and zeros ask for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// One of these countries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub countries: Vec<Country>,
    /// One of these autonomous systems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asns: Vec<u32>,
    /// An address within one of these prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<IpNet>,
    /// Version of the address.
    #[serde(default)]
    pub ip_version: IpVersion,
    /// All of these protocols.
    #[serde(default)]
    pub protocols: Protocols,
    /// At least this tier.
    #[serde(default)]
    pub tier: Tier,
    /// At least this rate from the requester, Mbit/s.
    #[serde(default)]
    pub mbit_up: u32,
    /// At least this rate to the requester, Mbit/s.
    #[serde(default)]
    pub mbit_down: u32,
}

/// A WireGuard public key (Curve25519).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TunnelKey(pub B256);

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelKey({:#x})", self.0)
    }
}

/// A request for one address; signed by the requester's wallet as EIP-712 typed data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Network that is asked.
    pub network: NetworkId,
    /// The requester's wallet.
    pub requester: Address,
    /// Makes the request unique.
    pub nonce: u64,
    /// What is asked of the offer.
    pub filter: Filter,
    /// The most that may be charged.
    pub max_prices: Prices,
    /// The most that the lease may cost in all.
    pub budget: Amount,
    /// Length of the lease.
    pub seconds: u32,
    /// Owner of the deposit that pays.
    pub payer: Address,
    /// Session key that signs the vouchers.
    pub payer_signer: Address,
    /// Salt of the payment channel; zero unless an earlier channel was abandoned.
    pub channel_salt: B256,
    /// The requester's WireGuard key.
    pub tunnel_key: TunnelKey,
    /// Whose byte counts are paid.
    pub counter_source: CounterSource,
    /// After this second the request is void.
    pub expires_at: UnixSeconds,
}

impl Request {
    /// The request's id.
    pub fn id(&self) -> RequestId {
        RequestId(self.struct_hash())
    }
}

impl TypedData for Request {
    type Sol = sol::Request;

    fn to_sol(&self) -> sol::Request {
        sol::Request {
            network: self.network.0,
            requester: self.requester,
            nonce: self.nonce,
            filter: sol::Filter {
                countries: self
                    .filter
                    .countries
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                asns: self.filter.asns.clone(),
                prefixes: self
                    .filter
                    .prefixes
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                ipVersion: match self.filter.ip_version {
                    IpVersion::Any => 0,
                    IpVersion::V4 => 4,
                    IpVersion::V6 => 6,
                },
                protocols: self.filter.protocols.mask(),
                tier: self.filter.tier.to_string(),
                mbitUp: self.filter.mbit_up,
                mbitDown: self.filter.mbit_down,
            },
            maxPricePerSecond: price_per_second(self.max_prices.per_second),
            maxPricePerGib: price_per_gib(self.max_prices.per_gib),
            budget: self.budget.0,
            numSeconds: self.seconds,
            payer: self.payer,
            payerSigner: self.payer_signer,
            channelSalt: self.channel_salt,
            tunnelKey: self.tunnel_key.0,
            counterSource: crate::typed_data::counter_source(self.counter_source),
            expiresAt: uint40(self.expires_at),
        }
    }
}
