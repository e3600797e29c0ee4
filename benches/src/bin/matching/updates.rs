//! Offers that come, change and go, by the processor's time: other programs on the machine do not count.

use std::time::Duration;

use ipsx_benches::{Samples, cpu_time};
use ipsx_market::book::{Listing, OfferBook};
use ipsx_market::offer::{Offer, Placement};
use ipsx_metering::{Amount, PricePerSecond};
use rand::Rng;
use rand::seq::SliceRandom;

use crate::Failed;
use ipsx_benches::spread::{SEED, Spread};

/// Updates of each kind in a round.
const UPDATES: usize = 100_000;

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
