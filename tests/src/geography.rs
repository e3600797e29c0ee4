//! A MaxMind database for addresses that no real one knows: loopback and the tests' own namespaces.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use maxminddb_writer::Database;
use maxminddb_writer::metadata::IpVersion;
use maxminddb_writer::paths::IpAddrWithMask;

/// Writes a country database that knows these prefixes.
pub fn write_database(path: &Path, places: &[(&str, &str)]) {
    let mut database = Database::default();
    database.metadata.ip_version = IpVersion::V4;
    database.metadata.binary_format_major_version = 2;
    database.metadata.database_type = "ipsx-tests-country".into();
    database
        .metadata
        .description
        .insert("en".into(), "places of the tests".into());
    for (prefix, country) in places {
        let place = BTreeMap::from([("country", BTreeMap::from([("iso_code", *country)]))]);
        let data = database.insert_value(place).unwrap();
        database.insert_node(prefix.parse::<IpAddrWithMask>().unwrap(), data);
    }
    database
        .write_to(BufWriter::new(File::create(path).unwrap()))
        .unwrap();
}
