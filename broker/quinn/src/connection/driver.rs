// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.
//! The task that drives a connection: events of its endpoint in, packets out, the timer.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use proto::{ConnectionError, Dir, StreamEvent, TransportError, TransportErrorCode};
use tokio::time::{Instant, sleep_until};

use super::state::{ConnectionEvent, ConnectionRef, Shared, State};

/// Packets that one call may send: ten are nearly as fast as more, and each takes room in the buffer.
const MAX_TRANSMIT_SEGMENTS: usize = 10;

/// Runs until the connection is drained, which is a while after it was closed: packets that are still on their way are
/// taken as its own.
///
/// # Errors
///
/// If the socket fails.
pub(super) async fn run(connection: ConnectionRef) -> io::Result<()> {
    poll_fn(|cx| connection.lock().drive(&connection.shared, cx)).await
}

impl State {
    fn drive(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Err(error) = self.hear_endpoint(shared, cx) {
            self.terminate(error, shared);
            return Poll::Ready(Ok(()));
        }
        self.transmit(cx)?;
        let expired = self.keep_time(cx);
        self.tell_endpoint();
        self.tell_application(shared);
        if self.inner.is_drained() {
            return Poll::Ready(Ok(()));
        }
        if expired {
            // What expired may have something to send, and that may set the timer anew.
            cx.waker().wake_by_ref();
        } else {
            self.driver = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// # Errors
    ///
    /// If the endpoint is gone.
    fn hear_endpoint(
        &mut self,
        shared: &Shared,
        cx: &mut Context<'_>,
    ) -> Result<(), ConnectionError> {
        loop {
            match self.origin.events.poll_recv(cx) {
                Poll::Ready(Some(ConnectionEvent::Proto(event))) => self.inner.handle_event(event),
                Poll::Ready(Some(ConnectionEvent::Close { code, reason })) => {
                    self.close(code, reason, shared);
                }
                Poll::Ready(None) => {
                    return Err(ConnectionError::TransportError(TransportError {
                        code: TransportErrorCode::INTERNAL_ERROR,
                        frame: None,
                        reason: "the endpoint is gone".into(),
                    }));
                }
                Poll::Pending => return Ok(()),
            }
        }
    }

    fn tell_endpoint(&mut self) {
        while let Some(event) = self.inner.poll_endpoint_events() {
            // If the endpoint is gone, the next turn says so.
            let _ = self.origin.endpoint.send((self.origin.handle, event));
        }
    }

    /// Sends all that the protocol wants to send now, or what the socket takes. The windows and the protocol's pacing bound
    /// how much that is.
    fn transmit(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let segments = self.origin.socket.max_transmit_segments();
        let segments = segments.min(MAX_TRANSMIT_SEGMENTS);
        loop {
            if let Some(writable) = &mut self.writable {
                match writable.as_mut().poll(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => return Ok(()),
                }
                self.writable = None;
            }
            let transmit = match self.unsent.take() {
                Some(transmit) => transmit,
                None => {
                    self.send_buffer.clear();
                    self.send_buffer.reserve(self.inner.current_mtu().into());
                    let buffer = &mut self.send_buffer;
                    match self.inner.poll_transmit(crate::now(), segments, buffer) {
                        Some(transmit) => transmit,
                        None => {
                            // Most connections are silent most of the time.
                            self.send_buffer = Vec::new();
                            return Ok(());
                        }
                    }
                }
            };
            match self.origin.socket.try_send(&transmit, &self.send_buffer) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent = Some(transmit);
                    self.writable = Some(self.origin.socket.clone().writable());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// True if a deadline has passed, and was handled.
    fn keep_time(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.inner.poll_timeout() else {
            self.deadline = None;
            return false;
        };
        // By the clock: tokio's timer may be pending after its time, when its task has used up its turn.
        if crate::now() < deadline {
            let at = Instant::from_std(deadline);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if self.deadline != Some(deadline) {
                timer.as_mut().reset(at);
                self.deadline = Some(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
        self.inner.handle_timeout(crate::now());
        self.deadline = None;
        true
    }

    fn tell_application(&mut self, shared: &Shared) {
        while let Some(event) = self.inner.poll() {
            match event {
                proto::Event::Connected => {
                    self.connected = true;
                    // Nobody may wait for it any more.
                    self.done.take().map(|done| done.send(()));
                }
                proto::Event::ConnectionLost { reason } => self.terminate(reason, shared),
                proto::Event::Stream(event) => self.tell_stream(event, shared),
                // What is not offered here.
                proto::Event::HandshakeDataReady
                | proto::Event::DatagramReceived
                | proto::Event::DatagramsUnblocked => {}
            }
        }
    }

    fn tell_stream(&mut self, event: StreamEvent, shared: &Shared) {
        match event {
            StreamEvent::Opened { dir: Dir::Bi } => shared.stream_opened.notify_waiters(),
            StreamEvent::Available { dir: Dir::Bi } => shared.stream_allowed.notify_waiters(),
            StreamEvent::Opened { dir: Dir::Uni } | StreamEvent::Available { dir: Dir::Uni } => {}
            StreamEvent::Readable { id } => self.wake_reader(id),
            StreamEvent::Writable { id } => self.wake_writer(id),
            StreamEvent::Finished { .. } => shared.stream_ended.notify_waiters(),
            StreamEvent::Stopped { id, .. } => {
                shared.stream_ended.notify_waiters();
                self.wake_writer(id);
            }
        }
    }
}
