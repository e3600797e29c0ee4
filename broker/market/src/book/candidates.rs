//! Rows that may meet a condition, in whatever form the index has them.

use std::borrow::Cow;

use roaring::RoaringBitmap;

use super::line::Line;
use super::posting::Posting;
use super::row::{Rank, RowId};
use crate::matching::Condition;

/// Most parts in which each row is looked up.
const FEW_PARTS: usize = 4;

/// Rows of a bitmap that are intersected in the time of one look at a row: the rows stand apart in memory.
const PASSED_BY: u64 = 32;

/// Some of the rows of a condition.
#[derive(Debug)]
pub(super) enum Part<'i> {
    /// In no order.
    Set(&'i RoaringBitmap),
    /// In the order of price.
    Listed(&'i Posting),
    /// In no order, and few.
    Rows(&'i [RowId]),
}

impl<'i> Part<'i> {
    fn len(&self) -> u64 {
        match self {
            Self::Set(set) => set.len(),
            Self::Listed(posting) => posting.len(),
            Self::Rows(rows) => rows.len() as u64,
        }
    }

    fn set(&self) -> Option<&'i RoaringBitmap> {
        match self {
            Self::Set(set) => Some(set),
            Self::Listed(posting) => posting.set(),
            Self::Rows(_) => None,
        }
    }

    fn for_each(&self, mut look: impl FnMut(RowId)) {
        match self {
            Self::Set(set) => set.iter().for_each(look),
            Self::Listed(posting) => posting.line().rows().for_each(look),
            Self::Rows(rows) => rows.iter().for_each(|at| look(*at)),
        }
    }
}

/// Rows that may meet one condition.
#[derive(Debug)]
pub(super) struct Candidates<'i> {
    pub(super) condition: Condition,
    parts: Vec<Part<'i>>,
    at_most: u64,
}

impl<'i> Candidates<'i> {
    pub(super) fn new(condition: Condition, parts: Vec<Part<'i>>) -> Self {
        Self {
            condition,
            at_most: parts.iter().map(Part::len).sum(),
            parts,
        }
    }

    /// How many rows there are, or more: one in several parts counts in each.
    pub(super) fn at_most(&self) -> u64 {
        self.at_most
    }

    /// How many rows are looked at in the time in which all become one bitmap to be intersected with others.
    pub(super) fn looks_to_join(&self) -> u64 {
        let looks = |part: &Part<'i>| match part.set() {
            Some(_) => part.len() / PASSED_BY,
            None => part.len(),
        };
        self.parts.iter().map(looks).sum()
    }

    /// Every row, in no order; one in several parts comes with each.
    pub(super) fn rows(&self) -> Vec<RowId> {
        let mut rows = Vec::with_capacity(self.at_most as usize);
        for part in &self.parts {
            part.for_each(|at| rows.push(at));
        }
        rows
    }

    /// All rows in the order of price, if that is how they are kept.
    pub(super) fn lines(&self) -> Option<Vec<&'i Line<Rank>>> {
        let line = |part: &Part<'i>| match part {
            Part::Listed(posting) => Some(posting.line()),
            _ => None,
        };
        self.parts.iter().map(line).collect()
    }

    /// Bitmaps that tell quickly whether a row is one of these, if there are a few such.
    pub(super) fn sets(&self) -> Option<Vec<&'i RoaringBitmap>> {
        let few = self.parts.len() <= FEW_PARTS;
        few.then(|| self.parts.iter().map(Part::set).collect())?
    }

    /// All rows as a bitmap.
    fn to_bitmap(&self) -> Cow<'i, RoaringBitmap> {
        if let [one] = self.parts.as_slice()
            && let Some(set) = one.set()
        {
            return Cow::Borrowed(set);
        }
        let (mut any, mut single) = (RoaringBitmap::new(), Vec::new());
        for part in &self.parts {
            match part.set() {
                Some(set) => any |= set,
                None => part.for_each(|at| single.push(at)),
            }
        }
        // One after the other they are put in much faster.
        single.sort_unstable();
        single.dedup();
        any |= RoaringBitmap::from_sorted_iter(single).unwrap_or_default();
        Cow::Owned(any)
    }
}

/// All rows that may meet every condition. Candidates are taken in order, the fewest first if that is wanted.
pub(super) fn intersection<'i>(
    candidates: &[&Candidates<'i>],
    all: &'i RoaringBitmap,
) -> Cow<'i, RoaringBitmap> {
    let Some((first, rest)) = candidates.split_first() else {
        return Cow::Borrowed(all);
    };
    let mut rows = first.to_bitmap();
    for next in rest {
        if rows.is_empty() {
            break;
        }
        rows = Cow::Owned(match rows {
            Cow::Borrowed(set) => set & next.to_bitmap().as_ref(),
            Cow::Owned(set) => set & next.to_bitmap().as_ref(),
        });
    }
    rows
}
