//! The routes, and what surrounds every one of them.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::FutureExt;
use ipsx_market::http::{NetworkInfo, ProblemKind};
use ipsx_settlement::json_rpc;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::events::{self, Streams};
use super::idempotency::{self, InFlight};
use super::limits::{self, Limits};
use super::problem::{self, Answer, ProblemResponse, Refusal};
use super::{
    admin, bundles, deals, echo, elsewhere, explorer, offers, openapi, placing, probes, requests,
    sessions,
};
use crate::desk::{Desk, DeskError};

/// Largest body, bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// Largest body of a JSON-RPC call: a contract's code fits.
const MAX_RPC_BODY: usize = 256 * 1024;
/// Where the embedded chain is asked.
const RPC: &str = "/rpc";
/// Longest time for one request: more than the longest long poll.
const PATIENCE: Duration = Duration::from_secs(120);

/// What handlers share.
pub(crate) struct App {
    pub(crate) desk: Arc<Desk>,
    pub(crate) info: NetworkInfo,
    /// URL that sign-in messages name, without a path.
    pub(crate) uri: String,
    pub(crate) session_seconds: u64,
    pub(crate) nonce_key: [u8; 32],
    /// Anybody with a wallet may sign in, and each sign-in is a write: only a few may stand in the others' way.
    pub(crate) sign_ins: Semaphore,
    pub(crate) limits: Limits,
    /// Names by which the operator's listener may be asked.
    pub(crate) admin_hosts: Vec<String>,
    /// Requests with an idempotency key that are being worked on.
    pub(crate) in_flight: InFlight,
    /// Streams of events that are being read.
    pub(crate) streams: Streams,
    pub(crate) stop: watch::Receiver<bool>,
}

impl App {
    /// Sign-ins at the same time.
    pub(crate) const SIGN_INS: usize = 4;

    /// Host and port that sign-in messages name.
    pub(crate) fn domain(&self) -> &str {
        let authority = self.uri.split_once("://").map(|(_, authority)| authority);
        authority.unwrap_or(&self.uri)
    }

    /// Returns once the broker stops.
    pub(crate) async fn stopping(&self) {
        // A sender that is gone has stopped, too.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }
}

/// The requesters' routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let of_deals = of_deals().route_layer(middleware::from_fn_with_state(
        Arc::clone(&app),
        elsewhere::pass_on,
    ));
    let of_bundles = of_bundles().route_layer(middleware::from_fn_with_state(
        Arc::clone(&app),
        elsewhere::pass_bundle_on,
    ));
    let signed_in =
        signed_in()
            .merge(of_deals)
            .merge(of_bundles)
            .route_layer(middleware::from_fn_with_state(
                Arc::clone(&app),
                idempotency::once,
            ));
    let (routes, _) = open_to_all().merge(signed_in).split_for_parts();
    let limited = middleware::from_fn_with_state(Arc::clone(&app), limits::limited);
    let routes = routes.layer(middleware::from_fn_with_state(Arc::clone(&app), with_room));
    surround(routes, app).layer(limited)
}

/// What other brokers of the fleet ask, who have found out who wants it.
pub(crate) fn brokers_router(app: Arc<App>) -> Router {
    let (of_deals, _) = of_deals().merge(of_bundles()).split_for_parts();
    let routes = of_deals
        .route("/v1/offers", get(offers::own))
        .route(placing::QUOTE, post(placing::quote))
        .route(placing::PLACE, post(placing::propose))
        .route(idempotency::WORKED_ON, post(idempotency::is_worked_on));
    surround(routes, app)
}

/// What only the broker can do that goes on with the deal.
fn of_deals() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(deals::sign))
        .routes(routes!(deals::connected))
        .routes(routes!(deals::endpoint))
        .routes(routes!(deals::relay))
        .routes(routes!(deals::end))
        .routes(routes!(deals::receive, deals::send))
}

/// What only the broker can do that goes on with all of the deals.
fn of_bundles() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(bundles::sign))
}

/// What needs a session.
fn signed_in() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(requests::post))
        .routes(routes!(requests::show, requests::cancel))
        .routes(routes!(bundles::post))
        .routes(routes!(offers::withdraw))
        .routes(routes!(deals::list))
        .routes(routes!(deals::show))
        .routes(routes!(events::of_wallet))
        .routes(routes!(events::of_deal))
        .routes(routes!(deals::outcome))
}

