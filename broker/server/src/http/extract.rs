//! What handlers take from a request, with errors as problem details.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, RawQuery, Request};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use ipsx_market::http::ProblemKind;
use ipsx_metering::{Address, DealId};
use serde::de::DeserializeOwned;

use super::App;
use super::problem::ProblemResponse;
use super::sessions;

/// Longest long poll.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);

/// The wallet whose session the request belongs to.
pub(crate) struct SignedIn(pub(crate) Address);

impl FromRequestParts<Arc<App>> for SignedIn {
    type Rejection = ProblemResponse;

    async fn from_request_parts(
        parts: &mut Parts,
        app: &Arc<App>,
    ) -> Result<Self, ProblemResponse> {
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let Some(token) = token else {
            return Err(ProblemResponse::unauthorized(
                "this needs a session: sign in at /v1/session and send the token as Authorization: Bearer …",
            ));
        };
        match sessions::wallet(app, token).await? {
            Some(wallet) => Ok(Self(wallet)),
            None => Err(ProblemResponse::unauthorized(
                "the session's token is unknown or has expired: sign in again at /v1/session",
            )),
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

/// `?wait=SECONDS&status=STATUS`: how long to wait for news, and what is known already.
pub(crate) struct Wait {
    pub(crate) limit: Duration,
    pub(crate) status: Option<String>,
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
                "status" => wait.status = Some(value),
                other => {
                    let name: String = other.chars().take(40).collect();
                    return Err(ProblemResponse::invalid(format!(
                        "{name:?} is no parameter here; use wait and status"
                    )));
                }
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
