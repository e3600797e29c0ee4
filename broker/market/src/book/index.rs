//! Which rows have an attribute: a bitmap for each value, and a trie of the addresses.
//!
//! An answer may name rows that fail the condition it is for, never leave one out that meets it: whoever asks checks
//! each row. That is what lets a prefix of any length be answered from a few bitmaps.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use roaring::RoaringBitmap;

use super::row::{Row, RowId};
use crate::matching::Condition;
use crate::offer::{Country, Protocol, Tier};
use crate::request::{Filter, IpVersion};

const TIERS: [Tier; 3] = [Tier::Web, Tier::WebUdp, Tier::Open];

/// Bitmaps by attribute.
#[derive(Clone, Debug)]
pub(super) struct Index {
    all: RoaringBitmap,
    countries: HashMap<Country, RoaringBitmap>,
    asns: HashMap<u32, RoaringBitmap>,
    v4: Addresses,
    v6: Addresses,
    protocols: [RoaringBitmap; Protocol::ALL.len()],
    tiers: [RoaringBitmap; TIERS.len()],
}

/// Rows that may meet one condition.
#[derive(Debug)]
pub(super) struct Candidates<'i> {
    pub(super) condition: Condition,
    parts: Vec<Cow<'i, RoaringBitmap>>,
}

impl Candidates<'_> {
    /// How many rows there are, or more: one in several parts counts in each.
    pub(super) fn at_most(&self) -> u64 {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Every row, in no order; one in several parts comes with each.
    pub(super) fn rows(&self) -> impl Iterator<Item = RowId> {
        self.parts.iter().flat_map(|part| part.iter())
    }

    /// Takes all others out of `rows`.
    pub(super) fn narrow(&self, rows: RoaringBitmap) -> RoaringBitmap {
        match self.parts.as_slice() {
            [] => RoaringBitmap::new(),
            [one] => rows & one.as_ref(),
            many => {
                let mut any = RoaringBitmap::new();
                for part in many {
                    any |= part.as_ref();
                }
                rows & any
            }
        }
    }

    fn to_bitmap(&self) -> RoaringBitmap {
        match self.parts.as_slice() {
            [one] => one.as_ref().clone(),
            many => {
                let mut any = RoaringBitmap::new();
                for part in many {
                    any |= part.as_ref();
                }
                any
            }
        }
    }
}

/// All rows that may meet every condition. Candidates are taken in order, the fewest first if that is wanted.
pub(super) fn intersection(candidates: &[Candidates<'_>], all: &RoaringBitmap) -> RoaringBitmap {
    let Some((first, rest)) = candidates.split_first() else {
        return all.clone();
    };
    let mut rows = first.to_bitmap();
    for next in rest {
        if rows.is_empty() {
            break;
        }
        rows = next.narrow(rows);
    }
    rows
}

impl Default for Index {
    fn default() -> Self {
        Self {
            all: RoaringBitmap::new(),
            countries: HashMap::new(),
            asns: HashMap::new(),
            v4: Addresses::new([8, 16]),
            v6: Addresses::new([16, 32]),
            protocols: Default::default(),
            tiers: Default::default(),
        }
    }
}

impl Index {
    pub(super) fn insert(&mut self, at: RowId, row: &Row) {
        self.all.insert(at);
        let placement = &row.placement;
        if let Some(country) = placement.country {
            self.countries.entry(country).or_default().insert(at);
        }
        if let Some(asn) = placement.asn {
            self.asns.entry(asn).or_default().insert(at);
        }
        self.family(placement.address)
            .insert(bits(placement.address), at);
        for (set, protocol) in self.protocols.iter_mut().zip(Protocol::ALL) {
            if row.protocols.contains([protocol].into_iter().collect()) {
                set.insert(at);
            }
        }
        self.tiers[row.tier as usize].insert(at);
    }

    pub(super) fn remove(&mut self, at: RowId, row: &Row) {
        self.all.remove(at);
        let placement = &row.placement;
        if let Some(country) = placement.country {
            take_out(&mut self.countries, country, at);
        }
        if let Some(asn) = placement.asn {
            take_out(&mut self.asns, asn, at);
        }
        self.family(placement.address)
            .remove(bits(placement.address), at);
        for set in &mut self.protocols {
            set.remove(at);
        }
        self.tiers[row.tier as usize].remove(at);
    }

    /// Every row.
    pub(super) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// Candidates for each condition of a filter that says anything and that is indexed, in the conditions' order.
    pub(super) fn candidates(&self, filter: &Filter) -> Vec<Candidates<'_>> {
        let mut found = Vec::new();
        let mut add = |condition, parts| found.push(Candidates { condition, parts });
        if !filter.countries.is_empty() {
            add(Condition::Country, some(&self.countries, &filter.countries));
        }
        if !filter.asns.is_empty() {
            add(Condition::Asn, some(&self.asns, &filter.asns));
        }
        if !filter.prefixes.is_empty() {
            let within = filter
                .prefixes
                .iter()
                .flat_map(|prefix| self.within(*prefix));
            add(Condition::Prefix, within.collect());
        }
        match filter.ip_version {
            IpVersion::Any => {}
            IpVersion::V4 => add(Condition::IpVersion, self.v4.all()),
            IpVersion::V6 => add(Condition::IpVersion, self.v6.all()),
        }
        for (set, protocol) in self.protocols.iter().zip(Protocol::ALL) {
            if filter.protocols.contains([protocol].into_iter().collect()) {
                add(Condition::Protocols, vec![Cow::Borrowed(set)]);
            }
        }
        if filter.tier > Tier::Web {
            let enough = TIERS
                .iter()
                .zip(&self.tiers)
                .filter(|(tier, _)| **tier >= filter.tier);
            add(
                Condition::Tier,
                enough.map(|(_, set)| Cow::Borrowed(set)).collect(),
            );
        }
        found
    }

    fn family(&mut self, address: IpAddr) -> &mut Addresses {
        match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }

    fn within(&self, prefix: IpNet) -> Vec<Cow<'_, RoaringBitmap>> {
        let family = match prefix {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        };
        family.within(bits(prefix.addr()), prefix.prefix_len())
    }
}

