//! The best row for what is wanted, found without looking at all of them: the cheapest for this lease, then the order of
//! price.
//!
//! Whoever is looked at is checked against every condition; the ways differ in who that is. Rows of the condition that
//! fewest meet, in the order of price until one fits, where they are kept in that order. The rows of all offers in that
//! order, where many fit. And what the bitmaps of all conditions have in common, where looking got too long.

mod explain;
mod walk;

use std::borrow::Cow;
use std::cell::OnceCell;

use roaring::RoaringBitmap;

use super::NoMatch;
use super::candidates::{Candidates, intersection};
use super::index::{AvoidedRows, Index};
use super::line::Line;
use super::row::{Rank, Row, RowId, Rows};
use crate::matching::{Condition, Conditions, Wanted};

/// Rows whose ranks are read before the first is compared: they stand apart in memory, and so the processor fetches several
/// at a time.
const AT_ONCE: usize = 32;
/// More lines are not walked together: each has to be asked where it begins.
const FEW_LINES: usize = 64;

/// How much is tried one way before the next. The answer does not depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Rows of one condition that are looked at one by one.
    pub(super) few: u64,
    /// Rows of a walk through some conditions' rows before it is given up, if another way is not shorter before that.
    pub(super) walked: usize,
    /// Rows of a walk through all before it is given up.
    pub(super) steps: usize,
    /// Rows that are sorted for a list.
    pub(super) sorted: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            few: 2_048,
            walked: 32_768,
            steps: 4_096,
            sorted: 20_000,
        }
    }
}

/// All rows in the order of price.
#[derive(Clone, Copy)]
pub(super) struct Lines<'b> {
    /// Rows with a free lease, in order.
    pub(super) open: &'b Line<Rank>,
    /// The other ones, in order.
    pub(super) sold_out: &'b Line<Rank>,
    /// Rows with a free lease.
    pub(super) free: &'b RoaringBitmap,
}

/// What is wanted, and where it is looked for.
pub(super) struct Search<'b> {
    rows: &'b Rows,
    index: &'b Index,
    lines: Lines<'b>,
    conditions: &'b Conditions<'b>,
    /// Rows that are not wanted.
    excluded: &'b [RowId],
    effort: Effort,
    /// The rows that each condition leaves, in the conditions' order.
    candidates: Vec<Candidates<'b>>,
    /// Rows that are not worth a look.
    avoided: AvoidedRows<'b>,
    /// What all of them leave, once somebody wants to know.
    left: OnceCell<Left<'b>>,
}

/// Rows that all conditions leave, and maybe some more.
enum Left<'b> {
    /// In order.
    Few(Vec<RowId>),
    Many(Cow<'b, RoaringBitmap>),
}

impl Left<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Few(rows) => rows.len() as u64,
            Self::Many(rows) => rows.len(),
        }
    }

    fn contains(&self, at: RowId) -> bool {
        match self {
            Self::Few(rows) => rows.binary_search(&at).is_ok(),
            Self::Many(rows) => rows.contains(at),
        }
    }

    fn iter(&self) -> Box<dyn Iterator<Item = RowId> + '_> {
        match self {
            Self::Few(rows) => Box::new(rows.iter().copied()),
            Self::Many(rows) => Box::new(rows.iter()),
        }
    }
}

/// On which side of the price limits a row is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Price {
    Within,
    Above,
}

/// Place in the order of a question: what the lease would cost first, then the order of price.
type Key = (u128, Rank);

/// Bitmaps of one condition: a row that meets it is in one of them.
type Sets<'b> = Vec<&'b RoaringBitmap>;

