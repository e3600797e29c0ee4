//! The Internet checksum (RFC 1071), and who computes it.

use byteorder::{ByteOrder, NetworkEndian};

use super::{IpAddress, IpProtocol, Ipv4Address, Ipv6Address};

const fn propagate_carries(word: u32) -> u16 {
    let sum = (word >> 16) + (word & 0xffff);
    ((sum >> 16) as u16) + (sum as u16)
}

/// Compute an RFC 1071 compliant checksum (without the final complement).
pub(crate) fn data(data: &[u8]) -> u16 {
    // We calculate the sum in native-endian before converting to big-endian at the end
    // see RFC 1071 section 2.(B) for details
    let mut accum: u32 = 0;

    // We manually unroll this hot loop.
    // When optimizing for size (as is common for microcontrollers) the compiler will not unroll
    // this. Manually unrolling allows us to do more work per loop tax (compare and branch).
    // It does not seem to affect the auto-vectorization on bigger machines.
    let (chunks, mut rem) = data.as_chunks::<4>();
    for chunk in chunks {
        let val_0 = u16::from_ne_bytes(chunk[..2].try_into().unwrap());
        let val_1 = u16::from_ne_bytes(chunk[2..4].try_into().unwrap());
        accum += val_0 as u32;
        accum += val_1 as u32;
    }

    // Handle 2 bytes of tail, if present.
    if rem.len() >= 2 {
        let val = u16::from_ne_bytes(rem[..2].try_into().unwrap());
        accum += val as u32;
        rem = &rem[2..];
    }

    // Add the last remaining odd byte, if any.
    if let Some(&value) = rem.first() {
        accum += u16::from_ne_bytes([value, 0]) as u32;
    }

    let collapsed = propagate_carries(accum);
    u16::to_be(collapsed)
}

/// Combine several RFC 1071 compliant checksums.
pub(crate) fn combine(checksums: &[u16]) -> u16 {
    let mut accum: u32 = 0;
    for &word in checksums {
        accum += word as u32;
    }
    propagate_carries(accum)
}

pub(crate) fn pseudo_header_v4(
    src_addr: &Ipv4Address,
    dst_addr: &Ipv4Address,
    next_header: IpProtocol,
    length: u32,
) -> u16 {
    let mut proto_len = [0u8; 4];
    proto_len[1] = next_header.into();
    NetworkEndian::write_u16(&mut proto_len[2..4], length as u16);

    combine(&[
        data(&src_addr.octets()),
        data(&dst_addr.octets()),
        data(&proto_len[..]),
    ])
}

pub(crate) fn pseudo_header_v6(
    src_addr: &Ipv6Address,
    dst_addr: &Ipv6Address,
    next_header: IpProtocol,
    length: u32,
) -> u16 {
    let mut proto_len = [0u8; 4];
    proto_len[1] = next_header.into();
    NetworkEndian::write_u16(&mut proto_len[2..4], length as u16);

    combine(&[
        data(&src_addr.octets()),
        data(&dst_addr.octets()),
        data(&proto_len[..]),
    ])
}

pub(crate) fn pseudo_header(
    src_addr: &IpAddress,
    dst_addr: &IpAddress,
    next_header: IpProtocol,
    length: u32,
) -> u16 {
    match (src_addr, dst_addr) {
        (IpAddress::Ipv4(src_addr), IpAddress::Ipv4(dst_addr)) => {
            pseudo_header_v4(src_addr, dst_addr, next_header, length)
        }
        (IpAddress::Ipv6(src_addr), IpAddress::Ipv6(dst_addr)) => {
            pseudo_header_v6(src_addr, dst_addr, next_header, length)
        }
        _ => unreachable!(),
    }
}

/// Who looks after the checksum of one protocol.
#[derive(Debug, Clone, Copy, Default)]
pub enum Checksum {
    /// Verified when receiving, computed when sending.
    #[default]
    Both,
    /// Verified when receiving.
    Rx,
    /// Computed when sending.
    Tx,
    /// Somebody else does both.
    None,
}

impl Checksum {
    pub(crate) fn rx(self) -> bool {
        matches!(self, Checksum::Both | Checksum::Rx)
    }

    pub(crate) fn tx(self) -> bool {
        matches!(self, Checksum::Both | Checksum::Tx)
    }
}

/// Who looks after the checksums of a packet.
#[derive(Debug, Clone, Default)]
pub struct ChecksumCapabilities {
    /// Of the IPv4 header.
    pub ipv4: Checksum,
    /// Of the TCP segment.
    pub tcp: Checksum,
}
