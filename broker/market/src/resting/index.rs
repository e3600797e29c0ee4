//! Which requests an offer may fit, without looking at each: those that ask for its place, by the narrowest thing that
//! they say of a place, and of these those that pay its price, last as long as it is let, and do not avoid it.
//!
//! Numbers stand in classes, of which each is twice as wide as the one before: that keeps the classes few, and who is left
//! is checked exactly anyway. A set of numbers is in the order of age.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use ipnet::IpNet;
use ipsx_metering::{Address, Prices};
use roaring::RoaringTreemap;

use crate::avoid::Avoid;
use crate::matching::Facts;
use crate::place::{AddressType, City, Country, Region};
use crate::request::{Filter, Request};

/// Longest prefixes by which requests are grouped.
const V4_BITS: u8 = 16;
const V6_BITS: u8 = 32;

/// What a request says of the place, at its narrowest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Where {
    Prefix(IpNet),
    City(City),
    Asn(u32),
    Region(Region),
    Country(Country),
    Anywhere,
}

impl Where {
    /// Where a request has to be found; an address in one of these is necessary.
    fn of(filter: &Filter) -> Vec<Self> {
        let groups: Option<Vec<_>> = filter.prefixes.iter().map(group).collect();
        match groups {
            Some(groups) if !groups.is_empty() => groups.into_iter().map(Self::Prefix).collect(),
            _ if !filter.cities.is_empty() => {
                filter.cities.iter().cloned().map(Self::City).collect()
            }
            _ if !filter.asns.is_empty() => filter.asns.iter().copied().map(Self::Asn).collect(),
            _ if !filter.regions.is_empty() => {
                filter.regions.iter().copied().map(Self::Region).collect()
            }
            _ if !filter.countries.is_empty() => filter
                .countries
                .iter()
                .copied()
                .map(Self::Country)
                .collect(),
            _ => vec![Self::Anywhere],
        }
    }

    /// Everywhere that an offer is.
    fn around(offer: &impl Facts) -> Vec<Self> {
        let prefix = group(&offer.address().into()).map(Self::Prefix);
        let others = [
            offer.city().cloned().map(Self::City),
            offer.asn().map(Self::Asn),
            offer.region().map(Self::Region),
            offer.country().map(Self::Country),
            Some(Self::Anywhere),
        ];
        prefix
            .into_iter()
            .chain(others.into_iter().flatten())
            .collect()
    }
}

/// What a request avoids.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Avoiding {
    Prefix(IpNet),
    Asn(u32),
    /// A network at all, so that one that is not known may be it.
    SomeAsn,
    Provider(Address),
}

impl Avoiding {
    fn of(avoid: &Avoid) -> impl Iterator<Item = Self> {
        let prefixes = avoid.prefixes.iter().map(IpNet::trunc).map(Self::Prefix);
        let asns = avoid.asns.iter().copied().map(Self::Asn);
        let some_asn = (!avoid.asns.is_empty()).then_some(Self::SomeAsn);
        let providers = avoid.providers.iter().copied().map(Self::Provider);
        prefixes.chain(asns).chain(some_asn).chain(providers)
    }

    /// By what an offer is avoided. One that sells several addresses is not by one prefix alone.
    fn by(offer: &impl Facts) -> impl Iterator<Item = Self> {
        let sold = offer.sold();
        let around = (sold.prefix_len() == sold.max_prefix_len())
            .then(|| std::iter::successors(Some(sold), IpNet::supernet).map(Self::Prefix));
        let asn = offer.asn().map_or(Self::SomeAsn, Self::Asn);
        let provider = Self::Provider(offer.provider());
        around.into_iter().flatten().chain([asn, provider])
    }
}

/// The group that a prefix belongs to; none for one that is wider than a group.
fn group(prefix: &IpNet) -> Option<IpNet> {
    let bits = match prefix {
        IpNet::V4(_) => V4_BITS,
        IpNet::V6(_) => V6_BITS,
    };
    let group = IpNet::new(prefix.addr(), bits).ok()?;
    (prefix.prefix_len() >= bits).then(|| group.trunc())
}

/// Requests by one thing that has few values.
#[derive(Clone, Debug, Default)]
struct Classes(BTreeMap<u8, RoaringTreemap>);

impl Classes {
    fn insert(&mut self, class: u8, number: u64) {
        self.0.entry(class).or_default().insert(number);
    }

    fn remove(&mut self, class: u8, number: u64) {
        if let Some(set) = self.0.get_mut(&class) {
            set.remove(number);
            if set.is_empty() {
                self.0.remove(&class);
            }
        }
    }

