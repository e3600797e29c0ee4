//! The end of the tunnel that uses the other's address.

mod calling;
mod datagrams;
mod flows;
mod questions;
mod role;
mod stream;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{
    Device, DeviceConfig, DropCounts, IpNet, Ipv4Net, Ipv6Net, OwnTraffic, PeerConfig, PeerId,
    PeerStatus, PresharedKey, PrivateKey, PublicKey, Side, Usage,
};
use rand::RngCore;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    engine::Engine,
    error::TunnelError,
    link::Link,
    provider::check_control,
    relays::{Relay, RelaySource},
};
pub(crate) use calling::Calling;
pub use datagrams::TunnelUdp;
pub use questions::ResolveError;
use role::ClientRole;
use stream::Pipe;
pub use stream::{ConnectError, TunnelStream};

/// Events kept for a slow reader; more control datagrams are dropped and counted.
pub(crate) const EVENTS: usize = 1024;

/// Settings of a client's tunnel.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// This end's WireGuard key.
    pub private_key: PrivateKey,
    /// The provider's WireGuard key.
    pub peer_public_key: PublicKey,
    /// Key mixed into the handshake, if the two ends share one.
    pub preshared_key: Option<PresharedKey>,
    /// Where the provider listens.
    pub endpoint: SocketAddr,
    /// Where to send from, UDP; port 0 takes a free one. Of the endpoint's family.
    pub bind: SocketAddr,
    /// This end's IPv4 address inside the tunnel.
    pub inner_v4: Ipv4Addr,
    /// This end's IPv6 address inside the tunnel, if it has one.
    pub inner_v6: Option<Ipv6Addr>,
    /// The gateway's IPv4 address inside the tunnel.
    pub gateway_v4: Ipv4Addr,
    /// UDP port of control datagrams at the gateway.
    pub control_port: u16,
    /// Seconds between keepalives, if any are wanted; 25 keeps most NATs open.
    pub keepalive: Option<u16>,
    /// How long to wait for the first handshake.
    pub handshake_timeout: Duration,
    /// How to come through NATs, if the provider may be behind one.
    pub punch: Option<Punch>,
}

/// How a client comes to a provider behind a NAT: it finds out what its own NAT shows of its socket, tells, and calls
/// often, while the provider, who is told, sends towards it.
#[derive(Debug, Clone)]
pub struct Punch {
    /// Who says what is seen of the socket.
    pub reflector: SocketAddr,
    /// Told what is seen, until the first handshake is complete.
    pub mapped: mpsc::Sender<SocketAddr>,
    /// Who gives a relay, if no way is found like that and a relay may be used.
    pub relay: Option<RelaySource>,
}

impl ClientConfig {
    /// A device whose one peer is the provider.
    pub(crate) fn device(&self, now: Instant) -> Result<(Device, PeerId), TunnelError> {
        let mut seed = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut seed)?;
        let device = DeviceConfig {
            private_key: self.private_key.clone(),
            side: Side::Client {
                inner_v4: self.inner_v4,
            },
            gateway_v4: self.gateway_v4,
            control_port: self.control_port,
        };
        let mut device = Device::new(device, seed, now);
        let everywhere = vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let peer = PeerConfig {
            public_key: self.peer_public_key,
            preshared_key: self.preshared_key.clone(),
            endpoint: Some(self.endpoint),
            allowed_ips: everywhere,
            keepalive: self.keepalive,
        };
        let peer = device.add_peer(peer, now)?;
        device.follow_flows();
        Ok((device, peer))
    }
}

/// Waits for the first handshake and returns how long it took.
pub(crate) async fn answered(
    handshake: oneshot::Receiver<Duration>,
    endpoint: SocketAddr,
    after: Duration,
    punch: Option<Option<RelaySource>>,
) -> Result<Duration, TunnelError> {
    if let Ok(measured) = timeout(after, handshake).await {
        return measured.map_err(|_| TunnelError::Stopped);
    }
    Err(match punch {
        None => TunnelError::HandshakeTimeout { endpoint, after },
        Some(relay) => TunnelError::NotPunched {
            endpoint,
            after,
            relay: relay.and_then(|relay| relay.failure()),
        },
    })
}

/// Something that happened at a client's tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// A control datagram came from the provider.
    Control {
        /// Its payload.
        payload: Vec<u8>,
    },
    /// A handshake is complete: the first, or a renewal.
    Handshaked {
        /// With the provider at this address.
        endpoint: SocketAddr,
    },
}

/// How a client's tunnel is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelStatus {
    /// The provider's outer address, or its relay's.
    pub endpoint: Option<SocketAddr>,
    /// The relay, if one carries what is sent and received.
    pub relay: Option<SocketAddr>,
    /// Time since the last handshake.
    pub handshake_age: Option<Duration>,
    /// Time since the last authentic datagram.
    pub last_received: Option<Duration>,
    /// Whether data can be sent without a new handshake.
    pub established: bool,
    /// What has been moved.
    pub usage: Usage,
}

impl TunnelStatus {
    /// Of a peer that may be called by this relay.
    pub(crate) fn new(status: &PeerStatus, relay: Option<SocketAddr>, now: Instant) -> Self {
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        Self {
            endpoint: status.endpoint,
            relay: relay.filter(|relay| status.endpoint == Some(*relay)),
            handshake_age: since(status.handshaked_at),
            last_received: since(status.last_received),
            established: status.established,
            usage: status.usage,
        }
    }
}

