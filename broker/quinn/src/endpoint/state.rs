// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.
//! What the task that drives an endpoint shares with the handles to it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use bytes::Bytes;
use proto::{ConnectionError, ConnectionHandle, EndpointEvent, VarInt};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc};
use udp::BATCH_SIZE;

use crate::connection::{Connecting, ConnectionEvent, Origin};
use crate::events;
use crate::incoming::RetryError;
use crate::socket::UdpSocket;
use crate::work_limiter::WorkLimiter;

/// A reference to an endpoint that counts: when all but the driver's are gone, it ends with its last connection.
#[derive(Debug)]
pub(crate) struct EndpointRef(Arc<EndpointInner>);

#[derive(Debug)]
pub(crate) struct EndpointInner {
    state: Mutex<State>,
    pub(super) shared: Shared,
}

/// Where tasks wait without the lock.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// A client wants to connect, or none will any more.
    pub(super) incoming: Notify,
    /// No connection is left.
    pub(super) idle: Notify,
    /// References but the driver's.
    pub(super) references: AtomicUsize,
}

pub(crate) struct State {
    pub(super) inner: proto::Endpoint,
    pub(super) socket: Arc<UdpSocket>,
    pub(super) ipv6: bool,
    /// Clients that nobody has looked at yet.
    pub(super) incoming: VecDeque<proto::Incoming>,
    pub(super) connections: Connections,
    /// What the connections say.
    pub(super) events: mpsc::UnboundedReceiver<(ConnectionHandle, EndpointEvent)>,
    pub(super) driver: Option<Waker>,
    pub(super) driver_lost: bool,
    pub(super) receive_buffer: Box<[u8]>,
    pub(super) receive_limiter: WorkLimiter,
}

#[derive(Debug)]
pub(super) struct Connections {
    pub(super) senders: FxHashMap<ConnectionHandle, events::Sender<ConnectionEvent>>,
    /// Each connection gets a clone.
    events: mpsc::UnboundedSender<(ConnectionHandle, EndpointEvent)>,
    /// Set once the endpoint is closed: with what its connections are.
    pub(super) close: Option<(VarInt, Bytes)>,
}

impl Connections {
    pub(super) fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    /// Hands on what is for one connection, which may be gone but for its last packets.
    pub(super) fn tell(&self, connection: ConnectionHandle, event: proto::ConnectionEvent) {
        if let Some(sender) = self.senders.get(&connection) {
            let _ = sender.send(ConnectionEvent::Proto(event));
        }
    }
}

impl EndpointRef {
    pub(super) fn new(socket: UdpSocket, inner: proto::Endpoint) -> io::Result<Self> {
        let largest = inner.config().get_max_udp_payload_size().min(64 * 1024);
        let largest = usize::try_from(largest).unwrap_or(64 * 1024);
        let room = largest * socket.max_receive_segments() * BATCH_SIZE;
        let (sender, events) = mpsc::unbounded_channel();
        Ok(Self(Arc::new(EndpointInner {
            state: Mutex::new(State {
                inner,
                ipv6: socket.is_ipv6()?,
                socket: Arc::new(socket),
                incoming: VecDeque::new(),
                connections: Connections {
                    senders: FxHashMap::default(),
                    events: sender,
                    close: None,
                },
                events,
                driver: None,
                driver_lost: false,
                receive_buffer: vec![0; room].into(),
                receive_limiter: WorkLimiter::new(super::driver::RECEIVE_TIME),
            }),
            shared: Shared::default(),
        })))
    }

    /// Takes a client.
    pub(crate) fn accept(&self, incoming: proto::Incoming) -> Result<Connecting, ConnectionError> {
        let mut state = self.lock();
        let mut buffer = Vec::new();
        match state
            .inner
            .accept(incoming, crate::now(), &mut buffer, None)
        {
            Ok((handle, connection)) => Ok(state.insert(handle, connection)),
            Err(error) => {
                if let Some(response) = error.response {
                    respond(&state.socket, &response, &buffer);
                }
                Err(error.cause)
            }
        }
    }

    /// Tells a client that it is not wanted.
    pub(crate) fn refuse(&self, incoming: proto::Incoming) {
        self.lock().refuse(incoming);
    }

    /// Asks a client to come again with a token, or refuses one that has.
    pub(crate) fn retry(&self, incoming: proto::Incoming) -> Result<(), RetryError> {
        let mut state = self.lock();
        let mut buffer = Vec::new();
        match state.inner.retry(incoming, &mut buffer) {
            Ok(response) => {
                respond(&state.socket, &response, &buffer);
                Ok(())
            }
            Err(error) => {
                state.refuse(error.into_incoming());
                Err(RetryError)
            }
        }
    }
}

impl Clone for EndpointRef {
    fn clone(&self) -> Self {
        self.shared.references.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for EndpointRef {
    fn drop(&mut self) {
        if self.shared.references.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        // Only the driver is left, if that is; it ends now unless there are connections.
        if let Some(driver) = self.lock().driver.take() {
            driver.wake();
        }
    }
}

impl Deref for EndpointRef {
    type Target = EndpointInner;

    fn deref(&self) -> &EndpointInner {
        &self.0
    }
}

impl EndpointInner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        crate::lock(&self.state)
    }
}

impl State {
    /// Begins to drive a connection.
    pub(super) fn insert(
        &mut self,
        handle: ConnectionHandle,
        connection: proto::Connection,
    ) -> Connecting {
        let (sender, events) = events::channel();
        if let Some((code, reason)) = self.connections.close.clone() {
            // The other end is in the line above.
            let _ = sender.send(ConnectionEvent::Close { code, reason });
        }
        self.connections.senders.insert(handle, sender);
        let origin = Origin {
            handle,
            socket: Arc::clone(&self.socket),
            events,
            endpoint: self.connections.events.clone(),
        };
        Connecting::new(connection, origin)
    }

    pub(super) fn refuse(&mut self, incoming: proto::Incoming) {
        let mut buffer = Vec::new();
        let response = self.inner.refuse(incoming, &mut buffer);
        respond(&self.socket, &response, &buffer);
    }
}

/// Sends what answers a packet of no connection, if the socket takes it. Whoever is worth an answer asks again, as after
/// any loss.
pub(super) fn respond(socket: &UdpSocket, response: &proto::Transmit, buffer: &[u8]) {
    let _ = socket.try_send(response, buffer);
}

impl Drop for State {
    fn drop(&mut self) {
        for incoming in self.incoming.drain(..) {
            self.inner.ignore(incoming);
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("inner", &self.inner)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}
