//! Where an address is: what the MaxMind databases say of it.

mod files;
mod rows;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use ipsx_market::evidence::{
    DatabaseBuild, DatabaseKind, Evidence, TypeEvidence, TypeSigns, address_type,
};
use ipsx_market::geo::Point;
use ipsx_market::offer::Country;
use ipsx_market::place::{AddressType, City, Placement, Region};

use files::{Database, Files};
use rows::{AsnRow, CityRow, CountryRow, Traits};

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

/// Places addresses by databases of countries, cities and autonomous systems, and reads each again when its file is
/// replaced.
///
/// Reads the layouts of GeoLite2 (`country.iso_code`, or else `registered_country.iso_code`; `subdivisions`, `city`,
/// `location`; `traits` of the paid ones) and of the flat databases (`country_code`), `autonomous_system_number` and
/// `autonomous_system_organization` (or `type`).
#[derive(Debug, Default)]
pub struct Placer {
    current: RwLock<Arc<Atlas>>,
    /// Where they are read from; whoever reads them again keeps others from doing so.
    files: Mutex<Files>,
}

/// The databases as they are now.
#[derive(Clone, Debug, Default)]
struct Atlas {
    country: Option<Arc<Database>>,
    city: Option<Arc<Database>>,
    asn: Option<Arc<Database>>,
}

/// Most characters of an organization's name that are kept.
const LONGEST_NAME: usize = 80;

impl Placer {
    /// Reads the databases into memory.
    pub fn open(databases: &Databases<'_>) -> Result<Self, PlacerError> {
        let mut files = Files::new(databases);
        let mut atlas = Atlas::default();
        for (kind, read) in files.changed() {
            atlas.set(kind, read?);
        }
        Ok(Self {
            current: RwLock::new(Arc::new(atlas)),
            files: Mutex::new(files),
        })
    }

    /// Reads those files again that were replaced since; returns what was read. One that can't be used is refused, and
    /// the one that was read before stays. Reads files, so it is nothing for a task that must not wait.
    pub fn refresh(&self) -> Vec<Result<DatabaseBuild, PlacerError>> {
        // Whoever panicked with it left it as it was before or after.
        let mut files = self.files.lock().unwrap_or_else(|held| held.into_inner());
        let read: Vec<_> = files.changed().collect();
        if read.is_empty() {
            return Vec::new();
        }
        let mut atlas = Atlas::clone(&self.atlas());
        let read = read.into_iter().map(|(kind, read)| {
            let database = read?;
            let build = database.build.clone();
            atlas.set(kind, database);
            Ok(build)
        });
        let read = read.collect();
        let mut current = self
            .current
            .write()
            .unwrap_or_else(|held| held.into_inner());
        *current = Arc::new(atlas);
        read
    }

    /// The databases that are asked now.
    pub fn builds(&self) -> Vec<DatabaseBuild> {
        self.atlas().builds()
    }

    /// Where `address` is; nothing for what the databases do not know. An IPv4 address that is written as IPv6
    /// (`::ffff:a.b.c.d`) counts as IPv4.
    pub fn place(&self, address: IpAddr) -> Placement {
        self.atlas().place(address.to_canonical())
    }

    fn atlas(&self) -> Arc<Atlas> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(|held| held.into_inner()))
    }
}

impl Atlas {
    fn set(&mut self, kind: DatabaseKind, database: Database) {
        let place = match kind {
            DatabaseKind::Country => &mut self.country,
            DatabaseKind::City => &mut self.city,
            DatabaseKind::Asn => &mut self.asn,
        };
        *place = Some(Arc::new(database));
    }

    fn builds(&self) -> Vec<DatabaseBuild> {
        let all = [&self.country, &self.city, &self.asn].into_iter();
        let all = all.flatten().map(|database| database.build.clone());
        all.collect()
    }

    fn place(&self, address: IpAddr) -> Placement {
        let mut placement = Placement::at(address);
        placement.country = self.country(address);
        self.place_in_city(&mut placement);
        let system = self.place_in_system(&mut placement);
        let found = self.address_type(&placement, system);
        let databases = self.builds();
        if !databases.is_empty() {
            placement.address_type = found.as_ref().map(|(kind, _)| *kind);
            placement.evidence = Some(Evidence {
                databases,
                address_type: found.map(|(_, evidence)| evidence),
            });
        }
        placement
    }

    fn country(&self, address: IpAddr) -> Option<Country> {
        let source = self.country.as_ref().or(self.city.as_ref())?;
        let row: CountryRow<'_> = source.row(address)?;
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
        let row = source.and_then(|city| city.row::<CityRow<'_>>(placement.address));
        let Some(row) = row else {
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

    /// Adds the autonomous system; returns what it is for, if the database says so.
    fn place_in_system(&self, placement: &mut Placement) -> Option<&str> {
        let source = self.asn.as_ref()?;
        let row: AsnRow<'_> = source.row(placement.address)?;
        placement.asn = row.autonomous_system_number;
        let name = row.autonomous_system_organization;
        placement.as_name = name.map(|name| name.chars().take(LONGEST_NAME).collect());
        row.kind
    }

    fn address_type(
        &self,
        placement: &Placement,
        system_type: Option<&str>,
    ) -> Option<(AddressType, TypeEvidence)> {
        let traits = [&self.country, &self.city].into_iter().flatten();
        let traits = traits
            .filter_map(|database| database.row::<Traits<'_>>(placement.address)?.traits)
            .reduce(|first, second| first.or(second))
            .unwrap_or_default();
        address_type(&TypeSigns {
            user_type: traits.user_type,
            hosting_provider: traits.is_hosting_provider,
            connection_type: traits.connection_type,
            system_type,
            system_name: placement.as_name.as_deref(),
        })
    }
}

#[cfg(test)]
mod tests;
