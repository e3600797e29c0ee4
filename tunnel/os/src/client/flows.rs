//! The client's TCP connections inside the tunnel.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ipsx_tunnel_core::packet::Unreachable;
use smoltcp::tcp::State;

use super::stream::{CAPACITY, ConnectError, Pipe, lock};
use crate::{
    deadlines::{Deadlines, Ended, Ending},
    engine::Context,
    stack::{Buffers, Scratch, Stack},
    turns::{TakeTurns, Turns},
};

/// Bytes that a connection may have under way to the provider.
const SEND: usize = 512 << 10;

/// Buffers of a connection among many: together they stay within what a machine has and the tunnel carries at once.
const SMALL: Buffers = Buffers {
    receive: 128 << 10,
    send: 128 << 10,
};

/// How many connections have large buffers.
const LARGE: usize = 32;

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(20);

/// How long a dropped stream may take to send the rest and close.
const FAREWELL: Duration = Duration::from_secs(60);

/// First port of the ephemeral range (RFC 6335).
const FIRST_PORT: u16 = 49_152;

/// Packets that a connection may send in one turn.
const PACKETS_PER_TURN: usize = 128;

/// A connection's two ends inside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    local: SocketAddr,
    remote: SocketAddr,
}

struct Flow {
    key: Key,
    stack: Stack,
    pipe: Arc<Mutex<Pipe>>,
    /// The first segment has been sent.
    called: bool,
    opened: bool,
    closed: bool,
    queued: bool,
    armed: Option<Instant>,
    opened_at: Instant,
    dropped_at: Option<Instant>,
}

/// Every TCP connection of the client.
pub(super) struct ClientFlows {
    flows: HashMap<u64, Flow>,
    by_key: HashMap<Key, u64>,
    ready: Turns<u64>,
    deadlines: Deadlines<u64>,
    ended: Ended<Key>,
    next_port: u16,
    buffers: Buffers,
    scratch: Scratch,
    reply: Vec<u8>,
}

impl ClientFlows {
    /// `window` is how many bytes one connection may have under way to us.
    pub(super) fn new(window: usize) -> Self {
        Self {
            buffers: Buffers {
                receive: window,
                send: SEND,
            },
            flows: HashMap::new(),
            by_key: HashMap::new(),
            ready: Turns::new(),
            deadlines: Deadlines::new(),
            ended: Ended::new(),
            next_port: FIRST_PORT | rand::random::<u16>(),
            scratch: Scratch::new(),
            reply: Vec::new(),
        }
    }

    /// Starts a connection; the pipe tells how it went.
    pub(super) fn open(
        &mut self,
        id: u64,
        inner: IpAddr,
        remote: SocketAddr,
        pipe: Arc<Mutex<Pipe>>,
        now: Instant,
    ) -> Result<(), ConnectError> {
        let key = self.free_key(inner, remote).ok_or(ConnectError::NoPort)?;
        let buffers = if self.flows.len() < LARGE {
            self.buffers
        } else {
            SMALL
        };
        let stack = Stack::connect(key.local, remote, buffers, rand::random(), now)
            .map_err(|_| ConnectError::HostUnreachable)?;
        let flow = Flow {
            key,
            stack,
            pipe,
            called: false,
            opened: false,
            closed: false,
            queued: false,
            armed: None,
            opened_at: now,
            dropped_at: None,
        };
        self.flows.insert(id, flow);
        self.by_key.insert(key, id);
        self.wake(id);
        Ok(())
    }

    fn free_key(&mut self, inner: IpAddr, remote: SocketAddr) -> Option<Key> {
        for _ in FIRST_PORT..=u16::MAX {
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            let key = Key {
                local: SocketAddr::new(inner, self.next_port),
                remote,
            };
            if !self.by_key.contains_key(&key) && !self.ended.contains(&key) {
                return Some(key);
            }
        }
        None
    }

    /// Takes a segment; false if it belongs to no connection, open or ended a moment ago.
    pub(super) fn handle_segment(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> bool {
        let key = Key { local, remote };
        let Some(&id) = self.by_key.get(&key) else {
            let Some(ending) = self.ended.get(&key) else {
                return false;
            };
            if ending.answer(&mut self.reply, packet) {
                cx.send(&self.reply);
            }
            return true;
        };
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.stack
                .ingest(packet, cx.now, &mut self.scratch, &mut |answer| {
                    cx.send_tcp(answer)
                });
        }
        self.wake(id);
        true
    }

    /// Takes an ICMP error about a connection; false if it is about none of ours.
    pub(super) fn handle_unreachable(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        reason: Unreachable,
        now: Instant,
    ) -> bool {
        let key = Key { local, remote };
        let Some(&id) = self.by_key.get(&key) else {
            return self.ended.contains(&key);
        };
        // An error can only end what has not begun: later ones may be forged or pass (RFC 5927).
        if self.flows.get(&id).is_some_and(|flow| !flow.opened) {
            self.remove(id, now, connect_error(reason));
        }
        true
    }

