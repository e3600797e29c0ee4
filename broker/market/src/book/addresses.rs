//! Rows by address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use roaring::RoaringBitmap;

use super::candidates::Part;
use super::line::Line;
use super::row::RowId;

/// An address as 128 bits, the first of its own first.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Most pages of rows that make up a long prefix; beyond that, the shorter prefix around it is the answer.
const PAGES: usize = 32;
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
    /// In the order of the first 64 bits of their addresses.
    sorted: Line<(u64, RowId)>,
}

impl Addresses {
    pub(super) fn new(lengths: [u8; 2]) -> Self {
        Self {
            all: RoaringBitmap::new(),
            lengths,
            levels: Default::default(),
            sorted: Line::default(),
        }
    }

    /// Puts a row in; `address_of` tells the address of those that are in already, and of this one.
    pub(super) fn insert(&mut self, at: RowId, address_of: impl Fn(RowId) -> u128) {
        let address = address_of(at);
        self.all.insert(at);
        let key_of = |row| (head(address_of(row), 64), row);
        self.sorted.insert(&key_of(at), at, key_of);
        for (level, length) in self.levels.iter_mut().zip(self.lengths) {
            level.entry(head(address, length)).or_default().insert(at);
        }
    }

    /// Takes a row out; `address_of` tells the address of the others, and of this one.
    pub(super) fn remove(&mut self, at: RowId, address_of: impl Fn(RowId) -> u128) {
        let address = address_of(at);
        self.all.remove(at);
        let key_of = |row| (head(address_of(row), 64), row);
        self.sorted.remove(&key_of(at), at, key_of);
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

    pub(super) fn all(&self) -> Vec<Part<'_>> {
        vec![Part::Set(&self.all)]
    }

    /// Rows whose addresses begin with the first bits of this one, and maybe some that don't.
    pub(super) fn within(&self, address: u128, length: u8) -> Vec<Part<'_>> {
        let [short, long] = self.lengths;
        if length == 0 {
            return self.all();
        }
        if length < short {
            let (first, last) = span(head(address, short), short - length);
            let nodes = self.levels[0].range(first..=last);
            return nodes.map(|(_, set)| Part::Set(set)).collect();
        }
        if length < long && length > short {
            let (first, last) = span(head(address, long), long - length);
            let nodes = self.levels[1].range(first..=last).take(JOINED + 1);
            let parts: Vec<_> = nodes.map(|(_, set)| Part::Set(set)).collect();
            if parts.len() <= JOINED {
                return parts;
            }
        }
        let level = usize::from(length >= long);
        let around = self.levels[level].get(&head(address, self.lengths[level]));
        let Some(around) = around else {
            return Vec::new();
        };
        if length > long {
            self.pages(address, length)
                .unwrap_or_else(|| vec![Part::Set(around)])
        } else {
            vec![Part::Set(around)]
        }
    }

    /// Bitmaps of rows whose addresses begin with the first bits of this one, and of no others. Beyond the longer level
    /// there are none.
    pub(super) fn surely_within(&self, address: u128, length: u8) -> Vec<&RoaringBitmap> {
        let [short, long] = self.lengths;
        if length == 0 {
            return vec![&self.all];
        }
        if length > long {
            return Vec::new();
        }
        let level = usize::from(length > short);
        let node = self.lengths[level];
        let (first, last) = span(head(address, node), node - length);
        let nodes = self.levels[level].range(first..=last);
        nodes.map(|(_, set)| set).collect()
    }

    /// The pages that addresses of a long prefix are in, if they are few.
    fn pages(&self, address: u128, length: u8) -> Option<Vec<Part<'_>>> {
        let (first, last) = span(head(address, 64), 64 - length.min(64));
        let pages = self.sorted.pages_from(&(first, 0));
        let within = pages.take_while(|(bound, _)| bound.is_none_or(|(low, _)| low <= last));
        let pages: Vec<_> = within.take(PAGES + 1).collect();
        let few = pages.len() <= PAGES;
        few.then(|| {
            pages
                .into_iter()
                .map(|(_, rows)| Part::Rows(rows))
                .collect()
        })
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
