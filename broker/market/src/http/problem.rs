//! What every error says.

use serde::{Deserialize, Serialize};

/// Problem details (RFC 9457) of every error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:ipsx:problem:` and a [`ProblemKind`]'s name.
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    /// The kind in words.
    pub title: String,
    /// HTTP status.
    #[cfg_attr(feature = "openapi", schema(minimum = 400, maximum = 599))]
    pub status: u16,
    /// What happened, to what, and what to do.
    pub detail: String,
    /// `urn:ipsx:occurrence:` and 32 hex digits, by which the operator finds this very answer in the log; a proxy in
    /// between may answer without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "openapi",
        schema(pattern = "^urn:ipsx:occurrence:[0-9a-f]{32}$")
    )]
    pub instance: Option<String>,
}

/// What a client can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ProblemKind {
    /// The body or a parameter is malformed or out of range.
    #[serde(rename = "urn:ipsx:problem:invalid-request")]
    InvalidRequest,
    /// No valid session or signature.
    #[serde(rename = "urn:ipsx:problem:unauthorized")]
    Unauthorized,
    /// Somebody else's.
    #[serde(rename = "urn:ipsx:problem:forbidden")]
    Forbidden,
    /// No such thing.
    #[serde(rename = "urn:ipsx:problem:not-found")]
    NotFound,
    /// No offer passes the filter.
    #[serde(rename = "urn:ipsx:problem:no-match")]
    NoMatch,
    /// Offers pass the filter, but all cost more.
    #[serde(rename = "urn:ipsx:problem:price-too-low")]
    PriceTooLow,
    /// Offers pass, but every one is sold out for now.
    #[serde(rename = "urn:ipsx:problem:sold-out")]
    SoldOut,
    /// The deposit does not cover the budget.
    #[serde(rename = "urn:ipsx:problem:insufficient-deposit")]
    InsufficientDeposit,
    /// The deal is not in a state that allows this.
    #[serde(rename = "urn:ipsx:problem:conflict")]
    Conflict,
    /// An idempotency key was used before, for something else.
    #[serde(rename = "urn:ipsx:problem:key-reused")]
    KeyReused,
    /// Too many requests.
    #[serde(rename = "urn:ipsx:problem:too-many-requests")]
    TooManyRequests,
    /// The chain or the provider does not answer.
    #[serde(rename = "urn:ipsx:problem:unavailable")]
    Unavailable,
    /// The broker failed.
    #[serde(rename = "urn:ipsx:problem:internal")]
    Internal,
}
