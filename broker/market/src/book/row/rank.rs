//! The order in which offers are taken.

use ipsx_metering::{Amount, PricePerGib, PricePerSecond, Prices};

use super::RowId;
use crate::offer::Offer;
use crate::place::{MAX_REPUTATION, Measured};

/// Place in the order of price: the lowest price per second first, then per GiB, then the best reputation, the shortest
/// round trip, the oldest. What is not known counts as the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::book) struct Rank {
    pub(in crate::book) per_second: u128,
    pub(in crate::book) per_gib: u128,
    pub(in crate::book) standing: u32,
    /// Its age.
    pub(in crate::book) sequence: u64,
    pub(in crate::book) row: RowId,
}

impl Rank {
    pub(super) fn of(offer: &Offer, measured: &Measured, sequence: u64, row: RowId) -> Self {
        Self {
            per_second: offer.prices.per_second.0.0,
            per_gib: offer.prices.per_gib.0.0,
            standing: standing(measured),
            sequence,
            row,
        }
    }

    /// Before every row of a price per second.
    pub(in crate::book) fn first_at(per_second: u128) -> Self {
        Self {
            per_second,
            per_gib: 0,
            standing: 0,
            sequence: 0,
            row: 0,
        }
    }

    /// What its offer asks.
    pub(in crate::book) fn prices(&self) -> Prices {
        Prices {
            per_second: PricePerSecond(Amount(self.per_second)),
            per_gib: PricePerGib(Amount(self.per_gib)),
        }
    }
}

/// Orders by the best reputation, then by the shortest round trip.
fn standing(measured: &Measured) -> u32 {
    let score = measured.reputation.unwrap_or(0).min(MAX_REPUTATION);
    let latency = measured.latency_ms.unwrap_or(u16::MAX);
    u32::from(MAX_REPUTATION - score) << 16 | u32::from(latency)
}
