//! Tells which flows an exit opens and closes, for the provider's connection record.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ipsx_tunnel_core::{FlowProtocol, PeerId};
#[cfg(target_os = "linux")]
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{OwnedPermit, Sender};

/// A flow of an exit came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowEvent {
    /// It was opened; nothing of the peer's has left yet.
    Opened {
        /// Whose.
        peer: PeerId,
        /// Its number, of this endpoint's flows.
        flow: u64,
        /// What it is made of.
        protocol: FlowProtocol,
        /// Its port outside: with the exit's address, what the destination sees. The identifier of an echo.
        source_port: u16,
        /// Where it goes; an echo to port 0.
        destination: SocketAddr,
    },
    /// It is over.
    Closed {
        /// Whose.
        peer: PeerId,
        /// Its number.
        flow: u64,
        /// Bytes to the destination: of the payload with a userspace exit, of IP packets with a kernel exit.
        bytes_up: u64,
        /// Bytes from the destination.
        bytes_down: u64,
    },
    /// More flows came and went than a kernel exit could follow. Those that it finds later are told then; whether it
    /// finds them all is not certain.
    Overrun,
}

/// Where an exit tells of its flows; to nobody by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlowLog(Option<(Sender<FlowEvent>, Arc<AtomicU64>)>);

impl FlowLog {
    /// Tells `reader`. While the reader is so far behind that the channel is full, no flow is opened.
    pub(crate) fn to(reader: Sender<FlowEvent>) -> Self {
        Self(Some((reader, Arc::default())))
    }

    /// Tells of a new flow; `None` if it cannot be told, and must then be given up.
    pub(crate) fn open(
        &self,
        peer: PeerId,
        protocol: FlowProtocol,
        source_port: u16,
        destination: SocketAddr,
    ) -> Option<LoggedFlow> {
        let Some((reader, numbers)) = &self.0 else {
            return Some(LoggedFlow::default());
        };
        let (opened, closed) = (
            reader.clone().try_reserve_owned().ok()?,
            reader.clone().try_reserve_owned().ok()?,
        );
        let flow = next(numbers);
        opened.send(FlowEvent::Opened {
            peer,
            flow,
            protocol,
            source_port,
            destination,
        });
        Some(LoggedFlow {
            closing: Some((closed, peer, flow)),
            ..LoggedFlow::default()
        })
    }
}

/// What a kernel exit needs: the kernel opens the flows, so that they can only be told of afterwards.
#[cfg(target_os = "linux")]
impl FlowLog {
    /// Whether anybody reads.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a flow that opens now could be told.
    pub(crate) fn has_room(&self) -> bool {
        (self.0.as_ref()).is_none_or(|(reader, _)| reader.capacity() > 0 && !reader.is_closed())
    }

    /// A number for a flow.
    pub(crate) fn number(&self) -> u64 {
        self.0.as_ref().map_or(0, |(_, numbers)| next(numbers))
    }

    /// Tells an event; gives it back while there is no room.
    pub(crate) fn tell(&self, event: FlowEvent) -> Result<(), FlowEvent> {
        match self.0.as_ref().map(|(reader, _)| reader.try_send(event)) {
            Some(Err(TrySendError::Full(event))) => Err(event),
            // Without a reader there is nothing to tell.
            Some(Ok(()) | Err(TrySendError::Closed(_))) | None => Ok(()),
        }
    }
}

fn next(numbers: &AtomicU64) -> u64 {
    numbers.fetch_add(1, Ordering::Relaxed)
}

/// Counts what one flow moves, and tells of its end when it is dropped: room for that was kept when it was opened.
#[derive(Debug, Default)]
pub(crate) struct LoggedFlow {
    closing: Option<(OwnedPermit<FlowEvent>, PeerId, u64)>,
    /// Payload bytes to the destination.
    pub(crate) bytes_up: u64,
    /// Payload bytes from the destination.
    pub(crate) bytes_down: u64,
}

impl Drop for LoggedFlow {
    fn drop(&mut self) {
        if let Some((room, peer, flow)) = self.closing.take() {
            room.send(FlowEvent::Closed {
                peer,
                flow,
                bytes_up: self.bytes_up,
                bytes_down: self.bytes_down,
            });
        }
    }
}
