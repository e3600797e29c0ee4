//! Several brokers of one network: which part of the book is whose, and where a request has to go.
//!
//! The book is cut into [`SHARDS`] shards by the country of the address. Each has one owner, who alone sells from it.
//! Whose a shard is stands in the database that all brokers share, under an epoch that grows with each owner: a
//! transaction of an earlier epoch is refused there, so whoever is late, paused or cut off can sell nothing. What a
//! broker believes ([`Member`]) only decides whom it asks and what it tries.

mod member;
mod quote;

use std::collections::BTreeSet;
use std::fmt;

use ipsx_metering::keccak256;
use serde::{Deserialize, Serialize};

use crate::place::{Country, Placement};
use crate::request::Filter;

pub use member::{
    Epoch, Instance, Lost, Member, Millis, NoInstance, Seen, ShardRow, Timing, Turn, Wish,
};
pub use quote::Quote;

/// Shards of a network's book. Deals name theirs on disk, so it never changes.
pub const SHARDS: u8 = 16;

/// One part of the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(u8);

impl ShardId {
    /// The shard of this number, if there is one.
    pub fn new(number: u8) -> Option<Self> {
        (number < SHARDS).then_some(Self(number))
    }

    /// All shards.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }

    /// The shard of a country's addresses; those whose country is not known have one, too.
    pub fn of_country(country: Option<Country>) -> Self {
        let name = country.as_ref().map_or("", Country::as_str);
        Self(keccak256([b"ipsx shard ", name.as_bytes()].concat())[0] % SHARDS)
    }

    /// The shard of an address.
    pub fn of(placement: &Placement) -> Self {
        Self::of_country(placement.country)
    }

    /// The shards in which something may pass a filter.
    pub fn of_filter(filter: &Filter) -> BTreeSet<Self> {
        let named: BTreeSet<Country> =
            match (filter.countries.as_slice(), filter.regions.as_slice()) {
                ([], []) => return Self::all().collect(),
                ([], regions) => regions.iter().map(|region| region.country()).collect(),
                (countries, []) => countries.iter().copied().collect(),
                (countries, regions) => {
                    let within =
                        |country: &&Country| regions.iter().any(|r| r.country() == **country);
                    let both: BTreeSet<_> = countries.iter().filter(within).copied().collect();
                    // Nothing can pass it; the owner of the first says so in its own words.
                    if both.is_empty() {
                        countries.iter().take(1).copied().collect()
                    } else {
                        both
                    }
                }
            };
        named
            .into_iter()
            .map(|country| Self::of_country(Some(country)))
            .collect()
    }

    /// Its number, below [`SHARDS`].
    pub fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
#[path = "fleet/history_tests.rs"]
mod history_tests;
#[cfg(test)]
#[path = "fleet/tests.rs"]
mod tests;