    /// Leaves those of some classes.
    fn narrow(&self, found: &mut RoaringTreemap, meets: impl Fn(u8) -> bool) {
        if found.is_empty() || self.0.keys().all(|class| meets(*class)) {
            return;
        }
        let sets = self.0.iter().filter(|(class, _)| meets(**class));
        let mut left = RoaringTreemap::new();
        for (_, set) in sets {
            left |= set & &*found;
        }
        *found = left;
    }
}

/// What a request is found by besides its place, in the order of [`Index::classes`].
fn classes_of(request: &Request) -> [u8; CLASSES] {
    let (filter, prices) = (&request.filter, request.max_prices);
    [
        class(prices.per_second.0.0),
        class(prices.per_gib.0.0),
        class(request.seconds.into()),
        filter.tier as u8,
        class(filter.mbit_up.into()),
        class(filter.mbit_down.into()),
        types(&filter.address_types),
    ]
}

/// How many there are.
const CLASSES: usize = 7;

/// Bits of a number.
fn class(number: u128) -> u8 {
    (u128::BITS - number.leading_zeros()) as u8
}

/// A bit for each type.
fn types(wanted: &[AddressType]) -> u8 {
    let bits = AddressType::ALL.iter().enumerate();
    let bits = bits.filter(|(_, kind)| wanted.contains(kind));
    bits.map(|(bit, _)| 1u8 << bit).sum()
}

/// Requests by what they ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    places: HashMap<Where, RoaringTreemap>,
    classes: [Classes; CLASSES],
    avoiding: HashMap<Avoiding, RoaringTreemap>,
}

impl Index {
    /// Enters a request to which nothing is of use either that is like what was `found`.
    pub(super) fn insert(&mut self, number: u64, request: &Request, found: &Avoid) {
        for place in Where::of(&request.filter) {
            self.places.entry(place).or_default().insert(number);
        }
        for (classes, class) in self.classes.iter_mut().zip(classes_of(request)) {
            classes.insert(class, number);
        }
        for avoided in Avoiding::of(&request.filter.avoid).chain(Avoiding::of(found)) {
            self.avoiding.entry(avoided).or_default().insert(number);
        }
    }

    /// Strikes it out again.
    pub(super) fn remove(&mut self, number: u64, request: &Request, found: &Avoid) {
        for place in Where::of(&request.filter) {
            take_out(&mut self.places, &place, number);
        }
        for (classes, class) in self.classes.iter_mut().zip(classes_of(request)) {
            classes.remove(class, number);
        }
        for avoided in Avoiding::of(&request.filter.avoid).chain(Avoiding::of(found)) {
            take_out(&mut self.avoiding, &avoided, number);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
            && self.avoiding.is_empty()
            && self.classes.iter().all(|classes| classes.0.is_empty())
    }

    /// Everybody whom an offer of these prices may fit, and some whom it does not.
    pub(super) fn candidates(&self, offer: &impl Facts, prices: &Prices) -> RoaringTreemap {
        let mut found = RoaringTreemap::new();
        for place in Where::around(offer) {
            if let Some(set) = self.places.get(&place) {
                found |= set;
            }
        }
        let (shortest, longest) = offer.durations();
        let (up, down) = offer.rates();
        let own = offer.address_type().map_or(0, |kind| types(&[kind]));
        let [
            per_second,
            per_gib,
            seconds,
            tier,
            mbit_up,
            mbit_down,
            kinds,
        ] = &self.classes;
        per_second.narrow(&mut found, |most| most >= class(prices.per_second.0.0));
        per_gib.narrow(&mut found, |most| most >= class(prices.per_gib.0.0));
        seconds.narrow(&mut found, |length| {
            (class(shortest.into())..=class(longest.into())).contains(&length)
        });
        tier.narrow(&mut found, |least| least <= offer.tier() as u8);
        mbit_up.narrow(&mut found, |least| least <= class(up.into()));
        mbit_down.narrow(&mut found, |least| least <= class(down.into()));
        kinds.narrow(&mut found, |wanted| wanted == 0 || wanted & own != 0);
        if !self.avoiding.is_empty() {
            let sets = Avoiding::by(offer).filter_map(|by| self.avoiding.get(&by));
            sets.for_each(|set| found -= set);
        }
        found
    }
}

fn take_out<K: Eq + Hash>(sets: &mut HashMap<K, RoaringTreemap>, key: &K, number: u64) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(number);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
