//! Ranges that are not the public internet, from a list of the packet filter's own.

use std::net::IpAddr;

use ipsx_tunnel_core::IpNet;
use serde_json::Value;

use super::expressions::net;

/// IPv4 ranges that are not the public internet (IANA special-purpose registry).
const SPECIAL_V4: &[&str] = &[
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
    "224.0.0.0/3",
];

/// The same for IPv6: all but global unicast, and of that what is special or hides an IPv4 address. NAT64 has its own
/// list, made of the IPv4 one.
const SPECIAL_V6: &[&str] = &[
    "::/3",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "4000::/2",
    "8000::/1",
];

/// The well-known prefix of NAT64 (RFC 6052), inside the first of [`SPECIAL_V6`].
const NAT64: &str = "64:ff9b::";

/// IPv4 ranges refused.
pub(super) fn v4() -> Vec<Value> {
    nets(SPECIAL_V4)
}

fn nets(texts: &[&str]) -> Vec<Value> {
    texts
        .iter()
        .filter_map(|text| text.parse().ok())
        .map(net)
        .collect()
}

/// IPv6 ranges refused: NAT64 is cut out of the first, so that public IPv4 addresses are open through it.
pub(super) fn v6() -> Vec<Value> {
    let mut all = nets(&SPECIAL_V6[1..]);
    let nat64: Option<IpNet> = format!("{NAT64}/96").parse().ok();
    let first: Option<IpNet> = SPECIAL_V6[0].parse().ok();
    if let (Some(IpNet::V6(nat64)), Some(IpNet::V6(first))) = (nat64, first) {
        // Every sibling on the way from the wide range down to the narrow one.
        for len in first.prefix_len() + 1..=nat64.prefix_len() {
            let flipped = u128::from(nat64.addr()) ^ (1 << (128 - len));
            if let Ok(sibling) = ipnet_v6(flipped, len) {
                all.push(net(sibling.trunc()));
            }
        }
        for v4 in SPECIAL_V4.iter().filter_map(|text| text.parse().ok()) {
            if let IpNet::V4(v4) = v4 {
                let inside = u128::from(nat64.addr()) | u128::from(u32::from(v4.addr()));
                all.extend(ipnet_v6(inside, 96 + v4.prefix_len()).ok().map(net));
            }
        }
    }
    all
}

fn ipnet_v6(bits: u128, len: u8) -> Result<IpNet, impl std::error::Error> {
    IpNet::new(IpAddr::V6(bits.into()), len)
}
