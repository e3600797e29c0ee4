//! The state of deals, and of requests that rest, as server-sent events (HTML, section 9.2).
//!
//! An event's id is the number under which its change is on disk, and what is sent is read from there. So a reader that
//! names the last id it has seen goes on behind it, whatever was lost, also at a broker that was started again. For
//! each reader a few pages' worth at most waits in memory; whoever doesn't take it in time is told so and let go.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use ipsx_market::http::{ProblemKind, StreamEnd, StreamEndReason};
use ipsx_metering::{Address, DealId};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::App;
use super::deals::next_news;
use super::extract::{DealPath, NoQuery, SignedIn, Token};
use super::problem::ProblemResponse;
use super::sessions;
use crate::desk::{Changed, DeskError, News};
use crate::store::{Change, Event, StoreError};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Streams of one wallet at the same time.
const PER_WALLET: usize = 16;
/// Changes that are read at once.
const PAGE: u32 = 64;
/// Frames that wait for a reader.
const WAITING: usize = 128;
/// How long a reader may leave all of them waiting.
const SLOW: Duration = Duration::from_secs(10);
/// How often something is sent when nothing happens; then it is also looked whether the session still counts.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Places for streams.
pub(crate) struct Streams {
    all: Arc<Semaphore>,
    by_wallet: Mutex<HashMap<Address, usize>>,
}

impl Streams {
    /// For so many at the same time, of all wallets together.
    pub(crate) fn new(all: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            by_wallet: Mutex::default(),
        }
    }

    fn count(&self, wallet: Address, change: impl FnOnce(&mut usize) -> bool) -> bool {
        let mut all = self
            .by_wallet
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(wallet).or_default();
        let changed = change(count);
        if *count == 0 {
            all.remove(&wallet);
        }
        changed
    }
}

/// One stream's place, given back when dropped.
struct Place {
    app: Arc<App>,
    wallet: Address,
    _one_of_all: OwnedSemaphorePermit,
}

impl Place {
    fn take(app: &Arc<App>, wallet: Address) -> Result<Self, ProblemResponse> {
        let streams = &app.streams;
        let Ok(one_of_all) = Arc::clone(&streams.all).try_acquire_owned() else {
            return Err(ProblemResponse::unavailable(
                "all places for streams of events are taken; try again later, or ask for the deal itself",
            ));
        };
        let fits = streams.count(wallet, |count| {
            let fits = *count < PER_WALLET;
            *count += usize::from(fits);
            fits
        });
        if !fits {
            return Err(ProblemResponse::new(
                StatusCode::TOO_MANY_REQUESTS,
                ProblemKind::TooManyRequests,
                format!(
                    "this wallet reads {PER_WALLET} streams of events already; close one of them"
                ),
            ));
        }
        Ok(Self {
            app: Arc::clone(app),
            wallet,
            _one_of_all: one_of_all,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.streams.count(self.wallet, |count| {
            *count -= 1;
            true
        });
    }
}

/// `Last-Event-ID`: the number of the last event that the reader has seen.
pub(super) struct LastEvent(Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for LastEvent {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        let Some(value) = parts.headers.get(LAST_EVENT_ID) else {
            return Ok(Self(None));
        };
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        let number = number.filter(|number| *number <= i64::MAX as u64);
        number.map(|number| Self(Some(number))).ok_or_else(|| {
            ProblemResponse::invalid("Last-Event-ID must be the id of an event of this broker")
        })
    }
}

/// `GET /v1/deals/{id}/events`
#[utoipa::path(
    get,
    path = "/v1/deals/{id}/events",
    operation_id = "followDeal",
    summary = "The changes of a deal, from its beginning or after Last-Event-ID.",
    responses(
        (
            status = 200,
            description = "Events (HTML, section 9.2): `open` first, then a `deal` (DealEvent) for each change, `end` (StreamEnd) last; comments in between.",
            body = String,
            content_type = "text/event-stream"
        ),
        (status = 204, description = "The deal is over, and all of it was told.")
    ),
    security(("session" = [])),
)]
pub(super) async fn of_deal(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    token: Token,
    DealPath(id): DealPath,
    LastEvent(last): LastEvent,
    _: NoQuery,
) -> Result<Response, ProblemResponse> {
    let record = app.desk.deal(wallet, id).await?;
    let after = last.unwrap_or(0);
    if record.status().is_over() {
        let rest = app.desk.store.changes_of_deal(id, after, 1).await;
        if rest.map_err(DeskError::from)?.is_empty() {
            // Tells a reader that comes again by itself not to.
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    let place = Place::take(&app, wallet)?;
    Ok(open(app, Scope::Deal(id), after, (token, place)))
}

/// `GET /v1/events`
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "followDeals",
    summary = "The changes of all of the wallet's deals as a requester and of its requests that rest, from now on or after Last-Event-ID.",
    responses(
        (
            status = 200,
            description = "Events (HTML, section 9.2): `open` first, then a `deal` (DealEvent) or `request` (RequestEvent) for each change, `end` (StreamEnd) last; comments in between.",
            body = String,
            content_type = "text/event-stream"
        )
    ),
    security(("session" = [])),
)]
pub(super) async fn of_wallet(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    token: Token,
    LastEvent(last): LastEvent,
    _: NoQuery,
) -> Result<Response, ProblemResponse> {
    let after = match last {
        Some(number) => number,
        None => {
            let latest = app.desk.store.latest_change(wallet).await;
            latest.map_err(DeskError::from)?
        }
    };
    let place = Place::take(&app, wallet)?;
    Ok(open(app, Scope::Wallet(wallet), after, (token, place)))
}

