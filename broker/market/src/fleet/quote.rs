//! Comparing the best offers of several shards.

use ipsx_metering::OfferId;
use serde::{Deserialize, Serialize};

use crate::book::Listing;
use crate::matching::Wanted;

/// An owner's best offer for a request. The smallest is the best: the cheapest for the lease that is asked for, then as
/// in one book. Ages in different books can't be compared, so the id decides in the end, and the same request gets the
/// same answer wherever it arrives. Of requests for several addresses, whoever has more of them comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Quote {
    /// Leases for which there is no offer.
    #[serde(default)]
    missing: u8,
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
        let (prices, measured) = (&listing.offer.prices, &listing.placement.measured);
        Self {
            missing: 0,
            cost: wanted.cost(prices),
            per_second: prices.per_second.0.0,
            per_gib: prices.per_gib.0.0,
            repute: u16::MAX - measured.reputation.unwrap_or(0),
            latency_ms: measured.latency_ms.unwrap_or(u16::MAX),
            offer: listing.id,
        }
    }

    /// The quote of one offer for each of so many leases, as far as there are any: what they cost together, and between
    /// equals their first one.
    pub fn of_several(quotes: &[Self], wanted: usize) -> Option<Self> {
        let first = *quotes.first()?;
        let missing = wanted.saturating_sub(quotes.len());
        Some(Self {
            missing: u8::try_from(missing).unwrap_or(u8::MAX),
            cost: quotes
                .iter()
                .fold(0, |sum, quote| quote.cost.saturating_add(sum)),
            ..first
        })
    }

    /// What the leases that there are offers for cost together.
    #[cfg(test)]
    pub(crate) fn cost(&self) -> u128 {
        self.cost
    }

    /// How many leases there is no offer for.
    pub fn missing(&self) -> usize {
        usize::from(self.missing)
    }
}
