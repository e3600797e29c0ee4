//! Comparing the best offers of several shards.

use ipsx_metering::{OfferId, Prices};
use serde::{Deserialize, Serialize};

use crate::book::Listing;
use crate::http::OfferView;
use crate::matching::Wanted;
use crate::place::Placement;

/// An owner's best offer for a request. The smallest is the best: the cheapest for the lease that is asked for, then as
/// in one book. Ages in different books can't be compared, so the id decides in the end, and the same request gets the
/// same answer wherever it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Quote {
    cost: u128,
    per_second: u128,
    per_gib: u128,
    /// What is missing from the highest reputation.
    repute: u16,
    latency_ms: u16,
    offer: OfferId,
}

impl Quote {
    /// The quote of an offer for what is wanted.
    pub fn new(listing: &Listing, wanted: &Wanted<'_>) -> Self {
        let (offer, placement) = (&listing.offer, &listing.placement);
        Self::of((listing.id, &offer.prices, placement), wanted)
    }

    /// The same for an offer in the answer to a search.
    pub fn of_view(view: &OfferView, wanted: &Wanted<'_>) -> Self {
        Self::of((view.offer, &view.prices, &view.placement), wanted)
    }

    fn of((offer, prices, placement): (OfferId, &Prices, &Placement), wanted: &Wanted<'_>) -> Self {
        let measured = &placement.measured;
        Self {
            cost: wanted.cost(prices),
            per_second: prices.per_second.0.0,
            per_gib: prices.per_gib.0.0,
            repute: u16::MAX - measured.reputation.unwrap_or(0),
            latency_ms: measured.latency_ms.unwrap_or(u16::MAX),
            offer,
        }
    }
}
