//! Asking for several addresses at once, and signing what comes of it.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use ipsx_market::http::{BoundBundle, PostRequest, ProposedBundle, SignBundle};
use ipsx_market::market::Answered;

use super::App;
use super::app::finish;
use super::extract::{Body, RequestPath, SignedIn};
use super::idempotency::Keyed;
use super::problem::{Answer, ProblemResponse};

/// `POST /v1/bundles`
#[utoipa::path(
    post,
    path = "/v1/bundles",
    operation_id = "postBundle",
    summary = "Asks for several addresses at once.",
    request_body = PostRequest,
    responses((status = 200, description = "Deals that their providers have signed.", body = ProposedBundle)),
    security(("session" = [])),
)]
pub(super) async fn post(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    keyed: Option<Extension<Keyed>>,
    Body(body): Body<PostRequest>,
) -> Answer<ProposedBundle> {
    let request = body.request.message.id();
    if body.request.message.count() == 1 {
        return Err(ProblemResponse::invalid(
            "a request without `bundle` is for one address: post it to /v1/requests",
        ));
    }
    let desk = Arc::clone(&app.desk);
    let again = keyed.is_some_and(|Extension(keyed)| keyed.again);
    let answer = finish(async move { desk.request(wallet, body.request, again).await }).await?;
    match answer.0 {
        Answered::Bundle(deals) => Ok(Json(ProposedBundle { request, deals })),
        Answered::Deal(deal) => Ok(Json(ProposedBundle {
            request,
            deals: vec![*deal],
        })),
        Answered::Rests(_) => Err(ProblemResponse::invalid("a bundle does not rest")),
    }
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
