//! What a device and its peers are made from.

use std::net::{Ipv4Addr, SocketAddr};

use ipnet::IpNet;

use crate::keys::{PresharedKey, PrivateKey, PublicKey};

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
