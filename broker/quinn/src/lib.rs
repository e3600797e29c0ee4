//! QUIC (RFC 9000) over tokio's sockets and timers, cut down to what ipsx's agents and brokers use: connections with
//! bidirectional streams, as client and as server. The protocol itself is `quinn-proto`'s; this crate feeds it packets
//! and time.
//!
//! One task drives each [`Endpoint`]: it reads the socket and hands each packet to its connection. One task drives each
//! [`Connection`]: it sends what the protocol has to send and keeps its timer. Both end by themselves.
//!
//! From quinn 0.11.12, © 2018 The quinn Developers, under MIT or Apache-2.0; what was cut and changed is in `CHANGES.md`.
#![allow(clippy::disallowed_types, reason = "a shell owns sockets")]

mod connection;
mod endpoint;
mod events;
mod incoming;
mod recv_stream;
mod send_stream;
mod socket;
#[cfg(test)]
mod tests;
mod work_limiter;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use proto::{
    ApplicationClose, ClientConfig, ClosedStream, ConnectError, ConnectionError, ConnectionId,
    EndpointConfig, ServerConfig, TransportConfig, VarInt, VarIntBoundsExceeded, crypto,
};

pub use crate::connection::{Connecting, Connection};
pub use crate::endpoint::Endpoint;
pub use crate::incoming::{Incoming, IncomingFuture, RetryError};
pub use crate::recv_stream::{ReadError, ReadExactError, RecvStream};
pub use crate::send_stream::{SendStream, WriteError};

/// The clock that tokio's timers go by.
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// After a panic a task is gone, and its end tells everybody who waits for it; they need the lock for that.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
