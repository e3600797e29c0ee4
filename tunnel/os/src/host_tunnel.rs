//! The end of the tunnel that uses the other's address for the host's own traffic: an interface instead of a proxy.

mod role;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{DropCounts, KnownFlows, OwnTraffic, Usage};
use mio::Token;
use tokio::sync::{mpsc, oneshot};

use crate::{
    client::{Calling, ClientConfig, ClientEvent, EVENTS, TunnelStatus, answered},
    engine::{Engine, FIRST_FREE_TOKEN},
    error::TunnelError,
    link::Link,
    provider::check_control,
    relays::Relay,
    tun::Tun,
};
use role::HostRole;

/// The first of the interface's tokens.
const TUN: Token = Token(FIRST_FREE_TOKEN);

/// What the handle asks of the loop.
enum Command {
    Status(oneshot::Sender<Option<TunnelStatus>>),
    OwnTraffic(oneshot::Sender<OwnTraffic>),
    SendControl(Vec<u8>),
    Relay(Relay),
    Dropped(oneshot::Sender<DropCounts>),
    Shutdown(Option<oneshot::Sender<()>>),
}

/// Handle of a running tunnel with an interface; clones are cheap, and both go with the last of them.
///
/// The interface has no address and no route, and is down: [`HostTraffic`](crate::HostTraffic) sees to that. Only
/// what answers the host's own packets comes out of it; everything else is dropped, and not paid for.
#[derive(Clone)]
pub struct HostTunnel {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link<Command>,
    interface: String,
    gone: Arc<AtomicBool>,
    round_trip: Duration,
}

impl HostTunnel {
    /// Makes the interface, starts a tunnel on its own thread and waits for the first handshake. All outer datagrams
    /// carry `mark`. Needs the capability CAP_NET_ADMIN.
    pub async fn connect(
        config: ClientConfig,
        interface: &str,
        mark: u32,
    ) -> Result<(Self, mpsc::Receiver<ClientEvent>), TunnelError> {
        let now = Instant::now();
        let punch = config.punch.as_ref().map(|punch| punch.relay.clone());
        let (endpoint, patience) = (config.endpoint, config.handshake_timeout);
        let (device, peer) = config.device(now)?;
        let mut tun = Tun::open(interface)?;
        let (engine, link) = Engine::new(device, config.bind)?;
        engine.set_mark(mark).map_err(TunnelError::Mark)?;
        tun.register(engine.registry(), TUN)
            .map_err(TunnelError::Start)?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let (ready, handshake) = oneshot::channel();
        let gone = Arc::new(AtomicBool::new(false));
        let role = HostRole {
            peer,
            tun,
            flows: KnownFlows::new(config.inner_v4, config.inner_v6, now),
            events: Some(events),
            calling: Calling::new(ready, config.punch, now),
            gone: Arc::clone(&gone),
            shutdown: None,
        };
        engine.spawn("ipsx-host", role)?;
        if let Some(Some(relay)) = &punch {
            relay.pass_on(link.clone(), Command::Relay);
        }
        // From here on, leaving early ends the loop.
        let mut inner = Inner {
            link,
            interface: interface.to_owned(),
            gone,
            round_trip: Duration::ZERO,
        };
        inner.round_trip = answered(handshake, endpoint, patience, punch).await?;
        let inner = Arc::new(inner);
        Ok((Self { inner }, receiver))
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.inner.interface
    }

    /// Whether somebody deleted the interface; the events end then.
    pub fn is_gone(&self) -> bool {
        self.inner.gone.load(Ordering::Acquire)
    }

    /// How long the first handshake took from question to answer.
    pub fn round_trip(&self) -> Duration {
        self.inner.round_trip
    }

    /// What the tunnel has moved so far.
    pub async fn usage(&self) -> Result<Usage, TunnelError> {
        Ok(self.status().await?.usage)
    }

    /// What happened on each of this host's flows since the last time.
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

    /// Ends the tunnel; returns when socket and interface are gone.
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
