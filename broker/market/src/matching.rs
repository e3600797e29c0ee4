//! Whether an offer is what somebody wants, one condition at a time, and what it would cost.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use ipsx_metering::{Address, Prices, UnixSeconds};

use crate::avoid::Avoided;
use crate::geo::{Direction, Reach};
use crate::offer::{Protocols, Tier, WeeklyHours};
use crate::place::{AddressType, City, Country, Measured, Placement, Region};
use crate::ports::{PortRange, has_port};
use crate::request::{Filter, IpVersion, Request};
use crate::services::ServiceName;
use crate::start::StartWindow;

/// What somebody wants of an offer.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Conditions on the offer and its placement.
    pub filter: &'a Filter,
    /// The most that may be charged.
    pub max_prices: Prices,
    /// Length of the lease; `None` asks for any.
    pub seconds: Option<u32>,
    /// When it may start.
    pub start: StartWindow,
    /// Bytes that it will carry about.
    pub expected_bytes: u64,
}

impl<'a> From<&'a Request> for Wanted<'a> {
    fn from(request: &'a Request) -> Self {
        Self {
            filter: &request.filter,
            max_prices: request.max_prices,
            seconds: Some(request.seconds),
            start: request.start,
            expected_bytes: request.expected_bytes,
        }
    }
}

/// Conditions in the order in which they are checked. The later an offer fails, the nearer it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Country of the address.
    Country,
    /// Region of the address.
    Region,
    /// City of the address.
    City,
    /// Distance from a point.
    Distance,
    /// Autonomous system of the address.
    Asn,
    /// Prefix of the address.
    Prefix,
    /// Type of the address.
    AddressType,
    /// IP version of the address.
    IpVersion,
    /// Addresses, networks and providers that are not wanted.
    Avoided,
    /// Protocols that the provider speaks.
    Protocols,
    /// What the exit lets through.
    Tier,
    /// Ports that the exit opens.
    Ports,
    /// Services that a lease comes with.
    Services,
    /// Mbit/s of the whole offer.
    Rate,
    /// Round trip.
    Latency,
    /// Reputation.
    Reputation,
    /// How requesters reach the provider.
    Reachability,
    /// Shortest and longest lease.
    Duration,
    /// Hours of the week.
    Hours,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Country => "the country",
            Self::Region => "the region",
            Self::City => "the city",
            Self::Distance => "the distance",
            Self::Asn => "the autonomous system",
            Self::Prefix => "the prefix",
            Self::AddressType => "the type of address",
            Self::IpVersion => "the IP version",
            Self::Avoided => "what is to be avoided",
            Self::Protocols => "the protocols",
            Self::Tier => "the tier",
            Self::Ports => "the ports",
            Self::Services => "the services",
            Self::Rate => "the rate in Mbit/s",
            Self::Latency => "the latency",
            Self::Reputation => "the reputation",
            Self::Reachability => "how the provider is reached",
            Self::Duration => "the length of the lease",
            Self::Hours => "the hours at which it is for sale",
        })
    }
}

/// What conditions on a place look at.
pub(crate) trait Placed {
    fn provider(&self) -> Address;
    /// Where the agent was seen.
    fn address(&self) -> IpAddr;
    /// The addresses of which a lease gets one.
    fn sold(&self) -> IpNet;
    fn country(&self) -> Option<Country>;
    fn region(&self) -> Option<Region>;
    fn city(&self) -> Option<&City>;
    fn direction(&self) -> Option<Direction>;
    fn asn(&self) -> Option<u32>;
    fn address_type(&self) -> Option<AddressType>;
}

/// A leased address.
struct Leased<'a> {
    placement: &'a Placement,
    provider: Address,
}

impl Placed for Leased<'_> {
    fn provider(&self) -> Address {
        self.provider
    }

    fn address(&self) -> IpAddr {
        self.placement.address
    }

    fn sold(&self) -> IpNet {
        self.placement.address.into()
    }

    fn country(&self) -> Option<Country> {
        self.placement.country
    }

    fn region(&self) -> Option<Region> {
        self.placement.region
    }

    fn city(&self) -> Option<&City> {
        self.placement.city.as_ref()
    }

    fn direction(&self) -> Option<Direction> {
        self.placement.point.map(Direction::from)
    }

    fn asn(&self) -> Option<u32> {
        self.placement.asn
    }

    fn address_type(&self) -> Option<AddressType> {
        self.placement.address_type
    }
}

