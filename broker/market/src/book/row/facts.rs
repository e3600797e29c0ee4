//! What conditions look at of a row.

use std::net::IpAddr;

use ipnet::IpNet;
use ipsx_metering::Address;

use super::{Row, Rows};
use crate::geo::Direction;
use crate::matching::{Facts, Placed};
use crate::offer::{PortRange, Protocols, Tier, WeeklyHours};
use crate::place::{AddressType, City, Country, Measured, Region};
use crate::services::ServiceName;
use crate::sold::sold_at;

/// A row with what it shares.
pub(in crate::book) struct RowFacts<'r> {
    pub(super) rows: &'r Rows,
    pub(super) row: &'r Row,
}

impl Placed for RowFacts<'_> {
    fn provider(&self) -> Address {
        self.row.provider
    }

    fn address(&self) -> IpAddr {
        self.row.address
    }

    fn sold(&self) -> IpNet {
        sold_at(self.row.prefixes(), self.row.address)
    }

    fn country(&self) -> Option<Country> {
        self.row.country
    }

    fn region(&self) -> Option<Region> {
        self.rows.places.get(self.row.place).region
    }

    fn city(&self) -> Option<&City> {
        let city = self.rows.places.get(self.row.place).city.as_ref();
        city.map(|(_, city)| city)
    }

    fn direction(&self) -> Option<Direction> {
        let point = self.rows.places.get(self.row.place).point;
        point.map(|(_, direction)| direction)
    }

    fn asn(&self) -> Option<u32> {
        self.rows.systems.get(self.row.system).asn
    }

    fn address_type(&self) -> Option<AddressType> {
        self.row.address_type
    }
}

impl Facts for RowFacts<'_> {
    fn measured(&self) -> Measured {
        self.row.measured
    }

    fn protocols(&self) -> Protocols {
        self.row.protocols
    }

    fn tier(&self) -> Tier {
        self.row.tier
    }

    fn ports(&self) -> &[PortRange] {
        &self.rows.exits.get(self.row.exit).ports
    }

    fn services(&self) -> &[ServiceName] {
        &self.rows.exits.get(self.row.exit).services
    }

    fn rates(&self) -> (u32, u32) {
        (self.row.mbit_up, self.row.mbit_down)
    }

    fn durations(&self) -> (u32, u32) {
        (self.row.min_seconds, self.row.max_seconds)
    }

    fn weekly_hours(&self) -> &WeeklyHours {
        self.rows.hours.get(self.row.hours)
    }
}
