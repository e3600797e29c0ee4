//! Every error as problem details.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ipsx_market::book::NoMatch;
use ipsx_market::check::Unusable;
use ipsx_market::http::{Problem, ProblemKind};
use ipsx_market::market::{DealRefusal, RequestFailure};
use ipsx_metering::Refused;
use ipsx_settlement::ContractError;

use crate::desk::DeskError;

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ProblemResponse {
    status: StatusCode,
    kind: ProblemKind,
    detail: String,
}

/// What a handler answers.
pub(crate) type Answer<T> = Result<Json<T>, ProblemResponse>;

impl ProblemResponse {
    pub(crate) fn new(status: StatusCode, kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            detail: detail.into(),
        }
    }

    /// Status 400.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ProblemKind::InvalidRequest, detail)
    }

    /// Status 401.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ProblemKind::Unauthorized, detail)
    }

    /// Status 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ProblemKind::NotFound, detail)
    }

    /// Status 503.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ProblemKind::Unavailable,
            detail,
        )
    }

    fn internal() -> Self {
        let detail = "the broker failed; its operator finds the reason in the log";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ProblemKind::Internal,
            detail,
        )
    }

    /// The name by which refusals are counted.
    pub(crate) fn label(&self) -> &'static str {
        match self.kind {
            ProblemKind::InvalidRequest => "invalid_request",
            ProblemKind::Unauthorized => "unauthorized",
            ProblemKind::Forbidden => "forbidden",
            ProblemKind::NotFound => "not_found",
            ProblemKind::NoMatch => "no_match",
            ProblemKind::PriceTooLow => "price_too_low",
            ProblemKind::SoldOut => "sold_out",
            ProblemKind::InsufficientDeposit => "insufficient_deposit",
            ProblemKind::Conflict => "conflict",
            ProblemKind::TooManyRequests => "too_many_requests",
            ProblemKind::Unavailable => "unavailable",
            ProblemKind::Internal => "internal",
        }
    }
}

fn title(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::InvalidRequest => "The request can't be used",
        ProblemKind::Unauthorized => "No valid session or signature",
        ProblemKind::Forbidden => "Somebody else's",
        ProblemKind::NotFound => "No such thing",
        ProblemKind::NoMatch => "No offer passes the filter",
        ProblemKind::PriceTooLow => "All matching offers cost more",
        ProblemKind::SoldOut => "Sold out for now",
        ProblemKind::InsufficientDeposit => "The deposit does not cover it",
        ProblemKind::Conflict => "Not in this state",
        ProblemKind::TooManyRequests => "Too many requests",
        ProblemKind::Unavailable => "Not available now",
        ProblemKind::Internal => "The broker failed",
    }
}

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let label = self.label();
        let problem = Problem {
            kind: self.kind,
            title: title(self.kind).into(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind, Json(problem)).into_response();
        // Json sets its own type; the problem's goes first.
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/problem+json"),
        );
        response.extensions_mut().insert(Refusal(label));
        response
    }
}

/// Left on a response so that it is counted.
#[derive(Clone, Copy)]
pub(crate) struct Refusal(pub(crate) &'static str);

impl From<DeskError> for ProblemResponse {
    fn from(error: DeskError) -> Self {
        let detail = error.to_string();
        let with = |status, kind| Self::new(status, kind, detail.clone());
        match &error {
            DeskError::Stopped | DeskError::NoAnswer | DeskError::Unsettled(_) => {
                Self::unavailable(detail)
            }
            DeskError::Store(_) | DeskError::Vouchers(_) => {
                tracing::error!(%error, "a request failed");
                Self::internal()
            }
            DeskError::Contract(ContractError::Chain(_)) => Self::unavailable(detail),
            DeskError::Contract(_) | DeskError::Replayed(_) | DeskError::BeingFunded(_) => {
                with(StatusCode::CONFLICT, ProblemKind::Conflict)
            }
            DeskError::Unusable {
                reason: Unusable::Signature { .. } | Unusable::Unsigned(_),
                ..
            } => Self::unauthorized(detail),
            DeskError::Unusable { .. }
            | DeskError::SignerTooShort { .. }
            | DeskError::WrongAuthorization { .. }
            | DeskError::Voucher(_)
            | DeskError::Invalid(_) => Self::invalid(detail),
            DeskError::Failure(failure) => Self::from_failure(failure, detail),
            DeskError::Deal(refusal) => Self::from_refusal(refusal, detail),
            DeskError::Deposit { .. } | DeskError::Refused(Refused::NotCovered { .. }) => with(
                StatusCode::PAYMENT_REQUIRED,
                ProblemKind::InsufficientDeposit,
            ),
            DeskError::Refused(_) => Self::invalid(detail),
        }
    }
}

impl ProblemResponse {
    fn from_failure(failure: &RequestFailure, detail: String) -> Self {
        let (status, kind) = match failure {
            RequestFailure::NoMatch(NoMatch::NoFilterMatch { .. }) => {
                (StatusCode::NOT_FOUND, ProblemKind::NoMatch)
            }
            RequestFailure::NoMatch(NoMatch::PriceTooLow { .. }) => {
                (StatusCode::CONFLICT, ProblemKind::PriceTooLow)
            }
            RequestFailure::NoMatch(NoMatch::SoldOut { .. }) => {
                (StatusCode::CONFLICT, ProblemKind::SoldOut)
            }
            RequestFailure::TooManyUnstarted(_) => {
                (StatusCode::TOO_MANY_REQUESTS, ProblemKind::TooManyRequests)
            }
            RequestFailure::NoneSigned { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, ProblemKind::Unavailable)
            }
        };
        Self::new(status, kind, detail)
    }

    fn from_refusal(refusal: &DealRefusal, detail: String) -> Self {
        let (status, kind) = match refusal {
            DealRefusal::Unknown(_) => (StatusCode::NOT_FOUND, ProblemKind::NotFound),
            DealRefusal::NotYours(_) => (StatusCode::FORBIDDEN, ProblemKind::Forbidden),
            DealRefusal::State { .. } | DealRefusal::TooLate { .. } => {
                (StatusCode::CONFLICT, ProblemKind::Conflict)
            }
            DealRefusal::Signature(_) => (StatusCode::UNAUTHORIZED, ProblemKind::Unauthorized),
        };
        Self::new(status, kind, detail)
    }
}
