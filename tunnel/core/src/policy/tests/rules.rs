//! Tiers and rules.

use super::*;

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
        ..ExitPolicy::default()
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
        ..ExitPolicy::default()
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
        ..ExitPolicy::default()
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
        ..ExitPolicy::default()
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
