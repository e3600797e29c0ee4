//! What is for sale, and asking for it.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ipsx_market::http::{
    NetworkInfo, OfferView, PostRequest, PostWithdrawal, ProposedDeal, SignedWithdrawal,
};
use ipsx_market::search::OfferQuery;
use ipsx_metering::{Signed, Withdrawal};

use super::App;
use super::app::finish;
use super::extract::{Body, SignedIn, link_next};
use super::idempotency::Keyed;
use super::probes::ForProbe;
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
    let (found, next) = app.desk.search(&query).await?;
    let mut response = Json(found).into_response();
    if next.is_some() {
        query.after = next;
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query.pairs())
            .finish();
        link_next(response.headers_mut(), &format!("/v1/offers?{query}"));
    }
    Ok(response)
}

/// `POST /v1/requests`
#[utoipa::path(
    post,
    path = "/v1/requests",
    operation_id = "postRequest",
    summary = "Asks for an address.",
    request_body = PostRequest,
    responses((status = 200, description = "A deal that a provider has signed.", body = ProposedDeal)),
    security(("session" = [])),
)]
pub(super) async fn request(
    State(app): State<Arc<App>>,
    SignedIn(wallet): SignedIn,
    keyed: Option<Extension<Keyed>>,
    ForProbe(probe): ForProbe,
    Body(body): Body<PostRequest>,
) -> Answer<ProposedDeal> {
    let desk = Arc::clone(&app.desk);
    let again = keyed.is_some_and(|Extension(keyed)| keyed.again);
    finish(async move { desk.request(wallet, body.request, again, probe).await }).await
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
