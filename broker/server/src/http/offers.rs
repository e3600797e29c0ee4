//! What is for sale, and what a payer takes back.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ipsx_market::book::Position;
use ipsx_market::http::{NetworkInfo, OfferView, PostWithdrawal, SignedWithdrawal};
use ipsx_market::search::OfferQuery;
use ipsx_metering::{Signed, Withdrawal};

use super::App;
use super::app::finish;
use super::elsewhere;
use super::extract::{Body, SignedIn, link_next};
use super::idempotency::Keyed;
use super::problem::{Answer, ProblemResponse};

/// `GET /v1/network`
#[utoipa::path(
    get,
    path = "/v1/network",
    operation_id = "getNetwork",
    summary = "What a client must know before it signs anything.",
    responses((status = 200, description = "The network.", body = NetworkInfo)),
)]
pub(super) async fn network(State(app): State<Arc<App>>) -> Json<NetworkInfo> {
    Json(app.info.clone())
}

/// `GET /v1/offers`
#[utoipa::path(
    get,
    path = "/v1/offers",
    operation_id = "searchOffers",
    summary = "What is offered, best first.",
    responses((status = 200, description = "A page of offers; Link names the next one.", body = Vec<OfferView>)),
)]
pub(super) async fn offers(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ProblemResponse> {
    let text = query.unwrap_or_default();
    let mut query = OfferQuery::parse(url::form_urlencoded::parse(text.as_bytes()))
        .map_err(|error| ProblemResponse::invalid(error.to_string()))?;
    let (found, next) = match &app.desk.fleet {
        None => app.desk.search(&query).await?,
        Some(fleet) => elsewhere::search(fleet, &query).await?,
    };
    let found: Vec<_> = found.into_iter().map(|(view, _)| view).collect();
    let mut response = Json(found).into_response();
    if next.is_some() {
        query.after = next;
        link_next(response.headers_mut(), &path(&query));
    }
    Ok(response)
}

/// The path by which offers are asked for.
pub(super) fn path(query: &OfferQuery) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query.pairs())
        .finish();
    format!("/v1/offers?{query}")
}

/// The offers in this broker's own part of the book, each with its position, for the others.
pub(super) async fn own(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Answer<Vec<(OfferView, Position)>> {
    let text = query.unwrap_or_default();
    let query = OfferQuery::parse(url::form_urlencoded::parse(text.as_bytes()))
        .map_err(|error| ProblemResponse::invalid(error.to_string()))?;
    Ok(Json(app.desk.search(&query).await?.0))
}

/// `POST /v1/withdrawals`
#[utoipa::path(
    post,
    path = "/v1/withdrawals",
    operation_id = "postWithdrawal",
    summary = "Asks for the operator's consent to an immediate withdrawal.",
    request_body = PostWithdrawal,
    responses((status = 200, description = "The consent, for the contract.", body = Signed<Withdrawal>)),
    security(("session" = [])),
)]
pub(super) async fn withdraw(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    keyed: Option<Extension<Keyed>>,
    Body(body): Body<PostWithdrawal>,
) -> Answer<SignedWithdrawal> {
    let desk = Arc::clone(&app.desk);
    let key = keyed.map(|Extension(keyed)| keyed.key);
    finish(async move { desk.withdraw(wallet, &body, key.as_deref()).await }).await
}
