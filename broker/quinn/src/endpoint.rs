// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.
//! A UDP socket and all connections over it.

mod driver;
mod state;

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;

use bytes::Bytes;
use proto::{ClientConfig, ConnectError, EndpointConfig, ServerConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{Instrument, Span};

pub(crate) use self::state::EndpointRef;
use crate::connection::{Connecting, ConnectionEvent};
use crate::incoming::Incoming;
use crate::socket::UdpSocket;

/// One UDP socket and all connections over it, as client, as server or as both. Clones are handles to the same one. It
/// ends when all of them and all connections are gone.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: EndpointRef,
    client: Option<ClientConfig>,
}

impl Endpoint {
    /// An endpoint that only connects to others, from the local address `address`. From an IPv6 address it reaches IPv4 as
    /// well, where the system lets it.
    ///
    /// # Errors
    ///
    /// If the socket can't be had.
    pub fn client(address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6()
            && let Err(error) = socket.set_only_v6(false)
        {
            tracing::debug!(%error, "this socket is for IPv6 alone");
        }
        socket.bind(&address.into())?;
        Self::new(EndpointConfig::default(), None, socket.into())
    }

    /// An endpoint over `socket`, which takes connections if `server` says how.
    ///
    /// # Errors
    ///
    /// If the socket can't be used.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(
        config: EndpointConfig,
        server: Option<ServerConfig>,
        socket: std::net::UdpSocket,
    ) -> io::Result<Self> {
        let socket = UdpSocket::new(socket)?;
        let server = server.map(Arc::new);
        let inner = proto::Endpoint::new(Arc::new(config), server, !socket.may_fragment(), None);
        let inner = EndpointRef::new(socket, inner)?;
        let driver = driver::EndpointDriver(inner.clone());
        tokio::spawn(
            async {
                if let Err(error) = driver.await {
                    tracing::error!(%error, "an endpoint's socket failed");
                }
            }
            .instrument(Span::current()),
        );
        Ok(Self {
            inner,
            client: None,
        })
    }

    /// The next client that wants to connect; `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            {
                let mut state = self.inner.lock();
                if state.driver_lost {
                    return None;
                }
                if let Some(incoming) = state.incoming.pop_front() {
                    return Some(Incoming::new(incoming, self.inner.clone()));
                }
                if state.connections.close.is_some() {
                    return None;
                }
                // Made under the lock, so that no notice is missed.
                self.inner.shared.incoming.notified()
            }
            .await;
        }
    }

    /// Sets how [`Self::connect`] connects, from this handle.
    pub fn set_default_client_config(&mut self, config: ClientConfig) {
        self.client = Some(config);
    }

    /// Connects to the server at `address`, whose certificate has to be for `name`.
    ///
    /// # Errors
    ///
    /// If it can't even be tried: no configuration, an address or a name that can't be used, a closed endpoint. Whatever
    /// goes wrong later is what [`Connecting`] ends with.
    pub fn connect(&self, address: SocketAddr, name: &str) -> Result<Connecting, ConnectError> {
        let config = self.client.clone();
        let config = config.ok_or(ConnectError::NoDefaultClientConfig)?;
        let mut state = self.inner.lock();
        if state.driver_lost || state.connections.close.is_some() {
            return Err(ConnectError::EndpointStopping);
        }
        let address = match (state.ipv6, address) {
            (false, SocketAddr::V6(_)) => return Err(ConnectError::InvalidRemoteAddress(address)),
            (true, SocketAddr::V4(v4)) => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            _ => address,
        };
        let (handle, connection) = state.inner.connect(crate::now(), config, address, name)?;
        Ok(state.insert(handle, connection))
    }

    /// Closes all connections and takes and makes no more. See [`Connection::close`](crate::Connection::close).
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        let mut state = self.inner.lock();
        state.connections.close = Some((code, reason.clone()));
        for connection in state.connections.senders.values() {
            let reason = reason.clone();
            // One that is gone needs no closing.
            let _ = connection.send(ConnectionEvent::Close { code, reason });
        }
        self.inner.shared.incoming.notify_waiters();
    }

    /// Waits until no connection is left, so that peers of those that were closed could hear of it. It closes none and
    /// keeps none from coming.
    pub async fn wait_idle(&self) {
        loop {
            {
                let state = self.inner.lock();
                if state.connections.is_empty() {
                    return;
                }
                self.inner.shared.idle.notified()
            }
            .await;
        }
    }
}
