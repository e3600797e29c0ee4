//! The bodies of the requesters' HTTP interface, in JSON. Paths and status codes stand in `docs/protocol.md`.

mod events;
mod problem;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipsx_metering::{
    Address, Amount, Authorization, DealId, Domain, NetworkId, OfferId, Prices, RequestId,
    Reservation, Signature, Signed, UnixSeconds, Usage, Voucher, Withdrawal,
};
use serde::{Deserialize, Serialize};

use crate::deal::{Deal, Outcome};
use crate::messages::{EndCause, EndReport, Ready, RelayToken};
use crate::offer::{Capacity, Placement, PortRange, Protocols, Tier};
use crate::request::SignedRequest;
use crate::resting::RequestStatus;
use crate::services::ServiceName;
use crate::status::{DealStatus, ProviderStatus, RequesterStatus};
pub use events::{DealEvent, RequestEvent, StreamEnd, StreamEndReason};
pub use problem::{Problem, ProblemKind};

/// `GET /v1/network`: what a client must know before it signs anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkInfo {
    /// Version of all messages and signed types.
    pub version: u16,
    /// The network.
    pub network: NetworkId,
    /// Chain and `Centralizer`.
    pub domain: Domain,
    /// The token.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub token: Address,
    /// The operator's wallet.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub operator: Address,
    /// Fee in basis points.
    #[cfg_attr(feature = "openapi", schema(maximum = 1000))]
    pub fee_bps: u16,
    /// Who receives the fee.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub treasury: Address,
    /// Where agents connect by QUIC.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::SocketText))]
    pub agents: SocketAddr,
    /// UDP address that says what it sees of who asks it (STUN); absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<ipsx_metering::openapi::SocketText>))]
    pub reflector: Option<SocketAddr>,
    /// Address of the relay for those who can't reach each other, if there is one; a lease has a port of its own there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<ipsx_metering::openapi::IpText>))]
    pub relay: Option<IpAddr>,
    /// URL of the chain's JSON-RPC: absolute, or a path on this server for the embedded chain.
    pub chain_rpc: String,
}

/// `POST /v1/session/nonce`: a nonce for Sign-In with Ethereum (EIP-4361).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionNonce {
    /// Goes into the message. Valid once, for five minutes.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[0-9a-f]{64}$"))]
    pub nonce: String,
    /// Goes into the message as its domain.
    pub domain: String,
    /// Goes into the message as its URI.
    pub uri: String,
}

/// `POST /v1/session`: the signed message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignIn {
    /// The EIP-4361 message.
    #[cfg_attr(feature = "openapi", schema(max_length = 4096))]
    pub message: String,
    /// EIP-191 signature of the wallet over it.
    pub signature: Signature,
}

/// The answer to [`SignIn`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// Bearer token (RFC 6750).
    #[cfg_attr(feature = "openapi", schema(pattern = "^[0-9a-f]{64}$"))]
    pub token: String,
    /// Until when it counts.
    pub expires_at: UnixSeconds,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token opens the session, so it is never printed.
        write!(f, "Session(until {})", self.expires_at)
    }
}

/// One line of `GET /v1/offers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OfferView {
    /// The offer.
    pub offer: OfferId,
    /// The provider's wallet.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub provider: Address,
    /// Where it is, as the broker placed it.
    pub placement: Placement,
    /// How it can be used.
    pub protocols: Protocols,
    /// How much its exit lets through.
    pub tier: Tier,
    /// TCP ports that it opens at every public address.
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub ports: Vec<PortRange>,
    /// Services that a lease comes with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 16))]
    pub services: Vec<ServiceName>,
    /// What it costs.
    pub prices: Prices,
    /// What can be sold at once.
    pub capacity: Capacity,
    /// Leases that could start now.
    pub free_leases: u32,
    /// Shortest lease in seconds.
    #[cfg_attr(feature = "openapi", schema(minimum = 5, maximum = 2678400))]
    pub min_seconds: u32,
    /// Longest lease in seconds.
    #[cfg_attr(feature = "openapi", schema(minimum = 5, maximum = 2678400))]
    pub max_seconds: u32,
}

/// `POST /v1/requests`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PostRequest {
    /// The request, with its signatures.
    pub request: SignedRequest,
}

/// The answer to [`PostRequest`]: a deal that the provider has signed and the requester may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProposedDeal {
    /// Its id.
    pub deal_id: DealId,
    /// The deal; the client checks it against its request before signing.
    pub deal: Deal,
    /// The provider's wallet over it.
    pub provider_signature: Signature,
    /// Where the address is.
    pub placement: Placement,
}

