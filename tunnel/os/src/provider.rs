//! The end of the tunnel that lends its address.

mod role;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use ipsx_tunnel_core::{
    AddPeerError, Device, DeviceConfig, DropCounts, ExitPolicy, Gate, MAX_CONTROL_PAYLOAD,
    PeerConfig, PeerId, PeerStatus, PrivateKey, PublicKey, Rates, Side, Usage,
};
use rand::RngCore;
use tokio::sync::{mpsc, oneshot};

use crate::{
    engine::Engine,
    error::TunnelError,
    exit::{Egress, ExitConfig, ExitLimits, FlowEvent, FlowLog, GatewayConfig, UserspaceExit},
    link::Link,
};
use role::ProviderRole;

/// Events kept for a slow reader; more control datagrams are dropped and counted.
const EVENTS: usize = 1024;

/// Settings of a provider's endpoint.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// The endpoint's WireGuard key.
    pub private_key: PrivateKey,
    /// Where to listen for WireGuard, UDP; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address that outside IPv4 sockets are bound to; the system chooses if there is none.
    pub egress_v4: Option<Ipv4Addr>,
    /// Address that outside IPv6 sockets are bound to; the system chooses if there is none.
    pub egress_v6: Option<Ipv6Addr>,
    /// The gateway's IPv4 address inside the tunnel: DNS, echo and control datagrams.
    pub gateway_v4: Ipv4Addr,
    /// The gateway's IPv6 address inside the tunnel: DNS and echo.
    pub gateway_v6: Option<Ipv6Addr>,
    /// UDP port of control datagrams at the gateway's IPv4 address.
    pub control_port: u16,
    /// What the exit opens.
    pub policy: ExitPolicy,
    /// How many flows the exit keeps.
    pub limits: ExitLimits,
}

/// Something that happened at a provider's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderEvent {
    /// A control datagram came.
    Control {
        /// From whom.
        peer: PeerId,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// A handshake is complete.
    Handshaked {
        /// With whom.
        peer: PeerId,
        /// From where.
        endpoint: SocketAddr,
    },
    /// A peer's outer address has changed.
    Roamed {
        /// Whose.
        peer: PeerId,
        /// To what.
        endpoint: SocketAddr,
    },
}

/// What the handle asks of the loop.
pub(crate) enum Command {
    AddPeer(
        Box<PeerConfig>,
        oneshot::Sender<Result<PeerId, AddPeerError>>,
    ),
    RemovePeer(PeerId, oneshot::Sender<Option<Usage>>),
    SetGate(PeerId, Gate),
    SetCapacity(Rates),
    SetWeights(PeerId, Rates),
    Status(PeerId, oneshot::Sender<Option<PeerStatus>>),
    SendControl(PeerId, Vec<u8>),
    Dropped(oneshot::Sender<DropCounts>),
    Shutdown(Option<oneshot::Sender<()>>),
}

/// Handle of a running provider endpoint; clones are cheap, and the endpoint ends with the last of them.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link<Command>,
    local: SocketAddr,
    public_key: PublicKey,
}

impl Provider {
    /// Starts an endpoint on its own thread. Peers are added with a closed gate. The events end when the endpoint has
    /// ended, for whatever reason.
    pub fn start(
        config: ProviderConfig,
    ) -> Result<(Self, mpsc::Receiver<ProviderEvent>), TunnelError> {
        Self::start_logged(config, FlowLog::default())
    }

    /// The same, with `flows` told of every outside flow. A flow whose opening finds no room there is refused, so that
    /// none is missing; the reader must go on until the endpoint has ended.
    pub fn start_recorded(
        config: ProviderConfig,
        flows: mpsc::Sender<FlowEvent>,
    ) -> Result<(Self, mpsc::Receiver<ProviderEvent>), TunnelError> {
        Self::start_logged(config, FlowLog::to(flows))
    }

