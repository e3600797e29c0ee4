//! Deals, from the signature to the end, and the sealed frames of those whose payer is not the peer.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipsx_market::http::{
    BoundDeal, Connected, DealView, EndDeal, Frames, RelayedWay, RequesterEndpoint, SignDeal,
    WantRelay,
};
use ipsx_market::record::DealRecord;
use ipsx_market::sealed::{MAX_SEALED, NONCE_BYTES};
use ipsx_metering::{Address, DealId};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::app::finish;
use super::extract::{Body, DealPath, Page, SignedIn, Wait, link_next};
use super::problem::{Answer, ProblemResponse};
use super::server::Peer;
use crate::desk::{Changed, News};

/// Frames in one post.
const MAX_FRAMES: usize = 32;

/// `GET /v1/deals`
#[utoipa::path(
    get,
    path = "/v1/deals",
    operation_id = "listDeals",
    summary = "The wallet's deals as a requester, newest first.",
    responses((status = 200, description = "A page of deals; Link names the next one.", body = Vec<DealView>)),
    security(("session" = [])),
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    page: Page,
) -> Result<Response, ProblemResponse> {
    // One more than asked for tells whether there is another page.
    let deals = app
        .desk
        .store
        .deals_of(wallet, page.after, page.limit + 1)
        .await;
    let mut deals = deals.map_err(crate::desk::DeskError::from)?;
    let more = deals.len() > page.limit as usize;
    deals.truncate(page.limit as usize);
    let views: Vec<DealView> = deals.iter().map(DealRecord::view).collect();
    let mut response = Json(views).into_response();
    if let Some(last) = deals.last().filter(|_| more) {
        let cursor = Page::cursor((last.proposed_at, last.deal_id));
        let next = format!("/v1/deals?limit={}&cursor={cursor}", page.limit);
        link_next(response.headers_mut(), &next);
    }
    Ok(response)
}

/// `GET /v1/deals/{id}`
#[utoipa::path(
    get,
    path = "/v1/deals/{id}",
    operation_id = "getDeal",
    summary = "A deal, for its requester or its provider; at once, or when its status changes.",
    responses((status = 200, description = "The deal.", body = DealView)),
    security(("session" = [])),
)]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
    wait: Wait,
) -> Answer<DealView> {
    let until = Instant::now() + wait.limit;
    let mut news = app.desk.news();
    loop {
        let record = app.desk.deal(wallet, id).await?;
        let same = wait.status == Some(record.status());
        if !same || !next_news(&app, &mut news, |news| news.of == Changed::Deal(id), until).await {
            return Ok(Json(record.view()));
        }
    }
}

/// Waits for news that matter; false when the time is up or the broker stops.
pub(super) async fn next_news(
    app: &App,
    news: &mut Receiver<News>,
    matter: impl Fn(&News) -> bool,
    until: Instant,
) -> bool {
    let arrived = async {
        loop {
            match news.recv().await {
                Ok(news) if news.of != Changed::Anything && !matter(&news) => {}
                // Whoever fell behind looks for itself.
                Ok(_) | Err(RecvError::Lagged(_)) => return true,
                Err(RecvError::Closed) => return false,
            }
        }
    };
    tokio::select! {
        arrived = timeout_at(until, arrived) => arrived.unwrap_or(false),
        () = app.stopping() => false,
    }
}

/// `POST /v1/deals/{id}/signature`
#[utoipa::path(
    post,
    path = "/v1/deals/{id}/signature",
    operation_id = "signDeal",
    summary = "The requester's signature, which binds the deal.",
    request_body = SignDeal,
    responses((status = 200, description = "The network's word.", body = BoundDeal)),
    security(("session" = [])),
)]
pub(super) async fn sign(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
    Body(body): Body<SignDeal>,
) -> Answer<BoundDeal> {
    let desk = Arc::clone(&app.desk);
    finish(async move { desk.sign(wallet, id, body).await }).await
}

/// `GET /v1/deals/{id}/outcome`
#[utoipa::path(
    get,
    path = "/v1/deals/{id}/outcome",
    operation_id = "getOutcome",
    summary = "The network's word on a deal.",
    responses((status = 200, description = "The network's word.", body = BoundDeal)),
    security(("session" = [])),
)]
pub(super) async fn outcome(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
) -> Answer<BoundDeal> {
    Ok(Json(app.desk.outcome(wallet, id).await?))
}

/// `POST /v1/deals/{id}/connected`
#[utoipa::path(
    post,
    path = "/v1/deals/{id}/connected",
    operation_id = "reportConnected",
    summary = "The tunnel is up.",
    request_body = Connected,
    responses((status = 200, description = "The deal.", body = DealView)),
    security(("session" = [])),
)]
pub(super) async fn connected(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
    Body(Connected {}): Body<Connected>,
) -> Answer<DealView> {
    let desk = Arc::clone(&app.desk);
    finish(async move { Ok(desk.connected(wallet, id).await?.view()) }).await
}

