//! Offers that come, change and go, by the processor's time: other programs on the machine do not count.

use std::time::Duration;

use ipsx_benches::{Samples, cpu_time};
use ipsx_market::book::{Listing, OfferBook};
use ipsx_market::offer::{Offer, Placement};
use ipsx_metering::{Address, Amount, OfferId, PricePerSecond};
use rand::Rng;
use rand::seq::SliceRandom;

use crate::Failed;
use ipsx_benches::spread::{SEED, Spread};

/// Updates of each kind in a round.
const UPDATES: usize = 100_000;

/// What becomes of an offer in a day: how often it is measured, gets another price, comes, goes and is elsewhere.
const A_DAY: [usize; 5] = [144, 24, 3, 3, 1];

/// What they are called together.
pub(crate) const AS_IN_A_DAY: &str = "of all kinds, as often as in a day";

/// Updates a second by kind, each for every round.
pub(crate) struct Rates(Vec<(&'static str, Vec<f64>)>);

impl Rates {
    fn add(&mut self, kind: &'static str, updates: usize, took: Duration) {
        let rate = updates as f64 / took.as_secs_f64();
        match self.0.iter_mut().find(|(name, _)| *name == kind) {
            Some((_, rates)) => rates.push(rate),
            None => self.0.push((kind, vec![rate])),
        }
    }

    /// Each kind with what was measured.
    pub(crate) fn samples(self) -> impl Iterator<Item = (&'static str, Samples)> {
        let all = self.0.into_iter();
        all.filter_map(|(kind, rates)| Some((kind, Samples::new(rates)?)))
    }
}

/// Updates a book that holds the first so many offers of the seed.
pub(crate) fn updates(
    book: &mut OfferBook,
    spread: &mut Spread,
    offers: usize,
    rounds: usize,
) -> Result<Rates, Failed> {
    let mut rates = Rates(Vec::new());
    let mut there = some_of(offers);
    for round in 0..rounds {
        there.shuffle(&mut spread.random);
        for (_, placement) in &mut there {
            placement.measured.latency_ms = Some(spread.random.gen_range(10..400));
        }
        let again = listings(&there);
        put(book, again, "measured anew", &mut rates)?;

        for (offer, _) in &mut there {
            offer.nonce += 1;
            let asked = offer.prices.per_second.0.0;
            offer.prices.per_second = PricePerSecond(Amount(asked / 100 * (95 + round as u128)));
        }
        put(book, listings(&there), "at another price", &mut rates)?;

        let new: Vec<_> = (0..UPDATES).map(|_| spread.offer()).collect();
        put(book, listings(&new), "new", &mut rates)?;
        let started = spent()?;
        let gone: Vec<_> = new.iter().map(|(o, _)| (o.provider, o.id())).collect();
        rates.add("(an offer's id by itself)", gone.len(), spent()? - started);
        let started = spent()?;
        for (provider, id) in &gone {
            assert!(book.withdraw(*provider, *id), "{id} is in the book");
        }
        rates.add("withdrawn", gone.len(), spent()? - started);
        let started = spent()?;
        for (offer, placement) in new {
            book.place(offer, placement)?;
        }
        rates.add("new, its id computed as well", UPDATES, spent()? - started);
        for (provider, id) in gone {
            book.withdraw(provider, id);
        }
    }
    for _ in 0..rounds {
        let day = a_day(&mut there, spread);
        let (count, started) = (day.len(), spent()?);
        for update in day {
            match update {
                Update::Put(listing) => {
                    book.put(*listing)?;
                }
                Update::Withdraw(provider, id) => {
                    book.withdraw(provider, id);
                }
            }
        }
        rates.add(AS_IN_A_DAY, count, spent()? - started);
    }
    for _ in 0..rounds {
        let other: Vec<_> = (0..UPDATES).map(|_| spread.replacement(offers)).collect();
        put(
            book,
            listings(&other),
            "by another one elsewhere",
            &mut rates,
        )?;
    }
    Ok(rates)
}

enum Update {
    Put(Box<Listing>),
    Withdraw(Address, OfferId),
}

/// Updates of all kinds in the proportions of a day, in no order.
fn a_day(there: &mut Vec<(Offer, Placement)>, spread: &mut Spread) -> Vec<Update> {
    let [measured, priced, come, gone, elsewhere] =
        A_DAY.map(|times| UPDATES * times / A_DAY.iter().sum::<usize>());
    there.shuffle(&mut spread.random);
    let gone = there.split_off(there.len() - gone);
    let gone = gone
        .iter()
        .map(|(o, _)| Update::Withdraw(o.provider, o.id()));
    let mut updates: Vec<_> = gone.collect();
    let (to_measure, rest) = there.split_at_mut(measured);
    for (_, placement) in &mut *to_measure {
        placement.measured.latency_ms = Some(spread.random.gen_range(10..400));
    }
    let (to_price, rest) = rest.split_at_mut(priced);
    for (offer, _) in &mut *to_price {
        offer.nonce += 1;
        let asked = offer.prices.per_second.0.0;
        let percent = spread.random.gen_range(95..106);
        offer.prices.per_second = PricePerSecond(Amount(asked / 100 * percent));
    }
    let to_move = &mut rest[..elsewhere];
    for (offer, placement) in &mut *to_move {
        offer.nonce += 1;
        *placement = spread.offer().1;
    }
    let new: Vec<_> = (0..come).map(|_| spread.offer()).collect();
    for changed in [&*to_measure, &*to_price, &*to_move, &new] {
        let changed = listings(changed).into_iter();
        updates.extend(changed.map(|listing| Update::Put(Box::new(listing))));
    }
    there.extend(new);
    updates.shuffle(&mut spread.random);
    updates
}

fn put(
    book: &mut OfferBook,
    listings: Vec<Listing>,
    kind: &'static str,
    rates: &mut Rates,
) -> Result<(), Failed> {
    let (count, started) = (listings.len(), spent()?);
    for listing in listings {
        book.put(listing)?;
    }
    rates.add(kind, count, spent()? - started);
    Ok(())
}

/// What this program has had of the processor.
fn spent() -> Result<Duration, Failed> {
    cpu_time().ok_or_else(|| "the system does not say how long this program ran".into())
}

fn listings(offers: &[(Offer, Placement)]) -> Vec<Listing> {
    let listing = |(offer, placement): &(Offer, Placement)| Listing {
        id: offer.id(),
        offer: offer.clone(),
        placement: placement.clone(),
    };
    offers.iter().map(listing).collect()
}

/// Offers of all ages that are in the book.
fn some_of(offers: usize) -> Vec<(Offer, Placement)> {
    let mut again = Spread::new(SEED);
    let drawn = (0..offers).map(|_| again.offer());
    drawn
        .step_by((offers / UPDATES).max(1))
        .take(UPDATES)
        .collect()
}
