//! Why there is no row.

use ipsx_metering::Prices;

use super::super::NoMatch;
use super::super::candidates::{Candidates, intersection};
use super::super::row::RowId;
use super::{Price, Search, is_in_each};
use crate::matching::Condition;

impl Search<'_> {
    pub(super) fn explain(&self) -> NoMatch {
        if self.expected(&self.by_size()) <= self.effort.few {
            // What is left is asked four times.
            self.left();
        }
        let prices = |at: RowId| self.rows.rank(at).prices();
        let dearer: Option<Prices> = self.find(Price::Above, true).map(prices);
        let affordable = self.find(Price::Within, false).is_some();
        match dearer {
            Some(cheapest) if !affordable => NoMatch::PriceTooLow { cheapest },
            Some(_) => NoMatch::SoldOut { dearer },
            None if affordable || self.find(Price::Above, false).is_some() => {
                NoMatch::SoldOut { dearer }
            }
            None => NoMatch::NoFilterMatch {
                nearest: self.nearest(),
            },
        }
    }

    /// What the row that comes nearest fails by, when no row meets all conditions.
    ///
    /// Whoever fails later than another meets all conditions up to the one that this fails by. So from any row on, one that
    /// comes nearer is looked for among the candidates of these, until there is none.
    fn nearest(&self) -> Option<Condition> {
        let mut nearest = self.later_than(None)?;
        while let Some(later) = self.later_than(Some(nearest)) {
            nearest = later;
        }
        Some(nearest)
    }

    /// What a row fails by that meets this condition and all before it.
    fn later_than(&self, met: Option<Condition>) -> Option<Condition> {
        if met == Some(Condition::Hours) {
            return None;
        }
        let up_to = self.candidates.iter().filter(|c| Some(c.condition) <= met);
        let mut by_size: Vec<&Candidates<'_>> = up_to.collect();
        by_size.sort_by_key(|some| some.at_most());
        let later = |at: RowId| {
            let unmet = self.unmet(self.rows.get(at)?, at)?;
            unmet.filter(|unmet| Some(*unmet) > met)
        };
        // Whoever meets nothing more than these is not left.
        let met_all = by_size.len() == self.candidates.len();
        if met_all && (self.avoided.is_empty() || met >= Some(Condition::Avoided)) {
            return self.left().iter().find_map(later);
        }
        let Some((fewest, others)) = by_size.split_first() else {
            return self.index.all().iter().find_map(later);
        };
        if fewest.at_most() <= self.effort.few {
            let probes = self.probes(others.iter().copied());
            let rows = fewest.rows().into_iter();
            return rows.filter(|at| is_in_each(*at, &probes)).find_map(later);
        }
        let left = intersection(&by_size, self.index.all());
        left.iter().find_map(later)
    }
}
