//! UDP flows of the exit, and series of echo requests: one connected outside socket per flow.
//!
//! Echo requests leave by the sockets that some systems allow to everybody (Linux: `net.ipv4.ping_group_range`). Their
//! flow has the identifier for a source port, and for a destination port 0, which no UDP flow has.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{
    DropReason, INNER_MTU, PeerId,
    packet::{self, Unreachable},
};
use mio::{Interest, Token, event::Event, net::UdpSocket};
use slab::Slab;
use socket2::{Protocol, Type};

use super::{Context, Egress, Egresses, ExitLimits, FlowKey, FlowLog, FlowProtocol, LoggedFlow};
use crate::{
    deadlines::Deadlines,
    engine::FIRST_FREE_TOKEN,
    turns::{TakeTurns, Turns},
};

/// How long a flow may be silent (RFC 4787, requirement 5, recommends five minutes).
const IDLE: Duration = Duration::from_secs(300);

/// The same for a question and its answer, as DNS and NTP ask them.
const IDLE_UNANSWERED: Duration = Duration::from_secs(60);

/// Datagrams that a flow may bring in during one turn.
const RECEIVES_PER_TURN: usize = 64;

struct Flow {
    key: FlowKey,
    generation: u64,
    socket: UdpSocket,
    logged: LoggedFlow,
    readable: bool,
    queued: bool,
    answered: bool,
    active_at: Instant,
}

/// Every UDP flow of every peer.
pub(super) struct UdpFlows {
    egress: Egresses,
    log: FlowLog,
    limits: ExitLimits,
    flows: Slab<Flow>,
    by_key: HashMap<FlowKey, usize>,
    per_peer: HashMap<PeerId, usize>,
    ready: Turns<usize>,
    deadlines: Deadlines<(usize, u64)>,
    generation: u64,
    payload: Vec<u8>,
    packet: Vec<u8>,
}

impl UdpFlows {
    pub(super) fn new(limits: ExitLimits, log: FlowLog) -> Self {
        Self {
            egress: Egresses::default(),
            log,
            limits,
            flows: Slab::new(),
            by_key: HashMap::new(),
            per_peer: HashMap::new(),
            ready: Turns::new(),
            deadlines: Deadlines::new(),
            generation: 0,
            payload: vec![0; usize::from(u16::MAX)],
            packet: Vec::with_capacity(INNER_MTU),
        }
    }

