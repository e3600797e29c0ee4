//! The best row for what is wanted, found without looking at all of them.
//!
//! Three ways, all with the same answer. A condition that few rows meet: look at each of these. Conditions that many
//! rows meet: walk in the order of price, which meets one soon. What is left, many rows of each condition but few of all:
//! intersect their bitmaps, and look at the rest.

use std::collections::BTreeSet;

use ipsx_metering::{Prices, UnixSeconds};
use roaring::RoaringBitmap;

use super::NoMatch;
use super::index::{Candidates, Index, intersection};
use super::row::{Rank, Row, RowId, Rows};
use crate::matching::{Condition, Wanted};

/// How much is tried one way before the next. The answer does not depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Rows of one condition that are looked at one by one.
    pub(super) few: u64,
    /// Steps of a walk before it is given up.
    pub(super) steps: usize,
    /// Rows that are sorted for a list.
    pub(super) sorted: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            few: 2_048,
            steps: 1_024,
            sorted: 20_000,
        }
    }
}

/// What is wanted, and where it is looked for.
pub(super) struct Search<'b> {
    pub(super) rows: &'b Rows,
    pub(super) index: &'b Index,
    /// Rows with a free lease, in order.
    pub(super) open: &'b BTreeSet<Rank>,
    /// The other ones, in order.
    pub(super) sold_out: &'b BTreeSet<Rank>,
    pub(super) wanted: &'b Wanted<'b>,
    pub(super) now: UnixSeconds,
    /// Rows that are not wanted.
    pub(super) excluded: &'b [RowId],
    pub(super) effort: Effort,
}

/// On which side of the price limits a row is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Price {
    Within,
    Above,
}

