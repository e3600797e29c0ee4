//! Where somebody was seen, in the operator's hand, and what a provider says to what is made of it.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use ipsx_market::echo::Echo;
use ipsx_market::proof::Appeal;
use ipsx_metering::{B256, Signed};

use super::App;
use super::app::finish;
use super::extract::{Body, query_pairs};
use super::problem::{Answer, ProblemResponse};
use super::server::Peer;

/// `?nonce=NONCE`: what the asker has drawn.
pub(crate) struct Nonce(B256);

impl<S: Send + Sync> FromRequestParts<S> for Nonce {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let pairs = query_pairs(parts, state).await;
        let nonce = match pairs.as_slice() {
            [(name, value)] if name == "nonce" => B256::from_str(value).ok(),
            _ => None,
        };
        // The type reads hexadecimal without its prefix, too; the interface does not.
        let prefixed = pairs.iter().all(|(_, value)| value.starts_with("0x"));
        nonce.filter(|_| prefixed).map(Self).ok_or_else(|| {
            ProblemResponse::invalid("nonce must be there alone, 0x and 64 hex digits")
        })
    }
}

/// `GET /v1/echo`
#[utoipa::path(
    get,
    path = "/v1/echo",
    operation_id = "getEcho",
    summary = "The address that asked, signed by the operator.",
    responses((status = 200, description = "The operator's word.", body = Signed<Echo>)),
)]
pub(super) async fn echo(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    Nonce(nonce): Nonce,
) -> Answer<Signed<Echo>> {
    let seen: IpAddr = app.limits.seen(peer.ip(), &headers);
    Ok(Json(app.desk.echo(nonce, seen)))
}

/// `POST /v1/appeals`
#[utoipa::path(
    post,
    path = "/v1/appeals",
    operation_id = "postAppeal",
    summary = "A provider holds its address for something else; the operator rules.",
    request_body = Signed<Appeal>,
    responses((status = 204, description = "The operator has it.")),
)]
pub(super) async fn appeal(
    State(app): State<Arc<App>>,
    Body(appeal): Body<Signed<Appeal>>,
) -> Result<StatusCode, ProblemResponse> {
    let desk = Arc::clone(&app.desk);
    let Json(()) = finish(async move { desk.appeal(appeal).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
