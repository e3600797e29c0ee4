//! Messages of nfnetlink's conntrack subsystem (linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h). Headers are in the
//! host's byte order, what attributes hold in the network's.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::exit::FlowProtocol;

/// Length of a netlink header.
const HEADER: usize = 16;
/// Of the header that follows it: family, version, resource.
const FAMILY_HEADER: usize = 4;
/// Netlink messages of other kinds: netlink(7).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NFNL_SUBSYS_CTNETLINK`.
const CONNTRACK: u16 = 1;

/// The attributes that are read or written, by the place that they stand in.
mod attribute {
    pub(super) const TUPLE_ORIG: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const MARK: u16 = 8;
    pub(super) const COUNTERS_ORIG: u16 = 9;
    pub(super) const COUNTERS_REPLY: u16 = 10;
    pub(super) const ID: u16 = 12;
    pub(super) const MARK_MASK: u16 = 21;

    pub(super) const TUPLE_IP: u16 = 1;
    pub(super) const TUPLE_PROTO: u16 = 2;

    pub(super) const V4_SOURCE: u16 = 1;
    pub(super) const V4_DESTINATION: u16 = 2;
    pub(super) const V6_SOURCE: u16 = 3;
    pub(super) const V6_DESTINATION: u16 = 4;

    pub(super) const PROTO_NUMBER: u16 = 1;
    pub(super) const SOURCE_PORT: u16 = 2;
    pub(super) const DESTINATION_PORT: u16 = 3;
    pub(super) const ICMP_ID: u16 = 4;
    pub(super) const ICMPV6_ID: u16 = 7;

    pub(super) const COUNTER_BYTES: u16 = 2;
}

/// What the kernel is asked to do with the flows of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Forget them.
    Forget,
    /// List them.
    List,
}

/// The message that asks about every flow whose connection mark is `mark` in the bits of `mask`.
pub(super) fn question(what: Question, mark: u32, mask: u32) -> Vec<u8> {
    // IPCTNL_MSG_CT_DELETE with NLM_F_REQUEST | NLM_F_ACK, IPCTNL_MSG_CT_GET with NLM_F_REQUEST | NLM_F_DUMP.
    let (kind, flags) = match what {
        Question::Forget => (2, 0x005_u16),
        Question::List => (1, 0x301),
    };
    // Any family; version 0; resource 0.
    let mut body = vec![0; FAMILY_HEADER];
    for (kind, value) in [(attribute::MARK, mark), (attribute::MARK_MASK, mask)] {
        body.extend_from_slice(&8_u16.to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(&value.to_be_bytes());
    }
    let len = (HEADER + body.len()) as u32;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&(CONNTRACK << 8 | kind).to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    // Sequence number and sender: there is one question to a socket.
    message.extend_from_slice(&[0; 8]);
    message.extend(body);
    message
}

/// A message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// A flow that there is now.
    New(Flow),
    /// One that there was.
    Destroyed(Flow),
    /// The end of a list.
    Done,
    /// How a question ended: 0, or the number of an error.
    Answer(i32),
    /// Something that nobody here asked for.
    Other,
    /// Nothing that can be read; what follows cannot either.
    Malformed,
}

/// A translated flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) name: FlowName,
    /// The mark of its lease.
    pub(super) mark: u32,
    /// Its port outside, or the identifier of an echo request.
    pub(super) source_port: u16,
    /// Where it really goes, whoever translated that; an echo to port 0.
    pub(super) destination: SocketAddr,
    /// Bytes of IP packets in each direction, if the kernel counted them.
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
}

/// What tells a flow from all others that the kernel knows at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlowName {
    /// The kernel's number: a flow that is on its way out may have the ends of a new one.
    pub(super) id: u32,
    pub(super) protocol: FlowProtocol,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// The messages that a datagram of the kernel holds.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((kind, body, next)) = split(rest) else {
            rest = &[];
            return Some(Message::Malformed);
        };
        rest = next;
        Some(read(kind, body))
    })
}

/// Kind and body of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let header = bytes.first_chunk::<HEADER>()?;
    let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
    let len = usize::try_from(len).ok()?;
    let body = bytes.get(HEADER..len)?;
    let next = bytes.get(padded(len)?..).unwrap_or_default();
    Some((u16::from_ne_bytes([header[4], header[5]]), body, next))
}

