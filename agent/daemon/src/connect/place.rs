//! Where a lease is used, and how the next one takes over.

use std::path::PathBuf;

#[cfg(target_os = "linux")]
use ipsx_tunnel_os::HostTunnel;
use ipsx_tunnel_os::{ClientConfig, ClientTunnel, Proxy};

use super::bring_up::tunnel_failure;
use super::transport::Transport;
#[cfg(target_os = "linux")]
use super::tun::{HostBeside, HostNext, HostPlace};
use crate::exit_code::Failure;
use crate::output::Output;

/// Where a lease can be used, as long as this is kept.
pub enum Place {
    /// A local proxy in front of the tunnel.
    Proxy {
        /// The proxy.
        proxy: Proxy,
        /// The tunnel behind it.
        tunnel: ClientTunnel,
    },
    /// Everywhere on this host.
    #[cfg(target_os = "linux")]
    Host(Box<HostPlace>),
    /// A file for another client.
    File(PathBuf),
}

impl Place {
    /// Ends the proxy and the tunnel, and what they changed. A file stays: it is of no use any more, but it is the
    /// user's.
    pub async fn close(self) -> Result<(), Failure> {
        match self {
            Self::Proxy { proxy, tunnel } => {
                proxy.shutdown().await;
                tunnel.shutdown().await;
                Ok(())
            }
            #[cfg(target_os = "linux")]
            Self::Host(host) => host.close().await,
            Self::File(_) => Ok(()),
        }
    }

    /// The same after a lease that ended otherwise than its user meant it: a kill switch stays.
    #[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
    pub(super) async fn fail(self, output: &Output) -> Result<(), Failure> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Host(host) => host.fail(output).await,
            other => other.close().await,
        }
    }

    /// Leads what begins from now on into these tunnels in turn.
    pub(super) fn spread(&self, tunnels: impl IntoIterator<Item = ClientTunnel>) {
        if let Self::Proxy { proxy, .. } = self {
            proxy.spread(tunnels);
        }
    }

    /// Whether somebody took it away.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            #[cfg(target_os = "linux")]
            Self::Host(host) => host.tunnel().is_gone(),
            _ => false,
        }
    }

    /// What makes the tunnels of further leases; none where another client runs them.
    pub(super) fn beside(&self) -> Option<Beside> {
        match self {
            Self::Proxy { .. } => Some(Beside::Proxy),
            #[cfg(target_os = "linux")]
            Self::Host(host) => Some(Beside::Host(host.beside())),
            Self::File(_) => None,
        }
    }

    /// Leads what begins from now on into the tunnel of another lease. What goes through the one before ends with the
    /// tunnel that is returned, or at once where the host's own address is another one now.
    pub(super) async fn switch(&mut self, next: NextTunnel) -> Result<OldTunnel, Failure> {
        match (self, next) {
            (Self::Proxy { proxy, tunnel }, NextTunnel::Proxy(next)) => {
                proxy.switch(next.clone());
                Ok(OldTunnel::Proxy(std::mem::replace(tunnel, next)))
            }
            #[cfg(target_os = "linux")]
            (Self::Host(host), NextTunnel::Host(next)) => {
                Ok(OldTunnel::Host(host.switch(*next).await?))
            }
            _ => Err(Failure::internal(
                "the next lease has a tunnel of another kind",
            )),
        }
    }
}

/// Makes tunnels beside the one that a place uses.
#[derive(Clone)]
pub(super) enum Beside {
    Proxy,
    #[cfg(target_os = "linux")]
    Host(HostBeside),
}

impl Beside {
    /// Brings a tunnel up that nothing goes through yet.
    pub(super) async fn connect(
        &self,
        config: ClientConfig,
    ) -> Result<(Transport, NextTunnel), Failure> {
        match self {
            Self::Proxy => {
                let connected = ClientTunnel::connect(config).await;
                let (tunnel, events) = connected.map_err(tunnel_failure)?;
                let next = NextTunnel::Proxy(tunnel.clone());
                Ok((Transport::Tunnel { tunnel, events }, next))
            }
            #[cfg(target_os = "linux")]
            Self::Host(beside) => {
                let (next, events) = beside.connect(config).await?;
                let tunnel = next.tunnel().clone();
                let next = NextTunnel::Host(Box::new(next));
                Ok((Transport::Host { tunnel, events }, next))
            }
        }
    }
}

/// The tunnel of a lease that takes over from another one.
pub(super) enum NextTunnel {
    Proxy(ClientTunnel),
    #[cfg(target_os = "linux")]
    Host(Box<HostNext>),
}

impl NextTunnel {
    /// Ends a tunnel that was not used.
    pub(super) async fn shutdown(&self) {
        match self {
            Self::Proxy(tunnel) => tunnel.shutdown().await,
            #[cfg(target_os = "linux")]
            Self::Host(next) => next.tunnel().shutdown().await,
        }
    }
}

/// The tunnel of a lease from which another one took over.
pub(super) enum OldTunnel {
    Proxy(ClientTunnel),
    #[cfg(target_os = "linux")]
    Host(HostTunnel),
    /// The place could not be led into another one, and ends.
    Lost,
}

impl OldTunnel {
    /// Whether anything may still go through it.
    pub(super) fn is_used(&self) -> bool {
        matches!(self, Self::Proxy(_))
    }

    /// Ends it, and what still goes through it.
    pub(super) async fn shutdown(&self) {
        match self {
            Self::Proxy(tunnel) => tunnel.shutdown().await,
            #[cfg(target_os = "linux")]
            Self::Host(tunnel) => tunnel.shutdown().await,
            Self::Lost => {}
        }
    }
}
