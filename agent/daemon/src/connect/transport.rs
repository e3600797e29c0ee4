//! How payment messages reach the provider: inside the tunnel, or sealed through the broker.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipsx_market::codec;
use ipsx_market::http::Frames;
use ipsx_market::payment::{PayerMessage, ProviderMessage};
use ipsx_market::sealed::{Direction, FrameSealer, NONCE_BYTES};
use ipsx_metering::DealId;
use ipsx_tunnel_core::OwnTraffic;
#[cfg(target_os = "linux")]
use ipsx_tunnel_os::HostTunnel;
use ipsx_tunnel_os::{ClientEvent, ClientTunnel, TunnelStatus};
use rand::RngCore;
use rand::rngs::OsRng;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::requester::Requester;

/// Messages that wait for a slow broker; the meter repeats what is lost.
const QUEUE: usize = 64;
/// One question for frames waits this long.
const FRAMES_WAIT: Duration = Duration::from_secs(20);
/// Pause after a question that failed.
const RETRY: Duration = Duration::from_secs(1);

/// The way to the provider.
pub(super) enum Transport {
    /// This program runs the tunnel.
    Tunnel {
        tunnel: ClientTunnel,
        events: mpsc::Receiver<ClientEvent>,
    },
    /// The same, for the host's own traffic.
    #[cfg(target_os = "linux")]
    Host {
        tunnel: HostTunnel,
        events: mpsc::Receiver<ClientEvent>,
    },
    /// Another client does.
    Broker(Relay),
}

impl Transport {
    /// Sends; what cannot be sent is lost, as any datagram may be.
    pub(super) fn send(&self, message: &PayerMessage) {
        let content = match codec::encode(message) {
            Ok(content) => content,
            Err(error) => return tracing::warn!(%error, "a payment message cannot be encoded"),
        };
        let sent = match self {
            Self::Tunnel { tunnel, .. } => tunnel.send_control(content),
            #[cfg(target_os = "linux")]
            Self::Host { tunnel, .. } => tunnel.send_control(content),
            Self::Broker(relay) => return relay.send(content),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a payment message was not sent");
        }
    }

    /// The provider's next message; `None` once the way is closed for good.
    pub(super) async fn receive(&mut self) -> Option<ProviderMessage> {
        loop {
            let content = match self {
                Self::Tunnel { events, .. } => match events.recv().await? {
                    ClientEvent::Control { payload } => payload,
                    ClientEvent::Handshaked { .. } => continue,
                },
                #[cfg(target_os = "linux")]
                Self::Host { events, .. } => match events.recv().await? {
                    ClientEvent::Control { payload } => payload,
                    ClientEvent::Handshaked { .. } => continue,
                },
                Self::Broker(relay) => relay.incoming.recv().await?,
            };
            match codec::decode(&content) {
                Ok(message) => return Some(message),
                Err(error) => tracing::debug!(%error, "not a payment message"),
            }
        }
    }

    /// How the tunnel is doing, with this side's count; `None` without a tunnel of its own.
    pub(super) async fn status(&self) -> Option<TunnelStatus> {
        let status = match self {
            Self::Tunnel { tunnel, .. } => tunnel.status().await,
            #[cfg(target_os = "linux")]
            Self::Host { tunnel, .. } => tunnel.status().await,
            Self::Broker(_) => return None,
        };
        status.ok()
    }

    /// What happened on this side's flows since the last time; `None` without a tunnel of its own.
    pub(super) async fn own_traffic(&self) -> Option<OwnTraffic> {
        let traffic = match self {
            Self::Tunnel { tunnel, .. } => tunnel.own_traffic().await,
            #[cfg(target_os = "linux")]
            Self::Host { tunnel, .. } => tunnel.own_traffic().await,
            Self::Broker(_) => return None,
        };
        traffic.ok()
    }
}

/// Two tasks that carry sealed frames to and from the broker; they end with it.
pub(super) struct Relay {
    sealer: Arc<FrameSealer>,
    outgoing: mpsc::Sender<String>,
    incoming: mpsc::Receiver<Vec<u8>>,
    tasks: [JoinHandle<()>; 2],
}

impl Relay {
    pub(super) fn start(requester: Arc<Requester>, deal: DealId, sealer: FrameSealer) -> Self {
        let sealer = Arc::new(sealer);
        let (outgoing, to_send) = mpsc::channel(QUEUE);
        let (received, incoming) = mpsc::channel(QUEUE);
        let sending = tokio::spawn(send_all(requester.clone(), deal, to_send));
        let receiving = tokio::spawn(receive_all(requester, deal, sealer.clone(), received));
        Self {
            sealer,
            outgoing,
            incoming,
            tasks: [sending, receiving],
        }
    }

    fn send(&self, content: Vec<u8>) {
        let mut nonce = [0; NONCE_BYTES];
        OsRng.fill_bytes(&mut nonce);
        match self.sealer.seal(Direction::ToProvider, nonce, &content) {
            // A full queue means that the broker is away; the meter repeats what matters.
            Ok(sealed) => drop(self.outgoing.try_send(STANDARD.encode(sealed))),
            Err(error) => tracing::warn!(%error, "a payment message cannot be sealed"),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn send_all(requester: Arc<Requester>, deal: DealId, mut frames: mpsc::Receiver<String>) {
    while let Some(first) = frames.recv().await {
        let mut batch = vec![first];
        while let Ok(more) = frames.try_recv() {
            batch.push(more);
        }
        if let Err(error) = requester
            .session
            .post_frames(deal, &Frames { frames: batch })
            .await
        {
            tracing::debug!(%error, "frames were not taken by the broker");
        }
    }
}

async fn receive_all(
    requester: Arc<Requester>,
    deal: DealId,
    sealer: Arc<FrameSealer>,
    received: mpsc::Sender<Vec<u8>>,
) {
    loop {
        let frames = match requester.session.frames(deal, FRAMES_WAIT).await {
            Ok(frames) => frames.frames,
            Err(error) => {
                tracing::debug!(%error, "no frames from the broker");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        for frame in frames {
            let opened = STANDARD
                .decode(&frame)
                .ok()
                .and_then(|f| sealer.open(Direction::ToPayer, &f).ok());
            let Some(content) = opened else {
                tracing::warn!("the broker delivered a frame that the provider did not seal");
                continue;
            };
            if received.send(content).await.is_err() {
                return;
            }
        }
    }
}
