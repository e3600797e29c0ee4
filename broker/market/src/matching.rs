//! Whether an offer is what somebody wants, one condition at a time.

use std::fmt;

use ipsx_metering::{Prices, UnixSeconds};

use crate::offer::{Offer, Placement, Protocols, Tier, WeeklyHours};
use crate::request::{Filter, IpVersion, Request};

/// What somebody wants of an offer.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Conditions on the offer and its placement.
    pub filter: &'a Filter,
    /// The most that may be charged.
    pub max_prices: Prices,
    /// Length of the lease; `None` asks for any.
    pub seconds: Option<u32>,
}

impl<'a> From<&'a Request> for Wanted<'a> {
    fn from(request: &'a Request) -> Self {
        Self {
            filter: &request.filter,
            max_prices: request.max_prices,
            seconds: Some(request.seconds),
        }
    }
}

/// Conditions in the order in which they are checked. The later an offer fails, the nearer it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Country of the address.
    Country,
    /// Autonomous system of the address.
    Asn,
    /// Prefix of the address.
    Prefix,
    /// IP version of the address.
    IpVersion,
    /// Protocols that the provider speaks.
    Protocols,
    /// What the exit lets through.
    Tier,
    /// Mbit/s of the whole offer.
    Rate,
    /// Shortest and longest lease.
    Duration,
    /// Hours of the week.
    Hours,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Country => "the country",
            Self::Asn => "the autonomous system",
            Self::Prefix => "the prefix",
            Self::IpVersion => "the IP version",
            Self::Protocols => "the protocols",
            Self::Tier => "the tier",
            Self::Rate => "the rate in Mbit/s",
            Self::Duration => "the length of the lease",
            Self::Hours => "the hours at which it is for sale",
        })
    }
}

/// What conditions look at: an offer and its placement, price and free capacity apart.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Where it is.
    pub placement: &'a Placement,
    /// How leases can be used.
    pub protocols: Protocols,
    /// Tier of the exit policy.
    pub tier: Tier,
    /// Mbit/s from the requesters, of the whole offer.
    pub mbit_up: u32,
    /// Mbit/s to the requesters, of the whole offer.
    pub mbit_down: u32,
    /// Shortest lease in seconds.
    pub min_seconds: u32,
    /// Longest lease in seconds.
    pub max_seconds: u32,
    /// When leases may run.
    pub weekly_hours: &'a WeeklyHours,
}

impl<'a> Facts<'a> {
    /// Those of an offer.
    pub fn of(offer: &'a Offer, placement: &'a Placement) -> Self {
        Self {
            placement,
            protocols: offer.protocols,
            tier: offer.tier,
            mbit_up: offer.capacity.mbit_up,
            mbit_down: offer.capacity.mbit_down,
            min_seconds: offer.min_seconds,
            max_seconds: offer.max_seconds,
            weekly_hours: &offer.weekly_hours,
        }
    }
}

impl Condition {
    /// Every condition, in order.
    pub const ALL: [Self; 9] = [
        Self::Country,
        Self::Asn,
        Self::Prefix,
        Self::IpVersion,
        Self::Protocols,
        Self::Tier,
        Self::Rate,
        Self::Duration,
        Self::Hours,
    ];
}

impl Wanted<'_> {
    /// The first condition that the offer does not meet.
    pub fn unmet(&self, facts: &Facts<'_>, now: UnixSeconds) -> Option<Condition> {
        Condition::ALL
            .into_iter()
            .find(|condition| !self.meets(*condition, facts, now))
    }

    fn meets(&self, condition: Condition, facts: &Facts<'_>, now: UnixSeconds) -> bool {
        let f = self.filter;
        let placement = facts.placement;
        match condition {
            Condition::Country => {
                f.countries.is_empty()
                    || placement.country.is_some_and(|c| f.countries.contains(&c))
            }
            Condition::Asn => {
                f.asns.is_empty() || placement.asn.is_some_and(|a| f.asns.contains(&a))
            }
            Condition::Prefix => {
                f.prefixes.is_empty() || f.prefixes.iter().any(|p| p.contains(&placement.address))
            }
            Condition::IpVersion => match f.ip_version {
                IpVersion::Any => true,
                IpVersion::V4 => placement.address.is_ipv4(),
                IpVersion::V6 => placement.address.is_ipv6(),
            },
            Condition::Protocols => facts.protocols.contains(f.protocols),
            Condition::Tier => facts.tier >= f.tier,
            Condition::Rate => facts.mbit_up >= f.mbit_up && facts.mbit_down >= f.mbit_down,
            Condition::Duration => self
                .seconds
                .is_none_or(|s| (facts.min_seconds..=facts.max_seconds).contains(&s)),
            Condition::Hours => self
                .seconds
                .map_or(facts.weekly_hours.contains(now), |seconds| {
                    covers(facts.weekly_hours, now, seconds)
                }),
        }
    }

    /// Whether neither price is above the wanted one.
    pub fn affords(&self, prices: &Prices) -> bool {
        prices.per_second <= self.max_prices.per_second && prices.per_gib <= self.max_prices.per_gib
    }
}

/// Whether every hour that a lease from `now` touches is for sale.
fn covers(hours: &WeeklyHours, now: UnixSeconds, seconds: u32) -> bool {
    if *hours == WeeklyHours::always() {
        return true;
    }
    let last = now.after(u64::from(seconds).saturating_sub(1));
    // After a week every hour has been looked at.
    let touched = (last.0 / 3600 - now.0 / 3600).min(167);
    (0..=touched).all(|hour| hours.contains(now.after(hour * 3600)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ipsx_metering::U256;

    /// 2026-11-20 14:00 UTC, a Friday.
    const FRIDAY_14: UnixSeconds = UnixSeconds(1_795_183_200);

    #[test]
    fn a_lease_must_fit_into_the_hours_for_sale() {
        let friday_14_to_16 = WeeklyHours(U256::from(0b11u8) << (4 * 24 + 14));
        assert!(covers(&friday_14_to_16, FRIDAY_14, 7_200));
        assert!(!covers(&friday_14_to_16, FRIDAY_14, 7_201));
        assert!(covers(&friday_14_to_16, FRIDAY_14.after(7_195), 5));
        assert!(!covers(&friday_14_to_16, FRIDAY_14.after(7_196), 5));
        assert!(!covers(&friday_14_to_16, UnixSeconds(FRIDAY_14.0 - 1), 5));
    }

    #[test]
    fn a_lease_longer_than_a_week_needs_every_hour() {
        let month = 31 * 24 * 3600;
        assert!(covers(&WeeklyHours::always(), FRIDAY_14, month));
        let all_but_monday_0 = WeeklyHours(WeeklyHours::always().0 ^ U256::from(1u8));
        assert!(!covers(&all_but_monday_0, FRIDAY_14, month));
        assert!(covers(&all_but_monday_0, FRIDAY_14, 3600));
    }
}
