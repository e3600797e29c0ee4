//! Every error as problem details.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ipsx_market::book::NoMatch;
use ipsx_market::check::Unusable;
use ipsx_market::http::{Problem, ProblemKind};
use ipsx_market::market::{
    AppealRefusal, DealRefusal, ProbeRefusal, RequestFailure, RequestRefusal,
};
use ipsx_market::resting::NoRest;
use ipsx_metering::Refused;
use ipsx_settlement::{ContractError, StoreError};

use crate::desk::DeskError;
use crate::operator::random;
use crate::relay::NoRelay;

/// An answer that is an error.
#[derive(Clone, Debug)]
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

    /// For an error that the framework answered by itself.
    fn of_status(status: StatusCode) -> Self {
        let kind = match status {
            StatusCode::NOT_FOUND => ProblemKind::NotFound,
            StatusCode::TOO_MANY_REQUESTS => ProblemKind::TooManyRequests,
            status if status.is_server_error() => ProblemKind::Internal,
            _ => ProblemKind::InvalidRequest,
        };
        let reason = status.canonical_reason().unwrap_or("refused");
        Self::new(status, kind, reason.to_lowercase())
    }

    pub(super) fn internal() -> Self {
        let detail = "the broker failed; its operator finds the reason in the log";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ProblemKind::Internal,
            detail,
        )
    }

    /// What is said of it.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether it may be otherwise in a moment.
    pub(super) fn passes(&self) -> bool {
        self.kind == ProblemKind::Unavailable
    }

    /// Whether another broker may have what this one has not.
    pub(super) fn leaves_others(&self) -> bool {
        use ProblemKind::{NoMatch, PriceTooLow, SoldOut};
        self.passes() || matches!(self.kind, NoMatch | PriceTooLow | SoldOut)
    }

    /// How near to a deal a request came that several brokers refused: what the nearest one says is told.
    pub(super) fn nearness(&self) -> u8 {
        match self.kind {
            ProblemKind::NoMatch => 0,
            ProblemKind::PriceTooLow => 1,
            ProblemKind::SoldOut => 2,
            _ => 3,
        }
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
            ProblemKind::KeyReused => "key_reused",
            ProblemKind::TooManyRequests => "too_many_requests",
            ProblemKind::Unavailable => "unavailable",
            ProblemKind::Internal => "internal",
        }
    }
}

pub(super) fn title(kind: ProblemKind) -> &'static str {
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
        ProblemKind::KeyReused => "The idempotency key was used for something else",
        ProblemKind::TooManyRequests => "Too many requests",
        ProblemKind::Unavailable => "Not available now",
        ProblemKind::Internal => "The broker failed",
    }
}

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        // What goes out is written by `complete`, which every answer passes.
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The name by which an answer that is an error is counted.
#[derive(Clone, Copy)]
pub(super) struct Refusal(pub(super) &'static str);

/// Writes the body of an answer that is an error, whoever made it, and leaves its [`Refusal`].
pub(super) fn complete(response: Response) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    if response.extensions().get::<Refusal>().is_some() {
        // Written already, to be kept under an idempotency key.
        return response;
    }
    let (mut parts, _) = response.into_parts();
    let refused = parts.extensions.remove::<ProblemResponse>();
    let refused = refused.unwrap_or_else(|| ProblemResponse::of_status(status));
    let instance = format!("urn:ipsx:occurrence:{}", hex::encode(random::<16>()));
    let (kind, label) = (refused.kind, refused.label());
    if status.is_server_error() {
        tracing::warn!(%instance, %status, label, detail = ?refused.detail, "an answer failed");
    } else {
        tracing::debug!(%instance, %status, label, detail = ?refused.detail, "a request was refused");
    }
    let problem = Problem {
        kind,
        title: title(kind).into(),
        status: status.as_u16(),
        detail: refused.detail,
        instance: Some(instance),
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut response = (parts.status, parts.headers, Json(problem)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response.extensions_mut().insert(Refusal(label));
    response
}

impl From<DeskError> for ProblemResponse {
    fn from(error: DeskError) -> Self {
        let detail = error.to_string();
        let with = |status, kind| Self::new(status, kind, detail.clone());
        match &error {
            DeskError::Stopped
            | DeskError::Draining
            | DeskError::NoRoom
            | DeskError::Moved
            | DeskError::NoAnswer
            | DeskError::Relay(NoRelay::Off | NoRelay::Full)
            | DeskError::Unsettled(_)
            | DeskError::Forgotten(_) => Self::unavailable(detail),
            DeskError::Relay(NoRelay::PayersShare(_) | NoRelay::ProvidersShare(_)) => {
                with(StatusCode::TOO_MANY_REQUESTS, ProblemKind::TooManyRequests)
            }
            DeskError::Vouchers(StoreError::Full(_)) => Self::from(DeskError::NoRoom),
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
            DeskError::WasRefused(_) => with(StatusCode::NOT_FOUND, ProblemKind::NoMatch),
            DeskError::Request(refusal) => match refusal {
                RequestRefusal::Unknown(_) => Self::not_found(detail),
                RequestRefusal::NotYours(_) => with(StatusCode::FORBIDDEN, ProblemKind::Forbidden),
                RequestRefusal::Over(..) => with(StatusCode::CONFLICT, ProblemKind::Conflict),
            },
            DeskError::Deal(refusal) => Self::from_refusal(refusal, detail),
            DeskError::Probe(ProbeRefusal::Unknown) => Self::not_found(detail),
            DeskError::Probe(ProbeRefusal::NotLeased) => {
                with(StatusCode::CONFLICT, ProblemKind::Conflict)
            }
            DeskError::Appeal(AppealRefusal::NotYours) => Self::not_found(detail),
            DeskError::Appeal(AppealRefusal::TooSoon) => {
                with(StatusCode::CONFLICT, ProblemKind::Conflict)
            }
            DeskError::Appeal(_) => Self::invalid(detail),
            DeskError::Probe(ProbeRefusal::Echo) => Self::invalid(detail),
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
            RequestFailure::NoRest(NoRest::Full(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, ProblemKind::Unavailable)
            }
            RequestFailure::TooManyUnstarted(_) | RequestFailure::NoRest(NoRest::TooMany(_)) => {
                (StatusCode::TOO_MANY_REQUESTS, ProblemKind::TooManyRequests)
            }
            RequestFailure::Incomplete { .. } => (StatusCode::NOT_FOUND, ProblemKind::NoMatch),
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
            DealRefusal::OtherRequest(..) => (StatusCode::BAD_REQUEST, ProblemKind::InvalidRequest),
            DealRefusal::State { .. }
            | DealRefusal::TooLate { .. }
            | DealRefusal::Together(..)
            | DealRefusal::NotRelayed(..) => (StatusCode::CONFLICT, ProblemKind::Conflict),
            DealRefusal::Signature(_) => (StatusCode::UNAUTHORIZED, ProblemKind::Unauthorized),
        };
        Self::new(status, kind, detail)
    }
}
