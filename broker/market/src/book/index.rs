//! Which rows have an attribute: a bitmap for each value, and a trie of the addresses.
//!
//! An answer may name rows that fail the condition it is for, never leave one out that meets it: whoever asks checks
//! each row. That is what lets a prefix of any length be answered from a few bitmaps, and a rate from that of the next
//! lower threshold.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;
use roaring::RoaringBitmap;

use super::addresses::{Addresses, bits};
use super::row::{Row, RowId, Rows};
use crate::geo;
use crate::matching::{Condition, Facts, Placed};
use crate::offer::{Protocol, Tier};
use crate::place::{AddressType, City, Country, Region};
use crate::ports::has_port;
use crate::request::{Filter, IpVersion};
use crate::services::ServiceName;

const TIERS: [Tier; 3] = [Tier::Web, Tier::WebUdp, Tier::Open];
/// Ports that few exits open.
const RARE_PORTS: [u16; 4] = [22, 25, 465, 587];
const UP: [u32; 4] = [10, 50, 200, 1_000];
const DOWN: [u32; 6] = [50, 100, 250, 500, 1_000, 10_000];
/// The longest round trip is the one that most are below.
const LATENCY: [u32; 6] = [500, 200, 100, 50, 20, 10];
const REPUTATION: [u32; 7] = [250, 500, 700, 800, 900, 950, 990];

type Parts<'i> = Vec<Cow<'i, RoaringBitmap>>;

/// Bitmaps by attribute.
#[derive(Clone, Debug)]
pub(super) struct Index {
    all: RoaringBitmap,
    countries: HashMap<Country, RoaringBitmap>,
    regions: HashMap<Region, RoaringBitmap>,
    cities: HashMap<City, RoaringBitmap>,
    /// By whole degrees of latitude and longitude.
    cells: BTreeMap<(i16, i16), RoaringBitmap>,
    asns: HashMap<u32, RoaringBitmap>,
    v4: Addresses,
    v6: Addresses,
    address_types: [RoaringBitmap; AddressType::ALL.len()],
    protocols: [RoaringBitmap; Protocol::ALL.len()],
    tiers: [RoaringBitmap; TIERS.len()],
    rare_ports: [RoaringBitmap; RARE_PORTS.len()],
    services: HashMap<ServiceName, RoaringBitmap>,
    up: Thresholds<4>,
    down: Thresholds<6>,
    latency: Thresholds<6>,
    reputation: Thresholds<7>,
}

/// Rows whose number is at least, or at most, each of a few.
#[derive(Clone, Debug)]
struct Thresholds<const N: usize> {
    /// From the one that most rows reach to the one that fewest do.
    limits: [u32; N],
    sets: [RoaringBitmap; N],
}

impl<const N: usize> Thresholds<N> {
    fn new(limits: [u32; N]) -> Self {
        Self {
            limits,
            sets: std::array::from_fn(|_| RoaringBitmap::new()),
        }
    }

    fn insert(&mut self, at: RowId, reaches: impl Fn(u32) -> bool) {
        for (set, limit) in self.sets.iter_mut().zip(self.limits) {
            if reaches(limit) {
                set.insert(at);
            }
        }
    }

    fn remove(&mut self, at: RowId) {
        for set in &mut self.sets {
            set.remove(at);
        }
    }

    /// The set of the strictest limit that `implied` says every wanted row reaches.
    fn find(&self, implied: impl Fn(u32) -> bool) -> Option<&RoaringBitmap> {
        let strictest = self.limits.iter().rposition(|limit| implied(*limit))?;
        self.sets.get(strictest)
    }
}

/// Rows that may meet one condition.
#[derive(Debug)]
pub(super) struct Candidates<'i> {
    pub(super) condition: Condition,
    parts: Parts<'i>,
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

    /// Whether a row is one of them.
    pub(super) fn contains(&self, at: RowId) -> bool {
        self.parts.iter().any(|part| part.contains(at))
    }

    /// How many bitmaps [`Self::contains`] looks into.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Takes all others out of `rows`.
    pub(super) fn narrow(&self, rows: RoaringBitmap) -> RoaringBitmap {
        match self.parts.as_slice() {
            [] => RoaringBitmap::new(),
            [one] => rows & one.as_ref(),
            _ => rows & self.to_bitmap(),
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
            regions: HashMap::new(),
            cities: HashMap::new(),
            cells: BTreeMap::new(),
            asns: HashMap::new(),
            v4: Addresses::new([8, 16]),
            v6: Addresses::new([16, 32]),
            address_types: Default::default(),
            protocols: Default::default(),
            tiers: Default::default(),
            rare_ports: Default::default(),
            services: HashMap::new(),
            up: Thresholds::new(UP),
            down: Thresholds::new(DOWN),
            latency: Thresholds::new(LATENCY),
            reputation: Thresholds::new(REPUTATION),
        }
    }
}

