//! The book against a slow, obvious one: a list of offers, looked through from the start each time.
#![allow(clippy::unwrap_used)]

use ipsx_metering::{
    Address, Amount, B256, NetworkId, PricePerGib, PricePerSecond, Prices, UnixSeconds,
};
use proptest::prelude::*;

use super::*;
use crate::matching::Facts;
use crate::offer::{Capacity, Country, Protocol, Protocols, Tier, WeeklyHours};
use crate::request::IpVersion;

const NOW: UnixSeconds = UnixSeconds(1_795_183_200);

/// The obvious book.
#[derive(Default)]
struct Model {
    limits: BookLimits,
    /// In order of age.
    offers: Vec<(Offer, Placement)>,
    holds: Vec<(HoldId, Slot, u32, u32)>,
}

impl Model {
    fn place(&mut self, offer: Offer, placement: Placement) -> Result<Option<OfferId>, PlaceError> {
        let same = |o: &Offer| Slot::of(o) == Slot::of(&offer);
        let old = self.offers.iter().position(|(o, _)| same(o));
        if let Some(old) = old {
            let (there, at) = &self.offers[old];
            if *there == offer && *at == placement {
                return Ok(None);
            }
            if *there != offer && there.nonce >= offer.nonce {
                return Err(PlaceError::Stale(there.nonce));
            }
            let (gone, _) = self.offers.remove(old);
            let replaced = (gone.id() != offer.id()).then(|| gone.id());
            self.offers.push((offer, placement));
            return Ok(replaced);
        }
        let own = self
            .offers
            .iter()
            .filter(|(o, _)| o.provider == offer.provider);
        if own.count() >= self.limits.offers_per_provider {
            return Err(PlaceError::TooManyOffers(self.limits.offers_per_provider));
        }
        if self.offers.len() >= self.limits.offers {
            return Err(PlaceError::BookFull(self.limits.offers));
        }
        self.offers.push((offer, placement));
        Ok(None)
    }

    fn keep(&mut self, stays: impl Fn(&Offer) -> bool) -> usize {
        let before = self.offers.len();
        self.offers.retain(|(o, _)| stays(o));
        before - self.offers.len()
    }

    fn held(&self, offer: &Offer) -> (u32, u32, u32) {
        let own = self
            .holds
            .iter()
            .filter(|(_, slot, ..)| *slot == Slot::of(offer));
        own.fold((0, 0, 0), |(n, up, down), (_, _, u, d)| {
            (n + 1, up + u, down + d)
        })
    }

    fn free(&self, offer: &Offer, filter: &Filter) -> bool {
        let (leases, up, down) = self.held(offer);
        leases < offer.capacity.leases
            && up + filter.mbit_up <= offer.capacity.mbit_up
            && down + filter.mbit_down <= offer.capacity.mbit_down
    }

    /// Offers that pass, cheapest first; the sort is stable, so equal ones stay in order of age.
    fn passing(&self, wanted: &Wanted<'_>, now: UnixSeconds) -> Vec<&(Offer, Placement)> {
        let mut passing: Vec<_> = self
            .offers
            .iter()
            .filter(|(o, p)| o.expires_at >= now && wanted.unmet(&Facts::of(o, p), now).is_none())
            .collect();
        passing.sort_by_key(|(o, _)| (o.prices.per_second, o.prices.per_gib));
        passing
    }

    fn take(
        &mut self,
        hold: HoldId,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
        excluded: &[OfferId],
    ) -> Result<OfferId, NoMatch> {
        let mut passing = self.passing(wanted, now);
        passing.retain(|(o, _)| !excluded.contains(&o.id()));
        let fits = |o: &Offer| wanted.affords(&o.prices);
        let best = passing
            .iter()
            .find(|(o, _)| fits(o) && self.free(o, wanted.filter));
        if let Some((offer, _)) = best {
            let (id, slot) = (offer.id(), Slot::of(offer));
            self.holds
                .push((hold, slot, wanted.filter.mbit_up, wanted.filter.mbit_down));
            return Ok(id);
        }
        let dearer = passing
            .iter()
            .find(|(o, _)| !fits(o) && self.free(o, wanted.filter));
        let dearer = dearer.map(|(o, _)| o.prices);
        if passing.is_empty() {
            let valid = self
                .offers
                .iter()
                .filter(|(o, _)| o.expires_at >= now && !excluded.contains(&o.id()));
            let nearest = valid
                .filter_map(|(o, p)| wanted.unmet(&Facts::of(o, p), now))
                .max();
            return Err(NoMatch::NoFilterMatch { nearest });
        }
        if let (Some(cheapest), false) = (dearer, passing.iter().any(|(o, _)| fits(o))) {
            return Err(NoMatch::PriceTooLow { cheapest });
        }
        Err(NoMatch::SoldOut { dearer })
    }

