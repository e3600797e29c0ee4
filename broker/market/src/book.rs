//! The offer book: offers in order of price, and how much of each is free.
//!
//! Best means the cheapest for the lease that is asked for, then the lowest price per second, then per GiB, the best
//! reputation, the shortest round trip, the oldest. Capacity belongs to a [`Slot`], one
//! provider's set of prefixes, and not to one offer: a lease taken from an offer counts against the offer that replaces
//! it, and against the same one when its agent comes back. A hold is counted until it is released, exactly once.
//!
//! An offer may be in the book and not for sale, while its address is not proven: no order and no index has it then, so
//! that nobody who looks for offers comes upon it.

mod addresses;
mod candidates;
mod changed;
mod find;
mod holds;
mod index;
mod line;
mod numbers;
mod page;
mod posting;
mod refusal;
mod row;
mod shared;
mod standing;

use std::collections::HashMap;

use ipsx_metering::{Address, OfferId, UnixSeconds};
use roaring::RoaringBitmap;

use crate::matching::{Conditions, Wanted};
use crate::offer::{Offer, Placement};
use crate::place::Country;
use changed::Changed;
use find::{Effort, Lines, Search};
use holds::Hold;
pub use holds::{HoldId, Slot};
use index::Index;
use line::Line;
pub use page::{Found, NoPosition, Position};
pub use refusal::{NoMatch, PlaceError};
use row::{Held, Rank, RowId, Rows};

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
            offers: 1_000_000,
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

/// The offers of one network.
#[derive(Clone, Debug, Default)]
pub struct OfferBook {
    limits: BookLimits,
    sequence: u64,
    rows: Rows,
    index: Index,
    by_expiry: Line<(UnixSeconds, RowId)>,
    /// Rows with a free lease, in order.
    open: Line<Rank>,
    /// The other ones, in order.
    sold_out: Line<Rank>,
    /// Rows with a free lease.
    free: RoaringBitmap,
    leases_free: u64,
    changed: Changed,
    held: HashMap<Slot, Held>,
    holds: HashMap<HoldId, Hold>,
    effort: Effort,
}