impl Index {
    pub(super) fn insert(&mut self, at: RowId, rows: &Rows) {
        let Some(row) = rows.get(at) else {
            return;
        };
        let facts = rows.facts(row);
        self.all.insert(at);
        if let Some(country) = facts.country() {
            self.countries.entry(country).or_default().insert(at);
        }
        if let Some(region) = facts.region() {
            self.regions.entry(region).or_default().insert(at);
        }
        if let Some(city) = facts.city() {
            add(&mut self.cities, city, at);
        }
        if let Some(point) = rows.point(row) {
            self.cells.entry(point.cell()).or_default().insert(at);
        }
        if let Some(asn) = facts.asn() {
            self.asns.entry(asn).or_default().insert(at);
        }
        self.family(row.address).insert(bits(row.address), at);
        if let Some(kind) = row.address_type {
            self.address_types[kind as usize].insert(at);
        }
        for (set, protocol) in self.protocols.iter_mut().zip(Protocol::ALL) {
            if row.protocols.contains([protocol].into_iter().collect()) {
                set.insert(at);
            }
        }
        self.tiers[row.tier as usize].insert(at);
        for (set, port) in self.rare_ports.iter_mut().zip(RARE_PORTS) {
            if has_port(facts.ports(), port) {
                set.insert(at);
            }
        }
        for service in facts.services() {
            add(&mut self.services, service, at);
        }
        self.insert_numbers(at, row);
    }

    fn insert_numbers(&mut self, at: RowId, row: &Row) {
        let measured = row.measured;
        let up = row.mbit_up.min(measured.mbit_up.unwrap_or(u32::MAX));
        let down = row.mbit_down.min(measured.mbit_down.unwrap_or(u32::MAX));
        self.up.insert(at, |limit| up >= limit);
        self.down.insert(at, |limit| down >= limit);
        if let Some(ms) = measured.latency_ms {
            self.latency.insert(at, |limit| u32::from(ms) <= limit);
        }
        if let Some(score) = measured.reputation {
            self.reputation
                .insert(at, |limit| u32::from(score) >= limit);
        }
    }

    pub(super) fn remove(&mut self, at: RowId, rows: &Rows) {
        let Some(row) = rows.get(at) else {
            return;
        };
        let facts = rows.facts(row);
        self.all.remove(at);
        if let Some(country) = facts.country() {
            take_out(&mut self.countries, &country, at);
        }
        if let Some(region) = facts.region() {
            take_out(&mut self.regions, &region, at);
        }
        if let Some(city) = facts.city() {
            take_out(&mut self.cities, city, at);
        }
        if let Some(point) = rows.point(row)
            && let Some(set) = self.cells.get_mut(&point.cell())
        {
            set.remove(at);
            if set.is_empty() {
                self.cells.remove(&point.cell());
            }
        }
        if let Some(asn) = facts.asn() {
            take_out(&mut self.asns, &asn, at);
        }
        for service in facts.services() {
            take_out(&mut self.services, service, at);
        }
        self.family(row.address).remove(bits(row.address), at);
        let few = self.address_types.iter_mut().chain(&mut self.protocols);
        let few = few.chain(&mut self.tiers).chain(&mut self.rare_ports);
        for set in few {
            set.remove(at);
        }
        self.up.remove(at);
        self.down.remove(at);
        self.latency.remove(at);
        self.reputation.remove(at);
    }

