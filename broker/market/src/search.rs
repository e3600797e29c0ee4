//! The query of `GET /v1/offers`: what somebody looks for, as names and values.
//!
//! Lists are comma-separated or repeated; a `near` is one circle, repeated for others. [`NAMES`] has all names.

use std::fmt::Display;
use std::num::NonZeroU16;
use std::str::FromStr;

use ipnet::IpNet;
use ipsx_metering::{Address, Amount, PricePerGib, PricePerSecond, Prices};

use crate::book::Position;
use crate::check::{MAX_CIRCLES, MAX_LIST};
use crate::geo::Circle;
use crate::matching::Wanted;
use crate::offer::{Country, Protocol, Tier};
use crate::place::{AddressType, City, MAX_REPUTATION, Region};
use crate::request::{Filter, IpVersion};
use crate::services::ServiceName;
use crate::start::StartWindow;

/// Every name.
pub const NAMES: [&str; 26] = [
    "country",
    "region",
    "city",
    "near",
    "asn",
    "prefix",
    "address_type",
    "ip_version",
    "protocol",
    "tier",
    "port",
    "service",
    "mbit_up",
    "mbit_down",
    "max_latency_ms",
    "min_reputation",
    "reachability",
    "avoid_prefix",
    "avoid_asn",
    "avoid_provider",
    "max_price_per_second",
    "max_price_per_gib",
    "seconds",
    "expected_bytes",
    "limit",
    "cursor",
];

/// Most offers in one answer.
pub const MAX_RESULTS: usize = 1_000;

const TOO_MANY: &str = "at most 256 values";

/// What somebody looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferQuery {
    /// Conditions.
    pub filter: Filter,
    /// Offers that ask for more are left out.
    pub max_prices: Prices,
    /// Length of the lease, if it is known.
    pub seconds: Option<u32>,
    /// Bytes that it will carry about.
    pub expected_bytes: u64,
    /// Most offers in the answer, at most [`MAX_RESULTS`].
    pub limit: usize,
    /// Only offers that stand behind this.
    pub after: Option<Position>,
}

impl Default for OfferQuery {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            max_prices: Prices {
                per_second: PricePerSecond(Amount::MAX),
                per_gib: PricePerGib(Amount::MAX),
            },
            seconds: None,
            expected_bytes: 0,
            limit: MAX_RESULTS,
            after: None,
        }
    }
}

/// A name or value of the query can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuery {
    /// No such name.
    #[error("{0:?} is no parameter here; use one of {names}", names = NAMES.join(", "))]
    Name(String),
    /// Not a value for this name.
    #[error("{name} = {value:?} can't be used: it must be {allowed}")]
    Value {
        /// The name.
        name: &'static str,
        /// The value.
        value: String,
        /// What it must be.
        allowed: &'static str,
    },
}

