//! Which rows may meet each condition of a question.

use std::collections::HashMap;
use std::hash::Hash;

use ipnet::IpNet;

use super::super::candidates::{Candidates, Part};
use super::super::posting::Posting;
use super::super::row::Rows;
use super::{Index, RARE_PORTS, TIERS, bits};
use crate::geo;
use crate::matching::{Condition, Conditions};
use crate::offer::{Protocol, Tier};
use crate::place::AddressType;
use crate::request::{Filter, IpVersion};

impl Index {
    /// Candidates for each condition that says anything and that is indexed, in the conditions' order.
    pub(in crate::book) fn candidates(
        &self,
        conditions: &Conditions<'_>,
        rows: &Rows,
    ) -> Vec<Candidates<'_>> {
        let filter = conditions.wanted().filter;
        let mut found = Vec::new();
        self.of_place(conditions, rows, &mut found);
        self.of_exit(filter, &mut found);
        self.of_numbers(conditions, &mut found);
        found
    }

    fn of_place<'i>(
        &'i self,
        conditions: &Conditions<'_>,
        rows: &Rows,
        found: &mut Vec<Candidates<'i>>,
    ) {
        let filter = conditions.wanted().filter;
        let mut add = |condition, parts| found.push(Candidates::new(condition, parts));
        if !filter.countries.is_empty() {
            add(Condition::Country, some(&self.countries, &filter.countries));
        }
        if !filter.regions.is_empty() {
            add(Condition::Region, some(&self.regions, &filter.regions));
        }
        if !filter.cities.is_empty() {
            let cities = distinct(&filter.cities).into_iter();
            let places = cities.filter_map(|city| self.cities.get(city)).flatten();
            let postings = places.filter_map(|place| self.places.get(*place));
            add(Condition::City, postings.map(Part::Listed).collect());
        }
        let cells: Option<Vec<_>> = filter.circles.iter().map(geo::cells).collect();
        if let Some(cells) = cells.filter(|_| !filter.circles.is_empty()) {
            let mut cells = cells.concat();
            cells.sort_unstable();
            cells.dedup();
            let places = cells.iter().filter_map(|cell| self.cells.get(cell));
            let near = |place: &&u32| {
                let direction = rows.direction(**place);
                direction.is_some_and(|direction| conditions.reaches(&direction))
            };
            let places = places.flatten().filter(near);
            let postings = places.filter_map(|place| self.places.get(*place));
            add(Condition::Distance, postings.map(Part::Listed).collect());
        }
        if !filter.asns.is_empty() {
            let asns = distinct(&filter.asns).into_iter();
            let systems = asns.filter_map(|asn| self.asns.get(asn)).flatten();
            let postings = systems.filter_map(|system| self.systems.get(*system));
            add(Condition::Asn, postings.map(Part::Listed).collect());
        }
        if !filter.prefixes.is_empty() {
            let within = filter.prefixes.iter().flat_map(|p| self.within(*p));
            add(Condition::Prefix, within.collect());
        }
        if !filter.address_types.is_empty() {
            let wanted = AddressType::ALL.iter().zip(&self.address_types);
            let wanted = wanted.filter(|(kind, _)| filter.address_types.contains(kind));
            let sets = wanted.map(|(_, set)| Part::Set(set));
            add(Condition::AddressType, sets.collect());
        }
        match filter.ip_version {
            IpVersion::Any => {}
            IpVersion::V4 => add(Condition::IpVersion, self.v4.all()),
            IpVersion::V6 => add(Condition::IpVersion, self.v6.all()),
        }
    }

    fn of_exit<'i>(&'i self, filter: &Filter, found: &mut Vec<Candidates<'i>>) {
        let mut add = |condition, parts| found.push(Candidates::new(condition, parts));
        for (set, protocol) in self.protocols.iter().zip(Protocol::ALL) {
            if filter.protocols.contains([protocol].into_iter().collect()) {
                add(Condition::Protocols, vec![Part::Set(set)]);
            }
        }
        if filter.tier > Tier::Web {
            let enough = TIERS.iter().zip(&self.tiers);
            let enough = enough.filter(|(tier, _)| **tier >= filter.tier);
            let sets = enough.map(|(_, set)| Part::Set(set));
            add(Condition::Tier, sets.collect());
        }
        for (set, port) in self.rare_ports.iter().zip(RARE_PORTS) {
            if filter.ports.contains(&port) {
                add(Condition::Ports, vec![Part::Set(set)]);
            }
        }
        for service in &filter.services {
            let set = self.services.get(service).map(Part::Set);
            add(Condition::Services, set.into_iter().collect());
        }
    }

    fn of_numbers<'i>(&'i self, conditions: &Conditions<'_>, found: &mut Vec<Candidates<'i>>) {
        let filter = conditions.wanted().filter;
        let asked = |number: u32| (number > 0).then_some(number);
        let (up, down) = (asked(filter.mbit_up), asked(filter.mbit_down));
        let latency = asked(filter.max_latency_ms.into());
        let reputation = asked(filter.min_reputation.into());
        let seconds = conditions.wanted().seconds;
        let numbers = [
            (Condition::Rate, up.and_then(|n| self.up.find(n))),
            (Condition::Rate, down.and_then(|n| self.down.find(n))),
            (
                Condition::Latency,
                latency.and_then(|n| self.latency.find(n)),
            ),
            (
                Condition::Reputation,
                reputation.and_then(|n| self.reputation.find(n)),
            ),
            (
                Condition::Duration,
                seconds.and_then(|n| self.shortest.find(n)),
            ),
            (
                Condition::Duration,
                seconds.and_then(|n| self.longest.find(n)),
            ),
        ];
        for (condition, parts) in numbers {
            found.extend(parts.map(|parts| Candidates::new(condition, parts)));
        }
    }

    fn within(&self, prefix: IpNet) -> Vec<Part<'_>> {
        let family = match prefix {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        };
        family.within(bits(prefix.addr()), prefix.prefix_len())
    }
}

fn some<'i, K: Eq + Hash>(postings: &'i HashMap<K, Posting>, wanted: &[K]) -> Vec<Part<'i>> {
    let found = distinct(wanted).into_iter();
    let found = found.filter_map(|key| postings.get(key));
    found.map(Part::Listed).collect()
}

fn distinct<K: Eq>(wanted: &[K]) -> Vec<&K> {
    let mut distinct: Vec<&K> = Vec::with_capacity(wanted.len());
    for key in wanted {
        if !distinct.contains(&key) {
            distinct.push(key);
        }
    }
    distinct
}
