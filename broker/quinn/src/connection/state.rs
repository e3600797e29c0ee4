// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.
//! What the task that drives a connection shares with the handles and streams of it.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use proto::{ConnectionError, ConnectionHandle, EndpointEvent, StreamId, VarInt};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Sleep;

use crate::events;
use crate::socket::{UdpSocket, Writable};

/// What an endpoint tells one of its connections.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    /// The endpoint is closed, and this connection with it.
    Close { code: VarInt, reason: Bytes },
    /// For the protocol: a packet came, or new connection ids are there.
    Proto(proto::ConnectionEvent),
}

/// How a connection hangs on its endpoint.
pub(crate) struct Origin {
    pub(crate) handle: ConnectionHandle,
    pub(crate) socket: Arc<UdpSocket>,
    /// What the endpoint says.
    pub(crate) events: events::Receiver<ConnectionEvent>,
    /// What it is told.
    pub(crate) endpoint: mpsc::UnboundedSender<(ConnectionHandle, EndpointEvent)>,
}

/// A reference to a connection that counts: when all but the driver's are gone, it is closed.
#[derive(Debug)]
pub(crate) struct ConnectionRef(Arc<ConnectionInner>);

#[derive(Debug)]
pub(crate) struct ConnectionInner {
    state: Mutex<State>,
    pub(crate) shared: Shared,
}

/// Where tasks wait without the lock.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// The peer allows more streams.
    pub(crate) stream_allowed: Notify,
    /// The peer opened a stream.
    pub(crate) stream_opened: Notify,
    /// A stream was read to its end or stopped by the peer.
    pub(crate) stream_ended: Notify,
    pub(crate) closed: Notify,
    /// References but the driver's.
    references: AtomicUsize,
}

pub(crate) struct State {
    pub(crate) inner: proto::Connection,
    pub(super) origin: Origin,
    pub(super) driver: Option<Waker>,
    /// Whoever waits for the handshake's end.
    pub(super) done: Option<oneshot::Sender<()>>,
    pub(super) connected: bool,
    /// Made when it is needed first.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    /// What the timer is set to.
    pub(super) deadline: Option<Instant>,
    pub(crate) blocked_writers: FxHashMap<StreamId, Waker>,
    pub(crate) blocked_readers: FxHashMap<StreamId, Waker>,
    /// Set before the connection is drained.
    pub(crate) error: Option<ConnectionError>,
    pub(super) send_buffer: Vec<u8>,
    /// What the socket did not take yet: it is the content of the buffer.
    pub(super) unsent: Option<proto::Transmit>,
    /// Set while the socket is full.
    pub(super) writable: Option<Writable>,
}

impl ConnectionRef {
    pub(super) fn new(inner: proto::Connection, origin: Origin, done: oneshot::Sender<()>) -> Self {
        Self(Arc::new(ConnectionInner {
            state: Mutex::new(State {
                inner,
                origin,
                driver: None,
                done: Some(done),
                connected: false,
                timer: None,
                deadline: None,
                blocked_writers: FxHashMap::default(),
                blocked_readers: FxHashMap::default(),
                error: None,
                send_buffer: Vec::new(),
                unsent: None,
                writable: None,
            }),
            shared: Shared::default(),
        }))
    }
}

impl Clone for ConnectionRef {
    fn clone(&self) -> Self {
        self.shared.references.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for ConnectionRef {
    fn drop(&mut self) {
        if self.shared.references.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        let mut state = self.lock();
        if !state.inner.is_closed() {
            // Only the driver is left, if that is: nobody can open or use a stream any more.
            state.close(0u32.into(), Bytes::new(), &self.shared);
        }
    }
}

impl Deref for ConnectionRef {
    type Target = ConnectionInner;

    fn deref(&self) -> &ConnectionInner {
        &self.0
    }
}

impl ConnectionInner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        crate::lock(&self.state)
    }
}

impl State {
    /// Lets the driver look at what was changed.
    pub(crate) fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    pub(super) fn wake_reader(&mut self, stream: StreamId) {
        if let Some(reader) = self.blocked_readers.remove(&stream) {
            reader.wake();
        }
    }

    pub(super) fn wake_writer(&mut self, stream: StreamId) {
        if let Some(writer) = self.blocked_writers.remove(&stream) {
            writer.wake();
        }
    }

    pub(super) fn close(&mut self, code: VarInt, reason: Bytes, shared: &Shared) {
        self.inner.close(crate::now(), code, reason);
        self.terminate(ConnectionError::LocallyClosed, shared);
        self.wake();
    }

    /// Tells everybody who waits that the connection is over.
    pub(super) fn terminate(&mut self, error: ConnectionError, shared: &Shared) {
        self.error = Some(error);
        let blocked = self.blocked_writers.drain();
        let blocked = blocked.chain(self.blocked_readers.drain());
        blocked.for_each(|(_, waker)| waker.wake());
        shared.stream_allowed.notify_waiters();
        shared.stream_opened.notify_waiters();
        shared.stream_ended.notify_waiters();
        shared.closed.notify_waiters();
        // Nobody may wait for it any more.
        self.done.take().map(|done| done.send(()));
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if !self.inner.is_drained() {
            // The endpoint forgets the connection, unless it is gone itself.
            let _ = self
                .origin
                .endpoint
                .send((self.origin.handle, EndpointEvent::drained()));
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
