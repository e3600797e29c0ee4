//! From the tunnel into the network.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{Device, PathProbe, PeerId, Side, pass};
use crate::{
    DATA_OVERHEAD,
    control::{self, ControlPacket},
    drops::DropReason,
    ecn::Ecn,
    gate::Direction,
    noise::{DATA_HEADER, padded_len},
    offload::Segments,
    packet,
    peer::Peer,
    transmit::TransmitQueue,
};

impl Device {
    /// Sends an inner packet to the peer that its destination belongs to. It is counted as usage when it is
    /// encrypted, which may be after a handshake that this starts.
    ///
    /// A refused packet is counted in [`dropped`](Self::dropped) before its reason is returned.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) -> Result<PeerId, DropReason> {
        let sent = self
            .route(packet, packet.len())
            .and_then(|id| self.send(id, packet, now).map(|()| id));
        if sent.is_ok() {
            self.note_sent(packet, now);
        }
        sent.or_else(|reason| self.dropped_because(reason))
    }

    /// Sends what was read from a TUN interface with offloads: like [`handle_packet`](Self::handle_packet) for every
    /// segment, looking up its peer once.
    pub fn handle_segments(
        &mut self,
        segments: &Segments<'_>,
        now: Instant,
    ) -> Result<PeerId, DropReason> {
        let sent = self
            .route(segments.packet(), segments.len_of(0))
            .and_then(|id| self.send_segments(id, segments, now).map(|()| id));
        if sent.is_ok() {
            self.note_sent(segments.packet(), now);
        }
        sent.or_else(|reason| self.dropped_because(reason))
    }

    /// Sends opaque bytes to the other end, past its gate and outside usage. At most
    /// [`MAX_CONTROL_PAYLOAD`](crate::MAX_CONTROL_PAYLOAD) bytes, and not faster than 50 a second.
    pub fn send_control(
        &mut self,
        id: PeerId,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let mut packet = std::mem::take(&mut self.packet);
        let sent = self
            .write_control(id, payload, &mut packet)
            .and_then(|()| self.send(id, &packet, now));
        self.packet = packet;
        sent.or_else(|reason| self.dropped_because(reason))
    }

    /// Starts a handshake with a peer whose endpoint is known, unless one is under way.
    pub fn initiate(&mut self, id: PeerId, now: Instant) -> Result<(), DropReason> {
        self.call(id, false, now)
    }

    /// Starts a handshake even if one is under way. A lost first message is repeated by itself only after five
    /// seconds, which is long for someone who waits.
    pub fn initiate_again(&mut self, id: PeerId, now: Instant) -> Result<(), DropReason> {
        self.call(id, true, now)
    }

    fn call(&mut self, id: PeerId, again: bool, now: Instant) -> Result<(), DropReason> {
        let peer = self.peers.get_mut(&id).ok_or(DropReason::UnknownPeer)?;
        let endpoint = peer.endpoint.ok_or(DropReason::NoEndpoint)?;
        peer.wake(&self.identity, now);
        if let Some(len) = peer.session.initiate(again, &mut self.scratch) {
            peer.transfer.sent += len as u64;
            self.transmits.push(endpoint, &self.scratch[..len]);
        }
        self.touch(id, now);
        Ok(())
    }

    fn route(&self, packet: &[u8], longest: usize) -> Result<PeerId, DropReason> {
        if longest > self.longest {
            return Err(DropReason::Oversize);
        }
        let (_, destination) = packet::addresses(packet)?;
        self.routes.lookup(destination).ok_or(DropReason::NoRoute)
    }

    fn send(&mut self, id: PeerId, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        let side = self.config.side;
        let control = self.find_control(packet, side != Side::Provider);
        let peer = self.peers.get_mut(&id).ok_or(DropReason::UnknownPeer)?;
        match &control {
            Some(control) => peer.control.pass_outbound(control.payload.len(), now)?,
            None => pass(
                peer,
                &mut self.shares,
                Direction::Outbound,
                packet.len(),
                now,
            )?,
        }
        let endpoint = peer.endpoint.ok_or(DropReason::NoEndpoint)?;
        let counted = control.is_none();
        peer.session.set_time(now);
        if peer.session.is_established() {
            let fill = |buffer: &mut [u8]| buffer.copy_from_slice(packet);
            let sealer = Sealer {
                endpoint,
                ecn: Ecn::of(packet),
                mtu: self.mtu,
                now,
                transmits: &mut self.transmits,
            };
            sealer.seal(peer, packet.len(), fill);
            if counted {
                count_sent(peer, side, packet.len());
            }
            self.touch(id, now);
            return Ok(());
        }
        if peer.hold(packet, counted) {
            self.drops.add(DropReason::HandshakeBacklog);
        }
        self.call(id, false, now)
    }

    fn send_segments(
        &mut self,
        id: PeerId,
        segments: &Segments<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let side = self.config.side;
        let peer = self.peers.get_mut(&id).ok_or(DropReason::UnknownPeer)?;
        peer.session.set_time(now);
        if segments.count() == 1 || !peer.session.is_established() {
            return self.send_each(id, segments, now);
        }
        let endpoint = peer.endpoint.ok_or(DropReason::NoEndpoint)?;
        for index in 0..segments.count() {
            let len = segments.len_of(index);
            if let Err(refused) = pass(peer, &mut self.shares, Direction::Outbound, len, now) {
                self.drops.add(refused.into());
                continue;
            }
            let sealer = Sealer {
                endpoint,
                ecn: Ecn::of(segments.packet()),
                mtu: self.mtu,
                now,
                transmits: &mut self.transmits,
            };
            sealer.seal(peer, len, |buffer| {
                segments.write(index, buffer);
            });
            count_sent(peer, side, len);
        }
        self.touch(id, now);
        Ok(())
    }

    /// The careful way: packets that may be control datagrams, or have to wait for a session.
    fn send_each(
        &mut self,
        id: PeerId,
        segments: &Segments<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let mut packet = std::mem::take(&mut self.packet);
        for index in 0..segments.count() {
            packet.resize(segments.len_of(index), 0);
            segments.write(index, &mut packet);
            if let Err(reason) = self.send(id, &packet, now) {
                self.packet = packet;
                return Err(reason);
            }
        }
        self.packet = packet;
        Ok(())
    }

    /// The control datagram that `packet` is, if it is one.
    pub(super) fn find_control(&self, packet: &[u8], to_gateway: bool) -> Option<ControlPacket> {
        if self.config.side == Side::Bare {
            return None;
        }
        control::find(
            packet,
            self.config.gateway_v4,
            self.config.control_port,
            to_gateway,
        )
    }

    /// Sends what waited for the session.
    pub(super) fn after_handshake(&mut self, id: PeerId, endpoint: SocketAddr, now: Instant) {
        let side = self.config.side;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        for pending in peer.take_pending() {
            let (len, used) = (pending.packet.len() as u64, peer.usage.bytes());
            if let (true, Err(refused)) = (pending.counted, peer.gate.afford(len, used)) {
                self.drops.add(refused.into());
                continue;
            }
            let fill = |buffer: &mut [u8]| buffer.copy_from_slice(&pending.packet);
            let sealer = Sealer {
                endpoint,
                ecn: Ecn::of(&pending.packet),
                mtu: self.mtu,
                now,
                transmits: &mut self.transmits,
            };
            sealer.seal(peer, pending.packet.len(), fill);
            if pending.counted {
                count_sent(peer, side, pending.packet.len());
            }
        }
    }

    fn write_control(
        &self,
        id: PeerId,
        payload: &[u8],
        packet: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        let peer = self.peers.get(&id).ok_or(DropReason::UnknownPeer)?;
        let gateway = SocketAddr::new(IpAddr::V4(self.config.gateway_v4), self.config.control_port);
        let (source, destination) = match self.config.side {
            Side::Provider => {
                let inner = peer.inner_v4().ok_or(DropReason::NoRoute)?;
                (
                    gateway,
                    SocketAddr::new(IpAddr::V4(inner), peer.control_port),
                )
            }
            Side::Client { inner_v4 } => (
                SocketAddr::new(IpAddr::V4(inner_v4), self.config.control_port),
                gateway,
            ),
            Side::Bare => return Err(DropReason::NoRoute),
        };
        if packet::udp(packet, source, destination, payload) {
            Ok(())
        } else {
            Err(DropReason::ControlSize)
        }
    }
}

