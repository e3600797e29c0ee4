//! The deal's status: a pure function of its two sides.

use serde::{Deserialize, Serialize};

/// Where the provider stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
