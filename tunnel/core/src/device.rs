//! The WireGuard device: every peer of one end of the tunnel, as a state machine.

mod inbound;
mod outbound;
mod path_mtu;
mod settings;
mod shards;
mod timers;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use ipnet::IpNet;
use rand::{Rng, SeedableRng, rngs::StdRng};

pub(crate) use path_mtu::{PathMtu, PathProbe};
pub use settings::PeerSettings;
use shards::Foreign;
pub use shards::{Arrived, Shard};

use crate::{
    DATA_OVERHEAD, INNER_MTU,
    drops::{DropCounts, DropReason},
    gate::{Direction, Gate, GateKeeper, Rates, Refused},
    keys::{PresharedKey, PrivateKey, PublicKey},
    noise::Identity,
    own_numbers::OwnNumbers,
    peer::Peer,
    routes::Routes,
    share::Share,
    transmit::{Transmit, TransmitQueue},
    usage::Usage,
};

/// Events kept for the embedder, at most.
const MAX_EVENTS: usize = 4096;

/// Longest packet of a plain interface: with its overhead it fits one UDP datagram.
const LONGEST_BARE: usize = 65_000;

/// Which end of a lease a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Lends the address: what it receives is upload.
    Provider,
    /// Uses the address: what it receives is download.
    Client {
        /// The client's own inner IPv4 address.
        inner_v4: Ipv4Addr,
    },
    /// Neither: a plain WireGuard interface. Gates are open, and there are no control datagrams.
    Bare,
}

/// A device's own settings.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// This end's key.
    pub private_key: PrivateKey,
    /// Which end this is.
    pub side: Side,
    /// The gateway's inner IPv4 address, the provider's end of control datagrams.
    pub gateway_v4: Ipv4Addr,
    /// UDP port of control datagrams at the gateway.
    pub control_port: u16,
}

impl DeviceConfig {
    /// A plain WireGuard interface.
    pub fn bare(private_key: PrivateKey) -> Self {
        Self {
            private_key,
            side: Side::Bare,
            gateway_v4: Ipv4Addr::UNSPECIFIED,
            control_port: 0,
        }
    }
}

/// A peer's settings.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// The peer's key.
    pub public_key: PublicKey,
    /// Key mixed into the handshake, if the two ends share one.
    pub preshared_key: Option<PresharedKey>,
    /// Where the peer listens, if known; learned from authentic datagrams else.
    pub endpoint: Option<SocketAddr>,
    /// Inner addresses that the peer may use. The first IPv4 host address is the one control datagrams go to.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives, if any are wanted.
    pub keepalive: Option<u16>,
}

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

/// Something the embedder may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A handshake is complete: both ends hold the keys.
    Handshaked {
        /// With whom.
        peer: PeerId,
        /// From where.
        endpoint: SocketAddr,
    },
    /// An authentic datagram came from a new outer address, which is used from now on.
    Roamed {
        /// Who moved.
        peer: PeerId,
        /// To where.
        endpoint: SocketAddr,
    },
}

/// What came out of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound<'b> {
    /// An inner IP packet whose source the peer may use, and that passed the gate. Report it with
    /// [`Device::count_received`] once it was delivered.
    Packet {
        /// Who sent it.
        peer: PeerId,
        /// The packet.
        packet: &'b [u8],
    },
    /// The payload of a control datagram.
    Control {
        /// Who sent it.
        peer: PeerId,
        /// The opaque bytes.
        payload: &'b [u8],
    },
}

/// How a peer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer's outer address, if known.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake completed.
    pub handshaked_at: Option<Instant>,
    /// When the last authentic datagram came.
    pub last_received: Option<Instant>,
    /// Whether data can be sent without a new handshake.
    pub established: bool,
    /// What data may do.
    pub gate: Gate,
    /// What has been moved.
    pub usage: Usage,
}

/// Outer bytes of one peer: handshakes, keepalives and data with their headers, without UDP and IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Authentic bytes that came.
    pub received: u64,
    /// Bytes that were written for the peer.
    pub sent: u64,
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

    /// Changes what a peer's data may do; a new throttle starts with a full burst. False for an unknown peer.
    pub fn set_gate(&mut self, id: PeerId, gate: Gate, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        peer.gate.set(gate, self.config.side, now);
        true
    }

    /// Limits what all peers together may send and receive. When they want more, each gets its share by weight; what
    /// one does not use is for the others.
    pub fn set_capacity(&mut self, rates: Rates, now: Instant) {
        let (inbound, outbound) = rates.of(self.config.side);
        match &mut self.shares {
            Some(shares) => {
                shares.inbound.set_rate(inbound, now);
                shares.outbound.set_rate(outbound, now);
            }
            None => {
                let mut shares = Shares {
                    inbound: Share::new(inbound, now),
                    outbound: Share::new(outbound, now),
                };
                for peer in self.peers.values_mut() {
                    peer.share = shares.join();
                }
                self.shares = Some(shares);
            }
        }
    }

    /// Weights of a peer's shares; all peers start with the smallest. Of no effect before
    /// [`set_capacity`](Self::set_capacity). False for an unknown peer.
    pub fn set_weights(&mut self, id: PeerId, weights: Rates) -> bool {
        let Some(peer) = self.peers.get(&id) else {
            return false;
        };
        if let Some(shares) = &mut self.shares {
            let (inbound, outbound) = weights.of(self.config.side);
            shares.inbound.set_weight(peer.share, inbound);
            shares.outbound.set_weight(peer.share, outbound);
        }
        true
    }

    /// Bytes of packets to a peer that would pass its gate and its share now; a sender that waits when there are few
    /// loses nothing. `u64::MAX` without limits, and behind a closed gate, where waiting does not help.
    pub fn room(&mut self, id: PeerId, now: Instant) -> u64 {
        let Some(peer) = self.peers.get_mut(&id) else {
            return u64::MAX;
        };
        let gate = match peer.gate.gate() {
            Gate::Closed => return u64::MAX,
            Gate::Open => u64::MAX,
            Gate::Limited(limits) => limits.byte_limit.saturating_sub(peer.usage.bytes()),
        };
        let share = self.shares.as_mut().map_or(u64::MAX, |shares| {
            shares.outbound.room(peer.share, u64::MAX, now)
        });
        gate.min(share)
            .min(peer.gate.room(Direction::Outbound, now))
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

/// Both directions of a device whose peers share what it carries.
struct Shares {
    inbound: Share,
    outbound: Share,
}

impl Shares {
    /// Adds a peer; it has the same number in both.
    fn join(&mut self) -> usize {
        let number = self.inbound.join(1);
        let same = self.outbound.join(1);
        debug_assert_eq!(number, same, "both see the same peers come and go");
        number
    }

    fn leave(&mut self, number: usize) {
        self.inbound.leave(number);
        self.outbound.leave(number);
    }
}

/// Lets a data packet through a peer's gate and shares.
fn pass(
    peer: &mut Peer,
    shares: &mut Option<Shares>,
    direction: Direction,
    bytes: usize,
    now: Instant,
) -> Result<(), Refused> {
    let (number, used) = (peer.share, peer.usage.bytes());
    let share = |bytes| match (shares, direction) {
        (None, _) => true,
        (Some(shares), Direction::Inbound) => shares.inbound.take(number, bytes, now),
        (Some(shares), Direction::Outbound) => shares.outbound.take(number, bytes, now),
    };
    peer.gate.pass(direction, bytes, used, share, now)
}

#[cfg(test)]
mod tests;
