//! The end of the tunnel that lends its address.

mod role;
mod way;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use ipsx_tunnel_core::{
    AddPeerError, Device, DeviceConfig, DropCounts, ExitPolicy, Gate, MAX_CONTROL_PAYLOAD,
    PeerConfig, PeerId, PeerStatus, PrivateKey, PublicKey, Rates, Reflected, Side, Usage,
};
use rand::RngCore;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::{
    engine::Engine,
    error::TunnelError,
    exit::{
        Egress, Exit, ExitConfig, ExitLimits, FlowEvent, FlowLog, GatewayConfig, UserspaceExit,
    },
    link::Link,
    relays::Relay,
};
use role::ProviderRole;
use way::Ways;

#[cfg(target_os = "linux")]
use crate::{
    exit::{
        KernelExit,
        kernel::{self, KernelExitConfig, KernelExitError, KernelNetwork},
    },
    tun::Tun,
};

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
    /// The reflector, or whoever tries the endpoint from its address, was heard.
    Reflected(Reflected),
}

/// What the handle asks of the loop.
pub(crate) enum Command {
    AddPeer(
        Box<PeerConfig>,
        Egress,
        Option<Arc<ExitPolicy>>,
        oneshot::Sender<Result<PeerId, AddPeerError>>,
    ),
    RemovePeer(PeerId, oneshot::Sender<Option<Usage>>),
    SetGate(PeerId, Gate),
    SetCapacity(Rates),
    SetWeights(PeerId, Rates),
    Status(PeerId, oneshot::Sender<Option<PeerStatus>>),
    SendControl(PeerId, Vec<u8>),
    Reflect(SocketAddr, bool),
    Punch(SocketAddr),
    JoinRelay(Relay),
    LeaveRelay(SocketAddr),
    Dropped(oneshot::Sender<DropCounts>),
    Describe(u16, oneshot::Sender<Zeroizing<String>>),
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
    egress: Egress,
    ways: Ways,
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
        let (engine, link) = engine(&config)?;
        let exit = UserspaceExit::new(
            ExitConfig {
                gateway: gateway(&config),
                limits: config.limits,
                window: engine.window(),
                flow_log,
            },
            link.waker(),
            Instant::now(),
        )?;
        Self::spawn(engine, link, exit, default_egress(&config), Ways::default())
    }

    /// Like [`start`](Self::start), with an exit of the kernel's: a TUN interface, forwarding and nftables. Blocks
    /// for a moment, and first cleans up after providers with records in the same folder that were killed. Needs the
    /// capability CAP_NET_ADMIN.
    ///
    /// `flows` is told of every outside flow, if it is given, once the kernel has opened it. While there is no room, no
    /// packet leaves; the reader must go on until the endpoint has ended.
    #[cfg(target_os = "linux")]
    pub fn start_with_kernel_exit(
        config: ProviderConfig,
        kernel: &KernelExitConfig,
        flows: Option<mpsc::Sender<FlowEvent>>,
    ) -> Result<(Self, mpsc::Receiver<ProviderEvent>), TunnelError> {
        let flow_log = flows.map_or_else(FlowLog::default, FlowLog::to);
        let (engine, link) = engine(&config)?;
        let reserved = kernel::reserve(&kernel.folder)?;
        let tun = Tun::open(&reserved.interface).map_err(KernelExitError::from)?;
        let egress = default_egress(&config);
        let network = KernelNetwork::set_up(
            reserved,
            kernel,
            &config.policy,
            kernel.egress.is_empty() && egress == Egress::default(),
            config.limits.tcp_per_peer + config.limits.udp_per_peer,
            flow_log.clone(),
        )?;
        let network = Arc::new(network);
        let ended = link.clone();
        let mut exit = KernelExit::new(
            tun,
            gateway(&config),
            flow_log,
            engine.registry(),
            link.waker(),
            // A loop that has ended already needs no word.
            move || drop(ended.send(Command::Shutdown(None))),
            Instant::now(),
        )?;
        exit.tell_changes(network.follow_own_networks().map_err(TunnelError::Start)?);
        Self::spawn(engine, link, exit, egress, Ways::of(network))
    }

    fn spawn<E: Exit>(
        mut engine: Engine<Command>,
        link: Link<Command>,
        exit: E,
        egress: Egress,
        ways: Ways,
    ) -> Result<(Self, mpsc::Receiver<ProviderEvent>), TunnelError> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (local, public_key) = (engine.local_addr(), engine.device().public_key());
        engine.spawn("ipsx-provider", ProviderRole::new(exit, events))?;
        let inner = Inner {
            link,
            local,
            public_key,
            egress,
            ways,
        };
        let inner = Arc::new(inner);
        Ok((Self { inner }, receiver))
    }

    /// Where the endpoint listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// The endpoint's WireGuard key.
    pub fn public_key(&self) -> PublicKey {
        self.inner.public_key
    }

    /// Adds a peer, with its gate closed. Its flows leave from the addresses of the endpoint's settings.
    pub async fn add_peer(&self, config: PeerConfig) -> Result<PeerId, TunnelError> {
        self.add(config, None, None).await
    }

    /// Adds a peer, with its gate closed, whose flows leave from these addresses. A kernel exit adds those to the host
    /// that belong to its ranges and are not there, and removes them with the last peer that uses them.
    pub async fn add_peer_from(
        &self,
        config: PeerConfig,
        egress: Egress,
    ) -> Result<PeerId, TunnelError> {
        self.add(config, Some(egress), None).await
    }

    /// Adds a peer for which another policy than that of the endpoint's settings holds as long as it is there. Its flows
    /// leave from these addresses, as with [`add_peer_from`](Self::add_peer_from), or from those of the settings.
    pub async fn add_peer_under(
        &self,
        config: PeerConfig,
        egress: Option<Egress>,
        policy: Arc<ExitPolicy>,
    ) -> Result<PeerId, TunnelError> {
        self.add(config, egress, Some(policy)).await
    }

    async fn add(
        &self,
        config: PeerConfig,
        egress: Option<Egress>,
        policy: Option<Arc<ExitPolicy>>,
    ) -> Result<PeerId, TunnelError> {
        let egress = egress.unwrap_or(self.inner.egress);
        // The way is there before the first packet, and longer than the last.
        let way = self.inner.ways.open(&config.allowed_ips, egress).await?;
        let added = self
            .inner
            .link
            .ask(|reply| Command::AddPeer(Box::new(config), egress, policy, reply))
            .await??;
        way.keep_for(added);
        Ok(added)
    }

    /// Removes a peer and closes its flows; returns what it had moved, or none if there is no such peer.
    pub async fn remove_peer(&self, peer: PeerId) -> Result<Option<Usage>, TunnelError> {
        let usage = self
            .inner
            .link
            .ask(|reply| Command::RemovePeer(peer, reply))
            .await;
        self.inner.ways.close(peer).await;
        usage
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

    /// Hears what comes from a reflector's address from now on, in place of an earlier one, and, if `asks`, keeps asking it
    /// for this endpoint's address and port as they are seen from outside, by which a NAT keeps them. Each answer is an
    /// event.
    pub fn reflect(&self, reflector: SocketAddr, asks: bool) -> Result<(), TunnelError> {
        self.inner.link.send(Command::Reflect(reflector, asks))
    }

    /// Sends one small datagram that wants no answer and that WireGuard ignores, so that a NAT before this endpoint lets
    /// through what comes from there.
    pub fn punch(&self, to: SocketAddr) -> Result<(), TunnelError> {
        self.inner.link.send(Command::Punch(to))
    }

    /// Shows a relay where this endpoint is, and keeps showing it: what comes from there is a lease's.
    pub fn join_relay(&self, relay: Relay) -> Result<(), TunnelError> {
        self.inner.link.send(Command::JoinRelay(relay))
    }

    /// Says nothing to a relay any more.
    pub fn leave_relay(&self, address: SocketAddr) -> Result<(), TunnelError> {
        self.inner.link.send(Command::LeaveRelay(address))
    }

    /// The peers and their counters as `wg show` reads them, without any secret.
    pub(crate) async fn describe(&self) -> Result<Zeroizing<String>, TunnelError> {
        let port = self.inner.local.port();
        self.inner
            .link
            .ask(|reply| Command::Describe(port, reply))
            .await
    }

    /// How many packets were dropped since the start, by reason.
    pub async fn dropped(&self) -> Result<DropCounts, TunnelError> {
        self.inner.link.ask(Command::Dropped).await
    }

    /// Ends the endpoint and closes all flows; returns when the sockets are closed, and when what a kernel exit changed
    /// on the host is undone.
    pub async fn shutdown(&self) {
        // It fails only when the loop has ended already.
        let _ = self
            .inner
            .link
            .ask(|reply| Command::Shutdown(Some(reply)))
            .await;
        self.inner.ways.undo().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.link.send(Command::Shutdown(None));
    }
}

fn engine(config: &ProviderConfig) -> Result<(Engine<Command>, Link<Command>), TunnelError> {
    let mut seed = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut seed)?;
    let device = DeviceConfig {
        private_key: config.private_key.clone(),
        side: Side::Provider,
        gateway_v4: config.gateway_v4,
        control_port: config.control_port,
    };
    let device = Device::new(device, seed, Instant::now());
    Engine::new(device, config.listen)
}

fn gateway(config: &ProviderConfig) -> GatewayConfig {
    GatewayConfig {
        v4: config.gateway_v4,
        v6: config.gateway_v6,
        policy: config.policy.clone(),
    }
}

fn default_egress(config: &ProviderConfig) -> Egress {
    Egress {
        v4: config.egress_v4,
        v6: config.egress_v6,
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
