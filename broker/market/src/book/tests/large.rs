//! A book with many pages in each order, and bitmaps beside them: it agrees with the obvious one as well.

use ipsx_metering::{Address, Amount, Prices};
use proptest::prelude::*;

use super::super::find::Effort;
use super::super::{BookLimits, HoldId, OfferBook};
use super::NOW;
use super::histories::{bytes, filter, offer, prices};
use super::model::Model;
use crate::matching::Wanted;
use crate::offer::{Offer, Placement};
use crate::request::Filter;
use crate::start::StartWindow;

const LIMITS: BookLimits = BookLimits {
    offers: 10_000,
    offers_per_provider: 10,
};

type Question = (Filter, Prices, u32, u64);

/// Both books, always given the same.
struct Both {
    book: OfferBook,
    model: Model,
    holds: u64,
}

impl Both {
    fn place(&mut self, offer: Offer, placement: Placement) {
        let real = self.book.place(offer.clone(), placement.clone());
        assert_eq!(real, self.model.place(offer, placement));
    }

    /// Most that is asked for stays held, so that much is sold out after a while.
    fn ask(&mut self, question: &Question) {
        let (filter, max_prices, seconds, expected_bytes) = question;
        let max_prices = Prices {
            per_second: ipsx_metering::PricePerSecond(Amount(max_prices.per_second.0.0 * 40)),
            ..*max_prices
        };
        let mut wanted = Wanted {
            filter,
            max_prices,
            seconds: Some(*seconds),
            start: StartWindow::NOW,
            expected_bytes: *expected_bytes,
        };
        self.holds += 1;
        let hold = HoldId(self.holds);
        let real = self.book.take(hold, &wanted, NOW, &[]).map(|l| l.id);
        assert_eq!(real, self.model.take(hold, &wanted, NOW, &[]), "{wanted:?}");
        if self.holds.is_multiple_of(4) {
            assert_eq!(self.book.release(hold), self.model.release(hold));
        }
        wanted.seconds = None;
        let real = self.book.search(&wanted, NOW, 20);
        let found = self.model.passing(&wanted, NOW).into_iter();
        let found = found.filter(|(offer, _)| wanted.affords(&offer.prices));
        let expected: Vec<_> = found.map(|(offer, _)| offer.id()).take(20).collect();
        let real: Vec<_> = real.into_iter().map(|(listing, _)| listing.id).collect();
        assert_eq!(real, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_large_book_agrees_with_the_obvious_one(
        offers in prop::collection::vec((offer(), 0u128..40), 600),
        others in prop::collection::vec((any::<prop::sample::Index>(), offer(), 0u8..4), 300),
        questions in prop::collection::vec((filter(), prices(), 5u32..40, bytes()), 60),
        few in prop::sample::select(vec![0u64, 20, 2_048]),
        steps in prop::sample::select(vec![0usize, 100, 4_096]),
        sorted in prop::sample::select(vec![0u64, 20_000]),
    ) {
        let mut book = OfferBook::new(LIMITS);
        book.effort = Effort { few, walked: steps, steps, sorted };
        let model = Model { limits: LIMITS, ..Model::default() };
        let mut both = Both { book, model, holds: 0 };
        for (number, ((mut offer, placement), more)) in (0u64..).zip(offers) {
            offer.provider = Address::left_padding_from(&(number + 1).to_be_bytes());
            offer.prices.per_second.0.0 = offer.prices.per_second.0.0 * 40 + more;
            both.place(offer, placement);
        }
        let (first, second) = questions.split_at(30);
        for question in first {
            both.ask(question);
        }
        for (which, (other, elsewhere), what) in others {
            let (mut offer, mut placement) = which.get(&both.model.offers).clone();
            match what {
                0 => {
                    placement.measured = elsewhere.measured;
                    both.place(offer, placement);
                }
                1 => both.place(offer, elsewhere),
                2 => {
                    offer.nonce += 10;
                    offer.prices = other.prices;
                    both.place(offer, placement);
                }
                _ => {
                    let id = offer.id();
                    prop_assert!(both.book.withdraw(offer.provider, id));
                    both.model.keep(|other| *other != offer);
                }
            }
        }
        for question in second {
            both.ask(question);
        }
        let late = NOW.after(30);
        let expired = both.book.expire(late).len();
        prop_assert_eq!(expired, both.model.keep(|offer| offer.expires_at >= late));
        let next = both.model.offers.iter().map(|(offer, _)| offer.expires_at).min();
        prop_assert_eq!(both.book.next_expiry(), next);
    }
}
