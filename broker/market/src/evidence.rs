//! What a placement rests on: which databases were asked, and what gave the address its type.

use std::fmt;

use ipsx_metering::UnixSeconds;
use serde::{Deserialize, Serialize};

use crate::place::AddressType;

/// A database, by what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DatabaseKind {
    /// Countries.
    Country,
    /// Regions, cities, coordinates.
    City,
    /// Autonomous systems.
    Asn,
}

impl fmt::Display for DatabaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Country => "country",
            Self::City => "city",
            Self::Asn => "asn",
        })
    }
}

/// One build of a database.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DatabaseBuild {
    /// What it is asked for.
    pub database: DatabaseKind,
    /// What it calls itself, such as `GeoLite2-City`.
    pub name: String,
    /// When it was built, by its own word.
    pub built_at: UnixSeconds,
}

/// What gave an address its type. The first that says something decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TypeRule {
    /// A database says what kind of user has the address (`traits.user_type`).
    UserType,
    /// A database says that it belongs to a hosting provider (`traits.is_hosting_provider`).
    HostingProvider,
    /// A database says how it is connected (`traits.connection_type`).
    ConnectionType,
    /// A database says what the autonomous system is for (`type`).
    SystemType,
    /// The name of who runs the autonomous system has a word for it.
    SystemName,
    /// The operator has said so, after an appeal; goes before all others.
    Ruling,
}

/// Why an address has its type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TypeEvidence {
    /// What decided.
    pub rule: TypeRule,
    /// What it said.
    pub found: String,
}

/// What a placement rests on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Evidence {
    /// The databases that were asked.
    #[cfg_attr(feature = "openapi", schema(max_items = 3))]
    pub databases: Vec<DatabaseBuild>,
    /// Why the address has its type; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_type: Option<TypeEvidence>,
}

/// What databases say that bears on an address's type.
#[derive(Clone, Copy, Debug, Default)]
pub struct TypeSigns<'a> {
    /// `traits.user_type`.
    pub user_type: Option<&'a str>,
    /// `traits.is_hosting_provider`.
    pub hosting_provider: bool,
    /// `traits.connection_type`.
    pub connection_type: Option<&'a str>,
    /// The autonomous system's `type`.
    pub system_type: Option<&'a str>,
    /// Who runs the autonomous system.
    pub system_name: Option<&'a str>,
}

/// Words in the names of those who rent out machines, and of those who run mobile networks. Homes have none: a network
/// that has homes has nearly always more than those.
const HOSTING_NAMES: [&str; 14] = [
    "hosting",
    "host",
    "cloud",
    "datacenter",
    "datacenters",
    "server",
    "servers",
    "vps",
    "colocation",
    "colo",
    "cdn",
    "hetzner",
    "ovh",
    "digitalocean",
];
const MOBILE_NAMES: [&str; 4] = ["mobile", "wireless", "cellular", "mobiltelefon"];

/// The type of an address, and why; `None` when nothing says it.
pub fn address_type(signs: &TypeSigns<'_>) -> Option<(AddressType, TypeEvidence)> {
    let by_user = signs.user_type.and_then(|word| {
        let kind = match word {
            "residential" => AddressType::Residential,
            "cellular" => AddressType::Mobile,
            "hosting" | "content_delivery_network" => AddressType::Hosting,
            _ => return None,
        };
        Some((kind, TypeRule::UserType, word))
    });
    let by_provider =
        signs
            .hosting_provider
            .then_some((AddressType::Hosting, TypeRule::HostingProvider, "true"));
    let by_connection = signs.connection_type.and_then(|word| {
        let mobile = word.eq_ignore_ascii_case("cellular");
        mobile.then_some((AddressType::Mobile, TypeRule::ConnectionType, word))
    });
    let by_system = signs.system_type.and_then(|word| {
        let hosting = word.eq_ignore_ascii_case("hosting");
        hosting.then_some((AddressType::Hosting, TypeRule::SystemType, word))
    });
    let by_name = signs.system_name.and_then(|name| {
        let kind = type_of_name(name)?;
        Some((kind, TypeRule::SystemName, name))
    });
    let first = [by_user, by_provider, by_connection, by_system, by_name];
    let (kind, rule, found) = first.into_iter().flatten().next()?;
    let found = found.into();
    Some((kind, TypeEvidence { rule, found }))
}

fn type_of_name(name: &str) -> Option<AddressType> {
    let has = |known: &[&str]| {
        let mut words = name.split(|c: char| !c.is_alphanumeric());
        words.any(|word| known.iter().any(|other| other.eq_ignore_ascii_case(word)))
    };
    if has(&MOBILE_NAMES) {
        Some(AddressType::Mobile)
    } else {
        has(&HOSTING_NAMES).then_some(AddressType::Hosting)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(signs: TypeSigns<'_>) -> Option<(AddressType, TypeRule)> {
        address_type(&signs).map(|(kind, evidence)| (kind, evidence.rule))
    }

    #[test]
    fn what_a_database_says_goes_before_what_a_name_suggests() {
        let mut signs = TypeSigns {
            system_name: Some("Example Mobile, Inc."),
            ..TypeSigns::default()
        };
        let (kind, evidence) = address_type(&signs).unwrap();
        assert_eq!(
            (kind, evidence.rule),
            (AddressType::Mobile, TypeRule::SystemName)
        );
        assert_eq!(evidence.found, "Example Mobile, Inc.");
        signs.system_type = Some("hosting");
        let by_system = (AddressType::Hosting, TypeRule::SystemType);
        assert_eq!(found(signs), Some(by_system));
        signs.connection_type = Some("Cellular");
        let by_connection = (AddressType::Mobile, TypeRule::ConnectionType);
        assert_eq!(found(signs), Some(by_connection));
        signs.hosting_provider = true;
        let by_provider = (AddressType::Hosting, TypeRule::HostingProvider);
        assert_eq!(found(signs), Some(by_provider));
        signs.user_type = Some("residential");
        let by_user = (AddressType::Residential, TypeRule::UserType);
        assert_eq!(found(signs), Some(by_user));
    }

    #[test]
    fn a_name_counts_by_whole_words_and_says_nothing_of_homes() {
        let named = |name| TypeSigns {
            system_name: Some(name),
            ..TypeSigns::default()
        };
        assert_eq!(
            found(named("OVH SAS")).map(|found| found.0),
            Some(AddressType::Hosting)
        );
        for name in ["Hostelworld Broadband", "Cloudberry Farms", "Telecom", ""] {
            assert_eq!(found(named(name)), None, "{name}");
        }
        let unknown = TypeSigns {
            user_type: Some("business"),
            connection_type: Some("Cable/DSL"),
            system_type: Some("isp"),
            ..TypeSigns::default()
        };
        assert_eq!(found(unknown), None);
    }
}
