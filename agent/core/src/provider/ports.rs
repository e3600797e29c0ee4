//! Which ports an exit policy opens, as an offer names them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipsx_market::check::MAX_RANGES;
use ipsx_market::offer::PortRange;
use ipsx_tunnel_core::{ExitPolicy, Rule, RuleProtocol};

/// Public addresses that stand for all of their version.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(1, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0, 0, 1)),
];

/// TCP ports that a policy opens at every public address, by IPv4 and IPv6. Only rules about all addresses of a version
/// count: what is open at some destinations is no promise about the others. Of very many ranges, the first ones.
pub fn open_ports(policy: &ExitPolicy) -> Vec<PortRange> {
    let about_all = |rules: &[Rule]| -> Vec<Rule> {
        let all = rules.iter().filter(|rule| rule.prefix().prefix_len() == 0);
        all.copied().collect()
    };
    let everywhere = ExitPolicy {
        allow: about_all(&policy.allow),
        deny: about_all(&policy.deny),
        ..policy.clone()
    };
    let matcher = everywhere.compile(&[]);
    let is_open = |port: u16| {
        let mut sockets = ANYWHERE
            .iter()
            .map(|address| SocketAddr::new(*address, port));
        sockets.all(|socket| matcher.check(RuleProtocol::Tcp, socket).is_ok())
    };
    let mut ranges: Vec<PortRange> = Vec::new();
    for port in (1..=u16::MAX).filter(|port| is_open(*port)) {
        let before = ranges.last().filter(|range| range.last() + 1 == port);
        let grown = before.and_then(|range| PortRange::new(range.first(), port));
        match (grown, PortRange::new(port, port)) {
            (Some(grown), _) => {
                ranges.pop();
                ranges.push(grown);
            }
            (None, Some(_)) if ranges.len() == MAX_RANGES => break,
            (None, single) => ranges.extend(single),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ipsx_market::offer::Tier as Offered;
    use ipsx_tunnel_core::Tier;

    fn policy(tier: Tier, allow: &[&str], deny: &[&str]) -> ExitPolicy {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        ExitPolicy {
            allow: rules(allow),
            deny: rules(deny),
            ..ExitPolicy::new(tier)
        }
    }

    fn texts(policy: &ExitPolicy) -> Vec<String> {
        open_ports(policy).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_tier_opens_what_the_market_says_it_does() {
        for (tier, offered) in [
            (Tier::Web, Offered::Web),
            (Tier::WebUdp, Offered::WebUdp),
            (Tier::Open, Offered::Open),
        ] {
            assert_eq!(open_ports(&ExitPolicy::new(tier)), offered.ports());
        }
    }

    #[test]
    fn only_rules_about_everything_open_or_close_a_port() {
        let mail = policy(Tier::Web, &["0.0.0.0/0:tcp/587", "::/0:tcp/587"], &[]);
        assert_eq!(texts(&mail), ["80", "443", "587"]);
        let one_version = policy(Tier::Web, &["0.0.0.0/0:tcp/587"], &[]);
        assert_eq!(texts(&one_version), ["80", "443"]);
        let some = policy(Tier::Web, &["192.0.2.0/24:tcp/22"], &["1.0.0.1:any/*"]);
        assert_eq!(texts(&some), ["80", "443"]);
        let closed = policy(Tier::Open, &[], &["::/0:any/400-500"]);
        assert_eq!(texts(&closed)[..3], ["1-24", "26-399", "501-586"]);
        let none = policy(Tier::Open, &[], &["0.0.0.0/0:any/*"]);
        assert!(texts(&none).is_empty());
    }
}
