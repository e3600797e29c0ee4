//! Explicit congestion notification across the tunnel (RFC 6040, normal mode).
//!
//! A packet's mark is copied to its datagram, so that a router on the way can say that it is congested; what the
//! router said is put into the packet at the other end. The rest of the traffic class (DSCP) stays inside: it would
//! tell an observer what kind of traffic the tunnel carries.

use std::net::SocketAddr;

/// The two bits of an IP header (RFC 3168).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ecn {
    /// The sender does not understand marks.
    #[default]
    NotEct,
    /// Understood, second kind.
    Ect1,
    /// Understood.
    Ect0,
    /// A router was congested.
    Ce,
}

/// Where a datagram came from, and how the network has marked it. An address alone stands for a datagram without mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Source address of the datagram.
    pub from: SocketAddr,
    /// Its mark.
    pub ecn: Ecn,
}

impl From<SocketAddr> for Arrival {
    fn from(from: SocketAddr) -> Self {
        Self {
            from,
            ecn: Ecn::NotEct,
        }
    }
}

impl Ecn {
    /// From the two low bits of a type of service or traffic class; the others are passed over.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits.
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// The mark of an IP packet; none, for anything else.
    pub(crate) fn of(packet: &[u8]) -> Self {
        match packet {
            [first, tos, ..] if first >> 4 == 4 => Self::from_bits(*tos),
            [_, second, ..] => Self::from_bits(second >> 4),
            _ => Self::NotEct,
        }
    }
}

/// A router marked a datagram whose packet must not carry the mark: it has to be dropped, which its sender does
/// understand.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MustDrop;

/// Puts what the network said about a datagram into the packet that was inside, which has a whole IP header (RFC 6040,
/// section 4.2).
pub(crate) fn decapsulate(packet: &mut [u8], outer: Ecn) -> Result<(), MustDrop> {
    match (Ecn::of(packet), outer) {
        (Ecn::NotEct, Ecn::Ce) => Err(MustDrop),
        (Ecn::Ect0 | Ecn::Ect1, Ecn::Ce) => {
            set(packet, Ecn::Ce);
            Ok(())
        }
        (Ecn::Ect0, Ecn::Ect1) => {
            set(packet, Ecn::Ect1);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn set(packet: &mut [u8], ecn: Ecn) {
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & !0x30 | ecn.bits() << 4;
        return;
    }
    let old = u16::from_be_bytes([packet[0], packet[1]]);
    packet[1] = packet[1] & !0b11 | ecn.bits();
    let new = u16::from_be_bytes([packet[0], packet[1]]);
    // Only what has changed has to be added to the header's checksum (RFC 1624, equation 3); one that was wrong stays
    // wrong.
    let checksum = u16::from_be_bytes([packet[10], packet[11]]);
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    /// The table of RFC 6040, figure 4: rows by what is inside, columns by what is outside, both in the order of `ALL`.
    const TABLE: [[Option<Ecn>; 4]; 4] = {
        let (n, zero, one, ce) = (Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce);
        [
            [Some(n), Some(n), Some(n), None],
            [Some(zero), Some(zero), Some(one), Some(ce)],
            [Some(one), Some(one), Some(one), Some(ce)],
            [Some(ce), Some(ce), Some(ce), Some(ce)],
        ]
    };

    fn v4(dscp: u8, ecn: Ecn, id: u16) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_total_len(40);
        ip.set_dscp(dscp);
        ip.set_ecn(ecn.bits());
        ip.set_ident(id);
        ip.set_hop_limit(64);
        ip.fill_checksum();
        bytes
    }

    fn v6(dscp: u8, ecn: Ecn, flow: u32) -> Vec<u8> {
        let mut bytes = vec![0; 60];
        let mut ip = Ipv6Packet::new_unchecked(&mut bytes);
        ip.set_version(6);
        ip.set_payload_len(20);
        ip.set_traffic_class(dscp << 2 | ecn.bits());
        ip.set_flow_label(flow);
        bytes
    }

    #[test]
    fn bits_and_marks_are_the_same() {
        for bits in 0..=255 {
            assert_eq!(Ecn::from_bits(bits).bits(), bits & 3);
        }
        assert_eq!(Ecn::of(&[]), Ecn::NotEct);
    }

    proptest! {
        /// Every cell of the table, on both IP versions: nothing but the mark and the checksum changes, and the
        /// checksum is what a fresh sum says.
        #[test]
        fn marks_are_combined_as_the_table_says(dscp in 0u8..64, id in any::<u16>(), flow in 0u32..1 << 20) {
            for (row, inner) in ALL.into_iter().enumerate() {
                for (column, outer) in ALL.into_iter().enumerate() {
                    let expected = TABLE[row][column];
                    for (make, version) in [(v4 as fn(u8, Ecn, u16) -> Vec<u8>, 4), (|d, e, f| v6(d, e, u32::from(f)), 6)] {
                        let label = if version == 4 { id } else { flow as u16 };
                        let mut packet = make(dscp, inner, label);
                        prop_assert_eq!(Ecn::of(&packet), inner);
                        let result = decapsulate(&mut packet, outer);
                        prop_assert_eq!(result.is_ok(), expected.is_some());
                        let wanted = make(dscp, expected.unwrap_or(inner), label);
                        prop_assert_eq!(packet, wanted);
                    }
                }
            }
        }

        #[test]
        fn a_wrong_checksum_stays_wrong(id in any::<u16>(), wrong in 1u16..u16::MAX) {
            let mut packet = v4(0, Ecn::Ect0, id);
            let right = u16::from_be_bytes([packet[10], packet[11]]);
            let bad = right.wrapping_add(wrong);
            prop_assume!(bad != !right && right != bad && !(right == 0 && bad == 0xffff) && !(right == 0xffff && bad == 0));
            packet[10..12].copy_from_slice(&bad.to_be_bytes());
            prop_assert!(decapsulate(&mut packet, Ecn::Ce).is_ok());
            prop_assert!(!Ipv4Packet::new_unchecked(&packet[..]).verify_checksum());
        }
    }
}
