//! What a provider's event loop does.

use std::{
    ops::ControlFlow,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ipsx_stun::{Message, Transaction};
use ipsx_tunnel_core::{DeviceEvent, DropReason, Inbound, Reflection, uapi::respond_watch};
use mio::event::Event;
use rand::RngCore;
use tokio::sync::{mpsc, oneshot};

use super::{Command, ProviderEvent};
use crate::{
    engine::{Context, Role},
    exit::Exit,
    relays::Relays,
};

pub(super) struct ProviderRole<E> {
    exit: E,
    events: mpsc::Sender<ProviderEvent>,
    reflection: Option<Reflection>,
    relays: Relays,
    /// Answered by dropping it, when the loop and its sockets are gone.
    shutdown: Option<oneshot::Sender<()>>,
}

impl<E: Exit> ProviderRole<E> {
    pub(super) fn new(exit: E, events: mpsc::Sender<ProviderEvent>) -> Self {
        Self {
            exit,
            events,
            reflection: None,
            relays: Relays::default(),
            shutdown: None,
        }
    }

    fn report(&mut self, event: ProviderEvent, cx: &mut Context<'_>) {
        let control = matches!(event, ProviderEvent::Control { .. });
        if self.events.try_send(event).is_err() && control {
            cx.drops.add(DropReason::ControlBacklog);
        }
    }
}

impl<E: Exit> Role for ProviderRole<E> {
    type Command = Command;

    fn handle_command(&mut self, command: Command, cx: &mut Context<'_>) -> ControlFlow<()> {
        // Whoever asked may have stopped waiting for the answer.
        match command {
            Command::AddPeer(config, egress, policy, reply) => {
                let added = cx.device.add_peer(*config, cx.now);
                if let Ok(peer) = added {
                    self.exit.add_peer(peer, egress, policy);
                }
                drop(reply.send(added));
            }
            Command::RemovePeer(peer, reply) => {
                self.exit.remove_peer(peer, cx);
                let _ = reply.send(cx.device.remove_peer(peer));
            }
            Command::SetGate(peer, gate) => {
                let _ = cx.device.set_gate(peer, gate, cx.now);
            }
            Command::SetCapacity(rates) => cx.device.set_capacity(rates, cx.now),
            Command::SetWeights(peer, weights) => {
                let _ = cx.device.set_weights(peer, weights);
            }
            Command::Status(peer, reply) => {
                let _ = reply.send(cx.device.status(peer));
            }
            Command::SendControl(peer, payload) => {
                let _ = cx.device.send_control(peer, &payload, cx.now);
            }
            Command::Reflect(reflector, asks) => {
                self.reflection = Some(Reflection::new(reflector, asks, cx.now));
            }
            Command::Punch(to) => {
                let transaction = Transaction::from(rand::rngs::OsRng.next_u64());
                cx.device
                    .send_stun(to, &Message::Indication.write(transaction));
            }
            Command::JoinRelay(relay) => self.relays.join(relay, cx.now),
            Command::LeaveRelay(address) => self.relays.leave(address),
            Command::Dropped(reply) => {
                let mut counts = cx.device.dropped().clone();
                counts.merge(cx.drops);
                drop(reply.send(counts));
            }
            Command::Describe(port, reply) => {
                let since_epoch = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let text = respond_watch(port, cx.device, |at| {
                    since_epoch.saturating_sub(cx.now.saturating_duration_since(at))
                });
                drop(reply.send(text));
            }
            Command::Shutdown(reply) => {
                self.shutdown = reply;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn handle_inbound(&mut self, inbound: Inbound<'_>, cx: &mut Context<'_>) {
        match inbound {
            Inbound::Packet { peer, packet } => match self.exit.handle_packet(peer, packet, cx) {
                Ok(()) => cx.device.count_received(peer, packet.len()),
                Err(reason) => {
                    tracing::trace!(%peer, %reason, "packet dropped");
                    cx.drops.add(reason);
                }
            },
            Inbound::Control { peer, payload } => {
                self.report(
                    ProviderEvent::Control {
                        peer,
                        payload: payload.to_vec(),
                    },
                    cx,
                );
            }
            Inbound::Stun { from, message } => {
                if self.relays.handle_stun(from, message, cx) {
                    return;
                }
                let reflection = self.reflection.as_mut();
                let heard = reflection.and_then(|r| r.handle_message(from, message, cx.now));
                match heard {
                    Some(heard) => self.report(ProviderEvent::Reflected(heard), cx),
                    None => cx.drops.add(DropReason::NotWireGuard),
                }
            }
        }
    }

    fn handle_event(&mut self, event: DeviceEvent, cx: &mut Context<'_>) {
        let event = match event {
            DeviceEvent::Handshaked { peer, endpoint } => {
                ProviderEvent::Handshaked { peer, endpoint }
            }
            DeviceEvent::Roamed { peer, endpoint } => ProviderEvent::Roamed { peer, endpoint },
        };
        self.report(event, cx);
    }

    fn handle_io(&mut self, event: &Event, cx: &mut Context<'_>) {
        self.exit.handle_io(event, cx);
    }

    fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        if let Some(reflection) = &mut self.reflection {
            cx.ask(reflection);
        }
        self.relays.handle_timeout(cx);
        self.exit.handle_timeout(cx);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let ask = self.reflection.as_ref().and_then(Reflection::poll_timeout);
        let times = [ask, self.relays.poll_timeout(), self.exit.poll_timeout()];
        times.into_iter().flatten().min()
    }

    fn service(&mut self, cx: &mut Context<'_>) -> bool {
        self.exit.service(cx)
    }
}
