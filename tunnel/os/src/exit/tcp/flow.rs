//! One TCP flow: bytes between the peer's connection and the destination's.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::packet::{self, Unreachable};
use mio::net::TcpStream;

use super::{Context, FlowKey, LoggedFlow};
use crate::stack::{Scratch, Stack};

/// How long a destination may take to answer.
const CONNECT: Duration = Duration::from_secs(15);

/// How long a connection may be silent (RFC 5382, requirement 5).
const IDLE: Duration = Duration::from_secs(2 * 3600 + 4 * 60);

/// How long a connection may be silent once one direction has ended.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(600);

/// Packets that a flow may send in one turn.
const PACKETS_PER_TURN: usize = 128;

/// Bytes that a flow may move in one turn and direction.
const BYTES_PER_TURN: usize = 256 << 10;

/// How long a flow waits whose peer's limits let nothing pass.
const HELD_BACK: Duration = Duration::from_millis(1);

/// Bytes of the opening segment kept for an ICMP error.
const KEPT: usize = 120;

pub(super) struct Flow {
    pub(super) key: FlowKey,
    pub(super) generation: u64,
    pub(super) stack: Stack,
    pub(super) stream: TcpStream,
    logged: LoggedFlow,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) queued: bool,
    /// The earliest wake-up that is on its way.
    pub(super) armed: Option<Instant>,
    /// The opening segment, until the destination has answered.
    opening: Option<Vec<u8>>,
    opened_at: Instant,
    active_at: Instant,
    /// The destination has ended its direction, and the peer was told.
    outside_ended: bool,
    /// The peer has ended its direction, and the destination was told.
    inside_ended: bool,
}

/// What a flow wants after a turn.
pub(super) enum Progress {
    /// Another turn at once.
    More,
    /// A turn when something happens, or at this time.
    Wait(Instant),
    /// Nothing: it is over.
    Over,
}

/// What a flow has sent to its peer.
enum Sent {
    /// All that it had.
    Everything,
    /// As much as one turn may.
    Turn,
    /// As much as the peer's limits let pass.
    Allowed,
}

impl Flow {
    pub(super) fn new(
        key: FlowKey,
        generation: u64,
        stack: Stack,
        (stream, logged): (TcpStream, LoggedFlow),
        opening: &[u8],
        now: Instant,
    ) -> Self {
        Self {
            key,
            generation,
            stack,
            stream,
            logged,
            readable: false,
            writable: false,
            queued: false,
            armed: None,
            opening: Some(opening[..opening.len().min(KEPT)].to_vec()),
            opened_at: now,
            active_at: now,
            outside_ended: false,
            inside_ended: false,
        }
    }

    pub(super) fn touch(&mut self, now: Instant) {
        self.active_at = now;
    }

    /// Whether both directions ended in order.
    pub(super) fn is_complete(&self) -> bool {
        self.outside_ended && self.inside_ended
    }

