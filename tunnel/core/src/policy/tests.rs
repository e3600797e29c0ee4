#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use RuleProtocol::{Tcp, Udp};

fn open() -> Matcher {
    ExitPolicy::new(Tier::Open).compile(&[])
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn check(matcher: &Matcher, address: impl Into<IpAddr>) -> Result<(), DropReason> {
    matcher.check(Tcp, SocketAddr::new(address.into(), 443))
}

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

#[test]
fn mail_is_refused_in_every_tier() {
    for tier in [Tier::Web, Tier::WebUdp, Tier::Open] {
        let matcher = ExitPolicy::new(tier).compile(&[]);
        for port in [25, 465, 587] {
            for protocol in [Tcp, Udp] {
                let result = matcher.check(protocol, SocketAddr::from(([8, 8, 8, 8], port)));
                assert_eq!(result, Err(DropReason::MailPort), "{tier} {port}");
            }
        }
    }
}

#[test]
fn tiers_open_what_they_say() {
    let at = |port| SocketAddr::from(([8, 8, 8, 8], port));
    for (tier, protocol, port, allowed) in [
        (Tier::Web, Tcp, 80, true),
        (Tier::Web, Tcp, 443, true),
        (Tier::Web, Tcp, 22, false),
        (Tier::Web, Udp, 443, false),
        (Tier::WebUdp, Tcp, 443, true),
        (Tier::WebUdp, Tcp, 22, false),
        (Tier::WebUdp, Udp, 443, true),
        (Tier::WebUdp, Udp, 3478, true),
        (Tier::Open, Tcp, 22, true),
        (Tier::Open, Udp, 1, true),
        (Tier::Open, Tcp, 0, false),
        (Tier::Open, Udp, 0, false),
    ] {
        let expected = if allowed {
            Ok(())
        } else {
            Err(DropReason::OutsideTier)
        };
        assert_eq!(
            ExitPolicy::new(tier).compile(&[]).check(protocol, at(port)),
            expected,
            "{tier} {port}"
        );
    }
}

#[test]
fn an_allow_rule_opens_exactly_what_it_says() {
    let policy = ExitPolicy {
        tier: Tier::Web,
        allow: rules(&["127.0.0.1/32:tcp/8080"]),
        deny: vec![],
    };
    let matcher = policy.compile(&["127.0.0.0/8".parse().unwrap()]);
    let target: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    assert_eq!(matcher.check(Tcp, target), Ok(()));
    assert_eq!(matcher.check(Udp, target), Err(DropReason::Loopback));
    for other in [
        "127.0.0.1:8081",
        "127.0.0.1:80",
        "127.0.0.2:8080",
        "[::1]:8080",
        "[::ffff:127.0.0.1]:8080",
        "[::127.0.0.1]:8080",
        "[64:ff9b::127.0.0.1]:8080",
    ] {
        assert_eq!(
            matcher.check(Tcp, other.parse().unwrap()),
            Err(DropReason::Loopback),
            "{other}"
        );
    }
    assert_eq!(matcher.check_address("127.0.0.1".parse().unwrap()), Ok(()));
    assert_eq!(
        matcher.check_address("127.0.0.2".parse().unwrap()),
        Err(DropReason::Loopback)
    );
    let mail = ExitPolicy {
        tier: Tier::Web,
        allow: rules(&["8.8.8.8:tcp/25"]),
        deny: vec![],
    }
    .compile(&[]);
    assert_eq!(mail.check(Tcp, "8.8.8.8:25".parse().unwrap()), Ok(()));
}

#[test]
fn a_deny_rule_wins_and_sees_through_embeddings() {
    let policy = ExitPolicy {
        tier: Tier::Open,
        allow: rules(&["8.8.8.8:any/*"]),
        deny: rules(&["8.8.8.0/24:tcp/1-1000", "2a00::/16:any/*"]),
    };
    let matcher = policy.compile(&[]);
    for denied in ["8.8.8.8:443", "[64:ff9b::808:808]:443", "[2a00::1]:5000"] {
        assert_eq!(
            matcher.check(Tcp, denied.parse().unwrap()),
            Err(DropReason::DenyRule),
            "{denied}"
        );
    }
    assert_eq!(matcher.check(Tcp, "8.8.8.8:1001".parse().unwrap()), Ok(()));
    assert_eq!(matcher.check(Udp, "8.8.8.8:443".parse().unwrap()), Ok(()));
}

#[test]
fn rules_are_read_and_written_the_same() {
    for (text, shown) in [
        ("127.0.0.1/32:tcp/8080", "127.0.0.1/32:tcp/8080"),
        ("127.0.0.1:tcp/8080", "127.0.0.1/32:tcp/8080"),
        ("10.1.2.3/8:any/*", "10.0.0.0/8:any/*"),
        ("2001:db8::/32:udp/5000-5099", "2001:db8::/32:udp/5000-5099"),
        ("::1:tcp/1-65535", "::1/128:tcp/*"),
        ("1.2.3.4:udp/7-7", "1.2.3.4/32:udp/7"),
    ] {
        let rule: Rule = text.parse().unwrap();
        assert_eq!(rule.to_string(), shown);
        assert_eq!(shown.parse::<Rule>().unwrap(), rule);
    }
}

#[test]
fn bad_rules_say_what_is_wrong() {
    for text in ["", "8.8.8.8", "8.8.8.8:tcp"] {
        assert_eq!(
            text.parse::<Rule>(),
            Err(PolicyError::Incomplete(text.to_owned()))
        );
    }
    for text in [
        "8.8.8:tcp/80",
        "8.8.8.8/33:tcp/80",
        "localhost:tcp/80",
        ":tcp/80",
    ] {
        assert_eq!(
            text.parse::<Rule>(),
            Err(PolicyError::Prefix(text.to_owned()))
        );
    }
    assert!(matches!(
        "8.8.8.8:icmp/80".parse::<Rule>(),
        Err(PolicyError::Protocol(_))
    ));
    for text in [
        "8.8.8.8:tcp/",
        "8.8.8.8:tcp/0",
        "8.8.8.8:tcp/9-1",
        "8.8.8.8:tcp/65536",
        "8.8.8.8:tcp/1-2-3",
    ] {
        assert_eq!(
            text.parse::<Rule>(),
            Err(PolicyError::Ports(text.to_owned()))
        );
    }
    assert!("closed".parse::<Tier>().is_err());
}

#[test]
fn policies_survive_a_configuration_file() {
    let policy = ExitPolicy {
        tier: Tier::WebUdp,
        allow: rules(&["127.0.0.1:tcp/8080"]),
        deny: rules(&["8.8.8.8:any/*"]),
    };
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(
        json,
        r#"{"tier":"web+udp","allow":["127.0.0.1/32:tcp/8080"],"deny":["8.8.8.8/32:any/*"]}"#
    );
    assert_eq!(serde_json::from_str::<ExitPolicy>(&json).unwrap(), policy);
    assert_eq!(
        serde_json::from_str::<ExitPolicy>("{}").unwrap(),
        ExitPolicy::new(Tier::Web)
    );
    assert!(serde_json::from_str::<ExitPolicy>(r#"{"allow":["8.8.8.8:tcp/0"]}"#).is_err());
}

#[test]
fn canonical_bytes_are_frozen() {
    let policy = ExitPolicy {
        tier: Tier::Web,
        allow: rules(&["1.2.3.4:tcp/80"]),
        deny: vec![],
    };
    let mut expected = vec![1, 0, 3];
    expected.extend(b"web");
    expected.extend([0, 0, 0, 1, 0, 17]);
    expected.extend(b"1.2.3.4/32:tcp/80");
    expected.extend([0, 0, 0, 0]);
    assert_eq!(policy.canonical_bytes(), expected);
}

#[test]
fn canonical_bytes_ignore_order_and_repetition_alone() {
    let with = |allow: &[&str], deny: &[&str]| ExitPolicy {
        tier: Tier::Open,
        allow: rules(allow),
        deny: rules(deny),
    };
    let (a, b) = ("1.2.3.4:tcp/80", "5.6.7.8:udp/*");
    assert_eq!(
        with(&[a, b], &[]).canonical_bytes(),
        with(&[b, a, b], &[]).canonical_bytes()
    );
    let distinct = [
        with(&[], &[]),
        with(&[a], &[]),
        with(&[], &[a]),
        with(&[a, b], &[]),
        with(&[a], &[b]),
        ExitPolicy::new(Tier::Web),
        ExitPolicy::new(Tier::WebUdp),
    ];
    for (i, one) in distinct.iter().enumerate() {
        for other in &distinct[i + 1..] {
            assert_ne!(one.canonical_bytes(), other.canonical_bytes());
        }
    }
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
        if v6.segments()[0] & 0xe000 != 0x2000 && ranges::embedded_v4(v6.into()).is_none() {
            prop_assert!(check(&open(), v6).is_err());
        }
    }
}

#[test]
fn echoes_pass_in_the_open_tier_and_obey_rules_about_everything() {
    let echo = |matcher: &Matcher, address: &str| matcher.check_echo(address.parse().unwrap());
    for tier in [Tier::Web, Tier::WebUdp] {
        let matcher = ExitPolicy::new(tier).compile(&[]);
        assert_eq!(echo(&matcher, "1.1.1.1"), Err(DropReason::EchoOutside));
        assert_eq!(echo(&matcher, "10.0.0.1"), Err(DropReason::Private));
    }
    assert_eq!(echo(&open(), "1.1.1.1"), Ok(()));
    assert_eq!(echo(&open(), "::ffff:10.0.0.1"), Err(DropReason::Private));

    let policy = ExitPolicy {
        tier: Tier::Open,
        allow: rules(&["10.0.0.1:any/*", "10.0.0.2:any/80"]),
        deny: rules(&["1.1.1.1:any/*", "1.1.1.2:tcp/*"]),
    };
    let matcher = policy.compile(&["8.8.8.0/24".parse().unwrap()]);
    assert_eq!(echo(&matcher, "10.0.0.1"), Ok(()));
    assert_eq!(echo(&matcher, "10.0.0.2"), Err(DropReason::Private));
    assert_eq!(echo(&matcher, "1.1.1.1"), Err(DropReason::DenyRule));
    assert_eq!(
        echo(&matcher, "64:ff9b::101:101"),
        Err(DropReason::DenyRule)
    );
    assert_eq!(echo(&matcher, "1.1.1.2"), Ok(()));
    assert_eq!(echo(&matcher, "8.8.8.8"), Err(DropReason::OwnNetwork));
}
