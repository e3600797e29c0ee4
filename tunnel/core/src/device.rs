//! The WireGuard device: every peer of one end of the tunnel, as a state machine.

mod config;
mod following;
mod inbound;
mod limits;
mod outbound;
mod path_mtu;
mod report;
mod settings;
mod shards;
mod timers;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use ipnet::IpNet;
use rand::{Rng, SeedableRng, rngs::StdRng};

pub use config::{DeviceConfig, PeerConfig, Side};
use limits::{Shares, pass};
pub(crate) use path_mtu::{PathMtu, PathProbe};
pub use report::{DeviceEvent, Inbound, PeerStatus, Transfer};
pub use settings::PeerSettings;
use shards::Foreign;
pub use shards::{Arrived, Shard};

use crate::{
    DATA_OVERHEAD, INNER_MTU,
    drops::{DropCounts, DropReason},
    gate::{Gate, GateKeeper},
    keys::PublicKey,
    noise::Identity,
    own_flows::OwnFlows,
    own_numbers::OwnNumbers,
    peer::Peer,
    routes::Routes,
    transmit::{Transmit, TransmitQueue},
    usage::Usage,
};

/// Events kept for the embedder, at most.
const MAX_EVENTS: usize = 4096;

/// Longest packet of a plain interface: with its overhead it fits one UDP datagram.
const LONGEST_BARE: usize = 65_000;

/// Names a peer of one device; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u64);

impl std::fmt::Display for PeerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "peer {}", self.0)
    }
}

/// Why a peer was not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddPeerError {
    /// The key belongs to a peer already.
    #[error("public key {0} belongs to a peer of this device already; remove that peer first")]
    DuplicateKey(PublicKey),
    /// The key is the device's own.
    #[error("public key {0} is this device's own; give the key of the other end")]
    OwnKey(PublicKey),
    /// An address belongs to another peer already.
    #[error("inner address {0} belongs to another peer of this device; choose one that is free")]
    AddressTaken(IpNet),
}

/// One end of the tunnel with all its peers.
///
/// Feed it with the `handle_*` methods; after each batch take out [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event), and call [`handle_timeout`](Self::handle_timeout) at
/// [`poll_timeout`](Self::poll_timeout).
pub struct Device {
    config: DeviceConfig,
    public_key: PublicKey,
    identity: Identity,
    rng: StdRng,
    peers: HashMap<PeerId, Peer, OwnNumbers>,
    by_key: HashMap<PublicKey, PeerId>,
    /// The upper 24 bits of a session index.
    by_index: HashMap<u32, PeerId, OwnNumbers>,
    routes: Routes<PeerId>,
    shard: Shard,
    /// Peers of the other shards: those that are no peers here.
    foreign: HashMap<PeerId, Foreign, OwnNumbers>,
    /// What all peers together may send us and get from us, if that is limited.
    shares: Option<Shares>,
    /// Whether the way to some peer was ever too narrow for a datagram.
    narrow_paths: bool,
    next_id: u64,
    transmits: TransmitQueue,
    events: VecDeque<DeviceEvent>,
    drops: DropCounts,
    scratch: Vec<u8>,
    packet: Vec<u8>,
    /// Packets are not padded past this length.
    mtu: usize,
    /// Longer packets are refused.
    longest: usize,
    /// What a client does, if somebody wants to know.
    own_flows: Option<Box<OwnFlows>>,
    /// Which peers' timers have to be moved when; a peer that is away is not among them.
    wake_ups: BTreeSet<(Instant, PeerId)>,
}

impl Device {
    /// A device without peers. `seed` must come from the system's randomness.
    pub fn new(config: DeviceConfig, seed: [u8; 32], now: Instant) -> Self {
        let identity = Identity::new(&config.private_key, now);
        let longest = match config.side {
            Side::Bare => LONGEST_BARE,
            Side::Provider | Side::Client { .. } => INNER_MTU,
        };
        Self {
            public_key: config.private_key.public_key(),
            identity,
            config,
            rng: StdRng::from_seed(seed),
            peers: HashMap::default(),
            by_key: HashMap::new(),
            by_index: HashMap::default(),
            routes: Routes::new(),
            shard: Shard::WHOLE,
            foreign: HashMap::default(),
            shares: None,
            narrow_paths: false,
            next_id: 1,
            transmits: TransmitQueue::new(),
            events: VecDeque::new(),
            drops: DropCounts::default(),
            scratch: vec![0; longest + DATA_OVERHEAD + 16],
            packet: Vec::with_capacity(INNER_MTU),
            mtu: INNER_MTU,
            longest,
            own_flows: None,
            wake_ups: BTreeSet::new(),
        }
    }