    fn start_logged(
        config: ProviderConfig,
        flow_log: FlowLog,
    ) -> Result<(Self, mpsc::Receiver<ProviderEvent>), TunnelError> {
        let mut seed = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut seed)?;
        let now = Instant::now();
        let device = Device::new(
            DeviceConfig {
                private_key: config.private_key,
                side: Side::Provider,
                gateway_v4: config.gateway_v4,
                control_port: config.control_port,
            },
            seed,
            now,
        );
        let (mut engine, link) = Engine::new(device, config.listen)?;
        let exit = UserspaceExit::new(
            ExitConfig {
                egress: Egress {
                    v4: config.egress_v4,
                    v6: config.egress_v6,
                },
                gateway: GatewayConfig {
                    v4: config.gateway_v4,
                    v6: config.gateway_v6,
                    policy: config.policy,
                },
                limits: config.limits,
                window: engine.window(),
                flow_log,
            },
            link.waker(),
            now,
        )?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let (local, public_key) = (engine.local_addr(), engine.device().public_key());
        engine.spawn("ipsx-provider", ProviderRole::new(exit, events))?;
        Ok((
            Self {
                inner: Arc::new(Inner {
                    link,
                    local,
                    public_key,
                }),
            },
            receiver,
        ))
    }

    /// Where the endpoint listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// The endpoint's WireGuard key.
    pub fn public_key(&self) -> PublicKey {
        self.inner.public_key
    }

    /// Adds a peer, with its gate closed.
    pub async fn add_peer(&self, config: PeerConfig) -> Result<PeerId, TunnelError> {
        let added = self
            .inner
            .link
            .ask(|reply| Command::AddPeer(Box::new(config), reply))
            .await?;
        Ok(added?)
    }

    /// Removes a peer and closes its flows; returns what it had moved, or none if there is no such peer.
    pub async fn remove_peer(&self, peer: PeerId) -> Result<Option<Usage>, TunnelError> {
        self.inner
            .link
            .ask(|reply| Command::RemovePeer(peer, reply))
            .await
    }

    /// Changes what a peer's data may do; takes effect before any later call of this handle.
    pub fn set_gate(&self, peer: PeerId, gate: Gate) -> Result<(), TunnelError> {
        self.inner.link.send(Command::SetGate(peer, gate))
    }

    /// Limits what all peers together move. When they want more, each gets its share by weight, and what one does not
    /// use is for the others; see [`set_weights`](Self::set_weights).
    pub fn set_capacity(&self, rates: Rates) -> Result<(), TunnelError> {
        self.inner.link.send(Command::SetCapacity(rates))
    }

    /// Sets how much of the capacity a peer gets beside others that want all they can get. To be set after the
    /// capacity; only how the peers' weights compare matters.
    pub fn set_weights(&self, peer: PeerId, weights: Rates) -> Result<(), TunnelError> {
        self.inner.link.send(Command::SetWeights(peer, weights))
    }

    /// What a peer has moved so far, or none if there is no such peer.
    pub async fn usage(&self, peer: PeerId) -> Result<Option<Usage>, TunnelError> {
        Ok(self.status(peer).await?.map(|status| status.usage))
    }

    /// How a peer is doing, or none if there is no such peer.
    pub async fn status(&self, peer: PeerId) -> Result<Option<PeerStatus>, TunnelError> {
        self.inner
            .link
            .ask(|reply| Command::Status(peer, reply))
            .await
    }

    /// Sends opaque bytes to a peer, past its gate and outside usage. Delivery is not certain, as with any datagram.
    pub fn send_control(&self, peer: PeerId, payload: Vec<u8>) -> Result<(), TunnelError> {
        check_control(&payload)?;
        self.inner.link.send(Command::SendControl(peer, payload))
    }

    /// How many packets were dropped since the start, by reason.
    pub async fn dropped(&self) -> Result<DropCounts, TunnelError> {
        self.inner.link.ask(Command::Dropped).await
    }

    /// Ends the endpoint and closes all flows; returns when the sockets are closed.
    pub async fn shutdown(&self) {
        // It fails only when the loop has ended already.
        let _ = self
            .inner
            .link
            .ask(|reply| Command::Shutdown(Some(reply)))
            .await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.link.send(Command::Shutdown(None));
    }
}

/// Refuses a payload that no control datagram holds.
pub(crate) fn check_control(payload: &[u8]) -> Result<(), TunnelError> {
    if payload.len() > MAX_CONTROL_PAYLOAD {
        return Err(TunnelError::ControlSize {
            len: payload.len(),
            max: MAX_CONTROL_PAYLOAD,
        });
    }
    Ok(())
}
