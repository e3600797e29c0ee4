//! What this end of a lease has sent and received, flow by flow. The provider keeps a record of the same flows, and this
//! is what its owner compares that record with.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use crate::known_flows::Ends;

/// A flow that was silent this long may be a new one to the exit, which forgets none sooner.
const QUIET: Duration = Duration::from_secs(5);

/// A flow that was silent this long is forgotten here.
const IDLE: Duration = Duration::from_secs(300);

/// Flows at the same time, at most; about 10 MiB.
const MOST: usize = 1 << 16;

/// Where the flags are in a TCP header, and those that say that a connection opens.
const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What a flow is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowProtocol {
    /// A TCP connection.
    Tcp,
    /// Datagrams between two ports.
    Udp,
    /// Echo requests with one identifier to one host (ICMP and ICMPv6).
    Echo,
}

/// What happened on one flow since it was read the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnFlow {
    /// What it is made of.
    pub protocol: FlowProtocol,
    /// Where it goes; an echo to port 0.
    pub destination: SocketAddr,
    /// Packets that may have opened it at the exit: the first one, those that begin a connection, and those after a
    /// silence.
    pub openings: u32,
    /// How often the other side has agreed to a connection; 1 when another flow has its first answer.
    pub answered: u32,
    /// When the first of these packets was sent, or the last one before them.
    pub first_sent: Instant,
    /// When the last one was sent.
    pub last_sent: Instant,
    /// IP packets' bytes sent.
    pub bytes_up: u64,
    /// IP packets' bytes received.
    pub bytes_down: u64,
    /// What of these was payload.
    pub payload_down: u64,
}

/// What happened on all flows since the last reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnTraffic {
    /// Flows on which something happened.
    pub flows: Vec<OwnFlow>,
    /// Bytes sent in packets that name no flow, such as fragments.
    pub other_up: u64,
    /// Bytes received in such packets.
    pub other_down: u64,
    /// There were more flows than could be followed: this is not all.
    pub incomplete: bool,
}

/// Follows the flows of one end of a lease.
#[derive(Debug)]
pub(crate) struct OwnFlows {
    /// Who is there answers by itself: what goes there opens no flow.
    gateway: IpAddr,
    by_name: HashMap<Name, usize>,
    flows: Vec<Flow>,
    /// Flows on which something happened since the last reading.
    changed: Vec<usize>,
    /// The flow of the last packet sent, and of the last received, which is often that of the next one.
    last: [Option<usize>; 2],
    other: OwnTraffic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    protocol: FlowProtocol,
    /// The identifier of an echo.
    local_port: u16,
    remote: SocketAddr,
}

#[derive(Debug)]
struct Flow {
    name: Name,
    last_sent: Instant,
    /// A connection was asked for and not yet agreed to.
    calling: bool,
    /// A flow without connections has had an answer.
    answered: bool,
    changed: bool,
    unread: OwnFlow,
}

/// Which way a packet goes.
#[derive(Clone, Copy)]
enum Way {
    Sent = 0,
    Received = 1,
}

impl OwnFlows {
    /// No flows, of an end whose gateway has this address.
    pub(crate) fn new(gateway: Ipv4Addr) -> Self {
        Self {
            gateway: gateway.into(),
            by_name: HashMap::new(),
            flows: Vec::new(),
            changed: Vec::new(),
            last: [None; 2],
            other: OwnTraffic::default(),
        }
    }

    /// Notes a packet, or super-packet, that is being sent.
    pub(crate) fn note_sent(&mut self, packet: &[u8], now: Instant) {
        let Some(seen) = Seen::read(packet, Way::Sent) else {
            self.other.other_up += packet.len() as u64;
            return;
        };
        if seen.name.remote.ip() == self.gateway {
            return;
        }
        let known = self.find(seen.name, Way::Sent);
        let Some(place) = known.or_else(|| self.insert(seen.name, now)) else {
            self.other.other_up += packet.len() as u64;
            return;
        };
        self.last[Way::Sent as usize] = Some(place);
        let flow = &mut self.flows[place];
        let quiet = now.saturating_duration_since(flow.last_sent) >= QUIET;
        let begins = seen.syn && !seen.ack;
        flow.touch(place, now, &mut self.changed);
        let unread = &mut flow.unread;
        if known.is_none() || quiet || begins {
            unread.openings += 1;
        }
        flow.calling |= begins;
        flow.last_sent = now;
        unread.last_sent = now;
        unread.bytes_up += packet.len() as u64;
    }

