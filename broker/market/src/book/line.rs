//! Rows in some order, by pages: each page after the one before it, and within a page in no order.
//!
//! Four bytes a row, where a search tree keeps the key as well. To put a row in or take it out, its page has to be found
//! and nothing in it compared; who reads looks at a page as a whole, and finds the keys with the rows.

use std::collections::{BTreeMap, btree_map};

use super::row::RowId;

/// A page of so many rows becomes two.
const FULL: usize = 128;
/// A page of fewer joins the one before it.
const SPARSE: usize = 24;

/// Rows in the order of a key that no two of them share.
#[derive(Clone, Debug)]
pub(super) struct Line<K> {
    /// The first page; most lines have no other.
    head: Vec<RowId>,
    /// The first key of all. Who walks several lines at once opens only those that could hold a better row.
    first: Option<K>,
    /// The other ones by their bounds. No key in a page is below its bound, and all in the pages before it are.
    pages: BTreeMap<K, Vec<RowId>>,
}

impl<K> Default for Line<K> {
    fn default() -> Self {
        Self {
            head: Vec::new(),
            first: None,
            pages: BTreeMap::new(),
        }
    }
}

/// One page, with its bound; an empty first one has none.
pub(super) type Page<'l, K> = (Option<K>, &'l [RowId]);

impl<K: Copy + Ord> Line<K> {
    /// Puts a row in; `key_of` tells those of the rows that are in already, and of this one.
    pub(super) fn insert(&mut self, key: &K, at: RowId, key_of: impl Fn(RowId) -> K) {
        if self.first.is_none_or(|first| *key < first) {
            self.first = Some(*key);
        }
        let page = self.page_mut(key);
        page.push(at);
        if page.len() >= FULL {
            page.select_nth_unstable_by_key(FULL / 2, |row| key_of(*row));
            let upper = page.split_off(FULL / 2);
            if let Some(first) = upper.first() {
                self.pages.insert(key_of(*first), upper);
            }
        }
    }

    /// Takes a row out that was put in with this key. False when it is not there. `key_of` tells those of the others.
    pub(super) fn remove(&mut self, key: &K, at: RowId, key_of: impl Fn(RowId) -> K) -> bool {
        let page = self.page_mut(key);
        let Some(found) = page.iter().position(|row| *row == at) else {
            return false;
        };
        page.swap_remove(found);
        if page.len() < SPARSE {
            self.join(key);
        }
        self.forget_first(key, key_of);
        true
    }

    /// Finds the first key anew if it was this one.
    fn forget_first(&mut self, key: &K, key_of: impl Fn(RowId) -> K) {
        if self.first != Some(*key) {
            return;
        }
        // The first page may be empty while there are others.
        let mut pages = std::iter::once(&self.head).chain(self.pages.values());
        let page = pages.find(|page| !page.is_empty());
        self.first = page.and_then(|page| page.iter().map(|row| key_of(*row)).min());
    }

    /// Moves a row whose key has changed; nothing is to do while it stays in its page.
    pub(super) fn reposition(&mut self, was: &K, is: &K, at: RowId, key_of: impl Fn(RowId) -> K) {
        if self.bound(was) != self.bound(is) {
            if self.remove(was, at, &key_of) {
                self.insert(is, at, key_of);
            }
        } else if self.first.is_some_and(|first| *is < first) {
            self.first = Some(*is);
        } else {
            self.forget_first(was, key_of);
        }
    }

