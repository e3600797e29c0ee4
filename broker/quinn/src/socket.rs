// From quinn 0.11.12 (MIT or Apache-2.0), changed: see CHANGES.md.
//! The socket under an endpoint: several packets with one call where the system can, and the marks of congestion.

use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use udp::{RecvMeta, UdpSocketState};

#[derive(Debug)]
pub(crate) struct UdpSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
}

/// Ready once a socket that was full may take packets again. Each connection waits on its own: the socket itself would
/// wake only the last of them.
pub(crate) type Writable = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

impl UdpSocket {
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        Ok(Self {
            state: UdpSocketState::new((&socket).into())?,
            io: tokio::net::UdpSocket::from_std(socket)?,
        })
    }

    pub(crate) fn is_ipv6(&self) -> io::Result<bool> {
        Ok(self.io.local_addr()?.is_ipv6())
    }

    /// Whether packets may be cut into pieces on their way.
    pub(crate) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Packets that one call sends at the most.
    pub(crate) fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Packets that lie in one buffer after a call at the most.
    pub(crate) fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    /// Sends the packets that begin `buffer`; after [`io::ErrorKind::WouldBlock`], wait for [`Self::writable`].
    pub(crate) fn try_send(&self, transmit: &proto::Transmit, buffer: &[u8]) -> io::Result<()> {
        let transmit = udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(|ecn| match ecn {
                proto::EcnCodepoint::Ect0 => udp::EcnCodepoint::Ect0,
                proto::EcnCodepoint::Ect1 => udp::EcnCodepoint::Ect1,
                proto::EcnCodepoint::Ce => udp::EcnCodepoint::Ce,
            }),
            contents: &buffer[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        self.io.try_io(Interest::WRITABLE, || {
            self.state.send((&self.io).into(), &transmit)
        })
    }

    pub(crate) fn writable(self: Arc<Self>) -> Writable {
        Box::pin(async move { self.io.writable().await })
    }

    /// Receives into the buffers, as many as it returns.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            // An error may be one of readiness that was wrong; a real one comes again.
            if let Ok(received) = self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), buffers, metas)
            }) {
                return Poll::Ready(Ok(received));
            }
        }
    }
}

pub(crate) fn ecn(meta: &RecvMeta) -> Option<proto::EcnCodepoint> {
    meta.ecn.map(|ecn| match ecn {
        udp::EcnCodepoint::Ect0 => proto::EcnCodepoint::Ect0,
        udp::EcnCodepoint::Ect1 => proto::EcnCodepoint::Ect1,
        udp::EcnCodepoint::Ce => proto::EcnCodepoint::Ce,
    })
}