/// Whose changes are read.
#[derive(Clone, Copy)]
enum Scope {
    Deal(DealId),
    Wallet(Address),
}

impl Scope {
    fn matters(self, news: &News) -> bool {
        match self {
            Self::Deal(id) => news.of == Changed::Deal(id),
            Self::Wallet(wallet) => news.requester == wallet,
        }
    }

    async fn read(self, app: &App, after: u64) -> Result<Vec<Change>, StoreError> {
        let store = &app.desk.store;
        match self {
            Self::Deal(id) => store.changes_of_deal(id, after, PAGE).await,
            Self::Wallet(wallet) => store.changes_of(wallet, after, PAGE).await,
        }
    }

    /// Whether nothing follows this change.
    fn ends_with(self, change: &Change) -> bool {
        let over = matches!(&change.event, Event::Deal(event) if event.status.is_over());
        matches!(self, Self::Deal(_)) && over
    }
}

/// The answer, and the task that fills it.
fn open(app: Arc<App>, scope: Scope, after: u64, held: (Token, Place)) -> Response {
    let (frames, waiting) = mpsc::channel(WAITING + 1);
    tokio::spawn(feed(app, scope, after, held, frames));
    let body = stream::unfold(waiting, |mut waiting| async move {
        let frame: Bytes = waiting.recv().await?;
        Some((Ok::<_, Infallible>(frame), waiting))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that gather answers before they send them would hold the events back.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(body)).into_response()
}

/// Sends what is on disk, then what comes, until an end; the last word has a place of its own.
async fn feed(
    app: Arc<App>,
    scope: Scope,
    after: u64,
    (token, _place): (Token, Place),
    frames: mpsc::Sender<Bytes>,
) {
    let Ok(last_word) = frames.clone().reserve_owned().await else {
        return;
    };
    let told = tell(&app, scope, after, &token, &frames).await;
    let Err(Some(reason)) = told else {
        return;
    };
    tracing::debug!(?reason, "a stream of events is over");
    last_word.send(frame("end", None, &StreamEnd { reason }));
}

/// Ends with the reason that the reader is told, or with none if it has gone.
async fn tell(
    app: &App,
    scope: Scope,
    mut after: u64,
    token: &Token,
    frames: &mpsc::Sender<Bytes>,
) -> Result<Infallible, Option<StreamEndReason>> {
    let (mut news, mut looked) = (app.desk.news(), Instant::now());
    let opened = serde_json::json!({ "after": after });
    let mut first = b"retry: 1000\n".to_vec();
    first.extend(frame("open", Some(after), &opened));
    send(frames, first.into()).await?;
    loop {
        let changes = scope.read(app, after).await.map_err(|error| {
            tracing::warn!(%error, "a stream of events can't go on");
            Some(StreamEndReason::BrokerStops)
        })?;
        for change in &changes {
            after = change.number;
            let event = match &change.event {
                Event::Deal(event) => frame("deal", Some(after), event),
                Event::Request(event) => frame("request", Some(after), event),
            };
            send(frames, event).await?;
        }
        if changes.last().is_some_and(|change| scope.ends_with(change)) {
            return Err(Some(StreamEndReason::DealOver));
        }
        if looked.elapsed() >= HEARTBEAT {
            looked = Instant::now();
            check_session(app, token).await?;
        }
        if !changes.is_empty() {
            continue;
        }
        let until = Instant::now() + HEARTBEAT;
        let came = tokio::select! {
            came = next_news(app, &mut news, |news| scope.matters(news), until) => came,
            () = frames.closed() => return Err(None),
        };
        if *app.stop.borrow() || app.desk.has_stopped() {
            return Err(Some(StreamEndReason::BrokerStops));
        }
        if !came {
            send(frames, Bytes::from_static(b": nothing new\n\n")).await?;
        }
    }
}

async fn check_session(app: &App, token: &Token) -> Result<(), Option<StreamEndReason>> {
    match sessions::wallet(app, &token.0).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Some(StreamEndReason::SessionOver)),
        Err(_) => Err(Some(StreamEndReason::BrokerStops)),
    }
}