impl OfferBook {
    /// An empty book.
    pub fn new(limits: BookLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Counts the ages of offers from here on: books whose searches are read together must not use the same numbers.
    pub fn begin_at(&mut self, age: u64) {
        self.sequence = age;
    }

    /// Puts an offer in, and takes out the one of the same slot that it replaces, whose id is returned.
    ///
    /// The caller has checked signature, bounds and placement. An offer that is in already keeps its age,
    /// wherever it is placed now.
    pub fn place(
        &mut self,
        offer: Offer,
        placement: Placement,
    ) -> Result<Option<OfferId>, PlaceError> {
        self.put(Listing {
            id: offer.id(),
            offer,
            placement,
        })
    }

    /// As [`Self::place`], for who knows the offer's id already: to compute it takes longer than all the rest.
    pub fn put(&mut self, listing: Listing) -> Result<Option<OfferId>, PlaceError> {
        self.put_as(listing, true)
    }

    /// The same for an offer that is for sale or not yet.
    pub fn put_as(
        &mut self,
        listing: Listing,
        for_sale: bool,
    ) -> Result<Option<OfferId>, PlaceError> {
        let (id, offer) = (listing.id, &listing.offer);
        let slot = Slot::of(offer);
        let there = self.rows.of_slot(&slot);
        let mut sequence = self.sequence + 1;
        let mut renewed = None;
        match there.and_then(|at| self.rows.get(at).map(|row| (at, row))) {
            Some((at, same)) if same.id == id => {
                sequence = self.rows.rank(at).sequence;
                let here = self.rows.is_at(same, &listing.placement);
                renewed = (here && same.for_sale == for_sale).then_some(id);
            }
            Some((_, old)) if old.nonce >= offer.nonce => return Err(PlaceError::Stale(old.nonce)),
            Some((_, old)) => {
                let alike = self.rows.differs_in_terms(old, &listing);
                renewed = (alike && old.for_sale == for_sale).then_some(old.id);
            }
            None => self.check_room(offer.provider)?,
        }
        self.sequence = self.sequence.max(sequence);
        if let (Some(at), Some(old)) = (there, renewed) {
            self.renew(at, &listing, sequence);
            return Ok(Some(old).filter(|old| *old != id));
        }
        let replaced = there.and_then(|old| self.remove(old));
        self.insert(&slot, listing, sequence, for_sale);
        Ok(replaced.filter(|old| *old != id))
    }

    /// Takes an offer of this provider out; its leases go on.
    pub fn withdraw(&mut self, provider: Address, id: OfferId) -> bool {
        let at = self.rows.of_id(id);
        let own = |at: &RowId| {
            self.rows
                .get(*at)
                .is_some_and(|row| row.provider == provider)
        };
        at.filter(own).and_then(|at| self.remove(at)).is_some()
    }

    /// Takes all offers of a provider out; their leases go on.
    pub fn withdraw_all(&mut self, provider: Address) -> Vec<OfferId> {
        let mut rows: Vec<_> = self.rows.of_provider(provider).collect();
        rows.sort_unstable();
        rows.into_iter().filter_map(|at| self.remove(at)).collect()
    }

    /// Takes all offers of some countries' providers out; their leases go on.
    pub fn withdraw_in(&mut self, gone: impl Fn(Option<Country>, Address) -> bool) -> Vec<OfferId> {
        let rows = self.rows.all();
        let rows = rows.filter(|(_, row)| gone(row.country, row.provider));
        let rows: Vec<_> = rows.map(|(at, _)| at).collect();
        rows.into_iter().filter_map(|at| self.remove(at)).collect()
    }

    /// Takes out what has expired before `now`.
    pub fn expire(&mut self, now: UnixSeconds) -> Vec<OfferId> {
        let pages = self.by_expiry.pages();
        let due = pages.take_while(|(bound, _)| bound.is_none_or(|(at, _)| at < now));
        let due = due.flat_map(|(_, rows)| rows).copied();
        let mut expired: Vec<_> = due
            .map(|row| self.rows.expiry(row))
            .filter(|(at, _)| *at < now)
            .collect();
        expired.sort_unstable();
        let rows = expired.into_iter().map(|(_, row)| row);
        rows.filter_map(|at| self.remove(at)).collect()
    }

    /// When the next offer expires: [`Self::expire`] has something to do one second later.
    pub fn next_expiry(&self) -> Option<UnixSeconds> {
        let mut pages = self.by_expiry.pages().map(|(_, rows)| rows);
        let first = pages.find(|rows| !rows.is_empty())?;
        first.iter().map(|row| self.rows.expiry(*row).0).min()
    }

    /// The best offer for `wanted`, apart from those in `excluded`; nothing is held.
    pub fn best(
        &self,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
        excluded: &[OfferId],
    ) -> Result<Listing, NoMatch> {
        let excluded: Vec<_> = excluded
            .iter()
            .filter_map(|id| self.rows.of_id(*id))
            .collect();
        let conditions = wanted.conditions(now);
        let best = self.look_for(&conditions, &excluded).best()?;
        self.rows
            .listing(best)
            .ok_or(NoMatch::NoFilterMatch { nearest: None })
    }

    /// Offers that are what somebody wants, cheapest first, sold out or not, each with its free leases; at most `limit`.
    pub fn search(
        &self,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
        limit: usize,
    ) -> Vec<(Listing, u32)> {
        let page = self.page(wanted, now, limit, None).into_iter();
        page.map(|found| (found.listing, found.free_leases))
            .collect()
    }

    /// An offer in the book.
    pub fn get(&self, id: OfferId) -> Option<Listing> {
        self.rows.listing(self.rows.of_id(id)?)
    }

    /// Every offer in the book, in no order.
    pub fn ids(&self) -> impl Iterator<Item = OfferId> {
        self.rows.all().map(|(_, row)| row.id)
    }

    /// Offers in the book.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is offered.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// Leases that all offers in the book could still take.
    pub fn leases_free(&self) -> u64 {
        self.leases_free
    }

    /// Whether one more lease of what is wanted could be taken from a row.
    fn fits(&self, at: RowId, conditions: &Conditions<'_>) -> bool {
        let wanted = conditions.wanted();
        self.rows.get(at).is_some_and(|row| {
            row.expires_at >= conditions.now()
                && row.has_room(wanted.filter.mbit_up, wanted.filter.mbit_down)
                && wanted.affords(&self.rows.rank(at).prices())
                && conditions.unmet(&self.rows.facts(row)).is_none()
        })
    }

    fn look_for<'b>(&'b self, conditions: &'b Conditions<'b>, excluded: &'b [RowId]) -> Search<'b> {
        let lines = Lines {
            open: &self.open,
            sold_out: &self.sold_out,
            free: &self.free,
        };
        let (rows, index) = (&self.rows, &self.index);
        Search::new(rows, index, lines, conditions, excluded, self.effort)
    }

    fn check_room(&self, provider: Address) -> Result<(), PlaceError> {
        if self.rows.of_provider(provider).count() >= self.limits.offers_per_provider {
            return Err(PlaceError::TooManyOffers(self.limits.offers_per_provider));
        }
        if self.rows.len() >= self.limits.offers {
            return Err(PlaceError::BookFull(self.limits.offers));
        }
        Ok(())
    }

    fn insert(&mut self, slot: &Slot, listing: Listing, sequence: u64, for_sale: bool) {
        let held = self.held.get(slot).copied().unwrap_or_default();
        let at = self.rows.insert(listing, sequence, held);
        let rows = &self.rows;
        let expiry = |at| rows.expiry(at);
        self.by_expiry.insert(&expiry(at), at, expiry);
        if for_sale {
            self.show(at);
        }
    }

    fn remove(&mut self, at: RowId) -> Option<OfferId> {
        self.hide(at);
        let rows = &self.rows;
        let expiry = |at| rows.expiry(at);
        self.by_expiry.remove(&expiry(at), at, expiry);
        Some(self.rows.remove(at)?.id)
    }
}

#[cfg(test)]
pub(crate) mod tests;
