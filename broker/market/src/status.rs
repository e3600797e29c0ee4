//! The deal's status: a pure function of its two sides.
//!
//! Each side speaks only for itself. `Failed` before the deal is bound is a refusal, after it a breach; `Ended` is
//! an end after binding, whoever wished it. `Silent` is set by the broker's clock, see [`DealTimers`].
//!
//! | provider ↓ requester → | requested | accepted | funded | connected | ended | failed | silent |
//! |---|---|---|---|---|---|---|---|
//! | offered | proposed | proposed | proposed | proposed | aborted | aborted | expired |
//! | accepted | proposed | proposed | agreed | agreed | ended | aborted | expired |
//! | ready | proposed | proposed | agreed | agreed | ended | requester_failed | no_show |
//! | serving | proposed | proposed | active | active | ended | requester_failed | requester_failed |
//! | ended | aborted | aborted | no_show | ended | ended | requester_failed | no_show |
//! | failed | aborted | aborted | provider_failed | provider_failed | provider_failed | provider_failed | provider_failed |
//! | silent | expired | expired | provider_failed | provider_failed | ended | requester_failed | expired |
//!
//! Once a deal is over, a side may still say its last word, but only where the table leaves the status as it is:
//! nobody changes afterwards how a deal came out.

use ipsx_metering::UnixSeconds;
use serde::{Deserialize, Serialize};

/// Where the provider stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ProviderStatus {
    /// Asked to sign.
    Offered,
    /// Signed.
    Accepted,
    /// Its peer is open.
    Ready,
    /// Paid and carrying traffic.
    Serving,
    /// Done.
    Ended,
    /// Could not go on.
    Failed,
    /// Said nothing for its limit.
    Silent,
}

/// Where the requester stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RequesterStatus {
    /// Asked for an address.
    Requested,
    /// Signed.
    Accepted,
    /// Its deposit is reserved.
    Funded,
    /// Its tunnel is up.
    Connected,
    /// Done.
    Ended,
    /// Could not go on.
    Failed,
    /// Said nothing for its limit.
    Silent,
}

/// Where the deal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DealStatus {
    /// Signatures are missing.
    Proposed,
    /// Bound, not yet carrying traffic.
    Agreed,
    /// Carrying traffic.
    Active,
    /// Over, as agreed.
    Ended,
    /// The requester did not start it in time.
    NoShow,
    /// The provider broke it.
    ProviderFailed,
    /// The requester broke it.
    RequesterFailed,
    /// Nobody signed in time.
    Expired,
    /// One side refused before it was bound.
    Aborted,
}

impl ProviderStatus {
    /// Every status, in the table's order.
    pub const ALL: [Self; 7] = [
        Self::Offered,
        Self::Accepted,
        Self::Ready,
        Self::Serving,
        Self::Ended,
        Self::Failed,
        Self::Silent,
    ];

    /// Whether a provider may go from here to `next`.
    pub fn may_become(self, next: Self) -> bool {
        use ProviderStatus::*;
        match self {
            Offered => matches!(next, Accepted | Failed | Silent),
            Accepted => matches!(next, Ready | Ended | Failed | Silent),
            Ready => matches!(next, Serving | Ended | Failed | Silent),
            Serving => matches!(next, Ended | Failed | Silent),
            // An agent that comes back after its silence can still say how the lease ended.
            Silent => matches!(next, Ended | Failed),
            Ended | Failed => false,
        }
    }

    /// Whether this side has nothing more to say.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Ended | Self::Failed | Self::Silent)
    }
}

impl RequesterStatus {
    /// Every status, in the table's order.
    pub const ALL: [Self; 7] = [
        Self::Requested,
        Self::Accepted,
        Self::Funded,
        Self::Connected,
        Self::Ended,
        Self::Failed,
        Self::Silent,
    ];

    /// Whether a requester may go from here to `next`.
    ///
    /// Giving up after the deal is bound and before the tunnel is up is an end, not a failure: nothing was due.
    pub fn may_become(self, next: Self) -> bool {
        use RequesterStatus::*;
        match self {
            Requested => matches!(next, Accepted | Failed | Silent),
            Accepted => matches!(next, Funded | Failed),
            Funded => matches!(next, Connected | Ended | Silent),
            Connected => matches!(next, Ended | Failed | Silent),
            Ended | Failed | Silent => false,
        }
    }

    /// Whether this side has nothing more to say.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Ended | Self::Failed | Self::Silent)
    }
}

impl DealStatus {
    /// Every status.
    pub const ALL: [Self; 9] = [
        Self::Proposed,
        Self::Agreed,
        Self::Active,
        Self::Ended,
        Self::NoShow,
        Self::ProviderFailed,
        Self::RequesterFailed,
        Self::Expired,
        Self::Aborted,
    ];

    /// Whether nothing more will be served.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Proposed | Self::Agreed | Self::Active)
    }

    /// The name that people and encodings use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Agreed => "agreed",
            Self::Active => "active",
            Self::Ended => "ended",
            Self::NoShow => "no_show",
            Self::ProviderFailed => "provider_failed",
            Self::RequesterFailed => "requester_failed",
            Self::Expired => "expired",
            Self::Aborted => "aborted",
        }
    }
}

