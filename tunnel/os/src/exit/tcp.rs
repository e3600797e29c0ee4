//! TCP flows of the exit: the peer's connection ends here, and another one goes on to the destination.

mod flow;

use std::{collections::HashMap, io::ErrorKind, time::Instant};

use ipsx_tunnel_core::{DropReason, PeerId, packet::Unreachable};
use mio::{Interest, Token, event::Event, net::TcpStream};
use slab::Slab;
use socket2::{Protocol, SockRef, Type};

use super::{Context, Egress, Egresses, ExitLimits, FlowKey, FlowLog, FlowProtocol, LoggedFlow};
use crate::{
    deadlines::{Deadlines, Ended, Ending},
    engine::FIRST_FREE_TOKEN,
    stack::{Buffers, Scratch, Stack},
    turns::{TakeTurns, Turns},
};
use flow::{Flow, Progress};

/// Bytes that a peer's first connections may have under way to the peer. More would only fill the queues on the way,
/// and the TCP stack here is slow to repair what a full queue drops.
const SEND: usize = 512 << 10;

/// Buffers of a peer that has many connections: what a peer can make us hold stays bounded.
const SMALL: Buffers = Buffers {
    receive: 64 << 10,
    send: 128 << 10,
};

/// How many of a peer's connections have large buffers.
const LARGE_PER_PEER: usize = 32;

/// How many connections of all peers together have large buffers.
const LARGE_TOTAL: usize = 256;

/// Why a flow was not opened.
pub(super) struct Refusal {
    /// What to count.
    pub(super) reason: DropReason,
    /// What to tell the peer; a reset, if nothing.
    pub(super) because: Option<Unreachable>,
}

fn no_socket(error: ErrorKind) -> Refusal {
    let because = match error {
        ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => Unreachable::Network,
        _ => Unreachable::Host,
    };
    Refusal {
        reason: DropReason::SocketFailed,
        because: Some(because),
    }
}

/// Every TCP flow of every peer.
pub(super) struct TcpFlows {
    egress: Egresses,
    log: FlowLog,
    limits: ExitLimits,
    /// Buffers of a peer's first connections.
    large: Buffers,
    flows: Slab<Flow>,
    by_key: HashMap<FlowKey, usize>,
    per_peer: HashMap<PeerId, usize>,
    ready: Turns<usize>,
    deadlines: Deadlines<(usize, u64)>,
    ended: Ended<FlowKey>,
    generation: u64,
    scratch: Scratch,
    reply: Vec<u8>,
}

impl TcpFlows {
    pub(super) fn new(limits: ExitLimits, window: usize, log: FlowLog) -> Self {
        Self {
            egress: Egresses::default(),
            log,
            limits,
            large: Buffers {
                receive: window,
                send: SEND,
            },
            flows: Slab::new(),
            by_key: HashMap::new(),
            per_peer: HashMap::new(),
            ready: Turns::new(),
            deadlines: Deadlines::new(),
            ended: Ended::new(),
            generation: 0,
            scratch: Scratch::new(),
            reply: Vec::new(),
        }
    }

    /// Gives a segment to the flow it belongs to; false if there is none.
    pub(super) fn handle_segment(
        &mut self,
        key: &FlowKey,
        opens: bool,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(&id) = self.by_key.get(key) else {
            return !opens && self.handle_late(key, packet, cx);
        };
        let flow = &mut self.flows[id];
        flow.stack
            .ingest(packet, cx.now, &mut self.scratch, &mut |answer| {
                cx.send_tcp(answer)
            });
        flow.touch(cx.now);
        self.wake(id);
        true
    }

    /// Takes a segment of a flow that has ended; false if there was none.
    fn handle_late(&mut self, key: &FlowKey, packet: &[u8], cx: &mut Context<'_>) -> bool {
        let Some(ending) = self.ended.get(key) else {
            return false;
        };
        if ending.answer(&mut self.reply, packet) {
            cx.send(&self.reply);
        }
        true
    }

