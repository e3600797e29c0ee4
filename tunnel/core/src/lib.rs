//! The WireGuard data path of a lease as pure state machines.
//!
//! Nothing here opens a socket, reads a clock or starts a thread: time, datagrams and seeds are arguments, and
//! what has to be sent is taken out with `poll_transmit`. (One exception is inherited: the Noise library below
//! [`Device`] draws its ephemeral keys, and reads the calendar clock for the time stamps of its handshakes.)
//!
//! - [`Device`]: peers, sessions, routing, gates, usage, control datagrams.
//! - [`ExitPolicy`] and [`Matcher`]: which destinations an exit may open.
//! - [`KnownFlows`]: which packets that come back somebody asked for.
//! - [`Reflection`]: what a NAT shows of the socket.
//! - [`packet`]: reading and building inner IP packets.
//! - [`offload`]: cutting and joining the super-packets of a TUN interface.
//! - [`uapi`]: the text by which `wg` configures an interface.
//! - [`DropReason`]: why a packet went nowhere; its name is also the metric label.

mod control;
mod device;
mod drops;
mod ecn;
mod gate;
mod handshake_limits;
mod keys;
mod known_flows;
mod noise;
pub mod offload;
mod own_flows;
mod own_numbers;
pub mod packet;
mod peer;
mod policy;
mod reflection;
mod routes;
mod share;
mod transmit;
pub mod uapi;
mod usage;

pub use control::MAX_CONTROL_PAYLOAD;
pub use device::{
    AddPeerError, Arrived, Device, DeviceConfig, DeviceEvent, Inbound, PeerConfig, PeerId,
    PeerSettings, PeerStatus, Shard, Side, Transfer,
};
pub use drops::{DropCounts, DropReason};
pub use ecn::{Arrival, Ecn};
pub use gate::{Bucket, Gate, Limits, Rates};
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use keys::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use known_flows::KnownFlows;
pub use own_flows::{FlowProtocol, OwnFlow, OwnTraffic};
pub use policy::{
    DomainError, DomainList, DomainSet, DomainSetBuilder, ExitPolicy, Matcher, PolicyError,
    PortRange, Rule, RuleProtocol, Tier, is_public,
};
pub use reflection::{Reflected, Reflection};
pub use transmit::Transmit;
pub use usage::Usage;

/// Largest inner IP packet, in bytes: 1,500 less the outer IPv6, UDP and WireGuard headers.
pub const INNER_MTU: usize = 1420;

/// Bytes that an outer data datagram adds to its padded inner packet.
pub const DATA_OVERHEAD: usize = 32;
