//! Which packets that come out of a lease somebody here has asked for.
//!
//! A host whose traffic goes through a lease pays for what comes back. Bytes that nobody here asked for would be a way
//! to run up the bill and to knock at the host's ports, so only answers to flows opened from here are let in.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::drops::DropReason;

/// A flow that sent nothing is forgotten after this long at the earliest, after twice as long at the latest. TCP's own
/// keepalives come every two hours.
const GENERATION: Duration = Duration::from_secs(2 * 3_600 + 600);

/// Flows of one generation, at most; about 3 MiB.
const MOST: usize = 1 << 16;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;

/// The flows opened from here, in two generations of which the older one is forgotten at a time.
#[derive(Debug)]
pub struct KnownFlows {
    inner_v4: Ipv4Addr,
    inner_v6: Option<Ipv6Addr>,
    young: HashSet<Flow>,
    old: HashSet<Flow>,
    since: Instant,
    /// The flow of the last packet sent, which is often that of the next one.
    last: Option<Flow>,
}

/// What a packet and its answer have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    remote: IpAddr,
    /// 0 for fragments and protocols without ports, which are known by the address alone.
    protocol: u8,
    remote_port: u16,
    /// Also the identifier of an echo.
    local_port: u16,
}

impl KnownFlows {
    /// No flows, for a host with these addresses inside the tunnel.
    pub fn new(inner_v4: Ipv4Addr, inner_v6: Option<Ipv6Addr>, now: Instant) -> Self {
        Self {
            inner_v4,
            inner_v6,
            young: HashSet::new(),
            old: HashSet::new(),
            since: now,
            last: None,
        }
    }

    /// Notes a packet, or super-packet, that is about to be sent. It must come from this host's inner address: another
    /// one, such as that of a connection older than the tunnel, would tell the provider what it is.
    pub fn note_sent(&mut self, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        let ends = Ends::read(packet)?;
        if !self.is_ours(ends.source) {
            return Err(DropReason::SpoofedSource);
        }
        let flow = ends.flow_to_destination(packet);
        if now.saturating_duration_since(self.since) >= GENERATION {
            self.age(now);
        }
        if self.last == Some(flow) {
            return Ok(());
        }
        self.last = Some(flow);
        self.insert(flow, now);
        if flow.protocol != 0 {
            // Its answer may come in fragments, of which only the first has ports.
            self.insert(flow.without_ports(), now);
        }
        Ok(())
    }

    /// Whether somebody here asked for a packet that came.
    pub fn check_received(&self, packet: &[u8]) -> Result<(), DropReason> {
        let ends = Ends::read(packet)?;
        if !self.is_ours(ends.destination) {
            return Err(DropReason::NoRoute);
        }
        let flow = match ends.undelivered(packet) {
            Some(inner) => {
                let sent = Ends::read(inner)?;
                if !self.is_ours(sent.source) {
                    return Err(DropReason::NoFlow);
                }
                sent.flow_to_destination(inner)
            }
            None => ends.flow_to_source(packet),
        };
        if self.young.contains(&flow) || self.old.contains(&flow) {
            Ok(())
        } else {
            Err(DropReason::NoFlow)
        }
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.inner_v4,
            IpAddr::V6(address) => Some(address) == self.inner_v6,
        }
    }

    fn insert(&mut self, flow: Flow, now: Instant) {
        if self.young.len() >= MOST {
            self.age(now);
        }
        self.young.insert(flow);
    }

    fn age(&mut self, now: Instant) {
        self.old = std::mem::take(&mut self.young);
        self.since = now;
        // It is in the older generation now, and must be noted again to stay.
        self.last = None;
    }
}

/// The two addresses of a packet, and where its transport header is.
pub(crate) struct Ends {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// None in a fragment.
    pub(crate) transport: Option<usize>,
}

impl Ends {
    /// Reads no more than it must: super-packets have lengths and checksums that say little, and of an undelivered
    /// packet only the start comes back.
    pub(crate) fn read(packet: &[u8]) -> Result<Self, DropReason> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => Self::read_v4(packet),
            Some(6) => Self::read_v6(packet),
            _ => None,
        }
        .ok_or(DropReason::Malformed)
    }

    fn read_v4(packet: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let length = usize::from(header[0] & 15) * 4;
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
        Some(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol: header[9],
            transport: (length >= 20 && fragment == 0).then_some(length),
        })
    }

    fn read_v6(packet: &[u8]) -> Option<Self> {
        let header: &[u8; 40] = packet.first_chunk()?;
        let address = |from: usize| -> Option<IpAddr> {
            let bytes: [u8; 16] = header.get(from..from + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        };
        Some(Self {
            source: address(8)?,
            destination: address(24)?,
            protocol: header[6],
            transport: Some(40),
        })
    }

    fn flow_to_destination(&self, packet: &[u8]) -> Flow {
        let (source_port, destination_port) = self.ports(packet);
        self.flow(self.destination, destination_port, source_port)
    }

    fn flow_to_source(&self, packet: &[u8]) -> Flow {
        let (source_port, destination_port) = self.ports(packet);
        self.flow(self.source, source_port, destination_port)
    }

    fn flow(&self, remote: IpAddr, remote_port: u16, local_port: u16) -> Flow {
        let named = (remote_port, local_port) != (0, 0);
        Flow {
            remote,
            protocol: if named { self.protocol } else { 0 },
            remote_port,
            local_port,
        }
    }

    /// Source and destination port; the identifier of an echo stands at our end of either direction.
    pub(crate) fn ports(&self, packet: &[u8]) -> (u16, u16) {
        let read = |from: usize| {
            let at = self.transport? + from;
            let bytes = packet.get(at..at + 2)?;
            Some(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let message = || packet.get(self.transport?).copied();
        match (self.protocol, message()) {
            (TCP | UDP, _) => (read(0).unwrap_or(0), read(2).unwrap_or(0)),
            (ICMP, Some(8)) | (ICMP_V6, Some(128)) => (read(4).unwrap_or(0), u16::MAX),
            (ICMP, Some(0)) | (ICMP_V6, Some(129)) => (u16::MAX, read(4).unwrap_or(0)),
            _ => (0, 0),
        }
    }

    /// The start of the packet that this ICMP error is about.
    fn undelivered<'p>(&self, packet: &'p [u8]) -> Option<&'p [u8]> {
        let start = self.transport?;
        let kind = *packet.get(start)?;
        let is_error = match self.protocol {
            ICMP => matches!(kind, 3 | 11 | 12),
            ICMP_V6 => kind < 128,
            _ => false,
        };
        is_error.then(|| packet.get(start + 8..)).flatten()
    }
}

impl Flow {
    fn without_ports(self) -> Self {
        Self {
            protocol: 0,
            remote_port: 0,
            local_port: 0,
            ..self
        }
    }
}

#[cfg(test)]
mod tests;
