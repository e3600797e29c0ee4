//! Reading and building inner IP packets.

mod build;
mod flow_hash;

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol,
    IpVersion, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

use crate::drops::DropReason;

pub use build::{
    Unreachable, echo_reply, echo_request, tcp_last_ack, tcp_reset, too_big, udp, unreachable,
};
pub use flow_hash::flow_hash;

/// What an inner packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// One TCP segment.
    Tcp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// Whether SYN is set and ACK is not: it opens a connection.
        opens: bool,
        /// Whether RST is set.
        resets: bool,
    },
    /// One UDP datagram.
    Udp {
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
        /// Where in the packet the UDP payload starts.
        payload_start: usize,
        /// Where in the packet the UDP payload ends.
        payload_end: usize,
    },
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// An ICMP or ICMPv6 echo reply.
    EchoReply {
        /// Identifier of the request.
        identifier: u16,
        /// Sequence number of the request.
        sequence: u16,
    },
    /// An ICMP or ICMPv6 message that some destination can't be reached.
    Unreachable {
        /// Why.
        reason: Unreachable,
        /// Protocol number of the packet that could not be delivered.
        protocol: u8,
        /// Source of the packet that could not be delivered.
        source: SocketAddr,
        /// Destination of the packet that could not be delivered.
        destination: SocketAddr,
    },
    /// Any other ICMP message.
    OtherIcmp,
    /// A transport protocol that is not carried.
    Other(u8),
}

/// The headers of a whole, well-formed inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Where in the packet the transport header starts.
    pub transport_start: usize,
    /// Where in the packet the transport payload ends.
    pub transport_end: usize,
    /// The transport header.
    pub content: Content,
}

impl Headers {
    /// Reads a packet. Broken lengths, fragments and IPv6 extension headers are refused.
    pub fn parse(packet: &[u8]) -> Result<Self, DropReason> {
        let (source, destination, protocol, start, end) = match version(packet)? {
            IpVersion::Ipv4 => parse_v4(packet)?,
            IpVersion::Ipv6 => parse_v6(packet)?,
        };
        let content = transport(protocol, start, &packet[start..end])?;
        Ok(Self {
            source,
            destination,
            transport_start: start,
            transport_end: end,
            content,
        })
    }
}

/// Source and destination address of a packet, without looking further.
pub fn addresses(packet: &[u8]) -> Result<(IpAddr, IpAddr), DropReason> {
    match version(packet)? {
        IpVersion::Ipv4 => {
            let ip = Ipv4Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
            Ok((ip.src_addr().into(), ip.dst_addr().into()))
        }
        IpVersion::Ipv6 => {
            let ip = Ipv6Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
            Ok((ip.src_addr().into(), ip.dst_addr().into()))
        }
    }
}

fn version(packet: &[u8]) -> Result<IpVersion, DropReason> {
    IpVersion::of_packet(packet).map_err(|_| DropReason::Malformed)
}

type Outline = (IpAddr, IpAddr, IpProtocol, usize, usize);

fn parse_v4(packet: &[u8]) -> Result<Outline, DropReason> {
    let ip = Ipv4Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
    if usize::from(ip.header_len()) < 20 || !ip.verify_checksum() {
        return Err(DropReason::Malformed);
    }
    if ip.more_frags() || ip.frag_offset() != 0 {
        return Err(DropReason::Fragment);
    }
    let (start, end) = (usize::from(ip.header_len()), usize::from(ip.total_len()));
    Ok((
        ip.src_addr().into(),
        ip.dst_addr().into(),
        ip.next_header(),
        start,
        end,
    ))
}

fn parse_v6(packet: &[u8]) -> Result<Outline, DropReason> {
    let ip = Ipv6Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
    match ip.next_header() {
        IpProtocol::Ipv6Frag => return Err(DropReason::Fragment),
        IpProtocol::HopByHop | IpProtocol::Ipv6Route | IpProtocol::Ipv6Opts => {
            return Err(DropReason::ExtensionHeader);
        }
        _ => {}
    }
    Ok((
        ip.src_addr().into(),
        ip.dst_addr().into(),
        ip.next_header(),
        ip.header_len(),
        ip.total_len(),
    ))
}

