//! Asking for an address, and what becomes of requests that wait for one.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ipsx_market::http::{PostRequest, ProposedDeal, RequestView};
use ipsx_market::market::Answered;
use ipsx_market::request::SignedRequest;
use ipsx_market::resting::RequestStatus;
use ipsx_metering::{Address, B256};
use tokio::time::Instant;

use super::App;
use super::app::finish;
use super::deals::next_news;
use super::extract::{Body, NoQuery, RequestPath, SignedIn, Wait};
use super::idempotency::Keyed;
use super::placing;
use super::probes::ForProbe;
use super::problem::{Answer, ProblemResponse};
use crate::desk::{Changed, News};

/// `POST /v1/requests`
#[utoipa::path(
    post,
    path = "/v1/requests",
    operation_id = "postRequest",
    summary = "Asks for an address.",
    request_body = PostRequest,
    responses(
        (status = 200, description = "A deal that a provider has signed.", body = ProposedDeal),
        (status = 202, description = "No offer fits now: the request rests until one does.", body = RequestView)
    ),
    security(("session" = [])),
)]
pub(super) async fn post(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    keyed: Option<Extension<Keyed>>,
    ForProbe(probe): ForProbe,
    Body(body): Body<PostRequest>,
) -> Result<Response, ProblemResponse> {
    if body.request.message.count() > 1 {
        return Err(ProblemResponse::invalid(
            "a request for several addresses is posted to /v1/bundles",
        ));
    }
    Ok(
        match take(&app, wallet, body.request, keyed, probe).await? {
            Answered::Deal(deal) => Json(deal).into_response(),
            Answered::Rests(view) => (StatusCode::ACCEPTED, Json(view)).into_response(),
            // Only a request for several addresses is answered so.
            Answered::Bundle(deals) => Json(deals).into_response(),
        },
    )
}

/// What becomes of a request at once, at this broker or the one that has most for it.
pub(super) async fn take(
    app: &App,
    wallet: Address,
    request: SignedRequest,
    keyed: Option<Extension<Keyed>>,
    probe: Option<B256>,
) -> Result<Answered, ProblemResponse> {
    let desk = Arc::clone(&app.desk);
    let keyed = keyed.map(|Extension(keyed)| keyed);
    let again = keyed.as_ref().is_some_and(|keyed| keyed.again);
    match app.desk.fleet.clone().filter(|_| probe.is_none()) {
        // A probe is of an offer that this broker has.
        None => {
            let taken = finish(async move { desk.request(wallet, request, again, probe).await });
            taken.await.map(|Json(answer)| answer)
        }
        Some(fleet) => match desk.admit(wallet, &request, again).await? {
            Some(answer) => Ok(answer),
            None => {
                let key = keyed.as_ref().map(|keyed| keyed.key.as_str());
                placing::place(&desk, &fleet, &request, key).await
            }
        },
    }
}

/// `GET /v1/requests/{id}`
#[utoipa::path(
    get,
    path = "/v1/requests/{id}",
    operation_id = "getRequest",
    summary = "Where a request stands, for its requester; at once, or when it no longer rests.",
    responses((status = 200, description = "The request.", body = RequestView)),
    security(("session" = [])),
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    RequestPath(id): RequestPath,
    wait: Wait,
) -> Answer<RequestView> {
    let until = Instant::now() + wait.limit;
    let mut news = app.desk.news();
    loop {
        let view = app.desk.request_view(wallet, id).await?;
        let rests = view.status == RequestStatus::Resting;
        let matters = |news: &News| news.of == Changed::Request(id);
        if !rests || !next_news(&app, &mut news, matters, until).await {
            return Ok(Json(view));
        }
    }
}

/// `DELETE /v1/requests/{id}`
#[utoipa::path(
    delete,
    path = "/v1/requests/{id}",
    operation_id = "cancelRequest",
    summary = "Takes a request back that rests.",
    responses((status = 200, description = "The request.", body = RequestView)),
    security(("session" = [])),
)]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    RequestPath(id): RequestPath,
    _: NoQuery,
) -> Answer<RequestView> {
    let desk = Arc::clone(&app.desk);
    finish(async move { desk.cancel_request(wallet, id).await }).await
}
