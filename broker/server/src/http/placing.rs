//! Which of several brokers fills a request: the one whose part of the market has most for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::future::join_all;
use ipsx_market::fleet::{Instance, Quote, ShardId};
use ipsx_market::http::{PostRequest, ProposedDeal};
use ipsx_market::market::{Answered, RequestFailure};
use ipsx_market::request::{Request, SignedRequest};
use tokio::time::{Instant, sleep};

use super::App;
use super::app::finish;
use super::elsewhere::{AGAIN, LOOK, TAKEOVER, ask};
use super::extract::{Body, SignedIn};
use super::idempotency::Keyed;
use super::problem::{Answer, ProblemResponse};
use crate::clock;
use crate::desk::{Desk, DeskError};
use crate::fleet::{Asked, Fleet, Unanswered};

/// Only for other brokers.
pub(super) const QUOTE: &str = "/fleet/quote";
/// Only for other brokers.
pub(super) const PLACE: &str = "/fleet/place";
/// Owners that are asked to place a request, one after the other.
const ATTEMPTS: usize = 3;
/// Why there are no more distinct offers for a bundle.
const ONE_BROKERS: &str = "several brokers share this market, and a bundle is filled by one of them from its own part; addresses of all of them are leased one by one, with `avoid`";

/// Finds a deal for a request that was admitted, or one for each of its leases: of the owners that its filter concerns,
/// the one with the best offers proposes it to providers. Without any it rests, if it may. `key` is the idempotency key that it
/// came with: whoever is asked under it again learns from that owner that it is being worked on, also when this broker has died.
pub(super) async fn place(
    desk: &Arc<Desk>,
    fleet: &Fleet,
    request: &SignedRequest,
    key: Option<&str>,
) -> Result<Answered, ProblemResponse> {
    let wish = &request.message;
    let shards = ShardId::of_filter(&wish.filter);
    let until = Instant::now() + TAKEOVER;
    loop {
        let problem = match try_place(desk, fleet, request, (&shards, key)).await {
            Ok(placed) => return Ok(placed),
            Err(problem) => problem,
        };
        // An owner may have done it, and only its answer be lost; or for whoever posted it before.
        if (problem.passes() || wish.count() > 1)
            && let Some(answer) = desk.answered(wish).await?
        {
            return Ok(answer);
        }
        if problem.leaves_others() && wish.may_rest(clock::now()) {
            return Ok(desk.rest(request.clone()).await?);
        }
        if !problem.passes() || Instant::now() > until {
            if wish.count() > 1 {
                desk.none_filled(request, problem.detail()).await?;
            }
            return Err(problem);
        }
        sleep(AGAIN).await;
    }
}

async fn try_place(
    desk: &Arc<Desk>,
    fleet: &Fleet,
    request: &SignedRequest,
    (shards, key): (&BTreeSet<ShardId>, Option<&str>),
) -> Result<Answered, ProblemResponse> {
    // A cheaper offer may be in what is being taken over.
    fleet.settled(shards).await;
    let wish = &request.message;
    let (ranked, mut failed) = rank(desk, fleet, wish, shards).await;
    for owner in ranked.into_iter().take(ATTEMPTS) {
        let placed = if owner == *fleet.me() {
            place_here(desk, request.clone()).await
        } else {
            place_there(desk, fleet, &owner, request, key).await
        };
        match placed {
            // Another owner's offers are left.
            Err(problem) if problem.leaves_others() => failed = Some(problem),
            placed => return placed,
        }
    }
    Err(failed.unwrap_or_else(|| Unanswered::Silent.into()))
}

