//! What a requester asks for.

use std::fmt;

use ipnet::IpNet;
use ipsx_metering::{
    Address, Amount, B256, Domain, NetworkId, Prices, RequestId, SecretKey, Signature, TypedData,
    UnixSeconds, VerifyError, verify,
};
use serde::{Deserialize, Serialize};

use crate::avoid::Avoid;
use crate::bundle::Bundle;
use crate::geo::Circle;
use crate::offer::{Protocols, Tier, price_per_gib, price_per_second};
use crate::place::{AddressType, City, Country, Reachability, Region};
use crate::services::ServiceName;
use crate::start::StartWindow;
use crate::typed_data::{sol, uint40};
pub use ipsx_metering::CounterSource;

/// Which IP versions the leased address may be of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum IpVersion {
    /// Either.
    #[default]
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Conditions on an offer and its placement. Empty lists and zeros ask for nothing; what is not known of an offer does not
/// meet a condition on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Filter {
    /// One of these countries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub countries: Vec<Country>,
    /// One of these regions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub regions: Vec<Region>,
    /// One of these cities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub cities: Vec<City>,
    /// Within one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 16))]
    pub circles: Vec<Circle>,
    /// One of these autonomous systems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub asns: Vec<u32>,
    /// An address within one of these prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<ipsx_metering::openapi::PrefixText>, max_items = 256))]
    pub prefixes: Vec<IpNet>,
    /// One of these types of address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 3))]
    pub address_types: Vec<AddressType>,
    /// Version of the address.
    #[serde(default)]
    pub ip_version: IpVersion,
    /// All of these protocols.
    #[serde(default)]
    pub protocols: Protocols,
    /// At least this tier.
    #[serde(default)]
    pub tier: Tier,
    /// All of these TCP ports, open at every public address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    pub ports: Vec<u16>,
    /// All of these services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 16))]
    pub services: Vec<ServiceName>,
    /// At least this rate from the requester, Mbit/s: offered, and not measured to be less.
    #[serde(default)]
    pub mbit_up: u32,
    /// At least this rate to the requester, Mbit/s: offered, and not measured to be less.
    #[serde(default)]
    pub mbit_down: u32,
    /// At most this round trip, milliseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_latency_ms: u16,
    /// At least this reputation.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[cfg_attr(feature = "openapi", schema(maximum = 1000))]
    pub min_reputation: u16,
    /// Reached in this way or a better one: not measured to be reached in a worse one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachability: Option<Reachability>,
    /// Nothing of this.
    #[serde(default, skip_serializing_if = "Avoid::is_empty")]
    pub avoid: Avoid,
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

fn is_never(time: &UnixSeconds) -> bool {
    time.0 == 0
}

impl Filter {
    fn to_sol(&self) -> sol::Filter {
        fn texts<T: ToString>(values: &[T]) -> Vec<String> {
            values.iter().map(ToString::to_string).collect()
        }
        let circle = |circle: &Circle| sol::Circle {
            latitude: circle.center.latitude,
            longitude: circle.center.longitude,
            km: circle.km,
        };
        sol::Filter {
            countries: texts(&self.countries),
            regions: texts(&self.regions),
            cities: texts(&self.cities),
            circles: self.circles.iter().map(circle).collect(),
            asns: self.asns.clone(),
            prefixes: texts(&self.prefixes),
            addressTypes: texts(&self.address_types),
            ipVersion: match self.ip_version {
                IpVersion::Any => 0,
                IpVersion::V4 => 4,
                IpVersion::V6 => 6,
            },
            protocols: self.protocols.mask(),
            tier: self.tier.to_string(),
            ports: self.ports.clone(),
            services: texts(&self.services),
            mbitUp: self.mbit_up,
            mbitDown: self.mbit_down,
            maxLatencyMs: self.max_latency_ms,
            minReputation: self.min_reputation,
            reachability: texts(self.reachability.as_slice()).concat(),
            avoid: self.avoid.to_sol(),
        }
    }
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

/// A request for an address, or several; signed by the requester's wallet as EIP-712 typed data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Request {
    /// Network that is asked.
    pub network: NetworkId,
    /// The requester's wallet.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
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
    #[cfg_attr(feature = "openapi", schema(minimum = 5, maximum = 2678400))]
    pub seconds: u32,
    /// When it may start.
    #[serde(default, skip_serializing_if = "StartWindow::is_now")]
    pub start: StartWindow,
    /// Bytes that it will carry about, both directions; offers are compared by what that costs.
    #[serde(default)]
    pub expected_bytes: u64,
    /// Owner of the deposit that pays.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub payer: Address,
    /// Session key that signs the vouchers.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub payer_signer: Address,
    /// Salt of the payment channel; zero unless an earlier channel was abandoned.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::HashText))]
    pub channel_salt: B256,
    /// The requester's WireGuard key.
    pub tunnel_key: TunnelKey,
    /// Whose byte counts are paid.
    pub counter_source: CounterSource,
    /// After this second the request is void.
    pub expires_at: UnixSeconds,
    /// If no offer fits now, it rests in the book until one does, up to this second; 0 asks for an answer at once.
    #[serde(default, skip_serializing_if = "is_never")]
    pub rest_until: UnixSeconds,
    /// What is leased together with it.
    #[serde(default, skip_serializing_if = "Bundle::is_single")]
    pub bundle: Bundle,
}

