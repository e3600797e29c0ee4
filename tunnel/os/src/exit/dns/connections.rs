//! DNS over TCP (RFC 7766): connections that end at the gateway, with any number of questions on each.

mod frames;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{DropReason, PeerId};
use slab::Slab;

use crate::{
    deadlines::{Deadlines, Ended, Ending},
    engine::Context,
    exit::FlowKey,
    stack::{Buffers, Scratch, Stack},
    turns::{TakeTurns, Turns},
};
use frames::Frames;

/// Connections of one peer, and of all peers together.
const PER_PEER: usize = 8;
const TOTAL: usize = 512;

/// Questions of one connection under way: a peer that asks more waits.
const UNDER_WAY: usize = 16;

/// How long a connection may be silent (RFC 7766, section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// How long one may take to end.
const ENDING: Duration = Duration::from_secs(20);

/// Bytes of the answers that wait for the peer at which no more questions are read.
const UNSENT: usize = 64 << 10;

/// Packets that a connection may send in one turn.
const PACKETS_PER_TURN: usize = 32;

/// How long a connection waits whose peer's limits let nothing pass.
const HELD_BACK: Duration = Duration::from_millis(1);

const BUFFERS: Buffers = Buffers {
    receive: 4 << 10,
    send: 16 << 10,
};

/// A question that came whole.
pub(in crate::exit) struct TcpQuestion {
    pub(in crate::exit) key: FlowKey,
    /// What names the connection beside its key, which a later one may have too.
    pub(in crate::exit) number: u64,
    pub(in crate::exit) message: Vec<u8>,
}

struct Connection {
    key: FlowKey,
    number: u64,
    stack: Stack,
    questions: Frames,
    unsent: Vec<u8>,
    under_way: usize,
    active_at: Instant,
    /// We have said that nothing more comes.
    closed: bool,
    queued: bool,
    armed: Option<Instant>,
}

/// Every connection of every peer to the gateway's port.
pub(in crate::exit) struct Connections {
    connections: Slab<Connection>,
    by_key: HashMap<FlowKey, usize>,
    per_peer: HashMap<PeerId, usize>,
    asked: Vec<TcpQuestion>,
    ready: Turns<usize>,
    deadlines: Deadlines<(usize, u64)>,
    ended: Ended<FlowKey>,
    next_number: u64,
    scratch: Scratch,
    reply: Vec<u8>,
}

impl Connections {
    pub(in crate::exit) fn new() -> Self {
        Self {
            connections: Slab::new(),
            by_key: HashMap::new(),
            per_peer: HashMap::new(),
            asked: Vec::new(),
            ready: Turns::new(),
            deadlines: Deadlines::new(),
            ended: Ended::new(),
            next_number: 0,
            scratch: Scratch::new(),
            reply: Vec::new(),
        }
    }

    /// Takes a segment, which `opens` a connection or belongs to one. What belongs to none is to be answered by a reset.
    pub(in crate::exit) fn handle_segment(
        &mut self,
        key: FlowKey,
        opens: bool,
        packet: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), DropReason> {
        let id = match self.by_key.get(&key) {
            Some(&id) => id,
            None if opens => self.open(key, cx)?,
            None => {
                let ending = self.ended.get(&key).ok_or(DropReason::NoFlow)?;
                if ending.answer(&mut self.reply, packet) {
                    cx.send(&self.reply);
                }
                return Ok(());
            }
        };
        let connection = &mut self.connections[id];
        connection
            .stack
            .ingest(packet, cx.now, &mut self.scratch, &mut |answer| {
                cx.send_tcp(answer)
            });
        connection.active_at = cx.now;
        self.wake(id);
        Ok(())
    }

    fn open(&mut self, key: FlowKey, cx: &mut Context<'_>) -> Result<usize, DropReason> {
        let open = self.per_peer.entry(key.peer).or_default();
        if *open >= PER_PEER || self.connections.len() >= TOTAL {
            return Err(DropReason::FlowLimit);
        }
        let mut stack = Stack::listen(key.destination, BUFFERS, rand::random(), cx.now)
            .map_err(|_| DropReason::SocketFailed)?;
        stack.accept();
        *open += 1;
        self.next_number += 1;
        let id = self.connections.insert(Connection {
            key,
            number: self.next_number,
            stack,
            questions: Frames::default(),
            unsent: Vec::new(),
            under_way: 0,
            active_at: cx.now,
            closed: false,
            queued: false,
            armed: None,
        });
        self.by_key.insert(key, id);
        Ok(id)
    }

    /// The next question that came whole.
    pub(in crate::exit) fn poll_question(&mut self) -> Option<TcpQuestion> {
        self.asked.pop()
    }

    /// Sends an answer, if the connection that the question came by is still there.
    pub(in crate::exit) fn answer(&mut self, key: FlowKey, number: u64, message: &[u8]) {
        let Some((id, connection)) = self.find(key, number) else {
            return;
        };
        // No message is longer than its length says.
        let length = message.len() as u16;
        connection.under_way -= 1;
        connection.unsent.extend(length.to_be_bytes());
        connection.unsent.extend_from_slice(message);
        self.wake(id);
    }

