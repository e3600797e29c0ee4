//! Which addresses a lease of an offer may get.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The shortest prefixes that are sold as a whole: the smallest that the internet routes, so that what was found out
/// about the place of one address mostly holds for all.
const WIDEST_V4: u8 = 24;
const WIDEST_V6: u8 = 48;

/// Addresses of a prefix that are considered: no offer needs more.
const CONSIDERED: u16 = 1_024;

/// What is sold of an offer of these prefixes whose agent was seen at an address: the prefix that holds the address, if it
/// is narrow, or else this one address.
pub(crate) fn sold_at(prefixes: &[IpNet], seen: IpAddr) -> IpNet {
    let narrow = |prefix: &&IpNet| {
        let widest = if seen.is_ipv4() { WIDEST_V4 } else { WIDEST_V6 };
        prefix.contains(&seen) && prefix.prefix_len() >= widest
    };
    prefixes
        .iter()
        .find(narrow)
        .map_or_else(|| seen.into(), IpNet::trunc)
}

/// The addresses that are considered, in order. Network and broadcast address of an IPv4 prefix are not sold.
pub(crate) fn addresses(sold: IpNet) -> impl Iterator<Item = IpAddr> {
    sold.hosts().take(CONSIDERED.into())
}

/// The first and the last of them.
pub(crate) fn first_and_last(sold: IpNet) -> (IpAddr, IpAddr) {
    match sold {
        IpNet::V4(net) => {
            let edge = u32::from(net.prefix_len() < 31);
            let first = net.network().to_bits() + edge;
            let last = net.broadcast().to_bits() - edge;
            let last = last.min(first.saturating_add(u32::from(CONSIDERED - 1)));
            (
                Ipv4Addr::from_bits(first).into(),
                Ipv4Addr::from_bits(last).into(),
            )
        }
        IpNet::V6(net) => {
            let first = net.network().to_bits();
            let last = net.broadcast().to_bits();
            let last = last.min(first.saturating_add(u128::from(CONSIDERED - 1)));
            (
                Ipv6Addr::from_bits(first).into(),
                Ipv6Addr::from_bits(last).into(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_bounds_are_those_of_the_addresses() {
        let texts = [
            "192.0.2.0/24",
            "192.0.2.4/30",
            "192.0.2.4/31",
            "192.0.2.4/32",
            "255.255.255.255/32",
            "0.0.0.0/32",
            "2001:db8::/48",
            "2001:db8::8/125",
            "2001:db8::8/127",
            "2001:db8::8/128",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
        ];
        for sold in texts.map(|text| text.parse::<IpNet>().unwrap()) {
            let all: Vec<_> = addresses(sold).collect();
            let ends = (*all.first().unwrap(), *all.last().unwrap());
            assert_eq!(first_and_last(sold), ends, "{sold}");
        }
    }
}
