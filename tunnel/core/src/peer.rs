//! What a device keeps about one peer.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use ipnet::IpNet;

use crate::{
    control::ControlLimits,
    device::{PathMtu, PathProbe, PeerConfig, Transfer},
    gate::GateKeeper,
    keys::{PresharedKey, PublicKey},
    noise::{Identity, Session, SessionKeys},
    usage::Usage,
};

/// Inner packets that wait for a handshake, at most.
const MAX_PENDING: usize = 64;

pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) preshared_key: Option<PresharedKey>,
    pub(crate) keepalive: Option<u16>,
    pub(crate) index: u32,
    pub(crate) session: Session,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) allowed_ips: Vec<IpNet>,
    /// What the way to it is known to take.
    pub(crate) path_mtu: Option<PathMtu>,
    /// How that was found out last.
    pub(crate) path_probe: Option<PathProbe>,
    pub(crate) gate: GateKeeper,
    /// Its number in the device's shares.
    pub(crate) share: usize,
    pub(crate) control: ControlLimits,
    /// Where the other end sent its last control datagram from.
    pub(crate) control_port: u16,
    pub(crate) usage: Usage,
    pub(crate) transfer: Transfer,
    pub(crate) last_received: Option<Instant>,
    pub(crate) handshaked_at: Option<Instant>,
    /// A handshake that we answered, and whose initiator has not yet shown that it holds the keys.
    pub(crate) unconfirmed: bool,
    /// When its timers are moved next, if at all.
    pub(crate) wake_at: Option<Instant>,
    pending: VecDeque<Pending>,
}

/// An inner packet that waits for a session.
pub(crate) struct Pending {
    pub(crate) packet: Vec<u8>,
    /// Whether it will be part of usage.
    pub(crate) counted: bool,
}

impl Peer {
    pub(crate) fn new(
        config: &PeerConfig,
        index: u32,
        allowed_ips: Vec<IpNet>,
        (gate, share): (GateKeeper, usize),
        control_port: u16,
        now: Instant,
    ) -> Self {
        Self {
            key: config.public_key,
            preshared_key: config.preshared_key.clone(),
            keepalive: config.keepalive,
            index,
            session: Session::new(),
            endpoint: config.endpoint,
            allowed_ips,
            path_mtu: None,
            path_probe: None,
            gate,
            share,
            control: ControlLimits::new(now),
            control_port,
            usage: Usage::default(),
            transfer: Transfer::default(),
            last_received: None,
            handshaked_at: None,
            unconfirmed: false,
            wake_at: None,
            pending: VecDeque::new(),
        }
    }

    /// Makes the peer's session ready for a handshake.
    pub(crate) fn wake(&mut self, identity: &Identity, now: Instant) {
        let keys = SessionKeys {
            identity,
            peer: &self.key,
            preshared: self.preshared_key.as_ref(),
            keepalive: self.keepalive,
            index: self.index,
        };
        self.session.wake(&keys, now);
    }

    /// Sends to this outer address from now on. False if it did before.
    pub(crate) fn move_to(&mut self, endpoint: SocketAddr) -> bool {
        let moved = self.endpoint.replace(endpoint) != Some(endpoint);
        if moved {
            // Another way.
            (self.path_mtu, self.path_probe) = (None, None);
        }
        moved
    }

    /// The peer's own inner IPv4 address: its first allowed host address.
    pub(crate) fn inner_v4(&self) -> Option<Ipv4Addr> {
        self.allowed_ips.iter().find_map(|net| match net {
            IpNet::V4(net) if net.prefix_len() == 32 => Some(net.addr()),
            _ => None,
        })
    }

    /// Keeps a packet until a session exists. True if the oldest one had to give way: newer packets are worth more
    /// to whoever sent them.
    pub(crate) fn hold(&mut self, packet: &[u8], counted: bool) -> bool {
        let full = self.pending.len() >= MAX_PENDING;
        if full {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending {
            packet: packet.to_vec(),
            counted,
        });
        full
    }

    /// Takes the packets that waited for a session.
    pub(crate) fn take_pending(&mut self) -> VecDeque<Pending> {
        std::mem::take(&mut self.pending)
    }
}