/// `POST /v1/deals/{id}/endpoint`
#[utoipa::path(
    post,
    path = "/v1/deals/{id}/endpoint",
    operation_id = "reportEndpoint",
    summary = "From where the requester's tunnel sends, for the provider's NAT.",
    request_body = RequesterEndpoint,
    responses((status = 204, description = "The provider was told, or is away.")),
    security(("session" = [])),
)]
pub(super) async fn endpoint(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    Body(body): Body<RequesterEndpoint>,
) -> Result<StatusCode, ProblemResponse> {
    let (named, seen) = (body.endpoint, app.limits.seen(peer.ip(), &headers));
    // A provider sends only to whom the broker has seen, whatever the requester says.
    if named.ip().to_canonical() != seen || named.port() == 0 {
        return Err(ProblemResponse::invalid(format!(
            "endpoint is {named}, and the request comes from {seen}: it must be a port of the same address"
        )));
    }
    let desk = Arc::clone(&app.desk);
    let told = finish(async move { desk.requester_endpoint(wallet, id, named).await });
    let Json(()) = told.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/deals/{id}/relay`
#[utoipa::path(
    post,
    path = "/v1/deals/{id}/relay",
    operation_id = "wantRelay",
    summary = "A way by the broker's relay, where no other leads to the provider.",
    request_body = WantRelay,
    responses((status = 200, description = "The lease's port; the provider was told, or is away.", body = RelayedWay)),
    security(("session" = [])),
)]
pub(super) async fn relay(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
    Body(WantRelay {}): Body<WantRelay>,
) -> Answer<RelayedWay> {
    let desk = Arc::clone(&app.desk);
    finish(async move { desk.relay(wallet, id).await }).await
}

/// `POST /v1/deals/{id}/end`
#[utoipa::path(
    post,
    path = "/v1/deals/{id}/end",
    operation_id = "endDeal",
    summary = "Ends the lease.",
    request_body = EndDeal,
    responses((status = 200, description = "The deal.", body = DealView)),
    security(("session" = [])),
)]
pub(super) async fn end(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
    Body(body): Body<EndDeal>,
) -> Answer<DealView> {
    let desk = Arc::clone(&app.desk);
    finish(async move { Ok(desk.end(wallet, id, body.report).await?.view()) }).await
}

/// `GET /v1/deals/{id}/frames`
#[utoipa::path(
    get,
    path = "/v1/deals/{id}/frames",
    operation_id = "receiveFrames",
    summary = "Sealed frames from the provider; what was taken is gone.",
    responses((status = 200, description = "Frames, oldest first; none if none came in time.", body = Frames)),
    security(("session" = [])),
)]
pub(super) async fn receive(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
    wait: Wait,
) -> Answer<Frames> {
    let frames = match app.desk.running(wallet, id).await {
        Ok(_) => wait_for_frames(&app, id, wait.limit).await,
        Err(refusal) => {
            // The last words of a deal that is over may still be read.
            own_requester(&app, wallet, id).await?;
            let frames = app.desk.mailboxes.last_words(id);
            if frames.is_empty() {
                return Err(refusal.into());
            }
            frames
        }
    };
    let frames = frames.iter().map(|frame| STANDARD.encode(frame)).collect();
    Ok(Json(Frames { frames }))
}

/// `POST /v1/deals/{id}/frames`
#[utoipa::path(
    post,
    path = "/v1/deals/{id}/frames",
    operation_id = "sendFrames",
    summary = "Sealed frames for the provider.",
    request_body = Frames,
    responses((status = 204, description = "They were passed on, or dropped.")),
    security(("session" = [])),
)]
pub(super) async fn send(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
    Body(body): Body<Frames>,
) -> Result<StatusCode, ProblemResponse> {
    if body.frames.len() > MAX_FRAMES {
        return Err(ProblemResponse::invalid(format!(
            "{} frames are too many; send at most {MAX_FRAMES} at once",
            body.frames.len()
        )));
    }
    let frames: Result<Vec<_>, _> = body.frames.iter().map(|text| decode(text)).collect();
    app.desk.frames_to_provider(wallet, id, frames?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn own_requester(app: &App, wallet: Address, id: DealId) -> Result<(), ProblemResponse> {
    let record = app.desk.deal(wallet, id).await?;
    if record.deal.requester == wallet {
        Ok(())
    } else {
        let refusal = ipsx_market::market::DealRefusal::NotYours(id);
        Err(crate::desk::DeskError::Deal(refusal).into())
    }
}

async fn wait_for_frames(app: &App, id: DealId, limit: Duration) -> Vec<Vec<u8>> {
    let until = Instant::now() + limit;
    loop {
        let arrived = match app.desk.mailboxes.take(id) {
            Ok(frames) => return frames,
            Err(arrived) => arrived,
        };
        let waiting = arrived.notified();
        tokio::pin!(waiting);
        waiting.as_mut().enable();
        // What arrived between the first look and the waiting.
        if let Ok(frames) = app.desk.mailboxes.take(id) {
            return frames;
        }
        let woken = tokio::select! {
            woken = timeout_at(until, waiting) => woken.is_ok(),
            () = app.stopping() => false,
        };
        if !woken || app.desk.mailboxes.is_closed(id) {
            return app.desk.mailboxes.last_words(id);
        }
    }
}

fn decode(text: &str) -> Result<Vec<u8>, ProblemResponse> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| ProblemResponse::invalid("a frame is not in base64"))?;
    if (NONCE_BYTES..=MAX_SEALED).contains(&bytes.len()) {
        Ok(bytes)
    } else {
        Err(ProblemResponse::invalid(format!(
            "a sealed frame has {NONCE_BYTES} to {MAX_SEALED} bytes, this one {}",
            bytes.len()
        )))
    }
}
