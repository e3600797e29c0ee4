//! One TCP connection's end inside the tunnel: a smoltcp interface.
//!
//! The stack emits packets of up to 64 kB, which are cut to the size the other end takes just before encryption.

use std::{
    net::SocketAddr,
    num::{NonZeroU16, NonZeroUsize},
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{INNER_MTU, offload::MAX_IP_PACKET};
use smoltcp::{
    interface::{Config, Interface, Sent},
    tcp::{ConnectError, ListenError, Socket, SocketBuffer, State},
    time::Instant as StackInstant,
    wire::{Checksum, ChecksumCapabilities},
};

/// How long the other end of the tunnel may leave data unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// TCP payload that fits a packet whatever its headers are.
const LEAST_PAYLOAD: usize = INNER_MTU - 120;

/// Shortest sleep between two looks at a stack's timers.
const GRAIN: Duration = Duration::from_millis(1);

/// A wake-up further away than this, in TIME-WAIT, is the end of TIME-WAIT itself.
const LINGERING: Duration = Duration::from_secs(1);

/// Bytes of buffer for each direction of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buffers {
    /// From the tunnel: what the other end may have under way to us.
    pub(crate) receive: usize,
    /// Into the tunnel: what we may have under way to the other end.
    pub(crate) send: usize,
}

/// A packet that a stack sends, without its TCP checksum.
pub(crate) struct Outgoing<'a> {
    pub(crate) packet: &'a mut [u8],
    /// Most payload bytes that a packet may have: longer ones have to be cut.
    pub(crate) segment_size: u16,
}

/// Where a stack writes the packet that it is sending.
pub(crate) struct Scratch(Box<[u8]>);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(vec![0; MAX_IP_PACKET].into_boxed_slice())
    }

    fn outgoing(&mut self, sent: Sent) -> Outgoing<'_> {
        Outgoing {
            packet: &mut self.0[..sent.len],
            // What is not to be cut is no longer than this.
            segment_size: sent.segment_size.map_or(INNER_MTU as u16, NonZeroU16::get),
        }
    }
}

/// One end of one TCP connection.
pub(crate) struct Stack {
    interface: Interface,
    epoch: Instant,
    /// A connection request that is not answered yet.
    held: bool,
    /// The other end has sent its FIN.
    ended: bool,
    /// We broke the connection off.
    aborted: bool,
}

impl Stack {
    /// Waits for a connection to `local`; it is not answered before [`Stack::accept`].
    pub(crate) fn listen(
        local: SocketAddr,
        buffers: Buffers,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ListenError> {
        let mut stack = Self::new(local, buffers, seed, now);
        stack.held = true;
        let socket = stack.socket();
        socket.pause_synack(true);
        socket.listen(local)?;
        Ok(stack)
    }

    /// Opens a connection from `local` to `remote`; the first segment leaves with the next [`Stack::egress`].
    pub(crate) fn connect(
        local: SocketAddr,
        remote: SocketAddr,
        buffers: Buffers,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConnectError> {
        let mut stack = Self::new(local, buffers, seed, now);
        stack.interface.connect(remote.into(), local.port())?;
        Ok(stack)
    }

    fn new(local: SocketAddr, buffers: Buffers, seed: u64, now: Instant) -> Self {
        let mut socket = Socket::new(
            SocketBuffer::new(vec![0; buffers.receive]),
            SocketBuffer::new(vec![0; buffers.send]),
        );
        // What is written comes from another TCP, which has gathered it already.
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(UNACKNOWLEDGED));
        let config = Config {
            address: local.ip().into(),
            mtu: INNER_MTU,
            offload: NonZeroUsize::new(MAX_IP_PACKET),
            // The tunnel's authentication has already shown that nothing changed on the way; whoever cuts the packets
            // that we send has to compute their TCP checksums anyway.
            checksum: ChecksumCapabilities {
                ipv4: Checksum::Tx,
                tcp: Checksum::None,
            },
            random_seed: seed,
        };
        Self {
            interface: Interface::new(config, socket),
            epoch: now,
            held: false,
            ended: false,
            aborted: false,
        }
    }

    pub(crate) fn socket(&mut self) -> &mut Socket {
        self.interface.socket_mut()
    }

    pub(crate) fn state(&self) -> State {
        self.interface.socket().state()
    }

    /// Whether everything that the other end sends has come and was read.
    pub(crate) fn at_end(&self) -> bool {
        self.ended && self.unread() == 0
    }

    /// Whether the connection is closed and nothing is left to read. What came before an orderly end is kept until
    /// it was read, what came before a break is not.
    pub(crate) fn is_over(&self) -> bool {
        match self.state() {
            // A request that was taken back before it was answered.
            State::Listen => true,
            State::Closed => self.aborted || !self.ended || self.unread() == 0,
            _ => false,
        }
    }

    fn unread(&self) -> usize {
        self.interface.socket().recv_queue()
    }

    /// Whether nothing is left to do but to confirm the end again, should the other side repeat it (TIME-WAIT).
    pub(crate) fn only_lingers(&mut self, now: Instant) -> bool {
        // Right after the last FIN its acknowledgement is still due, in milliseconds.
        self.state() == State::TimeWait
            && self.at_end()
            && self.deadline(now).is_none_or(|at| at > now + LINGERING)
    }

    /// Answers the connection request that [`Stack::listen`] holds back.
    pub(crate) fn accept(&mut self) {
        self.held = false;
        self.socket().pause_synack(false);
    }

    /// Refuses or resets the connection; the reset leaves with the next [`Stack::egress`].
    pub(crate) fn abort(&mut self) {
        self.held = false;
        self.aborted = true;
        let socket = self.socket();
        socket.pause_synack(false);
        socket.abort();
    }

    /// Takes a packet of this connection; immediate answers go to `send`.
    pub(crate) fn ingest(
        &mut self,
        packet: &[u8],
        now: Instant,
        scratch: &mut Scratch,
        send: &mut impl FnMut(Outgoing<'_>),
    ) {
        let now = self.time(now);
        if let Some(answer) = self.interface.ingress(now, packet, &mut scratch.0) {
            send(scratch.outgoing(answer));
        }
        self.ended |= matches!(
            self.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
    }

    /// Sends what may be sent, at most `budget` packets as the other end sees them. True if the budget was the limit.
    pub(crate) fn egress(
        &mut self,
        now: Instant,
        mut budget: usize,
        scratch: &mut Scratch,
        send: &mut impl FnMut(Outgoing<'_>),
    ) -> bool {
        let now = self.time(now);
        while budget > 0 {
            self.socket().set_offload_limit(budget * LEAST_PAYLOAD);
            let Some(sent) = self.interface.egress(now, &mut scratch.0) else {
                return false;
            };
            let outgoing = scratch.outgoing(sent);
            // Headers count as payload here: a packet too many now is one too few later.
            let packets = outgoing
                .packet
                .len()
                .div_ceil(usize::from(outgoing.segment_size))
                .max(1);
            budget = budget.saturating_sub(packets);
            send(outgoing);
        }
        true
    }

    /// When [`Stack::egress`] wants to be called next.
    pub(crate) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.held {
            return None;
        }
        let at = self.interface.poll_at(self.time(now))?;
        let at = self.epoch + Duration::from_micros(at.total_micros().max(0).unsigned_abs());
        Some(at.max(now + GRAIN))
    }

    fn time(&self, now: Instant) -> StackInstant {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        StackInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests;
