//! A request that rests or has rested, as the broker keeps it.

use ipsx_metering::{B256, RequestId, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::http::{ProposedDeal, RequestView};
use crate::request::SignedRequest;

/// Where a request stands that did not find an offer at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RequestStatus {
    /// It waits for an offer.
    Resting,
    /// Its providers have signed.
    Matched,
    /// Its requester took it back.
    Cancelled,
    /// Its time was up.
    Expired,
    /// Providers were asked, as many as may be, and none signed, or too few.
    Refused,
}

impl RequestStatus {
    /// Each.
    pub const ALL: [Self; 5] = [
        Self::Resting,
        Self::Matched,
        Self::Cancelled,
        Self::Expired,
        Self::Refused,
    ];

    /// Its name in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resting => "resting",
            Self::Matched => "matched",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}

/// Everything of it that must survive a restart of the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Its age: the lower, the older.
    pub number: u64,
    /// What is asked for.
    pub request: SignedRequest,
    /// Random: the salts of its proposals come from it.
    pub seed: B256,
    /// When it came to rest.
    pub since: UnixSeconds,
    /// Where it stands.
    pub status: RequestStatus,
    /// Why it was refused, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it stands there.
    pub changed_at: UnixSeconds,
}

impl RequestRecord {
    /// The request's id.
    pub fn id(&self) -> RequestId {
        self.request.message.id()
    }

    /// The same, from now on in another state.
    pub fn becomes(mut self, status: RequestStatus, now: UnixSeconds) -> Self {
        self.status = status;
        self.changed_at = now;
        self
    }

    /// The same, refused.
    pub fn refused(self, reason: String, now: UnixSeconds) -> Self {
        Self {
            reason: Some(reason),
            ..self.becomes(RequestStatus::Refused, now)
        }
    }

    /// Whether it rests, or did; one that was refused at once never has.
    pub fn has_rested(&self) -> bool {
        self.request.message.rest_until.0 > 0
    }

    /// As its requester sees it, with the deals that came of it.
    pub fn view(&self, deals: Vec<ProposedDeal>) -> RequestView {
        RequestView {
            request: self.id(),
            status: self.status,
            reason: self.reason.clone(),
            rest_until: self.request.message.rest_until,
            changed_at: self.changed_at,
            deals,
        }
    }
}
