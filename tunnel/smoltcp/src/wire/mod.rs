//! Low-level packet access and construction.
//!
//! A `Packet` reads and writes the fields of a header that lies in a sequence of octets. A `Repr` is a compact
//! representation of a header that can be parsed from and emitted into octets, where that is worth it.
//!
//! If `Packet::check_len` returned `Ok(())`, no accessor panics, until a field changes that the packet's documentation
//! names. Untrusted input has to go through `Packet::new_checked`, which calls it. Output must not: the check may
//! succeed on a zeroed buffer and fail on one that held another packet.
//!
//! `Repr::parse` does not panic for a packet that was checked, and `Repr::emit` does not if the buffer is
//! `Repr::buffer_len` octets long.
//!
//! ```
//! use smoltcp::wire::*;
//!
//! let repr = Ipv4Repr {
//!     src_addr: Ipv4Address::new(10, 0, 0, 1),
//!     dst_addr: Ipv4Address::new(10, 0, 0, 2),
//!     next_header: IpProtocol::Tcp,
//!     payload_len: 10,
//!     hop_limit: 64,
//! };
//! let mut buffer = vec![0; repr.buffer_len() + repr.payload_len];
//! repr.emit(
//!     &mut Ipv4Packet::new_unchecked(&mut buffer),
//!     &ChecksumCapabilities::default(),
//! );
//!
//! let packet = Ipv4Packet::new_checked(&buffer)?;
//! assert_eq!(Ipv4Repr::parse(&packet, &ChecksumCapabilities::default())?, repr);
//! # Ok::<(), smoltcp::wire::Error>(())
//! ```

use core::fmt;

mod checksum;
mod icmpv4;
mod icmpv6;
mod ip;
mod ipv4;
mod ipv6;
mod tcp;
mod udp;

pub use self::checksum::{Checksum, ChecksumCapabilities};
pub use self::icmpv4::{
    DstUnreachable as Icmpv4DstUnreachable, Message as Icmpv4Message, Packet as Icmpv4Packet,
};
pub use self::icmpv6::{
    DstUnreachable as Icmpv6DstUnreachable, Message as Icmpv6Message, Packet as Icmpv6Packet,
};
pub use self::ip::{
    Address as IpAddress, Endpoint as IpEndpoint, ListenEndpoint as IpListenEndpoint,
    Protocol as IpProtocol, Repr as IpRepr, Version as IpVersion,
};
pub use self::ipv4::{
    Address as Ipv4Address, HEADER_LEN as IPV4_HEADER_LEN, Packet as Ipv4Packet, Repr as Ipv4Repr,
};
pub use self::ipv6::{
    Address as Ipv6Address, HEADER_LEN as IPV6_HEADER_LEN, Packet as Ipv6Packet, Repr as Ipv6Repr,
};
pub use self::tcp::{
    Control as TcpControl, HEADER_LEN as TCP_HEADER_LEN, Packet as TcpPacket, Repr as TcpRepr,
    SeqNumber as TcpSeqNumber, TcpOption,
};
pub use self::udp::Packet as UdpPacket;

mod field {
    pub(super) type Field = ::core::ops::Range<usize>;
}

/// Parsing a packet failed: it is malformed, or not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error;

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed packet")
    }
}

/// What a parser returns.
pub type Result<T> = core::result::Result<T, Error>;