    pub(super) fn service(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> Progress {
        if self.opening.is_some() && !self.finish_connecting(cx) {
            return Progress::Over;
        }
        let mut more = false;
        if self.opening.is_none() {
            more |= self.pump_out();
            more |= self.pump_in();
        }
        if self.idle_deadline() <= cx.now {
            self.stack.abort();
        }
        match self.egress(scratch, cx) {
            Sent::Everything => {}
            Sent::Turn => more = true,
            Sent::Allowed => return Progress::Wait(cx.now + HELD_BACK),
        }
        if more {
            return Progress::More;
        }
        if self.stack.is_over() || (self.is_complete() && self.stack.only_lingers(cx.now)) {
            return Progress::Over;
        }
        let idle = self.idle_deadline();
        Progress::Wait(self.stack.deadline(cx.now).map_or(idle, |at| at.min(idle)))
    }

    /// To the peer, as much as its limits let pass: what they hold back waits in the buffers, and once these are full
    /// the destination has to wait.
    fn egress(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> Sent {
        let mut left = PACKETS_PER_TURN;
        while left > 0 {
            let packets = cx.packets(self.key.peer).min(left);
            if packets == 0 {
                return Sent::Allowed;
            }
            let stack = &mut self.stack;
            let unsent = stack.egress(cx.now, packets, scratch, &mut |packet| cx.send_tcp(packet));
            if !unsent {
                return Sent::Everything;
            }
            left -= packets;
        }
        Sent::Turn
    }

    /// Looks whether the destination has answered. False if the flow ends here without a word to the peer's TCP.
    fn finish_connecting(&mut self, cx: &mut Context<'_>) -> bool {
        let failure = match self.stream.take_error() {
            Ok(None) if cx.now >= self.opened_at + CONNECT => Some(ErrorKind::TimedOut),
            Ok(None) if !self.writable => None,
            Ok(None) => match self.stream.peer_addr() {
                Ok(_) => {
                    self.opening = None;
                    self.stack.accept();
                    None
                }
                Err(error) if error.kind() == ErrorKind::NotConnected => {
                    self.writable = false;
                    None
                }
                Err(error) => Some(error.kind()),
            },
            Ok(Some(error)) | Err(error) => Some(error.kind()),
        };
        let Some(failure) = failure else { return true };
        tracing::debug!(destination = %self.key.destination, ?failure, "destination not reached");
        let reason = match failure {
            ErrorKind::TimedOut | ErrorKind::HostUnreachable => Unreachable::Host,
            ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => Unreachable::Network,
            _ => {
                self.opening = None;
                self.stack.abort();
                return true;
            }
        };
        let mut reply = Vec::new();
        let opening = self.opening.take().unwrap_or_default();
        if packet::unreachable(&mut reply, &opening, self.key.destination.ip(), reason) {
            cx.send(&reply);
        }
        false
    }

    /// From the peer to the destination. True if it stopped only because the turn is over.
    fn pump_out(&mut self) -> bool {
        let mut moved = 0;
        while self.writable && self.stack.socket().can_recv() {
            if moved >= BYTES_PER_TURN {
                return true;
            }
            let stream = &mut self.stream;
            let written = self.stack.socket().recv(|data| match stream.write(data) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(count)) => {
                    moved += count;
                    self.logged.bytes_up += count as u64;
                }
                Ok(Err(error)) => self.writable = self.survives(&error),
                Err(_) => break,
            }
        }
        if !self.inside_ended && self.stack.at_end() {
            self.inside_ended = true;
            // If it fails, the destination has gone away already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        false
    }

    /// From the destination to the peer. True if it stopped only because the turn is over.
    fn pump_in(&mut self) -> bool {
        let mut moved = 0;
        while self.readable && !self.outside_ended && self.stack.socket().can_send() {
            if moved >= BYTES_PER_TURN {
                return true;
            }
            let stream = &mut self.stream;
            let read = self.stack.socket().send(|room| match stream.read(room) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => {
                    self.outside_ended = true;
                    self.stack.socket().close();
                }
                Ok(Ok(count)) => {
                    moved += count;
                    self.logged.bytes_down += count as u64;
                }
                Ok(Err(error)) => self.readable = self.survives(&error),
                Err(_) => break,
            }
        }
        false
    }

    /// Whether to try the same call again at once; resets the peer's connection if the destination's broke.
    fn survives(&mut self, error: &io::Error) -> bool {
        match error.kind() {
            ErrorKind::Interrupted => true,
            ErrorKind::WouldBlock => false,
            _ => {
                self.stack.abort();
                false
            }
        }
    }

    fn idle_deadline(&self) -> Instant {
        if self.opening.is_some() {
            return self.opened_at + CONNECT;
        }
        let idle = if self.outside_ended || self.inside_ended {
            HALF_CLOSED_IDLE
        } else {
            IDLE
        };
        self.active_at + idle
    }
}
