//! Offers that could take a request which they could not take before: new ones, changed ones, those that are free again,
//! and those whose hours for sale have begun.

use ipsx_metering::{OfferId, UnixSeconds};
use roaring::{RoaringBitmap, RoaringTreemap};

use super::OfferBook;
use super::row::{RowId, Rows};
use crate::matching::{Conditions, Facts};
use crate::offer::WeeklyHours;
use crate::resting::RequestBook;

/// Rows that may fit more than before, for as long as somebody wants to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Changed {
    watched: bool,
    rows: RoaringBitmap,
    /// Rows that some requests were held against already, and from which age on the others were not.
    left: RoaringBitmap,
    from: u64,
    /// Rows that are not for sale at every hour.
    part_time: RoaringBitmap,
}

impl Changed {
    /// A row is new.
    pub(super) fn insert(&mut self, at: RowId, rows: &Rows) {
        let hours = rows.get(at).map(|row| *rows.facts(row).weekly_hours());
        if hours.is_some_and(|hours| hours != WeeklyHours::always()) {
            self.part_time.insert(at);
        }
        self.mark(at);
    }

    /// A row may fit more than before.
    pub(super) fn mark(&mut self, at: RowId) {
        if self.watched {
            self.rows.insert(at);
        }
    }

    /// A row is gone.
    pub(super) fn forget(&mut self, at: RowId) {
        self.rows.remove(at);
        self.left.remove(at);
        self.part_time.remove(at);
    }
}

impl OfferBook {
    /// Whether to remember from now on which offers may fit more than before.
    pub(crate) fn watch(&mut self, watched: bool) {
        self.changed.watched = watched;
        if !watched {
            self.changed.rows.clear();
            self.changed.left.clear();
        }
    }

    /// Whether some may, that nobody has looked at.
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.rows.is_empty() || !self.changed.left.is_empty()
    }

    /// Whether some offers are for sale at some hours only.
    pub(crate) fn has_part_time(&self) -> bool {
        !self.changed.part_time.is_empty()
    }

    /// An hour has begun: those that are for sale in it, and not in every one, may fit more than before.
    pub(crate) fn hour_begins(&mut self, now: UnixSeconds) {
        let open = |at: &RowId| {
            let row = self.rows.get(*at);
            row.is_some_and(|row| self.rows.facts(row).weekly_hours().contains(now))
        };
        let open: RoaringBitmap = self.changed.part_time.iter().filter(open).collect();
        if self.changed.watched {
            self.changed.rows |= open;
        }
    }

    /// The offers that may fit more than before; none any more from now on.
    pub(crate) fn take_changed(&mut self) -> RoaringBitmap {
        std::mem::take(&mut self.changed.rows)
    }

    /// Some of them that were not looked at, after all.
    pub(crate) fn leave_changed(&mut self, rows: RoaringBitmap) {
        self.changed.rows |= rows;
    }

    /// Some of them that requests from this age on were not held against.
    pub(crate) fn leave_from(&mut self, rows: RoaringBitmap, age: u64) {
        self.changed.left = rows;
        self.changed.from = age;
    }

    /// Those, and that age.
    pub(crate) fn take_left(&mut self) -> (RoaringBitmap, u64) {
        (std::mem::take(&mut self.changed.left), self.changed.from)
    }

    /// Requests that one of some offers may fit, in the order of age.
    pub(crate) fn waiting_for(
        &self,
        offers: &RoaringBitmap,
        requests: &RequestBook,
    ) -> RoaringTreemap {
        let mut waiting = RoaringTreemap::new();
        for at in offers {
            if let Some(row) = self.rows.get(at).filter(|row| row.free_leases() > 0) {
                let prices = self.rows.rank(at).prices();
                waiting |= requests.candidates(&self.rows.facts(row), &prices);
            }
        }
        waiting
    }

    /// Whether one of some offers, not of those that were tried, could take what is wanted.
    pub(crate) fn any_fits(
        &self,
        offers: &RoaringBitmap,
        conditions: &Conditions<'_>,
        tried: &[OfferId],
    ) -> bool {
        let new = |at| {
            self.rows
                .get(at)
                .is_some_and(|row| !tried.contains(&row.id))
        };
        offers.iter().any(|at| self.fits(at, conditions) && new(at))
    }

    /// Leaves those of some offers that can take another lease at all.
    pub(crate) fn keep_free(&self, offers: &mut RoaringBitmap) {
        *offers &= &self.free;
    }
}