async fn send(frames: &mpsc::Sender<Bytes>, frame: Bytes) -> Result<(), Option<StreamEndReason>> {
    send_within(SLOW, frames, frame).await
}

async fn send_within(
    patience: Duration,
    frames: &mpsc::Sender<Bytes>,
    frame: Bytes,
) -> Result<(), Option<StreamEndReason>> {
    match timeout(patience, frames.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(None),
        Err(_) => Err(Some(StreamEndReason::TooSlow)),
    }
}

fn frame(name: impl Display, id: Option<u64>, data: &impl Serialize) -> Bytes {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    // JSON on one line has no line breaks, so nobody's words can end an event.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("{id}event: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_told_so_behind_what_waits_for_it() {
        let (frames, mut reader) = mpsc::channel(WAITING + 1);
        let last_word = frames.clone().reserve_owned().await.unwrap();
        let short = Duration::from_millis(50);
        for number in 0..WAITING as u64 {
            let event = frame("deal", Some(number), &number);
            send_within(short, &frames, event).await.unwrap();
        }
        let refused = send_within(short, &frames, Bytes::new()).await;
        assert_eq!(refused, Err(Some(StreamEndReason::TooSlow)));
        let reason = StreamEndReason::TooSlow;
        last_word.send(frame("end", None, &StreamEnd { reason }));
        drop(frames);
        for number in 0..WAITING {
            let event = reader.recv().await.unwrap();
            assert_eq!(
                event,
                format!("id: {number}\nevent: deal\ndata: {number}\n\n")
            );
        }
        let end = reader.recv().await.unwrap();
        assert_eq!(end, "event: end\ndata: {\"reason\":\"too_slow\"}\n\n");
        assert_eq!(reader.recv().await, None);
        // Whoever has gone is not told anything.
        let (frames, reader) = mpsc::channel(1);
        drop(reader);
        assert_eq!(send_within(short, &frames, Bytes::new()).await, Err(None));
    }
}