fn count_sent(peer: &mut Peer, side: Side, bytes: usize) {
    match side {
        Side::Provider => peer.usage.bytes_down += bytes as u64,
        Side::Client { .. } | Side::Bare => peer.usage.bytes_up += bytes as u64,
    }
}

/// Where sealed packets go.
struct Sealer<'d> {
    endpoint: SocketAddr,
    /// What the packet is marked with.
    ecn: Ecn,
    mtu: usize,
    now: Instant,
    transmits: &'d mut TransmitQueue,
}

impl Sealer<'_> {
    /// Pads, encrypts and queues one packet of `len` bytes, which `fill` writes to where it is encrypted and sent from.
    fn seal(self, peer: &mut Peer, len: usize, fill: impl FnOnce(&mut [u8])) {
        let padded = padded_len(len, self.mtu);
        let expected = padded + DATA_OVERHEAD;
        let probe = PathProbe::is_due(&mut peer.path_probe, expected, self.now);
        let write = |buffer: &mut [u8]| {
            let (packet, rest) = buffer[DATA_HEADER..].split_at_mut(len);
            fill(packet);
            rest[..padded - len].fill(0);
            peer.session.seal(buffer, padded)
        };
        let Self { endpoint, ecn, .. } = self;
        if probe {
            self.transmits
                .push_whole_with(endpoint, ecn, expected, write);
        } else {
            self.transmits
                .push_with(endpoint, ecn, expected, expected, write);
        }
        peer.transfer.sent += expected as u64;
    }
}