    /// Starts a flow with its first segment. The peer hears nothing until the destination has answered.
    pub(super) fn open(
        &mut self,
        key: FlowKey,
        syn: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        let open = self.per_peer.get(&key.peer).copied().unwrap_or(0);
        if open >= self.limits.tcp_per_peer || self.flows.len() >= self.limits.total {
            return Err(Refusal {
                reason: DropReason::FlowLimit,
                because: None,
            });
        }
        let (mut stream, logged) = self.connect(&key).map_err(|error| {
            tracing::debug!(destination = %key.destination, %error, "no outside connection");
            no_socket(error.kind())
        })?;
        let roomy = open < LARGE_PER_PEER && self.flows.len() < LARGE_TOTAL;
        let buffers = if roomy { self.large } else { SMALL };
        let mut stack = Stack::listen(key.destination, buffers, rand::random(), cx.now)
            .map_err(|_| no_socket(ErrorKind::InvalidInput))?;
        stack.ingest(syn, cx.now, &mut self.scratch, &mut |answer| {
            cx.send_tcp(answer)
        });
        let entry = self.flows.vacant_entry();
        let id = entry.key();
        let token = Token(FIRST_FREE_TOKEN + 2 * id);
        cx.registry
            .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)
            .map_err(|error| no_socket(error.kind()))?;
        self.generation += 1;
        entry.insert(Flow::new(
            key,
            self.generation,
            stack,
            (stream, logged),
            syn,
            cx.now,
        ));
        self.by_key.insert(key, id);
        *self.per_peer.entry(key.peer).or_default() += 1;
        self.wake(id);
        Ok(())
    }

    fn connect(&self, key: &FlowKey) -> std::io::Result<(TcpStream, LoggedFlow)> {
        let socket =
            self.egress
                .of(key.peer)
                .socket(key.destination, Type::STREAM, Protocol::TCP)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&key.destination.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from_std(socket.into());
        let port = stream.local_addr()?.port();
        let logged = self
            .log
            .open(key.peer, FlowProtocol::Tcp, port, key.destination)
            .ok_or(ErrorKind::OutOfMemory)?;
        Ok((stream, logged))
    }

    pub(super) fn handle_io(&mut self, id: usize, event: &Event, cx: &mut Context<'_>) {
        // A token may outlive its flow within one turn; a new flow in its place is only looked at for nothing.
        let Some(flow) = self.flows.get_mut(id) else {
            return;
        };
        flow.readable |= event.is_readable() || event.is_error() || event.is_read_closed();
        flow.writable |= event.is_writable() || event.is_error() || event.is_write_closed();
        flow.touch(cx.now);
        self.wake(id);
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        while let Some((id, generation)) = self.deadlines.pop_due(cx.now) {
            if let Some(flow) = self
                .flows
                .get_mut(id)
                .filter(|flow| flow.generation == generation)
            {
                flow.armed = None;
                self.wake(id);
            }
        }
        self.ended.expire(cx.now);
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

    fn wake(&mut self, id: usize) {
        self.ready.ask(id, &mut self.flows[id].queued);
    }

    fn remove(&mut self, id: usize, cx: &mut Context<'_>) {
        let mut flow = self.flows.remove(id);
        if flow.queued {
            self.ready.withdraw(&id);
        }
        let _ = cx.registry.deregister(&mut flow.stream);
        let ending = if flow.is_complete() {
            Ending::Orderly
        } else {
            Ending::Abrupt
        };
        if ending == Ending::Abrupt {
            // Passes the break on as a reset, not as an orderly end.
            let _ = SockRef::from(&flow.stream).set_linger(Some(std::time::Duration::ZERO));
        }
        self.by_key.remove(&flow.key);
        if let Some(open) = self.per_peer.get_mut(&flow.key.peer) {
            *open -= 1;
            if *open == 0 {
                self.per_peer.remove(&flow.key.peer);
            }
        }
        self.ended.insert(flow.key, ending, cx.now);
    }
}

impl TakeTurns for TcpFlows {
    type Key = usize;

    fn turns(&mut self) -> &mut Turns<usize> {
        &mut self.ready
    }

    fn take_turn(&mut self, id: usize, cx: &mut Context<'_>) {
        let Some(flow) = self.flows.get_mut(id) else {
            return;
        };
        flow.queued = false;
        match flow.service(&mut self.scratch, cx) {
            Progress::More => self.wake(id),
            Progress::Wait(until) => {
                if flow.armed.is_none_or(|armed| until < armed) {
                    flow.armed = Some(until);
                    self.deadlines.push(until, (id, flow.generation));
                }
            }
            Progress::Over => self.remove(id, cx),
        }
    }
}
