//! Every row, found by its offer's id, its provider and its slot.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use ipsx_metering::{Address, OfferId, UnixSeconds};

use super::{Exit, Held, NONE, Place, Rank, Row, RowId, System};
use crate::book::shared::Shared;
use crate::book::{Listing, Slot};
use crate::offer::WeeklyHours;
use crate::place::Measured;

/// What a row had before it was [renewed](Rows::renew).
pub(in crate::book) struct Was {
    pub(in crate::book) measured: Measured,
    pub(in crate::book) expires_at: UnixSeconds,
    pub(in crate::book) rank: Rank,
}

/// Every row, and the values they share.
#[derive(Clone, Debug, Default)]
pub(in crate::book) struct Rows {
    rows: Vec<Option<Row>>,
    vacant: Vec<RowId>,
    /// Each row's place in the order of price, apart from the rest: this is what most rows are passed over by.
    ranks: Vec<Rank>,
    hasher: RandomState,
    by_id: HashTable<RowId>,
    /// The first row of each provider.
    by_provider: HashTable<RowId>,
    pub(super) exits: Shared<Exit>,
    pub(super) hours: Shared<WeeklyHours>,
    pub(super) places: Shared<Place>,
    pub(super) systems: Shared<System>,
}

impl Rows {
    /// Adds an offer; `sequence` is its age.
    pub(in crate::book) fn insert(&mut self, listing: Listing, sequence: u64, held: Held) -> RowId {
        let at = self.vacant.pop().unwrap_or(self.rows.len() as RowId);
        let rank = Rank::of(&listing.offer, &listing.placement.measured, sequence, at);
        let row = self.row(listing, held);
        let (id, provider) = (row.id, row.provider);
        if let Some(place) = self.rows.get_mut(at as usize) {
            *place = Some(row);
            self.ranks[at as usize] = rank;
        } else {
            self.rows.push(Some(row));
            self.ranks.push(rank);
        }
        self.enter_id(at, id);
        let Self {
            rows,
            hasher,
            by_provider,
            ..
        } = self;
        let of = |at: &RowId| rows.get(*at as usize).and_then(Option::as_ref);
        let hash = hasher.hash_one(provider);
        let same = |at: &RowId| of(at).is_some_and(|row| row.provider == provider);
        let mut next = NONE;
        if let Some(first) = by_provider.find_mut(hash, same) {
            next = std::mem::replace(first, at);
        } else {
            by_provider.insert_unique(hash, at, |at| {
                of(at).map_or(0, |row| hasher.hash_one(row.provider))
            });
        }
        if let Some(row) = self.get_mut(at) {
            row.next = next;
        }
        at
    }

    fn enter_id(&mut self, at: RowId, id: OfferId) {
        let Self {
            rows,
            hasher,
            by_id,
            ..
        } = self;
        by_id.insert_unique(hasher.hash_one(id), at, |at| {
            let row = rows.get(*at as usize).and_then(Option::as_ref);
            row.map_or(0, |row| hasher.hash_one(row.id))
        });
    }

    fn forget_id(&mut self, at: RowId, id: OfferId) {
        let hash = self.hasher.hash_one(id);
        if let Ok(entry) = self.by_id.find_entry(hash, |other| *other == at) {
            entry.remove();
        }
    }

    /// Takes a row out.
    pub(in crate::book) fn remove(&mut self, at: RowId) -> Option<Row> {
        self.unlink(at)?;
        let row = self.rows.get_mut(at as usize)?.take()?;
        self.vacant.push(at);
        self.exits.drop_one(row.exit);
        self.hours.drop_one(row.hours);
        self.places.drop_one(row.place);
        self.systems.drop_one(row.system);
        Some(row)
    }

