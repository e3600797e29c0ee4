//! The outer UDP socket: batches in, batches out.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
};

use ipsx_tunnel_core::{Arrival, Ecn, Transmit};
use mio::{Interest, Registry, Token, net::UdpSocket};
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{error::TunnelError, sys};

/// Largest UDP payload, and with it the largest batch that the kernel merges.
const BUFFER: usize = 65_535;

/// What we ask of the kernel for bursts; it gives what its limits allow.
const SOCKET_BUFFER: usize = 4 << 20;

/// Most bytes that one connection may have under way to us.
const LARGEST_WINDOW: usize = 1 << 20;

/// The least: about the buffer that every system gives.
const SMALLEST_WINDOW: usize = 128 << 10;

/// What other sockets may have of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    None,
    /// The same port for the other family.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    Family,
    /// The port too.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    Port,
}

/// A non-blocking UDP socket that sends and receives several datagrams per call where the system can.
pub(crate) struct UdpIo {
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    buffers: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    /// Bytes that one call should receive at most, as far as the last call can tell.
    most: usize,
    /// Datagrams, or runs of them, that the next call receives.
    batch: usize,
}

impl UdpIo {
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, TunnelError> {
        Self::open(address, Sharing::None, usize::MAX)
            .map_err(|source| TunnelError::Bind { address, source })
    }

    /// Like [`bind`](Self::bind), for this address's family alone, and about `most` bytes per call: what is received
    /// should be handled before it falls out of the processor's cache.
    #[cfg(target_os = "linux")]
    pub(crate) fn bind_alone(address: SocketAddr, most: usize) -> Result<Self, TunnelError> {
        Self::open(address, Sharing::Family, most)
            .map_err(|source| TunnelError::Bind { address, source })
    }

    /// Like [`bind_alone`](Self::bind_alone), on a port that other sockets of this kind may have as well.
    #[cfg(target_os = "linux")]
    pub(crate) fn bind_among(address: SocketAddr, most: usize) -> Result<Self, TunnelError> {
        Self::open(address, Sharing::Port, most)
            .map_err(|source| TunnelError::Bind { address, source })
    }

    /// Steers datagrams among the `count` sockets on this port, by their sessions.
    #[cfg(target_os = "linux")]
    pub(crate) fn steer(&self, count: u8) -> io::Result<()> {
        sys::steer_by_session(&self.socket, count)
    }

    /// Marks everything that is sent, for the host's routing rules; 0 for no mark.
    #[cfg(target_os = "linux")]
    pub(crate) fn set_mark(&self, mark: u32) -> io::Result<()> {
        SockRef::from(&self.socket).set_mark(mark)
    }

    fn open(address: SocketAddr, sharing: Sharing, most: usize) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        socket.set_nonblocking(true)?;
        if sharing != Sharing::None && address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if sharing == Sharing::Port {
            socket.set_reuse_port(true)?;
        }
        sys::enlarge_buffers(&socket, SOCKET_BUFFER);
        socket.bind(&address.into())?;
        let socket = UdpSocket::from_std(socket.into());
        let state = UdpSocketState::new((&socket).into())?;
        sys::allow_pieces(&SockRef::from(&socket));
        let buffers = (
            state.recv_buffer_size((&socket).into()).unwrap_or(0),
            state.send_buffer_size((&socket).into()).unwrap_or(0),
        );
        tracing::debug!(%address, receive = buffers.0, send = buffers.1, "UDP socket buffers, bytes");
        if buffers.0.min(buffers.1) < SOCKET_BUFFER {
            tracing::info!(
                receive = buffers.0,
                send = buffers.1,
                wanted = SOCKET_BUFFER,
                "the system gives the WireGuard socket small buffers, and bursts may be lost: raise net.core.rmem_max and \
                 net.core.wmem_max, or give the program CAP_NET_ADMIN"
            );
        }
        let local = socket.local_addr()?;
        Ok(Self {
            socket,
            state,
            local,
            buffers: vec![0; BUFFER * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
            most,
            batch: BATCH_SIZE,
        })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(
            &mut self.socket,
            token,
            Interest::READABLE | Interest::WRITABLE,
        )
    }

    /// How many bytes one connection through the tunnel may have under way to this socket. The kernel counts its
    /// own overhead against the buffer, and what does not fit is lost, which costs a connection far more time than a
    /// smaller window does.
    pub(crate) fn window(&self) -> usize {
        let buffer = self
            .state
            .recv_buffer_size((&self.socket).into())
            .unwrap_or(0);
        (buffer / 2).clamp(SMALLEST_WINDOW, LARGEST_WINDOW)
    }

    /// How many datagrams one send may hold at this time.
    pub(crate) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends a batch; `WouldBlock` means that it has to be tried again. Returns the longest IP packet that the way
    /// takes, if the batch's were longer: then they went in pieces.
    pub(crate) fn send(&self, transmit: &Transmit) -> io::Result<Option<usize>> {
        let segments = transmit.segments();
        let segment_size = (segments > 1).then_some(transmit.segment_size);
        let mut sent = Ok(());
        let mut send = || sent = self.send_part(transmit, transmit.contents(), segment_size);
        if transmit.whole {
            let socket = SockRef::from(&self.socket);
            sys::keep_whole(&socket, true);
            send();
            sys::keep_whole(&socket, false);
        } else {
            send();
        }
        match sent {
            Err(error)
                if error.raw_os_error() == Some(libc::EMSGSIZE)
                    && (segments > 1 || transmit.whole) => {}
            other => return other.map(|()| None),
        }
        // Batches are never cut to pieces by the system, datagrams are.
        for datagram in transmit.contents().chunks(transmit.segment_size) {
            self.send_part(transmit, datagram, None)?;
        }
        Ok(sys::path_mtu(transmit.destination).ok())
    }

    fn send_part(
        &self,
        transmit: &Transmit,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let part = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: EcnCodepoint::from_bits(transmit.ecn.bits()),
            contents,
            segment_size,
            src_ip: None,
        };
        self.socket
            .try_io(|| self.state.try_send((&self.socket).into(), &part))
    }

    /// Receives once and gives each datagram to `take`; `WouldBlock` when there is nothing.
    pub(crate) fn receive(&mut self, mut take: impl FnMut(Arrival, &[u8])) -> io::Result<()> {
        let mut chunks = self.buffers.chunks_exact_mut(BUFFER).map(IoSliceMut::new);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| chunks.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let (socket, state, metas) = (&self.socket, &self.state, &mut self.metas);
        let slots = &mut slices[..self.batch];
        let received = socket.try_io(|| state.recv(socket.into(), slots, metas))?;
        for (meta, buffer) in metas.iter().zip(&slices).take(received) {
            let arrival = Arrival {
                from: meta.addr,
                ecn: meta
                    .ecn
                    .map_or(Ecn::NotEct, |mark| Ecn::from_bits(mark as u8)),
            };
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                take(arrival, datagram);
            }
        }
        let bytes: usize = metas.iter().take(received).map(|meta| meta.len).sum();
        let each = (bytes / received.max(1)).max(1);
        self.batch = (self.most / each).clamp(1, BATCH_SIZE);
        Ok(())
    }
}
