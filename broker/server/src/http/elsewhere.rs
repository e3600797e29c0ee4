//! What concerns a shard that another broker has is asked of that broker, and a search of all that have a part of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body as Content, Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use ipsx_market::book::Position;
use ipsx_market::fleet::{Instance, Quote, ShardId};
use ipsx_market::http::{OfferView, PostRequest, Problem, ProblemKind, ProposedDeal};
use ipsx_market::market::Answered;
use ipsx_market::request::{Request as Wish, SignedRequest};
use ipsx_market::search::OfferQuery;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::App;
use super::app::{MAX_BODY, finish};
use super::extract::{Body, DealPath, MAX_WAIT, SignedIn};
use super::offers;
use super::problem::{Answer, ProblemResponse};
use super::server::Peer;
use crate::clock;
use crate::desk::{Desk, DeskError, Page};
use crate::fleet::{Asked, Fleet, Unanswered};

/// Only for other brokers.
pub(super) const QUOTE: &str = "/fleet/quote";
/// Only for other brokers.
pub(super) const PLACE: &str = "/fleet/place";
/// How long an answer may take that nobody waits for something to happen for: a binding reads the chain.
const PROMPT: Duration = Duration::from_secs(20);
/// How long a search or a quote may take.
const LOOK: Duration = Duration::from_secs(3);
/// Offers in an answer at most: what one broker has of it has to fit a message.
const PAGE: usize = 500;
/// How long it is tried again when the owner changes: longer than a takeover takes.
const TAKEOVER: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_millis(100);
/// Owners that are asked to place a request, one after the other.
const ATTEMPTS: usize = 3;