    /// Takes a row out of both tables.
    fn unlink(&mut self, at: RowId) -> Option<()> {
        let row = self.get(at)?;
        let (id, next) = (row.id, row.next);
        let hash = self.hasher.hash_one(row.provider);
        let mut before = self.first_of(row.provider)?;
        self.forget_id(at, id);
        if before != at {
            while let Some(row) = self.get(before).filter(|row| row.next != at) {
                before = row.next;
            }
            self.get_mut(before)?.next = next;
        } else if next != NONE {
            *self.by_provider.find_mut(hash, |first| *first == at)? = next;
        } else if let Ok(entry) = self.by_provider.find_entry(hash, |first| *first == at) {
            entry.remove();
        }
        Some(())
    }

    pub(in crate::book) fn get(&self, at: RowId) -> Option<&Row> {
        self.rows.get(at as usize)?.as_ref()
    }

    pub(in crate::book) fn get_mut(&mut self, at: RowId) -> Option<&mut Row> {
        self.rows.get_mut(at as usize)?.as_mut()
    }

    /// Every row, in no order.
    pub(in crate::book) fn all(&self) -> impl Iterator<Item = (RowId, &Row)> {
        let rows = self.rows.iter().enumerate();
        rows.filter_map(|(at, row)| Some((at as RowId, row.as_ref()?)))
    }

    /// How many there are.
    pub(in crate::book) fn len(&self) -> usize {
        self.rows.len() - self.vacant.len()
    }

    /// The row of an offer.
    pub(in crate::book) fn of_id(&self, id: OfferId) -> Option<RowId> {
        let same = |at: &RowId| self.get(*at).is_some_and(|row| row.id == id);
        self.by_id.find(self.hasher.hash_one(id), same).copied()
    }

    /// The row of a slot.
    pub(in crate::book) fn of_slot(&self, slot: &Slot) -> Option<RowId> {
        let same = |at: &RowId| self.get(*at).is_some_and(|row| slot.covers(row.prefixes()));
        self.of_provider(slot.provider).find(same)
    }

    /// A provider's rows, in no order.
    pub(in crate::book) fn of_provider(&self, provider: Address) -> impl Iterator<Item = RowId> {
        let first = self.first_of(provider);
        std::iter::successors(first, |at| {
            let next = self.get(*at).map(|row| row.next);
            next.filter(|next| *next != NONE)
        })
    }

    fn first_of(&self, provider: Address) -> Option<RowId> {
        let same = |at: &RowId| self.get(*at).is_some_and(|row| row.provider == provider);
        let hash = self.hasher.hash_one(provider);
        self.by_provider.find(hash, same).copied()
    }

    /// A row's place in the order of price.
    pub(in crate::book) fn rank(&self, at: RowId) -> &Rank {
        &self.ranks[at as usize]
    }

    /// A row's place in the order of expiry.
    pub(in crate::book) fn expiry(&self, at: RowId) -> (UnixSeconds, RowId) {
        let row = self.get(at);
        (row.map_or(UnixSeconds(0), |row| row.expires_at), at)
    }

    /// Puts an offer in the place of one that [differs](Self::differs_in_terms) in nothing else than its nonce, its
    /// prices, its expiry and what was measured. Returns what of these its places in the indexes depend on.
    pub(in crate::book) fn renew(
        &mut self,
        at: RowId,
        listing: &Listing,
        sequence: u64,
    ) -> Option<Was> {
        let (id, offer) = (listing.id, &listing.offer);
        let measured = listing.placement.measured;
        let rank = Rank::of(offer, &measured, sequence, at);
        let row = self.get_mut(at)?;
        let was_id = std::mem::replace(&mut row.id, id);
        row.nonce = offer.nonce;
        let was = Was {
            measured: std::mem::replace(&mut row.measured, measured),
            expires_at: std::mem::replace(&mut row.expires_at, offer.expires_at),
            rank: std::mem::replace(&mut self.ranks[at as usize], rank),
        };
        if was_id != id {
            self.forget_id(at, was_id);
            self.enter_id(at, id);
        }
        Some(was)
    }
}
