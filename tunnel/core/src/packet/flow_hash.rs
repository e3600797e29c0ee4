//! One number for both directions of a connection.

/// Where the protocol is in an IPv4 header, and the fragment offset with its flags.
const V4_PROTOCOL: usize = 9;
const V4_FRAGMENT: usize = 6;
const V4_HEADER: usize = 20;
const V6_NEXT_HEADER: usize = 6;
const V6_HEADER: usize = 40;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A hash of an IP packet's addresses and, for TCP and UDP, its ports: the same for both directions. All fragments of a
/// packet have the same, and so have all packets that are none. It spreads connections and resists nobody.
pub fn flow_hash(packet: &[u8]) -> u32 {
    let (addresses, protocol, transport) = match packet.first().map_or(0, |byte| byte >> 4) {
        4 if packet.len() >= V4_HEADER => {
            let header = usize::from(packet[0] & 0xf) * 4;
            let is_fragment = packet[V4_FRAGMENT] & 0x3f != 0 || packet[V4_FRAGMENT + 1] != 0;
            let transport = if is_fragment { packet.len() } else { header };
            (&packet[12..V4_HEADER], packet[V4_PROTOCOL], transport)
        }
        6 if packet.len() >= V6_HEADER => {
            (&packet[8..V6_HEADER], packet[V6_NEXT_HEADER], V6_HEADER)
        }
        _ => return 0,
    };
    let mut sum = u64::from(protocol);
    let mut add = |part: u64| sum = sum.wrapping_add(scattered(part));
    for word in addresses.as_chunks::<4>().0 {
        add(u32::from_be_bytes(*word).into());
    }
    if matches!(protocol, TCP | UDP)
        && let Some(ports) = packet.get(transport..transport + 4)
    {
        for port in ports.as_chunks::<2>().0 {
            add(u16::from_be_bytes(*port).into());
        }
    }
    // The upper half of the product depends on all bits of the sum (Fibonacci hashing).
    (sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Not the number itself: of two that change in step the sum would stay the same.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(number | 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;
    use std::net::SocketAddr;

    use super::*;
    use crate::packet::udp;

    fn datagram(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let mut packet = Vec::new();
        assert!(udp(&mut packet, from, to, b"x"));
        packet
    }

    #[test]
    fn both_directions_are_one_and_connections_many() {
        for (ours, theirs) in [("10.0.0.1", "192.0.2.1"), ("fdff::1", "fd98:ffff:ffff::1")] {
            let mut upper = HashSet::new();
            for port in 40_000..40_256 {
                let ours = SocketAddr::new(ours.parse().unwrap(), port);
                let theirs = SocketAddr::new(theirs.parse().unwrap(), 443);
                let there = flow_hash(&datagram(ours, theirs));
                assert_eq!(there, flow_hash(&datagram(theirs, ours)));
                upper.insert(there >> 24);
            }
            // 256 balls in 256 bins leave about 162 of them with one.
            assert!(upper.len() > 130, "{} of 256", upper.len());
        }
    }

    #[test]
    fn fragments_stay_together_and_what_is_no_packet_is_no_matter() {
        let ours = "10.0.0.1:40000".parse().unwrap();
        let mut first = datagram(ours, "192.0.2.1:443".parse().unwrap());
        first[V4_FRAGMENT] = 0x20;
        let mut second = first.clone();
        second[V4_FRAGMENT] = 0;
        second[V4_FRAGMENT + 1] = 100;
        second[V4_HEADER..].fill(7);
        assert_eq!(flow_hash(&first), flow_hash(&second));
        for len in 0..first.len() {
            flow_hash(&first[..len]);
            flow_hash(&datagram("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap())[..len]);
        }
    }
}