impl Search<'_> {
    /// The cheapest row that is free.
    pub(super) fn best(&self) -> Result<RowId, NoMatch> {
        let mut candidates = self.index.candidates(self.wanted.filter);
        candidates.sort_by_key(Candidates::at_most);
        if let Some(best) = self.find(&candidates, Price::Within, true) {
            return Ok(best);
        }
        Err(self.explain(&candidates))
    }

    /// Rows in order, free or not; at most `limit`.
    pub(super) fn list(&self, limit: usize) -> Vec<RowId> {
        let mut candidates = self.index.candidates(self.wanted.filter);
        candidates.sort_by_key(Candidates::at_most);
        let listed = |at: &RowId| {
            self.rows
                .get(*at)
                .is_some_and(|row| self.fits(row, *at, Price::Within, false))
        };
        let possible = intersection(&candidates, self.index.all());
        if possible.len() <= self.effort.sorted {
            let mut found: Vec<_> = possible.iter().filter(listed).collect();
            found.sort_by_key(|at| self.rows.get(*at).map(|row| row.rank(*at)));
            found.truncate(limit);
            return found;
        }
        let walk = merge(self.open.iter(), self.sold_out.iter());
        let walk = walk.take_while(|rank| self.may_be_within(rank));
        walk.map(|rank| rank.row)
            .filter(|at| possible.contains(*at))
            .filter(listed)
            .take(limit)
            .collect()
    }

    /// The first row in order on one side of the price limits.
    fn find(&self, by_size: &[Candidates<'_>], price: Price, free: bool) -> Option<RowId> {
        if let Some(fewest) = by_size.first().filter(|c| c.at_most() <= self.effort.few) {
            return self.first_of(fewest.rows(), price, free);
        }
        if let Ok(found) = self.walk(price, free) {
            return found;
        }
        let possible = intersection(by_size, self.index.all());
        self.first_of(possible.iter(), price, free)
    }

    /// The first in order of some rows in any order.
    fn first_of(
        &self,
        rows: impl Iterator<Item = RowId>,
        price: Price,
        free: bool,
    ) -> Option<RowId> {
        let mut best: Option<(Rank, u64)> = None;
        for at in rows {
            let coarse = self.rows.coarse_price(at);
            if best.is_some_and(|(_, least)| coarse > least) {
                continue;
            }
            let Some(row) = self.rows.get(at) else {
                continue;
            };
            let rank = row.rank(at);
            if best.is_none_or(|(first, _)| rank < first) && self.fits(row, at, price, free) {
                best = Some((rank, coarse));
            }
        }
        best.map(|(rank, _)| rank.row)
    }

    /// Looks in order of price; gives up with an error after some steps.
    fn walk(&self, price: Price, free: bool) -> Result<Option<RowId>, GaveUp> {
        let none = BTreeSet::new();
        let others = if free { &none } else { self.sold_out };
        for (step, rank) in merge(self.open.iter(), others.iter()).enumerate() {
            if price == Price::Within && !self.may_be_within(rank) {
                return Ok(None);
            }
            if step == self.effort.steps {
                return Err(GaveUp);
            }
            let fits = |row| self.fits(row, rank.row, price, free);
            if self.rows.get(rank.row).is_some_and(fits) {
                return Ok(Some(rank.row));
            }
        }
        Ok(None)
    }

    /// Whether this row, or one after it, can be within the price limits.
    fn may_be_within(&self, rank: &Rank) -> bool {
        rank.per_second() <= self.wanted.max_prices.per_second.0.0
    }

    fn fits(&self, row: &Row, at: RowId, price: Price, free: bool) -> bool {
        let filter = self.wanted.filter;
        (price == Price::Within) == self.wanted.affords(&row.prices)
            && (!free || row.has_room(filter.mbit_up, filter.mbit_down))
            && self.unmet(row, at) == Some(None)
    }

    /// The condition that fails; nothing for a row that doesn't count.
    fn unmet(&self, row: &Row, at: RowId) -> Option<Option<Condition>> {
        let counts = row.expires_at >= self.now && !self.excluded.contains(&at);
        counts.then(|| self.wanted.unmet(&self.rows.facts(row), self.now))
    }

    /// Why there is none.
    fn explain(&self, by_size: &[Candidates<'_>]) -> NoMatch {
        let prices = |at: RowId| self.rows.get(at).map(|row| row.prices);
        let dearer: Option<Prices> = self.find(by_size, Price::Above, true).and_then(prices);
        let affordable = self.find(by_size, Price::Within, false).is_some();
        match dearer {
            Some(cheapest) if !affordable => NoMatch::PriceTooLow { cheapest },
            Some(_) => NoMatch::SoldOut { dearer },
            None if affordable || self.find(by_size, Price::Above, false).is_some() => {
                NoMatch::SoldOut { dearer }
            }
            None => NoMatch::NoFilterMatch {
                nearest: self.nearest(),
            },
        }
    }

    /// What the row that comes nearest fails by.
    ///
    /// No row meets all conditions. Those that meet the first few are one within the other, so the nearest are those of
    /// the longest run of conditions that leaves any.
    fn nearest(&self) -> Option<Condition> {
        let mut runs = vec![(None, self.index.all().clone())];
        for next in self.index.candidates(self.wanted.filter) {
            let narrowed = match runs.last() {
                Some((_, rows)) if !rows.is_empty() => next.narrow(rows.clone()),
                _ => break,
            };
            runs.push((Some(next.condition), narrowed));
        }
        let mut nearest = None;
        for (condition, rows) in runs.iter().rev() {
            nearest = nearest.max(self.furthest(rows));
            // What is not in this run fails by its condition at the latest. What is in it may fail sooner.
            if nearest.is_some() && nearest >= *condition {
                break;
            }
        }
        nearest
    }

    fn furthest(&self, rows: &RoaringBitmap) -> Option<Condition> {
        let unmet = |at: RowId| {
            self.rows
                .get(at)
                .and_then(|row| self.unmet(row, at))
                .flatten()
        };
        rows.iter().filter_map(unmet).max()
    }
}

/// A walk took too long.
struct GaveUp;

/// Two sorted runs as one.
fn merge<'a>(
    a: impl Iterator<Item = &'a Rank>,
    b: impl Iterator<Item = &'a Rank>,
) -> impl Iterator<Item = &'a Rank> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(first), Some(second)) if second < first => b.next(),
        (Some(_), _) => a.next(),
        (None, _) => b.next(),
    })
}
