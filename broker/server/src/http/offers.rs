//! What is for sale, and asking for it.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::{Extension, Json};
use ipsx_market::http::{
    NetworkInfo, OfferView, PostRequest, PostWithdrawal, ProposedDeal, SignedWithdrawal,
};
use ipsx_market::search::OfferQuery;

use super::App;
use super::app::finish;
use super::extract::{Body, SignedIn};
use super::idempotency::Keyed;
use super::problem::{Answer, ProblemResponse};

/// `GET /v1/network`
pub(super) async fn network(State(app): State<Arc<App>>) -> Json<NetworkInfo> {
    Json(app.info.clone())
}

/// `GET /v1/offers`
pub(super) async fn offers(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Answer<Vec<OfferView>> {
    let text = query.unwrap_or_default();
    let query = OfferQuery::parse(url::form_urlencoded::parse(text.as_bytes()))
        .map_err(|error| ProblemResponse::invalid(error.to_string()))?;
    let found = app.desk.search(&query.wanted(), query.limit).await?;
    Ok(Json(found))
}

/// `POST /v1/requests`
pub(super) async fn request(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    keyed: Option<Extension<Keyed>>,
    Body(body): Body<PostRequest>,
) -> Answer<ProposedDeal> {
    let desk = Arc::clone(&app.desk);
    let again = keyed.is_some_and(|Extension(keyed)| keyed.again);
    finish(async move { desk.request(wallet, body.request, again).await }).await
}

/// `POST /v1/withdrawals`
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