fn read(kind: u16, body: &[u8]) -> Message {
    match kind {
        NLMSG_DONE => return Message::Done,
        NLMSG_ERROR => {
            return match body.first_chunk::<4>() {
                Some(code) => Message::Answer(i32::from_ne_bytes(*code).saturating_neg()),
                None => Message::Malformed,
            };
        }
        _ if kind >> 8 != CONNTRACK => return Message::Other,
        _ => {}
    }
    let Some(attributes) = body.get(FAMILY_HEADER..).map(Attributes) else {
        return Message::Malformed;
    };
    // Flows of other protocols or without a mark are nobody's here.
    match (kind & 0xff, flow(attributes)) {
        (0, Some(flow)) => Message::New(flow),
        (2, Some(flow)) => Message::Destroyed(flow),
        _ => Message::Other,
    }
}

fn flow(attributes: Attributes<'_>) -> Option<Flow> {
    let mark = u32::from_be_bytes(attributes.get(attribute::MARK)?);
    let inside = ends(attributes.nested(attribute::TUPLE_ORIG)?)?;
    let outside = ends(attributes.nested(attribute::TUPLE_REPLY)?)?;
    let counted = |kind| {
        let counters = attributes.nested(kind)?;
        Some(u64::from_be_bytes(counters.get(attribute::COUNTER_BYTES)?))
    };
    Some(Flow {
        name: FlowName {
            id: u32::from_be_bytes(attributes.get(attribute::ID)?),
            protocol: inside.protocol,
            source: inside.source,
            destination: inside.destination,
        },
        mark,
        // The answers go to where the flow seems to come from.
        source_port: outside.destination.port(),
        destination: match outside.protocol {
            FlowProtocol::Echo => SocketAddr::new(outside.source.ip(), 0),
            FlowProtocol::Tcp | FlowProtocol::Udp => outside.source,
        },
        bytes_up: counted(attribute::COUNTERS_ORIG).unwrap_or(0),
        bytes_down: counted(attribute::COUNTERS_REPLY).unwrap_or(0),
    })
}

/// The ends of one direction of a flow.
struct Ends {
    protocol: FlowProtocol,
    source: SocketAddr,
    destination: SocketAddr,
}

fn ends(tuple: Attributes<'_>) -> Option<Ends> {
    let address = tuple.nested(attribute::TUPLE_IP)?;
    let v4 = |kind| Some(IpAddr::V4(Ipv4Addr::from(address.get::<4>(kind)?)));
    let v6 = |kind| Some(IpAddr::V6(Ipv6Addr::from(address.get::<16>(kind)?)));
    let source = v4(attribute::V4_SOURCE).or_else(|| v6(attribute::V6_SOURCE))?;
    let destination = v4(attribute::V4_DESTINATION).or_else(|| v6(attribute::V6_DESTINATION))?;
    let proto = tuple.nested(attribute::TUPLE_PROTO)?;
    let port = |kind| proto.get(kind).map(u16::from_be_bytes);
    let ports = || {
        Some((
            port(attribute::SOURCE_PORT)?,
            port(attribute::DESTINATION_PORT)?,
        ))
    };
    let [number] = proto.get(attribute::PROTO_NUMBER)?;
    // Numbers of IANA's protocol registry. An echo has one number for both directions.
    let (protocol, (source_port, destination_port)) = match number {
        6 => (FlowProtocol::Tcp, ports()?),
        17 => (FlowProtocol::Udp, ports()?),
        1 | 58 => {
            let id = port(attribute::ICMP_ID).or_else(|| port(attribute::ICMPV6_ID))?;
            (FlowProtocol::Echo, (id, id))
        }
        _ => return None,
    };
    Some(Ends {
        protocol,
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

/// Attributes one after the other, each with a header of length and kind, padded to four bytes.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this kind, if it has this length.
    fn get<const N: usize>(self, kind: u16) -> Option<[u8; N]> {
        self.find(kind)?.try_into().ok()
    }

    fn nested(self, kind: u16) -> Option<Self> {
        self.find(kind).map(Self)
    }

    fn find(self, wanted: u16) -> Option<&'a [u8]> {
        /// Without the bits that say "nested" and "network byte order".
        const KIND: u16 = 0x3fff;
        let mut rest = self.0;
        loop {
            let header = rest.first_chunk::<4>()?;
            let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND;
            let value = rest.get(4..len)?;
            if kind == wanted {
                return Some(value);
            }
            rest = rest.get(padded(len)?..)?;
        }
    }
}

fn padded(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(4)
}
