//! The text that configures a userspace WireGuard interface, as `wg` speaks it over a Unix socket (the
//! cross-platform userspace interface of the WireGuard project).
//!
//! A request is lines up to an empty one: `get=1`, or `set=1` and changes. The response is lines, `errno=N` last, and
//! an empty one. Keys are in hexadecimal.

mod parse;
mod respond;

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::keys::{PresharedKey, PrivateKey, PublicKey};

pub use parse::UapiError;
pub use respond::{InterfaceSettings, describe_peers, respond_done, respond_get, respond_watch};

/// Longest request, in bytes: ten thousand peers fit.
pub const MAX_REQUEST: usize = 4 << 20;

/// The error number of a request that is not permitted.
pub const NOT_PERMITTED: i32 = 1;

/// What is asked.
#[derive(Debug, Clone)]
pub enum Request {
    /// All settings and counters.
    Get,
    /// Changes, to be made in order.
    Set(InterfaceUpdate),
}

/// Changes of an interface.
#[derive(Debug, Clone, Default)]
pub struct InterfaceUpdate {
    /// Another private key; inner `None` takes it away.
    pub private_key: Option<Option<PrivateKey>>,
    /// Another port to listen on; 0 lets the system choose.
    pub listen_port: Option<u16>,
    /// Another mark on outer packets; 0 for none.
    pub fwmark: Option<u32>,
    /// Remove all peers first.
    pub replace_peers: bool,
    /// Changes of peers.
    pub peers: Vec<PeerUpdate>,
}

/// Changes of one peer, which is made if it does not exist.
#[derive(Debug, Clone)]
pub struct PeerUpdate {
    /// Whose.
    pub public_key: PublicKey,
    /// Remove the peer.
    pub remove: bool,
    /// Do nothing if the peer does not exist.
    pub update_only: bool,
    /// Another key mixed into handshakes; inner `None` takes it away.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// Another outer address.
    pub endpoint: Option<SocketAddr>,
    /// Other seconds between keepalives; 0 for none.
    pub keepalive: Option<u16>,
    /// Take all inner addresses first.
    pub replace_allowed_ips: bool,
    /// Inner addresses given, or taken.
    pub allowed_ips: Vec<AllowedIpChange>,
}

/// Inner addresses that a peer gets or loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedIpChange {
    /// The peer may use these, and nobody else who had exactly these.
    Allow(IpNet),
    /// The peer may no longer use these.
    Disallow(IpNet),
}

impl PeerUpdate {
    fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
