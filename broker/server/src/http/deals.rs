//! Deals, from the signature to the end, and the sealed frames of those whose payer is not the peer.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipsx_market::http::{BoundDeal, Connected, DealView, EndDeal, Frames, SignDeal};
use ipsx_market::record::DealRecord;
use ipsx_market::sealed::{MAX_SEALED, NONCE_BYTES};
use ipsx_metering::{Address, DealId};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::App;
use super::app::finish;
use super::extract::{Body, DealPath, Page, SignedIn, Wait};
use super::problem::{Answer, ProblemResponse};

/// Frames in one post.
const MAX_FRAMES: usize = 32;

/// `GET /v1/deals`
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
        let link = format!(
            "</v1/deals?limit={}&cursor={cursor}>; rel=\"next\"",
            page.limit
        );
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    Ok(response)
}

/// `GET /v1/deals/{id}`
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
        let same = wait.status.as_deref() == Some(record.status().as_str());
        if !same || !next_news(&app, &mut news, id, until).await {
            return Ok(Json(record.view()));
        }
    }
}

/// Waits for news of a deal; false when the time is up or the broker stops.
async fn next_news(
    app: &App,
    news: &mut tokio::sync::broadcast::Receiver<DealId>,
    id: DealId,
    until: Instant,
) -> bool {
    let arrived = async {
        loop {
            match news.recv().await {
                Ok(changed) if changed != id => {}
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
pub(super) async fn outcome(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
) -> Answer<BoundDeal> {
    Ok(Json(app.desk.outcome(wallet, id).await?))
}

/// `POST /v1/deals/{id}/connected`
pub(super) async fn connected(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    DealPath(id): DealPath,
    Body(Connected {}): Body<Connected>,
) -> Answer<DealView> {
    let desk = Arc::clone(&app.desk);
    finish(async move { Ok(desk.connected(wallet, id).await?.view()) }).await
}

/// `POST /v1/deals/{id}/end`
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