impl OfferQuery {
    /// From decoded names and values.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, BadQuery> {
        let mut query = Self::default();
        let mut protocols = Vec::new();
        for (name, value) in pairs {
            query.take(name.as_ref(), value.as_ref(), &mut protocols)?;
        }
        query.filter.protocols = protocols.into_iter().collect();
        query.check_lists()?;
        Ok(query)
    }

    /// A list that comes in several parts is no longer than one that comes at once.
    fn check_lists(&self) -> Result<(), BadQuery> {
        let f = &self.filter;
        let lists = [
            ("country", f.countries.len()),
            ("region", f.regions.len()),
            ("city", f.cities.len()),
            ("asn", f.asns.len()),
            ("prefix", f.prefixes.len()),
            ("address_type", f.address_types.len()),
            ("port", f.ports.len()),
            ("service", f.services.len()),
            ("avoid_prefix", f.avoid.prefixes.len()),
            ("avoid_asn", f.avoid.asns.len()),
            ("avoid_provider", f.avoid.providers.len()),
        ];
        let long = lists.into_iter().find(|(_, entries)| *entries > MAX_LIST);
        long.map_or(Ok(()), |(name, entries)| {
            Err(bad(name, &format!("{entries} values"), TOO_MANY))
        })
    }

    /// As names and values, to be percent-encoded; [`Self::parse`] reads them back.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let f = &self.filter;
        let none = Self::default();
        let version = match f.ip_version {
            IpVersion::Any => "",
            IpVersion::V4 => "v4",
            IpVersion::V6 => "v6",
        };
        let tier = if f.tier == Tier::default() {
            ""
        } else {
            f.tier.as_str()
        };
        let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        let near = f.circles.iter().map(|circle| ("near", circle.to_string()));
        let price = |asked: Amount, any: Amount| {
            if asked == any {
                String::new()
            } else {
                asked.to_string()
            }
        };
        let (asked, any) = (&self.max_prices, &none.max_prices);
        let limit = if self.limit == none.limit {
            String::new()
        } else {
            self.limit.to_string()
        };
        let pairs = [
            ("country", list(&f.countries)),
            ("region", list(&f.regions)),
            ("city", list(&f.cities)),
            ("asn", list(&f.asns)),
            ("prefix", list(&f.prefixes)),
            ("address_type", list(&f.address_types)),
            ("ip_version", version.into()),
            ("protocol", list(&Vec::<Protocol>::from(f.protocols))),
            ("tier", tier.into()),
            ("port", list(&f.ports)),
            ("service", list(&f.services)),
            ("mbit_up", number(f.mbit_up.into())),
            ("mbit_down", number(f.mbit_down.into())),
            ("max_latency_ms", number(f.max_latency_ms.into())),
            ("min_reputation", number(f.min_reputation.into())),
            ("reachability", list(f.reachability.as_slice())),
            ("avoid_prefix", list(&f.avoid.prefixes)),
            ("avoid_asn", list(&f.avoid.asns)),
            ("avoid_provider", list(&f.avoid.providers)),
            (
                "max_price_per_second",
                price(asked.per_second.0, any.per_second.0),
            ),
            ("max_price_per_gib", price(asked.per_gib.0, any.per_gib.0)),
            (
                "seconds",
                self.seconds.map_or_else(String::new, |s| s.to_string()),
            ),
            ("expected_bytes", number(self.expected_bytes)),
            ("limit", limit),
            (
                "cursor",
                self.after.map_or_else(String::new, |at| at.to_string()),
            ),
        ];
        pairs
            .into_iter()
            .chain(near)
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    /// What to ask the book for.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted {
            filter: &self.filter,
            max_prices: self.max_prices,
            seconds: self.seconds,
            start: StartWindow::NOW,
            expected_bytes: self.expected_bytes,
        }
    }

    fn take(
        &mut self,
        name: &str,
        value: &str,
        protocols: &mut Vec<Protocol>,
    ) -> Result<(), BadQuery> {
        let f = &mut self.filter;
        let number = "a whole number";
        match name {
            "ip_version" => f.ip_version = version(value)?,
            "protocol" => {
                let names = "wireguard, socks5 or http-connect";
                protocols.extend(many::<Protocol>("protocol", value, names)?);
            }
            // An unescaped + of web+udp arrives as a space.
            "tier" => f.tier = one("tier", &value.replace(' ', "+"), "web, web+udp or open")?,
            "service" => {
                f.services
                    .extend(many::<ServiceName>("service", value, "names of services")?)
            }
            "port" => f.ports.extend(
                many::<NonZeroU16>("port", value, "ports from 1 to 65535")?
                    .into_iter()
                    .map(u16::from),
            ),
            "mbit_up" => f.mbit_up = one("mbit_up", value, number)?,
            "mbit_down" => f.mbit_down = one("mbit_down", value, number)?,
            "max_latency_ms" => {
                f.max_latency_ms = one("max_latency_ms", value, "milliseconds below 65536")?;
            }
            "min_reputation" => {
                let allowed = "a number from 0 to 1000";
                let least = one("min_reputation", value, allowed)?;
                if least > MAX_REPUTATION {
                    return Err(bad("min_reputation", value, allowed));
                }
                f.min_reputation = least;
            }
            "reachability" => {
                f.reachability = Some(one("reachability", value, "direct, punched or relayed")?);
            }
            "max_price_per_second" => {
                self.max_prices.per_second = one("max_price_per_second", value, number)?;
            }
            "max_price_per_gib" => {
                self.max_prices.per_gib = one("max_price_per_gib", value, number)?
            }
            "seconds" => self.seconds = Some(one("seconds", value, number)?),
            "expected_bytes" => self.expected_bytes = one("expected_bytes", value, number)?,
            "cursor" => {
                let allowed = "as the Link header of the page before has it";
                self.after = Some(one("cursor", value, allowed)?);
            }
            "limit" => self.limit = one::<usize>("limit", value, number)?.min(MAX_RESULTS),
            place => return take_place(f, place, value),
        }
        Ok(())
    }
}