    /// This end's public key.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Adds a peer with a closed gate on a provider, an open one else.
    pub fn add_peer(&mut self, config: PeerConfig, now: Instant) -> Result<PeerId, AddPeerError> {
        if config.public_key == self.public_key {
            return Err(AddPeerError::OwnKey(config.public_key));
        }
        if self.by_key.contains_key(&config.public_key) {
            return Err(AddPeerError::DuplicateKey(config.public_key));
        }
        let allowed_ips: Vec<IpNet> = config.allowed_ips.iter().map(IpNet::trunc).collect();
        if let Some(&taken) = allowed_ips
            .iter()
            .find(|&&net| self.routes.owner(net).is_some())
        {
            return Err(AddPeerError::AddressTaken(taken));
        }
        let id = PeerId(self.next_id);
        self.next_id += 1;
        for &net in &allowed_ips {
            self.routes.insert(net, id);
        }
        self.by_key.insert(config.public_key, id);
        if self.other_owner(id).is_some() {
            let key = config.public_key;
            self.foreign.insert(id, Foreign { key, allowed_ips });
            return Ok(id);
        }
        let index = self.free_index();
        let gate = match self.config.side {
            Side::Provider => Gate::Closed,
            Side::Client { .. } | Side::Bare => Gate::Open,
        };
        self.by_index.insert(index, id);
        let share = self.shares.as_mut().map_or(0, Shares::join);
        let peer = Peer::new(
            &config,
            index,
            allowed_ips,
            (GateKeeper::new(gate, self.config.side, now), share),
            self.config.control_port,
            now,
        );
        self.peers.insert(id, peer);
        if config.keepalive.is_some() {
            self.keep_alive(id, now);
        }
        Ok(id)
    }

    /// Forgets a peer and its keys; returns what it had moved.
    pub fn remove_peer(&mut self, id: PeerId) -> Option<Usage> {
        let Some(peer) = self.peers.remove(&id) else {
            self.remove_foreign(id);
            return None;
        };
        self.by_key.remove(&peer.key);
        self.by_index.remove(&peer.index);
        if let Some(at) = peer.wake_at {
            self.wake_ups.remove(&(at, id));
        }
        for net in peer.allowed_ips {
            self.routes.remove(net);
        }
        if let Some(shares) = &mut self.shares {
            shares.leave(peer.share);
        }
        Some(peer.usage)
    }

    /// What a peer has moved so far.
    pub fn usage(&self, id: PeerId) -> Option<Usage> {
        self.peers.get(&id).map(|peer| peer.usage)
    }

    /// How a peer is doing.
    pub fn status(&self, id: PeerId) -> Option<PeerStatus> {
        self.peers.get(&id).map(|peer| PeerStatus {
            endpoint: peer.endpoint,
            handshaked_at: peer.handshaked_at,
            last_received: peer.last_received,
            established: peer.session.is_established(),
            gate: peer.gate.gate(),
            usage: peer.usage,
        })
    }

    /// The peer that has this key.
    pub fn peer_by_key(&self, key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(key).copied()
    }

    /// Adds a delivered packet to a peer's usage: upload on a provider, download on a client.
    pub fn count_received(&mut self, id: PeerId, bytes: usize) {
        let side = self.config.side;
        if let Some(peer) = self.peers.get_mut(&id) {
            match side {
                Side::Provider => peer.usage.bytes_up += bytes as u64,
                Side::Client { .. } | Side::Bare => peer.usage.bytes_down += bytes as u64,
            }
        }
    }

    /// Sends a datagram that is none of WireGuard's from the same socket: a STUN message.
    pub fn send_stun(&mut self, destination: SocketAddr, message: &[u8]) {
        self.transmits.push(destination, message);
    }

    /// The next batch of datagrams to send; give its buffer back with [`recycle`](Self::recycle).
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop()
    }

    /// Takes back the buffer of a batch that was sent.
    pub fn recycle(&mut self, transmit: Transmit) {
        self.transmits.recycle(transmit);
    }

    /// Bytes that wait in [`poll_transmit`](Self::poll_transmit): stop making packets when they pile up.
    pub fn transmit_backlog(&self) -> usize {
        self.transmits.bytes()
    }

    /// Limits how many datagrams a batch holds, to what the socket can send at once.
    pub fn set_max_segments(&mut self, segments: usize) {
        self.transmits.set_max_segments(segments);
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DeviceEvent> {
        self.events.pop_front()
    }

    /// What the device itself has dropped.
    pub fn dropped(&self) -> &DropCounts {
        &self.drops
    }

    fn free_index(&mut self) -> u32 {
        loop {
            let index = self.shard.own_index(self.rng.r#gen::<u32>() >> 8);
            if let Some(index) = index.filter(|index| !self.by_index.contains_key(index)) {
                return index;
            }
        }
    }

    fn event(&mut self, event: DeviceEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    fn dropped_because<T>(&mut self, reason: DropReason) -> Result<T, DropReason> {
        self.drops.add(reason);
        Err(reason)
    }
}

#[cfg(test)]
mod tests;
