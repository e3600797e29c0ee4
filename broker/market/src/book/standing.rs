//! Where rows stand in the orders and indexes, and whether they stand there at all.

use std::net::IpAddr;

use ipsx_metering::{Address, OfferId, UnixSeconds};

use super::{HoldId, Listing, NoMatch, OfferBook, RowId, Slot};
use crate::matching::Wanted;

impl OfferBook {
    /// Whether an offer in the book can be taken by whoever looks for one like it.
    pub fn is_for_sale(&self, id: OfferId) -> bool {
        let row = self.rows.of_id(id).and_then(|at| self.rows.get(at));
        row.is_some_and(|row| row.for_sale)
    }

    /// Whether it could take another lease, if it is for sale.
    pub fn has_free_lease(&self, id: OfferId) -> bool {
        let row = self.rows.of_id(id).and_then(|at| self.rows.get(at));
        row.is_some_and(|row| row.free_leases() > 0)
    }

    /// Offers for sale.
    pub fn for_sale(&self) -> u64 {
        self.index.all().len()
    }

    /// A provider's offers, for sale or not.
    pub fn offers_of(&self, provider: Address) -> Vec<Listing> {
        let rows = self.rows.of_provider(provider);
        rows.filter_map(|at| self.rows.listing(at)).collect()
    }

    /// Whether a provider offers something from one address.
    pub fn has_offer_at(&self, provider: Address, address: IpAddr) -> bool {
        let mut rows = self.rows.of_provider(provider);
        rows.any(|at| self.rows.get(at).is_some_and(|row| row.address == address))
    }

    /// A provider's offers from one address, for sale or not.
    pub fn offers_at(&self, provider: Address, address: IpAddr) -> Vec<Listing> {
        let rows = self.rows.of_provider(provider);
        let here = rows.filter(|at| self.rows.get(*at).is_some_and(|row| row.address == address));
        here.filter_map(|at| self.rows.listing(at)).collect()
    }

    /// Holds one lease of this very offer, for sale or not, if it is what is wanted.
    pub fn take_this(
        &mut self,
        hold: HoldId,
        id: OfferId,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
    ) -> Result<Listing, NoMatch> {
        let none = NoMatch::NoFilterMatch { nearest: None };
        let at = self.rows.of_id(id).ok_or(none)?;
        let row = self.rows.get(at).ok_or(none)?;
        let conditions = wanted.conditions(now);
        if let Some(unmet) = conditions.unmet(&self.rows.facts(row)) {
            let nearest = Some(unmet);
            return Err(NoMatch::NoFilterMatch { nearest });
        }
        let cheapest = self.rows.rank(at).prices();
        if !wanted.affords(&cheapest) {
            return Err(NoMatch::PriceTooLow { cheapest });
        }
        if !row.has_room(wanted.filter.mbit_up, wanted.filter.mbit_down) {
            return Err(NoMatch::SoldOut { dearer: None });
        }
        let listing = self.rows.listing(at).ok_or(none)?;
        self.hold_slot(hold, Slot::of(&listing.offer), wanted.filter);
        Ok(listing)
    }

    /// Enters a row wherever it is looked for.
    pub(super) fn show(&mut self, at: RowId) {
        let Some(row) = self.rows.get_mut(at) else {
            return;
        };
        row.for_sale = true;
        self.index.insert(at, &self.rows);
        self.line_up(at);
        self.changed.insert(at, &self.rows);
    }

    /// Strikes a row out there, if it is in.
    pub(super) fn hide(&mut self, at: RowId) {
        if self.rows.get(at).is_none_or(|row| !row.for_sale) {
            return;
        }
        self.leave_line(at);
        self.index.remove(at, &self.rows);
        self.changed.forget(at);
        if let Some(row) = self.rows.get_mut(at) {
            row.for_sale = false;
        }
    }

    /// Puts an offer in the place of one of nearly the same terms, and moves it in each order where it stands elsewhere now.
    pub(super) fn renew(&mut self, at: RowId, listing: &Listing, sequence: u64) {
        let Some(was) = self.rows.renew(at, listing, sequence) else {
            return;
        };
        let rows = &self.rows;
        let expiry = |at| rows.expiry(at);
        let expired = (was.expires_at, at);
        self.by_expiry.reposition(&expired, &expiry(at), at, expiry);
        if rows.get(at).is_none_or(|row| !row.for_sale) {
            return;
        }
        self.index.renew(at, &was, rows);
        let line = if self.free.contains(at) {
            &mut self.open
        } else {
            &mut self.sold_out
        };
        line.reposition(&was.rank, rows.rank(at), at, |row| *rows.rank(row));
        self.changed.mark(at);
    }

    /// Puts a row where it belongs in the order of price.
    pub(super) fn line_up(&mut self, at: RowId) {
        let Some(row) = self.rows.get(at) else {
            return;
        };
        self.leases_free += u64::from(row.free_leases());
        let line = if row.free_leases() > 0 {
            self.free.insert(at);
            &mut self.open
        } else {
            &mut self.sold_out
        };
        let rows = &self.rows;
        line.insert(rows.rank(at), at, |row| *rows.rank(row));
    }

    /// Takes a row out of the order of price.
    pub(super) fn leave_line(&mut self, at: RowId) {
        let Some(row) = self.rows.get(at) else {
            return;
        };
        self.leases_free -= u64::from(row.free_leases());
        let line = if self.free.remove(at) {
            &mut self.open
        } else {
            &mut self.sold_out
        };
        let rows = &self.rows;
        line.remove(rows.rank(at), at, |row| *rows.rank(row));
    }
}