/// What all conditions look at: an offer and its placement, price and free capacity apart.
pub(crate) trait Facts: Placed {
    fn measured(&self) -> Measured;
    fn protocols(&self) -> Protocols;
    fn tier(&self) -> Tier;
    fn ports(&self) -> &[PortRange];
    fn services(&self) -> &[ServiceName];
    /// Mbit/s of the whole offer, from the requesters and to them.
    fn rates(&self) -> (u32, u32);
    /// Shortest and longest lease in seconds.
    fn durations(&self) -> (u32, u32);
    fn weekly_hours(&self) -> &WeeklyHours;
}

impl<'a> Wanted<'a> {
    /// Whether neither price is above the wanted one.
    pub fn affords(&self, prices: &Prices) -> bool {
        prices.per_second <= self.max_prices.per_second && prices.per_gib <= self.max_prices.per_gib
    }

    /// What the lease would cost, rounded up; without a length, what a second would cost beside the bytes.
    pub fn cost(&self, prices: &Prices) -> u128 {
        let time = prices.per_second.0.0;
        let time = time.saturating_mul(self.seconds.unwrap_or(1).into());
        time.saturating_add(bytes_cost(prices.per_gib.0.0, self.expected_bytes))
    }

    /// Makes the conditions ready for many offers.
    pub fn conditions(self, now: UnixSeconds) -> Conditions<'a> {
        Conditions {
            wanted: self,
            now,
            reaches: self
                .filter
                .circles
                .iter()
                .map(|c| Reach::from(*c))
                .collect(),
            avoided: Avoided::from(&self.filter.avoid),
        }
    }
}

/// What so many bytes cost, rounded up.
fn bytes_cost(per_gib: u128, bytes: u64) -> u128 {
    const GIB: u128 = 1 << 30;
    let (whole, part) = (per_gib / GIB, per_gib % GIB);
    let bytes = u128::from(bytes);
    whole
        .saturating_mul(bytes)
        .saturating_add((part * bytes).div_ceil(GIB))
}

/// What is wanted, ready to be compared with offers.
#[derive(Clone, Debug)]
pub struct Conditions<'a> {
    wanted: Wanted<'a>,
    now: UnixSeconds,
    reaches: Vec<Reach>,
    avoided: Avoided,
}

