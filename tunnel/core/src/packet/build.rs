//! Building the few packets that a tunnel end writes itself.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    Checksum, ChecksumCapabilities, Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet,
    Icmpv6DstUnreachable, Icmpv6Message, Icmpv6Packet, IpAddress, IpProtocol, IpRepr, TcpPacket,
    TcpSeqNumber, UdpPacket,
};

use super::{Content, Headers};

/// Bytes of the undeliverable packet that an ICMP error quotes: enough for every header.
const QUOTED: usize = 64;

/// For packets whose checksums were looked at before.
const NO_CHECKSUMS: ChecksumCapabilities = ChecksumCapabilities {
    ipv4: Checksum::None,
    tcp: Checksum::None,
};

/// Why a destination can't be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// No route to the network.
    Network,
    /// The host does not answer.
    Host,
    /// Nothing listens on the port.
    Port,
    /// The exit's policy forbids it.
    Prohibited,
}

impl Unreachable {
    pub(super) fn from_v4_code(code: u8) -> Self {
        match Icmpv4DstUnreachable::from(code) {
            Icmpv4DstUnreachable::NetUnreachable | Icmpv4DstUnreachable::DstNetUnknown => {
                Self::Network
            }
            Icmpv4DstUnreachable::PortUnreachable => Self::Port,
            Icmpv4DstUnreachable::NetProhibited
            | Icmpv4DstUnreachable::HostProhibited
            | Icmpv4DstUnreachable::CommProhibited => Self::Prohibited,
            _ => Self::Host,
        }
    }

    pub(super) fn from_v6_code(code: u8) -> Self {
        match Icmpv6DstUnreachable::from(code) {
            Icmpv6DstUnreachable::NoRoute => Self::Network,
            Icmpv6DstUnreachable::PortUnreachable => Self::Port,
            Icmpv6DstUnreachable::AdminProhibit | Icmpv6DstUnreachable::FailedPolicy => {
                Self::Prohibited
            }
            _ => Self::Host,
        }
    }

    fn v4(self) -> Icmpv4DstUnreachable {
        match self {
            Self::Network => Icmpv4DstUnreachable::NetUnreachable,
            Self::Host => Icmpv4DstUnreachable::HostUnreachable,
            Self::Port => Icmpv4DstUnreachable::PortUnreachable,
            Self::Prohibited => Icmpv4DstUnreachable::CommProhibited,
        }
    }

    fn v6(self) -> Icmpv6DstUnreachable {
        match self {
            Self::Network => Icmpv6DstUnreachable::NoRoute,
            Self::Host => Icmpv6DstUnreachable::AddrUnreachable,
            Self::Port => Icmpv6DstUnreachable::PortUnreachable,
            Self::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
        }
    }
}

/// Writes an IP packet with one UDP datagram over what `packet` held. False if it would not fit the tunnel or the
/// two addresses are of different families.
pub fn udp(
    packet: &mut Vec<u8>,
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
) -> bool {
    let Some(start) = ip(
        packet,
        source.ip(),
        destination.ip(),
        IpProtocol::Udp,
        8 + payload.len(),
    ) else {
        return false;
    };
    let mut datagram = UdpPacket::new_unchecked(&mut packet[start..]);
    datagram.set_src_port(source.port());
    datagram.set_dst_port(destination.port());
    datagram.set_len((8 + payload.len()) as u16);
    datagram.payload_mut().copy_from_slice(payload);
    datagram.fill_checksum(&source.ip().into(), &destination.ip().into());
    true
}

