//! Where the peers' packets meet the internet.
//!
//! [`Exit`] is what a provider needs; [`UserspaceExit`] does it without privileges, by ending every flow in an
//! ordinary socket. [`KernelExit`] gives the packets to the kernel, which forwards and translates them.

mod dns;
mod flow_log;
mod gateway;
#[cfg(target_os = "linux")]
pub(crate) mod kernel;
mod tcp;
mod udp;
mod userspace;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use ipsx_tunnel_core::{DropReason, ExitPolicy, IpNet, PeerId};
use mio::event::Event;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

pub(crate) use crate::engine::Context;
pub use flow_log::FlowEvent;
pub(crate) use flow_log::{FlowLog, LoggedFlow};
pub(crate) use gateway::GatewayConfig;
pub use ipsx_tunnel_core::FlowProtocol;
#[cfg(target_os = "linux")]
pub(crate) use kernel::KernelExit;
pub(crate) use userspace::{ExitConfig, UserspaceExit};

/// Delivers inner packets to the internet and brings back what answers.
pub(crate) trait Exit: Send + 'static {
    /// Takes a packet that the peer may send. `Ok` means that it was delivered, and it is then paid for.
    fn handle_packet(
        &mut self,
        peer: PeerId,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason>;

    /// Takes the readiness of one of the exit's sockets.
    fn handle_io(&mut self, event: &Event, cx: &mut Context<'_>);

    /// Looks after every flow whose time has come.
    fn handle_timeout(&mut self, cx: &mut Context<'_>);

    /// When `handle_timeout` is wanted next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Moves flows on by a bounded amount; true if some could go on at once.
    fn service(&mut self, cx: &mut Context<'_>) -> bool;

    /// Takes a new peer, whose flows leave from these addresses, and what holds for it if that is not the usual policy.
    fn add_peer(&mut self, peer: PeerId, egress: Egress, policy: Option<Arc<ExitPolicy>>);

    /// Closes everything that belongs to a peer.
    fn remove_peer(&mut self, peer: PeerId, cx: &mut Context<'_>);
}

/// How many flows an exit keeps at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitLimits {
    /// TCP connections of one peer.
    pub tcp_per_peer: usize,
    /// UDP flows of one peer.
    pub udp_per_peer: usize,
    /// Flows of all peers together. At most half of the files that the process may open are used for them.
    pub total: usize,
}

impl Default for ExitLimits {
    fn default() -> Self {
        Self {
            tcp_per_peer: 512,
            udp_per_peer: 256,
            total: 8192,
        }
    }
}

impl ExitLimits {
    /// These limits, within what the process may open.
    fn within(self, files: usize) -> Self {
        Self {
            total: self.total.min(files / 2),
            ..self
        }
    }
}

/// The addresses that flows leave from; the system chooses where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Egress {
    /// Of flows to IPv4 destinations.
    pub v4: Option<Ipv4Addr>,
    /// Of flows to IPv6 destinations.
    pub v6: Option<Ipv6Addr>,
}

impl From<IpAddr> for Egress {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self {
                v4: Some(v4),
                v6: None,
            },
            IpAddr::V6(v6) => Self {
                v4: None,
                v6: Some(v6),
            },
        }
    }
}

/// A range of addresses that leases leave from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRange {
    /// The addresses.
    pub prefix: IpNet,
    /// The interface they leave by, which only a kernel exit can choose; found out by the host's addresses and routes if not given.
    pub interface: Option<String>,
}

/// The addresses that each peer's flows leave from.
#[derive(Debug, Default)]
struct Egresses(HashMap<PeerId, Egress>);

impl Egresses {
    fn add(&mut self, peer: PeerId, egress: Egress) {
        self.0.insert(peer, egress);
    }

    fn of(&self, peer: PeerId) -> Egress {
        self.0.get(&peer).copied().unwrap_or_default()
    }

    fn remove(&mut self, peer: PeerId) {
        self.0.remove(&peer);
    }
}

impl Egress {
    /// A non-blocking outside socket for flows to `destination`.
    fn socket(self, destination: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(destination), kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        let source = match destination {
            SocketAddr::V4(_) => self.v4.map(IpAddr::V4),
            SocketAddr::V6(_) => self.v6.map(IpAddr::V6),
        };
        if let Some(source) = source {
            sys::defer_port(&socket);
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    }
}

/// Names a flow: whose it is, and its two ends inside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FlowKey {
    pub(crate) peer: PeerId,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}