/// Has a deal's own broker answer, if that is another one.
pub(super) async fn pass_on(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ProblemResponse> {
    let Some(fleet) = &app.desk.fleet else {
        return Ok(next.run(request).await);
    };
    let (mut parts, body) = request.into_parts();
    let SignedIn(wallet) = SignedIn::from_request_parts(&mut parts, &app).await?;
    let DealPath(id) = DealPath::from_request_parts(&mut parts, &app).await?;
    let Some(record) = app.desk.store.deal(id).await.map_err(DeskError::from)? else {
        return Ok(next.run(Request::from_parts(parts, body)).await);
    };
    let shard = ShardId::of(&record);
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return Err(ProblemResponse::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            ProblemKind::InvalidRequest,
            format!("the body can't be read, or has more than {MAX_BODY} bytes"),
        ));
    };
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().map_or("", |p| p.as_str()).into(),
        wallet: Some(wallet),
        seen: parts.extensions.get().map(|Peer(peer)| {
            SocketAddr::new(app.limits.seen(peer.ip(), &parts.headers), peer.port())
        }),
        shard: Some(shard),
    };
    let patience = match parts.method {
        Method::GET => MAX_WAIT + LOOK,
        _ => PROMPT,
    };
    let until = Instant::now() + TAKEOVER;
    loop {
        let home = fleet.home(shard).await;
        let home = home.ok_or_else(|| ProblemResponse::from(Unanswered::Silent))?;
        let answered = if home.owner == *fleet.me() {
            let again = Request::from_parts(parts.clone(), Content::from(body.clone()));
            let response = next.clone().run(again).await;
            // What is refused may be so because the shard has just gone.
            if response.status().is_success() || !fleet.has_moved(shard, &home) {
                return Ok(response);
            }
            Err(Unanswered::Moved)
        } else {
            tokio::select! {
                answered = fleet.ask(&home.owner, &asked, &body, patience) => answered,
                () = fleet.moved(shard, &home) => Err(Unanswered::Moved),
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
async fn ask<T: DeserializeOwned>(
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

/// Finds a deal for a request that was admitted: of the owners that its filter concerns, the one with the best offer
/// proposes it to a provider. Without one it rests, if it may.
pub(super) async fn place(
    desk: &Arc<Desk>,
    fleet: &Fleet,
    request: &SignedRequest,
) -> Result<Answered, ProblemResponse> {
    let wish = &request.message;
    let shards = ShardId::of_filter(&wish.filter);
    let until = Instant::now() + TAKEOVER;
    loop {
        let problem = match try_place(desk, fleet, request, &shards).await {
            Ok(deal) => return Ok(Answered::Deal(Box::new(deal))),
            Err(problem) => problem,
        };
        // An owner may have done it, and only its answer be lost.
        if problem.passes()
            && let Some(answer) = desk.answered(wish).await?
        {
            return Ok(answer);
        }
        if problem.leaves_others() && wish.may_rest(clock::now()) {
            return Ok(desk.rest(request.clone()).await?);
        }
        if !problem.passes() || Instant::now() > until {
            return Err(problem);
        }
        sleep(AGAIN).await;
    }
}

async fn try_place(
    desk: &Arc<Desk>,
    fleet: &Fleet,
    request: &SignedRequest,
    shards: &BTreeSet<ShardId>,
) -> Result<ProposedDeal, ProblemResponse> {
    // A cheaper offer may be in what is being taken over.
    fleet.settled(shards).await;
    let owners: Vec<_> = fleet.owners(shards).into_iter().collect();
    let asked = |path: &str| Asked {
        method: "POST".into(),
        path: path.into(),
        wallet: Some(request.message.requester),
        seen: None,
        shard: None,
    };
    let (quote, place) = (asked(QUOTE), asked(PLACE));
    let wish = serde_json::to_vec(&request.message).unwrap_or_default();
    let quotes = owners.iter().map(async |owner| {
        if owner == fleet.me() {
            return Ok(desk.quote(&request.message).await?);
        }
        ask::<Quote>(fleet, owner, &quote, &wish, LOOK).await
    });
    let (mut ranked, mut failed) = (Vec::new(), None);
    for (owner, quote) in owners.iter().zip(join_all(quotes).await) {
        match quote {
            Ok(quote) => ranked.push((quote, owner)),
            Err(problem) => {
                let both = failed.into_iter().chain([problem]);
                failed = both.max_by_key(ProblemResponse::nearness);
            }
        }
    }
    ranked.sort_unstable();
    let body = PostRequest {
        request: request.clone(),
    };
    let body = serde_json::to_vec(&body).unwrap_or_default();
    for (_, owner) in ranked.into_iter().take(ATTEMPTS) {
        let placed = if owner == fleet.me() {
            propose_here(desk, request.clone()).await
        } else {
            ask(fleet, owner, &place, &body, desk.patience()).await
        };
        match placed {
            Ok(deal) => return Ok(deal),
            // Another owner's offers are left.
            Err(problem) if problem.leaves_others() => failed = Some(problem),
            Err(problem) => return Err(problem),
        }
    }
    Err(failed.unwrap_or_else(|| Unanswered::Silent.into()))
}

/// This broker's best offer for a request.
pub(super) async fn quote(State(app): State<Arc<App>>, Body(wish): Body<Wish>) -> Answer<Quote> {
    Ok(Json(app.desk.quote(&wish).await?))
}

/// Proposes a request that another broker has admitted.
pub(super) async fn propose(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    Body(body): Body<PostRequest>,
) -> Answer<ProposedDeal> {
    if body.request.message.requester != wallet {
        return Err(ProblemResponse::invalid("the request is another wallet's"));
    }
    propose_here(&app.desk, body.request).await.map(Json)
}

async fn propose_here(
    desk: &Arc<Desk>,
    request: SignedRequest,
) -> Result<ProposedDeal, ProblemResponse> {
    let desk = Arc::clone(desk);
    let placed = finish(async move { desk.place(request, None).await }).await?;
    match placed.0 {
        Answered::Deal(deal) => Ok(*deal),
        // The market of one of several lets none rest.
        Answered::Rests(_) | Answered::Bundle(_) => Err(Unanswered::Silent.into()),
    }
}