impl<'a> Conditions<'a> {
    /// What is wanted.
    pub fn wanted(&self) -> &Wanted<'a> {
        &self.wanted
    }

    /// When they are asked.
    pub fn now(&self) -> UnixSeconds {
        self.now
    }

    /// When the lease would start if it is for sale at these hours.
    pub fn starts_at(&self, hours: &WeeklyHours) -> Option<UnixSeconds> {
        let seconds = self.wanted.seconds.unwrap_or(1);
        self.wanted.start.earliest_within(hours, seconds, self.now)
    }

    /// What must not be taken.
    pub(crate) fn avoided(&self) -> &Avoided {
        &self.avoided
    }

    /// Whether a point is near enough.
    pub(crate) fn reaches(&self, point: &Direction) -> bool {
        self.reaches.iter().any(|reach| reach.holds(point))
    }

    /// The first condition that an offer does not meet.
    pub(crate) fn unmet(&self, facts: &impl Facts) -> Option<Condition> {
        self.misplaced(facts)
            .or_else(|| self.lacking(facts))
            .or_else(|| self.untimely(facts))
    }

    /// The first condition on the address and its place that is not met.
    pub(crate) fn misplaced(&self, facts: &impl Placed) -> Option<Condition> {
        let f = self.wanted.filter;
        let near = |point: Direction| self.reaches(&point);
        first_unmet([
            (Condition::Country, one_of(&f.countries, || facts.country())),
            (Condition::Region, one_of(&f.regions, || facts.region())),
            (
                Condition::City,
                f.cities.is_empty() || facts.city().is_some_and(|city| f.cities.contains(city)),
            ),
            (
                Condition::Distance,
                self.reaches.is_empty() || facts.direction().is_some_and(near),
            ),
            (Condition::Asn, one_of(&f.asns, || facts.asn())),
            (
                Condition::Prefix,
                f.prefixes.is_empty() || f.prefixes.iter().any(|p| p.contains(&facts.address())),
            ),
            (
                Condition::AddressType,
                one_of(&f.address_types, || facts.address_type()),
            ),
            (
                Condition::IpVersion,
                match f.ip_version {
                    IpVersion::Any => true,
                    IpVersion::V4 => facts.address().is_ipv4(),
                    IpVersion::V6 => facts.address().is_ipv6(),
                },
            ),
            (
                Condition::Avoided,
                f.avoid.is_empty() || !self.avoided.rules_out(facts, &f.prefixes),
            ),
        ])
    }

    /// The first condition on what is offered and measured that is not met.
    fn lacking(&self, facts: &impl Facts) -> Option<Condition> {
        let f = self.wanted.filter;
        let measured = facts.measured();
        let (up, down) = facts.rates();
        let enough = |offered: u32, reached: Option<u32>, least: u32| {
            offered >= least && reached.is_none_or(|rate| rate >= least)
        };
        first_unmet([
            (
                Condition::Protocols,
                facts.protocols().contains(f.protocols),
            ),
            (Condition::Tier, facts.tier() >= f.tier),
            (
                Condition::Ports,
                f.ports.iter().all(|port| has_port(facts.ports(), *port)),
            ),
            (
                Condition::Services,
                f.services
                    .iter()
                    .all(|name| facts.services().contains(name)),
            ),
            (
                Condition::Rate,
                enough(up, measured.mbit_up, f.mbit_up)
                    && enough(down, measured.mbit_down, f.mbit_down),
            ),
            (
                Condition::Latency,
                f.max_latency_ms == 0
                    || measured.latency_ms.is_some_and(|ms| ms <= f.max_latency_ms),
            ),
            (
                Condition::Reputation,
                f.min_reputation == 0
                    || measured
                        .reputation
                        .is_some_and(|score| score >= f.min_reputation),
            ),
            (
                Condition::Reachability,
                f.reachability
                    .is_none_or(|way| measured.reachability.is_none_or(|found| found <= way)),
            ),
        ])
    }

    /// The first condition on the time of the lease that is not met.
    fn untimely(&self, facts: &impl Facts) -> Option<Condition> {
        let seconds = self.wanted.seconds;
        let (shortest, longest) = facts.durations();
        let fits = |seconds| (shortest..=longest).contains(&seconds);
        if !seconds.is_none_or(fits) {
            return Some(Condition::Duration);
        }
        let starts = self.starts_at(facts.weekly_hours());
        starts.is_none().then_some(Condition::Hours)
    }
}

/// The first condition on the place that a leased address of a provider does not meet.
pub fn misplaced(filter: &Filter, placement: &Placement, provider: Address) -> Option<Condition> {
    let wanted = Wanted {
        filter,
        max_prices: Prices::default(),
        seconds: None,
        start: StartWindow::NOW,
        expected_bytes: 0,
    };
    let leased = Leased {
        placement,
        provider,
    };
    wanted.conditions(UnixSeconds(0)).misplaced(&leased)
}

fn one_of<T: PartialEq>(wanted: &[T], found: impl FnOnce() -> Option<T>) -> bool {
    wanted.is_empty() || found().is_some_and(|found| wanted.contains(&found))
}

fn first_unmet<const N: usize>(conditions: [(Condition, bool); N]) -> Option<Condition> {
    let unmet = conditions.into_iter().find(|(_, met)| !met);
    unmet.map(|(condition, _)| condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cost_what_they_are_rounded_up() {
        assert_eq!(bytes_cost(0, u64::MAX), 0);
        assert_eq!(bytes_cost(1, 1), 1);
        assert_eq!(bytes_cost(7, 1 << 30), 7);
        assert_eq!(bytes_cost(7, (1 << 30) + 1), 8);
        assert_eq!(bytes_cost(3 << 30, 5), 15);
        assert_eq!(bytes_cost(u128::MAX, u64::MAX), u128::MAX);
    }
}