fn transport(protocol: IpProtocol, start: usize, segment: &[u8]) -> Result<Content, DropReason> {
    match protocol {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(segment).map_err(|_| DropReason::Malformed)?;
            if tcp.src_port() == 0 || tcp.dst_port() == 0 {
                return Err(DropReason::Malformed);
            }
            Ok(Content::Tcp {
                source_port: tcp.src_port(),
                destination_port: tcp.dst_port(),
                opens: tcp.syn() && !tcp.ack(),
                resets: tcp.rst(),
            })
        }
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(segment).map_err(|_| DropReason::Malformed)?;
            if udp.dst_port() == 0 {
                return Err(DropReason::Malformed);
            }
            Ok(Content::Udp {
                source_port: udp.src_port(),
                destination_port: udp.dst_port(),
                payload_start: start + 8,
                payload_end: start + usize::from(udp.len()),
            })
        }
        IpProtocol::Icmp => icmp_v4(segment),
        IpProtocol::Icmpv6 => icmp_v6(segment),
        other => Ok(Content::Other(other.into())),
    }
}

fn icmp_v4(segment: &[u8]) -> Result<Content, DropReason> {
    let icmp = Icmpv4Packet::new_checked(segment).map_err(|_| DropReason::Malformed)?;
    match icmp.msg_type() {
        Icmpv4Message::EchoRequest => Ok(Content::EchoRequest),
        Icmpv4Message::EchoReply => Ok(Content::EchoReply {
            identifier: icmp.echo_ident(),
            sequence: icmp.echo_seq_no(),
        }),
        // A packet that was too long: its destination can be reached by shorter ones.
        Icmpv4Message::DstUnreachable
            if icmp.msg_code() == u8::from(Icmpv4DstUnreachable::FragRequired) =>
        {
            Ok(Content::OtherIcmp)
        }
        Icmpv4Message::DstUnreachable => {
            let reason = Unreachable::from_v4_code(icmp.msg_code());
            Ok(undelivered(reason, segment.get(8..).unwrap_or_default()))
        }
        _ => Ok(Content::OtherIcmp),
    }
}

fn icmp_v6(segment: &[u8]) -> Result<Content, DropReason> {
    let icmp = Icmpv6Packet::new_checked(segment).map_err(|_| DropReason::Malformed)?;
    match icmp.msg_type() {
        Icmpv6Message::EchoRequest => Ok(Content::EchoRequest),
        Icmpv6Message::EchoReply => Ok(Content::EchoReply {
            identifier: icmp.echo_ident(),
            sequence: icmp.echo_seq_no(),
        }),
        Icmpv6Message::DstUnreachable => {
            let reason = Unreachable::from_v6_code(icmp.msg_code());
            Ok(undelivered(reason, segment.get(8..).unwrap_or_default()))
        }
        _ => Ok(Content::OtherIcmp),
    }
}

/// Reads the packet quoted in an ICMP error, which is usually cut short.
fn undelivered(reason: Unreachable, quoted: &[u8]) -> Content {
    let outline = match quoted.first().map(|byte| byte >> 4) {
        Some(4) if quoted.len() >= 20 => {
            let ip = Ipv4Packet::new_unchecked(quoted);
            let (source, destination): (IpAddr, IpAddr) =
                (ip.src_addr().into(), ip.dst_addr().into());
            Some((source, destination, quoted[9], usize::from(ip.header_len())))
        }
        Some(6) if quoted.len() >= 40 => {
            let ip = Ipv6Packet::new_unchecked(quoted);
            Some((ip.src_addr().into(), ip.dst_addr().into(), quoted[6], 40))
        }
        _ => None,
    };
    let Some((source, destination, protocol, start)) = outline else {
        return Content::OtherIcmp;
    };
    let Some(&[s0, s1, d0, d1]) = quoted.get(start..start + 4) else {
        return Content::OtherIcmp;
    };
    Content::Unreachable {
        reason,
        protocol,
        source: SocketAddr::new(source, u16::from_be_bytes([s0, s1])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([d0, d1])),
    }
}

#[cfg(test)]
mod tests;
