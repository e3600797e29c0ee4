//! Rows by a number: all that have one value, and all that reach one of a few thresholds.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;

use super::candidates::Part;
use super::row::RowId;

/// Most rows, and most values, that are told exactly; beyond that it is those of the next looser threshold. Tests have no
/// time for that many.
const EXACT: u64 = if cfg!(test) { 32 } else { 2_048 };
const VALUES: usize = 64;

/// Which numbers are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The wanted one, or more.
    AtLeast,
    /// The wanted one, or less.
    AtMost,
}

/// Rows by a number.
#[derive(Clone, Debug)]
pub(super) struct Numbers<const N: usize> {
    side: Side,
    /// From the one that most rows reach to the one that fewest do.
    limits: [u32; N],
    reaching: [RoaringBitmap; N],
    values: BTreeMap<u32, RoaringBitmap>,
}

impl<const N: usize> Numbers<N> {
    pub(super) fn new(side: Side, limits: [u32; N]) -> Self {
        Self {
            side,
            limits,
            reaching: std::array::from_fn(|_| RoaringBitmap::new()),
            values: BTreeMap::new(),
        }
    }

    fn reaches(&self, value: u32, limit: u32) -> bool {
        match self.side {
            Side::AtLeast => value >= limit,
            Side::AtMost => value <= limit,
        }
    }

    /// How many of the thresholds, from the loosest, a value reaches.
    fn reached(&self, value: u32) -> usize {
        let reached = |limit: &u32| self.reaches(value, *limit);
        self.limits
            .iter()
            .take_while(|limit| reached(limit))
            .count()
    }

    /// Changes the number of a row; it may have had none, or have none any more.
    pub(super) fn change(&mut self, at: RowId, was: Option<u32>, is: Option<u32>) {
        if was == is {
            return;
        }
        let before = was.map_or(0, |value| self.reached(value));
        let after = is.map_or(0, |value| self.reached(value));
        for set in self.reaching.iter_mut().take(before).skip(after) {
            set.remove(at);
        }
        for set in self.reaching.iter_mut().take(after).skip(before) {
            set.insert(at);
        }
        if let Some(value) = was
            && let Some(set) = self.values.get_mut(&value)
        {
            set.remove(at);
            if set.is_empty() {
                self.values.remove(&value);
            }
        }
        if let Some(value) = is {
            self.values.entry(value).or_default().insert(at);
        }
    }

    /// Rows on the wanted side of a number: exactly these when they are few, and otherwise those of the strictest threshold
    /// that all of them reach, if there is one.
    pub(super) fn find(&self, wanted: u32) -> Option<Vec<Part<'_>>> {
        let range = match self.side {
            Side::AtLeast => self.values.range(wanted..),
            Side::AtMost => self.values.range(..=wanted),
        };
        let (mut parts, mut rows) = (Vec::new(), 0);
        for (_, set) in range {
            rows += set.len();
            parts.push(Part::Set(set));
            if rows > EXACT || parts.len() > VALUES {
                let reached = self.reached(wanted).checked_sub(1)?;
                return Some(vec![Part::Set(self.reaching.get(reached)?)]);
            }
        }
        Some(parts)
    }
}
