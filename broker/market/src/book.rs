//! The offer book: offers in order of price, and how much of each is free.
//!
//! Cheapest means the lowest price per second, then per GiB, then the oldest. Capacity belongs to a [`Slot`], one
//! provider's set of prefixes, and not to one offer: a lease taken from an offer counts against the offer that replaces
//! it, and against the same one when its agent comes back. A hold is counted until it is released, exactly once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use ipsx_metering::{Address, OfferId, Prices, UnixSeconds};

use crate::matching::{Condition, Wanted};
use crate::offer::{Country, Offer, Placement};
use crate::request::Filter;

/// Bounds of a book; a walk through it looks at each offer once at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookLimits {
    /// Offers in all.
    pub offers: usize,
    /// Offers of one provider.
    pub offers_per_provider: usize,
}

impl Default for BookLimits {
    fn default() -> Self {
        Self {
            offers: 100_000,
            offers_per_provider: 256,
        }
    }
}

/// An offer in the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The offer's id.
    pub id: OfferId,
    /// The offer.
    pub offer: Offer,
    /// Where the broker put it.
    pub placement: Placement,
}

/// What an offer's capacity is counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    provider: Address,
    prefixes: Vec<IpNet>,
}

impl Slot {
    /// The slot of an offer.
    pub fn of(offer: &Offer) -> Self {
        // 10.0.0.1/8 and 10.0.0.2/8 are the same prefix.
        let mut prefixes: Vec<_> = offer.prefixes.iter().map(IpNet::trunc).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        Self {
            provider: offer.provider,
            prefixes,
        }
    }
}

/// Names one lease's share of a slot; chosen by the caller, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(pub u64);

/// An offer did not get into the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// An offer for the same prefixes has a nonce at least as high.
    #[error(
        "an offer of the same prefixes with nonce {0} is in the book; use a higher one to replace it"
    )]
    Stale(u64),
    /// The provider has its share.
    #[error("a provider may have {0} offers here; withdraw one, or offer a larger prefix")]
    TooManyOffers(usize),
    /// The book is full.
    #[error("this network's book is full with {0} offers; try again later")]
    BookFull(usize),
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMatch {
    /// No offer passes the filter.
    #[error("{}", no_filter_match(*.nearest))]
    NoFilterMatch {
        /// What the offer that came nearest fails by; `None` when there is no offer at all.
        nearest: Option<Condition>,
    },
    /// Offers pass the filter, but those that are free cost more.
    #[error(
        "every offer that passes the filter costs more than allowed; the cheapest asks {} a second and {} a GiB: raise the limits to these",
        cheapest.per_second, cheapest.per_gib
    )]
    PriceTooLow {
        /// The cheapest that is free.
        cheapest: Prices,
    },
    /// Offers pass, and none is free.
    #[error("{}", sold_out(*.dearer))]
    SoldOut {
        /// The cheapest that is free among those that cost more than allowed.
        dearer: Option<Prices>,
    },
}

fn no_filter_match(nearest: Option<Condition>) -> String {
    match nearest {
        None => "nothing is offered right now; try again later, or on another network".into(),
        Some(condition) => format!(
            "no offer passes the filter; the one that comes nearest fails by {condition}: loosen that, or try again later"
        ),
    }
}

fn sold_out(dearer: Option<Prices>) -> String {
    match dearer {
        None => "every offer that passes the filter is sold out; try again in a while".into(),
        Some(prices) => format!(
            "every offer within the price limits is sold out; one is free at {} a second and {} a GiB, or try again in a while",
            prices.per_second, prices.per_gib
        ),
    }
}

/// Place in the order of price; the sequence is the age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    prices: (u128, u128),
    sequence: u64,
    id: OfferId,
}

#[derive(Clone, Debug)]
struct Entry {
    listing: Listing,
    slot: Slot,
    rank: Rank,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    leases: u32,
    mbit_up: u64,
    mbit_down: u64,
}

#[derive(Clone, Debug)]
struct Hold {
    slot: Slot,
    mbit_up: u32,
    mbit_down: u32,
}

/// The offers of one network.
#[derive(Clone, Debug, Default)]
pub struct OfferBook {
    limits: BookLimits,
    sequence: u64,
    entries: HashMap<OfferId, Entry>,
    by_slot: HashMap<Slot, OfferId>,
    by_provider: HashMap<Address, BTreeSet<OfferId>>,
    by_expiry: BTreeSet<(UnixSeconds, OfferId)>,
    by_price: BTreeSet<Rank>,
    by_country: BTreeMap<Country, BTreeSet<Rank>>,
    held: HashMap<Slot, Held>,
    holds: HashMap<HoldId, Hold>,
}

