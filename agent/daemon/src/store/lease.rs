//! What is kept of one lease: enough to end it after a crash, and to prove afterwards who paid whom.

use std::net::{IpAddr, SocketAddr};

use ipsx_market::deal::{Deal, Outcome};
use ipsx_market::messages::{EndCause, EndReport};
use ipsx_market::offer::Placement;
use ipsx_metering::{
    Amount, ChannelState, ConnectionsChecked, Domain, NetworkId, Receipt, Reservation, Signature,
    Signed, UnixSeconds, Usage, Voucher,
};
use serde::{Deserialize, Serialize};

/// A lease from the requester's side. First written before its deal is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The broker's URL.
    pub broker: String,
    /// The network.
    pub network: NetworkId,
    /// Chain and contract.
    pub domain: Domain,
    /// The operator when it was signed.
    pub operator: ipsx_metering::Address,
    /// The network's fee in basis points.
    pub fee_bps: u16,
    /// Number of the session key that pays.
    pub slot: u32,
    /// The deal.
    pub deal: Deal,
    /// The provider's wallet over it.
    pub provider_signature: Signature,
    /// The requester's wallet over it.
    pub requester_signature: Signature,
    /// Where the address is, by the broker.
    pub placement: Placement,
    /// When this side signed.
    pub signed_at: UnixSeconds,
    /// How far it came.
    pub stage: Stage,
    /// The network's word.
    pub outcome: Option<Signed<Outcome>>,
    /// The promise behind the vouchers.
    pub reservation: Option<Signed<Reservation>>,
    /// What the channel had paid before this lease.
    pub paid_before: Amount,
    /// Latest voucher of the channel when the lease ended.
    pub voucher: Option<Signed<Voucher>>,
    /// The receipt that it answers, if that is one of this lease's.
    pub answered: Option<Signed<Receipt>>,
    /// Vouchers signed for this lease.
    pub vouchers: u64,
    /// Latest receipt that was accepted.
    pub receipt: Option<Signed<Receipt>>,
    /// Address that the exit was seen to have; `None` when it was not checked.
    pub exit_seen: Option<IpAddr>,
    /// What of the provider's connection record was checked before it was signed for; `None` where nothing could be.
    pub connections: Option<ConnectionsChecked>,
    /// The relay's port that its packets went by at last, if they went by one.
    pub relay: Option<SocketAddr>,
    /// How it ended.
    pub ended: Option<Ended>,
}

/// How far a lease came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The deal was, or was about to be, signed.
    Signing,
    /// Bound by the network.
    Bound,
    /// The tunnel was up and vouchers flowed.
    Paying,
    /// Over; the broker may not know yet.
    Ended,
    /// Over, and the broker knows.
    Closed,
}

/// The end of a lease as this side saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: UnixSeconds,
    /// Why.
    pub cause: EndCause,
    /// What was used, by this side's own count.
    pub usage: Usage,
    /// What this lease paid.
    pub amount: Amount,
}

impl LeaseRecord {
    /// What the broker is told, once it is over.
    pub fn report(&self) -> Option<EndReport> {
        let ended = self.ended?;
        Some(EndReport {
            cause: ended.cause,
            usage: ended.usage,
            amount: ended.amount,
            voucher: self.voucher.clone(),
        })
    }

    /// Takes over what the channel's own file says of this lease, which was on disk before each voucher left.
    pub fn catch_up(&mut self, state: &ChannelState) -> Usage {
        let deal = self.deal.id();
        let Some(progress) = state.deal.filter(|progress| progress.deal_id == deal) else {
            return Usage::default();
        };
        self.paid_before = progress.base;
        self.vouchers = self.vouchers.max(u64::from(progress.vouchers));
        self.voucher = state.voucher.clone();
        let ours = |receipt: &Signed<Receipt>| receipt.message.deal_id == deal;
        self.answered = state.answered.clone().filter(ours);
        self.receipt = state.receipt.clone().filter(ours);
        progress.usage
    }

    /// What this lease paid: the channel's vouchers less what it had paid before.
    pub fn paid(&self) -> Amount {
        let total = self
            .voucher
            .as_ref()
            .map_or(Amount::ZERO, |voucher| voucher.message.cumulative);
        total.saturating_sub(self.paid_before)
    }
}
