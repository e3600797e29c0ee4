//! Listens for agents, with a certificate made at the start: trust comes from the signatures over the TLS session.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ipsx_market::messages::ALPN;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, Incoming, TokioRuntime, TransportConfig, VarInt};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::registry::code;
use super::session;
use crate::desk::Desk;
use crate::error::StartError;

/// A silent connection is given up after this long. The time begins with the last keep-alive that was sent after the
/// last packet that came, so a killed agent is noticed within 10 s.
const IDLE: Duration = Duration::from_secs(6);
/// How often a quiet connection shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Bytes in flight that one agent may make the broker hold.
const WINDOW: u32 = 256 * 1024;

/// The agents' endpoint.
pub(crate) struct Listener {
    endpoint: Endpoint,
    address: SocketAddr,
}

impl Listener {
    /// Binds the socket.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let config = server_config().map_err(|error| StartError::Tls(error.to_string()))?;
        let listen = |reason| StartError::Listen {
            address,
            purpose: "agents",
            key: "agents_listen",
            reason,
        };
        let socket = UdpSocket::bind(address).map_err(listen)?;
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            Some(config),
            socket,
            Arc::new(TokioRuntime),
        );
        let endpoint = endpoint.map_err(listen)?;
        let address = endpoint.local_addr().map_err(listen)?;
        Ok(Self { endpoint, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle that closes the endpoint.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Serves agents until the endpoint is closed.
    pub(crate) async fn run(self, desk: Arc<Desk>, limits: session::Limits, agents: usize) {
        let places = Arc::new(Semaphore::new(agents));
        let mut sessions = JoinSet::new();
        while let Some(incoming) = self.endpoint.accept().await {
            // Finished ones are let go as new ones come.
            while sessions.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                desk.metrics.refused("agents_full");
                incoming.refuse();
                continue;
            };
            if !incoming.remote_address_validated() && places.available_permits() < agents / 2 {
                // Under load, whoever connects shows first that it can be reached at its address.
                if incoming.retry().is_err() {
                    desk.metrics.refused("handshake");
                }
                continue;
            }
            sessions.spawn(serve(incoming, Arc::clone(&desk), limits, place));
        }
        while sessions.join_next().await.is_some() {}
    }
}

async fn serve(
    incoming: Incoming,
    desk: Arc<Desk>,
    limits: session::Limits,
    _place: OwnedSemaphorePermit,
) {
    let remote = incoming.remote_address();
    let connected = tokio::time::timeout(limits.handshake, incoming).await;
    let connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "no connection");
            desk.metrics.refused("handshake");
            return;
        }
        Err(_) => {
            desk.metrics.refused("handshake_timeout");
            return;
        }
    };
    session::run(connection, &desk, limits).await;
}

fn server_config() -> Result<quinn::ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let made = rcgen::generate_simple_self_signed(["ipsx-broker".to_string()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()?));
    // An agent is placed by the address that it comes from; from another one it connects anew.
    config.migration(false);
    Ok(config)
}

fn transport() -> Result<TransportConfig, quinn::VarIntBoundsExceeded> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE.try_into()?));
    Ok(transport)
}

/// Says goodbye to all agents and waits until they could hear it.
pub(crate) async fn close(endpoint: &Endpoint) {
    endpoint.close(code::STOPPING, b"the broker stops; connect again later");
    endpoint.wait_idle().await;
}
