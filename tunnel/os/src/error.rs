//! What can go wrong with a tunnel end as a whole.

use std::{io, net::SocketAddr, time::Duration};

use ipsx_tunnel_core::AddPeerError;

/// A tunnel end could not start or is gone.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The outer UDP socket could not be opened.
    #[error(
        "cannot listen for WireGuard on UDP {address}: {source}; choose a free port and an address of this host"
    )]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The event loop could not be set up.
    #[error("cannot start the tunnel's event loop: {0}")]
    Start(#[source] io::Error),
    /// The kernel exit could not be set up, or not be changed for a peer.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    KernelExit(#[from] crate::exit::kernel::KernelExitError),
    /// The system gave no randomness.
    #[error("the system's random source failed: {0}")]
    Random(#[from] rand::Error),
    /// The outer socket's datagrams could not be marked.
    #[cfg(target_os = "linux")]
    #[error(
        "cannot mark the tunnel's own datagrams: {0}; that needs the capability CAP_NET_ADMIN: run this as root"
    )]
    Mark(#[source] io::Error),
    /// The interface could not be made.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Interface(#[from] crate::tun::TunError),
    /// The peer was not added.
    #[error(transparent)]
    AddPeer(#[from] AddPeerError),
    /// The provider did not answer the handshake.
    #[error(
        "no handshake with {endpoint} within {after:?}: check its address, its key, and that UDP gets through"
    )]
    HandshakeTimeout {
        /// Whom we called.
        endpoint: SocketAddr,
        /// How long we waited.
        after: Duration,
    },
    /// The provider is behind a NAT, and did not answer the handshake.
    #[error(
        "no handshake with {endpoint} within {after:?}: the provider is behind a NAT, and no way through it was found{}",
        no_relay(.relay.as_deref())
    )]
    NotPunched {
        /// Whom we called.
        endpoint: SocketAddr,
        /// How long we waited.
        after: Duration,
        /// Why not by a relay, if one was asked for.
        relay: Option<String>,
    },
    /// The echo to the gateway was not answered.
    #[error("the tunnel's gateway did not answer an echo within {0:?}")]
    EchoTimeout(Duration),
    /// The control datagram is too large.
    #[error("a control datagram holds at most {max} bytes, not {len}")]
    ControlSize {
        /// What was given.
        len: usize,
        /// What fits.
        max: usize,
    },
    /// The tunnel has been shut down.
    #[error("the tunnel has been shut down")]
    Stopped,
}

/// Why a relay was not the way out.
fn no_relay(reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!(", nor by a relay: {reason}"),
        None => "; from behind a NAT that shows each destination another port (a symmetric one) there is none".into(),
    }
}
