//! Agents over QUIC: listening, the handshake, and one stream of messages each way for each.

mod listener;
mod registry;
mod session;

pub(crate) use listener::{Listener, close};
pub(crate) use registry::Registry;
pub(crate) use session::Limits;
