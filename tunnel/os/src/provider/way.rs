//! The host's part in adding and removing peers: what a kernel exit needs, and nothing for a userspace exit.

use ipsx_tunnel_core::{IpNet, PeerId};

use crate::{error::TunnelError, exit::Egress};

#[cfg(target_os = "linux")]
use crate::exit::kernel::{KernelNetwork, OpenLease};
#[cfg(target_os = "linux")]
use std::sync::Arc;

/// What an endpoint's peers need of the host.
#[derive(Default)]
pub(super) struct Ways {
    #[cfg(target_os = "linux")]
    network: Option<Arc<KernelNetwork>>,
}

/// A way out that belongs to no peer yet; it is closed again when dropped.
pub(super) struct Way {
    #[cfg(target_os = "linux")]
    lease: Option<OpenLease>,
}

#[cfg(target_os = "linux")]
impl Ways {
    /// Those of a kernel exit.
    pub(super) fn of(network: Arc<KernelNetwork>) -> Self {
        Self {
            network: Some(network),
        }
    }

    /// Lets a peer's inner networks out.
    pub(super) async fn open(&self, inner: &[IpNet], egress: Egress) -> Result<Way, TunnelError> {
        let Some(network) = self.network.clone() else {
            return Ok(Way { lease: None });
        };
        let inner = inner.to_vec();
        let opened = blocking(move || network.open_lease(&inner, egress)).await?;
        Ok(Way {
            lease: Some(opened?),
        })
    }

    /// Takes a peer's way out.
    pub(super) async fn close(&self, peer: PeerId) {
        if let Some(network) = self.network.clone() {
            // It fails only when the runtime ends, and then everything is undone.
            let _ = blocking(move || network.close_lease(peer)).await;
        }
    }

    /// Undoes everything that was done to the host.
    pub(super) async fn undo(&self) {
        if let Some(network) = self.network.clone() {
            // As above.
            let _ = blocking(move || network.undo()).await;
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Ways {
    /// Lets a peer's inner networks out.
    pub(super) async fn open(&self, _: &[IpNet], _: Egress) -> Result<Way, TunnelError> {
        Ok(Way {})
    }

    /// Takes a peer's way out.
    pub(super) async fn close(&self, _: PeerId) {}

    /// Undoes everything that was done to the host.
    pub(super) async fn undo(&self) {}
}

impl Way {
    /// Gives the way out to a peer.
    pub(super) fn keep_for(self, peer: PeerId) {
        #[cfg(target_os = "linux")]
        if let Some(lease) = self.lease {
            lease.keep_for(peer);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = peer;
    }
}

#[cfg(target_os = "linux")]
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TunnelError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| TunnelError::Stopped)
}
