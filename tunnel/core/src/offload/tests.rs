//! Cutting and joining against slow, obvious references.
#![allow(clippy::unwrap_used)]

mod merging;
mod splitting;

use super::*;
use proptest::prelude::*;

/// What a packet is made of.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) v4: bool,
    pub(super) tcp: bool,
    /// Tells flows apart.
    pub(super) flow: u8,
    pub(super) traffic_class: u8,
    pub(super) hop_limit: u8,
    pub(super) id: u16,
    pub(super) dont_fragment: bool,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// TCP options, a multiple of four bytes.
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Spec {
    fn addresses(&self) -> Vec<u8> {
        if self.v4 {
            vec![10, 0, 0, self.flow, 192, 0, 2, 1]
        } else {
            let mut bytes = vec![0xfd; 32];
            bytes[15] = self.flow;
            bytes
        }
    }

    fn transport_len(&self) -> usize {
        let header = if self.tcp { 20 + self.options.len() } else { 8 };
        header + self.payload.len()
    }

    /// Sum of the pseudo-header, as a stack leaves it in the checksum field for a device to finish.
    pub(super) fn pseudo_sum(&self) -> u16 {
        let mut bytes = self.addresses();
        bytes.extend((self.transport_len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, if self.tcp { 6 } else { 17 }]);
        add(&bytes)
    }

    /// The packet with everything right. Longer packets than 64 kB can't be made.
    pub(super) fn packet(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend([0x30, self.flow, 0x01, 0xbb]);
        if self.tcp {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(self.acknowledged.to_be_bytes());
            transport.push(((20 + self.options.len()) as u8 / 4) << 4);
            transport.push(self.flags);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0, 0, 0, 0]);
            transport.extend(&self.options);
        } else {
            transport.extend((self.transport_len() as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend(&self.payload);
        let mut summed = self.pseudo_sum().to_be_bytes().to_vec();
        summed.extend(&transport);
        let mut sum = !add(&summed);
        if !self.tcp && sum == 0 {
            sum = 0xffff;
        }
        let at = if self.tcp { 16 } else { 6 };
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());

        let mut packet = Vec::new();
        if self.v4 {
            packet.extend([0x45, self.traffic_class]);
            packet.extend((20 + transport.len() as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.dont_fragment { 0x40 } else { 0 }, 0]);
            packet.extend([self.hop_limit, if self.tcp { 6 } else { 17 }, 0, 0]);
            packet.extend(self.addresses());
            let sum = !add(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            packet.extend([
                0x60 | self.traffic_class >> 4,
                self.traffic_class << 4,
                0,
                0,
            ]);
            packet.extend((transport.len() as u16).to_be_bytes());
            packet.extend([if self.tcp { 6 } else { 17 }, self.hop_limit]);
            packet.extend(self.addresses());
        }
        packet.extend(transport);
        packet
    }

    /// What a sender that cuts by itself would have sent: RFC 9293's fields, one packet after the other.
    pub(super) fn cut(&self, size: usize) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = self.payload.chunks(size).collect();
        let last = chunks.len().saturating_sub(1);
        let one = |(i, chunk): (usize, &&[u8])| {
            let mut part = self.clone();
            part.payload = chunk.to_vec();
            part.id = self.id.wrapping_add(i as u16);
            part.sequence = self.sequence.wrapping_add((i * size) as u32);
            if i > 0 {
                part.flags &= !0x80;
            }
            if i < last {
                part.flags &= !0x09;
            }
            part.packet()
        };
        chunks.iter().enumerate().map(one).collect()
    }
}

/// Ones' complement sum, two bytes at a time.
fn add(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub(super) fn specs(payload: std::ops::Range<usize>) -> impl Strategy<Value = Spec> {
    let ip = (
        any::<bool>(),
        any::<bool>(),
        0u8..4,
        any::<u8>(),
        any::<u8>(),
        any::<u16>(),
        any::<bool>(),
    );
    let tcp = (
        any::<u32>(),
        any::<u32>(),
        any::<u8>(),
        any::<u16>(),
        0usize..=10,
    );
    (ip, tcp, payload, any::<u8>()).prop_map(|(ip, tcp, len, seed)| Spec {
        v4: ip.0,
        tcp: ip.1,
        flow: ip.2,
        traffic_class: ip.3,
        hop_limit: ip.4,
        id: ip.5,
        dont_fragment: ip.6,
        sequence: tcp.0,
        acknowledged: tcp.1,
        flags: tcp.2,
        window: tcp.3,
        options: vec![1; tcp.4 * 4],
        payload: noise(len, seed),
    })
}

pub(super) fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed)
        .collect()
}
