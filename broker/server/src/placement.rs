//! Where an address is: what the MaxMind databases say of it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipsx_market::geo::Point;
use ipsx_market::offer::Country;
use ipsx_market::place::{City, Placement, Region};
use maxminddb::Reader;
use serde::Deserialize;

/// A database can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{} is no MaxMind database that can be read: {reason}", path.display())]
pub struct PlacerError {
    /// Its name in the configuration.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The databases' files, each of which may be missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Databases<'a> {
    /// Of countries.
    pub country: Option<&'a Path>,
    /// Of cities.
    pub city: Option<&'a Path>,
    /// Of autonomous systems.
    pub asn: Option<&'a Path>,
}

/// Places addresses by databases of countries, cities and autonomous systems.
///
/// Reads the layouts of GeoLite2 (`country.iso_code`, or else `registered_country.iso_code`; `subdivisions`, `city`,
/// `location`) and of the flat databases (`country_code`), `autonomous_system_number` and
/// `autonomous_system_organization`.
#[derive(Debug, Default)]
pub struct Placer {
    country: Option<Reader<Vec<u8>>>,
    city: Option<Reader<Vec<u8>>>,
    asn: Option<Reader<Vec<u8>>>,
}

#[derive(Deserialize)]
struct CountryRow<'a> {
    #[serde(borrow)]
    country: Option<IsoCode<'a>>,
    #[serde(borrow)]
    registered_country: Option<IsoCode<'a>>,
    country_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct IsoCode<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct CityRow<'a> {
    #[serde(borrow)]
    country: Option<IsoCode<'a>>,
    #[serde(borrow, default)]
    subdivisions: Vec<IsoCode<'a>>,
    #[serde(borrow)]
    city: Option<CityNames<'a>>,
    location: Option<Location>,
}

#[derive(Deserialize)]
struct CityNames<'a> {
    #[serde(borrow)]
    names: EnglishName<'a>,
}

#[derive(Deserialize)]
struct EnglishName<'a> {
    en: Option<&'a str>,
}

#[derive(Deserialize)]
struct Location {
    latitude: Option<f64>,
    longitude: Option<f64>,
}

#[derive(Deserialize)]
struct AsnRow<'a> {
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<&'a str>,
}

/// Most characters of an organization's name that are kept.
const LONGEST_NAME: usize = 80;

impl Placer {
    /// Reads the databases into memory.
    pub fn open(files: &Databases<'_>) -> Result<Self, PlacerError> {
        let read = |key, file: Option<&Path>| file.map(|file| read(key, file)).transpose();
        Ok(Self {
            country: read("country_db", files.country)?,
            city: read("city_db", files.city)?,
            asn: read("asn_db", files.asn)?,
        })
    }

    /// Where `address` is; nothing for what the databases do not know. An IPv4 address that is written as IPv6
    /// (`::ffff:a.b.c.d`) counts as IPv4.
    pub fn place(&self, address: IpAddr) -> Placement {
        let mut placement = Placement::at(address.to_canonical());
        placement.country = self.country(placement.address);
        self.place_in_city(&mut placement);
        self.place_in_system(&mut placement);
        placement
    }

    fn country(&self, address: IpAddr) -> Option<Country> {
        let source = self.country.as_ref().or(self.city.as_ref())?;
        // An address of a version that the database does not hold is an unknown one.
        let found = source.lookup(address).ok()?;
        let row: CountryRow<'_> = found.decode().ok()??;
        // Where the address is used, else for whom it is registered.
        let places = [row.country, row.registered_country];
        let code = places
            .into_iter()
            .flatten()
            .find_map(|place| place.iso_code);
        code.or(row.country_code)?.parse().ok()
    }

    /// Adds region, city and point, unless the databases disagree about the country.
    fn place_in_city(&self, placement: &mut Placement) {
        let source = self.city.as_ref();
        let Some(found) = source.and_then(|city| city.lookup(placement.address).ok()) else {
            return;
        };
        let Ok(Some(row)) = found.decode::<CityRow<'_>>() else {
            return;
        };
        let code = row.country.and_then(|country| country.iso_code);
        let country: Option<Country> = code.and_then(|code| code.parse().ok());
        let Some(country) = country.filter(|country| placement.country == Some(*country)) else {
            return;
        };
        let part = row.subdivisions.first().and_then(|part| part.iso_code);
        placement.region = part.and_then(|part| Region::new(country, part).ok());
        let name = row.city.and_then(|city| city.names.en);
        placement.city = name.and_then(|name| name.replace(',', "").parse::<City>().ok());
        placement.point = row.location.and_then(|place| {
            let (latitude, longitude) = (place.latitude?, place.longitude?);
            Point::from_degrees(&format!("{latitude:.6}"), &format!("{longitude:.6}"))
        });
    }

    fn place_in_system(&self, placement: &mut Placement) {
        let source = self.asn.as_ref();
        let Some(found) = source.and_then(|asn| asn.lookup(placement.address).ok()) else {
            return;
        };
        if let Ok(Some(row)) = found.decode::<AsnRow<'_>>() {
            placement.asn = row.autonomous_system_number;
            let name = row.autonomous_system_organization;
            placement.as_name = name.map(|name| name.chars().take(LONGEST_NAME).collect());
        }
    }
}

fn read(key: &'static str, path: &Path) -> Result<Reader<Vec<u8>>, PlacerError> {
    Reader::open_readfile(path).map_err(|error| PlacerError {
        key,
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_missing_database_is_an_error_with_its_name() {
        let error = Placer::open(&Databases {
            country: Some(Path::new("/nonexistent/country.mmdb")),
            ..Databases::default()
        })
        .unwrap_err();
        assert_eq!(error.key, "country_db");
        assert!(error.to_string().contains("/nonexistent/country.mmdb"));
    }

    #[test]
    fn without_databases_nothing_is_known() {
        let placement = Placer::default().place("::ffff:192.0.2.7".parse().unwrap());
        assert_eq!(placement.address, "192.0.2.7".parse::<IpAddr>().unwrap());
        assert_eq!((placement.country, placement.asn), (None, None));
    }
}
