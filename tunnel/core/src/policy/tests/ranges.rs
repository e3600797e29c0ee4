//! What is closed and open by default.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// First, an inner and the last address of every refused IPv4 range.
const REFUSED_V4: &[(&[&str], DropReason)] = &[
    (
        &["0.0.0.0", "0.1.2.3", "0.255.255.255"],
        DropReason::Unspecified,
    ),
    (
        &["10.0.0.0", "10.1.2.3", "10.255.255.255"],
        DropReason::Private,
    ),
    (
        &["172.16.0.0", "172.20.1.1", "172.31.255.255"],
        DropReason::Private,
    ),
    (
        &["192.168.0.0", "192.168.1.1", "192.168.255.255"],
        DropReason::Private,
    ),
    (
        &["100.64.0.0", "100.100.100.200", "100.127.255.255"],
        DropReason::CarrierNat,
    ),
    (
        &["127.0.0.0", "127.0.0.1", "127.255.255.255"],
        DropReason::Loopback,
    ),
    (
        &["169.254.0.0", "169.254.169.253", "169.254.255.255"],
        DropReason::LinkLocal,
    ),
    (&["169.254.169.254"], DropReason::Metadata),
    (
        &["192.0.0.0", "192.0.0.9", "192.0.0.255"],
        DropReason::Reserved,
    ),
    (
        &[
            "192.0.2.0",
            "192.0.2.255",
            "198.51.100.0",
            "198.51.100.255",
            "203.0.113.0",
            "203.0.113.255",
        ],
        DropReason::Documentation,
    ),
    (
        &[
            "192.31.196.1",
            "192.52.193.1",
            "192.88.99.1",
            "192.175.48.1",
        ],
        DropReason::Reserved,
    ),
    (&["198.18.0.0", "198.19.255.255"], DropReason::Benchmarking),
    (
        &["224.0.0.0", "232.1.2.3", "239.255.255.255"],
        DropReason::Multicast,
    ),
    (
        &["240.0.0.0", "250.1.2.3", "255.255.255.254"],
        DropReason::Reserved,
    ),
    (&["255.255.255.255"], DropReason::Broadcast),
];

/// The addresses just outside the refused ranges, and some that everybody uses.
const PUBLIC_V4: &[&str] = &[
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "8.8.8.8",
    "1.1.1.1",
];

const REFUSED_V6: &[(&[&str], DropReason)] = &[
    (&["::"], DropReason::Unspecified),
    (&["::1"], DropReason::Loopback),
    (&["fe80::", "fe80::1", "febf:ffff::"], DropReason::LinkLocal),
    (&["fec0::1", "feff::1"], DropReason::Private),
    (
        &["fc00::", "fd00::1", "fdff:ffff::"],
        DropReason::UniqueLocal,
    ),
    (&["fd00:ec2::254"], DropReason::Metadata),
    (&["ff00::", "ff02::1", "ffff::"], DropReason::Multicast),
    (&["2001:2::", "2001:2:0:ffff::"], DropReason::Benchmarking),
    (
        &["2001:db8::", "2001:db8:ffff::", "3fff::", "3fff:fff::"],
        DropReason::Documentation,
    ),
    (
        &["2001:1::1", "2001:10::", "2001:20::", "2001:1ff::"],
        DropReason::Reserved,
    ),
    (
        &[
            "100::",
            "100::1",
            "200::",
            "4000::",
            "5f00::",
            "8000::",
            "e000::",
            "fe00::",
            "1::",
            "64:ff9b:2::",
        ],
        DropReason::Reserved,
    ),
];

/// Every way to hide an IPv4 address in an IPv6 address.
fn embeddings(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
    let bits = u128::from(u32::from(v4));
    let prefix = |text: &str| u128::from(text.parse::<Ipv6Addr>().unwrap());
    [
        prefix("::ffff:0:0") | bits,
        prefix("::ffff:0:0:0") | bits,
        bits,
        prefix("64:ff9b::") | bits,
        prefix("64:ff9b:1::") | (bits >> 16) << 64 | (bits & 0xffff) << 40,
        prefix("2002::") | bits << 80,
        prefix("2002::1:2:3:4") | bits << 80,
        prefix("2001:0:4136:e378:8000:63bf::") | (!bits & 0xffff_ffff),
    ]
    .into_iter()
    .map(Ipv6Addr::from)
    .collect()
}