    /// Looks at a stream that its program has touched.
    pub(super) fn touched(&mut self, id: u64) {
        if let Some(flow) = self.flows.get(&id) {
            lock(&flow.pipe).told = false;
            self.wake(id);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.pop_due(now) {
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.armed = None;
                self.wake(id);
            }
        }
        self.ended.expire(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    fn wake(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id) {
            self.ready.ask(id, &mut flow.queued);
        }
    }

    fn remove(&mut self, id: u64, now: Instant, error: ConnectError) {
        let Some(flow) = self.flows.remove(&id) else {
            return;
        };
        self.by_key.remove(&flow.key);
        let mut pipe = lock(&flow.pipe);
        let ending = if pipe.read_ended && pipe.write_ended {
            pipe.wake_all();
            Ending::Orderly
        } else {
            pipe.fail(error);
            Ending::Abrupt
        };
        self.ended.insert(flow.key, ending, now);
    }
}

impl TakeTurns for ClientFlows {
    type Key = u64;

    fn turns(&mut self) -> &mut Turns<u64> {
        &mut self.ready
    }

    fn take_turn(&mut self, id: u64, cx: &mut Context<'_>) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.queued = false;
        if !flow.called && lock(&flow.pipe).dropped {
            // Given up before a word was said, so there is nothing to take back.
            self.remove(id, cx.now, ConnectError::Stopped);
            return;
        }
        flow.called = true;
        flow.exchange(cx.now);
        if flow.limit().is_some_and(|limit| limit <= cx.now) {
            flow.stack.abort();
        }
        if flow
            .stack
            .egress(cx.now, PACKETS_PER_TURN, &mut self.scratch, &mut |packet| {
                cx.send_tcp(packet)
            })
        {
            self.wake(id);
            return;
        }
        if flow.stack.is_over() || flow.stack.only_lingers(cx.now) {
            let error = if flow.opened_at + CONNECT <= cx.now {
                ConnectError::TimedOut
            } else {
                ConnectError::Refused
            };
            self.remove(id, cx.now, error);
            return;
        }
        if let Some(until) = flow.deadline(cx.now)
            && flow.armed.is_none_or(|armed| until < armed)
        {
            flow.armed = Some(until);
            self.deadlines.push(until, id);
        }
    }
}

impl Drop for ClientFlows {
    /// However the loop ends, no program waits for it.
    fn drop(&mut self) {
        for flow in self.flows.values() {
            lock(&flow.pipe).fail(ConnectError::Stopped);
        }
    }
}

impl Flow {
    /// Moves bytes between the program's pipe and the connection.
    fn exchange(&mut self, now: Instant) {
        let mut pipe = lock(&self.pipe);
        let socket = self.stack.socket();
        if !self.opened && socket.may_send() {
            self.opened = true;
            pipe.opened = Some(Ok(()));
            pipe.wake_all();
        }
        let had = pipe.outbox.len();
        while socket.can_send() && !pipe.outbox.is_empty() {
            let (front, _) = pipe.outbox.as_slices();
            let Ok(count) = socket.send_slice(front) else {
                break;
            };
            pipe.outbox.drain(..count);
        }
        let mut wake_writer = pipe.outbox.len() < had;
        let had = pipe.inbox.len();
        while socket.can_recv() && pipe.inbox.len() < CAPACITY {
            let room = CAPACITY - pipe.inbox.len();
            let taken = socket.recv(|data| {
                let count = data.len().min(room);
                pipe.inbox.extend(&data[..count]);
                (count, count)
            });
            if taken.is_err() {
                break;
            }
        }
        pipe.stalled = socket.can_recv();
        let mut wake_reader = pipe.inbox.len() > had;
        if pipe.dropped {
            self.dropped_at.get_or_insert(now);
            if !pipe.inbox.is_empty() {
                // Nobody will ever read it, and the other side should know (RFC 1122, section 4.2.2.13).
                self.stack.abort();
                return;
            }
        }
        if pipe.write_ended && pipe.outbox.is_empty() && self.opened && !self.closed {
            self.closed = true;
            self.stack.socket().close();
        } else if pipe.dropped && !self.opened {
            self.stack.abort();
        }
        if !pipe.read_ended && self.stack.at_end() {
            pipe.read_ended = true;
            wake_reader = true;
        }
        if self.stack.is_over() {
            (wake_reader, wake_writer) = (true, true);
            // An orderly end was noticed above; everything else is a reset.
            pipe.broken |= !pipe.read_ended || !self.closed;
        }
        if wake_reader && let Some(waker) = pipe.reader.take() {
            waker.wake();
        }
        if wake_writer
            && self.opened
            && let Some(waker) = pipe.writer.take()
        {
            waker.wake();
        }
    }

    /// When the connection is given up, if it is not being used.
    fn limit(&self) -> Option<Instant> {
        if self.stack.state() == State::Closed {
            return None;
        }
        let opening = (!self.opened).then_some(self.opened_at + CONNECT);
        opening.or(self.dropped_at.map(|at| at + FAREWELL))
    }

    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        [self.stack.deadline(now), self.limit()]
            .into_iter()
            .flatten()
            .min()
    }
}

fn connect_error(reason: Unreachable) -> ConnectError {
    match reason {
        Unreachable::Network => ConnectError::NetworkUnreachable,
        Unreachable::Host => ConnectError::HostUnreachable,
        Unreachable::Port => ConnectError::Refused,
        Unreachable::Prohibited => ConnectError::Prohibited,
    }
}
