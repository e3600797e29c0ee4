//! The book by itself, and against a slow, obvious one.
#![allow(clippy::unwrap_used)]

pub(crate) mod histories;
mod large;
mod model;

use ipsx_metering::{Address, Amount, PricePerGib, PricePerSecond, Prices};

use super::*;
use crate::market::world;
pub(crate) use crate::market::world::NOW;
use crate::place::Measured;
use crate::request::Filter;
use crate::start::StartWindow;

fn provider(number: u8) -> Address {
    Address::repeat_byte(number + 1)
}

fn plain(number: u8, second: u128, leases: u32) -> (Offer, Placement) {
    let offer = Offer {
        provider: provider(number),
        prices: Prices {
            per_second: PricePerSecond(Amount(second)),
            ..Prices::default()
        },
        max_seconds: 60,
        expires_at: NOW.after(3600),
        ..world::offer(1, second, leases)
    };
    let placement = Placement {
        country: Some("FR".parse().unwrap()),
        ..Placement::at([192, 0, 2, number].into())
    };
    (offer, placement)
}

fn take(book: &mut OfferBook, hold: u64, second: u128) -> Result<Address, NoMatch> {
    let filter = Filter::default();
    let max_prices = Prices {
        per_second: PricePerSecond(Amount(second)),
        ..Prices::default()
    };
    let wanted = Wanted {
        filter: &filter,
        max_prices,
        seconds: Some(30),
        start: StartWindow::NOW,
        expected_bytes: 0,
    };
    let taken = book.take(HoldId(hold), &wanted, NOW, &[]);
    taken.map(|listing| listing.offer.provider)
}

#[test]
fn the_cheapest_goes_first_then_the_oldest() {
    let mut book = OfferBook::default();
    for (number, second) in [(0, 5), (1, 3), (2, 3)] {
        let (offer, placement) = plain(number, second, 1);
        book.place(offer, placement).unwrap();
    }
    assert_eq!(take(&mut book, 1, 9), Ok(provider(1)));
    assert_eq!(take(&mut book, 2, 9), Ok(provider(2)));
    assert_eq!(
        take(&mut book, 3, 4),
        Err(NoMatch::SoldOut {
            dearer: Some(plain(0, 5, 1).0.prices),
        })
    );
    assert_eq!(take(&mut book, 4, 9), Ok(provider(0)));
    assert_eq!(
        take(&mut book, 5, 9),
        Err(NoMatch::SoldOut { dearer: None })
    );
    assert!(book.release(HoldId(2)));
    assert_eq!(take(&mut book, 6, 9), Ok(provider(2)));
}

#[test]
fn a_person_is_told_what_to_change() {
    let mut book = OfferBook::default();
    assert_eq!(
        take(&mut book, 1, 9).unwrap_err().to_string(),
        "nothing is offered right now; try again later, or on another network"
    );
    let (offer, placement) = plain(0, 7, 1);
    book.place(offer, placement).unwrap();
    let error = take(&mut book, 2, 6).unwrap_err().to_string();
    assert!(
        error.contains("the cheapest asks 7 a second and 0 a GiB"),
        "{error}"
    );
    let filter = Filter {
        countries: vec!["DE".parse().unwrap()],
        ..Filter::default()
    };
    let wanted = Wanted {
        filter: &filter,
        max_prices: Prices::default(),
        seconds: Some(30),
        start: StartWindow::NOW,
        expected_bytes: 0,
    };
    let error = book
        .take(HoldId(3), &wanted, NOW, &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("fails by the country"), "{error}");
}

#[test]
fn a_replaced_or_returning_offer_still_has_its_leases() {
    let mut book = OfferBook::default();
    let (mut offer, placement) = plain(0, 5, 1);
    book.place(offer.clone(), placement.clone()).unwrap();
    assert_eq!(take(&mut book, 1, 9), Ok(provider(0)));
    offer.nonce = 2;
    book.place(offer.clone(), placement.clone()).unwrap();
    assert_eq!(
        take(&mut book, 2, 9),
        Err(NoMatch::SoldOut { dearer: None })
    );
    book.withdraw_all(provider(0));
    book.place(offer, placement).unwrap();
    assert_eq!(
        take(&mut book, 3, 9),
        Err(NoMatch::SoldOut { dearer: None })
    );
    assert!(book.release(HoldId(1)));
    assert_eq!(take(&mut book, 4, 9), Ok(provider(0)));
}

