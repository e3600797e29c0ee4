//! Which rows have an attribute: in the order of price for each value that some have, a bitmap for each that many have,
//! and a trie of the addresses.
//!
//! An answer may name rows that fail the condition it is for, never leave one out that meets it: whoever asks checks
//! each row. That is what lets a prefix of any length be answered from a few bitmaps, and a rate from that of the next
//! lower threshold.

mod avoided;
mod lookup;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use roaring::RoaringBitmap;

use super::addresses::{Addresses, bits};
use super::numbers::{Numbers, Side};
use super::posting::{Posting, Postings};
use super::row::{Row, RowId, Rows, Was};
use super::shared::ShareId;
use crate::matching::{Facts, Placed};
use crate::offer::{Protocol, Tier};
use crate::place::{AddressType, City, Country, Measured, Region};
use crate::ports::has_port;
use crate::services::ServiceName;
pub(super) use avoided::AvoidedRows;

const TIERS: [Tier; 3] = [Tier::Web, Tier::WebUdp, Tier::Open];
/// Ports that few exits open.
const RARE_PORTS: [u16; 4] = [22, 25, 465, 587];
const UP: [u32; 4] = [10, 50, 200, 1_000];
const DOWN: [u32; 6] = [50, 100, 250, 500, 1_000, 10_000];
/// The longest round trip is the one that most are below.
const LATENCY: [u32; 6] = [500, 200, 100, 50, 20, 10];
const REPUTATION: [u32; 7] = [250, 500, 700, 800, 900, 950, 990];
/// An hour and a minute, within which most sell.
const SHORTEST: [u32; 2] = [3_600, 60];
/// An hour, a day and a week, beyond which fewer and fewer do.
const LONGEST: [u32; 3] = [3_600, 86_400, 604_800];