    /// Every row.
    pub(super) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// Candidates for each condition of a filter that says anything and that is indexed, in the conditions' order.
    pub(super) fn candidates(&self, filter: &Filter) -> Vec<Candidates<'_>> {
        let mut found = Vec::new();
        self.of_place(filter, &mut found);
        self.of_exit(filter, &mut found);
        found
    }

    fn of_place<'i>(&'i self, filter: &Filter, found: &mut Vec<Candidates<'i>>) {
        let mut add = |condition, parts| found.push(Candidates { condition, parts });
        if !filter.countries.is_empty() {
            add(Condition::Country, some(&self.countries, &filter.countries));
        }
        if !filter.regions.is_empty() {
            add(Condition::Region, some(&self.regions, &filter.regions));
        }
        if !filter.cities.is_empty() {
            add(Condition::City, some(&self.cities, &filter.cities));
        }
        let cells: Option<Vec<_>> = filter.circles.iter().map(geo::cells).collect();
        if let Some(cells) = cells.filter(|_| !filter.circles.is_empty()) {
            let mut cells = cells.concat();
            cells.sort_unstable();
            cells.dedup();
            let sets = cells.iter().filter_map(|cell| self.cells.get(cell));
            add(Condition::Distance, sets.map(Cow::Borrowed).collect());
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
        if !filter.address_types.is_empty() {
            let wanted = AddressType::ALL.iter().zip(&self.address_types);
            let wanted = wanted.filter(|(kind, _)| filter.address_types.contains(kind));
            let sets = wanted.map(|(_, set)| Cow::Borrowed(set));
            add(Condition::AddressType, sets.collect());
        }
        match filter.ip_version {
            IpVersion::Any => {}
            IpVersion::V4 => add(Condition::IpVersion, self.v4.all()),
            IpVersion::V6 => add(Condition::IpVersion, self.v6.all()),
        }
    }

    fn of_exit<'i>(&'i self, filter: &Filter, found: &mut Vec<Candidates<'i>>) {
        let mut add = |condition, parts| found.push(Candidates { condition, parts });
        for (set, protocol) in self.protocols.iter().zip(Protocol::ALL) {
            if filter.protocols.contains([protocol].into_iter().collect()) {
                add(Condition::Protocols, vec![Cow::Borrowed(set)]);
            }
        }
        if filter.tier > Tier::Web {
            let enough = TIERS.iter().zip(&self.tiers);
            let enough = enough.filter(|(tier, _)| **tier >= filter.tier);
            add(
                Condition::Tier,
                enough.map(|(_, set)| Cow::Borrowed(set)).collect(),
            );
        }
        for (set, port) in self.rare_ports.iter().zip(RARE_PORTS) {
            if filter.ports.contains(&port) {
                add(Condition::Ports, vec![Cow::Borrowed(set)]);
            }
        }
        for service in &filter.services {
            let set = self.services.get(service).map(Cow::Borrowed);
            add(Condition::Services, set.into_iter().collect());
        }
        let (ms, score) = (
            u32::from(filter.max_latency_ms),
            u32::from(filter.min_reputation),
        );
        let thresholds = [
            (Condition::Rate, self.up.find(|l| filter.mbit_up >= l)),
            (Condition::Rate, self.down.find(|l| filter.mbit_down >= l)),
            (
                Condition::Latency,
                self.latency.find(|l| (1..=l).contains(&ms)),
            ),
            (Condition::Reputation, self.reputation.find(|l| score >= l)),
        ];
        for (condition, set) in thresholds {
            if let Some(set) = set {
                add(condition, vec![Cow::Borrowed(set)]);
            }
        }
    }

    fn family(&mut self, address: IpAddr) -> &mut Addresses {
        match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }

    fn within(&self, prefix: IpNet) -> Parts<'_> {
        let family = match prefix {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        };
        family.within(bits(prefix.addr()), prefix.prefix_len())
    }
}

fn some<'i, K: Eq + Hash>(sets: &'i HashMap<K, RoaringBitmap>, wanted: &[K]) -> Parts<'i> {
    let mut distinct: Vec<&K> = Vec::with_capacity(wanted.len());
    for key in wanted {
        if !distinct.contains(&key) {
            distinct.push(key);
        }
    }
    let found = distinct.iter().filter_map(|key| sets.get(*key));
    found.map(Cow::Borrowed).collect()
}

fn add<K: Clone + Eq + Hash>(sets: &mut HashMap<K, RoaringBitmap>, key: &K, at: RowId) {
    if let Some(set) = sets.get_mut(key) {
        set.insert(at);
    } else {
        sets.entry(key.clone()).or_default().insert(at);
    }
}

fn take_out<K: Eq + Hash>(sets: &mut HashMap<K, RoaringBitmap>, key: &K, at: RowId) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(at);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
