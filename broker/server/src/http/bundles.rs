//! Asking for several addresses at once, and signing what comes of it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ipsx_market::http::{BoundBundle, PostRequest, ProposedBundle, RequestView, SignBundle};
use ipsx_market::market::Answered;

use super::App;
use super::app::finish;
use super::extract::{Body, RequestPath, SignedIn};
use super::idempotency::Keyed;
use super::problem::{Answer, ProblemResponse};
use super::requests;

/// `POST /v1/bundles`
#[utoipa::path(
    post,
    path = "/v1/bundles",
    operation_id = "postBundle",
    summary = "Asks for several addresses at once.",
    request_body = PostRequest,
    responses(
        (status = 200, description = "Deals that their providers have signed.", body = ProposedBundle),
        (status = 202, description = "Too few offers fit now: the request rests until there are enough.", body = RequestView)
    ),
    security(("session" = [])),
)]
pub(super) async fn post(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    keyed: Option<Extension<Keyed>>,
    Body(body): Body<PostRequest>,
) -> Result<Response, ProblemResponse> {
    let request = body.request.message.id();
    let deals = match requests::take(&app, wallet, body.request, keyed, None).await? {
        Answered::Bundle(deals) => deals,
        Answered::Deal(deal) => vec![*deal],
        Answered::Rests(view) => return Ok((StatusCode::ACCEPTED, Json(view)).into_response()),
    };
    Ok(Json(ProposedBundle { request, deals }).into_response())
}

/// `POST /v1/bundles/{id}/signatures`
#[utoipa::path(
    post,
    path = "/v1/bundles/{id}/signatures",
    operation_id = "signBundle",
    summary = "The requester's signatures, which bind several deals of a request: all of them, or none.",
    request_body = SignBundle,
    responses((status = 200, description = "The network's word on each.", body = BoundBundle)),
    security(("session" = [])),
)]
pub(super) async fn sign(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    RequestPath(id): RequestPath,
    Body(body): Body<SignBundle>,
) -> Answer<BoundBundle> {
    let desk = Arc::clone(&app.desk);
    finish(async move { desk.sign_bundle(wallet, id, body).await }).await
}
