//! What the streams of events say.

use ipsx_metering::{DealId, RequestId, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::resting::RequestStatus;
use crate::status::{DealStatus, ProviderStatus, RequesterStatus, Side};

/// Data of the events `deal` of `GET /v1/deals/{id}/events` and `GET /v1/events`: one side of a deal has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DealEvent {
    /// The deal.
    pub deal_id: DealId,
    /// When, by the broker's clock.
    pub at: UnixSeconds,
    /// Which side moved.
    pub side: Side,
    /// Where the provider stands since then.
    pub provider: ProviderStatus,
    /// Where the requester stands since then.
    pub requester: RequesterStatus,
    /// Where the deal stands since then.
    pub status: DealStatus,
    /// Why, in a word or two.
    pub cause: String,
}

/// Data of the events `request` of `GET /v1/events`: a request that found no offer at once has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RequestEvent {
    /// The request.
    pub request: RequestId,
    /// When, by the broker's clock.
    pub at: UnixSeconds,
    /// Where it stands since then.
    pub status: RequestStatus,
}

/// Data of the event `end`, after which a stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamEnd {
    /// Why.
    pub reason: StreamEndReason,
}

/// Why a stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StreamEndReason {
    /// The deal is, so nothing more will come.
    DealOver,
    /// The session is: sign in again, and go on after the last event.
    SessionOver,
    /// The events were not taken as fast as they came: go on after the last one.
    TooSlow,
    /// The broker stops or failed: go on after the last event, there or at another broker.
    BrokerStops,
}