    fn release(&mut self, hold: HoldId) -> bool {
        let before = self.holds.len();
        self.holds.retain(|(id, ..)| *id != hold);
        before != self.holds.len()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Place(Offer, Placement),
    Withdraw(usize, u8),
    WithdrawAll(u8),
    Take(Filter, Prices, u32, bool),
    Release(usize),
    Wait(u64),
    Search(Filter, Prices),
}

fn provider(number: u8) -> Address {
    Address::repeat_byte(number + 1)
}

fn prices() -> impl Strategy<Value = Prices> {
    (0u128..4, 0u128..3).prop_map(|(second, gib)| Prices {
        per_second: PricePerSecond(Amount(second)),
        per_gib: PricePerGib(Amount(gib)),
    })
}

fn address() -> impl Strategy<Value = std::net::IpAddr> {
    prop_oneof![
        (0u8..4).prop_map(|n| std::net::IpAddr::from([192, 0, 2, n])),
        (0u16..2).prop_map(|n| std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])),
    ]
}

fn country() -> impl Strategy<Value = Country> {
    prop::sample::select(vec!["FR", "DE", "JP"]).prop_map(|c| c.parse().unwrap())
}

fn prefixes() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let some = vec!["192.0.2.0/31", "192.0.2.2/31", "2001:db8::/64"];
    prop::collection::vec(prop::sample::select(some), 0..2)
        .prop_map(|texts| texts.into_iter().map(|t| t.parse().unwrap()).collect())
}

fn protocols() -> impl Strategy<Value = Protocols> {
    prop::collection::vec(prop::sample::select(Protocol::ALL.to_vec()), 0..3)
        .prop_map(|some| some.into_iter().collect())
}

fn tier() -> impl Strategy<Value = Tier> {
    prop::sample::select(vec![Tier::Web, Tier::WebUdp, Tier::Open])
}

fn offer() -> impl Strategy<Value = (Offer, Placement)> {
    let place = (
        address(),
        prop::option::of(country()),
        prop::option::of(1u32..3),
    );
    let who = (0u8..3, 0u64..4, prefixes(), protocols(), tier());
    let what = (
        0u32..3,
        0u32..3,
        prices(),
        5u32..20,
        5u32..40,
        0u64..60,
        any::<bool>(),
    );
    (place, who, what).prop_map(|((address, country, asn), who, what)| {
        let (number, nonce, prefixes, protocols, tier) = who;
        let (leases, mbit, prices, min, max, expires, nights) = what;
        let hours = WeeklyHours::always().0;
        let offer = Offer {
            network: NetworkId(B256::ZERO),
            provider: provider(number),
            nonce,
            prefixes,
            protocols,
            policy_hash: B256::ZERO,
            tier,
            capacity: Capacity {
                leases,
                mbit_up: mbit,
                mbit_down: mbit + 1,
                bytes_per_month: u64::MAX,
            },
            prices,
            min_seconds: min,
            max_seconds: max,
            weekly_hours: WeeklyHours(if nights { hours >> 100 } else { hours }),
            expires_at: NOW.after(expires),
        };
        (
            offer,
            Placement {
                address,
                country,
                asn,
            },
        )
    })
}

