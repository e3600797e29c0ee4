//! Addresses that are not the public internet (IANA special-purpose registries, RFC 6890 and its updates).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::drops::DropReason;

const METADATA_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Why an address is refused by default, if it is.
pub(super) fn refused(address: IpAddr) -> Option<DropReason> {
    match address {
        IpAddr::V4(address) => refused_v4(address),
        IpAddr::V6(address) => refused_v6(address),
    }
}

/// The IPv4 address that an IPv6 address hides.
pub(super) fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    Embedding::of(address).map(|(_, v4)| v4)
}

/// How an IPv6 address hides an IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Embedding {
    /// ::ffff:0:0/96 (RFC 4291), and ::ffff:0:0:0/96 (RFC 2765): never on a wire.
    Mapped,
    /// ::/96 (RFC 4291), deprecated.
    Compatible,
    /// 64:ff9b::/96 (RFC 6052): how an exit without IPv4 reaches it.
    Nat64,
    /// 64:ff9b:1::/48 (RFC 8215): translation of local use, so it leads into the exit's own network.
    LocalNat64,
    /// 2002::/16 (RFC 3056), deprecated.
    SixToFour,
    /// 2001::/32 (RFC 4380), the client's address with all bits inverted.
    Teredo,
}

impl Embedding {
    fn of(address: Ipv6Addr) -> Option<(Self, Ipv4Addr)> {
        let s = address.segments();
        let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
        match s {
            [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
                Some((Self::Mapped, join(high, low)))
            }
            [0, 0, 0, 0, 0, 0, high, low] => Some((Self::Compatible, join(high, low))),
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some((Self::Nat64, join(high, low))),
            // RFC 6052, section 2.2, for a /48: bits 48 to 63 and 72 to 87.
            [0x64, 0xff9b, 1, high, middle, low, ..] => {
                Some((Self::LocalNat64, join(high, middle << 8 | low >> 8)))
            }
            [0x2002, high, low, ..] => Some((Self::SixToFour, join(high, low))),
            [0x2001, 0, _, _, _, _, high, low] => Some((Self::Teredo, join(!high, !low))),
            _ => None,
        }
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<DropReason> {
    if address == METADATA_V4 {
        return Some(DropReason::Metadata);
    }
    match address.octets() {
        [0, ..] => Some(DropReason::Unspecified),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(DropReason::Private),
        [100, 64..=127, ..] => Some(DropReason::CarrierNat),
        [127, ..] => Some(DropReason::Loopback),
        [169, 254, ..] => Some(DropReason::LinkLocal),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some(DropReason::Documentation),
        // Protocol assignments, AS112, the 6to4 relay and AMT: nothing a customer opens a flow to.
        [192, 0, 0, _]
        | [192, 31, 196, _]
        | [192, 52, 193, _]
        | [192, 88, 99, _]
        | [192, 175, 48, _] => Some(DropReason::Reserved),
        [198, 18..=19, ..] => Some(DropReason::Benchmarking),
        [224..=239, ..] => Some(DropReason::Multicast),
        [255, 255, 255, 255] => Some(DropReason::Broadcast),
        [240..=255, ..] => Some(DropReason::Reserved),
        _ => None,
    }
}

fn refused_v6(address: Ipv6Addr) -> Option<DropReason> {
    if address.is_unspecified() {
        return Some(DropReason::Unspecified);
    }
    if address.is_loopback() {
        return Some(DropReason::Loopback);
    }
    if address == METADATA_V6 {
        return Some(DropReason::Metadata);
    }
    if let Some((embedding, v4)) = Embedding::of(address) {
        // The reason that names the real target says more than "embedded".
        let inside = refused_v4(v4);
        return match embedding {
            Embedding::Nat64 => inside,
            _ => inside.or(Some(DropReason::EmbeddedV4)),
        };
    }
    match address.segments() {
        [0xfe80..=0xfebf, ..] => Some(DropReason::LinkLocal),
        // Site-local, deprecated but still routed in places.
        [0xfec0..=0xfeff, ..] => Some(DropReason::Private),
        [0xfc00..=0xfdff, ..] => Some(DropReason::UniqueLocal),
        [0xff00..=0xffff, ..] => Some(DropReason::Multicast),
        [0x2001, 2, 0, ..] => Some(DropReason::Benchmarking),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some(DropReason::Documentation),
        // 2001::/23 is protocol assignments, ORCHID included; of 2000::/3 the rest is the public internet.
        [0x2001, 0..=0x1ff, ..] => Some(DropReason::Reserved),
        [0x2000..=0x3fff, ..] => None,
        _ => Some(DropReason::Reserved),
    }
}
