//! What a lease can cost at most, and how much of it is paid ahead.

use ipsx_agent_core::requester::Wishes;
use ipsx_market::deal::Deal;
use ipsx_market::http::OfferView;
use ipsx_market::search::OfferQuery;
use ipsx_metering::{Amount, Usage};

use crate::broker::Broker;

/// Bytes that 1 Mbit/s carries in a second.
const BYTES_PER_MBIT: u64 = 125_000;

/// The budget to ask with: no more than the dearest matching offer can cost, or all of it if the request may rest, since
/// dearer offers may come.
///
/// Slices are paid ahead, and grow with the budget: what is never needed should not be promised early.
pub(super) async fn needed(broker: &Broker, wishes: &Wishes, may_rest: bool) -> Amount {
    if may_rest {
        return wishes.budget;
    }
    let query = OfferQuery {
        filter: wishes.filter.clone(),
        max_prices: wishes.max_prices,
        seconds: Some(wishes.seconds),
        expected_bytes: wishes.expected_bytes,
        ..OfferQuery::default()
    };
    // The request itself says what is wrong with the broker.
    let offers = broker.offers(&query).await.unwrap_or_default();
    most(&offers, wishes.seconds).map_or(wishes.budget, |most| most.min(wishes.budget))
}

/// What is promised before anything is used.
pub(super) fn ahead(deal: &Deal) -> Amount {
    deal.terms().first_slice()
}

/// The dearest that one of the offers can become: all of the time, and twice the traffic that its rates carry in it.
fn most(offers: &[OfferView], seconds: u32) -> Option<Amount> {
    let dearest = offers.iter().filter_map(|offer| {
        let rate = u64::from(offer.capacity.mbit_up) + u64::from(offer.capacity.mbit_down);
        let bytes = rate
            .checked_mul(2 * BYTES_PER_MBIT)?
            .checked_mul(u64::from(seconds))?;
        let usage = Usage {
            secs: u64::from(seconds),
            bytes_up: 0,
            bytes_down: bytes,
        };
        offer.prices.due(&usage).ok()
    });
    // A budget of nothing cannot be asked for.
    dearest.max().filter(|most| *most > Amount::ZERO)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ipsx_market::offer::{Capacity, Placement, Protocols, Tier};
    use ipsx_metering::{Address, B256, OfferId, PricePerGib, PricePerSecond, Prices};

    fn offer(per_second: u128, per_gib: u128) -> OfferView {
        OfferView {
            offer: OfferId(B256::ZERO),
            provider: Address::ZERO,
            placement: Placement::at([127, 0, 1, 1].into()),
            protocols: Protocols::all(),
            tier: Tier::Web,
            ports: Tier::Web.ports(),
            services: Vec::new(),
            prices: Prices {
                per_second: PricePerSecond(Amount(per_second)),
                per_gib: PricePerGib(Amount(per_gib)),
            },
            capacity: Capacity {
                leases: 1,
                mbit_up: 10,
                mbit_down: 90,
                bytes_per_month: u64::MAX,
            },
            free_leases: 1,
            min_seconds: 5,
            max_seconds: 3_600,
        }
    }

    #[test]
    fn a_lease_needs_no_more_than_its_time_and_twice_its_rates() {
        assert_eq!(most(&[], 60), None);
        assert_eq!(most(&[offer(0, 0)], 60), None);
        assert_eq!(most(&[offer(7, 0), offer(3, 0)], 60), Some(Amount(420)));
        // 100 Mbit/s for a minute are 750 MB.
        let traffic = Amount(2 * 750_000_000);
        assert_eq!(
            most(&[offer(7, 1 << 30)], 60),
            traffic.checked_add(Amount(420)).ok()
        );
        assert_eq!(most(&[offer(u128::MAX, 1)], 60), None);
    }
}