fn some<'i, K: Copy + Eq + std::hash::Hash>(
    sets: &'i HashMap<K, RoaringBitmap>,
    wanted: &[K],
) -> Vec<Cow<'i, RoaringBitmap>> {
    let mut distinct: Vec<K> = Vec::with_capacity(wanted.len());
    for key in wanted {
        if !distinct.contains(key) {
            distinct.push(*key);
        }
    }
    let found = distinct.iter().filter_map(|key| sets.get(key));
    found.map(Cow::Borrowed).collect()
}

fn take_out<K: Copy + Eq + std::hash::Hash>(
    sets: &mut HashMap<K, RoaringBitmap>,
    key: K,
    at: RowId,
) {
    if let Some(set) = sets.get_mut(&key) {
        set.remove(at);
        if set.is_empty() {
            sets.remove(&key);
        }
    }
}

/// An address as 128 bits, the first of its own first.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Most rows that are gathered one by one for a long prefix; beyond that, the shorter prefix around it is the answer.
const GATHERED: usize = 4096;

/// Rows by address: a trie of two levels with a bitmap for each prefix of their lengths, and below them the rows in the
/// order of their addresses.
#[derive(Clone, Debug)]
struct Addresses {
    all: RoaringBitmap,
    /// Lengths of the levels' prefixes, in bits.
    lengths: [u8; 2],
    levels: [BTreeMap<u64, RoaringBitmap>; 2],
    /// The first 64 bits of each address.
    sorted: BTreeSet<(u64, RowId)>,
}

impl Addresses {
    fn new(lengths: [u8; 2]) -> Self {
        Self {
            all: RoaringBitmap::new(),
            lengths,
            levels: Default::default(),
            sorted: BTreeSet::new(),
        }
    }

    fn insert(&mut self, address: u128, at: RowId) {
        self.all.insert(at);
        self.sorted.insert((head(address, 64), at));
        for (level, length) in self.levels.iter_mut().zip(self.lengths) {
            level.entry(head(address, length)).or_default().insert(at);
        }
    }

    fn remove(&mut self, address: u128, at: RowId) {
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

    fn all(&self) -> Vec<Cow<'_, RoaringBitmap>> {
        vec![Cow::Borrowed(&self.all)]
    }

    fn within(&self, address: u128, length: u8) -> Vec<Cow<'_, RoaringBitmap>> {
        let [short, long] = self.lengths;
        if length == 0 {
            return self.all();
        }
        if length < short {
            let (first, last) = span(head(address, short), short - length);
            let nodes = self.levels[0].range(first..=last);
            return nodes.map(|(_, set)| Cow::Borrowed(set)).collect();
        }
        let around = if length < long { 0 } else { 1 };
        let around = self.levels[around].get(&head(address, self.lengths[around]));
        let Some(around) = around else {
            return Vec::new();
        };
        if length == short || length == long {
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
