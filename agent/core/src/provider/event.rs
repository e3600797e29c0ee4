//! What happens, for people: one line each, or one JSON object each.

use std::fmt;
use std::net::IpAddr;

use ipsx_market::messages::EndCause;
use ipsx_metering::{Address, Amount, DealId, OfferId, Prices, Usage};
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

impl fmt::Display for ProviderEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { observed } => {
                write!(f, "connected to the broker, which sees {observed}")
            }
            Self::Disconnected {
                reason,
                retry_in_ms,
            } => {
                let tenths = retry_in_ms / 100;
                write!(
                    f,
                    "no broker: {reason}. Trying again in {}.{} s; running leases go on",
                    tenths / 10,
                    tenths % 10
                )
            }
            Self::OfferPlaced {
                address,
                country,
                asn,
                ..
            } => {
                write!(f, "offer placed: {address}")?;
                if let Some(country) = country {
                    write!(f, " in {country}")?;
                }
                asn.map_or(Ok(()), |asn| write!(f, ", AS{asn}"))
            }
            Self::OfferRefused { reason, .. } => {
                write!(f, "the broker refused the offer: {reason}")
            }
            Self::OfferWithdrawn { reason } => write!(f, "nothing is for sale for now: {reason}"),
            Self::ProposalAccepted {
                deal_id,
                requester,
                seconds,
                budget,
            } => write!(
                f,
                "{} signed: {seconds} s for {requester}, at most {budget} units",
                Short(deal_id)
            ),
            Self::ProposalDeclined { requester, reason } => {
                write!(f, "declined a request of {requester}: {reason}")
            }
            Self::DealAborted { deal_id } => write!(f, "{} was not bound", Short(deal_id)),
            Self::LeaseReady {
                lease,
                exit_address,
                seconds,
                ..
            } => {
                write!(
                    f,
                    "{} ready: {exit_address} for {seconds} s, waits for the first voucher",
                    Short(lease)
                )
            }
            Self::LeaseServing { lease } => write!(f, "{} paid for, traffic flows", Short(lease)),
            Self::LeaseSecond {
                lease,
                usage,
                due,
                paid,
            } => write!(
                f,
                "{} {} s, {} B up, {} B down, due {due}, paid {paid}",
                Short(lease),
                usage.secs,
                usage.bytes_up,
                usage.bytes_down
            ),
            Self::LeaseThrottled { lease } => {
                write!(f, "{} slowed down: a voucher is late", Short(lease))
            }
            Self::LeaseOnHold { lease } => {
                write!(f, "{} on hold: vouchers are missing", Short(lease))
            }
            Self::LeaseResumed { lease } => write!(f, "{} paid again, traffic flows", Short(lease)),
            Self::VoucherRefused { lease, reason } => {
                write!(f, "{} voucher refused: {reason}", Short(lease))
            }
            Self::LeaseEnded {
                lease,
                cause,
                usage,
                amount,
                paid,
            } => write!(
                f,
                "{} ended ({}): {} s, {} B, cost {amount}, paid {paid}",
                Short(lease),
                cause_in_words(*cause),
                usage.secs,
                usage.bytes()
            ),
            Self::Claimed {
                channels,
                amount,
                fee,
            } => {
                write!(f, "claimed {amount} from {channels} channel(s), fee {fee}")
            }
            Self::ClaimFailed { reason, retry_in } => {
                write!(
                    f,
                    "the claim did not go through: {reason}. Trying again in {retry_in} s"
                )
            }
            Self::Warning { text } => f.write_str(text),
        }
    }
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

/// The first eight digits of a lease's id: enough for a person to tell leases apart.
struct Short<'a>(&'a DealId);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0.to_string();
        write!(f, "lease {}", id.get(2..10).unwrap_or(&id))
    }
}