/// A condition on the address and its place.
fn take_place(f: &mut Filter, name: &str, value: &str) -> Result<(), BadQuery> {
    const SYSTEMS: &str = "numbers of autonomous systems";
    const PREFIXES: &str = "prefixes such as 203.0.113.0/24";
    match name {
        "country" => f.countries.extend(many::<Country>(
            "country",
            value,
            "codes of two letters, such as FR",
        )?),
        "region" => f.regions.extend(many::<Region>(
            "region",
            value,
            "codes of ISO 3166-2, such as FR-IDF",
        )?),
        "city" => f
            .cities
            .extend(many::<City>("city", value, "names of cities")?),
        "near" => {
            let allowed = "latitude,longitude,kilometres, such as 48.8566,2.3522,50";
            if f.circles.len() >= MAX_CIRCLES {
                return Err(bad("near", value, "one of at most 16 circles"));
            }
            f.circles.push(one::<Circle>("near", value, allowed)?);
        }
        "asn" => f.asns.extend(many::<u32>("asn", value, SYSTEMS)?),
        "prefix" => f.prefixes.extend(many::<IpNet>("prefix", value, PREFIXES)?),
        "avoid_asn" => {
            let asns = many::<u32>("avoid_asn", value, SYSTEMS)?;
            f.avoid.asns.extend(asns);
        }
        "avoid_prefix" => {
            let prefixes = many::<IpNet>("avoid_prefix", value, PREFIXES)?;
            f.avoid.prefixes.extend(prefixes);
        }
        "avoid_provider" => {
            let wallets = many::<Address>("avoid_provider", value, "addresses of wallets")?;
            f.avoid.providers.extend(wallets);
        }
        "address_type" => f.address_types.extend(many::<AddressType>(
            "address_type",
            value,
            "residential, mobile or hosting",
        )?),
        other => return Err(BadQuery::Name(other.chars().take(40).collect())),
    }
    Ok(())
}

