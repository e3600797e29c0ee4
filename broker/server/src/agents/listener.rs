//! Listens for agents, with a certificate made at the start: trust comes from the signatures over the TLS session.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ipsx_market::messages::ALPN;
use quinn::{Endpoint, TransportConfig, VarInt};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::NoServerSessionStorage;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;

use super::gate::{Gate, Limits, Verdict};
use super::registry::code;
use super::resets::endpoint_config;
use super::session;
use super::tls::LeanTls;
use crate::desk::Desk;
use crate::error::StartError;

/// An agent that is silent for as long is given up. Agents keep their connection alive every 5 s, so two of their
/// packets may be lost.
const IDLE: Duration = Duration::from_secs(15);
/// Bytes that one agent may make the broker hold that it has not read yet, and bytes sent to it and not acknowledged.
const WINDOW: u32 = 64 * 1024;
/// What the kernel may hold while all agents come back at once; it gives what it allows.
const SOCKET_BUFFER: usize = 8 << 20;

/// The agents' socket, before anybody is answered.
pub(crate) struct Listener {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Listener {
    /// Binds the socket.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let socket = bind(address).map_err(|reason| listen_error(address, reason))?;
        let address = socket
            .local_addr()
            .map_err(|reason| listen_error(address, reason))?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to take packets. With the same secret, a broker that was killed and started again tells agents that their
    /// connection is gone as soon as they say something.
    pub(crate) fn open(self, secret: &[u8; 32]) -> Result<Endpoint, StartError> {
        let config = server_config().map_err(|error| StartError::Tls(error.to_string()))?;
        let endpoint = Endpoint::new(endpoint_config(secret), Some(config), self.socket);
        endpoint.map_err(|reason| listen_error(self.address, reason))
    }
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let kind = Domain::for_address(address);
    let socket = Socket::new(kind, Type::DGRAM, Some(Protocol::UDP))?;
    // Smaller buffers lose packets that are sent again.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn listen_error(address: SocketAddr, reason: std::io::Error) -> StartError {
    StartError::Listen {
        address,
        purpose: "agents",
        key: "agents_listen",
        reason,
    }
}

/// Serves agents until the endpoint is closed.
pub(crate) async fn run(endpoint: Endpoint, desk: Arc<Desk>, limits: Limits) {
    let gate = Gate::new(limits);
    let mut sessions = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        // Finished ones are let go as new ones come.
        while sessions.try_join_next().is_some() {}
        let (remote, reachable) = (
            incoming.remote_address(),
            incoming.remote_address_validated(),
        );
        match gate.judge(remote.ip(), reachable) {
            Verdict::Admit(pending) => {
                sessions.spawn(session::run(
                    incoming,
                    pending,
                    Arc::clone(&desk),
                    Arc::clone(&gate),
                ));
            }
            Verdict::Retry => {
                // One that has been asked already is not asked again.
                if incoming.retry().is_err() {
                    desk.metrics.refused("handshake");
                }
            }
            Verdict::Refuse(label) => {
                desk.metrics.refused(label);
                incoming.refuse();
            }
        }
    }
    while sessions.join_next().await.is_some() {}
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
    // A ticket would spare a returning agent one signature of three, and is forgotten in a restart, when it would count.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(LeanTls::new(tls)?));
    config.transport_config(Arc::new(transport()?));
    // An agent is placed by the address that it comes from; from another one it connects anew.
    config.migration(false);
    Ok(config)
}

/// Made for thousands of agents that say little: what each costs is in `docs/scale.md`.
fn transport() -> Result<TransportConfig, quinn::VarIntBoundsExceeded> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        // Each connection keeps a buffer for what it sends at once: one packet, not a batch of ten.
        .enable_segmentation_offload(false)
        // Messages fit the packets that every path carries.
        .mtu_discovery_config(None)
        // Agents keep their connections alive: half as many timers and packets as when both sides do.
        .keep_alive_interval(None)
        .max_idle_timeout(Some(IDLE.try_into()?));
    Ok(transport)
}

/// Says goodbye to all agents and waits until they could hear it.
pub(crate) async fn close(endpoint: &Endpoint) {
    endpoint.close(code::STOPPING, b"the broker stops; connect again later");
    endpoint.wait_idle().await;
}