/// The owners that can fill a request, the best first, and what is said by the one that comes nearest of all others.
async fn rank(
    desk: &Desk,
    fleet: &Fleet,
    wish: &Request,
    shards: &BTreeSet<ShardId>,
) -> (Vec<Instance>, Option<ProblemResponse>) {
    let owners: Vec<_> = fleet.owners(shards).into_iter().collect();
    let asked = asked(QUOTE, wish);
    let body = serde_json::to_vec(wish).unwrap_or_default();
    let quotes = owners.iter().map(async |owner| {
        if owner == fleet.me() {
            return Ok(desk.quote(wish).await?);
        }
        ask::<Quote>(fleet, owner, &asked, &body, LOOK).await
    });
    let (mut ranked, mut failed) = (Vec::new(), None);
    for (owner, quote) in owners.iter().zip(join_all(quotes).await) {
        match quote {
            Ok(quote) => ranked.push((quote, owner.clone())),
            Err(problem) => {
                let both = failed.into_iter().chain([problem]);
                failed = both.max_by_key(ProblemResponse::nearness);
            }
        }
    }
    ranked.sort_unstable();
    if wish.together() > 0
        && let Some((most, _)) = ranked.first().filter(|(most, _)| most.missing() > 0)
    {
        let few = RequestFailure::Incomplete {
            found: wish.count() - most.missing(),
            wanted: wish.count(),
            reason: ONE_BROKERS.into(),
        };
        // One that is silent may have enough.
        failed = failed.filter(ProblemResponse::passes);
        failed = failed.or_else(|| Some(DeskError::from(few).into()));
        ranked.clear();
    }
    ranked.retain(|(quote, _)| wish.together() == 0 || quote.missing() == 0);
    (ranked.into_iter().map(|(_, owner)| owner).collect(), failed)
}

fn asked(path: &str, wish: &Request) -> Asked {
    Asked {
        method: "POST".into(),
        path: path.into(),
        wallet: Some(wish.requester),
        ..Asked::default()
    }
}

/// This broker's best offers for a request.
pub(super) async fn quote(State(app): State<Arc<App>>, Body(wish): Body<Request>) -> Answer<Quote> {
    Ok(Json(app.desk.quote(&wish).await?))
}

/// Proposes a request that another broker has admitted.
pub(super) async fn propose(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    keyed: Option<Extension<Keyed>>,
    Body(body): Body<PostRequest>,
) -> Result<Response, ProblemResponse> {
    if body.request.message.requester != wallet {
        return Err(ProblemResponse::invalid("the request is another wallet's"));
    }
    let entered = keyed.map(|Extension(keyed)| app.in_flight.enter(wallet, &keyed.key));
    // Until there is an answer, whoever else is asked under the key learns that there will be one.
    let _place = match entered {
        Some(None) => return Err(Unanswered::Silent.into()),
        entered => entered.flatten(),
    };
    match place_here(&app.desk, body.request).await? {
        Answered::Deal(deal) => Ok(Json(deal).into_response()),
        Answered::Bundle(deals) => Ok(Json(deals).into_response()),
        // The market of one of several lets none rest.
        Answered::Rests(_) => Err(Unanswered::Silent.into()),
    }
}

async fn place_here(desk: &Arc<Desk>, request: SignedRequest) -> Result<Answered, ProblemResponse> {
    let desk = Arc::clone(desk);
    let placed = finish(async move { desk.place(request, None).await });
    placed.await.map(|Json(answer)| answer)
}

async fn place_there(
    desk: &Desk,
    fleet: &Fleet,
    owner: &Instance,
    request: &SignedRequest,
    key: Option<&str>,
) -> Result<Answered, ProblemResponse> {
    let (wish, request) = (&request.message, request.clone());
    let body = serde_json::to_vec(&PostRequest { request }).unwrap_or_default();
    let asked = Asked {
        key: key.map(str::to_owned),
        ..asked(PLACE, wish)
    };
    let patience = desk.patience();
    if wish.count() > 1 {
        let deals = ask::<Vec<ProposedDeal>>(fleet, owner, &asked, &body, patience);
        return deals.await.map(Answered::Bundle);
    }
    let deal = ask(fleet, owner, &asked, &body, patience);
    deal.await.map(Answered::Deal)
}
