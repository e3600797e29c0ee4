//! What a lease can cost at most, and how much of it is paid ahead.

use ipsx_agent_core::provider::ROUND_TRIP;
use ipsx_agent_core::requester::{Wishes, terms};
use ipsx_market::deal::Deal;
use ipsx_market::http::OfferView;
use ipsx_market::search::OfferQuery;
use ipsx_metering::{Amount, Slices};

use crate::broker::Broker;

/// The budget to ask with: no more than the dearest matching offer can cost where all of them charge for time alone.
///
/// Slices are paid ahead, and grow with the budget: what is never needed should not be promised early.
pub(super) async fn needed(broker: &Broker, wishes: &Wishes) -> Amount {
    let query = OfferQuery {
        filter: wishes.filter.clone(),
        max_prices: wishes.max_prices,
        seconds: Some(wishes.seconds),
        ..OfferQuery::default()
    };
    // The request itself says what is wrong with the broker.
    let offers = broker.offers(&query).await.unwrap_or_default();
    most(&offers, wishes.seconds).map_or(wishes.budget, |most| most.min(wishes.budget))
}

/// What is promised before anything is used.
pub(super) fn ahead(deal: &Deal) -> Amount {
    Slices::new(&terms(deal), ROUND_TRIP).first()
}

fn most(offers: &[OfferView], seconds: u32) -> Option<Amount> {
    if offers
        .iter()
        .any(|offer| offer.prices.per_gib.0 > Amount::ZERO)
    {
        return None;
    }
    let dearest = offers.iter().map(|offer| offer.prices.per_second.0).max()?;
    let most = dearest.0.checked_mul(u128::from(seconds))?;
    // A budget of nothing cannot be asked for.
    (most > 0).then_some(Amount(most))
}
