//! From the network into the tunnel.

use std::{net::SocketAddr, time::Instant};

use super::{Device, DeviceEvent, Inbound, PeerId, Side, pass, shards::Destination};
use crate::{
    drops::DropReason,
    ecn::{self, Arrival, Ecn},
    gate::{Direction, Refused},
    noise::{self, Admission, Kind, MIN_BUFFER, Opened},
    packet,
};

impl Device {
    /// Takes one datagram from the network. `buffer` receives what was inside: it must be at least as long as the
    /// datagram and 148 bytes. Handshake messages, keepalives and cookies leave nothing to deliver. A STUN message is
    /// handed on as it is, but for a plain interface.
    ///
    /// A refused datagram is counted in [`dropped`](Self::dropped) before its reason is returned.
    pub fn handle_datagram<'b>(
        &mut self,
        arrival: impl Into<Arrival>,
        datagram: &[u8],
        now: Instant,
        buffer: &'b mut [u8],
    ) -> Result<Option<Inbound<'b>>, DropReason> {
        let Arrival { from, ecn } = arrival.into();
        match self.open(from, datagram, now, buffer) {
            Ok(Destination::Nowhere) => Ok(None),
            Ok(Destination::Tunnel(id, len)) => {
                self.admit(id, &mut buffer[..len], ecn, now).map(Some)
            }
            Ok(Destination::Shard(_)) => self.dropped_because(DropReason::UnknownPeer),
            Err(DropReason::NotWireGuard) if self.may_be_behind_a_nat(datagram) => {
                let message = &mut buffer[..datagram.len()];
                message.copy_from_slice(datagram);
                Ok(Some(Inbound::Stun { from, message }))
            }
            Err(reason) => self.dropped_because(reason),
        }
    }

    /// Whether a datagram that is none of WireGuard's tells what a NAT shows of this end of a lease.
    fn may_be_behind_a_nat(&self, datagram: &[u8]) -> bool {
        self.config.side != Side::Bare && ipsx_stun::is_stun(datagram)
    }

    /// Authenticates and decrypts; answers handshakes.
    pub(super) fn open(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        buffer: &mut [u8],
    ) -> Result<Destination, DropReason> {
        if buffer.len() < datagram.len().max(MIN_BUFFER) {
            return Err(DropReason::Oversize);
        }
        let kind = noise::classify(datagram).ok_or(DropReason::NotWireGuard)?;
        if let Kind::Response { index } | Kind::Cookie { index } | Kind::Data { index } = kind
            && let Some(shard) = self.other_shard(index)
        {
            return Ok(Destination::Shard(shard));
        }
        if matches!(kind, Kind::Initiation | Kind::Response { .. })
            && !self.admit_handshake(from, datagram, now, buffer)?
        {
            return Ok(Destination::Nowhere);
        }
        self.open_as(kind, from, datagram, now, buffer)
    }

    /// Like [`open`](Self::open), for what another shard has admitted. Answers to our own handshakes are counted where
    /// they belong.
    pub(super) fn open_admitted(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        buffer: &mut [u8],
    ) -> Result<Destination, DropReason> {
        match noise::classify(datagram) {
            Some(Kind::Initiation) if buffer.len() >= datagram.len().max(MIN_BUFFER) => {
                self.open_as(Kind::Initiation, from, datagram, now, buffer)
            }
            _ => self.open(from, datagram, now, buffer),
        }
    }

    fn open_as(
        &mut self,
        kind: Kind,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        buffer: &mut [u8],
    ) -> Result<Destination, DropReason> {
        let id = self.addressee(kind, datagram)?;
        if kind == Kind::Initiation {
            self.identity.remember(from.ip(), now);
        }
        if let Some(shard) = self.other_owner(id) {
            return Ok(Destination::Shard(shard));
        }
        let peer = self.peers.get_mut(&id).ok_or(DropReason::UnknownPeer)?;
        if kind == Kind::Initiation {
            peer.wake(&self.identity, now);
        } else {
            peer.session.set_time(now);
        }
        let opened = match peer.session.open(from.ip(), datagram, buffer) {
            Ok(opened) => opened,
            Err(reason) => {
                if kind == Kind::Initiation {
                    // Whoever woke the session with nothing in hand: it is put aside again.
                    self.touch(id, now);
                }
                return Err(reason);
            }
        };
        peer.transfer.received += datagram.len() as u64;
        if let Opened::Reply(len) = opened {
            peer.transfer.sent += len as u64;
        }
        if let Kind::Cookie { .. } = kind {
            return Ok(Destination::Nowhere);
        }
        peer.last_received = Some(now);
        let roamed = peer.move_to(from);
        let handshaked = match kind {
            Kind::Initiation => {
                peer.unconfirmed = true;
                false
            }
            Kind::Response { .. } => {
                peer.unconfirmed = false;
                true
            }
            _ => std::mem::take(&mut peer.unconfirmed),
        };
        if handshaked {
            peer.handshaked_at = Some(now);
            self.event(DeviceEvent::Handshaked {
                peer: id,
                endpoint: from,
            });
        } else if roamed && kind != Kind::Initiation {
            self.event(DeviceEvent::Roamed {
                peer: id,
                endpoint: from,
            });
        }
        let packet = match opened {
            Opened::Packet(len) => Destination::Tunnel(id, len),
            Opened::Reply(len) => {
                self.transmits.push(from, &buffer[..len]);
                Destination::Nowhere
            }
            Opened::Nothing => Destination::Nowhere,
        };
        if handshaked {
            self.after_handshake(id, from, now);
        }
        self.touch(id, now);
        Ok(packet)
    }

    /// Whether a handshake message may go on; too many are first asked to prove their address.
    fn admit_handshake(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        buffer: &mut [u8],
    ) -> Result<bool, DropReason> {
        match self.identity.admit(from.ip(), datagram, buffer, now) {
            Admission::Pass => Ok(true),
            Admission::Challenge(len) => {
                self.transmits.push(from, &buffer[..len]);
                Ok(false)
            }
            Admission::Refuse(reason) => Err(reason),
        }
    }

    fn addressee(&self, kind: Kind, datagram: &[u8]) -> Result<PeerId, DropReason> {
        let found = match kind {
            Kind::Initiation => {
                let key = self
                    .identity
                    .initiator(datagram)
                    .ok_or(DropReason::BadHandshake)?;
                self.by_key.get(&key)
            }
            Kind::Response { index } | Kind::Cookie { index } | Kind::Data { index } => {
                self.by_index.get(&(index >> 8))
            }
        };
        found.copied().ok_or(DropReason::UnknownPeer)
    }

    /// Checks who may have sent a decrypted packet and whether it passes the gate.
    pub(super) fn admit<'b>(
        &mut self,
        id: PeerId,
        packet: &'b mut [u8],
        outer: Ecn,
        now: Instant,
    ) -> Result<Inbound<'b>, DropReason> {
        let source = match packet::addresses(packet) {
            Ok((source, _)) => source,
            Err(reason) => return self.dropped_because(reason),
        };
        if self.routes.lookup(source) != Some(id) {
            return self.dropped_because(DropReason::SpoofedSource);
        }
        if ecn::decapsulate(packet, outer).is_err() {
            return self.dropped_because(DropReason::CongestionMark);
        }
        let packet = &*packet;
        let to_gateway = self.config.side == Side::Provider;
        let found = self.find_control(packet, to_gateway);
        let Some(peer) = self.peers.get_mut(&id) else {
            return self.dropped_because(DropReason::UnknownPeer);
        };
        let passed = match &found {
            Some(control) => {
                let passed = peer.control.pass_inbound(control.payload.len(), now);
                if to_gateway && passed.is_ok() {
                    peer.control_port = control.source_port;
                }
                passed
            }
            None => pass(
                peer,
                &mut self.shares,
                Direction::Inbound,
                packet.len(),
                now,
            )
            .map_err(DropReason::from),
        };
        match (passed, found) {
            (Err(reason), _) => self.dropped_because(reason),
            (Ok(()), Some(control)) => Ok(Inbound::Control {
                peer: id,
                payload: &packet[control.payload],
            }),
            (Ok(()), None) => Ok(Inbound::Packet { peer: id, packet }),
        }
    }
}

impl From<Refused> for DropReason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Closed => Self::GateClosed,
            Refused::Throttled => Self::Throttled,
            Refused::Credit => Self::ByteCredit,
            Refused::Capacity => Self::Capacity,
        }
    }
}
