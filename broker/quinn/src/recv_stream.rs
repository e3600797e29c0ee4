// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use proto::{ConnectionError, ReadableError, StreamId, VarInt};
use thiserror::Error;

use crate::connection::ConnectionRef;

/// The end of a stream that is read.
///
/// Dropped before its end, it is stopped: the peer need not send the rest.
#[derive(Debug)]
pub struct RecvStream {
    connection: ConnectionRef,
    id: StreamId,
    /// Whether there is nothing more to come.
    ended: bool,
}

impl RecvStream {
    pub(crate) fn new(connection: ConnectionRef, id: StreamId) -> Self {
        Self {
            connection,
            id,
            ended: false,
        }
    }

    /// Fills `buffer`. If the future is dropped before, what was read is lost.
    pub async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ReadExactError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(bytes) = self.read_chunk(buffer.len() - filled).await? else {
                return Err(ReadExactError::FinishedEarly(filled));
            };
            buffer[filled..filled + bytes.len()].copy_from_slice(&bytes);
            filled += bytes.len();
        }
        Ok(())
    }

    /// The next bytes, at most `most`, as they came in packets; `None` at the stream's end. Nothing is lost if the future is
    /// dropped before.
    pub async fn read_chunk(&mut self, most: usize) -> Result<Option<Bytes>, ReadError> {
        poll_fn(|cx| self.poll_read(cx, most)).await
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let mut state = self.connection.lock();
        let mut stream = state.inner.recv_stream(self.id);
        let mut chunks = match stream.read(true) {
            Ok(chunks) => chunks,
            Err(ReadableError::ClosedStream) => return Poll::Ready(Err(ReadError::ClosedStream)),
            Err(ReadableError::IllegalOrderedRead) => unreachable!("all reads are in order"),
        };
        let next = chunks.next(most);
        // The peer may be owed more room in the windows.
        if chunks.finalize().should_transmit() {
            state.wake();
        }
        match next {
            Ok(Some(chunk)) => Poll::Ready(Ok(Some(chunk.bytes))),
            Ok(None) => {
                self.ended = true;
                Poll::Ready(Ok(None))
            }
            Err(proto::ReadError::Reset(code)) => {
                self.ended = true;
                Poll::Ready(Err(ReadError::Reset(code)))
            }
            Err(proto::ReadError::Blocked) => {
                if let Some(error) = &state.error {
                    return Poll::Ready(Err(error.clone().into()));
                }
                state.blocked_readers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        state.blocked_readers.remove(&self.id);
        if self.ended || state.error.is_some() {
            return;
        }
        // Of one that is closed already nothing is to be said.
        if state.inner.recv_stream(self.id).stop(0u32.into()).is_ok() {
            state.wake();
        }
    }
}

/// Why nothing can be read from a stream.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// The peer gave it up, with a code of the application's.
    #[error("stream reset by peer: error {0}")]
    Reset(VarInt),
    /// The connection is over.
    #[error("connection lost")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was read to its end or given up before.
    #[error("closed stream")]
    ClosedStream,
}

/// Why fewer bytes could be read than were wanted.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ReadExactError {
    /// The stream ended after so many.
    #[error("stream finished early ({0} bytes read)")]
    FinishedEarly(usize),
    /// It can't be read.
    #[error(transparent)]
    ReadError(#[from] ReadError),
}
