//! The header that a TUN interface with `IFF_VNET_HDR` puts before every packet.

/// Length of the header, in bytes.
pub const OFFLOAD_HEADER_LEN: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What kind of super-packet follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// An ordinary packet.
    #[default]
    None,
    /// TCP over IPv4, to be cut.
    TcpV4,
    /// TCP over IPv6, to be cut.
    TcpV6,
    /// UDP over either, every datagram of the same length but the last (USO).
    Udp,
}

/// Why a packet with its header can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    /// The header's kind is none that was asked for.
    #[error("super-packet of kind {0:#x}, which this interface was not asked to give")]
    Kind(u8),
    /// The packet is shorter than its headers say.
    #[error("packet of {0} bytes, which is shorter than its headers say")]
    Short(usize),
    /// Header and packet do not agree on what the packet is.
    #[error("the packet is not of the kind, or has no checksum where, its offload header says")]
    Mismatch,
}

/// `struct virtio_net_hdr`, less what only the kernel needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OffloadHeader {
    /// The transport checksum holds the pseudo-header's sum only and is yet to be finished.
    pub needs_checksum: bool,
    /// What follows.
    pub gso: Gso,
    /// Bytes of IP and transport header; a hint, never relied upon here.
    pub header_len: u16,
    /// Transport payload per segment, in bytes.
    pub segment_size: u16,
    /// Where in the packet the checksummed part starts.
    pub checksum_start: u16,
    /// Where in the checksummed part the checksum is.
    pub checksum_offset: u16,
}

impl OffloadHeader {
    /// Reads a header.
    pub fn from_bytes(bytes: &[u8; OFFLOAD_HEADER_LEN]) -> Result<Self, OffloadError> {
        let gso = match bytes[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCP_V4 => Gso::TcpV4,
            GSO_TCP_V6 => Gso::TcpV6,
            GSO_UDP => Gso::Udp,
            other => return Err(OffloadError::Kind(other)),
        };
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Ok(Self {
            needs_checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            gso,
            header_len: field(2),
            segment_size: field(4),
            checksum_start: field(6),
            checksum_offset: field(8),
        })
    }

    /// The header as the interface takes it.
    pub fn to_bytes(self) -> [u8; OFFLOAD_HEADER_LEN] {
        let kind = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCP_V4,
            Gso::TcpV6 => GSO_TCP_V6,
            Gso::Udp => GSO_UDP,
        };
        let mut bytes = [0; OFFLOAD_HEADER_LEN];
        bytes[0] = if self.needs_checksum {
            NEEDS_CHECKSUM
        } else {
            0
        };
        bytes[1] = kind;
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }
}