/// Writes an ICMP or ICMPv6 echo request. False if the two addresses are of different families.
pub fn echo_request(
    packet: &mut Vec<u8>,
    source: IpAddr,
    destination: IpAddr,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> bool {
    echo(
        packet,
        source,
        destination,
        (identifier, sequence),
        payload,
        true,
    )
}

/// Writes the answer to an echo request over what `packet` held. False if `request` is none or would not fit.
pub fn echo_reply(packet: &mut Vec<u8>, request: &[u8]) -> bool {
    let Ok(headers) = Headers::parse(request) else {
        return false;
    };
    if headers.content != Content::EchoRequest {
        return false;
    }
    let message = &request[headers.transport_start..headers.transport_end];
    let Some((&[_, _, _, _, i0, i1, s0, s1], payload)) = message.split_first_chunk() else {
        return false;
    };
    let ids = (u16::from_be_bytes([i0, i1]), u16::from_be_bytes([s0, s1]));
    echo(
        packet,
        headers.destination,
        headers.source,
        ids,
        payload,
        false,
    )
}

fn echo(
    packet: &mut Vec<u8>,
    source: IpAddr,
    destination: IpAddr,
    (identifier, sequence): (u16, u16),
    payload: &[u8],
    request: bool,
) -> bool {
    let protocol = if source.is_ipv4() {
        IpProtocol::Icmp
    } else {
        IpProtocol::Icmpv6
    };
    let Some(start) = ip(packet, source, destination, protocol, 8 + payload.len()) else {
        return false;
    };
    let message = &mut packet[start..];
    message[8..].copy_from_slice(payload);
    match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut icmp = Icmpv6Packet::new_unchecked(message);
            icmp.set_msg_type(if request {
                Icmpv6Message::EchoRequest
            } else {
                Icmpv6Message::EchoReply
            });
            icmp.set_msg_code(0);
            icmp.set_echo_ident(identifier);
            icmp.set_echo_seq_no(sequence);
            icmp.fill_checksum(&source, &destination);
        }
        _ => {
            let mut icmp = Icmpv4Packet::new_unchecked(message);
            icmp.set_msg_type(if request {
                Icmpv4Message::EchoRequest
            } else {
                Icmpv4Message::EchoReply
            });
            icmp.set_msg_code(0);
            icmp.set_echo_ident(identifier);
            icmp.set_echo_seq_no(sequence);
            icmp.fill_checksum();
        }
    }
    true
}

/// Writes the ICMP error that tells the sender of `original` why it could not be delivered, as if from `from`.
/// False for packets that must not be answered so.
pub fn unreachable(
    packet: &mut Vec<u8>,
    original: &[u8],
    from: IpAddr,
    reason: Unreachable,
) -> bool {
    // Fragments have no answer.
    let Ok(header) = IpRepr::parse(original, &NO_CHECKSUMS) else {
        return false;
    };
    let code = match from {
        IpAddr::V4(_) => reason.v4().into(),
        IpAddr::V6(_) => reason.v6().into(),
    };
    let messages = (Icmpv4Message::DstUnreachable, Icmpv6Message::DstUnreachable);
    let to = header.src_addr().into();
    error(packet, original, (from, to), messages, code, [0; 4])
}

/// Writes the ICMP error that tells the sender of `original` to send no packets longer than `mtu`, as if from where
/// they go (RFC 1191, section 4; RFC 4443, section 3.2). False for what is no IP packet.
pub fn too_big(packet: &mut Vec<u8>, original: &[u8], mtu: u16) -> bool {
    let Ok((to, from)) = super::addresses(original) else {
        return false;
    };
    // Only ICMP for IPv4 has a code for it.
    let code = match to {
        IpAddr::V4(_) => Icmpv4DstUnreachable::FragRequired.into(),
        IpAddr::V6(_) => 0,
    };
    let messages = (Icmpv4Message::DstUnreachable, Icmpv6Message::PktTooBig);
    let word = u32::from(mtu).to_be_bytes();
    error(packet, original, (from, to), messages, code, word)
}

/// Writes an ICMP error: its header, of which `word` is the second half, and the start of what it is about.
fn error(
    packet: &mut Vec<u8>,
    original: &[u8],
    (from, to): (IpAddr, IpAddr),
    (message_v4, message_v6): (Icmpv4Message, Icmpv6Message),
    code: u8,
    word: [u8; 4],
) -> bool {
    let quoted = &original[..original.len().min(QUOTED)];
    let protocol = match to {
        IpAddr::V4(_) => IpProtocol::Icmp,
        IpAddr::V6(_) => IpProtocol::Icmpv6,
    };
    let Some(start) = ip(packet, from, to, protocol, 8 + quoted.len()) else {
        return false;
    };
    let message = &mut packet[start..];
    message[4..8].copy_from_slice(&word);
    message[8..].copy_from_slice(quoted);
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut icmp = Icmpv6Packet::new_unchecked(message);
            icmp.set_msg_type(message_v6);
            icmp.set_msg_code(code);
            icmp.fill_checksum(&from, &to);
        }
        _ => {
            let mut icmp = Icmpv4Packet::new_unchecked(message);
            icmp.set_msg_type(message_v4);
            icmp.set_msg_code(code);
            icmp.fill_checksum();
        }
    }
    true
}