    /// All pages.
    pub(super) fn pages(&self) -> Pages<'_, K> {
        let bound = self.first.filter(|_| !self.head.is_empty());
        Pages {
            head: Some((bound, &self.head)),
            rest: self.pages.range(..),
        }
    }

    /// The pages from the one that this key would be in.
    pub(super) fn pages_from(&self, key: &K) -> Pages<'_, K> {
        match self.bound(key) {
            None => self.pages(),
            Some(bound) => Pages {
                head: None,
                rest: self.pages.range(bound..),
            },
        }
    }

    /// Every row, one page after the other.
    pub(super) fn rows(&self) -> impl Iterator<Item = RowId> {
        self.pages().flat_map(|(_, rows)| rows.iter().copied())
    }

    fn bound(&self, key: &K) -> Option<K> {
        self.pages
            .range(..=key)
            .next_back()
            .map(|(bound, _)| *bound)
    }

    fn page_mut(&mut self, key: &K) -> &mut Vec<RowId> {
        let below = self.pages.range_mut(..=key).next_back();
        below.map_or(&mut self.head, |(_, page)| page)
    }

    /// Puts the page of this key at the end of the one before, if both have room.
    fn join(&mut self, key: &K) {
        let mut until = self.pages.range_mut(..=key);
        let Some((bound, page)) = until.next_back() else {
            return;
        };
        let before = until.next_back();
        let before = before.map_or(&mut self.head, |(_, page)| page);
        if before.len() + page.len() <= FULL / 2 || page.is_empty() {
            before.append(page);
            let bound = *bound;
            self.pages.remove(&bound);
        }
    }
}

/// Pages, the first of their order first.
#[derive(Clone, Debug)]
pub(super) struct Pages<'l, K> {
    head: Option<Page<'l, K>>,
    rest: btree_map::Range<'l, K, Vec<RowId>>,
}

impl<'l, K: Copy> Iterator for Pages<'l, K> {
    type Item = Page<'l, K>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        let (bound, page) = self.rest.next()?;
        Some((Some(*bound), page))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Keys that the rows of these tests have by themselves.
    fn key_of(at: RowId) -> (u64, RowId) {
        (u64::from(at % 7), at)
    }

    fn rows(line: &Line<(u64, RowId)>) -> Vec<RowId> {
        let mut last = None;
        let mut all = Vec::new();
        for (bound, page) in line.pages() {
            let mut page: Vec<_> = page.iter().map(|at| key_of(*at)).collect();
            page.sort_unstable();
            assert!(bound.is_none_or(|bound| page.first().is_some_and(|first| *first >= bound)));
            assert!(bound.is_none_or(|bound| last.is_none_or(|last| last < bound)));
            last = page.last().copied().or(last);
            all.extend(page);
        }
        all.into_iter().map(|(_, at)| at).collect()
    }

    proptest! {
        #[test]
        fn a_line_holds_its_rows_in_order(steps in prop::collection::vec((0u32..600, 0u8..3), 1..2_000)) {
            let (mut line, mut model) = (Line::default(), BTreeSet::new());
            for (at, what) in steps {
                let key = key_of(at);
                if what > 0 && model.insert(key) {
                    line.insert(&key, at, key_of);
                } else {
                    prop_assert_eq!(line.remove(&key, at, key_of), model.remove(&key));
                }
                prop_assert_eq!(line.first, model.first().copied());
            }
            let expected: Vec<_> = model.iter().map(|(_, at)| *at).collect();
            prop_assert_eq!(rows(&line), expected);
            for from in [(0, 0), (3, 100), (6, 599)] {
                let after: Vec<_> = line.pages_from(&from).flat_map(|(_, rows)| rows).collect();
                prop_assert!(model.range(from..).all(|(_, at)| after.contains(&at)));
            }
        }
    }

    #[test]
    fn a_row_whose_key_changes_is_found_by_the_new_one() {
        let mut keys: Vec<u64> = (0..1_000).collect();
        let mut line = Line::default();
        for at in 0..1_000 {
            line.insert(&keys[at as usize], at, |row| keys[row as usize]);
        }
        for (at, key) in [(5u32, 5_000u64), (999, 1_001), (500, 1_002)] {
            let was = keys[at as usize];
            keys[at as usize] = key;
            line.reposition(&was, &key, at, |row| keys[row as usize]);
            assert!(line.remove(&key, at, |row| keys[row as usize]));
            line.insert(&key, at, |row| keys[row as usize]);
        }
        assert_eq!(line.rows().count(), 1_000);
        // The first one moves within its page, to the front of all, and far behind.
        for key in [3, 0, 700] {
            let was = std::mem::replace(&mut keys[0], key);
            line.reposition(&was, &key, 0, |row| keys[row as usize]);
            let first = line.rows().map(|row| keys[row as usize]).min();
            assert_eq!(line.first, first);
        }
    }
}
