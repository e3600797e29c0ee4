//! Placing by a real database: the country of public addresses whose place is well known.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::path::Path;

use ipsx_broker::placement::{Databases, Placer};

#[test]
fn well_known_addresses_land_in_their_countries() {
    let package = "tests/node_modules/@ip-location-db/geo-whois-asn-country-mmdb";
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join(package);
    let country = file.join("geo-whois-asn-country.mmdb");
    let files = Databases {
        country: Some(&country),
        ..Databases::default()
    };
    let placer = Placer::open(&files).unwrap();
    // Addresses that universities and registries have held for decades.
    let known = [
        ("18.7.22.83", "US"),                // Massachusetts Institute of Technology
        ("129.132.19.216", "CH"),            // ETH Zürich
        ("131.111.150.25", "GB"),            // University of Cambridge
        ("133.11.114.194", "JP"),            // University of Tokyo
        ("193.0.6.139", "NL"),               // RIPE NCC
        ("130.149.7.201", "DE"),             // Technische Universität Berlin
        ("200.160.2.3", "BR"),               // NIC.br
        ("2001:67c:2e8:22::c100:68b", "NL"), // RIPE NCC
        ("2001:660:3001:4002::10", "FR"),    // RENATER
    ];
    for (address, country) in known {
        let placed = placer.place(address.parse::<IpAddr>().unwrap());
        assert_eq!(
            placed.country.map(String::from).as_deref(),
            Some(country),
            "{address}"
        );
    }
}

#[test]
fn an_address_that_no_database_knows_has_no_country() {
    let placer = Placer::open(&Databases::default()).unwrap();
    assert_eq!(placer.place("127.0.0.1".parse().unwrap()).country, None);
}
