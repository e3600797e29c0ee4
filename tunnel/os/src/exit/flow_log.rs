//! Tells which flows an exit opens and closes, for the provider's connection record.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ipsx_tunnel_core::{PeerId, RuleProtocol};
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
        /// TCP or UDP.
        protocol: RuleProtocol,
        /// Port of the outside socket: with the exit's address, what the destination sees.
        source_port: u16,
        /// Where it goes.
        destination: SocketAddr,
    },
    /// It is over.
    Closed {
        /// Whose.
        peer: PeerId,
        /// Its number.
        flow: u64,
        /// Payload bytes to the destination.
        bytes_up: u64,
        /// Payload bytes from the destination.
        bytes_down: u64,
    },
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
        protocol: RuleProtocol,
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
        let flow = numbers.fetch_add(1, Ordering::Relaxed);
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
