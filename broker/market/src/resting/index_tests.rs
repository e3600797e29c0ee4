#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::book::tests::histories::{bytes, filter, offer, prices};
use crate::book::{BookLimits, OfferBook};
use crate::market::world::resting;
use crate::matching::Wanted;
use crate::request::Filter;

const NOW: UnixSeconds = crate::book::tests::NOW;

fn record(number: u64, request: SignedRequest) -> RequestRecord {
    at_rest(number, request, B256::ZERO, NOW)
}

fn asking(number: u64, filter: &Filter, prices: Prices, seconds: u32, bytes: u64) -> RequestRecord {
    let request = resting(9, number, |request| {
        request.filter = filter.clone();
        request.max_prices = prices;
        request.seconds = seconds;
        request.expected_bytes = bytes;
    });
    record(number, request)
}

/// The candidates of an offer in a book of its own.
fn waiting(offers: &mut OfferBook, requests: &RequestBook) -> Vec<u64> {
    let changed = offers.take_changed();
    offers.waiting_for(&changed, requests).into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Nobody whom an offer fits is left out, the oldest comes first, and nothing stays behind.
    #[test]
    fn whom_an_offer_fits_is_among_its_candidates(
        (offer, placement) in offer(),
        wishes in prop::collection::vec((filter(), prices(), 5u32..40, bytes()), 1..40),
    ) {
        let mut offers = OfferBook::new(BookLimits::default());
        offers.watch(true);
        offers.place(offer, placement).unwrap();
        let mut requests = RequestBook::new(RestingLimits { requests: 100, requests_per_payer: 100 });
        let mut fitting = Vec::new();
        for (number, (filter, prices, seconds, bytes)) in wishes.iter().enumerate() {
            let record = asking(number as u64, filter, *prices, *seconds, *bytes);
            let wanted = Wanted::from(&record.request.message);
            if offers.best(&wanted, NOW, &[]).is_ok() {
                fitting.push(record.number);
            }
            requests.insert(record, Vec::new());
        }
        let found = waiting(&mut offers, &requests);
        prop_assert!(found.is_sorted());
        prop_assert!(fitting.iter().all(|number| found.contains(number)), "{fitting:?} {found:?}");
        for number in 0..wishes.len() as u64 {
            requests.remove(number).unwrap();
        }
        prop_assert!(requests.is_empty() && requests.by_payer.is_empty() && requests.by_end.is_empty());
        prop_assert!(requests.index.is_empty());
    }
}

#[test]
fn an_offer_meets_only_requests_for_its_place_and_price() {
    let mut requests = RequestBook::new(RestingLimits {
        requests: 10_000,
        requests_per_payer: 10_000,
    });
    let texts = ["DE", "JP", "FR"];
    let price = |most: u128| Prices {
        per_second: ipsx_metering::PricePerSecond(ipsx_metering::Amount(most)),
        per_gib: ipsx_metering::PricePerGib(ipsx_metering::Amount(10)),
    };
    let mut number = 0;
    for text in texts {
        let filter = Filter {
            countries: vec![text.parse().unwrap()],
            ..Filter::default()
        };
        for most in [1, 2, 64, 1_000] {
            for _ in 0..20 {
                number += 1;
                requests.insert(asking(number, &filter, price(most), 60, 0), Vec::new());
            }
        }
    }
    let mut offers = OfferBook::new(BookLimits::default());
    offers.watch(true);
    let placement = crate::offer::Placement {
        country: Some("FR".parse().unwrap()),
        ..crate::market::world::placement(1)
    };
    offers
        .place(crate::market::world::offer(1, 100, 1), placement)
        .unwrap();
    // Those for France that pay from 64 on: the class of 100 begins there.
    let expected: Vec<u64> = (201..=240).collect();
    assert_eq!(waiting(&mut offers, &requests), expected);
}
