// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.

use std::future::poll_fn;
use std::task::{Context, Poll};

use proto::{ClosedStream, ConnectionError, FinishError, StreamId, VarInt};
use thiserror::Error;

use crate::connection::ConnectionRef;

/// The end of a stream that is written to.
///
/// Dropped, it is [finished](Self::finish), and what was written still goes out while the connection lives.
#[derive(Debug)]
pub struct SendStream {
    connection: ConnectionRef,
    id: StreamId,
}

impl SendStream {
    pub(crate) fn new(connection: ConnectionRef, id: StreamId) -> Self {
        Self { connection, id }
    }

    /// Writes all of `bytes`, waiting while the windows are full. If the future is dropped before, a part may have been
    /// written.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, WriteError>> {
        let mut state = self.connection.lock();
        if let Some(error) = &state.error {
            return Poll::Ready(Err(error.clone().into()));
        }
        let written = state.inner.send_stream(self.id).write(bytes);
        match written {
            Ok(written) => {
                state.wake();
                Poll::Ready(Ok(written))
            }
            Err(proto::WriteError::Blocked) => {
                state.blocked_writers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
            Err(proto::WriteError::Stopped(code)) => Poll::Ready(Err(WriteError::Stopped(code))),
            Err(proto::WriteError::ClosedStream) => Poll::Ready(Err(WriteError::ClosedStream)),
        }
    }

    /// Tells the peer that nothing more will be written.
    ///
    /// # Errors
    ///
    /// If it was told before.
    pub fn finish(&mut self) -> Result<(), ClosedStream> {
        let mut state = self.connection.lock();
        match state.inner.send_stream(self.id).finish() {
            Ok(()) => {
                state.wake();
                Ok(())
            }
            Err(FinishError::ClosedStream) => Err(ClosedStream::default()),
            // Harmless; `stopped` tells whoever wants to know.
            Err(FinishError::Stopped(_)) => Ok(()),
        }
    }

    /// Waits until the peer has stopped the stream, with its code, or has acknowledged all of a finished one: `None`.
    /// Acknowledged means received, not read.
    pub async fn stopped(&self) -> Result<Option<VarInt>, ConnectionError> {
        loop {
            {
                let mut state = self.connection.lock();
                match state.inner.send_stream(self.id).stopped() {
                    Err(ClosedStream { .. }) => return Ok(None),
                    Ok(Some(code)) => return Ok(Some(code)),
                    Ok(None) => {}
                }
                if let Some(error) = &state.error {
                    return Err(error.clone());
                }
                self.connection.shared.stream_ended.notified()
            }
            .await;
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        state.blocked_writers.remove(&self.id);
        if state.error.is_some() {
            return;
        }
        let mut stream = state.inner.send_stream(self.id);
        match stream.finish() {
            Ok(()) => state.wake(),
            Err(FinishError::Stopped(code)) => {
                if stream.reset(code).is_ok() {
                    state.wake();
                }
            }
            Err(FinishError::ClosedStream) => {}
        }
    }
}

/// Why nothing can be written to a stream.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum WriteError {
    /// The peer wants no more of it, with a code of the application's.
    #[error("sending stopped by peer: error {0}")]
    Stopped(VarInt),
    /// The connection is over.
    #[error("connection lost")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was finished.
    #[error("closed stream")]
    ClosedStream,
}
