//! What agents and broker say to each other over QUIC.
//!
//! One bidirectional stream per agent, opened by it, carries [`AgentMessage`]s one way and [`BrokerMessage`]s the
//! other, each as one [frame](crate::codec). The handshake is `Hello` → `Welcome` → `Authenticate` →
//! `Authenticated`; nothing else is heard before. The session that both sign is the TLS exporter
//! (RFC 8446 §7.5) with label [`SESSION_LABEL`] and no context, 32 bytes: a signature made for one connection
//! proves nothing on another, whoever sits between.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipsx_metering::{
    Address, Amount, B256, Close, DealId, Domain, NetworkId, OfferId, Reservation, Signature,
    Signed, TypedData, Usage, Voucher,
};
use serde::{Deserialize, Serialize};

use crate::deal::{Deal, Outcome, Proposal, ProviderTerms};
use crate::offer::{Offer, Placement};
use crate::place::Reachability;
use crate::proof::Withheld;
use crate::typed_data::sol;

/// Version of these messages. A different one is refused in the handshake.
pub const PROTOCOL_VERSION: u16 = 1;
/// ALPN of the agents' connections.
pub const ALPN: &[u8] = b"ipsx/1";
/// Label of the TLS exporter whose output both sides sign.
pub const SESSION_LABEL: &[u8] = b"EXPORTER-ipsx-session";

/// The code that a connection is closed with when a newer one of the same wallet took over.
pub const CLOSED_REPLACED: u32 = 3;

/// What one side of a relayed lease shows a relay that it has, without saying it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelayToken(pub B256);

impl fmt::Debug for RelayToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayToken(…)")
    }
}

/// Proof that an agent acts for a provider's wallet, on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentAuthentication {
    /// The network joined.
    pub network: NetworkId,
    /// The wallet.
    pub provider: Address,
    /// TLS exporter of the connection.
    pub session: B256,
}

impl TypedData for AgentAuthentication {
    type Sol = sol::AgentAuthentication;

    fn to_sol(&self) -> sol::AgentAuthentication {
        sol::AgentAuthentication {
            network: self.network.0,
            provider: self.provider,
            session: self.session,
        }
    }
}

/// Proof that a broker acts for a network's operator, on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAuthentication {
    /// The network.
    pub network: NetworkId,
    /// TLS exporter of the connection.
    pub session: B256,
}

impl TypedData for BrokerAuthentication {
    type Sol = sol::BrokerAuthentication;

    fn to_sol(&self) -> sol::BrokerAuthentication {
        sol::BrokerAuthentication {
            network: self.network.0,
            session: self.session,
        }
    }
}

/// How to reach a lease that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ready {
    /// UDP endpoint of the provider's WireGuard.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::SocketText))]
    pub endpoint: SocketAddr,
    /// The requester's inner IPv4 address.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::Ipv4Text))]
    pub address_v4: Ipv4Addr,
    /// The requester's inner IPv6 address, if the exit carries IPv6.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<ipsx_metering::openapi::Ipv6Text>))]
    pub address_v6: Option<Ipv6Addr>,
    /// The provider's inner address: name server, and where vouchers go.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::Ipv4Text))]
    pub gateway: Ipv4Addr,
    /// UDP port for vouchers and receipts at the gateway.
    pub control_port: u16,
    /// Largest inner packet, bytes.
    pub mtu: u16,
    /// Latest voucher that the provider holds of the channel, so that a payer who lost its disk knows it.
    pub latest_voucher: Option<Signed<Voucher>>,
    /// Number of the channel's next receipt.
    pub next_seq: u64,
}

/// How and why a lease ended, as one side reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndReport {
    /// Why.
    pub cause: EndCause,
    /// What was used.
    pub usage: Usage,
    /// What it cost.
    pub amount: Amount,
    /// Latest voucher of the channel, if any.
    pub voucher: Option<Signed<Voucher>>,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EndCause {
    /// Its time was up.
    Completed,
    /// Its budget was used up.
    BudgetSpent,
    /// The requester ended it.
    RequesterEnded,
    /// The provider ended it.
    ProviderEnded,
    /// Vouchers stopped coming.
    Unpaid,
    /// Service stopped: no echoes or no receipts.
    NoService,
    /// The address seen at the exit is not the one sold.
    WrongExit,
    /// The other side's numbers or signatures were wrong.
    Misbehaved,
    /// The reservation was not renewed in time.
    CapacityLapsed,
    /// The lease was not started in time.
    NotStarted,
    /// A side lost its state and came back.
    Restarted,
}

