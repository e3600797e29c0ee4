//! The arithmetic of virtio-net offloads: one read or write of a TUN interface carries up to 64 kB.
//!
//! [`Segments`] cuts what the kernel left uncut (TSO, USO) into packets of the interface's MTU; [`Merger`] joins
//! consecutive packets of a flow, so that the kernel's stack sees one instead of dozens (GRO). Neither allocates per
//! packet. The header in front of each packet is `struct virtio_net_hdr` of linux/virtio_net.h in the machine's own
//! byte order, as TUN interfaces use it.

mod checksum;
mod header;
mod merge;
mod shape;
mod split;

pub use header::{Gso, OFFLOAD_HEADER_LEN, OffloadError, OffloadHeader};
pub use merge::{Merged, Merger};
pub use split::Segments;

/// Largest IP packet, and with it the largest super-packet.
pub const MAX_IP_PACKET: usize = 65_535;

/// IP protocol number of TCP.
const TCP: u8 = 6;

/// IP protocol number of UDP.
const UDP: u8 = 17;

/// Where the checksum is in a TCP header.
const TCP_CHECKSUM: usize = 16;

/// Where the checksum is in a UDP header.
const UDP_CHECKSUM: usize = 6;

/// Where the flags are in a TCP header.
const TCP_FLAGS: usize = 13;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn write_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;
