//! Several brokers of one network: which part of the book is whose, and where a request has to go.
//!
//! The book is cut into [`SHARDS`] shards by the country of the address and the provider's wallet. Each has one owner, who
//! alone sells from it.
//! Whose a shard is stands in the database that all brokers share, under an epoch that grows with each owner: a
//! transaction of an earlier epoch is refused there, so whoever is late, paused or cut off can sell nothing. What a
//! broker believes ([`Member`]) only decides whom it asks and what it tries.

mod link;
mod member;
mod quote;

use std::collections::BTreeSet;
use std::fmt;

use ipsx_metering::{Address, keccak256};
use serde::{Deserialize, Serialize};

use crate::place::Country;
use crate::record::DealRecord;
use crate::request::Filter;

pub use link::{Heard, Incoming, Number, Outgoing};
pub use member::{
    Epoch, Instance, Lost, Member, Millis, NoInstance, Seen, ShardRow, Timing, Turn, Wish,
};
pub use quote::Quote;

/// Shards of a network's book. Deals name theirs on disk, so neither this nor what follows ever changes.
pub const SHARDS: usize = 256;
/// Parts into which each country's offers fall, by their provider: so that the largest country is no shard of its own, and
/// no more brokers than this are asked for one country.
const PARTS: u8 = 4;

/// One part of the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(u8);

impl From<u8> for ShardId {
    fn from(number: u8) -> Self {
        Self(number)
    }
}

impl ShardId {
    /// All shards.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    /// The shard of what a provider offers in a country; addresses whose country is not known have theirs, too.
    pub fn new(country: Option<Country>, provider: Address) -> Self {
        let part = keccak256([b"ipsx part ", provider.as_slice()].concat())[0] % PARTS;
        Self(first_part(country) + part)
    }

    /// The shard of a deal.
    pub fn of(record: &DealRecord) -> Self {
        Self::new(record.placement.country, record.deal.provider)
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
                    // Nothing can pass it; the owners of the first say so in their own words.
                    if both.is_empty() {
                        countries.iter().take(1).copied().collect()
                    } else {
                        both
                    }
                }
            };
        let parts = |country| (0..PARTS).map(move |part| Self(first_part(Some(country)) + part));
        named.into_iter().flat_map(parts).collect()
    }

    /// Its number, below [`SHARDS`].
    pub fn number(self) -> u8 {
        self.0
    }
}

/// The number of the first of a country's shards.
fn first_part(country: Option<Country>) -> u8 {
    let name = country.as_ref().map_or("", Country::as_str);
    let group = keccak256([b"ipsx shard ", name.as_bytes()].concat())[0];
    group / PARTS * PARTS
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
