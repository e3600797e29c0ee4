//! Rows by address.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use roaring::RoaringBitmap;

use super::row::RowId;

/// An address as 128 bits, the first of its own first.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Most rows that are gathered one by one for a long prefix; beyond that, the shorter prefix around it is the answer.
const GATHERED: usize = 4_096;
/// Most bitmaps of the longer level that make up a prefix between the two.
const JOINED: usize = 256;

/// Rows by address: a trie of two levels with a bitmap for each prefix of their lengths, and below them the rows in the
/// order of their addresses.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    all: RoaringBitmap,
    /// Lengths of the levels' prefixes, in bits.
    lengths: [u8; 2],
    levels: [BTreeMap<u64, RoaringBitmap>; 2],
    /// The first 64 bits of each address.
    sorted: BTreeSet<(u64, RowId)>,
}

impl Addresses {
    pub(super) fn new(lengths: [u8; 2]) -> Self {
        Self {
            all: RoaringBitmap::new(),
            lengths,
            levels: Default::default(),
            sorted: BTreeSet::new(),
        }
    }

    pub(super) fn insert(&mut self, address: u128, at: RowId) {
        self.all.insert(at);
        self.sorted.insert((head(address, 64), at));
        for (level, length) in self.levels.iter_mut().zip(self.lengths) {
            level.entry(head(address, length)).or_default().insert(at);
        }
    }

    pub(super) fn remove(&mut self, address: u128, at: RowId) {
        self.all.remove(at);
        self.sorted.remove(&(head(address, 64), at));
        for (level, length) in self.levels.iter_mut().zip(self.lengths) {
            let key = head(address, length);
            if let Some(set) = level.get_mut(&key) {
                set.remove(at);
                if set.is_empty() {
                    level.remove(&key);
                }
            }
        }
    }

    pub(super) fn all(&self) -> Vec<Cow<'_, RoaringBitmap>> {
        vec![Cow::Borrowed(&self.all)]
    }

    pub(super) fn within(&self, address: u128, length: u8) -> Vec<Cow<'_, RoaringBitmap>> {
        let [short, long] = self.lengths;
        if length == 0 {
            return self.all();
        }
        if length < short {
            let (first, last) = span(head(address, short), short - length);
            let nodes = self.levels[0].range(first..=last);
            return nodes.map(|(_, set)| Cow::Borrowed(set)).collect();
        }
        if length < long && length > short {
            let (first, last) = span(head(address, long), long - length);
            let nodes = self.levels[1].range(first..=last).take(JOINED + 1);
            let parts: Vec<_> = nodes.map(|(_, set)| Cow::Borrowed(set)).collect();
            if parts.len() <= JOINED {
                return parts;
            }
        }
        let level = usize::from(length >= long);
        let around = self.levels[level].get(&head(address, self.lengths[level]));
        let Some(around) = around else {
            return Vec::new();
        };
        if length <= long {
            return vec![Cow::Borrowed(around)];
        }
        let (first, last) = span(head(address, 64), 64 - length.min(64));
        let within = self.sorted.range((first, 0)..=(last, RowId::MAX));
        let rows: Vec<_> = within.map(|(_, row)| *row).take(GATHERED + 1).collect();
        if rows.len() > GATHERED {
            return vec![Cow::Borrowed(around)];
        }
        vec![Cow::Owned(rows.into_iter().collect())]
    }
}

/// The first bits of an address.
fn head(address: u128, length: u8) -> u64 {
    (address >> (128 - u32::from(length))) as u64
}

/// The lowest and the highest number that differ from this one in the last `free` bits only.
fn span(number: u64, free: u8) -> (u64, u64) {
    let low = (1u64 << free) - 1;
    (number & !low, number | low)
}
