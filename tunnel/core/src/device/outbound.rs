//! From the tunnel into the network.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{Device, PeerId, Side};
use crate::{
    DATA_OVERHEAD, INNER_MTU, control,
    drops::DropReason,
    noise::{MIN_BUFFER, padded_len},
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
            .route(packet)
            .and_then(|id| self.send(id, packet, now).map(|()| id));
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
    pub fn initiate(&mut self, id: PeerId) -> Result<(), DropReason> {
        self.call(id, false)
    }

    /// Starts a handshake even if one is under way. A lost first message is repeated by itself only after five
    /// seconds, which is long for someone who waits.
    pub fn initiate_again(&mut self, id: PeerId) -> Result<(), DropReason> {
        self.call(id, true)
    }

    fn call(&mut self, id: PeerId, again: bool) -> Result<(), DropReason> {
        let peer = self.peers.get_mut(&id).ok_or(DropReason::UnknownPeer)?;
        let endpoint = peer.endpoint.ok_or(DropReason::NoEndpoint)?;
        if let Some(len) = peer.session.initiate(again, &mut self.scratch) {
            self.transmits.push(endpoint, &self.scratch[..len]);
        }
        Ok(())
    }

    fn route(&self, packet: &[u8]) -> Result<PeerId, DropReason> {
        if packet.len() > INNER_MTU {
            return Err(DropReason::Oversize);
        }
        let (_, destination) = packet::addresses(packet)?;
        self.routes.lookup(destination).ok_or(DropReason::NoRoute)
    }

    fn send(&mut self, id: PeerId, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        let side = self.config.side;
        let peer = self.peers.get_mut(&id).ok_or(DropReason::UnknownPeer)?;
        let to_gateway = side != Side::Provider;
        let control = control::find(
            packet,
            self.config.gateway_v4,
            self.config.control_port,
            to_gateway,
        );
        match &control {
            Some(control) => peer.control.pass_outbound(control.payload.len(), now)?,
            None => peer.gate.pass_outbound(packet.len(), now)?,
        }
        let endpoint = peer.endpoint.ok_or(DropReason::NoEndpoint)?;
        let counted = control.is_none();
        if peer.session.is_established() {
            seal(
                peer,
                packet,
                endpoint,
                &mut self.scratch,
                &mut self.transmits,
            );
            if counted {
                count_sent(peer, side, packet.len());
            }
            return Ok(());
        }
        if peer.hold(packet, counted) {
            self.drops.add(DropReason::HandshakeBacklog);
        }
        if let Some(len) = peer.session.initiate(false, &mut self.scratch) {
            self.transmits.push(endpoint, &self.scratch[..len]);
        }
        Ok(())
    }

    /// Sends what waited for the session, the library's own keepalives included.
    pub(super) fn after_handshake(&mut self, id: PeerId, endpoint: SocketAddr) {
        let side = self.config.side;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        while let Some(len) = peer.session.drain(&mut self.scratch) {
            self.transmits.push(endpoint, &self.scratch[..len]);
        }
        for pending in peer.take_pending() {
            seal(
                peer,
                &pending.packet,
                endpoint,
                &mut self.scratch,
                &mut self.transmits,
            );
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
        Side::Client { .. } => peer.usage.bytes_up += bytes as u64,
    }
}

/// Pads, encrypts and queues one packet.
fn seal(
    peer: &mut Peer,
    packet: &[u8],
    endpoint: SocketAddr,
    scratch: &mut [u8],
    transmits: &mut TransmitQueue,
) {
    let padded = padded_len(packet.len());
    scratch[..packet.len()].copy_from_slice(packet);
    scratch[packet.len()..padded].fill(0);
    let expected = padded + DATA_OVERHEAD;
    transmits.push_with(endpoint, expected, expected.max(MIN_BUFFER), |buffer| {
        peer.session.seal(&scratch[..padded], buffer)
    });
}
