//! Cutting and joining of super-packets, against a slow reference: checksums two bytes at a time, and payloads that are
//! put together again byte by byte.

use ipsx_tunnel_core::offload::{Gso, Merger, OFFLOAD_HEADER_LEN, OffloadHeader, Segments};

use crate::bytes::Bytes;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Any header with any packet: nothing panics, and what is cut adds up to what was there.
pub(crate) fn check_raw(input: &[u8]) {
    let mut bytes = Bytes(input);
    let raw: [u8; OFFLOAD_HEADER_LEN] = bytes.array();
    let Ok(header) = OffloadHeader::from_bytes(&raw) else {
        return;
    };
    assert_eq!(
        OffloadHeader::from_bytes(&header.to_bytes()),
        Ok(header),
        "a header that was read can be written"
    );
    let mut original = bytes.0.to_vec();
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    let addresses_end = match original.first().map(|byte| byte >> 4) {
        Some(4) => 20,
        _ => 40,
    };
    let least = addresses_end.max(field + 2);
    if header.gso != Gso::None && original.len() >= least {
        // What a stack leaves there for a device to finish.
        let pseudo = sum(&pseudo_header(&original, start));
        original[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    }
    let mut packet = original.clone();
    let Ok(segments) = Segments::new(header, &mut packet) else {
        return;
    };
    let cut = write_all(&segments);
    if header.gso == Gso::None {
        assert_eq!(cut.len(), 1);
        assert_eq!(cut[0].len(), original.len());
        return;
    }
    let size = usize::from(header.segment_size);
    let headers = match header.gso {
        Gso::Udp => start + 8,
        _ => start + usize::from(original[start + 12] >> 4) * 4,
    };
    let payload: Vec<u8> = cut
        .iter()
        .flat_map(|part| &part[headers..])
        .copied()
        .collect();
    assert_eq!(
        payload,
        original[headers..],
        "the payload, put together again"
    );
    for (index, part) in cut.iter().enumerate() {
        let is_last = index + 1 == cut.len();
        assert!(part.len() == headers + size || is_last);
        check_transport(part, start, header.gso == Gso::Udp);
        if header.gso == Gso::Udp {
            continue;
        }
        let sequence =
            |packet: &[u8]| u32::from_be_bytes(packet[start + 4..start + 8].try_into().unwrap());
        let expected = sequence(&original).wrapping_add((index * size) as u32);
        assert_eq!(sequence(part), expected);
        let mut flags = original[start + 13];
        if index > 0 {
            flags &= !0x80;
        }
        if !is_last {
            flags &= !0x09;
        }
        assert_eq!(part[start + 13], flags, "segment {index} of {}", cut.len());
    }
}

/// Packets of a few flows, more or less in order: joined and cut again they are what they were.
pub(crate) fn check_flows(input: &[u8]) {
    let mut bytes = Bytes(input);
    let merges_udp = bytes.u8() % 2 == 1;
    let mut flows = [0, 1, 2, 3].map(|number| Flow {
        number,
        id: 0,
        sequence: 0,
    });
    let mut packets = Vec::new();
    while !bytes.is_empty() && packets.len() < 80 {
        let packet = flows[usize::from(bytes.u8() % 4)].next(&mut bytes);
        if packet.len() <= 1500 {
            packets.push(packet);
        }
    }
    let mut merger = Merger::new(merges_udp);
    let mut arena = vec![0; 3];
    for packet in &packets {
        let start = arena.len();
        arena.extend(packet);
        merger.push(&arena, start..arena.len());
    }
    merger.finish(&mut arena);
    let mut again = Vec::new();
    for merged in merger.merged() {
        let header = merged.header;
        let mut joined: Vec<u8> = merged.flat_map(|range| &arena[range]).copied().collect();
        assert!(joined.len() <= ipsx_tunnel_core::offload::MAX_IP_PACKET);
        let segments = Segments::new(header, &mut joined)
            .unwrap_or_else(|error| panic!("{error}: joined by {header:?}"));
        again.extend(write_all(&segments));
    }
    // Flows keep their order within themselves.
    let flow = |packet: &Vec<u8>| {
        if packet[0] >> 4 == 4 {
            (packet[9], packet[15], packet[20..24].to_vec())
        } else {
            (packet[6], packet[23] | 0x80, packet[40..44].to_vec())
        }
    };
    let by_flow = |mut all: Vec<Vec<u8>>| {
        all.sort_by_key(flow);
        all.into_iter().map(without_id).collect::<Vec<_>>()
    };
    let (again, packets) = (by_flow(again), by_flow(packets));
    assert_eq!(again.len(), packets.len(), "as many as there were");
    for (index, (again, packet)) in again.iter().zip(&packets).enumerate() {
        assert!(
            again == packet,
            "packet {index}: {again:02x?} was {packet:02x?}"
        );
    }
}

struct Flow {
    number: u8,
    id: u16,
    sequence: u32,
}

impl Flow {
    /// Another packet; most bytes of it follow from the last one, so that some can be joined.
    fn next(&mut self, bytes: &mut Bytes<'_>) -> Vec<u8> {
        let shape = bytes.u8();
        let (v4, tcp) = (shape & 1 == 0, shape & 2 == 0);
        let number = self.number;
        if shape & 4 != 0 {
            self.sequence = self.sequence.wrapping_add(bytes.u32());
        }
        if shape & 8 != 0 {
            self.id = self.id.wrapping_add(bytes.u16());
        }
        let (flags, options, damage) = if shape & 16 == 0 {
            (0x10, 12, 0)
        } else {
            (bytes.u8(), usize::from(bytes.u8() % 11) * 4, bytes.u8())
        };
        let length = if shape & 32 == 0 {
            100
        } else {
            usize::from(bytes.u16() % 1400)
        };
        let payload = vec![shape; length];
        let mut transport = vec![0x30, number, 1, 0xbb];
        if tcp {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend([
                0,
                0,
                0,
                7,
                ((20 + options) as u8 / 4) << 4,
                flags,
                1,
                0,
                0,
                0,
                0,
                0,
            ]);
            transport.extend(vec![1; options]);
        } else {
            transport.extend(((8 + length) as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend(payload);
        let mut packet = if v4 {
            let mut packet = vec![0x45, 0];
            packet.extend((20 + transport.len() as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            let dont_fragment = if shape & 64 == 0 { 0x40 } else { 0 };
            packet.extend([dont_fragment, 0, 64, if tcp { TCP } else { UDP }, 0, 0]);
            packet.extend([10, 0, 0, number, 192, 0, 2, 1]);
            let sum = !sum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        } else {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((transport.len() as u16).to_be_bytes());
            packet.extend([if tcp { TCP } else { UDP }, 64]);
            packet.extend([0xfd; 15]);
            packet.push(number);
            packet.extend([0xfd; 16]);
            packet
        };
        let start = packet.len();
        packet.extend(transport);
        let field = start + if tcp { 16 } else { 6 };
        let mut sum = !transport_sum(&packet, start);
        if !tcp && sum == 0 {
            sum = 0xffff;
        }
        packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        if damage & 3 == 3 {
            packet[start + usize::from(damage) % 8] ^= damage;
        }
        self.id = self.id.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(length as u32);
        packet
    }
}

fn write_all(segments: &Segments<'_>) -> Vec<Vec<u8>> {
    assert!(segments.count() >= 1);
    (0..segments.count())
        .map(|index| {
            assert!(segments.len_of(index) <= segments.len_of(0));
            let mut part = vec![0; segments.len_of(index)];
            assert_eq!(segments.write(index, &mut part), part.len());
            part
        })
        .collect()
}

/// Ones' complement sum, two bytes at a time.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What a transport checksum covers besides the transport.
fn pseudo_header(packet: &[u8], start: usize) -> Vec<u8> {
    let (addresses, protocol) = if packet[0] >> 4 == 4 {
        (&packet[12..20], packet[9])
    } else {
        (&packet[8..40], packet[6])
    };
    let mut bytes = addresses.to_vec();
    bytes.extend(((packet.len() - start) as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// Sum of the pseudo-header and everything from `start`.
fn transport_sum(packet: &[u8], start: usize) -> u16 {
    let mut summed = pseudo_header(packet, start);
    summed.extend(&packet[start..]);
    sum(&summed)
}

/// The id of an IPv4 packet that may not be fragmented means nothing (RFC 6864), and joining makes such ids count up.
fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// A cut packet says its own length, and its checksums are right.
fn check_transport(packet: &[u8], start: usize, udp: bool) {
    let length = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 {
        assert_eq!(length(2), packet.len());
        let header = usize::from(packet[0] & 15) * 4;
        assert_eq!(sum(&packet[..header]), 0xffff, "the IPv4 header's checksum");
    } else {
        assert_eq!(length(4) + 40, packet.len());
    }
    if udp {
        assert_eq!(length(start + 4), packet.len() - start);
    }
    // A sum over an IPv6 packet with extension headers names the transport, not the first header.
    let protocol = if udp { UDP } else { TCP };
    let named = if packet[0] >> 4 == 4 {
        packet[9]
    } else {
        packet[6]
    };
    if named == protocol {
        assert_eq!(transport_sum(packet, start), 0xffff, "the checksum");
    }
}
