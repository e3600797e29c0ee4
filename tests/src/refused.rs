//! Every address that an exit must refuse, and the packets that try to reach it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipsx_tunnel_core::packet;

/// Addresses of the public internet, that show that the way out works.
pub const OPEN_V4: &str = "9.9.9.9";
/// The same in IPv6.
pub const OPEN_V6: &str = "2620:fe::9";

/// TCP, UDP and an echo request.
pub const PACKETS_PER_ADDRESS: usize = 3;

/// The exit's own address and a neighbour in its network: public ones, so that only their being local refuses them.
pub const OWN: [&str; 4] = ["11.0.0.1", "11.0.0.2", "2a00:1::1", "2a00:1::2"];

const V4: &[&str] = &[
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.255.255",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
];

const V6: &[&str] = &[
    "::",
    "::1",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "3fff::1",
    "4000::1",
    "8000::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd77::3",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
];

/// Every refused address: special ranges of both families, each IPv4 one hidden in IPv6 in every known way, and those
/// of the exit's own network.
pub fn refused() -> Vec<IpAddr> {
    let v4: Vec<Ipv4Addr> = V4.iter().map(|text| text.parse().unwrap()).collect();
    let mut all: Vec<IpAddr> = v4.iter().copied().map(IpAddr::V4).collect();
    all.extend(
        V6.iter()
            .chain(&OWN)
            .map(|text| text.parse::<IpAddr>().unwrap()),
    );
    for hidden in v4.into_iter().flat_map(embeddings) {
        all.push(IpAddr::V6(hidden));
    }
    all
}

/// An IPv4 address in IPv6: mapped, compatible, NAT64, local NAT64, 6to4 and Teredo.
fn embeddings(v4: Ipv4Addr) -> [Ipv6Addr; 6] {
    let low = u128::from(u32::from(v4));
    let [a, b, c, d] = v4.octets().map(u128::from);
    [
        0xffff << 32 | low,
        low,
        0x64_ff9b << 96 | low,
        // A /48: bits 48 to 63 and 72 to 87 (RFC 6052).
        0x0064_ff9b_0001 << 80 | (a << 8 | b) << 64 | c << 48 | d << 40,
        0x2002 << 112 | low << 80,
        0x2001 << 112 | (low ^ 0xffff_ffff),
    ]
    .map(Ipv6Addr::from)
}

/// One packet of each kind from `source` to `destination`.
pub fn packets(source: IpAddr, destination: IpAddr) -> [Vec<u8>; PACKETS_PER_ADDRESS] {
    let ends = (
        SocketAddr::new(source, 40_000),
        SocketAddr::new(destination, 443),
    );
    let [mut udp, mut echo] = [Vec::new(), Vec::new()];
    assert!(packet::udp(&mut udp, ends.0, ends.1, b"probe"));
    assert!(packet::echo_request(
        &mut echo,
        source,
        destination,
        1,
        1,
        b"probe"
    ));
    [syn(ends), udp, echo]
}

/// A SYN. A datagram with twelve bytes is as long as one, which leaves the transport header to be written.
fn syn((source, destination): (SocketAddr, SocketAddr)) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(packet::udp(&mut bytes, source, destination, &[0; 12]));
    let (start, protocol, addresses) = if source.is_ipv4() {
        (20, 9, 12..20)
    } else {
        (40, 6, 8..40)
    };
    bytes[protocol] = 6;
    if source.is_ipv4() {
        bytes[10..12].fill(0);
        let sum = checksum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum);
    }
    let transport = &mut bytes[start..];
    transport[4..].fill(0);
    // Length of the header in words; SYN; window.
    transport[12] = 5 << 4;
    transport[13] = 2;
    transport[14] = 0xff;
    let mut covered = bytes[addresses].to_vec();
    covered.extend_from_slice(&[0, 6, 0, 20]);
    covered.extend_from_slice(&bytes[start..]);
    let sum = checksum(&covered);
    bytes[start + 16..start + 18].copy_from_slice(&sum);
    bytes
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(((folded & 0xffff) + (folded >> 16)) as u16)).to_be_bytes()
}