fn list<T: Display>(values: &[T]) -> String {
    let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn version(value: &str) -> Result<IpVersion, BadQuery> {
    match value {
        "any" => Ok(IpVersion::Any),
        "v4" | "4" => Ok(IpVersion::V4),
        "v6" | "6" => Ok(IpVersion::V6),
        _ => Err(bad("ip_version", value, "any, v4 or v6")),
    }
}

fn one<T: FromStr>(name: &'static str, value: &str, allowed: &'static str) -> Result<T, BadQuery> {
    value.parse().map_err(|_| bad(name, value, allowed))
}

fn many<T: FromStr>(
    name: &'static str,
    value: &str,
    allowed: &'static str,
) -> Result<Vec<T>, BadQuery> {
    let parts = value.split(',').filter(|part| !part.is_empty());
    if parts.clone().count() > MAX_LIST {
        return Err(bad(name, value, TOO_MANY));
    }
    parts.map(|part| one(name, part.trim(), allowed)).collect()
}

fn bad(name: &'static str, value: &str, allowed: &'static str) -> BadQuery {
    BadQuery::Value {
        name,
        value: value.chars().take(80).collect(),
        allowed,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_query_reads_back_what_it_wrote() {
        let query = OfferQuery::parse([
            ("country", "fr,DE"),
            ("country", "JP"),
            ("asn", "64500"),
            ("prefix", "203.0.113.0/24,2001:db8::/32"),
            ("region", "fr-idf"),
            ("city", "Paris,São Paulo"),
            ("near", "48.8566,2.3522,50"),
            ("near", "-0.5,-70,200"),
            ("address_type", "mobile"),
            ("port", "25,8080"),
            ("service", "insurance"),
            ("max_latency_ms", "50"),
            ("reachability", "punched"),
            ("min_reputation", "700"),
            ("avoid_prefix", "203.0.113.7/32"),
            ("avoid_asn", "64501,64502"),
            (
                "avoid_provider",
                "0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a",
            ),
            ("expected_bytes", "1000000"),
            ("ip_version", "v6"),
            ("protocol", "wireguard,socks5"),
            ("tier", "web udp"),
            ("mbit_down", "20"),
            ("max_price_per_second", "5"),
            ("seconds", "60"),
            ("limit", "7"),
            ("cursor", &"0f".repeat(48)),
        ]);
        let query = query.unwrap();
        assert_eq!(query.filter.countries.len(), 3);
        assert_eq!(query.filter.tier, Tier::WebUdp);
        assert_eq!(query.filter.circles.len(), 2);
        assert_eq!(query.filter.ports, [25, 8080]);
        assert_eq!(query.max_prices.per_gib, PricePerGib(Amount::MAX));
        assert_eq!(OfferQuery::parse(query.pairs()).unwrap(), query);
        let written = query.pairs();
        assert!(
            NAMES
                .iter()
                .filter(|name| **name != "mbit_up" && **name != "max_price_per_gib")
                .all(|name| { written.iter().any(|(other, _)| other == name) })
        );
        assert_eq!(OfferQuery::default().pairs(), []);
    }

    #[test]
    fn what_can_not_be_used_is_named() {
        let error = OfferQuery::parse([("country", "France")]).unwrap_err();
        assert!(error.to_string().starts_with("country = \"France\""));
        let error = OfferQuery::parse([("colour", "red")]).unwrap_err();
        assert!(error.to_string().contains("max_price_per_second"));
        assert!(OfferQuery::parse([("limit", "-1")]).is_err());
        assert!(OfferQuery::parse([("min_reputation", "1001")]).is_err());
        let near = vec![("near", "0,0,1"); MAX_CIRCLES];
        assert!(OfferQuery::parse(near.clone()).is_ok());
        assert!(OfferQuery::parse(near.into_iter().chain([("near", "0,0,1")])).is_err());
        let asns = |count| vec!["1"; count].join(",");
        assert!(OfferQuery::parse([("asn", asns(MAX_LIST))]).is_ok());
        assert!(OfferQuery::parse([("asn", asns(MAX_LIST + 1))]).is_err());
        assert!(OfferQuery::parse([("asn", asns(MAX_LIST)), ("asn", asns(1))]).is_err());
        // Nothing and zero are two things.
        let none = OfferQuery::parse([("seconds", "0"), ("limit", "0")]).unwrap();
        assert_eq!((none.seconds, none.limit), (Some(0), 0));
        assert_eq!(OfferQuery::parse(none.pairs()).unwrap(), none);
        for cursor in ["", "0f", &"0x".repeat(48), &"é".repeat(48)] {
            assert!(OfferQuery::parse([("cursor", cursor)]).is_err(), "{cursor}");
        }
    }
}