/// What anybody may ask.
fn open_to_all() -> OpenApiRouter<Arc<App>> {
    let rpc = routes!(rpc).layer(DefaultBodyLimit::max(MAX_RPC_BODY));
    OpenApiRouter::with_openapi(openapi::head())
        .routes(rpc)
        .routes(routes!(explorer::page))
        .routes(routes!(openapi::document))
        .routes(routes!(offers::network))
        .routes(routes!(explorer::overview))
        .routes(routes!(sessions::nonce))
        .routes(routes!(sessions::open))
        .routes(routes!(offers::offers))
        .routes(routes!(echo::echo))
        .routes(routes!(echo::appeal))
}

/// The requesters' routes as OpenAPI has them.
pub(super) fn described() -> utoipa::openapi::OpenApi {
    open_to_all()
        .merge(signed_in())
        .merge(of_deals())
        .merge(of_bundles())
        .into_openapi()
}

/// The operator's routes, for a listener of their own.
pub(crate) fn admin_router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/healthz", get(admin::healthz))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .route("/drain", post(admin::drain))
        .route("/resume", post(admin::resume))
        .route("/claims", post(admin::claims))
        .route("/probes", post(probes::next))
        .route("/probes/{task}", post(probes::finish))
        .route("/proofs", get(probes::proofs))
        .route("/proofs/ruling", post(probes::rule))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            admin::no_browser,
        ));
    surround(routes, app)
}

/// What is the same for every route.
fn surround(routes: Router<Arc<App>>, app: Arc<App>) -> Router {
    routes
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), around))
        .with_state(app)
}

/// Runs to its end even if the client has gone: what is begun at the desk is finished there.
pub(super) async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, DeskError>> + Send + 'static,
) -> Answer<T> {
    match tokio::spawn(work).await {
        Ok(done) => Ok(Json(done?)),
        Err(error) => {
            tracing::error!(%error, "a handler failed");
            Err(ProblemResponse::unavailable(
                "the broker failed at this; try again",
            ))
        }
    }
}

/// Refuses what has to be written while the disk has no room, also what is waiting for the disk already: that is done, or
/// is not, once there is room, as when the client has gone.
async fn with_room(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ProblemResponse> {
    // The embedded chain has a file of its own, and is mostly read.
    if request.method().is_safe() || request.uri().path() == RPC {
        return Ok(next.run(request).await);
    }
    tokio::select! {
        biased;
        () = app.desk.store.room().gone() => Err(DeskError::NoRoom.into()),
        response = next.run(request) => Ok(response),
    }
}

/// Measures, limits the time, writes every error as a problem and counts it.
async fn around(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().as_str().to_string();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none".to_string(), |path| path.as_str().to_string());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(response)) => response,
        // The panic itself was written where it happened; what handlers share stays whole, as everywhere.
        Ok(Err(_)) => ProblemResponse::internal().into_response(),
        Err(_) => ProblemResponse::new(
            StatusCode::REQUEST_TIMEOUT,
            ProblemKind::Unavailable,
            "the request took too long",
        )
        .into_response(),
    };
    let metrics = &app.desk.metrics;
    let response = problem::complete(response);
    if let Some(Refusal(label)) = response.extensions().get() {
        metrics.refused(label);
    }
    metrics
        .http
        .with_label_values(&[&method, &route, response.status().as_str()])
        .observe(begun.elapsed().as_secs_f64());
    response
}

async fn no_route(request: Request) -> ProblemResponse {
    let path: String = request.uri().path().chars().take(100).collect();
    ProblemResponse::not_found(format!(
        "there is nothing at {path}; see docs/protocol.md for all paths"
    ))
}

async fn wrong_method(request: Request) -> ProblemResponse {
    let path: String = request.uri().path().chars().take(100).collect();
    ProblemResponse::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ProblemKind::InvalidRequest,
        format!("{} is not a method of {path}", request.method()),
    )
}

/// `POST /rpc`: the embedded chain's JSON-RPC.
#[utoipa::path(
    post,
    path = "/rpc",
    operation_id = "callChain",
    summary = "JSON-RPC 2.0 of the embedded chain; 404 on a network that is on another one.",
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 200, description = "One answer, or those of a batch.", body = serde_json::Value),
        (status = 204, description = "All were notifications.")
    ),
)]
async fn rpc(
    State(app): State<Arc<App>>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, ProblemResponse> {
    let body = body.map_err(|rejection| {
        ProblemResponse::new(
            rejection.status(),
            ProblemKind::InvalidRequest,
            rejection.body_text(),
        )
    })?;
    let Some(chain) = app.desk.operator.embedded() else {
        return Err(ProblemResponse::not_found(
            "this network is on another chain; /v1/network names its JSON-RPC",
        ));
    };
    Ok(match json_rpc::respond(chain, &body).await {
        Some(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}
