//! What happens, for people and for the programs that they watch it with.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipsx_market::messages::EndCause;
use ipsx_market::place::Reachability;
use ipsx_metering::{Address, Amount, B256, DealId, OfferId, Prices, UnixSeconds, Usage};
use serde::Serialize;

/// Something that a person who runs a provider may want to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ProviderEvent {
    /// The broker has accepted the wallet.
    Connected {
        /// Address that the broker sees.
        observed: IpAddr,
    },
    /// The broker has found out how requesters reach the WireGuard endpoint.
    Reached {
        /// The endpoint that they are told.
        endpoint: SocketAddr,
        /// How they reach it; `None` if nobody knows.
        reachability: Option<Reachability>,
    },
    /// The broker is gone; running leases go on.
    Disconnected {
        /// Why.
        reason: String,
        /// Milliseconds until the next attempt.
        retry_in_ms: u64,
    },
    /// The offer is in the book.
    OfferPlaced {
        /// The offer.
        offer: OfferId,
        /// Address that is sold.
        address: IpAddr,
        /// Country by the broker's database.
        country: Option<String>,
        /// Autonomous system by the broker's database.
        asn: Option<u32>,
        /// Why requesters can't take it yet, in words.
        withheld: Option<String>,
    },
    /// The offer is not in the book.
    OfferRefused {
        /// The offer.
        offer: OfferId,
        /// What the broker says.
        reason: String,
    },
    /// Nothing is for sale for now.
    OfferWithdrawn {
        /// Why.
        reason: String,
    },
    /// The exit has another policy for leases to come.
    PolicyChanged {
        /// Keccak of the policy.
        policy_hash: B256,
    },
    /// A deal was signed.
    ProposalAccepted {
        /// The deal.
        deal_id: DealId,
        /// Who leases.
        requester: Address,
        /// Length of the lease.
        seconds: u32,
        /// The most that it may cost.
        budget: Amount,
    },
    /// A proposal was turned down.
    ProposalDeclined {
        /// Who asked.
        requester: Address,
        /// Why.
        reason: String,
    },
    /// A signed deal was not bound.
    DealAborted {
        /// The deal.
        deal_id: DealId,
    },
    /// A lease that starts later is covered.
    LeaseBooked {
        /// The lease.
        lease: DealId,
        /// Who leases.
        requester: Address,
        /// When it starts.
        starts_at: UnixSeconds,
    },
    /// The lease's peer is open and waits for the first voucher.
    LeaseReady {
        /// The lease.
        lease: DealId,
        /// Who leases.
        requester: Address,
        /// Address that is sold.
        exit_address: IpAddr,
        /// Length of the lease.
        seconds: u32,
        /// What is charged.
        prices: Prices,
    },
    /// The lease's requester comes by a relay, which its packets go through both ways.
    LeaseRelayed {
        /// The lease.
        lease: DealId,
        /// The relay's port.
        relay: SocketAddr,
    },
    /// The first voucher is on disk and traffic flows.
    LeaseServing {
        /// The lease.
        lease: DealId,
    },
    /// One more second of a lease.
    LeaseSecond {
        /// The lease.
        lease: DealId,
        /// Totals.
        usage: Usage,
        /// What the totals cost.
        due: Amount,
        /// What vouchers on disk cover of it.
        paid: Amount,
    },
    /// Vouchers are late: the lease's traffic is slowed down.
    LeaseThrottled {
        /// The lease.
        lease: DealId,
    },
    /// Vouchers are missing: the lease's traffic is stopped.
    LeaseOnHold {
        /// The lease.
        lease: DealId,
    },
    /// Paid again: traffic flows.
    LeaseResumed {
        /// The lease.
        lease: DealId,
    },
    /// A voucher did not count.
    VoucherRefused {
        /// The lease.
        lease: DealId,
        /// Why.
        reason: String,
    },
    /// The lease is over.
    LeaseEnded {
        /// The lease.
        lease: DealId,
        /// Why.
        cause: EndCause,
        /// What was used.
        usage: Usage,
        /// What that costs.
        amount: Amount,
        /// What vouchers on disk cover of it.
        paid: Amount,
    },
    /// Packets that the tunnel dropped since the last such event: denied by the exit's policy, or unusable.
    PacketsDropped {
        /// How many, by reason.
        reasons: BTreeMap<&'static str, u64>,
    },
    /// Vouchers were claimed on the chain.
    Claimed {
        /// Channels paid.
        channels: usize,
        /// What they paid in all, the network's fee included.
        amount: Amount,
        /// The network's fee.
        fee: Amount,
    },
    /// A claim did not go through; it will be tried again.
    ClaimFailed {
        /// Why.
        reason: String,
        /// Seconds until the next attempt.
        retry_in: u64,
    },
    /// Something that needs a person's attention.
    Warning {
        /// What happened, to what, and what to do.
        text: String,
    },
}

/// Why a lease ended, for people.
pub fn cause_in_words(cause: EndCause) -> &'static str {
    match cause {
        EndCause::Completed => "its time was up",
        EndCause::BudgetSpent => "its budget was spent",
        EndCause::RequesterEnded => "the requester ended it",
        EndCause::ProviderEnded => "this provider ended it",
        EndCause::Unpaid => "vouchers stopped coming",
        EndCause::NoService => "the requester saw no service",
        EndCause::WrongExit => "the requester saw another exit address",
        EndCause::Misbehaved => "the other side broke the rules",
        EndCause::CapacityLapsed => "the deposit's reservation ran out",
        EndCause::NotStarted => "it was not started in time",
        EndCause::Restarted => "this program was restarted",
    }
}
