//! A search page by page.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::hex;
use ipsx_metering::UnixSeconds;
use serde::{Deserialize, Serialize};

use super::row::Rank;
use super::{Listing, OfferBook};
use crate::matching::Wanted;

/// Where an offer stands in the order of a search. It stays where it is whatever is offered or taken back meanwhile.
///
/// Positions of several books are in one order, which is the books' own as far as prices and measurements tell offers
/// apart; among equal ones it is by their ages, which [`OfferBook::begin_at`] keeps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position(Rank);

/// One line of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The offer.
    pub listing: Listing,
    /// Leases of it that could start now.
    pub free_leases: u32,
    /// What the lines after it are asked for by.
    pub position: Position,
}

impl Position {
    /// Bytes of one that is written down.
    pub const BYTES: usize = 48;

    /// As bytes.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let rank = self.0;
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&rank.per_second.to_be_bytes());
        bytes[16..32].copy_from_slice(&rank.per_gib.to_be_bytes());
        bytes[32..36].copy_from_slice(&rank.standing.to_be_bytes());
        bytes[36..44].copy_from_slice(&rank.sequence.to_be_bytes());
        bytes[44..].copy_from_slice(&rank.row.to_be_bytes());
        bytes
    }

    /// From bytes; any are a position, though perhaps not of an offer.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let mut rest = bytes.as_slice();
        Self(Rank {
            per_second: u128::from_be_bytes(first(&mut rest)),
            per_gib: u128::from_be_bytes(first(&mut rest)),
            standing: u32::from_be_bytes(first(&mut rest)),
            sequence: u64::from_be_bytes(first(&mut rest)),
            row: u32::from_be_bytes(first(&mut rest)),
        })
    }
}

/// The next bytes; zeros past the end, which lengths exclude.
fn first<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (taken, left) = rest.split_first_chunk::<N>().unwrap_or((&[0; N], &[]));
    *rest = left;
    *taken
}

/// The text is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position in a search has {} hex digits", 2 * Position::BYTES)]
pub struct NoPosition;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.to_bytes()))
    }
}

impl From<Position> for String {
    fn from(position: Position) -> Self {
        position.to_string()
    }
}

impl TryFrom<String> for Position {
    type Error = NoPosition;

    fn try_from(text: String) -> Result<Self, NoPosition> {
        text.parse()
    }
}

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        if text.len() != 2 * Self::BYTES {
            return Err(NoPosition);
        }
        let bytes = hex::decode_to_array(text).map_err(|_| NoPosition)?;
        Ok(Self::from_bytes(bytes))
    }
}

impl OfferBook {
    /// Offers that are what somebody wants, cheapest first, sold out or not, from behind a position on; at most `limit`.
    pub fn page(
        &self,
        wanted: &Wanted<'_>,
        now: UnixSeconds,
        limit: usize,
        after: Option<Position>,
    ) -> Vec<Found> {
        let after = after.map(|Position(rank)| rank);
        let conditions = wanted.conditions(now);
        let ranks = self.look_for(&conditions, &[]).list(limit, after);
        let found = ranks.into_iter().filter_map(|rank| {
            Some(Found {
                listing: self.rows.listing(rank.row)?,
                free_leases: self.rows.get(rank.row)?.free_leases(),
                position: Position(rank),
            })
        });
        found.collect()
    }
}
