//! What the operator's listener answers: is the broker well, what does it count, and a few things to be told.
//!
//! Nothing here asks for a password: whoever reaches the listener is the operator. Web pages are kept out, since they
//! reach the loopback address of whoever looks at them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ipsx_market::http::ProblemKind;
use serde::Serialize;
use tokio::time::timeout;

use super::App;
use super::problem::{Answer, ProblemResponse};
use crate::desk::DeskError;

/// How long store and chain may take to show that they are there.
const PROMPT: Duration = Duration::from_secs(2);

/// What the actions and the looks answer.
#[derive(Serialize)]
pub(super) struct Status {
    status: &'static str,
}

fn status(status: &'static str) -> Json<Status> {
    Json(Status { status })
}

/// Turns browsers away: they name the page's origin with every `POST`, and with whatever a script reads across sites. A
/// page whose name was made to lead here is of the same site, but asks by that name.
pub(super) async fn no_browser(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(host) = foreign_host(&request, &app.admin_hosts) {
        return ProblemResponse::new(
            axum::http::StatusCode::FORBIDDEN,
            ProblemKind::Forbidden,
            format!(
                "this listener is asked by its address or as localhost, not as {host:?}; a name of its own goes into admin_hosts"
            ),
        )
        .into_response();
    }
    if request.headers().contains_key(header::ORIGIN) {
        return ProblemResponse::new(
            axum::http::StatusCode::FORBIDDEN,
            ProblemKind::Forbidden,
            "this listener is for the operator's programs, not for web pages",
        )
        .into_response();
    }
    next.run(request).await
}

/// The name that a request asks by, if it should not. Only very old programs name none.
fn foreign_host(request: &Request, known: &[String]) -> Option<String> {
    let named = request.headers().get_all(header::HOST).iter();
    let named = named.map(|value| value.to_str().unwrap_or("?").to_ascii_lowercase());
    let target = request.uri().authority();
    let target = target.map(|authority| authority.as_str().to_ascii_lowercase());
    named.chain(target).find(|text| {
        let Ok(authority) = text.parse::<Authority>() else {
            return true;
        };
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let address = bare.unwrap_or(host).parse::<IpAddr>().is_ok();
        let local = host == "localhost" || known.iter().any(|name| name == host);
        // Nothing stands before the host, and only a port behind it.
        let port = text
            .strip_prefix(host)
            .map(|rest| rest.strip_prefix(':').unwrap_or(rest));
        let plain = port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        !(address || local) || !plain
    })
}

/// `GET /healthz`: the program runs; else it should be started again.
pub(super) async fn healthz(State(app): State<Arc<App>>) -> Answer<Status> {
    if app.desk.has_stopped() {
        return Err(ProblemResponse::unavailable("the broker is stopping"));
    }
    Ok(status("ok"))
}

/// `GET /readyz`: requests are taken, and store and chain answer; else requesters should be sent elsewhere.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Answer<Status> {
    if app.desk.has_stopped() {
        return Err(ProblemResponse::unavailable("the broker is stopping"));
    }
    if app.desk.is_draining() {
        return Err(ProblemResponse::unavailable(
            "the broker takes no new requests; POST /resume ends that",
        ));
    }
    if !app.desk.store.room().is_left() {
        return Err(DeskError::NoRoom.into());
    }
    let late = |what: &str| {
        ProblemResponse::unavailable(format!("the {what} did not answer within {PROMPT:?}"))
    };
    let store = timeout(PROMPT, app.desk.store.ping()).await;
    store.map_err(|_| late("store"))?.map_err(DeskError::from)?;
    let chain = timeout(PROMPT, app.desk.operator.block_time()).await;
    chain.map_err(|_| late("chain"))?.map_err(DeskError::from)?;
    Ok(status("ready"))
}

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ProblemResponse> {
    app.desk.measure().await;
    let text = app.desk.metrics.text().map_err(|error| {
        tracing::error!(%error, "metrics can't be written");
        ProblemResponse::unavailable("metrics can't be written")
    })?;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    Ok((kind, text).into_response())
}

/// `POST /drain`: takes no new requests; leases and deals under way go on.
pub(super) async fn drain(State(app): State<Arc<App>>) -> Json<Status> {
    app.desk.drain(true);
    status("draining")
}

/// `POST /resume`: takes requests again.
pub(super) async fn resume(State(app): State<Arc<App>>) -> Json<Status> {
    app.desk.drain(false);
    status("ready")
}

/// `POST /claims`: claims now what is about to lapse for providers that are away, as the clock does once an hour.
pub(super) async fn claims(State(app): State<Arc<App>>) -> Answer<Status> {
    let desk = Arc::clone(&app.desk);
    // Goes on without whoever asked.
    let done = tokio::spawn(async move { desk.claim_lapsing().await }).await;
    match done {
        Ok(Ok(())) => Ok(status("claimed")),
        Ok(Err(error)) => Err(ProblemResponse::unavailable(format!(
            "not everything was claimed: {error}"
        ))),
        Err(error) => {
            tracing::error!(%error, "a handler failed");
            Err(ProblemResponse::unavailable(
                "the claiming failed; the log says why",
            ))
        }
    }
}
