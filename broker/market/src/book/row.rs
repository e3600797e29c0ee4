//! Offers as the book keeps them: each once, small, and what many have in common only once for all.

mod facts;
mod form;
mod rank;
mod table;

use std::net::IpAddr;

use ipnet::IpNet;
use ipsx_metering::{Address, B256, NetworkId, OfferId, UnixSeconds};

pub(super) use self::rank::Rank;
pub(super) use self::table::{Rows, Was};
use super::shared::ShareId;
use crate::evidence::Evidence;
use crate::geo::{Direction, Point};
use crate::offer::{PortRange, Protocols, Tier};
use crate::place::{AddressType, City, Country, Measured, Region};
use crate::services::ServiceName;

/// Names a row for as long as its offer is in the book; then it names another one's.
pub(super) type RowId = u32;

/// No row.
const NONE: RowId = RowId::MAX;

/// How much of a slot is let.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) leases: u32,
    pub(super) mbit_up: u64,
    pub(super) mbit_down: u64,
}

/// Where an address is; many have the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    region: Option<Region>,
    /// Its spelling counts: the offer's placement is given back as it came.
    city: Option<(Box<str>, City)>,
    point: Option<(Point, Direction)>,
}

/// Who runs the network of an address, and by what that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct System {
    asn: Option<u32>,
    name: Option<Box<str>>,
    evidence: Option<Evidence>,
}

/// An exit, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Exit {
    network: NetworkId,
    policy_hash: B256,
    ports: Box<[PortRange]>,
    services: Box<[ServiceName]>,
}

/// An offer in the book.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: OfferId,
    pub(super) nonce: u64,
    pub(super) expires_at: UnixSeconds,
    pub(super) bytes_per_month: u64,
    /// What is let of its slot, kept equal to the book's own count.
    pub(super) held: Held,
    /// Nearly always empty, so that two words are enough.
    prefixes: Option<Box<[IpNet]>>,
    pub(super) provider: Address,
    pub(super) address: IpAddr,
    pub(super) measured: Measured,
    pub(super) leases: u32,
    pub(super) mbit_up: u32,
    pub(super) mbit_down: u32,
    pub(super) min_seconds: u32,
    pub(super) max_seconds: u32,
    exit: ShareId,
    hours: ShareId,
    pub(super) place: ShareId,
    pub(super) system: ShareId,
    /// The provider's next row.
    next: RowId,
    pub(super) country: Option<Country>,
    pub(super) protocols: Protocols,
    pub(super) tier: Tier,
    pub(super) address_type: Option<AddressType>,
    /// Whether the orders and indexes have it.
    pub(super) for_sale: bool,
}

impl Row {
    pub(super) fn prefixes(&self) -> &[IpNet] {
        self.prefixes.as_deref().unwrap_or_default()
    }

    /// Leases that could start now.
    pub(super) fn free_leases(&self) -> u32 {
        self.leases.saturating_sub(self.held.leases)
    }

    /// Whether one more lease of this rate fits.
    pub(super) fn has_room(&self, mbit_up: u32, mbit_down: u32) -> bool {
        self.held.leases < self.leases
            && self.held.mbit_up + u64::from(mbit_up) <= u64::from(self.mbit_up)
            && self.held.mbit_down + u64::from(mbit_down) <= u64::from(self.mbit_down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_small() {
        let bytes = size_of::<Option<Row>>() + size_of::<Rank>();
        assert!(bytes <= 264, "{bytes}");
    }
}