impl OfferBook {
    /// An empty book.
    pub fn new(limits: BookLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Puts an offer in, and takes out the one of the same slot that it replaces, whose id is returned.
    ///
    /// The caller has checked signature, bounds and placement. An offer that is in already stays as it is, with its age.
    pub fn place(
        &mut self,
        offer: Offer,
        placement: Placement,
    ) -> Result<Option<OfferId>, PlaceError> {
        let (id, slot) = (offer.id(), Slot::of(&offer));
        let replaced = self.by_slot.get(&slot).copied();
        match replaced.and_then(|old| self.entries.get(&old)) {
            Some(old) if old.listing.id == id && old.listing.placement == placement => {
                return Ok(None);
            }
            Some(old) if old.listing.id != id && old.listing.offer.nonce >= offer.nonce => {
                return Err(PlaceError::Stale(old.listing.offer.nonce));
            }
            Some(_) => {}
            None => self.check_room(offer.provider)?,
        }
        if let Some(old) = replaced {
            self.remove(old);
        }
        self.insert(id, slot, offer, placement);
        Ok(replaced.filter(|old| *old != id))
    }

    /// Takes an offer of this provider out; its leases go on.
    pub fn withdraw(&mut self, provider: Address, id: OfferId) -> bool {
        let own = self
            .entries
            .get(&id)
            .is_some_and(|e| e.listing.offer.provider == provider);
        own && self.remove(id)
    }

    /// Takes all offers of a provider out; their leases go on.
    pub fn withdraw_all(&mut self, provider: Address) -> Vec<OfferId> {
        let ids: Vec<_> = self
            .by_provider
            .get(&provider)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        ids.into_iter().filter(|id| self.remove(*id)).collect()
    }

    /// Takes out what has expired before `now`.
    pub fn expire(&mut self, now: UnixSeconds) -> Vec<OfferId> {
        let expired = self.by_expiry.iter().take_while(|(at, _)| *at < now);
        let ids: Vec<_> = expired.map(|(_, id)| *id).collect();
        ids.into_iter().filter(|id| self.remove(*id)).collect()
    }

    /// When the next offer expires: [`Self::expire`] has something to do one second later.
    pub fn next_expiry(&self) -> Option<UnixSeconds> {
        self.by_expiry.first().map(|(at, _)| *at)
    }

    /// Holds one lease of the best offer for `wanted`, apart from those in `excluded`.
    pub fn take(
        &mut self,
        hold: HoldId,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
        excluded: &[OfferId],
    ) -> Result<Listing, NoMatch> {
        let (slot, listing) = self.best(wanted, now, excluded)?;
        self.hold_slot(hold, slot, wanted.filter);
        Ok(listing)
    }

    /// Counts a hold that was taken before a restart; the offer need not be in the book.
    pub fn restore(&mut self, hold: HoldId, offer: &Offer, filter: &Filter) {
        self.hold_slot(hold, Slot::of(offer), filter);
    }

    /// Gives a hold back. False when there is none of that name, so that nothing is given back twice.
    pub fn release(&mut self, hold: HoldId) -> bool {
        let Some(Hold {
            slot,
            mbit_up,
            mbit_down,
        }) = self.holds.remove(&hold)
        else {
            return false;
        };
        if let Some(held) = self.held.get_mut(&slot) {
            held.leases -= 1;
            held.mbit_up -= u64::from(mbit_up);
            held.mbit_down -= u64::from(mbit_down);
            if held.leases == 0 {
                self.held.remove(&slot);
            }
        }
        true
    }

    /// Offers that are what somebody wants, cheapest first, sold out or not; at most `limit`.
    pub fn search<'a>(
        &'a self,
        wanted: &'a Wanted<'a>,
        now: UnixSeconds,
        limit: usize,
    ) -> impl Iterator<Item = (&'a Listing, u32)> + 'a {
        self.walk(&wanted.filter.countries)
            .filter(move |entry| {
                let listing = &entry.listing;
                listing.offer.expires_at >= now
                    && wanted.affords(&listing.offer.prices)
                    && wanted
                        .unmet(&listing.offer, &listing.placement, now)
                        .is_none()
            })
            .map(|entry| (&entry.listing, self.free_leases(entry)))
            .take(limit)
    }

    /// An offer in the book.
    pub fn get(&self, id: OfferId) -> Option<&Listing> {
        self.entries.get(&id).map(|entry| &entry.listing)
    }

    /// Offers in the book.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is offered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Leases held, of all slots.
    pub fn leases_held(&self) -> usize {
        self.holds.len()
    }

    /// Leases that all offers in the book could still take.
    pub fn leases_free(&self) -> u64 {
        let free = self
            .entries
            .values()
            .map(|entry| u64::from(self.free_leases(entry)));
        free.sum()
    }

    fn check_room(&self, provider: Address) -> Result<(), PlaceError> {
        let own = self.by_provider.get(&provider).map_or(0, BTreeSet::len);
        if own >= self.limits.offers_per_provider {
            return Err(PlaceError::TooManyOffers(self.limits.offers_per_provider));
        }
        if self.entries.len() >= self.limits.offers {
            return Err(PlaceError::BookFull(self.limits.offers));
        }
        Ok(())
    }

    fn insert(&mut self, id: OfferId, slot: Slot, offer: Offer, placement: Placement) {
        self.sequence += 1;
        let rank = Rank {
            prices: (offer.prices.per_second.0.0, offer.prices.per_gib.0.0),
            sequence: self.sequence,
            id,
        };
        self.by_price.insert(rank);
        if let Some(country) = placement.country {
            self.by_country.entry(country).or_default().insert(rank);
        }
        self.by_expiry.insert((offer.expires_at, id));
        self.by_provider
            .entry(offer.provider)
            .or_default()
            .insert(id);
        self.by_slot.insert(slot.clone(), id);
        let listing = Listing {
            id,
            offer,
            placement,
        };
        self.entries.insert(
            id,
            Entry {
                listing,
                slot,
                rank,
            },
        );
    }

    fn remove(&mut self, id: OfferId) -> bool {
        let Some(Entry {
            listing,
            slot,
            rank,
        }) = self.entries.remove(&id)
        else {
            return false;
        };
        self.by_price.remove(&rank);
        self.by_expiry.remove(&(listing.offer.expires_at, id));
        self.by_slot.remove(&slot);
        if let Some(country) = listing.placement.country
            && let Some(ranks) = self.by_country.get_mut(&country)
        {
            ranks.remove(&rank);
            if ranks.is_empty() {
                self.by_country.remove(&country);
            }
        }
        if let Some(own) = self.by_provider.get_mut(&listing.offer.provider) {
            own.remove(&id);
            if own.is_empty() {
                self.by_provider.remove(&listing.offer.provider);
            }
        }
        true
    }

    fn best(
        &self,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
        excluded: &[OfferId],
    ) -> Result<(Slot, Listing), NoMatch> {
        let mut nearest = None;
        let mut affordable = false;
        let mut passing = false;
        let mut dearer = None;
        for entry in self.walk(&wanted.filter.countries) {
            let listing = &entry.listing;
            if listing.offer.expires_at < now || excluded.contains(&listing.id) {
                continue;
            }
            if let Some(unmet) = wanted.unmet(&listing.offer, &listing.placement, now) {
                nearest = nearest.max(Some(unmet));
                continue;
            }
            passing = true;
            let free = self.is_free(entry, wanted.filter);
            if !wanted.affords(&listing.offer.prices) {
                dearer = dearer.or(free.then_some(listing.offer.prices));
            } else if free {
                return Ok((entry.slot.clone(), listing.clone()));
            } else {
                affordable = true;
            }
        }
        Err(match (dearer, passing) {
            (Some(cheapest), _) if !affordable => NoMatch::PriceTooLow { cheapest },
            (dearer, true) => NoMatch::SoldOut { dearer },
            (_, false) => NoMatch::NoFilterMatch {
                nearest: nearest.or(self.elsewhere(now, excluded)),
            },
        })
    }

    /// What offers outside the countries that were walked fail by, if there are any.
    fn elsewhere(&self, now: UnixSeconds, excluded: &[OfferId]) -> Option<Condition> {
        let mut valid = self.by_expiry.iter().rev().take_while(|(at, _)| *at >= now);
        valid
            .any(|(_, id)| !excluded.contains(id))
            .then_some(Condition::Country)
    }

    /// Entries in order of price: all, or those of some countries.
    fn walk<'a>(&'a self, countries: &[Country]) -> Box<dyn Iterator<Item = &'a Entry> + 'a> {
        let entry = |rank: &Rank| self.entries.get(&rank.id);
        if countries.is_empty() {
            return Box::new(self.by_price.iter().filter_map(entry));
        }
        let wanted: BTreeSet<_> = countries.iter().collect();
        let sets = wanted.into_iter().filter_map(|c| self.by_country.get(c));
        let mut heads: Vec<_> = sets.map(|ranks| ranks.iter().peekable()).collect();
        let merged = std::iter::from_fn(move || {
            let head = |i: &mut std::iter::Peekable<_>| i.peek().copied();
            let (_, at) = (0..heads.len())
                .filter_map(|at| head(&mut heads[at]).map(|rank: &Rank| (*rank, at)))
                .min()?;
            heads[at].next()
        });
        Box::new(merged.filter_map(entry))
    }

    fn is_free(&self, entry: &Entry, filter: &Filter) -> bool {
        let held = self.held.get(&entry.slot).copied().unwrap_or_default();
        let capacity = &entry.listing.offer.capacity;
        held.leases < capacity.leases
            && held.mbit_up + u64::from(filter.mbit_up) <= u64::from(capacity.mbit_up)
            && held.mbit_down + u64::from(filter.mbit_down) <= u64::from(capacity.mbit_down)
    }

    fn free_leases(&self, entry: &Entry) -> u32 {
        let held = self.held.get(&entry.slot).map_or(0, |held| held.leases);
        entry.listing.offer.capacity.leases.saturating_sub(held)
    }

    fn hold_slot(&mut self, id: HoldId, slot: Slot, filter: &Filter) {
        let (mbit_up, mbit_down) = (filter.mbit_up, filter.mbit_down);
        let held = self.held.entry(slot.clone()).or_default();
        held.leases += 1;
        held.mbit_up += u64::from(mbit_up);
        held.mbit_down += u64::from(mbit_down);
        let previous = self.holds.insert(
            id,
            Hold {
                slot,
                mbit_up,
                mbit_down,
            },
        );
        debug_assert!(previous.is_none(), "{id:?} was taken twice");
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
