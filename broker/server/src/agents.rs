//! Agents over QUIC: listening, the handshake, and one stream of messages each way for each.

mod gate;
mod listener;
mod outbox;
mod registry;
mod resets;
mod session;
mod tls;

pub(crate) use gate::{Limits, prefix};
pub(crate) use listener::{Listener, close, run};
pub(crate) use outbox::Outbox;
pub(crate) use registry::{Farewell, Line, Registry, code};
