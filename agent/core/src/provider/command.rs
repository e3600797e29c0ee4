//! What the provider asks its shell to do, and what the shell keeps for it.

use std::net::{IpAddr, SocketAddr};

use ipsx_market::deal::{Deal, Outcome, ProviderTerms};
use ipsx_market::messages::{AgentMessage, EndReport, RelayToken};
use ipsx_market::offer::Offer;
use ipsx_market::payment::ProviderMessage;
use ipsx_market::request::TunnelKey;
use ipsx_metering::{
    Address, Amount, B256, Channel, ChannelId, ChannelState, CheckedSignature, DealId, NetworkId,
    Receipt, Reservation, Signature, Signed, Voucher,
};
use ipsx_tunnel_core::{Gate, Rates};
use serde::{Deserialize, Serialize};

use super::event::ProviderEvent;
use super::month::MonthTraffic;

/// One thing to do. Commands are carried out in the order in which they come.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Send to the broker.
    Send(AgentMessage),
    /// Sign with the wallet and send as `PublishOffer`.
    PublishOffer(Box<Offer>),
    /// Sign with the wallet and send as `AcceptDeal`.
    AcceptDeal {
        /// Number of the proposal.
        proposal: u64,
        /// What is signed.
        deal: Box<Deal>,
        /// What this provider adds.
        terms: ProviderTerms,
    },
    /// Read the chain and hand the answer to `handle_chain`.
    ReadChain {
        /// The lease.
        lease: DealId,
        /// What to read.
        query: ChainQuery,
    },
    /// Store the lease durably, then open its peer and hand the result to `handle_peer`.
    OpenPeer {
        /// The lease.
        lease: DealId,
        /// What the peer is.
        peer: Peer,
        /// What has to be on disk before the peer is open.
        record: Box<LeaseRecord>,
    },
    /// Change what a peer's traffic may do.
    SetGate {
        /// The lease.
        lease: DealId,
        /// The gate.
        gate: Gate,
    },
    /// Hear what comes to the WireGuard socket from this reflector's address, and hand it to `handle_reflected`.
    Reflect {
        /// The reflector.
        reflector: SocketAddr,
        /// Whether to keep asking it.
        asks: bool,
    },
    /// Send something from the WireGuard socket that the other end ignores.
    Punch {
        /// Where a requester sends from.
        to: SocketAddr,
    },
    /// Show a relay from the WireGuard socket where that is, and keep showing it.
    JoinRelay {
        /// Its port for one lease.
        relay: SocketAddr,
        /// The secret by which it is shown.
        token: RelayToken,
    },
    /// Say nothing to a relay any more.
    LeaveRelay {
        /// Its port.
        relay: SocketAddr,
    },
    /// Close the peer.
    ClosePeer {
        /// The lease.
        lease: DealId,
    },
    /// Send to the payer.
    Pay {
        /// The lease.
        lease: DealId,
        /// By which path.
        path: PaymentPath,
        /// What.
        message: ProviderMessage,
    },
    /// Open a sealed frame and hand its content to `handle_payment` with [`PaymentPath::Broker`].
    OpenFrame {
        /// The lease.
        lease: DealId,
        /// The frame.
        sealed: Vec<u8>,
    },
    /// Store durably, then call `handle_stored`.
    Store(Box<StoreVoucher>),
    /// Store how the lease ended.
    StoreEnd {
        /// The lease.
        lease: DealId,
        /// Its report.
        report: Box<EndReport>,
        /// The receipt that the voucher in it answers.
        answered: Option<Box<Signed<Receipt>>>,
    },
    /// Store the month's traffic.
    StoreMonth(MonthTraffic),
    /// Claim what is unclaimed, and report each channel to `handle_claimed`.
    Claim {
        /// Whether it must be done for service to go on, rather than when convenient.
        urgent: bool,
    },
    /// Tell people.
    Tell(ProviderEvent),
    /// Count a voucher that was refused, by [`Misbehaved::name`](ipsx_metering::Misbehaved::name); people are told of
    /// some of them only.
    CountRefused(&'static str),
}

/// What a provider wants to know of the chain before it trusts a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainQuery {
    /// The network.
    pub network: NetworkId,
    /// Owner of the deposit.
    pub payer: Address,
    /// Key that signs the vouchers.
    pub payer_signer: Address,
    /// The channel.
    pub channel: ChannelId,
}

/// The WireGuard peer of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The requester's key.
    pub key: TunnelKey,
    /// Address that the lease's traffic leaves from.
    pub exit_address: IpAddr,
    /// Keccak of the exit policy that the deal names.
    pub policy_hash: B256,
    /// Its part of the capacity, beside those of the other leases.
    pub weights: Rates,
}

/// By which path payment messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentPath {
    /// As control datagrams in the tunnel.
    Tunnel,
    /// As sealed frames through the broker.
    Broker,
}

/// A bound deal, kept for as long as the records are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The deal.
    pub deal: Deal,
    /// The requester's wallet over it.
    pub requester_signature: Signature,
    /// The network's word.
    pub outcome: Signed<Outcome>,
}

/// The latest of a channel, to be on disk before service goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreVoucher {
    /// The lease that it pays.
    pub lease: DealId,
    /// The channel.
    pub channel: Channel,
    /// The latest voucher.
    pub voucher: Signed<Voucher>,
    /// That its signature was checked, if it was.
    pub checked: Option<CheckedSignature>,
    /// The reservation that covers it best.
    pub reservation: Option<Signed<Reservation>>,
    /// What the next meter of the channel starts from.
    pub state: ChannelState,
}

impl StoreVoucher {
    /// Total of the channel's vouchers, as `handle_stored` wants it.
    pub fn cumulative(&self) -> Amount {
        self.voucher.message.cumulative
    }
}

/// A channel as it was found on disk and on the chain at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownChannel {
    /// The channel.
    pub channel: Channel,
    /// What the last meter stored.
    pub state: ChannelState,
    /// What the chain has paid.
    pub claimed: Amount,
}

/// What an earlier run of the program left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Every channel that was ever paid through.
    pub channels: Vec<KnownChannel>,
    /// Leases that were open when the program ended.
    pub unfinished: Vec<LeaseRecord>,
    /// The month's traffic.
    pub month: MonthTraffic,
}