fn is_in_each(at: RowId, conditions: &[Sets<'_>]) -> bool {
    let is_in = |sets: &Sets<'_>| sets.iter().any(|set| set.contains(at));
    conditions.iter().all(is_in)
}

impl<'b> Search<'b> {
    pub(super) fn new(
        rows: &'b Rows,
        index: &'b Index,
        lines: Lines<'b>,
        conditions: &'b Conditions<'b>,
        excluded: &'b [RowId],
        effort: Effort,
    ) -> Self {
        Self {
            rows,
            index,
            lines,
            conditions,
            excluded,
            effort,
            candidates: index.candidates(conditions, rows),
            avoided: index.avoided(conditions.avoided()),
            left: OnceCell::new(),
        }
    }

    /// The best row that is free.
    pub(super) fn best(&self) -> Result<RowId, NoMatch> {
        let best = self.find(Price::Within, true);
        best.ok_or_else(|| self.explain())
    }

    /// Rows in order, free or not, behind this one; at most `limit`.
    pub(super) fn list(&self, limit: usize, after: Option<Rank>) -> Vec<Rank> {
        let after = after.map(|rank| (self.wanted().cost(&rank.prices()), rank));
        let fits =
            |at| Some(self.key(*self.rows.rank(at))) > after && self.fits(at, Price::Within, false);
        let possible = self.left();
        if possible.len() <= self.effort.sorted {
            let found = possible.iter().filter(|at| fits(*at));
            let mut found: Vec<_> = found.map(|at| self.key(*self.rows.rank(at))).collect();
            found.sort_unstable();
            found.truncate(limit);
            return found.into_iter().map(|(_, rank)| rank).collect();
        }
        let accepts = |at| possible.contains(at) && fits(at);
        let lines = self.all_lines(false);
        let found = self.walk(&lines, Price::Within, limit, usize::MAX, accepts);
        found.unwrap_or_default()
    }

    fn wanted(&self) -> &Wanted<'b> {
        self.conditions.wanted()
    }

    /// The ranks of some rows, all read before the first is looked at.
    fn ranks(&self, rows: &[RowId]) -> [Rank; AT_ONCE] {
        let mut ranks = [Rank::first_at(0); AT_ONCE];
        for (rank, at) in ranks.iter_mut().zip(rows) {
            *rank = *self.rows.rank(*at);
        }
        ranks
    }

    fn key(&self, rank: Rank) -> Key {
        (self.wanted().cost(&rank.prices()), rank)
    }

    /// All candidates, the fewest first.
    fn by_size(&self) -> Vec<&Candidates<'b>> {
        let mut by_size: Vec<_> = self.candidates.iter().collect();
        by_size.sort_by_key(|some| some.at_most());
        by_size
    }

    /// What all conditions leave.
    fn left(&self) -> &Left<'b> {
        self.left.get_or_init(|| {
            let by_size = self.by_size();
            match by_size.split_first() {
                Some((fewest, others)) if fewest.at_most() <= self.effort.few => {
                    let probes = self.probes(others.iter().copied());
                    let mut rows = fewest.rows();
                    rows.retain(|at| is_in_each(*at, &probes));
                    rows.sort_unstable();
                    rows.dedup();
                    Left::Few(rows)
                }
                _ => {
                    let mut rows = intersection(&by_size, self.index.all());
                    if !self.avoided.is_empty() {
                        self.avoided.leave(rows.to_mut());
                    }
                    Left::Many(rows)
                }
            }
        })
    }

    fn all_lines(&self, free: bool) -> Vec<&'b Line<Rank>> {
        let others = (!free).then_some(self.lines.sold_out);
        std::iter::once(self.lines.open).chain(others).collect()
    }

    /// Bitmaps that a row of one condition is looked up in before it is looked at itself.
    fn probes<'a>(&self, others: impl Iterator<Item = &'a Candidates<'b>>) -> Vec<Sets<'b>>
    where
        'b: 'a,
    {
        let all = self.index.all().len();
        // What nearly all rows meet is not worth it.
        let telling = others.filter(|other| other.at_most() < all - all / 8);
        telling.filter_map(|other| other.sets()).collect()
    }

    /// The first row in order on one side of the price limits.
    fn find(&self, price: Price, free: bool) -> Option<RowId> {
        let by_size = self.by_size();
        let Some(fewest) = by_size.first() else {
            return self.find_anywhere(price, free);
        };
        let few = fewest.at_most() <= self.effort.few;
        let known = self.left.get();
        if known.is_some_and(|left| left.len() <= self.effort.few)
            || (few && fewest.lines().is_none())
        {
            return self.first_of(self.left().iter(), price, free);
        }
        let all = self.index.all().len();
        let mut own = by_size.iter().filter_map(|some| {
            let lines = some.lines()?;
            (few || lines.len() <= FEW_LINES).then_some((
                Some(some.condition),
                lines,
                some.at_most(),
            ))
        });
        let everything = || (None, self.all_lines(free), all);
        let (walked, lines, among) = own.next().unwrap_or_else(everything);
        let steps = if few {
            usize::MAX
        } else {
            let expected = self.expected(&by_size);
            // Looks at rows, on the one way and on the other. Where the first is shorter but takes longer than expected, it
            // is given up when the other one would have been done.
            let walking = among / expected.max(1);
            let intersecting = fewest.looks_to_join() + expected;
            if walking > intersecting {
                return self.first_of(self.left().iter(), price, free);
            }
            self.effort.walked.min(intersecting as usize)
        };
        let others = by_size.iter().filter(|some| Some(some.condition) != walked);
        let mut probes = self.probes(others.copied());
        if walked.is_some() && free && self.lines.free.len() < all {
            probes.insert(0, vec![self.lines.free]);
        }
        let accepts =
            |at| is_in_each(at, &probes) && !self.avoided.probe(at) && self.fits(at, price, free);
        match self.walk(&lines, price, 1, steps, accepts) {
            Ok(found) => found.first().map(|rank| rank.row),
            Err(_) => self.first_of(self.left().iter(), price, free),
        }
    }

    /// The first row in order where no condition is indexed.
    fn find_anywhere(&self, price: Price, free: bool) -> Option<RowId> {
        let lines = self.all_lines(free);
        let steps = match self.avoided.are_few_sets() {
            true => usize::MAX,
            // So many sets are joined first, unless the cheapest rows are in none.
            false => self.effort.steps,
        };
        let accepts = |at| !self.avoided.probe(at) && self.fits(at, price, free);
        let found = self.walk(&lines, price, 1, steps, accepts).or_else(|_| {
            let left = self.left();
            let accepts = |at| left.contains(at) && self.fits(at, price, free);
            self.walk(&lines, price, 1, usize::MAX, accepts)
        });
        found.ok()?.first().map(|rank| rank.row)
    }

    /// How many rows meet all conditions, if one has nothing to do with another.
    fn expected(&self, by_size: &[&Candidates<'b>]) -> u64 {
        let all = u128::from(self.index.all().len().max(1));
        let fraction =
            |rows, some: &&Candidates<'b>| rows * u128::from(some.at_most()).min(all) / all;
        let wanted = all.saturating_sub(self.avoided.at_most().into());
        (by_size.iter().fold(all, fraction) * wanted / all) as u64
    }

    /// The first in order of some rows in any order.
    fn first_of(
        &self,
        mut rows: impl Iterator<Item = RowId>,
        price: Price,
        free: bool,
    ) -> Option<RowId> {
        let mut best: Option<Key> = None;
        loop {
            let mut some = [0; AT_ONCE];
            let filled = some.iter_mut().zip(&mut rows);
            let count = filled.map(|(slot, at)| *slot = at).count();
            if count == 0 {
                break;
            }
            for rank in &self.ranks(&some)[..count] {
                let key = self.key(*rank);
                if best.is_none_or(|first| key < first) && self.fits(rank.row, price, free) {
                    best = Some(key);
                }
            }
        }
        best.map(|(_, rank)| rank.row)
    }

    fn fits(&self, at: RowId, price: Price, free: bool) -> bool {
        let filter = self.wanted().filter;
        let prices = self.rows.rank(at).prices();
        (price == Price::Within) == self.wanted().affords(&prices)
            && self.rows.get(at).is_some_and(|row| {
                (!free || row.has_room(filter.mbit_up, filter.mbit_down))
                    && self.unmet(row, at) == Some(None)
            })
    }

    /// The condition that fails; nothing for a row that doesn't count.
    fn unmet(&self, row: &Row, at: RowId) -> Option<Option<Condition>> {
        let counts = row.expires_at >= self.conditions.now() && !self.excluded.contains(&at);
        counts.then(|| self.conditions.unmet(&self.rows.facts(row)))
    }
}