impl Request {
    /// The request's id.
    pub fn id(&self) -> RequestId {
        RequestId(self.struct_hash())
    }

    /// Whether it may rest in the book now.
    pub fn may_rest(&self, now: UnixSeconds) -> bool {
        now <= self.rest_until
    }
}

/// A request with the signatures that make it good.
///
/// A wallet that pays for itself appoints its session key by naming it. Whoever names another payer shows that this
/// payer's session key agrees to this very request; that the payer appointed the key, the chain says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignedRequest {
    /// What is asked for.
    pub message: Request,
    /// The requester's wallet over the request.
    pub signature: Signature,
    /// The session key over the same, if the payer is not the requester.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer_signature: Option<Signature>,
}

/// A request is not signed by all who must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// The requester's signature does not hold.
    #[error("it is not the requester's: {0}")]
    Requester(VerifyError),
    /// The session key's does not.
    #[error("the payer's session key did not agree to it: {0}")]
    Payer(VerifyError),
    /// The session key's is missing.
    #[error("it names payer {0} and lacks the signature of that payer's session key")]
    NoConsent(Address),
}

impl SignedRequest {
    /// Signs with the requester's wallet and, where it is needed, with the session key.
    pub fn sign(message: Request, domain: &Domain, wallet: &SecretKey, key: &SecretKey) -> Self {
        let hash = message.signing_hash(domain);
        Self {
            signature: wallet.sign_hash(hash),
            payer_signature: (message.payer != message.requester).then(|| key.sign_hash(hash)),
            message,
        }
    }

    /// Checks that everybody signed who must.
    pub fn verify(&self, domain: &Domain) -> Result<(), Unsigned> {
        let request = &self.message;
        let hash = request.signing_hash(domain);
        verify(hash, &self.signature, request.requester).map_err(Unsigned::Requester)?;
        if request.payer == request.requester {
            return Ok(());
        }
        let consent = self.payer_signature;
        let consent = consent.ok_or(Unsigned::NoConsent(request.payer))?;
        verify(hash, &consent, request.payer_signer).map_err(Unsigned::Payer)
    }
}

impl TypedData for Request {
    type Sol = sol::Request;

    fn to_sol(&self) -> sol::Request {
        sol::Request {
            network: self.network.0,
            requester: self.requester,
            nonce: self.nonce,
            filter: self.filter.to_sol(),
            maxPricePerSecond: price_per_second(self.max_prices.per_second),
            maxPricePerGib: price_per_gib(self.max_prices.per_gib),
            budget: self.budget.0,
            numSeconds: self.seconds,
            startEarliest: uint40(self.start.earliest),
            startLatest: uint40(self.start.latest),
            expectedBytes: self.expected_bytes,
            payer: self.payer,
            payerSigner: self.payer_signer,
            channelSalt: self.channel_salt,
            tunnelKey: self.tunnel_key.0,
            counterSource: crate::typed_data::counter_source(self.counter_source),
            expiresAt: uint40(self.expires_at),
            restUntil: uint40(self.rest_until),
            bundle: self.bundle.to_sol(),
        }
    }
}
