//! What handlers take from a request, with errors as problem details.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, RawQuery, Request};
use axum::http::header::{AUTHORIZATION, LINK};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipsx_market::http::ProblemKind;
use ipsx_market::status::DealStatus;
use ipsx_metering::{Address, B256, DealId, RequestId, UnixSeconds};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::App;
use super::limits::WalletVerdict;
use super::problem::ProblemResponse;
use super::sessions;

/// Deals in one list.
pub(super) const MAX_LISTED: u32 = 200;
/// Longest long poll.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);

/// The wallet whose session the request belongs to; it stays on the request, so that it is looked up and counted once.
#[derive(Clone, Copy)]
pub(crate) struct SignedIn(pub(crate) Address);

impl FromRequestParts<Arc<App>> for SignedIn {
    type Rejection = ProblemResponse;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Arc<App>,
    ) -> Result<Self, ProblemResponse> {
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(*known);
        }
        let Token(token) = Token::from_request_parts(parts, app).await?;
        let Some(wallet) = sessions::wallet(app, &token).await? else {
            return Err(ProblemResponse::unauthorized(
                "the session's token is unknown or has expired: sign in again at /v1/session",
            ));
        };
        if let Some(verdict) = app.limits.wallets.take(wallet, Instant::now()) {
            if let Some(WalletVerdict(told)) = parts.extensions.get() {
                told.get_or_init(|| verdict);
            }
            if let Some(refusal) = verdict.refusal() {
                return Err(refusal);
            }
        }
        parts.extensions.insert(Self(wallet));
        Ok(Self(wallet))
    }
}

/// The token of the request's session; [`SignedIn`] says whether it counts.
pub(crate) struct Token(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Token {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        let value = parts.headers.get(AUTHORIZATION);
        let token = value
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        token.map(|token| Self(token.into())).ok_or_else(|| {
            ProblemResponse::unauthorized(
                "this needs a session: sign in at /v1/session and send the token as Authorization: Bearer …",
            )
        })
    }
}

/// For paths that take no parameters.
pub(crate) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        match query_pairs(parts, state).await.first() {
            Some((name, _)) => Err(unknown_parameter(name, "none")),
            None => Ok(Self),
        }
    }
}

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ProblemResponse;

    async fn from_request(request: Request, state: &S) -> Result<Self, ProblemResponse> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(body_problem(&rejection)),
        }
    }
}

fn body_problem(rejection: &JsonRejection) -> ProblemResponse {
    let status = match rejection.status() {
        // A value of the wrong kind is as malformed as a missing brace.
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    ProblemResponse::new(status, ProblemKind::InvalidRequest, rejection.body_text())
}

/// The deal that the path names.
pub(crate) struct DealPath(pub(crate) DealId);

impl<S: Send + Sync> FromRequestParts<S> for DealPath {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let text = path.map(|Path(text)| text).unwrap_or_default();
        DealId::from_str(&text)
            .map(Self)
            .map_err(|_| ProblemResponse::invalid("a deal's id is 0x and 64 hex digits"))
    }
}

/// The request that the path names.
pub(crate) struct RequestPath(pub(crate) RequestId);

impl<S: Send + Sync> FromRequestParts<S> for RequestPath {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let text = path.map(|Path(text)| text).unwrap_or_default();
        RequestId::from_str(&text)
            .map(Self)
            .map_err(|_| ProblemResponse::invalid("a request's id is 0x and 64 hex digits"))
    }
}

/// `?limit=N&cursor=CURSOR`: a page of a list of deals, newest first.
pub(crate) struct Page {
    pub(crate) limit: u32,
    /// The last deal of the page before.
    pub(crate) after: Option<(UnixSeconds, DealId)>,
}

impl Page {
    /// What the next page is asked for by.
    pub(crate) fn cursor((at, id): (UnixSeconds, DealId)) -> String {
        URL_SAFE_NO_PAD.encode([at.0.to_be_bytes().as_slice(), id.0.as_slice()].concat())
    }

    fn read_cursor(text: &str) -> Option<(UnixSeconds, DealId)> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (at, id) = bytes.split_first_chunk::<8>()?;
        let id = B256::try_from(id).ok()?;
        Some((UnixSeconds(u64::from_be_bytes(*at)), DealId(id)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let mut page = Self {
            limit: MAX_LISTED,
            after: None,
        };
        for (name, value) in query_pairs(parts, state).await {
            match name.as_str() {
                "limit" => {
                    let limit = value.parse().ok().filter(|n| (1..=MAX_LISTED).contains(n));
                    page.limit = limit.ok_or_else(|| {
                        ProblemResponse::invalid(format!(
                            "limit must be a number from 1 to {MAX_LISTED}"
                        ))
                    })?;
                }
                "cursor" => {
                    let after = Self::read_cursor(&value);
                    page.after = Some(after.ok_or_else(|| {
                        ProblemResponse::invalid(
                            "cursor must be as the Link header of the page before has it",
                        )
                    })?);
                }
                other => return Err(unknown_parameter(other, "limit and cursor")),
            }
        }
        Ok(page)
    }
}

/// Names the next page of a list (RFC 8288).
pub(crate) fn link_next(headers: &mut HeaderMap, target: &str) {
    if let Ok(link) = HeaderValue::from_str(&format!("<{target}>; rel=\"next\"")) {
        headers.insert(LINK, link);
    }
}

fn unknown_parameter(name: &str, known: &str) -> ProblemResponse {
    let name: String = name.chars().take(40).collect();
    ProblemResponse::invalid(format!("{name:?} is no parameter here; use {known}"))
}

/// `?wait=SECONDS&status=STATUS`: how long to wait for news, and what is known already.
pub(crate) struct Wait {
    pub(crate) limit: Duration,
    pub(crate) status: Option<DealStatus>,
}

impl<S: Send + Sync> FromRequestParts<S> for Wait {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let mut wait = Self {
            limit: Duration::ZERO,
            status: None,
        };
        for (name, value) in query_pairs(parts, state).await {
            match name.as_str() {
                "wait" => {
                    let seconds: u64 = value.parse().map_err(|_| {
                        ProblemResponse::invalid(format!(
                            "wait must be a number of seconds up to {}",
                            MAX_WAIT.as_secs()
                        ))
                    })?;
                    wait.limit = Duration::from_secs(seconds).min(MAX_WAIT);
                }
                "status" => {
                    let known = DealStatus::ALL.into_iter().find(|s| s.as_str() == value);
                    wait.status = Some(known.ok_or_else(|| {
                        ProblemResponse::invalid("status must be that of a deal, such as agreed")
                    })?);
                }
                other => return Err(unknown_parameter(other, "wait and status")),
            }
        }
        Ok(wait)
    }
}

/// The decoded names and values of a query.
pub(crate) async fn query_pairs<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Vec<(String, String)> {
    let Ok(RawQuery(query)) = RawQuery::from_request_parts(parts, state).await;
    let query = query.unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}
