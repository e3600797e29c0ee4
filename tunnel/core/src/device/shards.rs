//! One interface as several devices, each with some of its peers, for several threads.
//!
//! Every shard is told every change, in the same order, so all agree on who has which key and which inner addresses, and
//! give each peer the same id; the id says whose peer it is. What only the owner needs (sessions, counters, timers) is
//! only there. A session index says in its second byte whose it is, so that a socket filter can tell as well.

use std::time::Instant;

use ipnet::IpNet;

use super::{Device, DeviceConfig, Inbound, PeerId};
use crate::{
    drops::DropReason,
    ecn::{Arrival, Ecn},
    keys::PublicKey,
    packet,
};

/// Which part of an interface a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u8,
    count: u8,
}

/// What became of a datagram at one of several devices.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived<'b> {
    /// It was for this one; as [`Device::handle_datagram`] returns it.
    Here(Option<Inbound<'b>>),
    /// It is for the shard with this index: give it to that one's [`Device::handle_forwarded`].
    Elsewhere(usize),
}

/// A peer of another shard.
pub(super) struct Foreign {
    pub(super) key: PublicKey,
    pub(super) allowed_ips: Vec<IpNet>,
}

impl Shard {
    /// The only one.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Number `index`, from 0 on, of `count`; `None` if there is no such shard.
    pub fn new(index: u8, count: u8) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// Which one this is.
    pub fn index(self) -> usize {
        self.index.into()
    }

    fn of_id(self, id: PeerId) -> usize {
        usize::try_from(id.0 % u64::from(self.count)).unwrap_or(0)
    }

    /// The owner of a session, by the index in its datagrams: the second byte on the wire.
    fn of_session(self, index: u32) -> usize {
        usize::from(index.to_le_bytes()[1] % self.count)
    }

    /// A 24-bit number like `number`, by which sessions belong to this shard; none if it would get too large.
    pub(super) fn own_index(self, number: u32) -> Option<u32> {
        let [low, middle, high, _] = number.to_le_bytes();
        let low = (low - low % self.count).checked_add(self.index)?;
        Some(u32::from_le_bytes([low, middle, high, 0]))
    }
}

impl Device {
    /// One of several devices of one interface. Tell all of them the same changes in the same order.
    pub fn new_shard(config: DeviceConfig, seed: [u8; 32], now: Instant, shard: Shard) -> Self {
        let mut device = Self::new(config, seed, now);
        device.shard = shard;
        device
    }

    /// Whose peer an inner packet goes to. This one, if it goes to nobody: then it is counted here.
    pub fn shard_of_packet(&self, packet: &[u8]) -> usize {
        packet::addresses(packet)
            .ok()
            .and_then(|(_, destination)| self.routes.lookup(destination))
            .map_or(self.shard.index(), |id| self.shard.of_id(id))
    }

    /// Like [`handle_datagram`](Self::handle_datagram), where it may be another shard's.
    pub fn handle_sharded<'b>(
        &mut self,
        arrival: impl Into<Arrival>,
        datagram: &[u8],
        now: Instant,
        buffer: &'b mut [u8],
    ) -> Result<Arrived<'b>, DropReason> {
        let Arrival { from, ecn } = arrival.into();
        let opened = self.open(from, datagram, now, buffer);
        self.sort(opened, ecn, now, buffer)
    }

    /// Takes a datagram that another shard has found to be for this one. A handshake was counted there.
    pub fn handle_forwarded<'b>(
        &mut self,
        arrival: impl Into<Arrival>,
        datagram: &[u8],
        now: Instant,
        buffer: &'b mut [u8],
    ) -> Result<Arrived<'b>, DropReason> {
        let Arrival { from, ecn } = arrival.into();
        let opened = self.open_admitted(from, datagram, now, buffer);
        self.sort(opened, ecn, now, buffer)
    }

    fn sort<'b>(
        &mut self,
        opened: Result<Destination, DropReason>,
        outer: Ecn,
        now: Instant,
        buffer: &'b mut [u8],
    ) -> Result<Arrived<'b>, DropReason> {
        match opened {
            Ok(Destination::Nowhere) => Ok(Arrived::Here(None)),
            Ok(Destination::Tunnel(id, len)) => self
                .admit(id, &mut buffer[..len], outer, now)
                .map(|inbound| Arrived::Here(Some(inbound))),
            Ok(Destination::Shard(index)) => Ok(Arrived::Elsewhere(index)),
            Err(reason) => self.dropped_because(reason),
        }
    }

    /// The shard that a session's datagrams are for, if it is not this one.
    pub(super) fn other_shard(&self, index: u32) -> Option<usize> {
        let owner = self.shard.of_session(index);
        (owner != self.shard.index()).then_some(owner)
    }

    /// The shard that a peer is in, if it is not this one.
    pub(super) fn other_owner(&self, id: PeerId) -> Option<usize> {
        let owner = self.shard.of_id(id);
        (owner != self.shard.index()).then_some(owner)
    }

    /// The inner addresses of a peer of any shard.
    pub(super) fn allowed_ips_mut(&mut self, id: PeerId) -> Option<&mut Vec<IpNet>> {
        match self.peers.get_mut(&id) {
            Some(peer) => Some(&mut peer.allowed_ips),
            None => self
                .foreign
                .get_mut(&id)
                .map(|foreign| &mut foreign.allowed_ips),
        }
    }

    pub(super) fn remove_foreign(&mut self, id: PeerId) {
        if let Some(foreign) = self.foreign.remove(&id) {
            self.by_key.remove(&foreign.key);
            for net in foreign.allowed_ips {
                self.routes.remove(net);
            }
        }
    }
}

/// Where what was in a datagram goes.
pub(super) enum Destination {
    Nowhere,
    /// An inner packet of a peer, this long.
    Tunnel(PeerId, usize),
    /// The datagram is another shard's.
    Shard(usize),
}