fn filter() -> impl Strategy<Value = Filter> {
    let places = (
        prop::collection::vec(country(), 0..3),
        prop::collection::vec(1u32..3, 0..2),
        prefixes(),
        prop::sample::select(vec![
            IpVersion::Any,
            IpVersion::Any,
            IpVersion::V4,
            IpVersion::V6,
        ]),
    );
    // Mostly loose, or hardly anything would ever match.
    let loose = prop_oneof![3 => Just(Protocols::default()), 1 => protocols()];
    let tiers = prop_oneof![3 => Just(Tier::Web), 1 => tier()];
    (places, loose, tiers, 0u32..2, 0u32..3).prop_map(|(places, protocols, tier, up, down)| {
        let (countries, asns, prefixes, ip_version) = places;
        Filter {
            countries,
            asns,
            prefixes,
            ip_version,
            protocols,
            tier,
            mbit_up: up,
            mbit_down: down,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => offer().prop_map(|(o, p)| Step::Place(o, p)),
        1 => (any::<usize>(), 0u8..3).prop_map(|(n, p)| Step::Withdraw(n, p)),
        1 => (0u8..3).prop_map(Step::WithdrawAll),
        8 => (filter(), prices(), 5u32..40, any::<bool>()).prop_map(|(f, p, s, x)| Step::Take(f, p, s, x)),
        4 => any::<usize>().prop_map(Step::Release),
        2 => (0u64..30).prop_map(Step::Wait),
        2 => (filter(), prices()).prop_map(|(f, p)| Step::Search(f, p)),
    ]
}

fn run(steps: Vec<Step>, effort: Effort) {
    let limits = BookLimits {
        offers: 7,
        offers_per_provider: 4,
    };
    let mut book = OfferBook::new(limits);
    book.effort = effort;
    let mut model = Model {
        limits,
        ..Model::default()
    };
    let (mut now, mut next) = (NOW, 0);
    for step in steps {
        match step {
            Step::Place(offer, placement) => {
                let real = book.place(offer.clone(), placement.clone());
                assert_eq!(real, model.place(offer, placement));
            }
            Step::Withdraw(n, by) => {
                let Some((offer, _)) = model.offers.get(n % 8).cloned() else {
                    continue;
                };
                let own = offer.provider == provider(by);
                assert_eq!(book.withdraw(provider(by), offer.id()), own);
                model.keep(|o| !own || *o != offer);
            }
            Step::WithdrawAll(by) => {
                let gone = book.withdraw_all(provider(by)).len();
                assert_eq!(gone, model.keep(|o| o.provider != provider(by)));
            }
            Step::Take(filter, max_prices, seconds, exclude) => {
                next += 1;
                let first = model
                    .offers
                    .first()
                    .map(|(o, _)| o.id())
                    .filter(|_| exclude);
                let excluded: Vec<_> = first.into_iter().collect();
                let wanted = Wanted {
                    filter: &filter,
                    max_prices,
                    seconds: Some(seconds),
                };
                let real = book
                    .take(HoldId(next), &wanted, now, &excluded)
                    .map(|l| l.id);
                assert_eq!(real, model.take(HoldId(next), &wanted, now, &excluded));
            }
            Step::Release(n) => {
                let id = HoldId(n as u64 % (next + 2));
                assert_eq!(book.release(id), model.release(id));
                assert!(!book.release(id), "never twice");
            }
            Step::Wait(seconds) => {
                now = now.after(seconds);
                assert_eq!(book.expire(now).len(), model.keep(|o| o.expires_at >= now));
                assert!(book.next_expiry().is_none_or(|at| at >= now));
            }
            Step::Search(filter, max_prices) => {
                let wanted = Wanted {
                    filter: &filter,
                    max_prices,
                    seconds: None,
                };
                let real: Vec<_> = book
                    .search(&wanted, now, 5)
                    .into_iter()
                    .map(|(l, free)| (l.id, free))
                    .collect();
                let found = model
                    .passing(&wanted, now)
                    .into_iter()
                    .filter(|(o, _)| wanted.affords(&o.prices));
                let expected: Vec<_> = found
                    .map(|(o, _)| (o.id(), o.capacity.leases.saturating_sub(model.held(o).0)))
                    .take(5)
                    .collect();
                assert_eq!(real, expected);
            }
        }
        assert_eq!(book.len(), model.offers.len());
        assert_eq!(book.leases_held(), model.holds.len());
        for (offer, _) in &model.offers {
            let (leases, ..) = model.held(offer);
            let listed = book.get(offer.id()).unwrap();
            // Only an offer that replaced a larger one can have more leases than it sells.
            assert_eq!(listed.offer, *offer);
            assert_eq!(
                book.row_of_slot(&Slot::of(offer)),
                book.row_of_id(offer.id())
            );
            assert_eq!(
                book.held.get(&Slot::of(offer)).map_or(0, |h| h.leases),
                leases
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_book_agrees_with_the_obvious_one(
        steps in prop::collection::vec(step(), 1..60),
        few in 0u64..4,
        walked in 0usize..4,
        sorted in 0u64..4,
    ) {
        // So little effort that each way to the answer is gone.
        run(steps, Effort { few, steps: walked, sorted });
    }
}

fn plain(number: u8, second: u128, leases: u32) -> (Offer, Placement) {
    let offer = Offer {
        network: NetworkId(B256::ZERO),
        provider: provider(number),
        nonce: 1,
        prefixes: Vec::new(),
        protocols: Protocols::all(),
        policy_hash: B256::ZERO,
        tier: Tier::Open,
        capacity: Capacity {
            leases,
            mbit_up: 10,
            mbit_down: 10,
            bytes_per_month: u64::MAX,
        },
        prices: Prices {
            per_second: PricePerSecond(Amount(second)),
            ..Prices::default()
        },
        min_seconds: 5,
        max_seconds: 60,
        weekly_hours: WeeklyHours::always(),
        expires_at: NOW.after(3600),
    };
    let placement = Placement {
        address: std::net::IpAddr::from([192, 0, 2, number]),
        country: Some("FR".parse().unwrap()),
        asn: None,
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
