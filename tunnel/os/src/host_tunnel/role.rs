//! What the event loop of a tunnel with an interface does.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use ipsx_tunnel_core::{DeviceEvent, DropReason, Inbound, KnownFlows, PeerId};
use mio::event::Event;
use tokio::sync::{mpsc, oneshot};

use super::Command;
use crate::{
    client::{Calling, ClientEvent},
    engine::{Context, Role},
    tun::{self, Stop, Tun},
};

/// Packets or super-packets read from the interface before they are sent: together they fill the batches better.
const READS_PER_TURN: usize = 64;

/// Bytes to be sent at which a turn stops reading: two full batches, that stay in the processor's cache.
const BYTES_PER_TURN: usize = 128 << 10;

pub(super) struct HostRole {
    pub(super) peer: PeerId,
    pub(super) tun: Tun,
    pub(super) flows: KnownFlows,
    /// None once the interface is gone: the reader's end of it ends too.
    pub(super) events: Option<mpsc::Sender<ClientEvent>>,
    pub(super) calling: Calling,
    pub(super) gone: Arc<AtomicBool>,
    /// Answered by dropping it, when the loop, its socket and the interface are gone.
    pub(super) shutdown: Option<oneshot::Sender<()>>,
}

impl HostRole {
    /// Gathers a packet for the interface.
    fn deliver(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        self.flows.check_received(packet)?;
        match self.tun.slot(packet.len()) {
            Ok(slot) => slot[..packet.len()].copy_from_slice(packet),
            Err(stop) => {
                self.take(stop);
                return Err(DropReason::SocketFailed);
            }
        }
        self.tun.keep(packet.len());
        Ok(())
    }

    fn take(&mut self, stop: Stop) {
        if stop == Stop::Gone && self.events.take().is_some() {
            self.gone.store(true, Ordering::Release);
            tracing::warn!(interface = self.tun.name(), "the interface was deleted");
        }
    }

    /// Reads one packet or super-packet and sends it.
    fn send_one(&mut self, cx: &mut Context<'_>) -> Result<(), Stop> {
        let Self { tun, flows, .. } = self;
        let Context {
            device, drops, now, ..
        } = cx;
        tun.read(|segments| {
            if let Err(reason) = flows.note_sent(segments.packet(), *now) {
                drops.add(reason);
                return None;
            }
            tun::send(device, segments, *now)
        })
    }

    fn tell(&mut self, event: ClientEvent) -> Result<(), DropReason> {
        match self.events.as_ref().map(|events| events.try_send(event)) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => Err(DropReason::ControlBacklog),
        }
    }
}

impl Role for HostRole {
    type Command = Command;

    fn handle_command(&mut self, command: Command, cx: &mut Context<'_>) -> ControlFlow<()> {
        // Whoever asked may have stopped waiting for the answer.
        match command {
            Command::Status(reply) => {
                let _ = reply.send(self.calling.status(self.peer, cx));
            }
            Command::OwnTraffic(reply) => {
                let _ = reply.send(cx.device.own_traffic(cx.now));
            }
            Command::SendControl(payload) => {
                let _ = cx.device.send_control(self.peer, &payload, cx.now);
            }
            Command::Relay(relay) => self.calling.relay(relay, self.peer, cx),
            Command::Dropped(reply) => {
                let mut counts = cx.device.dropped().clone();
                counts.merge(cx.drops);
                drop(reply.send(counts));
            }
            Command::Shutdown(reply) => {
                self.shutdown = reply;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn handle_inbound(&mut self, inbound: Inbound<'_>, cx: &mut Context<'_>) {
        let taken = match inbound {
            Inbound::Packet { peer, packet } => self.deliver(packet).map(|()| {
                cx.device.count_received(peer, packet.len());
                cx.device.note_received(packet, cx.now);
            }),
            Inbound::Control { payload, .. } => self.tell(ClientEvent::Control {
                payload: payload.to_vec(),
            }),
            Inbound::Stun { from, message } => {
                self.calling.handle_stun(from, message, cx);
                Ok(())
            }
        };
        if let Err(reason) = taken {
            cx.drops.add(reason);
        }
    }

    fn handle_event(&mut self, event: DeviceEvent, cx: &mut Context<'_>) {
        if let DeviceEvent::Handshaked { endpoint, .. } = event {
            self.calling.answered(cx.now);
            // A reader that is this far behind learns the same from the status.
            let _ = self.tell(ClientEvent::Handshaked { endpoint });
        }
    }

    fn handle_io(&mut self, event: &Event, _cx: &mut Context<'_>) {
        self.tun.take_event(event);
    }

    fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.calling.handle_timeout(self.peer, cx);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.calling.poll_timeout()
    }

    fn service(&mut self, cx: &mut Context<'_>) -> bool {
        if let Err(stop) = self.tun.flush() {
            self.take(stop);
        }
        for _ in 0..READS_PER_TURN {
            if !self.tun.is_readable() || self.gone.load(Ordering::Relaxed) {
                return false;
            }
            if cx.device.transmit_backlog() >= BYTES_PER_TURN {
                break;
            }
            if let Err(stop) = self.send_one(cx) {
                self.take(stop);
            }
        }
        true
    }
}
