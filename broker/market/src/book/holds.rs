//! How much of each slot is let: counted from when a lease is taken until it is given back, whatever becomes of its offer.

use ipnet::IpNet;
use ipsx_metering::{Address, OfferId, UnixSeconds};

use super::row::Held;
use super::{Listing, NoMatch, OfferBook};
use crate::matching::Wanted;
use crate::offer::Offer;
use crate::request::Filter;

/// What an offer's capacity is counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    pub(super) provider: Address,
    prefixes: Vec<IpNet>,
}

impl Slot {
    /// The slot of an offer.
    pub fn of(offer: &Offer) -> Self {
        Self::new(offer.provider, &offer.prefixes)
    }

    fn new(provider: Address, prefixes: &[IpNet]) -> Self {
        // 10.0.0.1/8 and 10.0.0.2/8 are the same prefix.
        let mut prefixes: Vec<_> = prefixes.iter().map(IpNet::trunc).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        Self { provider, prefixes }
    }

    /// Whether these are its prefixes.
    pub(super) fn covers(&self, prefixes: &[IpNet]) -> bool {
        match (self.prefixes.as_slice(), prefixes) {
            ([], others) => others.is_empty(),
            ([own], [other]) => *own == other.trunc(),
            _ => *self == Self::new(self.provider, prefixes),
        }
    }
}

/// Names one lease's share of a slot; chosen by the caller, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(pub u64);

#[derive(Clone, Debug)]
pub(super) struct Hold {
    slot: Slot,
    mbit_up: u32,
    mbit_down: u32,
}

impl OfferBook {
    /// Holds one lease of the best offer for `wanted`, apart from those in `excluded`.
    pub fn take(
        &mut self,
        hold: HoldId,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
        excluded: &[OfferId],
    ) -> Result<Listing, NoMatch> {
        let listing = self.best(wanted, now, excluded)?;
        self.hold_slot(hold, Slot::of(&listing.offer), wanted.filter);
        Ok(listing)
    }

    /// Counts a hold that was taken before a restart; the offer need not be in the book.
    pub fn restore(&mut self, hold: HoldId, offer: &Offer, filter: &Filter) {
        self.hold_slot(hold, Slot::of(offer), filter);
    }

    /// Gives a hold back. False when there is none of that name, so that nothing is given back twice.
    pub fn release(&mut self, hold: HoldId) -> bool {
        let Some(slot) = self.give_back(hold) else {
            return false;
        };
        if let Some(at) = self.rows.of_slot(&slot) {
            self.changed.mark(at);
        }
        true
    }

    /// The same for one of which nobody has heard: no offer fits more than before it was taken.
    pub(crate) fn undo(&mut self, hold: HoldId) {
        self.give_back(hold);
    }

    /// Leases held, of all slots.
    pub fn leases_held(&self) -> usize {
        self.holds.len()
    }

    pub(super) fn hold_slot(&mut self, id: HoldId, slot: Slot, filter: &Filter) {
        let (mbit_up, mbit_down) = (filter.mbit_up, filter.mbit_down);
        let mut held = self.held.get(&slot).copied().unwrap_or_default();
        held.leases += 1;
        held.mbit_up += u64::from(mbit_up);
        held.mbit_down += u64::from(mbit_down);
        self.set_held(slot.clone(), held);
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

    /// Returns whose it was.
    fn give_back(&mut self, hold: HoldId) -> Option<Slot> {
        let Hold {
            slot,
            mbit_up,
            mbit_down,
        } = self.holds.remove(&hold)?;
        let mut left = self.held.get(&slot).copied().unwrap_or_default();
        left.leases -= 1;
        left.mbit_up -= u64::from(mbit_up);
        left.mbit_down -= u64::from(mbit_down);
        self.set_held(slot.clone(), left);
        Some(slot)
    }

    /// Counts what is let of a slot, and tells the row that it has.
    fn set_held(&mut self, slot: Slot, held: Held) {
        if let Some(at) = self.rows.of_slot(&slot)
            && let Some(row) = self.rows.get_mut(at)
        {
            let before = row.free_leases();
            let after = row.leases.saturating_sub(held.leases);
            if !row.for_sale {
                row.held = held;
            } else if (before > 0) == (after > 0) {
                row.held = held;
                self.leases_free = self.leases_free - u64::from(before) + u64::from(after);
            } else {
                self.leave_line(at);
                if let Some(row) = self.rows.get_mut(at) {
                    row.held = held;
                }
                self.line_up(at);
            }
        }
        if held.leases == 0 {
            self.held.remove(&slot);
        } else {
            self.held.insert(slot, held);
        }
    }
}
