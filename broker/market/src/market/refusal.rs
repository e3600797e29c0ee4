//! Why the market does not do what was asked.

use ipsx_metering::{DealId, RequestId};

use crate::book::NoMatch;
use crate::place::Reachability;
use crate::resting::NoRest;
use crate::status::DealStatus;

/// Why a request got no deal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestFailure {
    /// Nothing in the book.
    #[error(transparent)]
    NoMatch(#[from] NoMatch),
    /// The requester has enough deals that have not started.
    #[error(
        "{0} deals of yours have not started yet, and no more are allowed; start or end one of them, or wait for them to expire"
    )]
    TooManyUnstarted(usize),
    /// It could rest, but the book takes no more.
    #[error("no offer fits now, and {0}")]
    NoRest(#[from] NoRest),
    /// Several addresses were wanted, and too few were found.
    #[error(
        "{found} of {wanted} addresses were found ({reason}), and nothing is leased; ask for fewer, or loosen the filter"
    )]
    Incomplete {
        /// How many were, before it was given up.
        found: usize,
        /// How many are wanted.
        wanted: usize,
        /// Why there are no more.
        reason: String,
    },
    /// Providers matched, but none signed.
    #[error(
        "{asked} matching providers were asked and none signed (the last one: {reason}); try again"
    )]
    NoneSigned {
        /// How many.
        asked: usize,
        /// The last one's words.
        reason: String,
    },
}

/// Something was said about a deal that its state does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DealRefusal {
    /// No such deal is going on.
    #[error("no deal {0} is going on")]
    Unknown(DealId),
    /// It belongs to others.
    #[error("deal {0} is not yours")]
    NotYours(DealId),
    /// It is of another request, or named twice.
    #[error("deal {0} is of another request than {1}, or named twice")]
    OtherRequest(DealId, RequestId),
    /// It is good for nothing without others.
    #[error(
        "deal {0} is one of {1} that are leased together: sign all of them at once, with POST /v1/bundles/{{id}}/signatures"
    )]
    Together(DealId, u8),
    /// Not in this state.
    #[error("deal {deal_id} is {status}: it can't be {wanted} now")]
    State {
        /// The deal.
        deal_id: DealId,
        /// Where it stands.
        status: DealStatus,
        /// What was asked for.
        wanted: &'static str,
    },
    /// Its request asks for a provider that is reached without a relay.
    #[error("deal {0} is of a request that no relay may carry: its reachability is {1}")]
    NotRelayed(DealId, Reachability),
    /// The requester's signature came after `sign_by`.
    #[error("the signature came {late} s after sign_by; request another deal")]
    TooLate {
        /// Seconds.
        late: u64,
    },
    /// The requester's signature does not hold.
    #[error("the deal's signature: {0}")]
    Signature(#[from] ipsx_metering::VerifyError),
}

/// What people say may be long, and goes into logs and answers.
pub(super) fn in_short(reason: &str) -> String {
    let words = reason.chars().filter(|c| !c.is_control());
    words.take(200).collect()
}
