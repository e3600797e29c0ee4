//! What can go wrong with a plain interface.

use std::io;

use crate::{error::TunnelError, tun::TunError, uapi_socket::UapiSocketError};

/// Why an interface could not be made, or has gone.
#[derive(Debug, thiserror::Error)]
pub enum BareError {
    /// The interface could not be made.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The control socket could not be made.
    #[error(transparent)]
    Control(#[from] UapiSocketError),
    /// The outer UDP sockets could not be opened.
    #[error(transparent)]
    Udp(#[from] TunnelError),
    /// The workers may not be real-time threads.
    #[error(
        "the threads that move packets can't run ahead of others: {0}; that takes the capability CAP_SYS_NICE (or root), \
         or leave --realtime out"
    )]
    Realtime(#[source] io::Error),
    /// The system gave no randomness.
    #[error("the system's random source failed: {0}")]
    Random(#[from] rand::Error),
    /// The event loop could not be set up, or failed.
    #[error("the interface's event loop failed: {0}")]
    Start(#[source] io::Error),
    /// Somebody deleted the interface.
    #[error("the interface {0} was deleted")]
    Gone(String),
}