/// What the handle and its streams ask of the loop.
pub(crate) enum Command {
    /// Open a connection of this number; the pipe tells how it went.
    Connect(u64, SocketAddr, Arc<Mutex<Pipe>>),
    /// Open a UDP socket of this number; what comes goes to the sender, what waits to be sent is counted.
    BindUdp(u64, mpsc::Sender<datagrams::Datagram>, Arc<AtomicUsize>),
    SendUdp(u64, datagrams::Datagram),
    CloseUdp(u64),
    /// A stream has been read from, written to, shut down or dropped.
    Touched(u64),
    Resolve(String, oneshot::Sender<Result<Vec<IpAddr>, ResolveError>>),
    Echo(oneshot::Sender<Duration>),
    Status(oneshot::Sender<Option<TunnelStatus>>),
    OwnTraffic(oneshot::Sender<OwnTraffic>),
    SendControl(Vec<u8>),
    Relay(Relay),
    Dropped(oneshot::Sender<DropCounts>),
    Shutdown(Option<oneshot::Sender<()>>),
}

/// Handle of a running client tunnel; clones are cheap, and the tunnel ends with the last of them.
#[derive(Clone)]
pub struct ClientTunnel {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link<Command>,
    local: SocketAddr,
    round_trip: Duration,
    next_stream: AtomicU64,
}

impl ClientTunnel {
    /// Starts a tunnel on its own thread and waits for the first handshake.
    pub async fn connect(
        config: ClientConfig,
    ) -> Result<(Self, mpsc::Receiver<ClientEvent>), TunnelError> {
        let now = Instant::now();
        let (device, peer) = config.device(now)?;
        let (endpoint, patience) = (config.endpoint, config.handshake_timeout);
        let punch = config.punch.as_ref().map(|punch| punch.relay.clone());
        let (events, receiver) = mpsc::channel(EVENTS);
        let (ready, handshake) = oneshot::channel();
        let (engine, link) = Engine::new(device, config.bind)?;
        let (local, window) = (engine.local_addr(), engine.window());
        let addresses = role::Addresses {
            inner_v4: config.inner_v4,
            inner_v6: config.inner_v6,
            gateway_v4: config.gateway_v4,
        };
        engine.spawn(
            "ipsx-client",
            ClientRole::new(
                peer,
                addresses,
                window,
                events,
                Calling::new(ready, config.punch, now),
            ),
        )?;
        if let Some(Some(relay)) = &punch {
            relay.pass_on(link.clone(), Command::Relay);
        }
        // From here on, leaving early ends the loop.
        let mut inner = Inner {
            link,
            local,
            round_trip: Duration::ZERO,
            next_stream: AtomicU64::new(1),
        };
        inner.round_trip = answered(handshake, endpoint, patience, punch).await?;
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            receiver,
        ))
    }

    /// Where the tunnel sends from.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// How long the first handshake took from question to answer.
    pub fn round_trip(&self) -> Duration {
        self.inner.round_trip
    }

    /// Opens a TCP connection to `destination`, from the provider's address.
    pub async fn tcp_connect(&self, destination: SocketAddr) -> Result<TunnelStream, ConnectError> {
        let pipe = Arc::new(Mutex::new(Pipe::default()));
        let id = self.inner.next_stream.fetch_add(1, Ordering::Relaxed);
        // From here on, whoever stops waiting drops the stream and with it the connection.
        let stream = TunnelStream::new(id, Arc::clone(&pipe), self.inner.link.clone(), destination);
        let asked = self
            .inner
            .link
            .send(Command::Connect(id, destination, pipe));
        asked.map_err(|_| ConnectError::Stopped)?;
        stream.connected().await?;
        Ok(stream)
    }

    /// Opens a UDP socket that sends from the provider's address.
    pub fn udp_bind(&self) -> Result<TunnelUdp, TunnelError> {
        let id = self.inner.next_stream.fetch_add(1, Ordering::Relaxed);
        TunnelUdp::open(id, self.inner.link.clone())
    }

    /// Resolves a name at the provider: IPv4 addresses first, IPv6 ones only if the tunnel carries them.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let asked = self
            .inner
            .link
            .ask(|reply| Command::Resolve(host.to_owned(), reply))
            .await;
        asked.map_err(|_| ResolveError::Stopped)?
    }

    /// Sends an echo to the gateway and measures the answer. It is data: it needs an open gate and is counted.
    pub async fn ping(&self, patience: Duration) -> Result<Duration, TunnelError> {
        match timeout(patience, self.inner.link.ask(Command::Echo)).await {
            Ok(measured) => measured,
            Err(_) => Err(TunnelError::EchoTimeout(patience)),
        }
    }

    /// What the tunnel has moved so far.
    pub async fn usage(&self) -> Result<Usage, TunnelError> {
        Ok(self.status().await?.usage)
    }

    /// What happened on each of this end's flows since the last time.
    pub async fn own_traffic(&self) -> Result<OwnTraffic, TunnelError> {
        self.inner.link.ask(Command::OwnTraffic).await
    }

    /// How the tunnel is doing.
    pub async fn status(&self) -> Result<TunnelStatus, TunnelError> {
        let status = self.inner.link.ask(Command::Status).await?;
        status.ok_or(TunnelError::Stopped)
    }

    /// Sends opaque bytes to the provider, past its gate and outside usage. Delivery is not certain, as with any
    /// datagram.
    pub fn send_control(&self, payload: Vec<u8>) -> Result<(), TunnelError> {
        check_control(&payload)?;
        self.inner.link.send(Command::SendControl(payload))
    }

    /// How many packets were dropped since the start, by reason.
    pub async fn dropped(&self) -> Result<DropCounts, TunnelError> {
        self.inner.link.ask(Command::Dropped).await
    }

    /// Ends the tunnel and breaks its connections; returns when the socket is closed.
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
