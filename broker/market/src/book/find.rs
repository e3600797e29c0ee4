//! The best row for what is wanted, found without looking at all of them: the cheapest for this lease, then the order of
//! price.
//!
//! Three ways, all with the same answer. A condition that few rows meet: look at each of these. Conditions that many
//! rows meet: walk in the order of price, which meets one soon. What is left, many rows of each condition but few of all:
//! intersect their bitmaps, and look at the rest.

use std::collections::BTreeSet;

use ipsx_metering::Prices;
use roaring::RoaringBitmap;

use super::NoMatch;
use super::index::{Candidates, Index, intersection};
use super::row::{Rank, Row, RowId, Rows, coarse};
use crate::matching::{Condition, Conditions, Wanted};

/// Most bitmaps of one condition in which each row is looked up.
const FEW_PARTS: usize = 4;

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
    pub(super) conditions: Conditions<'b>,
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

/// Place in the order of a question: what the lease would cost first, then the order of price.
type Key = (u128, Rank);

impl Search<'_> {
    /// The best row that is free.
    pub(super) fn best(&self) -> Result<RowId, NoMatch> {
        let mut candidates = self.index.candidates(self.wanted().filter);
        candidates.sort_by_key(Candidates::at_most);
        if let Some(best) = self.find(&candidates, Price::Within, true) {
            return Ok(best);
        }
        Err(self.explain(&candidates))
    }

    /// Rows in order, free or not, behind this one; at most `limit`.
    pub(super) fn list(&self, limit: usize, after: Option<Rank>) -> Vec<Rank> {
        let after = after.map(|rank| (self.wanted().cost(&rank.prices(rank.per_gib)), rank));
        let mut candidates = self.index.candidates(self.wanted().filter);
        candidates.sort_by_key(Candidates::at_most);
        let fits = |at: RowId| {
            let row = self.rows.get(at);
            row.is_some_and(|row| self.fits(row, at, Price::Within, false))
        };
        let possible = intersection(&candidates, self.index.all());
        if possible.len() <= self.effort.sorted {
            let found = possible.iter().filter(|at| fits(*at));
            let found = found.filter_map(|at| self.key(at));
            let mut found: Vec<_> = found.filter(|key| Some(*key) > after).collect();
            found.sort_unstable();
            found.truncate(limit);
            return found.into_iter().map(|(_, rank)| rank).collect();
        }
        let accepts = |at| possible.contains(at) && fits(at);
        let found = self.walk(Price::Within, false, (limit, after), usize::MAX, accepts);
        found.unwrap_or_default()
    }

    fn wanted(&self) -> &Wanted<'_> {
        self.conditions.wanted()
    }

    fn key(&self, at: RowId) -> Option<Key> {
        let row = self.rows.get(at)?;
        Some((self.wanted().cost(&row.prices), row.rank(at)))
    }

    /// The first row in order on one side of the price limits.
    fn find(&self, by_size: &[Candidates<'_>], price: Price, free: bool) -> Option<RowId> {
        if let Some((fewest, others)) = by_size.split_first()
            && fewest.at_most() <= self.effort.few
        {
            let others: Vec<_> = others.iter().filter(|c| c.parts() <= FEW_PARTS).collect();
            let possible = |at: &RowId| others.iter().all(|other| other.contains(*at));
            return self.first_of(fewest.rows(), possible, price, free);
        }
        let fits = |at| {
            let row = self.rows.get(at);
            row.is_some_and(|row| self.fits(row, at, price, free))
        };
        if let Ok(found) = self.walk(price, free, (1, None), self.effort.steps, fits) {
            return found.first().map(|rank| rank.row);
        }
        let possible = intersection(by_size, self.index.all());
        self.first_of(possible.iter(), |_| true, price, free)
    }

    /// The first in order of some rows in any order.
    fn first_of(
        &self,
        rows: impl Iterator<Item = RowId>,
        possible: impl Fn(&RowId) -> bool,
        price: Price,
        free: bool,
    ) -> Option<RowId> {
        let seconds = u128::from(self.wanted().seconds.unwrap_or(1).max(1));
        let mut best: Option<Key> = None;
        // A dearer second alone costs more than all of the best.
        let mut dearest = u64::MAX;
        for at in rows {
            if self.rows.coarse_price(at) > dearest || !possible(&at) {
                continue;
            }
            let (Some(row), Some(key)) = (self.rows.get(at), self.key(at)) else {
                continue;
            };
            if best.is_none_or(|first| key < first) && self.fits(row, at, price, free) {
                best = Some(key);
                dearest = coarse(key.0 / seconds);
            }
        }
        best.map(|(_, rank)| rank.row)
    }

    /// Looks in the order of price for the first so many rows that are accepted, behind one; gives up with an error after
    /// some steps.
    ///
    /// Of one price per second, rows stand in the order of what they cost in all. So once one of them costs more than the
    /// worst that would be taken, the next price is what is looked at.
    fn walk(
        &self,
        price: Price,
        free: bool,
        (limit, after): (usize, Option<Key>),
        steps: usize,
        accepts: impl Fn(RowId) -> bool,
    ) -> Result<Vec<Rank>, GaveUp> {
        let none = BTreeSet::new();
        let others = if free { &none } else { self.sold_out };
        let (mut found, mut left, mut from) = (BTreeSet::<Key>::new(), steps, Some(0));
        while let Some(start) = from.map(Rank::first_at) {
            from = None;
            for rank in merge(self.open.range(start..), others.range(start..)) {
                let worst = found.last().filter(|_| found.len() >= limit);
                let time = self.wanted().cost(&rank.prices(0));
                if (price == Price::Within && !self.may_be_within(rank))
                    || limit == 0
                    || worst.is_some_and(|(cost, _)| time > *cost)
                {
                    break;
                }
                let key = (self.wanted().cost(&rank.prices(rank.per_gib)), *rank);
                if worst.is_some_and(|worst| key > *worst) {
                    from = rank.per_second.checked_add(1);
                    break;
                }
                left = left.checked_sub(1).ok_or(GaveUp)?;
                if Some(key) > after && accepts(rank.row) {
                    found.insert(key);
                    if found.len() > limit {
                        found.pop_last();
                    }
                }
            }
        }
        Ok(found.into_iter().map(|(_, rank)| rank).collect())
    }

    /// Whether this row, or one after it, can be within the price limits.
    fn may_be_within(&self, rank: &Rank) -> bool {
        rank.per_second <= self.wanted().max_prices.per_second.0.0
    }

    fn fits(&self, row: &Row, at: RowId, price: Price, free: bool) -> bool {
        let filter = self.wanted().filter;
        (price == Price::Within) == self.wanted().affords(&row.prices)
            && (!free || row.has_room(filter.mbit_up, filter.mbit_down))
            && self.unmet(row, at) == Some(None)
    }

    /// The condition that fails; nothing for a row that doesn't count.
    fn unmet(&self, row: &Row, at: RowId) -> Option<Option<Condition>> {
        let counts = row.expires_at >= self.conditions.now() && !self.excluded.contains(&at);
        counts.then(|| self.conditions.unmet(&self.rows.facts(row)))
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
        for next in self.index.candidates(self.wanted().filter) {
            let narrowed = match runs.last() {
                Some((_, rows)) if !rows.is_empty() => next.narrow(rows.clone()),
                _ => break,
            };
            runs.push((Some(next.condition), narrowed));
        }
        let mut nearest = None;
        for (at, (condition, rows)) in runs.iter().enumerate().rev() {
            // Who is in this run and not in the next one fails by the next one's condition at the latest.
            let latest = runs.get(at + 1).and_then(|(next, _)| *next);
            nearest = nearest.max(self.furthest(rows, latest));
            // What is not in this run fails by its condition at the latest. What is in it may fail sooner.
            if nearest.is_some() && nearest >= *condition {
                break;
            }
        }
        nearest
    }

    /// The latest condition that one of these rows fails by; `enough` is as good as any later one.
    fn furthest(&self, rows: &RoaringBitmap, enough: Option<Condition>) -> Option<Condition> {
        let mut latest = None;
        for at in rows {
            let row = self.rows.get(at);
            latest = latest.max(row.and_then(|row| self.unmet(row, at)).flatten());
            if enough.is_some() && latest >= enough {
                break;
            }
        }
        latest
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
