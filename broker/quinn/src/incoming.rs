// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use proto::ConnectionError;
use thiserror::Error;

use crate::connection::{Connecting, Connection};
use crate::endpoint::EndpointRef;

/// A client that wants to connect, before anything was done about it. Awaited, it becomes a [`Connection`]; dropped, it
/// is refused.
#[derive(Debug)]
pub struct Incoming {
    undecided: Option<proto::Incoming>,
    endpoint: EndpointRef,
}

impl Incoming {
    pub(crate) fn new(incoming: proto::Incoming, endpoint: EndpointRef) -> Self {
        Self {
            undecided: Some(incoming),
            endpoint,
        }
    }

    fn undecided(&self) -> &proto::Incoming {
        let undecided = self.undecided.as_ref();
        undecided.expect("whatever decides takes all of it")
    }

    /// Where the client says that it is.
    pub fn remote_address(&self) -> SocketAddr {
        self.undecided().remote_address()
    }

    /// Whether the client has shown that it is there: it has answered something that was sent to its address.
    pub fn remote_address_validated(&self) -> bool {
        self.undecided().remote_address_validated()
    }

    /// Tells the client that it is not wanted.
    pub fn refuse(self) {
        drop(self);
    }

    /// Asks the client to come again with a token that only its address is told (RFC 9000 §8.1.2).
    ///
    /// # Errors
    ///
    /// If it has come with one already, which may be so only if its address is validated; it is refused.
    pub fn retry(mut self) -> Result<(), RetryError> {
        match self.undecided.take() {
            Some(incoming) => self.endpoint.retry(incoming),
            None => Ok(()),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(incoming) = self.undecided.take() {
            self.endpoint.refuse(incoming);
        }
    }
}

impl IntoFuture for Incoming {
    type Output = Result<Connection, ConnectionError>;
    type IntoFuture = IncomingFuture;

    fn into_future(mut self) -> IncomingFuture {
        let incoming = self.undecided.take();
        let incoming = incoming.expect("whatever decides takes all of it");
        IncomingFuture(self.endpoint.accept(incoming))
    }
}

/// An [`Incoming`] that was accepted: ready with the connection or why there is none.
#[derive(Debug)]
pub struct IncomingFuture(Result<Connecting, ConnectionError>);

impl Future for IncomingFuture {
    type Output = Result<Connection, ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(connecting) => Pin::new(connecting).poll(cx),
            Err(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

/// The client has come with a token already.
#[derive(Debug, Error)]
#[error("the client was asked before to come again")]
pub struct RetryError;