#[test]
fn every_special_v4_range_is_refused_bare_and_embedded() {
    for &(addresses, reason) in REFUSED_V4 {
        for address in addresses {
            let v4: Ipv4Addr = address.parse().unwrap();
            assert_eq!(check(&open(), v4), Err(reason), "{v4}");
            assert_eq!(open().check_address(v4.into()), Err(reason), "{v4}");
            for v6 in embeddings(v4) {
                // :: and ::1 are addresses of their own.
                let expected = if v6.is_loopback() {
                    DropReason::Loopback
                } else {
                    reason
                };
                assert_eq!(check(&open(), v6), Err(expected), "{v4} as {v6}");
                assert_eq!(
                    open().check_address(v6.into()),
                    Err(expected),
                    "{v4} as {v6}"
                );
            }
        }
    }
}

#[test]
fn the_public_internet_is_open() {
    for address in PUBLIC_V4 {
        assert_eq!(
            check(&open(), address.parse::<IpAddr>().unwrap()),
            Ok(()),
            "{address}"
        );
    }
    for address in [
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "2a00::1",
        "2003::1",
        "2001:200::1",
        "3ffe::1",
    ] {
        assert_eq!(
            check(&open(), address.parse::<IpAddr>().unwrap()),
            Ok(()),
            "{address}"
        );
    }
}

#[test]
fn embedded_public_addresses_pass_only_through_nat64() {
    for v6 in embeddings(Ipv4Addr::new(8, 8, 8, 8)) {
        let nat64 = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
        let expected = if nat64 {
            Ok(())
        } else {
            Err(DropReason::EmbeddedV4)
        };
        assert_eq!(check(&open(), v6), expected, "{v6}");
    }
}

#[test]
fn every_special_v6_range_is_refused() {
    for &(addresses, reason) in REFUSED_V6 {
        for address in addresses {
            assert_eq!(
                check(&open(), address.parse::<IpAddr>().unwrap()),
                Err(reason),
                "{address}"
            );
        }
    }
}

#[test]
fn own_addresses_and_networks_are_refused_bare_and_embedded() {
    let own: Vec<IpNet> = vec![
        "8.8.4.0/24".parse().unwrap(),
        "2a00:1::5/128".parse().unwrap(),
    ];
    let matcher = ExitPolicy::new(Tier::Open).compile(&own);
    assert_eq!(
        check(&matcher, Ipv4Addr::new(8, 8, 4, 4)),
        Err(DropReason::OwnNetwork)
    );
    assert_eq!(
        check(&matcher, "2a00:1::5".parse::<IpAddr>().unwrap()),
        Err(DropReason::OwnNetwork)
    );
    assert_eq!(
        check(&matcher, "64:ff9b::808:404".parse::<IpAddr>().unwrap()),
        Err(DropReason::OwnNetwork)
    );
    assert_eq!(check(&matcher, Ipv4Addr::new(8, 8, 8, 8)), Ok(()));
    assert_eq!(
        matcher.check_address(Ipv4Addr::new(8, 8, 4, 4).into()),
        Err(DropReason::OwnNetwork)
    );
}

proptest! {
    /// The standard library knows some of the ranges too: nothing that it calls private is ever open.
    #[test]
    fn never_more_open_than_the_standard_library(bits in any::<u32>()) {
        let v4 = Ipv4Addr::from(bits);
        let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_broadcast()
            || v4.is_documentation() || v4.is_multicast() || v4.is_unspecified();
        prop_assert!(!special || check(&open(), v4).is_err());
        for v6 in embeddings(v4) {
            prop_assert!(check(&open(), v4).is_ok() || check(&open(), v6).is_err(), "{} opens {}", v6, v4);
        }
    }

    #[test]
    fn never_open_outside_global_unicast(bits in any::<u128>()) {
        let v6 = Ipv6Addr::from(bits);
        if v6.segments()[0] & 0xe000 != 0x2000 && super::super::ranges::embedded_v4(v6.into()).is_none() {
            prop_assert!(check(&open(), v6).is_err());
        }
    }
}
