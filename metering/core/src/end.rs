//! Why service stops.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The agreed time was served.
    TimeUp,
    /// The agreed budget is used up.
    BudgetSpent,
    /// The payer or requester ended it.
    PayerEnded,
    /// The provider ended it.
    ProviderEnded,
    /// The operator ended or aborted the deal.
    OperatorEnded,
    /// No first voucher came, or none that could be used.
    NotPaid,
    /// Service stayed on hold for want of payment.
    Unpaid,
    /// The other side was not heard from for too long, or too often.
    PeerSilent,
    /// The tunnel carried nothing to the exit and back for too long.
    NoService,
    /// The operator's reservation no longer covers the next slice, or is about to lapse.
    Uncovered,
    /// The two sides' totals stayed too far apart.
    Disputed,
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimeUp => "the agreed time is up",
            Self::BudgetSpent => "the budget is used up",
            Self::PayerEnded => "the requester ended it",
            Self::ProviderEnded => "the provider ended it",
            Self::OperatorEnded => "the network ended it",
            Self::NotPaid => "no voucher arrived",
            Self::Unpaid => "service was not paid for in time",
            Self::PeerSilent => "the other side went silent",
            Self::NoService => "the tunnel carried no data",
            Self::Uncovered => "the payment reservation was not renewed",
            Self::Disputed => "the two sides disagree on what was used",
        })
    }
}
