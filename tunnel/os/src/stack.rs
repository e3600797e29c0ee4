//! One TCP connection's end inside the tunnel: a smoltcp interface with a single socket.
//!
//! One interface per connection, found by our own hash map, because a shared socket set is searched linearly. The
//! stack emits packets of up to 64 kB, which are cut to the size the other end takes just before encryption.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{INNER_MTU, offload::MAX_IP_PACKET};
use smoltcp::{
    iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet},
    phy::{
        Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken,
        TxToken,
    },
    socket::tcp::{CongestionControl, ConnectError, ListenError, Socket, SocketBuffer, State},
    time::Instant as StackInstant,
    wire::{HardwareAddress, IpAddress, IpCidr},
};

/// How long the other end of the tunnel may leave data unacknowledged.
const UNACKNOWLEDGED: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(60);

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
}

/// One end of one TCP connection.
pub(crate) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
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
        socket.listen((IpAddress::from(local.ip()), local.port()))?;
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
        let Self {
            interface,
            sockets,
            handle,
            ..
        } = &mut stack;
        sockets.get_mut::<Socket<'_>>(*handle).connect(
            interface.context(),
            (IpAddress::from(remote.ip()), remote.port()),
            (IpAddress::from(local.ip()), local.port()),
        )?;
        Ok(stack)
    }

    fn new(local: SocketAddr, buffers: Buffers, seed: u64, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut wire = Wire {
            incoming: None,
            budget: &mut 0,
            scratch: &mut Scratch(Box::default()),
            send: &mut |_: Outgoing<'_>| {},
        };
        let mut interface = Interface::new(config, &mut wire, StackInstant::ZERO);
        let prefix = if local.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|addresses| {
            // The list has room for at least one.
            let _ = addresses.push(IpCidr::new(local.ip().into(), prefix));
        });
        let mut socket = Socket::new(
            SocketBuffer::new(vec![0; buffers.receive]),
            SocketBuffer::new(vec![0; buffers.send]),
        );
        socket.set_congestion_control(CongestionControl::Cubic);
        // What is written comes from another TCP, which has gathered it already.
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(UNACKNOWLEDGED));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
            epoch: now,
            held: false,
            ended: false,
            aborted: false,
        }
    }

    pub(crate) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn state(&self) -> State {
        self.sockets.get::<Socket<'_>>(self.handle).state()
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
        self.sockets.get::<Socket<'_>>(self.handle).recv_queue()
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
        let mut wire = Wire {
            incoming: Some(packet),
            budget: &mut 1,
            scratch,
            send,
        };
        let _: PollIngressSingleResult =
            self.interface
                .poll_ingress_single(now, &mut wire, &mut self.sockets);
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
            let mut wire = Wire {
                incoming: None,
                budget: &mut budget,
                scratch,
                send,
            };
            if self
                .interface
                .poll_egress(now, &mut wire, &mut self.sockets)
                == PollResult::None
            {
                return false;
            }
        }
        true
    }

    /// When [`Stack::egress`] wants to be called next.
    pub(crate) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.held {
            return None;
        }
        let at = self.interface.poll_at(self.time(now), &self.sockets)?;
        let at = self.epoch + Duration::from_micros(at.total_micros().max(0).unsigned_abs());
        Some(at.max(now + GRAIN))
    }

    fn time(&self, now: Instant) -> StackInstant {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        StackInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

/// What an interface sees of the tunnel during one call.
struct Wire<'a, F> {
    incoming: Option<&'a [u8]>,
    budget: &'a mut usize,
    scratch: &'a mut Scratch,
    send: &'a mut F,
}

impl<'a, F: FnMut(Outgoing<'_>)> Wire<'a, F> {
    fn sender(&mut self) -> Sender<'_, F> {
        Sender {
            scratch: self.scratch,
            send: self.send,
            budget: self.budget,
            // What is not to be cut is no longer than this.
            segment_size: INNER_MTU as u16,
        }
    }
}

impl<F: FnMut(Outgoing<'_>)> Device for Wire<'_, F> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Sender<'t, F>
    where
        Self: 't;

    fn receive(&mut self, _now: StackInstant) -> Option<(Incoming<'_>, Sender<'_, F>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), self.sender()))
    }

    fn transmit(&mut self, _now: StackInstant) -> Option<Sender<'_, F>> {
        (*self.budget > 0).then(|| self.sender())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = INNER_MTU;
        // The tunnel's authentication has already shown that nothing changed on the way; whoever cuts the packets that
        // we send has to compute their TCP checksums anyway.
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(MAX_IP_PACKET);
        capabilities.segmentation.tcpv6 = NonZeroUsize::new(MAX_IP_PACKET);
        capabilities
    }
}

struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

struct Sender<'a, F> {
    scratch: &'a mut Scratch,
    send: &'a mut F,
    budget: &'a mut usize,
    segment_size: u16,
}

impl<S: FnMut(Outgoing<'_>)> TxToken for Sender<'_, S> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        // Headers count as payload here: a packet too many now is one too few later.
        let packets = len.div_ceil(usize::from(self.segment_size)).max(1);
        *self.budget = self.budget.saturating_sub(packets);
        let packet = &mut self.scratch.0[..len];
        let result = write(packet);
        (self.send)(Outgoing {
            packet,
            segment_size: self.segment_size,
        });
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        if let Some(size) = meta.segmentation_offload_size {
            self.segment_size = size.get();
        }
    }
}

#[cfg(test)]
mod tests;