    pub(super) fn knows(&self, key: &FlowKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Starts a flow, which the policy has permitted.
    pub(super) fn open(&mut self, key: FlowKey, cx: &mut Context<'_>) -> Result<(), DropReason> {
        let open = self.per_peer.get(&key.peer).copied().unwrap_or(0);
        if open >= self.limits.udp_per_peer || self.flows.len() >= self.limits.total {
            return Err(DropReason::FlowLimit);
        }
        let (mut socket, logged) = self.connect(&key).map_err(|error| {
            tracing::debug!(destination = %key.destination, %error, "no outside socket");
            match error.kind() {
                ErrorKind::PermissionDenied if is_echo(&key) => DropReason::EchoOutside,
                _ => DropReason::SocketFailed,
            }
        })?;
        let entry = self.flows.vacant_entry();
        let id = entry.key();
        cx.registry
            .register(
                &mut socket,
                Token(FIRST_FREE_TOKEN + 2 * id + 1),
                Interest::READABLE,
            )
            .map_err(|_| DropReason::SocketFailed)?;
        self.generation += 1;
        let generation = self.generation;
        entry.insert(Flow {
            key,
            generation,
            socket,
            logged,
            readable: false,
            queued: false,
            answered: false,
            active_at: cx.now,
        });
        self.deadlines
            .push(cx.now + IDLE_UNANSWERED, (id, generation));
        self.by_key.insert(key, id);
        *self.per_peer.entry(key.peer).or_default() += 1;
        Ok(())
    }

    /// Sends an echo request on, whose ICMP message is given; the policy has permitted it.
    pub(super) fn echo(
        &mut self,
        peer: PeerId,
        source: IpAddr,
        destination: IpAddr,
        message: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let Some(&[_, _, _, _, high, low]) = message.first_chunk() else {
            return Err(DropReason::Malformed);
        };
        let key = FlowKey {
            peer,
            source: SocketAddr::new(source, u16::from_be_bytes([high, low])),
            destination: SocketAddr::new(destination, 0),
        };
        if !self.knows(&key) {
            self.open(key, cx)?;
        }
        self.send(&key, message, cx)
    }

    fn connect(&self, key: &FlowKey) -> std::io::Result<(UdpSocket, LoggedFlow)> {
        let (protocol, logged_as) = match (is_echo(key), key.destination) {
            (false, _) => (Protocol::UDP, FlowProtocol::Udp),
            (true, SocketAddr::V4(_)) => (Protocol::ICMPV4, FlowProtocol::Echo),
            (true, SocketAddr::V6(_)) => (Protocol::ICMPV6, FlowProtocol::Echo),
        };
        let egress = self.egress.of(key.peer);
        let socket = egress.socket(key.destination, Type::DGRAM, protocol)?;
        socket.connect(&key.destination.into())?;
        let socket = UdpSocket::from_std(socket.into());
        // Of an echo, the identifier that the system has given it.
        let port = socket.local_addr()?.port();
        let logged = self
            .log
            .open(key.peer, logged_as, port, key.destination)
            .ok_or(ErrorKind::OutOfMemory)?;
        Ok((socket, logged))
    }

    /// Sends a payload on an open flow.
    pub(super) fn send(
        &mut self,
        key: &FlowKey,
        payload: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let id = *self.by_key.get(key).ok_or(DropReason::NoFlow)?;
        let flow = &mut self.flows[id];
        flow.active_at = cx.now;
        let mut sent = flow.socket.send(payload);
        if matches!(&sent, Err(error) if error.kind() == ErrorKind::ConnectionRefused) {
            // The refusal belongs to an earlier datagram; this one has not been tried yet.
            sent = flow.socket.send(payload);
        }
        match sent {
            Ok(count) => {
                flow.logged.bytes_up += count as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(DropReason::SocketBusy),
            Err(_) => Err(DropReason::SocketFailed),
        }
    }

    pub(super) fn handle_io(&mut self, id: usize, event: &Event, _cx: &mut Context<'_>) {
        if let Some(flow) = self.flows.get_mut(id) {
            flow.readable |= event.is_readable() || event.is_error();
            self.ready.ask(id, &mut flow.queued);
        }
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        while let Some((id, generation)) = self.deadlines.pop_due(cx.now) {
            let Some(flow) = self
                .flows
                .get(id)
                .filter(|flow| flow.generation == generation)
            else {
                continue;
            };
            let lasting = flow.answered && !is_echo(&flow.key);
            let until = flow.active_at + if lasting { IDLE } else { IDLE_UNANSWERED };
            if until <= cx.now {
                self.remove(id, cx);
            } else {
                self.deadlines.push(until, (id, generation));
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Takes a new peer, whose flows leave from these addresses.
    pub(super) fn add_peer(&mut self, peer: PeerId, egress: Egress) {
        self.egress.add(peer, egress);
    }

    pub(super) fn remove_peer(&mut self, peer: PeerId, cx: &mut Context<'_>) {
        let ids: Vec<usize> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.key.peer == peer)
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            self.remove(id, cx);
        }
        self.egress.remove(peer);
    }

    fn remove(&mut self, id: usize, cx: &mut Context<'_>) {
        let mut flow = self.flows.remove(id);
        if flow.queued {
            self.ready.withdraw(&id);
        }
        let _ = cx.registry.deregister(&mut flow.socket);
        self.by_key.remove(&flow.key);
        if let Some(open) = self.per_peer.get_mut(&flow.key.peer) {
            *open -= 1;
            if *open == 0 {
                self.per_peer.remove(&flow.key.peer);
            }
        }
    }
}

impl TakeTurns for UdpFlows {
    type Key = usize;

    fn turns(&mut self) -> &mut Turns<usize> {
        &mut self.ready
    }

    /// Brings in what the destination answered.
    fn take_turn(&mut self, id: usize, cx: &mut Context<'_>) {
        let Some(flow) = self.flows.get_mut(id) else {
            return;
        };
        flow.queued = false;
        if receive(flow, &mut self.payload, &mut self.packet, cx) {
            self.ready.ask(id, &mut flow.queued);
        }
    }
}

/// Takes what has come for one flow; true if there may be more.
fn receive(
    flow: &mut Flow,
    payload: &mut [u8],
    packet: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> bool {
    for _ in 0..RECEIVES_PER_TURN {
        match flow.socket.recv(payload) {
            Ok(len) => {
                flow.active_at = cx.now;
                flow.answered = true;
                flow.logged.bytes_down += len as u64;
                if write_answer(packet, flow.key, &payload[..len]) {
                    cx.send(packet);
                } else {
                    cx.drops.add(DropReason::Oversize);
                }
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                if !is_echo(&flow.key) && port_unreachable(packet, flow.key) {
                    cx.send(packet);
                }
            }
            Err(_) => {
                flow.readable = false;
                return false;
            }
        }
    }
    true
}

fn is_echo(key: &FlowKey) -> bool {
    key.destination.port() == 0
}

/// Writes the packet that brings an answer to the peer; false if it does not fit the tunnel, or is none.
fn write_answer(packet: &mut Vec<u8>, key: FlowKey, answer: &[u8]) -> bool {
    if !is_echo(&key) {
        return packet::udp(packet, key.destination, key.source, answer);
    }
    // The system gave the request another identifier; everything else comes back as it was sent.
    let Some((&[_, _, _, _, _, _, high, low], data)) = answer.split_first_chunk() else {
        return false;
    };
    let sequence = u16::from_be_bytes([high, low]);
    let (peer, host) = (key.source.ip(), key.destination.ip());
    let mut request = Vec::new();
    packet::echo_request(&mut request, peer, host, key.source.port(), sequence, data)
        && packet::echo_reply(packet, &request)
}

/// Writes the port-unreachable error for a flow. It quotes an empty datagram with the flow's addresses, which is all
/// that the peer needs to find its socket.
fn port_unreachable(packet: &mut Vec<u8>, key: FlowKey) -> bool {
    let mut quoted = Vec::new();
    packet::udp(&mut quoted, key.source, key.destination, &[])
        && packet::unreachable(packet, &quoted, key.destination.ip(), Unreachable::Port)
}
