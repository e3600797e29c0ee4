//! What concerns a shard that another broker has is asked of that broker, and a search of all that have a part of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body as Content, Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use ipsx_market::book::Position;
use ipsx_market::fleet::{Instance, ShardId};
use ipsx_market::http::{OfferView, Problem, ProblemKind};
use ipsx_market::search::OfferQuery;
use ipsx_metering::Address;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::App;
use super::app::MAX_BODY;
use super::extract::{DealPath, MAX_WAIT, RequestPath, SignedIn};
use super::offers;
use super::problem::ProblemResponse;
use super::server::Peer;
use crate::desk::{DeskError, Page};
use crate::fleet::{Asked, Fleet, Unanswered};

/// How long an answer may take that nobody waits for something to happen for: a binding reads the chain.
const PROMPT: Duration = Duration::from_secs(20);
/// How long a search or a quote may take.
pub(super) const LOOK: Duration = Duration::from_secs(3);
/// Offers in an answer at most: what one broker has of it has to fit a message.
const PAGE: usize = 500;
/// How long it is tried again when the owner changes: longer than a takeover takes.
pub(super) const TAKEOVER: Duration = Duration::from_secs(8);
pub(super) const AGAIN: Duration = Duration::from_millis(100);

/// Has a deal's own broker answer, if that is another one.
pub(super) async fn pass_on(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ProblemResponse> {
    let Some(fleet) = &app.desk.fleet else {
        return Ok(next.run(request).await);
    };
    let mut passed = Passed::read(&app, request).await?;
    let DealPath(id) = DealPath::from_request_parts(&mut passed.parts, &app).await?;
    let record = app.desk.store.deal(id).await.map_err(DeskError::from)?;
    let shards = record.iter().map(ShardId::of).collect();
    passed.answer(&app, fleet, &shards, next).await
}

/// The same for several deals of a request, if they are one broker's.
pub(super) async fn pass_bundle_on(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ProblemResponse> {
    let Some(fleet) = &app.desk.fleet else {
        return Ok(next.run(request).await);
    };
    let mut passed = Passed::read(&app, request).await?;
    let RequestPath(id) = RequestPath::from_request_parts(&mut passed.parts, &app).await?;
    // One that can't be read is refused here.
    let shards = match serde_json::from_slice(&passed.body) {
        Ok(named) => {
            let desk = &app.desk;
            desk.shards_of_bundle(passed.wallet, id, &named).await?
        }
        Err(_) => BTreeSet::new(),
    };
    passed.answer(&app, fleet, &shards, next).await
}

/// A request that another broker may have to answer.
struct Passed {
    wallet: Address,
    parts: Parts,
    body: Bytes,
}

impl Passed {
    async fn read(app: &Arc<App>, request: Request) -> Result<Self, ProblemResponse> {
        let (mut parts, body) = request.into_parts();
        let SignedIn(wallet) = SignedIn::from_request_parts(&mut parts, app).await?;
        let Ok(body) = to_bytes(body, MAX_BODY).await else {
            return Err(ProblemResponse::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                ProblemKind::InvalidRequest,
                format!("the body can't be read, or has more than {MAX_BODY} bytes"),
            ));
        };
        Ok(Self {
            wallet,
            parts,
            body,
        })
    }

    /// The answer of the broker that has these shards; without any, this one's.
    async fn answer(
        self,
        app: &App,
        fleet: &Fleet,
        shards: &BTreeSet<ShardId>,
        next: Next,
    ) -> Result<Response, ProblemResponse> {
        let asked = self.asked(app, shards);
        let patience = match self.parts.method {
            Method::GET => MAX_WAIT + LOOK,
            _ => PROMPT,
        };
        let until = Instant::now() + TAKEOVER;
        loop {
            let found = fleet.found(shards).await;
            let found = found.ok_or_else(|| ProblemResponse::from(Unanswered::Silent))?;
            let owners: BTreeSet<_> = found.values().map(|home| &home.owner).collect();
            let others = owners.iter().find(|owner| **owner != fleet.me());
            let answered = match others.filter(|_| owners.len() == 1) {
                Some(owner) => {
                    tokio::select! {
                        answered = fleet.ask(owner, &asked, &self.body, patience) => answered,
                        () = fleet.moved(&found) => Err(Unanswered::Moved),
                    }
                }
                None => {
                    let body = Content::from(self.body.clone());
                    let again = Request::from_parts(self.parts.clone(), body);
                    let response = next.clone().run(again).await;
                    match response.status().is_success() {
                        // What is refused may be so because a shard has just gone.
                        false if fleet.have_moved(&found) => Err(Unanswered::Moved),
                        // What was bound before is told anywhere.
                        false if owners.len() > 1 => return Err(scattered()),
                        _ => return Ok(response),
                    }
                }
            };
            match answered {
                Ok((status, body)) => return respond(status, body),
                // Each of these requests may be made again: what it did is answered once more.
                Err(Unanswered::Moved) if Instant::now() < until => sleep(AGAIN).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn asked(&self, app: &App, shards: &BTreeSet<ShardId>) -> Asked {
        let parts = &self.parts;
        Asked {
            method: parts.method.to_string(),
            path: parts.uri.path_and_query().map_or("", |p| p.as_str()).into(),
            wallet: Some(self.wallet),
            seen: parts.extensions.get().map(|Peer(peer)| {
                SocketAddr::new(app.limits.seen(peer.ip(), &parts.headers), peer.port())
            }),
            shard: shards.first().copied(),
            key: None,
        }
    }
}

fn scattered() -> ProblemResponse {
    let detail = "the deals have come to several brokers before they were signed, and no one of them can bind all: those that are leased together or not at all are over, and nothing is reserved for them; sign others one by one";
    ProblemResponse::new(StatusCode::CONFLICT, ProblemKind::Conflict, detail)
}

/// Another broker's answer as this one's.
fn respond(status: u16, body: Bytes) -> Result<Response, ProblemResponse> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    if !status.is_success() {
        return Err(problem(status, &body));
    }
    if body.is_empty() {
        return Ok(status.into_response());
    }
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn problem(status: StatusCode, body: &[u8]) -> ProblemResponse {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => ProblemResponse::new(status, problem.kind, problem.detail),
        Err(_) => Unanswered::Silent.into(),
    }
}

impl From<Unanswered> for ProblemResponse {
    fn from(error: Unanswered) -> Self {
        match error {
            Unanswered::TooLong => Self::invalid(error.to_string()),
            _ => Self::unavailable(format!("{error}; try again in a moment")),
        }
    }
}

/// Asks one broker, perhaps this one itself, for something that is read from its answer.
pub(super) async fn ask<T: DeserializeOwned>(
    fleet: &Fleet,
    owner: &Instance,
    asked: &Asked,
    body: &[u8],
    patience: Duration,
) -> Result<T, ProblemResponse> {
    let (status, body) = tokio::select! {
        answered = fleet.ask(owner, asked, body, patience) => answered?,
        () = fleet.left(owner) => return Err(Unanswered::Moved.into()),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    if !status.is_success() {
        return Err(problem(status, &body));
    }
    serde_json::from_slice(&body).map_err(|_| Unanswered::Silent.into())
}

/// A page of what all owners have of it, best first.
pub(super) async fn search(fleet: &Fleet, query: &OfferQuery) -> Result<Page, ProblemResponse> {
    let limit = query.limit.min(PAGE);
    let own = OfferQuery {
        // One more than asked for tells whether there is another page.
        limit: limit + 1,
        ..query.clone()
    };
    let asked = Asked {
        method: "GET".into(),
        path: offers::path(&own),
        ..Asked::default()
    };
    let owners = fleet.owners(&ShardId::of_filter(&query.filter));
    if owners.is_empty() {
        return Err(Unanswered::Silent.into());
    }
    let pages = owners
        .iter()
        .map(|owner| ask::<Vec<(OfferView, Position)>>(fleet, owner, &asked, &[], LOOK));
    let mut found = Vec::new();
    for page in join_all(pages).await {
        // Without it, a part of the market would pass for all of it.
        found.extend(page?);
    }
    found.sort_unstable_by_key(|(_, position)| *position);
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(_, position)| *position);
    Ok((found, next))
}
