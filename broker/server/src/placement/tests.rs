#![allow(clippy::unwrap_used)]

use std::fs;

use ipsx_market::evidence::TypeRule;
use ipsx_metering::UnixSeconds;
use serde_json::{Value, json};
use tempfile::tempdir;

use super::*;

fn write(path: &Path, row: &Value, built_at: u64) {
    use maxminddb_writer::Database;
    use maxminddb_writer::paths::IpAddrWithMask;
    let mut database = Database::default();
    database.metadata.ip_version = maxminddb_writer::metadata::IpVersion::V4;
    database.metadata.binary_format_major_version = 2;
    database.metadata.database_type = "Test".into();
    database.metadata.build_epoch = built_at;
    let data = database.insert_value(row).unwrap();
    let prefix: IpAddrWithMask = "192.0.2.0/24".parse().unwrap();
    database.insert_node(prefix, data);
    // As it should be done: the new file takes the old one's name.
    let new = path.with_extension("new");
    database.write_to(fs::File::create(&new).unwrap()).unwrap();
    fs::rename(new, path).unwrap();
}

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
    assert_eq!(placement.evidence, None);
}

#[test]
fn a_file_that_is_replaced_is_read_again_and_a_broken_one_is_not_taken() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("country.mmdb");
    write(&path, &json!({ "country": { "iso_code": "FR" } }), 1_000);
    let databases = Databases {
        country: Some(&path),
        ..Databases::default()
    };
    let placer = Placer::open(&databases).unwrap();
    let address = "192.0.2.7".parse().unwrap();
    let country = || placer.place(address).country.unwrap().to_string();
    assert_eq!(country(), "FR");
    assert!(placer.refresh().is_empty(), "nothing has changed");

    write(&path, &json!({ "country": { "iso_code": "DE" } }), 2_000);
    let read = placer.refresh();
    let [Ok(build)] = read.as_slice() else {
        panic!("{read:?}");
    };
    assert_eq!(
        (build.built_at, build.name.as_str()),
        (UnixSeconds(2_000), "Test")
    );
    assert_eq!(country(), "DE");
    let evidence = placer.place(address).evidence.unwrap();
    assert_eq!(evidence.databases, [build.clone()]);

    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let read = placer.refresh();
    assert!(matches!(read.as_slice(), [Err(_)]), "{read:?}");
    assert!(placer.refresh().is_empty(), "it is said once");
    assert_eq!(country(), "DE");
    fs::remove_file(&path).unwrap();
    assert!(placer.refresh().is_empty(), "a moment while it is replaced");
    write(&path, &json!({ "country": { "iso_code": "JP" } }), 3_000);
    assert_eq!(placer.refresh().len(), 1);
    assert_eq!(country(), "JP");
}

#[test]
fn the_type_of_an_address_comes_with_what_it_was_read_from() {
    let folder = tempdir().unwrap();
    let (city, asn) = (folder.path().join("city"), folder.path().join("asn"));
    let user = json!({ "country": { "iso_code": "FR" }, "traits": { "user_type": "cellular" } });
    write(&city, &user, 1_000);
    let system = json!({
        "autonomous_system_number": 64_500, "autonomous_system_organization": "Example Hosting", "type": "isp"
    });
    write(&asn, &system, 2_000);
    let address = "192.0.2.7".parse().unwrap();
    let placer = Placer::open(&Databases {
        city: Some(&city),
        asn: Some(&asn),
        ..Databases::default()
    });
    let placement = placer.unwrap().place(address);
    assert_eq!(placement.address_type, Some(AddressType::Mobile));
    let evidence = placement.evidence.unwrap();
    assert_eq!(evidence.address_type.unwrap().rule, TypeRule::UserType);
    let kinds: Vec<_> = evidence.databases.iter().map(|b| b.database).collect();
    assert_eq!(kinds, [DatabaseKind::City, DatabaseKind::Asn]);

    let placer = Placer::open(&Databases {
        asn: Some(&asn),
        ..Databases::default()
    });
    let placement = placer.unwrap().place(address);
    assert_eq!(placement.address_type, Some(AddressType::Hosting));
    let found = placement.evidence.unwrap().address_type.unwrap();
    assert_eq!(
        (found.rule, found.found.as_str()),
        (TypeRule::SystemName, "Example Hosting")
    );
}
