//! What a client's event loop does.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::ControlFlow,
    sync::Arc,
    time::Instant,
};

use ipsx_tunnel_core::{
    DeviceEvent, DropReason, Inbound, PeerId,
    packet::{Content, Headers},
};
use mio::event::Event;
use tokio::sync::{mpsc, oneshot};

use super::{
    ClientEvent, Command,
    calling::Calling,
    datagrams::ClientUdp,
    flows::ClientFlows,
    questions::Questions,
    stream::{ConnectError, lock},
};
use crate::{
    engine::{Context, Role},
    turns::TakeTurns,
};

/// Protocol number of TCP.
const TCP: u8 = 6;

/// Protocol number of UDP.
const UDP: u8 = 17;

/// The tunnel's addresses on the inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) inner_v4: Ipv4Addr,
    pub(super) inner_v6: Option<Ipv6Addr>,
    pub(super) gateway_v4: Ipv4Addr,
}

impl Addresses {
    fn inner_for(&self, destination: IpAddr) -> Option<IpAddr> {
        match destination {
            IpAddr::V4(_) => Some(IpAddr::V4(self.inner_v4)),
            IpAddr::V6(_) => self.inner_v6.map(IpAddr::V6),
        }
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.inner_for(address) == Some(address)
    }
}

pub(super) struct ClientRole {
    peer: PeerId,
    addresses: Addresses,
    flows: ClientFlows,
    udp: ClientUdp,
    questions: Questions,
    events: mpsc::Sender<ClientEvent>,
    calling: Calling,
    /// Answered by dropping it, when the loop and its socket are gone.
    shutdown: Option<oneshot::Sender<()>>,
}

impl ClientRole {
    pub(super) fn new(
        peer: PeerId,
        addresses: Addresses,
        window: usize,
        events: mpsc::Sender<ClientEvent>,
        calling: Calling,
    ) -> Self {
        let gateway = IpAddr::V4(addresses.gateway_v4);
        Self {
            peer,
            addresses,
            flows: ClientFlows::new(window),
            udp: ClientUdp::new(),
            questions: Questions::new(
                IpAddr::V4(addresses.inner_v4),
                addresses.inner_v6.is_some(),
                gateway,
            ),
            events,
            calling,
            shutdown: None,
        }
    }

    /// Delivers a packet to whoever opened its flow.
    fn deliver(&mut self, packet: &[u8], cx: &mut Context<'_>) -> Result<(), DropReason> {
        let headers = Headers::parse(packet)?;
        if !self.addresses.is_ours(headers.destination) {
            return Err(DropReason::NoRoute);
        }
        let known = match headers.content {
            Content::Tcp {
                source_port,
                destination_port,
                ..
            } => {
                let local = SocketAddr::new(headers.destination, destination_port);
                let remote = SocketAddr::new(headers.source, source_port);
                self.flows.handle_segment(local, remote, packet, cx)
            }
            Content::Udp {
                source_port,
                destination_port,
                payload_start,
                payload_end,
            } => {
                let from = SocketAddr::new(headers.source, source_port);
                let payload = &packet[payload_start..payload_end];
                self.udp
                    .handle_datagram(destination_port, from, payload, cx)
                    || self
                        .questions
                        .handle_answer(from, destination_port, payload, cx.now)
            }
            Content::EchoReply {
                identifier,
                sequence,
            } => self
                .questions
                .handle_echo(headers.source, identifier, sequence, cx.now),
            Content::Unreachable {
                reason,
                protocol: TCP,
                source,
                destination,
            } => self
                .flows
                .handle_unreachable(source, destination, reason, cx.now),
            Content::Unreachable {
                protocol: UDP,
                source,
                ..
            } => self.udp.owns(source.port()),
            _ => return Err(DropReason::UnsupportedProtocol),
        };
        if known {
            Ok(())
        } else {
            Err(DropReason::NoFlow)
        }
    }

    /// The inner address to call a destination from.
    fn source_for(&self, destination: SocketAddr) -> Result<IpAddr, ConnectError> {
        if destination.port() == 0 || destination.ip().is_unspecified() {
            return Err(ConnectError::HostUnreachable);
        }
        self.addresses
            .inner_for(destination.ip())
            .ok_or(ConnectError::NoAddress)
    }
}

impl Role for ClientRole {
    type Command = Command;

    fn handle_command(&mut self, command: Command, cx: &mut Context<'_>) -> ControlFlow<()> {
        // Whoever asked may have stopped waiting for the answer.
        match command {
            Command::Connect(id, destination, pipe) => {
                let opened = self.source_for(destination).and_then(|source| {
                    self.flows
                        .open(id, source, destination, Arc::clone(&pipe), cx.now)
                });
                if let Err(error) = opened {
                    lock(&pipe).fail(error);
                }
            }
            Command::BindUdp(id, incoming, waiting) => self.udp.bind(id, incoming, waiting),
            Command::SendUdp(id, datagram) => {
                let source = self.addresses.inner_for(datagram.0.ip());
                self.udp.send(id, source, &datagram, cx);
            }
            Command::CloseUdp(id) => self.udp.close(id, cx.now),
            Command::Touched(id) => self.flows.touched(id),
            Command::Resolve(host, reply) => self.questions.resolve(host, reply, cx),
            Command::Echo(reply) => self.questions.echo(reply, cx),
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
        match inbound {
            Inbound::Packet { peer, packet } => match self.deliver(packet, cx) {
                Ok(()) => {
                    cx.device.count_received(peer, packet.len());
                    cx.device.note_received(packet, cx.now);
                }
                Err(reason) => cx.drops.add(reason),
            },
            Inbound::Control { payload, .. } => {
                if self
                    .events
                    .try_send(ClientEvent::Control {
                        payload: payload.to_vec(),
                    })
                    .is_err()
                {
                    cx.drops.add(DropReason::ControlBacklog);
                }
            }
            Inbound::Stun { from, message } => self.calling.handle_stun(from, message, cx),
        }
    }

    fn handle_event(&mut self, event: DeviceEvent, cx: &mut Context<'_>) {
        if let DeviceEvent::Handshaked { endpoint, .. } = event {
            self.calling.answered(cx.now);
            // A reader that is this far behind learns the same from the status.
            let _ = self.events.try_send(ClientEvent::Handshaked { endpoint });
        }
    }

    fn handle_io(&mut self, _event: &Event, _cx: &mut Context<'_>) {}

    fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        self.calling.handle_timeout(self.peer, cx);
        self.flows.handle_timeout(cx.now);
        self.udp.handle_timeout(cx.now);
        self.questions.handle_timeout(cx);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [
            self.calling.poll_timeout(),
            self.flows.poll_timeout(),
            self.questions.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn service(&mut self, cx: &mut Context<'_>) -> bool {
        self.flows.serve(cx)
    }
}
