//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): what is asked again under the same key is not done
//! again, and is answered as it was the first time, also after a crash.
//!
//! A key is on disk before anything is done under it, and the answer after. When the broker was killed in between, the
//! answer is found again in what was done, which says by itself under which request or key that was ([`Again`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use ipsx_market::fleet::ShardId;
use ipsx_market::http::ProblemKind;
use ipsx_metering::{Address, keccak256};

use super::App;
use super::app::MAX_BODY;
use super::elsewhere::{LOOK, ask};
use super::extract::SignedIn;
use super::problem::{self, ProblemResponse};
use crate::clock;
use crate::desk::DeskError;
use crate::fleet::Asked;
use crate::store::{KeepAnswer, KeyState, TakeKey};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// On an answer that is not the first.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Only for other brokers.
pub(super) const WORKED_ON: &str = "/fleet/worked-on";
/// Longest key, bytes.
pub(super) const LONGEST: usize = 255;

/// For handlers: the key that a request came with, and whether the same was begun before without an answer.
#[derive(Clone, Debug)]
pub(crate) struct Keyed {
    pub(crate) key: String,
    pub(crate) again: bool,
}

/// Requests that are being worked on, by wallet and key.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<HashSet<(Address, String)>>>);

/// Gives the place back when dropped.
pub(super) struct Place(InFlight, (Address, String));

impl InFlight {
    /// A place for what came under a key, unless it is taken.
    pub(super) fn enter(&self, wallet: Address, key: &str) -> Option<Place> {
        let entry = (wallet, key.to_string());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(entry.clone())
            .then(|| Place(self.clone(), entry))
    }

    fn has(&self, wallet: Address, key: &str) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains(&(wallet, key.to_string()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.1);
    }
}

/// Answers a `POST` with a key once.
pub(super) async fn once(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ProblemResponse> {
    let Some(key) = request.headers().get(KEY) else {
        return Ok(next.run(request).await);
    };
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let key = key.clone();
    let (mut parts, body) = request.into_parts();
    // Whoever has no session is told that first.
    let SignedIn(wallet) = SignedIn::from_request_parts(&mut parts, &app).await?;
    let key = read(&key)?;
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return Err(ProblemResponse::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            ProblemKind::InvalidRequest,
            format!("the body can't be read, or has more than {MAX_BODY} bytes"),
        ));
    };
    let Some(place) = app.in_flight.enter(wallet, &key) else {
        return Err(worked_on());
    };
    let fingerprint = fingerprint(&parts, &body);
    let taken = TakeKey {
        wallet,
        key: key.clone(),
        fingerprint,
        now: clock::now(),
    };
    let state = app.desk.store.write(taken).await;
    let again = match state.map_err(DeskError::from)? {
        KeyState::New => false,
        KeyState::Unanswered if is_worked_on_elsewhere(&app, wallet, &key).await => {
            return Err(worked_on());
        }
        KeyState::Unanswered => true,
        KeyState::Answered(status, body) => return Ok(replay(status, body)),
        KeyState::Other => {
            return Err(ProblemResponse::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                ProblemKind::KeyReused,
                "this Idempotency-Key came with another request before; take a new one for each request",
            ));
        }
        KeyState::TooMany => {
            return Err(ProblemResponse::new(
                StatusCode::TOO_MANY_REQUESTS,
                ProblemKind::TooManyRequests,
                "this wallet used too many Idempotency-Keys within a day; send the request without one",
            ));
        }
    };
    parts.extensions.insert(Keyed {
        key: key.clone(),
        again,
    });
    let request = Request::from_parts(parts, Body::from(body));
    // Goes on without whoever asked: the answer has to be kept.
    let work = tokio::spawn(async move {
        let _place = place;
        let response = problem::complete(next.run(request).await);
        keep(&app, wallet, &key, response).await
    });
    work.await.map_err(|error| {
        tracing::error!(%error, "a handler failed");
        ProblemResponse::internal()
    })
}

fn worked_on() -> ProblemResponse {
    ProblemResponse::new(
        StatusCode::CONFLICT,
        ProblemKind::Conflict,
        "the first request with this Idempotency-Key is still being worked on; ask again in a moment",
    )
}

/// Whether this broker works on what came under a key, to it or to one that has it place the request.
pub(super) async fn is_worked_on(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    Json(key): Json<String>,
) -> Json<bool> {
    Json(app.in_flight.has(wallet, &key))
}

/// Whether another broker does. One that does not answer is taken for one that died at it.
async fn is_worked_on_elsewhere(app: &App, wallet: Address, key: &str) -> bool {
    let Some(fleet) = &app.desk.fleet else {
        return false;
    };
    let asked = Asked {
        method: Method::POST.to_string(),
        path: WORKED_ON.into(),
        wallet: Some(wallet),
        ..Asked::default()
    };
    let body = serde_json::to_vec(key).unwrap_or_default();
    let owners = fleet.owners(&ShardId::all().collect());
    let others = owners.iter().filter(|owner| *owner != fleet.me());
    let answers = others.map(|owner| ask::<bool>(fleet, owner, &asked, &body, LOOK));
    let answers = join_all(answers).await;
    answers.into_iter().any(|works| works.unwrap_or(false))
}

/// The key: a string of RFC 8941, quoted or bare.
fn read(value: &HeaderValue) -> Result<String, ProblemResponse> {
    let text = value.to_str().unwrap_or_default().trim();
    let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let key = quoted.unwrap_or(text);
    let fits = (1..=LONGEST).contains(&key.len())
        && key
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    if fits {
        Ok(key.into())
    } else {
        Err(ProblemResponse::invalid(format!(
            "an Idempotency-Key has 1 to {LONGEST} visible characters, in quotes, such as a UUID"
        )))
    }
}

fn fingerprint(parts: &axum::http::request::Parts, body: &Bytes) -> String {
    let path = parts.uri.path_and_query().map_or("", |p| p.as_str());
    hex::encode(keccak256([path.as_bytes(), b"\n", body].concat()))
}

/// Keeps an answer that stays true; what failed for now, or was too much, may be tried again under the same key.
async fn keep(app: &App, wallet: Address, key: &str, response: Response) -> Response {
    let status = response.status();
    let passing = status.is_server_error()
        || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
    if passing {
        return response;
    }
    let (parts, body) = response.into_parts();
    let kept = match to_bytes(body, usize::MAX).await {
        Ok(body) => {
            let answer = KeepAnswer {
                wallet,
                key: key.into(),
                status: status.as_u16(),
                body: String::from_utf8_lossy(&body).into_owned(),
            };
            let kept = app.desk.store.write(answer).await;
            kept.map(|()| body).map_err(DeskError::from)
        }
        Err(error) => Err(DeskError::Invalid(error.to_string())),
    };
    match kept {
        Ok(body) => Response::from_parts(parts, Body::from(body)),
        // An answer that is not on disk is not given: the next one would have to be the same.
        Err(error) => ProblemResponse::from(error).into_response(),
    }
}

/// The answer that was given before.
fn replay(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let replayed = [(REPLAYED, HeaderValue::from_static("true"))];
    if body.is_empty() {
        return (status, replayed).into_response();
    }
    let error = status.is_client_error();
    let kind = if error {
        "application/problem+json"
    } else {
        "application/json"
    };
    let mut response = (status, replayed, [(header::CONTENT_TYPE, kind)], body).into_response();
    if error {
        response
            .extensions_mut()
            .insert(problem::Refusal("replayed"));
    }
    response
}
