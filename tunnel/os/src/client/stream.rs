//! A TCP connection through the tunnel, as the program sees it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Command;
use crate::link::Link;

/// Bytes between a program and the tunnel, in each direction.
pub(super) const CAPACITY: usize = 256 << 10;

/// Why a connection through the tunnel was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The destination refused.
    #[error("the destination refused the connection")]
    Refused,
    /// The exit's policy refused.
    #[error("the provider's exit policy does not allow this destination")]
    Prohibited,
    /// The destination does not answer.
    #[error("the destination host can't be reached from the provider")]
    HostUnreachable,
    /// The provider has no route there.
    #[error("the destination network can't be reached from the provider")]
    NetworkUnreachable,
    /// Nobody answered in time.
    #[error("the destination did not answer in time")]
    TimedOut,
    /// The tunnel has no address of the destination's family.
    #[error("the tunnel has no IPv6 address of its own, and the destination is an IPv6 address")]
    NoAddress,
    /// No local port is free.
    #[error("too many connections to this destination at once")]
    NoPort,
    /// The tunnel has been shut down.
    #[error("the tunnel has been shut down")]
    Stopped,
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match error {
            ConnectError::Refused => io::ErrorKind::ConnectionRefused,
            ConnectError::Prohibited => io::ErrorKind::PermissionDenied,
            ConnectError::HostUnreachable => io::ErrorKind::HostUnreachable,
            ConnectError::NetworkUnreachable => io::ErrorKind::NetworkUnreachable,
            ConnectError::TimedOut => io::ErrorKind::TimedOut,
            ConnectError::NoAddress | ConnectError::NoPort => io::ErrorKind::AddrNotAvailable,
            ConnectError::Stopped => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}

/// What a stream and the event loop share.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    /// From the tunnel to the program.
    pub(super) inbox: VecDeque<u8>,
    /// From the program to the tunnel.
    pub(super) outbox: VecDeque<u8>,
    /// How opening ended, once it has.
    pub(super) opened: Option<Result<(), ConnectError>>,
    /// The other side has ended its direction, and all of it is in the inbox.
    pub(super) read_ended: bool,
    /// The program has ended its direction.
    pub(super) write_ended: bool,
    /// The connection broke.
    pub(super) broken: bool,
    /// The program let go of the stream.
    pub(super) dropped: bool,
    /// The loop left bytes in its own buffer because the inbox was full.
    pub(super) stalled: bool,
    /// The loop has been told and has not looked yet.
    pub(super) told: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Pipe {
    /// Wakes whoever waits for anything.
    pub(super) fn wake_all(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }

    /// Breaks the connection off.
    pub(super) fn fail(&mut self, error: ConnectError) {
        self.opened.get_or_insert(Err(error));
        self.broken = true;
        self.wake_all();
    }
}

/// Locks a pipe. Nothing that holds the lock can panic half-way, so a poisoned one is still whole.
pub(super) fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TCP connection through the tunnel. Dropping it sends what was written and closes it.
pub struct TunnelStream {
    id: u64,
    pipe: Arc<Mutex<Pipe>>,
    link: Link<Command>,
    remote: SocketAddr,
}

impl TunnelStream {
    pub(super) fn new(
        id: u64,
        pipe: Arc<Mutex<Pipe>>,
        link: Link<Command>,
        remote: SocketAddr,
    ) -> Self {
        Self {
            id,
            pipe,
            link,
            remote,
        }
    }

    /// The destination.
    pub fn remote_addr(&self) -> SocketAddr {
        self.remote
    }

    pub(super) async fn connected(&self) -> Result<(), ConnectError> {
        poll_fn(|cx| {
            let mut pipe = lock(&self.pipe);
            match pipe.opened {
                Some(result) => Poll::Ready(result),
                None => {
                    pipe.writer = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Tells the loop to look at the pipe, once until it has looked.
    fn tell(&self, mut pipe: MutexGuard<'_, Pipe>) {
        let told = std::mem::replace(&mut pipe.told, true);
        drop(pipe);
        if !told && self.link.send(Command::Touched(self.id)).is_err() {
            lock(&self.pipe).fail(ConnectError::Stopped);
        }
    }
}

impl std::fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelStream")
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.pipe);
        if pipe.inbox.is_empty() {
            if pipe.read_ended {
                return Poll::Ready(Ok(()));
            }
            if pipe.broken {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while buffer.remaining() > 0 && !pipe.inbox.is_empty() {
            let (front, _) = pipe.inbox.as_slices();
            let count = front.len().min(buffer.remaining());
            buffer.put_slice(&front[..count]);
            pipe.inbox.drain(..count);
        }
        if pipe.stalled && pipe.inbox.len() <= CAPACITY / 2 {
            pipe.stalled = false;
            self.tell(pipe);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.pipe);
        if pipe.broken || pipe.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = data.len().min(CAPACITY.saturating_sub(pipe.outbox.len()));
        if count == 0 && !data.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.outbox.extend(&data[..count]);
        self.tell(pipe);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Written bytes are on their way already.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.pipe);
        if !pipe.write_ended {
            pipe.write_ended = true;
            self.tell(pipe);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let mut pipe = lock(&self.pipe);
        pipe.dropped = true;
        pipe.write_ended = true;
        self.tell(pipe);
    }
}
