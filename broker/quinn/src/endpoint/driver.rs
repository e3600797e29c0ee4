// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.
//! The task that drives an endpoint: packets from the socket to their connections, and what connections say to it.

use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use proto::DatagramEvent;
use udp::{BATCH_SIZE, RecvMeta};

use super::state::{EndpointRef, Shared, State, respond};
use crate::socket::{self, UdpSocket};

/// Events that are handled in one turn, so that others have theirs.
const EVENTS: usize = 160;
/// How long one turn reads the socket: a batch of 32 packets takes some systems 30 µs.
pub(super) const RECEIVE_TIME: Duration = Duration::from_micros(50);

/// Ready when all handles and connections are gone.
#[derive(Debug)]
pub(super) struct EndpointDriver(pub(super) EndpointRef);

impl Future for EndpointDriver {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = &self.0.shared;
        let mut state = self.0.lock();
        if state.driver.is_none() {
            state.driver = Some(cx.waker().clone());
        }
        let mut more = state.receive(cx)?;
        more |= state.hear_connections(shared, cx);
        if !state.incoming.is_empty() {
            shared.incoming.notify_waiters();
        }
        if shared.references.load(Ordering::Relaxed) == 0 && state.connections.is_empty() {
            return Poll::Ready(Ok(()));
        }
        // Whoever is woken wants the lock.
        drop(state);
        if more {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for EndpointDriver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.driver_lost = true;
        // Connections that are left end when they see that their endpoint is gone.
        state.connections.senders.clear();
        self.0.shared.incoming.notify_waiters();
        self.0.shared.idle.notify_waiters();
    }
}

impl State {
    /// Reads the socket until it is empty, or for [`RECEIVE_TIME`]: then there may be more, and it returns true.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let now = crate::now();
        self.receive_limiter.start_cycle(crate::now);
        let socket = Arc::clone(&self.socket);
        let mut buffer = std::mem::take(&mut self.receive_buffer);
        let received = self.receive_into(&mut buffer, &socket, now, cx);
        self.receive_buffer = buffer;
        self.receive_limiter.finish_cycle(crate::now);
        received
    }

    fn receive_into(
        &mut self,
        buffer: &mut [u8],
        socket: &UdpSocket,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut buffers = buffer
            .chunks_mut(buffer.len() / BATCH_SIZE)
            .map(IoSliceMut::new);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| buffers.next().expect("as many as it was cut into"));
        loop {
            let received = match socket.poll_recv(cx, &mut buffers, &mut metas) {
                Poll::Ready(received) => received?,
                Poll::Pending => return Ok(false),
            };
            self.receive_limiter.record_work(received);
            for (meta, buffer) in metas.iter().zip(&buffers).take(received) {
                let mut packets = BytesMut::from(&buffer[..meta.len]);
                while !packets.is_empty() {
                    let packet = packets.split_to(meta.stride.min(packets.len()));
                    self.take(packet, meta, now);
                }
            }
            if !self.receive_limiter.allow_work(crate::now) {
                return Ok(true);
            }
        }
    }

    /// Takes one packet.
    fn take(&mut self, packet: BytesMut, meta: &RecvMeta, now: Instant) {
        let mut buffer = Vec::new();
        let ecn = socket::ecn(meta);
        let event = self
            .inner
            .handle(now, meta.addr, meta.dst_ip, ecn, packet, &mut buffer);
        match event {
            Some(DatagramEvent::NewConnection(incoming)) => {
                if self.connections.close.is_none() {
                    self.incoming.push_back(incoming);
                } else {
                    self.refuse(incoming);
                }
            }
            Some(DatagramEvent::ConnectionEvent(connection, event)) => {
                self.connections.tell(connection, event);
            }
            Some(DatagramEvent::Response(response)) => respond(&self.socket, &response, &buffer),
            None => {}
        }
    }

    /// Hears what connections say; true if there may be more.
    fn hear_connections(&mut self, shared: &Shared, cx: &mut Context<'_>) -> bool {
        for _ in 0..EVENTS {
            let (connection, event) = match self.events.poll_recv(cx) {
                Poll::Ready(Some(said)) => said,
                Poll::Ready(None) => unreachable!("the endpoint holds a sender itself"),
                Poll::Pending => return false,
            };
            if event.is_drained() {
                self.connections.senders.remove(&connection);
                if self.connections.is_empty() {
                    shared.idle.notify_waiters();
                }
            }
            if let Some(answer) = self.inner.handle_event(connection, event) {
                self.connections.tell(connection, answer);
            }
        }
        true
    }
}