/// Which rows have what.
#[derive(Clone, Debug)]
pub(super) struct Index {
    all: RoaringBitmap,
    countries: HashMap<Country, Posting>,
    regions: HashMap<Region, Posting>,
    /// By what rows share: one city at one point.
    places: Postings,
    cities: HashMap<City, Vec<ShareId>>,
    /// By whole degrees of latitude and longitude.
    cells: HashMap<(i16, i16), Vec<ShareId>>,
    /// By number and name together, which rows share.
    systems: Postings,
    asns: HashMap<u32, Vec<ShareId>>,
    /// Rows of which the network is not known.
    no_asn: RoaringBitmap,
    /// Rows that sell other addresses than the one they were seen at.
    ranges: RoaringBitmap,
    v4: Addresses,
    v6: Addresses,
    address_types: [RoaringBitmap; AddressType::ALL.len()],
    protocols: [RoaringBitmap; Protocol::ALL.len()],
    tiers: [RoaringBitmap; TIERS.len()],
    rare_ports: [RoaringBitmap; RARE_PORTS.len()],
    services: HashMap<ServiceName, RoaringBitmap>,
    up: Numbers<4>,
    down: Numbers<6>,
    latency: Numbers<6>,
    reputation: Numbers<7>,
    shortest: Numbers<2>,
    longest: Numbers<3>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            all: RoaringBitmap::new(),
            countries: HashMap::new(),
            regions: HashMap::new(),
            places: Postings::default(),
            cities: HashMap::new(),
            cells: HashMap::new(),
            systems: Postings::default(),
            asns: HashMap::new(),
            no_asn: RoaringBitmap::new(),
            ranges: RoaringBitmap::new(),
            v4: Addresses::new([8, 16]),
            v6: Addresses::new([16, 32]),
            address_types: Default::default(),
            protocols: Default::default(),
            tiers: Default::default(),
            rare_ports: Default::default(),
            services: HashMap::new(),
            up: Numbers::new(Side::AtLeast, UP),
            down: Numbers::new(Side::AtLeast, DOWN),
            latency: Numbers::new(Side::AtMost, LATENCY),
            reputation: Numbers::new(Side::AtLeast, REPUTATION),
            shortest: Numbers::new(Side::AtMost, SHORTEST),
            longest: Numbers::new(Side::AtLeast, LONGEST),
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
            let posting = self.countries.entry(country).or_default();
            posting.insert(at, rows);
        }
        if let Some(region) = facts.region() {
            self.regions.entry(region).or_default().insert(at, rows);
        }
        let cell = rows.point(row).map(|point| point.cell());
        let somewhere = cell.is_some() || facts.city().is_some();
        if somewhere && self.places.insert(row.place, at, rows) {
            if let Some(city) = facts.city() {
                let places = self.cities.entry(city.clone()).or_default();
                places.push(row.place);
            }
            if let Some(cell) = cell {
                self.cells.entry(cell).or_default().push(row.place);
            }
        }
        match facts.asn() {
            Some(asn) if self.systems.insert(row.system, at, rows) => {
                self.asns.entry(asn).or_default().push(row.system);
            }
            Some(_) => {}
            None => drop(self.no_asn.insert(at)),
        }
        if facts.sold() != facts.address().into() {
            self.ranges.insert(at);
        }
        let address_of = |at| rows.get(at).map_or(0, |row| bits(row.address));
        self.family(row.address).insert(at, address_of);
        for service in facts.services() {
            if let Some(set) = self.services.get_mut(service) {
                set.insert(at);
            } else {
                let first = RoaringBitmap::from_iter([at]);
                self.services.insert(service.clone(), first);
            }
        }
        for set in self.flags(&facts) {
            set.insert(at);
        }
        self.change_numbers(at, [None; 6], numbers(row, row.measured));
    }

    pub(super) fn remove(&mut self, at: RowId, rows: &Rows) {
        let Some(row) = rows.get(at) else {
            return;
        };
        let facts = rows.facts(row);
        self.all.remove(at);
        if let Some(country) = facts.country() {
            take_out(&mut self.countries, country, at, rows);
        }
        if let Some(region) = facts.region() {
            take_out(&mut self.regions, region, at, rows);
        }
        if self.places.remove(row.place, at, rows) {
            if let Some(city) = facts.city() {
                forget(&mut self.cities, city, row.place);
            }
            if let Some(point) = rows.point(row) {
                forget(&mut self.cells, &point.cell(), row.place);
            }
        }
        self.no_asn.remove(at);
        self.ranges.remove(at);
        if self.systems.remove(row.system, at, rows)
            && let Some(asn) = facts.asn()
        {
            forget(&mut self.asns, &asn, row.system);
        }
        let address_of = |at| rows.get(at).map_or(0, |row| bits(row.address));
        self.family(row.address).remove(at, address_of);
        for service in facts.services() {
            if let Some(set) = self.services.get_mut(service) {
                set.remove(at);
                if set.is_empty() {
                    self.services.remove(service);
                }
            }
        }
        for set in self.flags(&facts) {
            set.remove(at);
        }
        self.change_numbers(at, numbers(row, row.measured), [None; 6]);
    }

    /// Of a row that is in already, only what was measured and the prices have changed.
    pub(super) fn renew(&mut self, at: RowId, was: &Was, rows: &Rows) {
        let Some(row) = rows.get(at) else {
            return;
        };
        let before = numbers(row, was.measured);
        self.change_numbers(at, before, numbers(row, row.measured));
        let facts = rows.facts(row);
        let country = facts.country().and_then(|c| self.countries.get_mut(&c));
        let region = facts.region().and_then(|r| self.regions.get_mut(&r));
        let place = self.places.get_mut(row.place);
        let system = self.systems.get_mut(row.system);
        for posting in [country, region, place, system].into_iter().flatten() {
            posting.reposition(at, &was.rank, rows);
        }
    }

    /// Every row.
    pub(super) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// Bitmaps that a row with these facts is in.
    fn flags(&mut self, facts: &impl Facts) -> impl Iterator<Item = &mut RoaringBitmap> {
        let kind = facts.address_type();
        let kinds = AddressType::ALL.into_iter().zip(&mut self.address_types);
        let kinds = kinds.filter(move |(other, _)| kind == Some(*other));
        let spoken = facts.protocols();
        let protocols = Protocol::ALL.into_iter().zip(&mut self.protocols);
        let protocols =
            protocols.filter(move |(other, _)| spoken.contains([*other].into_iter().collect()));
        let open = RARE_PORTS.map(|port| has_port(facts.ports(), port));
        let ports = open.into_iter().zip(&mut self.rare_ports);
        let ports = ports.filter(|(open, _)| *open);
        let tier = self.tiers.get_mut(facts.tier() as usize);
        let kinds = kinds.map(|(_, set)| set);
        let protocols = protocols.map(|(_, set)| set);
        let ports = ports.map(|(_, set)| set);
        kinds.chain(protocols).chain(ports).chain(tier)
    }

    fn change_numbers(&mut self, at: RowId, was: [Option<u32>; 6], is: [Option<u32>; 6]) {
        self.up.change(at, was[0], is[0]);
        self.down.change(at, was[1], is[1]);
        self.latency.change(at, was[2], is[2]);
        self.reputation.change(at, was[3], is[3]);
        self.shortest.change(at, was[4], is[4]);
        self.longest.change(at, was[5], is[5]);
    }

    fn family(&mut self, address: IpAddr) -> &mut Addresses {
        match address {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }
}

/// Rates up and down, round trip, reputation, shortest and longest lease.
fn numbers(row: &Row, measured: Measured) -> [Option<u32>; 6] {
    let reached = |offered: u32, rate: Option<u32>| offered.min(rate.unwrap_or(u32::MAX));
    [
        Some(reached(row.mbit_up, measured.mbit_up)),
        Some(reached(row.mbit_down, measured.mbit_down)),
        measured.latency_ms.map(u32::from),
        measured.reputation.map(u32::from),
        Some(row.min_seconds),
        Some(row.max_seconds),
    ]
}

fn take_out<K: Eq + Hash>(sets: &mut HashMap<K, Posting>, key: K, at: RowId, rows: &Rows) {
    if let Some(posting) = sets.get_mut(&key) {
        posting.remove(at, rows);
        if posting.is_empty() {
            sets.remove(&key);
        }
    }
}

/// No row has this any more.
fn forget<K: Eq + Hash>(groups: &mut HashMap<K, Vec<ShareId>>, key: &K, id: ShareId) {
    if let Some(ids) = groups.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            groups.remove(key);
        }
    }
}