/// From an agent to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentMessage {
    /// Opens the handshake.
    Hello {
        /// [`PROTOCOL_VERSION`] of the agent.
        version: u16,
        /// Program and version, for the broker's log.
        software: String,
    },
    /// Proves the wallet.
    Authenticate {
        /// The wallet.
        provider: Address,
        /// Over [`AgentAuthentication`].
        signature: Signature,
    },
    /// Where requesters reach the agent's WireGuard; said again when it changes.
    Endpoint {
        /// Without what follows.
        endpoint: SocketAddr,
        /// As the reflector sees it, if the agent asks from there.
        mapped: Option<SocketAddr>,
    },
    /// A token came to that endpoint.
    Token {
        /// The number that it carries.
        token: u64,
    },
    /// Offers, or replaces an offer of the same agent.
    PublishOffer {
        /// The offer.
        offer: Signed<Offer>,
    },
    /// Takes an offer back. Running leases go on.
    WithdrawOffer {
        /// The offer.
        offer: OfferId,
    },
    /// Answers [`BrokerMessage::Propose`] with a signature.
    AcceptDeal {
        /// Number of the proposal.
        proposal: u64,
        /// What the provider adds; the broker computes the deal from it.
        terms: ProviderTerms,
        /// The provider's wallet over the [`Deal`].
        signature: Signature,
    },
    /// Answers [`BrokerMessage::Propose`] with a refusal.
    DeclineDeal {
        /// Number of the proposal.
        proposal: u64,
        /// Why, for people.
        reason: String,
    },
    /// A bound deal's peer is open.
    LeaseReady {
        /// The deal.
        deal_id: DealId,
        /// How to reach it.
        ready: Ready,
    },
    /// The first voucher is stored and traffic flows.
    LeaseServing {
        /// The deal.
        deal_id: DealId,
    },
    /// Asks for a higher or longer reservation.
    RenewReservation {
        /// The deal.
        deal_id: DealId,
        /// Latest voucher: what has been paid.
        voucher: Signed<Voucher>,
    },
    /// The lease is over on this side.
    LeaseEnded {
        /// The deal.
        deal_id: DealId,
        /// How.
        report: EndReport,
    },
    /// After the end: the provider will claim no more on the deal's channel than this says, which frees the rest of
    /// the payer's deposit.
    CloseChannel {
        /// A deal that the channel paid for.
        deal_id: DealId,
        /// Signed by the deal's payout key.
        close: Signed<Close>,
    },
    /// A sealed frame for the deal's requester.
    Frame {
        /// The deal.
        deal_id: DealId,
        /// See [`crate::sealed`].
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
    },
}

/// From the broker to an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BrokerMessage {
    /// Answers `Hello`, and proves the operator.
    Welcome {
        /// [`PROTOCOL_VERSION`] of the broker.
        version: u16,
        /// Program and version.
        software: String,
        /// The network it runs.
        network: NetworkId,
        /// Chain and contract that settle.
        domain: Domain,
        /// The operator's wallet.
        operator: Address,
        /// Over [`BrokerAuthentication`].
        signature: Signature,
    },
    /// The wallet is accepted.
    Authenticated {
        /// Address that the broker sees the agent come from.
        observed: IpAddr,
        /// Deals of this provider that the broker holds for unfinished: the agent ends those that it does not serve.
        unfinished: Vec<DealId>,
        /// UDP address that says what it sees of who asks it (STUN), and from whose address the agent's endpoint is tried;
        /// absent if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reflector: Option<SocketAddr>,
    },
    /// What came of trying the agent's endpoint: whoever is not reached directly asks the reflector from there.
    Reached {
        /// How requesters reach it; `None` if nobody knows.
        reachability: Option<Reachability>,
    },
    /// The offer is in the book.
    OfferPlaced {
        /// The offer.
        offer: OfferId,
        /// Where the broker put it.
        placement: Placement,
        /// Why requesters can't take it yet; absent when they can. Said again when that changes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        withheld: Option<Withheld>,
    },
    /// The offer is not in the book.
    OfferRefused {
        /// The offer.
        offer: OfferId,
        /// Why, and what to change.
        reason: String,
    },
    /// A request matches: sign a deal?
    Propose {
        /// Number of the proposal.
        proposal: u64,
        /// What is proposed.
        terms: Box<Proposal>,
    },
    /// Both have signed: open the peer.
    DealBound {
        /// The deal.
        deal: Box<Deal>,
        /// The requester's wallet over it.
        requester_signature: Signature,
        /// The network's word.
        outcome: Signed<Outcome>,
        /// Capacity that is promised for the channel.
        reservation: Signed<Reservation>,
    },
    /// A deal that the provider signed was not bound.
    DealAborted {
        /// The deal.
        deal_id: DealId,
        /// The network's word.
        outcome: Signed<Outcome>,
    },
    /// Answers `RenewReservation`.
    ReservationRenewed {
        /// The deal.
        deal_id: DealId,
        /// The new promise.
        reservation: Signed<Reservation>,
    },
    /// Answers `RenewReservation`: the payer's deposit covers no more.
    ReservationRefused {
        /// The deal.
        deal_id: DealId,
        /// Why.
        reason: String,
    },
    /// The requester of a lease that was to start later did not come: what it prepaid is the provider's.
    Forfeited {
        /// The deal.
        deal_id: DealId,
        /// The voucher for the first slice.
        voucher: Signed<Voucher>,
    },
    /// The requester of a bound deal sends from here: the provider sends something towards it, which opens a NAT.
    Punch {
        /// The deal.
        deal_id: DealId,
        /// Its address as the broker sees it, and its port by its own word.
        endpoint: SocketAddr,
    },
    /// The requester of a bound deal comes by a relay: the provider shows it where its WireGuard is, and that it is still there.
    Relay {
        /// The deal.
        deal_id: DealId,
        /// The port of a relay that is this lease's.
        relay: SocketAddr,
        /// The provider's secret there.
        token: RelayToken,
    },
    /// The other side has ended the lease.
    EndLease {
        /// The deal.
        deal_id: DealId,
        /// Why.
        cause: EndCause,
    },
    /// A sealed frame from the deal's requester.
    Frame {
        /// The deal.
        deal_id: DealId,
        /// See [`crate::sealed`].
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
    },
    /// The connection ends; the text says why and what to do.
    Refused {
        /// For people.
        reason: String,
    },
}
