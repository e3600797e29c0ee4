//! What matters about a packet for joining it with others.

use super::{
    ACK, CWR, FIN, MAX_IP_PACKET, PSH, RST, SYN, TCP, TCP_CHECKSUM, TCP_FLAGS, UDP, UDP_CHECKSUM,
    URG, checksum, read_u16, read_u32,
};

/// How a packet takes part in merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// May be joined with others of its flow.
    Payload(Payload),
    /// Goes alone; later packets of its flow must not overtake it.
    Alone(Flow),
    /// Goes alone, and its flow can't be told.
    Unknown,
    /// Neither TCP nor UDP: no flow that is merged.
    Foreign,
}

/// Where a packet's flow stands in its bytes: IP version 4 or 6, TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) v4: bool,
    pub(super) tcp: bool,
}

/// A packet with payload that may be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) flow: Flow,
    /// Bytes of IP and transport header.
    pub(super) headers: usize,
    /// Bytes after them.
    pub(super) len: usize,
    /// TCP sequence number; 0 for UDP.
    pub(super) sequence: u32,
    /// Nothing may follow in the same super-packet.
    pub(super) ends: bool,
}

impl Shape {
    pub(super) fn of(packet: &[u8]) -> Self {
        let version = packet.first().map_or(0, |byte| byte >> 4);
        let (start, protocol) = match version {
            4 if packet.len() >= 20 => (20, packet[9]),
            6 if packet.len() >= 40 => (40, packet[6]),
            _ => return Self::Unknown,
        };
        let v4 = version == 4;
        if protocol != TCP && protocol != UDP {
            // An IPv6 fragment or extension header may hide a flow's packet.
            let hides = !v4 && matches!(protocol, 0 | 43 | 44 | 60);
            return if hides { Self::Unknown } else { Self::Foreign };
        }
        let said = if v4 {
            usize::from(read_u16(packet, 2))
        } else {
            40 + usize::from(read_u16(packet, 4))
        };
        // IPv4 options, fragments (all of the field but "don't fragment") and padding are left alone.
        let plain = said == packet.len()
            && packet.len() <= MAX_IP_PACKET
            && (!v4 || packet[0] == 0x45 && read_u16(packet, 6) & !0x4000 == 0);
        if !plain {
            return Self::Unknown;
        }
        let flow = Flow {
            v4,
            tcp: protocol == TCP,
        };
        if flow.tcp {
            tcp(packet, start, flow)
        } else {
            udp(packet, start, flow)
        }
    }
}

fn tcp(packet: &[u8], start: usize, flow: Flow) -> Shape {
    let transport = &packet[start..];
    if transport.len() < 20 {
        return Shape::Unknown;
    }
    let headers = start + usize::from(transport[12] >> 4) * 4;
    if headers < start + 20 || headers > packet.len() {
        return Shape::Unknown;
    }
    let flags = transport[TCP_FLAGS];
    let len = packet.len() - headers;
    // A CWR bit says something of one segment, and would say it of many.
    if len == 0 || flags & (SYN | RST | URG | CWR) != 0 || flags & ACK == 0 {
        return Shape::Alone(flow);
    }
    Shape::Payload(Payload {
        flow,
        headers,
        len,
        sequence: read_u32(transport, 4),
        ends: flags & (PSH | FIN) != 0,
    })
}

fn udp(packet: &[u8], start: usize, flow: Flow) -> Shape {
    let transport = &packet[start..];
    if transport.len() < 8 {
        return Shape::Unknown;
    }
    let len = transport.len() - 8;
    let whole = usize::from(read_u16(transport, 4)) == transport.len();
    // Without a checksum there is nothing that tells a broken datagram from a whole one.
    if len == 0 || !whole || read_u16(transport, UDP_CHECKSUM) == 0 {
        return Shape::Alone(flow);
    }
    Shape::Payload(Payload {
        flow,
        headers: start + 8,
        len,
        sequence: 0,
        ends: false,
    })
}

impl Flow {
    /// Where the transport header starts.
    pub(super) fn transport_start(self) -> usize {
        if self.v4 { 20 } else { 40 }
    }

    /// Where the checksum is in the transport header.
    pub(super) fn checksum_offset(self) -> usize {
        if self.tcp { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    pub(super) fn protocol(self) -> u8 {
        if self.tcp { TCP } else { UDP }
    }

    /// The bytes that name the flow: both addresses and both ports follow each other.
    pub(super) fn name(self, packet: &[u8]) -> &[u8] {
        if self.v4 {
            &packet[12..24]
        } else {
            &packet[8..44]
        }
    }

    pub(super) fn addresses(self, packet: &[u8]) -> &[u8] {
        if self.v4 {
            &packet[12..20]
        } else {
            &packet[8..40]
        }
    }

    /// Whether the transport checksum and, on IPv4, the header's are right.
    pub(super) fn verify(self, packet: &[u8]) -> bool {
        let start = self.transport_start();
        if self.v4 && checksum::finish(checksum::sum(&packet[..20])) != 0 {
            return false;
        }
        let sum = checksum::pseudo_header(self.addresses(packet), self.protocol())
            + (packet.len() - start) as u32
            + checksum::sum(&packet[start..]);
        checksum::finish(sum) == 0
    }

    /// Whether two packets of this flow differ only in what cutting a super-packet would make differ. `count` is how
    /// far `later` is behind `first`.
    pub(super) fn alike(self, first: &[u8], later: &[u8], headers: usize, count: usize) -> bool {
        let ip = if self.v4 {
            // Type of service; fragment field; time to live. Without "don't fragment" the ids have to count up, with it
            // they mean nothing (RFC 6864, section 4.1).
            let expected = read_u16(first, 4).wrapping_add(count as u16);
            first[..2] == later[..2]
                && first[6..9] == later[6..9]
                && (first[6] & 0x40 != 0 || read_u16(later, 4) == expected)
        } else {
            // Traffic class and flow label; hop limit.
            first[..4] == later[..4] && first[7] == later[7]
        };
        if !ip || !self.tcp {
            return ip;
        }
        let (a, b) = (
            &first[self.transport_start()..headers],
            &later[self.transport_start()..headers],
        );
        // Acknowledgement and header length; flags; window; urgent pointer and options.
        a[8..13] == b[8..13]
            && (a[TCP_FLAGS] ^ b[TCP_FLAGS]) & !(FIN | PSH) == 0
            && a[14..16] == b[14..16]
            && a[18..] == b[18..]
    }
}