#[test]
fn an_offer_too_many_is_refused() {
    let mut book = OfferBook::new(BookLimits {
        offers: 2,
        offers_per_provider: 1,
    });
    for number in 0..2 {
        let (offer, placement) = plain(number, 5, 1);
        book.place(offer, placement).unwrap();
    }
    let (mut offer, placement) = plain(0, 5, 1);
    offer.prefixes = vec!["192.0.2.0/24".parse().unwrap()];
    assert_eq!(
        book.place(offer, placement),
        Err(PlaceError::TooManyOffers(1))
    );
    let (offer, placement) = plain(2, 5, 1);
    assert_eq!(book.place(offer, placement), Err(PlaceError::BookFull(2)));
    let (offer, placement) = plain(0, 6, 1);
    assert_eq!(book.place(offer, placement), Err(PlaceError::Stale(1)));
}

#[test]
fn what_is_cheapest_depends_on_the_bytes_that_are_expected() {
    let mut book = OfferBook::default();
    for (number, second, gib) in [(0, 3, 100), (1, 4, 10), (2, 9, 0)] {
        let (mut offer, placement) = plain(number, second, 1);
        offer.prices.per_gib = PricePerGib(Amount(gib));
        book.place(offer, placement).unwrap();
    }
    let filter = Filter::default();
    let mut wanted = Wanted {
        filter: &filter,
        max_prices: Prices {
            per_second: PricePerSecond(Amount(10)),
            per_gib: PricePerGib(Amount(100)),
        },
        seconds: Some(30),
        start: StartWindow::NOW,
        expected_bytes: 0,
    };
    // 30 s: 90, 120 or 270, and per GiB 100, 10 or nothing.
    for (gib, best) in [(0, 0), (1, 1), (15, 1), (16, 2)] {
        wanted.expected_bytes = gib << 30;
        let found = book.best(&wanted, NOW, &[]).unwrap();
        assert_eq!(found.offer.provider, provider(best), "{gib} GiB");
    }
}

#[test]
fn of_equal_prices_the_better_known_goes_first_then_the_nearer() {
    let mut book = OfferBook::default();
    let standings = [
        (None, None),
        (Some(500), Some(80)),
        (Some(500), Some(20)),
        (Some(900), Some(300)),
    ];
    for (number, (reputation, latency_ms)) in (0u8..).zip(standings) {
        let (offer, mut placement) = plain(number, 5, 1);
        placement.measured = Measured {
            reputation,
            latency_ms,
            ..Measured::default()
        };
        book.place(offer, placement).unwrap();
    }
    let order: Vec<_> = (0..4)
        .map(|hold| take(&mut book, hold, 9).unwrap())
        .collect();
    assert_eq!(order, [3, 2, 1, 0].map(provider));
}

#[test]
fn pages_of_several_books_are_read_together_without_a_gap() {
    // The same prices in both, and as many: only ages tell them apart.
    let mut books = [OfferBook::default(), OfferBook::default()];
    for (number, book) in books.iter_mut().enumerate() {
        book.begin_at((number as u64) << 40);
        for offer in 0..5 {
            let (offer, placement) = plain(number as u8 * 5 + offer, 1, 1);
            book.place(offer, placement).unwrap();
        }
    }
    let filter = Filter::default();
    let wanted = Wanted {
        filter: &filter,
        max_prices: Prices {
            per_second: PricePerSecond(Amount(1)),
            ..Prices::default()
        },
        seconds: None,
        start: StartWindow::NOW,
        expected_bytes: 0,
    };
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let pages = books.iter().map(|book| book.page(&wanted, NOW, 3, after));
        let mut page: Vec<_> = pages.flatten().collect();
        page.sort_unstable_by_key(|found| found.position);
        page.truncate(3);
        let Some(last) = page.last() else {
            break;
        };
        after = Some(last.position);
        seen.extend(page.iter().map(|found| found.listing.id));
    }
    let all: std::collections::HashSet<_> = seen.iter().collect();
    assert_eq!((seen.len(), all.len()), (10, 10));
}
