//! A MaxMind database for the demo's loopback addresses, read by the broker like any real one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use maxminddb_writer::Database;
use maxminddb_writer::metadata::IpVersion;
use maxminddb_writer::paths::IpAddrWithMask;

use crate::exit_code::Failure;
use crate::store::failure;

/// Writes a country database that knows these addresses and nothing else.
pub(super) fn write(path: &Path, places: &[(std::net::Ipv4Addr, &str)]) -> Result<(), Failure> {
    let unwritable = |reason: String| failure("write", path, reason);
    let mut database = Database::default();
    database.metadata.ip_version = IpVersion::V4;
    database.metadata.binary_format_major_version = 2;
    database.metadata.database_type = "ipsx-demo-country".into();
    database.metadata.description.insert(
        "en".into(),
        "Places of the demo's loopback addresses".into(),
    );
    for (address, country) in places {
        let place = BTreeMap::from([("country", BTreeMap::from([("iso_code", *country)]))]);
        let data = database
            .insert_value(place)
            .map_err(|error| unwritable(format!("{error:?}")))?;
        let prefix: IpAddrWithMask = format!("{address}/32")
            .parse()
            .map_err(|error| unwritable(format!("{error:?}")))?;
        database.insert_node(prefix, data);
    }
    let file = File::create(path).map_err(|error| unwritable(error.to_string()))?;
    database
        .write_to(BufWriter::new(file))
        .map_err(|error| unwritable(format!("{error:?}")))?;
    Ok(())
}