/// The other answer to [`PostRequest`], of `POST /v1/bundles` as well, and `GET` and `DELETE /v1/requests/{id}`: a request that
/// found no offer at once. With `?wait=SECONDS` the answer to `GET` waits until it no longer rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RequestView {
    /// The request's id.
    pub request: RequestId,
    /// Where it stands.
    pub status: RequestStatus,
    /// Why it was refused, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when it may rest; 0 if it found an offer at once.
    pub rest_until: UnixSeconds,
    /// Since when it stands there.
    pub changed_at: UnixSeconds,
    /// All deals that came of it, once it is matched: in the order of its legs, and of each leg the oldest first.
    pub deals: Vec<ProposedDeal>,
}

/// `POST /v1/deals/{id}/signature`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignDeal {
    /// The requester's wallet over the deal.
    pub signature: Signature,
    /// The session key's authorization, if the chain does not know it yet: the broker submits it.
    pub authorization: Option<Signed<Authorization>>,
    /// The voucher for the first slice, if the lease starts more than a minute after `sign_by`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepaid: Option<Signed<Voucher>>,
}

/// The answer to [`SignDeal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BoundDeal {
    /// The network's word.
    pub outcome: Signed<Outcome>,
    /// Capacity that is promised for the channel; absent when the deal was aborted.
    pub reservation: Option<Signed<Reservation>>,
}

/// The answer to `POST /v1/bundles`: deals that their providers have signed and the requester may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProposedBundle {
    /// The request's id.
    pub request: RequestId,
    /// One deal for each address that was found, in the order of the request's legs.
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub deals: Vec<ProposedDeal>,
}

/// `POST /v1/bundles/{id}/signatures`: several deals of a request are signed at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignBundle {
    /// Of all deals that are good for anything only together; else of any.
    #[cfg_attr(feature = "openapi", schema(min_items = 1, max_items = 64))]
    pub signatures: Vec<DealSignature>,
    /// The session key's authorization, if the chain does not know it yet: the broker submits it.
    pub authorization: Option<Signed<Authorization>>,
}

/// A signature under one of several deals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DealSignature {
    /// The deal.
    pub deal_id: DealId,
    /// The requester's wallet over it.
    pub signature: Signature,
    /// The voucher for the first slice, as with [`SignDeal`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepaid: Option<Signed<Voucher>>,
}

/// The answer to [`SignBundle`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BoundBundle {
    /// What each of the deals is bound by, in the order of the signatures.
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub deals: Vec<BoundDeal>,
}

/// `GET /v1/deals/{id}` and each of `GET /v1/deals`. With `?wait=SECONDS&status=STATUS` (the status the client
/// knows) the answer waits for a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DealView {
    /// Its id.
    pub deal_id: DealId,
    /// The deal.
    pub deal: Deal,
    /// Where the address is.
    pub placement: Placement,
    /// A function of the next two.
    pub status: DealStatus,
    /// The provider's side.
    pub provider: ProviderStatus,
    /// The requester's side.
    pub requester: RequesterStatus,
    /// How to reach it, once ready.
    pub ready: Option<Ready>,
    /// When it became ready, by the broker's clock.
    pub ready_at: Option<UnixSeconds>,
    /// When it ended.
    pub ended_at: Option<UnixSeconds>,
    /// Why it ended.
    pub cause: Option<EndCause>,
    /// What the provider reported at the end.
    pub usage: Option<Usage>,
    /// What the provider reported that it cost.
    pub amount: Option<Amount>,
}

/// `POST /v1/deals/{id}/connected`: the tunnel is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Connected {}

/// `POST /v1/deals/{id}/endpoint`: from where the requester's tunnel sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RequesterEndpoint {
    /// As the reflector sees it; of the address that asks.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::SocketText))]
    pub endpoint: SocketAddr,
}

/// `POST /v1/deals/{id}/relay`: no way leads to the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WantRelay {}

/// What it is answered with: a way by which the provider will be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RelayedWay {
    /// UDP address and port of a relay, which is this lease's.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::SocketText))]
    pub relay: SocketAddr,
    /// The requester's secret there.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::HashText))]
    pub token: RelayToken,
}

/// `POST /v1/deals/{id}/end`: the requester's end of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndDeal {
    /// How it ended on this side.
    pub report: EndReport,
}

/// `GET /v1/deals/{id}/frames?wait=SECONDS`: sealed frames for the payer, oldest first.
/// `POST` of the same carries the payer's to the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Frames {
    /// Sealed frames in standard base64 (RFC 4648 §4).
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub frames: Vec<String>,
}

/// `POST /v1/withdrawals`: asks for the operator's consent to an immediate withdrawal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PostWithdrawal {
    /// Who receives the tokens.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::AddressText))]
    pub to: Address,
    /// How much.
    pub amount: Amount,
}

/// The answer to [`PostWithdrawal`], to be submitted to the contract.
pub type SignedWithdrawal = Signed<Withdrawal>;
