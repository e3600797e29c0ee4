//! What a device tells its embedder.

use std::{net::SocketAddr, time::Instant};

use super::PeerId;
use crate::{gate::Gate, usage::Usage};

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
    /// No datagram of WireGuard's but a STUN message, which anybody may have sent.
    Stun {
        /// From where it claims to come.
        from: SocketAddr,
        /// The datagram.
        message: &'b [u8],
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
