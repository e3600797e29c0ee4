//! The tunnel of a lease on a real machine: WireGuard over UDP sockets, an exit that ends the
//! peers' flows in ordinary sockets, a client that opens connections through it, and a local proxy on top.
//!
//! - [`Provider`] lends the address: an endpoint on its own thread, with a userspace exit or the kernel's.
//! - [`ClientTunnel`] uses it: connections are [`TunnelStream`]s, names are resolved at the far end.
//! - [`HostTunnel`] uses it for the host's own traffic, through an interface (Linux).
//! - [`BareDevice`] is a plain WireGuard interface on Linux, configured by `wg`.
//! - [`Proxy`] offers a client tunnel to local programs as SOCKS5 and HTTP proxy on one port.
//!
//! Everything that decides (sessions, gates, usage, exit policy) is in `ipsx-tunnel-core`.

// A shell crate: the clock and the system's randomness enter the tunnel here.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

#[cfg(target_os = "linux")]
mod bare;
mod client;
mod deadlines;
mod engine;
mod error;
mod exit;
#[cfg(target_os = "linux")]
mod host;
#[cfg(target_os = "linux")]
mod host_tunnel;
mod link;
#[cfg(target_os = "linux")]
pub mod nft;
mod provider;
mod proxy;
mod relays;
mod stack;
mod sys;
#[cfg(target_os = "linux")]
mod tool;
#[cfg(target_os = "linux")]
mod tun;
mod turns;
#[cfg(target_os = "linux")]
mod uapi_socket;
mod udp;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(target_os = "linux")]
pub use bare::{BareDevice, BareError, Workers};
pub use client::{
    ClientConfig, ClientEvent, ClientTunnel, ConnectError, Punch, ResolveError, TunnelStatus,
    TunnelStream, TunnelUdp,
};
pub use error::TunnelError;
#[cfg(target_os = "linux")]
pub use exit::kernel::{KernelExitConfig, KernelExitError, clean_up};
pub use exit::{Egress, EgressRange, ExitLimits, FlowEvent, FlowProtocol};
#[cfg(target_os = "linux")]
pub use host::{HostClaim, HostError, HostPlan, HostTraffic, MARK};
#[cfg(target_os = "linux")]
pub use host_tunnel::HostTunnel;
pub use ipsx_relay::Token as RelayToken;
pub use provider::{Provider, ProviderConfig, ProviderEvent};
pub use proxy::{Proxy, ProxyConfig, ProxyError};
pub use relays::{Relay, RelaySource};
#[cfg(target_os = "linux")]
pub use tool::ToolError;
#[cfg(target_os = "linux")]
pub use tun::{LONGEST_INTERFACE_NAME, TunError};
#[cfg(target_os = "linux")]
pub use uapi_socket::UapiSocketError;
#[cfg(target_os = "linux")]
pub use watch::Watch;

/// Gives back the memory that pages of the program's files take which only starting needed; what runs is mapped again as
/// it is reached. For programs that run for weeks, once they have started. Does nothing where the system offers no way.
pub fn forget_start() {
    #[cfg(target_os = "linux")]
    {
        let bytes = sys::unmap_read_only();
        tracing::debug!(bytes, "pages of files are mapped anew as they are reached");
    }
}
