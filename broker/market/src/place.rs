//! Where an address is and what it is like, as the broker found it; never what the provider says.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;
use crate::geo::Point;

/// ISO 3166-1 alpha-2 code of a country, upper case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Country([u8; 2]);

/// The text is no country code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no country code; use two letters of ISO 3166-1, such as FR")]
pub struct NoCountry(String);

impl Country {
    /// The two letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("??")
    }
}

impl FromStr for Country {
    type Err = NoCountry;

    fn from_str(text: &str) -> Result<Self, NoCountry> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Ok(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => Err(NoCountry(text.into())),
        }
    }
}

/// ISO 3166-2 code of a country's region, upper case, such as `FR-IDF`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region {
    country: Country,
    /// One to three letters or digits; the rest is zero.
    part: [u8; 3],
}

/// The text is no region code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no region code; use one of ISO 3166-2, such as FR-IDF or US-CA")]
pub struct NoRegion(String);

impl Region {
    /// A region of a country by its own part of the code, such as `IDF`.
    pub fn new(country: Country, part: &str) -> Result<Self, NoRegion> {
        format!("{country}-{part}").parse()
    }

    /// The country that it is a part of.
    pub fn country(&self) -> Country {
        self.country
    }
}

impl FromStr for Region {
    type Err = NoRegion;

    fn from_str(text: &str) -> Result<Self, NoRegion> {
        let no_region = || NoRegion(text.chars().take(20).collect());
        let (country, rest) = text.split_once('-').ok_or_else(no_region)?;
        let country = country.parse().map_err(|_| no_region())?;
        let known = rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !known || !(1..=3).contains(&rest.len()) {
            return Err(no_region());
        }
        let mut part = [0; 3];
        for (to, from) in part.iter_mut().zip(rest.bytes()) {
            *to = from.to_ascii_uppercase();
        }
        Ok(Self { country, part })
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.part.iter().take_while(|byte| **byte != 0).count();
        let part = std::str::from_utf8(&self.part[..used]).unwrap_or("?");
        write!(f, "{}-{part}", self.country)
    }
}

/// A city's English name, as the database spells it; capital and small letters of ASCII are the same.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct City(Box<str>);

/// The text is no name of a city.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a city; use 1 to 64 characters without a comma")]
pub struct NoCity(String);

/// Most bytes of a city's name.
const LONGEST_CITY: usize = 64;

impl City {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for City {
    type Err = NoCity;

    fn from_str(text: &str) -> Result<Self, NoCity> {
        let name = text.trim();
        let odd = |c: char| c.is_control() || c == ',';
        if name.is_empty() || name.len() > LONGEST_CITY || name.contains(odd) {
            return Err(NoCity(text.chars().take(LONGEST_CITY).collect()));
        }
        Ok(Self(name.into()))
    }
}

impl PartialEq for City {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for City {}

impl std::hash::Hash for City {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for byte in self.0.bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
        state.write_u8(0xff);
    }
}

impl fmt::Display for City {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! text_both_ways {
    ($($type:ident, $error:ident);*) => { $(
        impl TryFrom<String> for $type {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    )* };
}

text_both_ways!(Country, NoCountry; Region, NoRegion; City, NoCity);

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What kind of network an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AddressType {
    /// A home.
    Residential,
    /// A mobile network.
    Mobile,
    /// A datacenter.
    Hosting,
}

impl AddressType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Residential, Self::Mobile, Self::Hosting];

    /// The name that people and signed messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Residential => "residential",
            Self::Mobile => "mobile",
            Self::Hosting => "hosting",
        }
    }
}

/// No type of address has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of address; use residential, mobile or hosting")]
pub struct UnknownAddressType(String);

impl FromStr for AddressType {
    type Err = UnknownAddressType;

    fn from_str(name: &str) -> Result<Self, UnknownAddressType> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| UnknownAddressType(name.chars().take(40).collect()))
    }
}

impl fmt::Display for AddressType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How requesters reach a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Reachability {
    /// Anybody can send to it.
    Direct,
    /// Both sides have to send first.
    Punched,
    /// Only through others.
    Relayed,
}

impl Reachability {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Direct, Self::Punched, Self::Relayed];

    /// The name that people and signed messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Punched => "punched",
            Self::Relayed => "relayed",
        }
    }
}

/// Nothing is reached in a way of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to reach a provider; use direct, punched or relayed")]
pub struct UnknownReachability(String);

impl FromStr for Reachability {
    type Err = UnknownReachability;

    fn from_str(name: &str) -> Result<Self, UnknownReachability> {
        let found = Self::ALL.into_iter().find(|way| way.as_str() == name);
        found.ok_or_else(|| UnknownReachability(name.chars().take(40).collect()))
    }
}

impl fmt::Display for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Best reputation.
pub const MAX_REPUTATION: u16 = 1_000;

/// What was measured of an offer, each only once there is something to go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Measured {
    /// How requesters reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachability: Option<Reachability>,
    /// Round trip through the exit and back, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u16>,
    /// Mbit/s from a requester that were reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mbit_up: Option<u32>,
    /// Mbit/s to a requester that were reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mbit_down: Option<u32>,
    /// From 0 to [`MAX_REPUTATION`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 1000))]
    pub reputation: Option<u16>,
}

impl Measured {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Where an address is, and what it is like. What nobody has found out is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Placement {
    /// Source address that the broker saw.
    #[cfg_attr(feature = "openapi", schema(value_type = ipsx_metering::openapi::IpText))]
    pub address: IpAddr,
    /// Country by the database; `None` when the database does not know the address.
    pub country: Option<Country>,
    /// Region by the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// City by the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<City>,
    /// Where that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<Point>,
    /// Autonomous system by the database.
    pub asn: Option<u32>,
    /// Who runs that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_name: Option<String>,
    /// What kind of network it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_type: Option<AddressType>,
    /// What all that rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What was measured.
    #[serde(default, skip_serializing_if = "Measured::is_nothing")]
    pub measured: Measured,
}

impl Placement {
    /// Whether both say the same of an address, whatever it rests on.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let bare = |placement: &Self| Self {
            evidence: None,
            ..placement.clone()
        };
        bare(self) == bare(other)
    }

    /// An address of which nothing else is known.
    pub fn at(address: IpAddr) -> Self {
        Self {
            address,
            country: None,
            region: None,
            city: None,
            point: None,
            asn: None,
            as_name: None,
            address_type: None,
            evidence: None,
            measured: Measured::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_places_are_read_and_written() {
        let region: Region = "fr-idf".parse().unwrap();
        assert_eq!(region.to_string(), "FR-IDF");
        assert_eq!(
            Region::new("US".parse().unwrap(), "CA")
                .unwrap()
                .to_string(),
            "US-CA"
        );
        for text in ["FR", "FR-", "FR-IDFX", "F-IDF", "FR-I F"] {
            assert!(text.parse::<Region>().is_err(), "{text}");
        }
        let city: City = " São Paulo ".parse().unwrap();
        assert_eq!(city, "SãO PAULO".parse().unwrap());
        assert_eq!(city.to_string(), "São Paulo");
        assert!("".parse::<City>().is_err());
        assert!("Paris, Texas".parse::<City>().is_err());
    }
}
