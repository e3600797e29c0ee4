//! One TCP connection behind one address: packets in, packets out.

use core::num::{NonZeroU16, NonZeroUsize};

use crate::rand::Rand;
use crate::tcp::{ConnectError, Socket};
use crate::time::Instant;
use crate::wire::{
    ChecksumCapabilities, IpAddress, IpEndpoint, IpProtocol, IpRepr, Ipv4Packet, TcpControl,
    TcpPacket, TcpRepr,
};

/// What an interface is told once.
#[derive(Debug)]
pub struct Config {
    /// The address of this end.
    pub address: IpAddress,
    /// Octets of the longest IP packet that is sent in one piece.
    pub mtu: usize,
    /// Octets of the longest IP packet that the caller cuts into segments, if it does that.
    pub offload: Option<NonZeroUsize>,
    /// Which checksums are left to the caller.
    pub checksum: ChecksumCapabilities,
    /// What sequence numbers come from: must differ for each connection and be hard to guess.
    pub random_seed: u64,
}

/// What a connection has to know of where it is.
#[derive(Debug)]
pub(crate) struct Context {
    now: Instant,
    rand: Rand,
    address: IpAddress,
    mtu: usize,
    offload: Option<NonZeroUsize>,
}

impl Context {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            now: Instant::ZERO,
            rand: Rand::new(config.random_seed),
            address: config.address,
            mtu: config.mtu,
            offload: config.offload,
        }
    }

    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn rand(&mut self) -> &mut Rand {
        &mut self.rand
    }

    pub(crate) fn address(&self) -> IpAddress {
        self.address
    }

    pub(crate) fn mtu(&self) -> usize {
        self.mtu
    }

    pub(crate) fn offload(&self) -> Option<NonZeroUsize> {
        self.offload
    }
}

/// A packet that lies in the buffer which the caller gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Octets of the packet.
    pub len: usize,
    /// Octets of TCP payload that each packet may carry, if this one has to be cut.
    pub segment_size: Option<NonZeroU16>,
}

/// One TCP connection and its place. Nothing but TCP is answered, and no fragment or IPv6 extension header is read.
#[derive(Debug)]
pub struct Interface {
    context: Context,
    checksum: ChecksumCapabilities,
    socket: Socket,
}

impl Interface {
    /// Puts a connection behind an address.
    pub fn new(config: Config, socket: Socket) -> Self {
        Self {
            context: Context::new(&config),
            checksum: config.checksum,
            socket,
        }
    }

    /// The connection.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The connection.
    pub fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Opens the connection; its first segment leaves with the next [`Interface::egress`].
    pub fn connect(&mut self, remote: IpEndpoint, local_port: u16) -> Result<(), ConnectError> {
        self.socket.connect(&mut self.context, remote, local_port)
    }

    /// Takes a packet. The answer that has to be given at once, if there is one, is written to `buffer`; one that does
    /// not fit is lost.
    pub fn ingress(&mut self, now: Instant, packet: &[u8], buffer: &mut [u8]) -> Option<Sent> {
        self.context.set_now(now);
        let ip = IpRepr::parse(packet, &self.checksum).ok()?;
        if ip.next_header() != IpProtocol::Tcp
            || ip.dst_addr() != self.context.address
            || !ip.src_addr().is_unicast()
        {
            return None;
        }
        // The header that is there may have options, unlike one that is emitted.
        let start = match ip {
            IpRepr::Ipv4(_) => usize::from(Ipv4Packet::new_unchecked(packet).header_len()),
            IpRepr::Ipv6(_) => ip.header_len(),
        };
        let segment = TcpPacket::new_checked(&packet[start..start + ip.payload_len()]).ok()?;
        let (from, to) = (ip.src_addr(), ip.dst_addr());
        let tcp = TcpRepr::parse(&segment, &from, &to, &self.checksum).ok()?;
        let (ip, tcp) = if self.socket.accepts(&ip, &tcp) {
            self.socket.process(&mut self.context, &ip, &tcp)?
        } else if tcp.control == TcpControl::Rst {
            // A reset is never answered with another one.
            return None;
        } else {
            Socket::rst_reply(&ip, &tcp)
        };
        emit(buffer, &self.checksum, None, &ip, &tcp)
    }

    /// Writes the next packet to be sent to `buffer`; one that does not fit is lost. None if nothing is to be sent now.
    pub fn egress(&mut self, now: Instant, buffer: &mut [u8]) -> Option<Sent> {
        self.context.set_now(now);
        let mut sent = None;
        let checksum = &self.checksum;
        self.socket
            .dispatch(&mut self.context, |segment_size, ip, tcp| {
                sent = emit(buffer, checksum, segment_size, &ip, &tcp);
            });
        sent
    }

    /// When [`Interface::egress`] wants to be called: a time in the past for at once, none for after the next packet.
    pub fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.context.set_now(now);
        self.socket.poll_at(&self.context).into_time()
    }
}

fn emit(
    buffer: &mut [u8],
    checksum: &ChecksumCapabilities,
    segment_size: Option<NonZeroU16>,
    ip: &IpRepr,
    tcp: &TcpRepr<'_>,
) -> Option<Sent> {
    let len = ip.buffer_len();
    let packet = buffer.get_mut(..len)?;
    ip.emit(&mut *packet, checksum);
    tcp.emit(
        &mut TcpPacket::new_unchecked(&mut packet[ip.header_len()..]),
        &ip.src_addr(),
        &ip.dst_addr(),
        checksum,
    );
    Some(Sent { len, segment_size })
}

#[cfg(test)]
mod tests;