    /// Breaks a connection off: what came by it is no question, or can't be answered.
    pub(in crate::exit) fn abort(&mut self, key: FlowKey, number: u64) {
        if let Some((id, connection)) = self.find(key, number) {
            connection.stack.abort();
            self.wake(id);
        }
    }

    fn find(&mut self, key: FlowKey, number: u64) -> Option<(usize, &mut Connection)> {
        let id = *self.by_key.get(&key)?;
        let connection = &mut self.connections[id];
        (connection.number == number).then_some((id, connection))
    }

    pub(in crate::exit) fn handle_timeout(&mut self, now: Instant) {
        while let Some((id, number)) = self.deadlines.pop_due(now) {
            let connection = self.connections.get_mut(id);
            if let Some(connection) = connection.filter(|c| c.number == number) {
                connection.armed = None;
                self.wake(id);
            }
        }
        self.ended.expire(now);
    }

    pub(in crate::exit) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    pub(in crate::exit) fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        let of_peer = |(id, c): (usize, &Connection)| (c.key.peer == peer).then_some(id);
        let ids: Vec<usize> = self.connections.iter().filter_map(of_peer).collect();
        for id in ids {
            self.remove(id, now);
        }
    }

    fn wake(&mut self, id: usize) {
        self.ready.ask(id, &mut self.connections[id].queued);
    }

    fn remove(&mut self, id: usize, now: Instant) {
        let connection = self.connections.remove(id);
        if connection.queued {
            self.ready.withdraw(&id);
        }
        let key = connection.key;
        self.by_key.remove(&key);
        if let Some(open) = self.per_peer.get_mut(&key.peer) {
            *open -= 1;
            if *open == 0 {
                self.per_peer.remove(&key.peer);
            }
        }
        let ending = if connection.closed {
            Ending::Orderly
        } else {
            Ending::Abrupt
        };
        self.ended.insert(key, ending, now);
    }
}

impl TakeTurns for Connections {
    type Key = usize;

    fn turns(&mut self) -> &mut Turns<usize> {
        &mut self.ready
    }

    fn take_turn(&mut self, id: usize, cx: &mut Context<'_>) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let now = cx.now;
        connection.queued = false;
        connection.read(&mut self.asked);
        connection.write();
        connection.end_if_due(now);
        let mut wake_at = connection.due();
        match cx.packets(connection.key.peer).min(PACKETS_PER_TURN) {
            0 if connection.is_overdue(now) => return self.remove(id, now),
            0 => wake_at = now + HELD_BACK,
            packets => {
                let stack = &mut connection.stack;
                let send = &mut |packet: crate::stack::Outgoing<'_>| cx.send_tcp(packet);
                if stack.egress(now, packets, &mut self.scratch, send) {
                    return self.wake(id);
                }
                if stack.is_over() || (connection.closed && stack.only_lingers(now)) {
                    return self.remove(id, now);
                }
                if let Some(at) = stack.deadline(now) {
                    wake_at = wake_at.min(at);
                }
            }
        }
        if connection.armed.is_none_or(|armed| wake_at < armed) {
            connection.armed = Some(wake_at);
            self.deadlines.push(wake_at, (id, connection.number));
        }
    }
}

impl Connection {
    /// Takes what has come, as far as the peer takes its answers.
    fn read(&mut self, asked: &mut Vec<TcpQuestion>) {
        while self.under_way < UNDER_WAY && self.unsent.len() < UNSENT {
            if let Some(message) = self.questions.pop() {
                self.under_way += 1;
                let (key, number) = (self.key, self.number);
                asked.push(TcpQuestion {
                    key,
                    number,
                    message,
                });
                continue;
            }
            let questions = &mut self.questions;
            let taken = self.stack.socket().recv(|data| {
                questions.push(data);
                (data.len(), data.len())
            });
            if taken.unwrap_or(0) == 0 {
                break;
            }
        }
    }

    fn write(&mut self) {
        // Before and after a connection there is nobody to send to.
        let sent = self.stack.socket().send_slice(&self.unsent).unwrap_or(0);
        self.unsent.drain(..sent);
    }

    /// Ends it in order when the peer has, or has been silent too long; by force when even that takes too long.
    fn end_if_due(&mut self, now: Instant) {
        if !self.closed
            && self.is_at_rest()
            && (self.stack.at_end() || now >= self.active_at + IDLE)
        {
            self.closed = true;
            self.stack.socket().close();
        }
        if self.is_overdue(now) {
            self.stack.abort();
        }
    }

    /// When it is to be ended if nothing happens.
    fn due(&self) -> Instant {
        let waits = !self.closed && self.is_at_rest();
        self.active_at + if waits { IDLE } else { ENDING }
    }

    fn is_overdue(&self, now: Instant) -> bool {
        now >= self.active_at + ENDING
    }

    fn is_at_rest(&self) -> bool {
        self.under_way == 0 && self.unsent.is_empty()
    }
}