impl std::fmt::Display for DealStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the deal stands when its sides stand here: the table above.
pub fn deal_status(provider: ProviderStatus, requester: RequesterStatus) -> DealStatus {
    use DealStatus as D;
    use ProviderStatus as P;
    use RequesterStatus as R;
    match (provider, requester) {
        (P::Offered | P::Accepted | P::Ready | P::Serving, R::Requested | R::Accepted)
        | (P::Offered, R::Funded | R::Connected) => D::Proposed,
        (P::Accepted | P::Ready, R::Funded | R::Connected) => D::Agreed,
        (P::Serving, R::Funded | R::Connected) => D::Active,
        (P::Offered, R::Ended | R::Failed)
        | (P::Accepted, R::Failed)
        | (P::Ended | P::Failed, R::Requested | R::Accepted) => D::Aborted,
        (P::Offered | P::Accepted, R::Silent)
        | (P::Silent, R::Requested | R::Accepted | R::Silent) => D::Expired,
        (P::Ready, R::Silent) | (P::Ended, R::Funded | R::Silent) => D::NoShow,
        (P::Failed, R::Funded | R::Connected | R::Ended | R::Failed | R::Silent)
        | (P::Silent, R::Funded | R::Connected) => D::ProviderFailed,
        (P::Ready | P::Serving | P::Ended | P::Silent, R::Failed) | (P::Serving, R::Silent) => {
            D::RequesterFailed
        }
        (P::Accepted | P::Ready | P::Serving | P::Silent, R::Ended)
        | (P::Ended, R::Connected | R::Ended) => D::Ended,
    }
}

/// How long each side may say nothing, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DealTimers {
    /// A provider that is asked to sign: `offered` becomes `silent`.
    pub propose: u64,
    /// From the proposal to `sign_by`, when a requester that has not signed becomes `silent`.
    pub sign: u64,
    /// From the proposal to `start_by`, when a provider that is not ready, or else a requester that is not connected,
    /// becomes `silent`.
    pub start: u64,
    /// A provider whose agent has lost its connection while it is `ready` or `serving`.
    pub grace: u64,
    /// A provider that has not reported the end this long after the lease's time was up.
    pub overdue: u64,
    /// A provider that has not reported the end this long after the other side ended the deal.
    pub confirm: u64,
}

impl Default for DealTimers {
    fn default() -> Self {
        Self {
            propose: 5,
            sign: 20,
            start: 60,
            grace: 30,
            overdue: 600,
            confirm: 60,
        }
    }
}

/// What the clock needs to know of a deal beyond the two statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DealClock {
    /// When the provider was asked.
    pub proposed_at: UnixSeconds,
    /// Last second for the requester's signature.
    pub sign_by: UnixSeconds,
    /// Last second for the start.
    pub start_by: UnixSeconds,
    /// Length of the lease.
    pub seconds: u32,
    /// When the provider was ready, if it is.
    pub ready_at: Option<UnixSeconds>,
    /// Since when the provider's agent is away, if it is.
    pub away_since: Option<UnixSeconds>,
    /// When the deal was over, if it is.
    pub over_at: Option<UnixSeconds>,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Side {
    /// Lends.
    Provider,
    /// Uses.
    Requester,
}

/// Which side becomes `silent` next if nobody says anything, and the last second before it does.
pub fn silence_deadline(
    timers: &DealTimers,
    clock: &DealClock,
    provider: ProviderStatus,
    requester: RequesterStatus,
) -> Option<(UnixSeconds, Side)> {
    use ProviderStatus as P;
    use RequesterStatus as R;
    let away = clock.away_since.map(|since| since.after(timers.grace));
    let status = deal_status(provider, requester);
    if status.is_over() {
        let was_bound = !matches!(status, DealStatus::Aborted | DealStatus::Expired);
        let confirm = clock.over_at?.after(timers.confirm);
        return (was_bound && !provider.is_final()).then_some((confirm, Side::Provider));
    }
    match (provider, requester) {
        (P::Offered, _) => Some((clock.proposed_at.after(timers.propose), Side::Provider)),
        (P::Accepted, R::Requested) => Some((clock.sign_by, Side::Requester)),
        // The requester has signed and the network is funding the deal: whoever is late, it can't start any more.
        (P::Accepted, R::Accepted) => {
            let funded_by = clock.sign_by.after(timers.start).min(clock.start_by);
            Some((funded_by, Side::Provider))
        }
        (P::Accepted, _) => Some((clock.start_by, Side::Provider)),
        (P::Ready, R::Funded) => {
            let show = (clock.start_by, Side::Requester);
            Some(away.map_or(show, |gone| show.min((gone, Side::Provider))))
        }
        (P::Ready | P::Serving, _) => {
            let begun = clock.ready_at.unwrap_or(clock.start_by);
            let overdue = begun.after(u64::from(clock.seconds)).after(timers.overdue);
            Some((
                away.map_or(overdue, |gone| gone.min(overdue)),
                Side::Provider,
            ))
        }
        (P::Ended | P::Failed | P::Silent, _) => None,
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