/// Writes the RST that answers a TCP segment of no known connection (RFC 9293, section 3.10.7.1). False if the
/// segment is itself a RST, or no TCP.
pub fn tcp_reset(packet: &mut Vec<u8>, segment: &[u8]) -> bool {
    let Ok(headers) = Headers::parse(segment) else {
        return false;
    };
    let Content::Tcp { resets: false, .. } = headers.content else {
        return false;
    };
    let original =
        TcpPacket::new_unchecked(&segment[headers.transport_start..headers.transport_end]);
    let Some(start) = ip(
        packet,
        headers.destination,
        headers.source,
        IpProtocol::Tcp,
        20,
    ) else {
        return false;
    };
    let mut tcp = TcpPacket::new_unchecked(&mut packet[start..]);
    tcp.set_src_port(original.dst_port());
    tcp.set_dst_port(original.src_port());
    tcp.set_header_len(20);
    tcp.clear_flags();
    tcp.set_rst(true);
    if original.ack() {
        tcp.set_seq_number(original.ack_number());
        tcp.set_ack_number(TcpSeqNumber(0));
    } else {
        tcp.set_seq_number(TcpSeqNumber(0));
        tcp.set_ack(true);
        tcp.set_ack_number(original.seq_number() + original.segment_len());
    }
    tcp.set_window_len(0);
    tcp.set_urgent_at(0);
    tcp.fill_checksum(&headers.destination.into(), &headers.source.into());
    true
}

/// Writes the acknowledgement that a connection in TIME-WAIT gives when the other end repeats its FIN: it holds
/// nothing that the segment does not say, so it needs no memory of the connection. False if the segment has no FIN.
pub fn tcp_last_ack(packet: &mut Vec<u8>, segment: &[u8]) -> bool {
    let Ok(headers) = Headers::parse(segment) else {
        return false;
    };
    let Content::Tcp { resets: false, .. } = headers.content else {
        return false;
    };
    let original =
        TcpPacket::new_unchecked(&segment[headers.transport_start..headers.transport_end]);
    if !original.fin() || !original.ack() {
        return false;
    }
    let Some(start) = ip(
        packet,
        headers.destination,
        headers.source,
        IpProtocol::Tcp,
        20,
    ) else {
        return false;
    };
    let mut tcp = TcpPacket::new_unchecked(&mut packet[start..]);
    tcp.set_src_port(original.dst_port());
    tcp.set_dst_port(original.src_port());
    tcp.set_header_len(20);
    tcp.clear_flags();
    tcp.set_ack(true);
    tcp.set_seq_number(original.ack_number());
    tcp.set_ack_number(original.seq_number() + original.segment_len());
    tcp.set_window_len(0);
    tcp.set_urgent_at(0);
    tcp.fill_checksum(&headers.destination.into(), &headers.source.into());
    true
}

/// Starts an IP packet with room for `len` bytes behind the header; returns where they start.
fn ip(
    packet: &mut Vec<u8>,
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    len: usize,
) -> Option<usize> {
    if source.is_ipv4() != destination.is_ipv4() {
        return None;
    }
    let repr = IpRepr::new(
        IpAddress::from(source),
        IpAddress::from(destination),
        protocol,
        len,
        64,
    );
    let total = repr.buffer_len();
    if total > crate::INNER_MTU {
        return None;
    }
    packet.clear();
    packet.resize(total, 0);
    let checksums = ChecksumCapabilities {
        ipv4: Checksum::Tx,
        tcp: Checksum::None,
    };
    repr.emit(&mut packet[..], &checksums);
    Some(repr.header_len())
}
