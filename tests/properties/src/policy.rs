//! The exit policy's matcher against a list of prefixes that is looked through from top to bottom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipsx_tunnel_core::{ExitPolicy, IpNet, PortRange, Rule, RuleProtocol, Tier};

use crate::bytes::Bytes;

/// What is not the public internet, as the registries list it.
const SPECIAL_V4: [&str; 20] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "169.254.169.254/32",
];

/// Of IPv6 only this is public,
const GLOBAL_V6: &str = "2000::/3";
/// and translated IPv4, as far as its IPv4 address is,
const NAT64: &str = "64:ff9b::/96";
/// and not this.
const SPECIAL_V6: [&str; 4] = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];

/// Prefixes that hide an IPv4 address, and from which bit.
const EMBEDDING: [(&str, u32); 6] = [
    ("::ffff:0:0/96", 96),
    ("::ffff:0:0:0/96", 96),
    ("::/96", 96),
    ("64:ff9b::/96", 96),
    ("2002::/16", 16),
    ("2001::/32", 96),
];

fn inside(nets: &[&str], address: IpAddr) -> bool {
    nets.iter()
        .any(|net| net.parse::<IpNet>().unwrap().contains(&address))
}

fn hidden(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = u128::from(address);
    if inside(&["64:ff9b:1::/48"], address.into()) {
        // RFC 6052: 16 bits, eight that are skipped, 16 bits.
        let (high, low) = ((bits >> 64) as u16, (bits >> 40) as u16);
        return Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    }
    let (prefix, from) = EMBEDDING
        .iter()
        .find(|(net, _)| inside(&[net], address.into()))?;
    let value = (bits >> (96 - from)) as u32;
    let inverted = *prefix == "2001::/32";
    Some(Ipv4Addr::from(if inverted { !value } else { value }))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !inside(&SPECIAL_V4, address),
        IpAddr::V6(v6) if inside(&[NAT64], address) => {
            hidden(v6).is_some_and(|v4| is_public(v4.into()))
        }
        IpAddr::V6(_) => inside(&[GLOBAL_V6], address) && !inside(&SPECIAL_V6, address),
    }
}

/// Whether a flow may be opened, said as simply as possible.
fn reference(
    policy: &ExitPolicy,
    own: &[IpNet],
    protocol: RuleProtocol,
    destination: SocketAddr,
) -> bool {
    let (address, port) = (destination.ip(), destination.port());
    let both = match address {
        IpAddr::V4(_) => vec![address],
        IpAddr::V6(v6) => [Some(address), hidden(v6).map(IpAddr::V4)]
            .into_iter()
            .flatten()
            .collect(),
    };
    if both.iter().any(|&address| {
        policy
            .deny
            .iter()
            .any(|rule| rule.matches(protocol, address, port))
    }) {
        return false;
    }
    if policy
        .allow
        .iter()
        .any(|rule| rule.matches(protocol, address, port))
    {
        return true;
    }
    let own_or_special = |&address: &IpAddr| own.iter().any(|net| net.contains(&address));
    if !is_public(address) || both.iter().any(own_or_special) || [25, 465, 587].contains(&port) {
        return false;
    }
    match (policy.tier, protocol) {
        (Tier::Web | Tier::WebUdp, RuleProtocol::Tcp) => [80, 443].contains(&port),
        (Tier::Web, _) => false,
        (Tier::WebUdp | Tier::Open, _) => port != 0,
    }
}

/// Addresses near the edges of what is special, as well as any others.
fn address(bytes: &mut Bytes<'_>) -> IpAddr {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let kind = bytes.u8();
    let index = usize::from(bytes.u8());
    match kind % 6 {
        0 => Ipv4Addr::from(bytes.u32()).into(),
        1 => Ipv6Addr::from(bytes.array::<16>()).into(),
        2 => net(SPECIAL_V4[index % SPECIAL_V4.len()]).broadcast(),
        3 => match net(SPECIAL_V4[index % SPECIAL_V4.len()]).broadcast() {
            IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(bytes.u32() % 3)).into(),
            v6 => v6,
        },
        4 => {
            let (prefix, from) = EMBEDDING[index % EMBEDDING.len()];
            let IpAddr::V6(base) = net(prefix).network() else {
                unreachable!("all of them are IPv6");
            };
            let hidden = u128::from(bytes.u32()) << (96 - from);
            Ipv6Addr::from(u128::from(base) | hidden).into()
        }
        _ => {
            let IpAddr::V6(base) = net(SPECIAL_V6[index % SPECIAL_V6.len()]).broadcast() else {
                unreachable!("all of them are IPv6");
            };
            Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(bytes.u8() % 3))).into()
        }
    }
}

fn prefix(bytes: &mut Bytes<'_>) -> IpNet {
    let address = address(bytes);
    let longest = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new(address, bytes.u8() % (longest + 1)).unwrap()
}

fn rule(bytes: &mut Bytes<'_>) -> Option<Rule> {
    let prefix = prefix(bytes);
    let protocol =
        [RuleProtocol::Tcp, RuleProtocol::Udp, RuleProtocol::Any][usize::from(bytes.u8() % 3)];
    let ports = PortRange::new(bytes.u16(), bytes.u16())?;
    Some(Rule::new(prefix, protocol, ports))
}

pub(crate) fn check(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(rule) = text.parse::<Rule>()
    {
        assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
    }
    let mut bytes = Bytes(input);
    let mut policy =
        ExitPolicy::new([Tier::Web, Tier::WebUdp, Tier::Open][usize::from(bytes.u8() % 3)]);
    let mut own = Vec::new();
    for _ in 0..bytes.u8() % 8 {
        match bytes.u8() % 3 {
            0 => policy.allow.extend(rule(&mut bytes)),
            1 => policy.deny.extend(rule(&mut bytes)),
            _ => own.push(prefix(&mut bytes)),
        }
    }
    for rule in policy.allow.iter().chain(&policy.deny) {
        assert_eq!(rule.to_string().parse::<Rule>(), Ok(*rule));
    }
    let mut reordered = policy.clone();
    reordered.allow.reverse();
    reordered.deny.reverse();
    assert_eq!(policy.canonical_bytes(), reordered.canonical_bytes());
    let matcher = policy.compile(&own);
    for _ in 0..16 {
        let protocol = [RuleProtocol::Tcp, RuleProtocol::Udp][usize::from(bytes.u8() % 2)];
        let destination = SocketAddr::new(address(&mut bytes), bytes.u16());
        assert_eq!(
            matcher.check(protocol, destination).is_ok(),
            reference(&policy, &own, protocol, destination),
            "{protocol:?} to {destination} by {policy:?}, own {own:?}: {:?}",
            matcher.check(protocol, destination)
        );
        if bytes.is_empty() {
            return;
        }
    }
}
