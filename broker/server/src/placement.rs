//! Where an address is: what the MaxMind databases say of it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipsx_market::offer::{Country, Placement};
use maxminddb::Reader;
use serde::Deserialize;

/// A database can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{} is no MaxMind database that can be read: {reason}", path.display())]
pub struct PlacerError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Places addresses by a database of countries and one of autonomous systems, either of which may be missing.
///
/// Reads the layouts of GeoLite2 (`country.iso_code`, or else `registered_country.iso_code`) and of the flat databases (`country_code`), and
/// `autonomous_system_number`.
#[derive(Debug, Default)]
pub struct Placer {
    country: Option<Reader<Vec<u8>>>,
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
struct AsnRow {
    autonomous_system_number: Option<u32>,
}

impl Placer {
    /// Reads the databases into memory.
    pub fn open(country: Option<&Path>, asn: Option<&Path>) -> Result<Self, PlacerError> {
        Ok(Self {
            country: country.map(read).transpose()?,
            asn: asn.map(read).transpose()?,
        })
    }

    /// Where `address` is; `None` for what the databases do not know. An IPv4 address that is written as IPv6
    /// (`::ffff:a.b.c.d`) counts as IPv4.
    pub fn place(&self, address: IpAddr) -> Placement {
        let address = address.to_canonical();
        Placement {
            address,
            country: self.country(address),
            asn: self.asn(address),
        }
    }

    fn country(&self, address: IpAddr) -> Option<Country> {
        // An address of a version that the database does not hold is an unknown one.
        let found = self.country.as_ref()?.lookup(address).ok()?;
        let row: CountryRow<'_> = found.decode().ok()??;
        // Where the address is used, else for whom it is registered.
        let places = [row.country, row.registered_country];
        let code = places
            .into_iter()
            .flatten()
            .find_map(|place| place.iso_code);
        code.or(row.country_code)?.parse().ok()
    }

    fn asn(&self, address: IpAddr) -> Option<u32> {
        let found = self.asn.as_ref()?.lookup(address).ok()?;
        found.decode::<AsnRow>().ok()??.autonomous_system_number
    }
}

fn read(path: &Path) -> Result<Reader<Vec<u8>>, PlacerError> {
    Reader::open_readfile(path).map_err(|error| PlacerError {
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
        let error = Placer::open(Some(Path::new("/nonexistent/country.mmdb")), None).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/country.mmdb"));
    }

    #[test]
    fn without_databases_nothing_is_known() {
        let placement = Placer::default().place("::ffff:192.0.2.7".parse().unwrap());
        assert_eq!(placement.address, "192.0.2.7".parse::<IpAddr>().unwrap());
        assert_eq!((placement.country, placement.asn), (None, None));
    }
}
