// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.
//! Handles to a connection: what the application calls.

mod driver;
mod state;

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use proto::crypto::ExportKeyingMaterialError;
use proto::{ConnectionError, Dir, StreamId, VarInt};
use tokio::sync::oneshot;
use tracing::{Instrument, debug_span};

pub(crate) use self::state::{ConnectionEvent, ConnectionRef, Origin};
use crate::recv_stream::RecvStream;
use crate::send_stream::SendStream;

/// A connection that is being made: a future that is ready with the [`Connection`] or why there is none.
#[derive(Debug)]
pub struct Connecting {
    connection: Option<ConnectionRef>,
    done: oneshot::Receiver<()>,
}

impl Connecting {
    /// Begins to drive `connection`.
    pub(crate) fn new(connection: proto::Connection, origin: Origin) -> Self {
        let (done_sender, done) = oneshot::channel();
        let span = debug_span!("drive", id = origin.handle.0);
        let connection = ConnectionRef::new(connection, origin, done_sender);
        let driver = driver::run(connection.clone());
        tokio::spawn(
            async {
                if let Err(error) = driver.await {
                    tracing::error!(%error, "a connection's socket failed");
                }
            }
            .instrument(span),
        );
        Self {
            connection: Some(connection),
            done,
        }
    }
}

impl Future for Connecting {
    type Output = Result<Connection, ConnectionError>;

    /// # Panics
    ///
    /// If polled again once it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.done).poll(cx).map(|_| {
            let connection = self
                .connection
                .take()
                .expect("not polled once it was ready");
            let state = connection.lock();
            if state.connected {
                drop(state);
                return Ok(Connection(connection));
            }
            let error = state.error.clone();
            Err(error.expect("a connection that was not made has an error"))
        })
    }
}

/// A QUIC connection. Clones are handles to the same one.
///
/// When every handle and every stream of it is dropped, it is closed with code 0 and no reason. Closing, either way,
/// gives up what the peer has not read yet: [`Connection::close`].
#[derive(Debug, Clone)]
pub struct Connection(ConnectionRef);

impl Connection {
    /// Opens a stream in both directions, when the peer allows one more.
    ///
    /// The peer hears of it when something is written; whoever opens a stream should be the one who writes first.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        loop {
            {
                let mut state = self.0.lock();
                if let Some(error) = &state.error {
                    return Err(error.clone());
                }
                if let Some(id) = state.inner.streams().open(Dir::Bi) {
                    return Ok(self.streams(id));
                }
                // Made under the lock, so that no notice is missed.
                self.0.shared.stream_allowed.notified()
            }
            .await;
        }
    }

    /// The next stream in both directions that the peer opened, in the order of their numbers. Streams that came before
    /// the connection was closed are still given out.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        loop {
            {
                let mut state = self.0.lock();
                if let Some(id) = state.inner.streams().accept(Dir::Bi) {
                    // The peer may open another one now, and is told so.
                    state.wake();
                    return Ok(self.streams(id));
                }
                if let Some(error) = &state.error {
                    return Err(error.clone());
                }
                self.0.shared.stream_opened.notified()
            }
            .await;
        }
    }

    fn streams(&self, id: StreamId) -> (SendStream, RecvStream) {
        (
            SendStream::new(self.0.clone(), id),
            RecvStream::new(self.0.clone(), id),
        )
    }

    /// Waits until the connection is closed and says why, which need not be an error: [`ConnectionError::LocallyClosed`],
    /// [`ConnectionError::ApplicationClosed`].
    pub async fn closed(&self) -> ConnectionError {
        loop {
            {
                let state = self.0.lock();
                if let Some(error) = &state.error {
                    return error.clone();
                }
                self.0.shared.closed.notified()
            }
            .await;
        }
    }

    /// Why the connection was closed; `None` while it is open.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.0.lock().error.clone()
    }

    /// Closes the connection at once; whatever waits for it fails with [`ConnectionError::LocallyClosed`].
    ///
    /// `code` and `reason` are for the peer's application; of the reason goes what fits one packet, about 1 KiB.
    ///
    /// The peer may drop what it was sent before and has not read, even what it has acknowledged. So only the side that
    /// read last knows that everything arrived, and should be the one that closes. [`Endpoint::wait_idle`] leaves the time
    /// for the peer to hear of it.
    ///
    /// [`Endpoint::wait_idle`]: crate::Endpoint::wait_idle
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        self.0.lock().close(code, reason, &self.0.shared);
    }

    /// The peer's address, which may change if `ServerConfig::migration` allows it.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.lock().inner.remote_address()
    }

    /// Fills `output` with bytes that both sides derive from the TLS session, and nobody else can (RFC 5705): the same ones
    /// for the same label, context and length.
    ///
    /// # Errors
    ///
    /// If more is asked than the session can give.
    pub fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let state = self.0.lock();
        state
            .inner
            .crypto_session()
            .export_keying_material(output, label, context)
    }
}
