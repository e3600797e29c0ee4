//! Rows of the databases, as far as they are read.

use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct CountryRow<'a> {
    #[serde(borrow)]
    pub(super) country: Option<IsoCode<'a>>,
    #[serde(borrow)]
    pub(super) registered_country: Option<IsoCode<'a>>,
    pub(super) country_code: Option<&'a str>,
}

#[derive(Deserialize)]
pub(super) struct IsoCode<'a> {
    pub(super) iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
pub(super) struct CityRow<'a> {
    #[serde(borrow)]
    pub(super) country: Option<IsoCode<'a>>,
    #[serde(borrow, default)]
    pub(super) subdivisions: Vec<IsoCode<'a>>,
    #[serde(borrow)]
    pub(super) city: Option<CityNames<'a>>,
    pub(super) location: Option<Location>,
}

#[derive(Deserialize)]
pub(super) struct CityNames<'a> {
    #[serde(borrow)]
    pub(super) names: EnglishName<'a>,
}

#[derive(Deserialize)]
pub(super) struct EnglishName<'a> {
    pub(super) en: Option<&'a str>,
}

#[derive(Deserialize)]
pub(super) struct Location {
    pub(super) latitude: Option<f64>,
    pub(super) longitude: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct AsnRow<'a> {
    pub(super) autonomous_system_number: Option<u32>,
    pub(super) autonomous_system_organization: Option<&'a str>,
    #[serde(rename = "type")]
    pub(super) kind: Option<&'a str>,
}

/// What a database of countries or cities knows of the network besides.
#[derive(Deserialize)]
pub(super) struct Traits<'a> {
    #[serde(borrow)]
    pub(super) traits: Option<NetworkTraits<'a>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct NetworkTraits<'a> {
    pub(super) user_type: Option<&'a str>,
    pub(super) connection_type: Option<&'a str>,
    pub(super) is_hosting_provider: bool,
}

impl NetworkTraits<'_> {
    /// What this says, and where it says nothing, the other.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            user_type: self.user_type.or(other.user_type),
            connection_type: self.connection_type.or(other.connection_type),
            is_hosting_provider: self.is_hosting_provider || other.is_hosting_provider,
        }
    }
}