    /// Notes a packet that came.
    pub(crate) fn note_received(&mut self, packet: &[u8], now: Instant) {
        let seen = Seen::read(packet, Way::Received);
        if seen.is_some_and(|seen| seen.name.remote.ip() == self.gateway) {
            return;
        }
        let found = seen.and_then(|seen| Some((seen, self.find(seen.name, Way::Received)?)));
        let Some((seen, place)) = found else {
            self.other.other_down += packet.len() as u64;
            return;
        };
        self.last[Way::Received as usize] = Some(place);
        let flow = &mut self.flows[place];
        flow.touch(place, now, &mut self.changed);
        let agreed = match seen.name.protocol {
            FlowProtocol::Tcp => seen.syn && seen.ack && std::mem::take(&mut flow.calling),
            FlowProtocol::Udp | FlowProtocol::Echo => !std::mem::replace(&mut flow.answered, true),
        };
        // The gateway's own IPv6 address is a local one.
        let outside = !matches!(seen.name.remote.ip(), IpAddr::V6(ip) if ip.is_unique_local());
        let unread = &mut flow.unread;
        unread.answered += u32::from(agreed && outside);
        unread.bytes_down += packet.len() as u64;
        unread.payload_down += packet.len().saturating_sub(seen.payload_start) as u64;
    }

    /// What happened since the last reading.
    pub(crate) fn take(&mut self, now: Instant) -> OwnTraffic {
        let mut traffic = std::mem::take(&mut self.other);
        traffic.flows.reserve_exact(self.changed.len());
        for place in self.changed.drain(..) {
            let flow = &mut self.flows[place];
            flow.changed = false;
            traffic.flows.push(flow.unread);
        }
        if self.flows.len() >= MOST / 2 {
            self.forget_idle(now);
        }
        traffic
    }

    fn find(&self, name: Name, way: Way) -> Option<usize> {
        let last = self.last[way as usize];
        last.filter(|place| self.flows[*place].name == name)
            .or_else(|| self.by_name.get(&name).copied())
    }

    /// Begins a flow; none once there are too many.
    fn insert(&mut self, name: Name, now: Instant) -> Option<usize> {
        if self.flows.len() >= MOST {
            self.other.incomplete = true;
            return None;
        }
        let place = self.flows.len();
        self.flows.push(Flow::new(name, now));
        self.by_name.insert(name, place);
        Some(place)
    }

    /// Everything was read, so that nothing is lost with what is forgotten.
    fn forget_idle(&mut self, now: Instant) {
        self.flows
            .retain(|flow| now.saturating_duration_since(flow.last_sent) < IDLE);
        self.by_name = (self.flows.iter().map(|flow| flow.name)).zip(0..).collect();
        self.last = [None; 2];
    }
}

impl Flow {
    fn new(name: Name, now: Instant) -> Self {
        Self {
            name,
            last_sent: now,
            calling: false,
            answered: false,
            changed: false,
            unread: name.nothing(now),
        }
    }

    /// Something happens on it.
    fn touch(&mut self, place: usize, now: Instant, changed: &mut Vec<usize>) {
        if !std::mem::replace(&mut self.changed, true) {
            let since = now.min(self.last_sent);
            self.unread = self.name.nothing(since);
            self.unread.last_sent = self.last_sent;
            changed.push(place);
        }
    }
}

impl Name {
    fn nothing(self, now: Instant) -> OwnFlow {
        OwnFlow {
            protocol: self.protocol,
            destination: self.remote,
            openings: 0,
            answered: 0,
            first_sent: now,
            last_sent: now,
            bytes_up: 0,
            bytes_down: 0,
            payload_down: 0,
        }
    }
}

/// What one packet says.
#[derive(Clone, Copy)]
struct Seen {
    name: Name,
    syn: bool,
    ack: bool,
    payload_start: usize,
}

impl Seen {
    fn read(packet: &[u8], way: Way) -> Option<Self> {
        let ends = Ends::read(packet).ok()?;
        let start = ends.transport?;
        let (source_port, destination_port) = ends.ports(packet);
        let (ip, remote_port, local_port) = match way {
            Way::Sent => (ends.destination, destination_port, source_port),
            Way::Received => (ends.source, source_port, destination_port),
        };
        let kind = packet.get(start).copied();
        let (protocol, header) = match (ends.protocol, way, kind) {
            (6, _, _) => {
                let offset = packet.get(start + 12)?;
                (FlowProtocol::Tcp, usize::from(offset >> 4) * 4)
            }
            (17, _, _) => (FlowProtocol::Udp, 8),
            (1, Way::Sent, Some(8)) | (58, Way::Sent, Some(128)) => (FlowProtocol::Echo, 0),
            (1, Way::Received, Some(0)) | (58, Way::Received, Some(129)) => (FlowProtocol::Echo, 0),
            _ => return None,
        };
        let flags = match protocol {
            FlowProtocol::Tcp => *packet.get(start + TCP_FLAGS)?,
            FlowProtocol::Udp | FlowProtocol::Echo => 0,
        };
        let remote_port = match protocol {
            FlowProtocol::Echo => 0,
            FlowProtocol::Tcp | FlowProtocol::Udp => remote_port,
        };
        Some(Self {
            name: Name {
                protocol,
                local_port,
                remote: SocketAddr::new(ip, remote_port),
            },
            syn: flags & SYN != 0,
            ack: flags & ACK != 0,
            payload_start: start + header,
        })
    }
}

#[cfg(test)]
mod tests;
