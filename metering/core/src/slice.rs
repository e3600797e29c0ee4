//! How much is paid ahead, how much is served on credit, and how much capacity a lease needs.
//!
//! All three are amounts: seconds at the deal's full price, so that traffic is covered as well as time.

use std::time::Duration;

use alloy_primitives::U256;

use crate::{Amount, Terms};

/// The longest slice, and so the most that either side ever risks, in seconds at full price.
pub const LONGEST_SLICE: Duration = Duration::from_secs(30);
/// The shortest first slice.
pub const SHORTEST_FIRST_SLICE: Duration = Duration::from_secs(2);
/// What payer and provider take for the round trip between them, unless they measure it: it fixes the first slice at its
/// shortest, which both sides' meters must agree on before the first voucher.
pub const ROUND_TRIP: Duration = Duration::from_millis(250);
/// Share of what a lease has paid that a slice may reach: 5 %.
const SLICE_BASIS_POINTS: u16 = 500;
/// Shortest and longest time that a reservation covers beyond the latest voucher, in seconds.
const CAPACITY_SECONDS: (u128, u128) = (60, 600);

/// Length of a lease's first slice: `max(2 s, 4 × round trip + 1 s)`, at most 30 s.
pub fn first_slice(round_trip: Duration) -> Duration {
    round_trip
        .saturating_mul(4)
        .saturating_add(Duration::from_secs(1))
        .clamp(SHORTEST_FIRST_SLICE, LONGEST_SLICE)
}

/// The slices of one lease: how far the payer pays ahead, and equally how much credit the provider gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    full_price: Amount,
    first: Amount,
    longest: Amount,
    first_time: Duration,
}

impl Slices {
    /// For a lease whose payer measured `round_trip`.
    pub fn new(terms: &Terms, round_trip: Duration) -> Self {
        let full_price = terms.full_price_per_second();
        let first_time = first_slice(round_trip);
        Self {
            full_price,
            first: for_time(full_price, first_time).min(terms.budget),
            longest: for_time(full_price, LONGEST_SLICE),
            first_time,
        }
    }

    /// Amount of the first voucher, before anything was paid.
    pub fn first(&self) -> Amount {
        self.first
    }

    /// Length of the first slice.
    pub fn first_time(&self) -> Duration {
        self.first_time
    }

    /// The slice after this lease has paid `paid`: `max(first slice, 5 % of paid)`, at most 30 s at full price.
    pub fn next(&self, paid: Amount) -> Amount {
        let share = paid.basis_points(SLICE_BASIS_POINTS);
        self.first.max(share.min(self.longest))
    }

    /// How long the slice after `paid` lasts at full price: from the first slice's length up to 30 s.
    pub fn next_time(&self, paid: Amount) -> Duration {
        let slice = self.next(paid);
        if slice == self.first {
            return self.first_time;
        }
        let millis = scale(slice.0, 1000, self.full_price.0.max(1));
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
            .clamp(self.first_time, LONGEST_SLICE)
    }

    /// `seconds` at full price.
    pub fn for_seconds(&self, seconds: u64) -> Amount {
        Amount(self.full_price.0.saturating_mul(u128::from(seconds)))
    }
}

/// Capacity that a lease's reservation should have: `latest_voucher + min(rest of the budget, clamp(a third of the
/// time paid, 60 s, 10 min) at full price)`.
///
/// `latest_voucher` is the channel's cumulative amount, `paid` the part of it that this lease paid.
pub fn capacity(
    full_price: Amount,
    budget: Amount,
    latest_voucher: Amount,
    paid: Amount,
) -> Amount {
    latest_voucher.saturating_add(capacity_ahead(full_price, budget, paid))
}

/// The part of [`capacity`] that lies beyond the latest voucher.
pub(crate) fn capacity_ahead(full_price: Amount, budget: Amount, paid: Amount) -> Amount {
    let (shortest, longest) = CAPACITY_SECONDS;
    let seconds = (paid.0 / full_price.0.max(1) / 3).clamp(shortest, longest);
    Amount(full_price.0.saturating_mul(seconds)).min(budget.saturating_sub(paid))
}

/// `floor(a × b / divisor)`, or the largest number.
pub(crate) fn scale(a: u128, b: u128, divisor: u128) -> u128 {
    if let Some(product) = a.checked_mul(b) {
        return product / divisor;
    }
    let wide = U256::from(a) * U256::from(b) / U256::from(divisor);
    u128::try_from(wide).unwrap_or(u128::MAX)
}

/// `time` at `full_price` a second, rounded up.
fn for_time(full_price: Amount, time: Duration) -> Amount {
    let product = U256::from(full_price.0) * U256::from(time.as_millis());
    u128::try_from(product.div_ceil(U256::from(1000u16))).map_or(Amount::MAX, Amount)
}
