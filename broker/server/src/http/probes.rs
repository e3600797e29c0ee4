//! What the operator's probers ask and tell, and what came of it.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use ipsx_market::place::AddressType;
use ipsx_market::proof::{PROBE_HEADER, ProbeOutcome, Ruling, Verdict};
use ipsx_metering::{Address, B256};
use serde::Deserialize;

use super::App;
use super::app::finish as to_its_end;
use super::extract::{Body, query_pairs};
use super::problem::{Answer, ProblemResponse};
use crate::clock;
use crate::desk::ProofLine;

/// The probe that a request is for, if a prober says so; providers never hear of it.
pub(crate) struct ForProbe(pub(crate) Option<B256>);

impl<S: Send + Sync> FromRequestParts<S> for ForProbe {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        let Some(value) = parts.headers.get(PROBE_HEADER) else {
            return Ok(Self(None));
        };
        let task = value.to_str().ok().and_then(|text| text.parse().ok());
        task.map(|task| Self(Some(task))).ok_or_else(|| {
            ProblemResponse::invalid(format!(
                "{PROBE_HEADER} is that of a probe that was asked for"
            ))
        })
    }
}

/// `POST /probes`: the next probe that is due; 204 when none is.
pub(super) async fn next(State(app): State<Arc<App>>) -> Result<Response, ProblemResponse> {
    Ok(match app.desk.next_probe().await? {
        Some(order) => Json(order).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// `POST /probes/TASK`: what a probe found out.
pub(super) async fn finish(
    State(app): State<Arc<App>>,
    Path(task): Path<String>,
    Body(outcome): Body<ProbeOutcome>,
) -> Answer<Verdict> {
    let task = B256::from_str(&task)
        .map_err(|_| ProblemResponse::invalid("a probe's id is 0x and 64 hex digits"))?;
    let desk = Arc::clone(&app.desk);
    to_its_end(async move {
        let standing = desk.probed(task, outcome).await?;
        Ok(Verdict { standing })
    })
    .await
}

/// `?provider=ADDRESS`: whose addresses.
pub(crate) struct OfProvider(Option<Address>);

impl<S: Send + Sync> FromRequestParts<S> for OfProvider {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let pairs = query_pairs(parts, state).await;
        match pairs.as_slice() {
            [] => Ok(Self(None)),
            [(name, value)] if name == "provider" => {
                let address = value.parse().map_err(|_| {
                    ProblemResponse::invalid("provider must be an address of 40 hex digits")
                })?;
                Ok(Self(Some(address)))
            }
            _ => Err(ProblemResponse::invalid(
                "provider is the only parameter here",
            )),
        }
    }
}

/// `GET /proofs`: what is known of addresses.
pub(super) async fn proofs(
    State(app): State<Arc<App>>,
    OfProvider(provider): OfProvider,
) -> Answer<Vec<ProofLine>> {
    Ok(Json(app.desk.proofs(provider).await?))
}

/// What the operator says of an address.
#[derive(Deserialize)]
pub(super) struct PostRuling {
    provider: Address,
    address: IpAddr,
    /// What it is; absent when the databases are right.
    address_type: Option<AddressType>,
    reason: String,
}

/// `POST /proofs/ruling`: the operator says what an address is.
pub(super) async fn rule(
    State(app): State<Arc<App>>,
    Body(body): Body<PostRuling>,
) -> Result<StatusCode, ProblemResponse> {
    let desk = Arc::clone(&app.desk);
    let ruling = Ruling {
        at: clock::now(),
        address_type: body.address_type,
        reason: body.reason,
    };
    let (provider, address) = (body.provider, body.address.to_canonical());
    let Json(()) = to_its_end(async move { desk.rule(provider, address, ruling).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}
