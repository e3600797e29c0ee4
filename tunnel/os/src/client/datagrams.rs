//! UDP through the tunnel: sockets that send anywhere and hear whoever answers.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use ipsx_tunnel_core::{DropReason, packet};
use tokio::sync::mpsc;

use super::Command;
use crate::{
    deadlines::{Ended, Ending},
    engine::Context,
    error::TunnelError,
    link::Link,
};

/// Ports of these sockets. Those of TCP connections and questions begin where these end.
const PORTS: std::ops::Range<u16> = 32_768..49_152;

/// Datagrams that wait for the program, or for the loop; more are lost, as a full socket buffer loses them.
const WAITING: usize = 512;

/// A datagram, and who sent it or shall have it.
pub(crate) type Datagram = (SocketAddr, Vec<u8>);

/// A UDP socket inside the tunnel, seen outside under the provider's address. It closes when it is dropped.
pub struct TunnelUdp {
    id: u64,
    link: Link<Command>,
    incoming: mpsc::Receiver<Datagram>,
    waiting: Arc<AtomicUsize>,
}

impl TunnelUdp {
    pub(super) fn open(id: u64, link: Link<Command>) -> Result<Self, TunnelError> {
        let (sender, incoming) = mpsc::channel(WAITING);
        let waiting = Arc::new(AtomicUsize::new(0));
        link.send(Command::BindUdp(id, sender, Arc::clone(&waiting)))?;
        Ok(Self {
            id,
            link,
            incoming,
            waiting,
        })
    }

    /// Sends a datagram. As with any UDP socket it may be lost without a word, not least when it is too long for the
    /// tunnel, or the exit's policy does not open the destination.
    pub fn send_to(&self, payload: Vec<u8>, destination: SocketAddr) -> Result<(), TunnelError> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        self.link
            .send(Command::SendUdp(self.id, (destination, payload)))
    }

    /// Waits for a datagram; none once the tunnel has been shut down, or if no port was free.
    pub async fn recv_from(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.incoming.recv().await
    }
}

impl std::fmt::Debug for TunnelUdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelUdp").finish_non_exhaustive()
    }
}

impl Drop for TunnelUdp {
    fn drop(&mut self) {
        // It fails only when the loop has ended, and the socket with it.
        let _ = self.link.send(Command::CloseUdp(self.id));
    }
}

struct Socket {
    port: u16,
    incoming: mpsc::Sender<Datagram>,
    waiting: Arc<AtomicUsize>,
}

/// Every UDP socket of the client.
pub(super) struct ClientUdp {
    sockets: HashMap<u64, Socket>,
    by_port: HashMap<u16, u64>,
    /// Late answers belong to these.
    closed: Ended<u16>,
    packet: Vec<u8>,
}

impl ClientUdp {
    pub(super) fn new() -> Self {
        Self {
            sockets: HashMap::new(),
            by_port: HashMap::new(),
            closed: Ended::new(),
            packet: Vec::new(),
        }
    }

    /// Opens a socket on a random free port, which whoever is not asked would have to guess.
    pub(super) fn bind(
        &mut self,
        id: u64,
        incoming: mpsc::Sender<Datagram>,
        waiting: Arc<AtomicUsize>,
    ) {
        let count = PORTS.end - PORTS.start;
        let free = (0..64)
            .map(|_| PORTS.start + rand::random::<u16>() % count)
            .find(|port| !self.by_port.contains_key(port) && !self.closed.contains(port));
        // Without a port the sender is dropped here, and the program sees a closed socket.
        if let Some(port) = free {
            self.by_port.insert(port, id);
            self.sockets.insert(
                id,
                Socket {
                    port,
                    incoming,
                    waiting,
                },
            );
        }
    }

    pub(super) fn close(&mut self, id: u64, now: Instant) {
        if let Some(socket) = self.sockets.remove(&id) {
            self.by_port.remove(&socket.port);
            self.closed.insert(socket.port, Ending::Abrupt, now);
        }
    }

    /// Sends a datagram from a socket; `source` is this end's address of the destination's family.
    pub(super) fn send(
        &mut self,
        id: u64,
        source: Option<IpAddr>,
        (destination, payload): &Datagram,
        cx: &mut Context<'_>,
    ) {
        let Some(socket) = self.sockets.get(&id) else {
            return;
        };
        socket.waiting.fetch_sub(1, Ordering::Relaxed);
        let Some(source) = source.filter(|_| destination.port() != 0) else {
            cx.drops.add(DropReason::NoRoute);
            return;
        };
        let source = SocketAddr::new(source, socket.port);
        if packet::udp(&mut self.packet, source, *destination, payload) {
            cx.send(&self.packet);
        } else {
            cx.drops.add(DropReason::Oversize);
        }
    }

    /// Takes a datagram to one of our ports; false if it is none of these sockets', open or closed a moment ago.
    pub(super) fn handle_datagram(
        &mut self,
        port: u16,
        from: SocketAddr,
        payload: &[u8],
        cx: &mut Context<'_>,
    ) -> bool {
        let socket = self.by_port.get(&port).and_then(|id| self.sockets.get(id));
        let Some(socket) = socket else {
            return self.closed.contains(&port);
        };
        // It has come, so it counts, whether the program is quick enough or not.
        if socket.incoming.try_send((from, payload.to_vec())).is_err() {
            cx.drops.add(DropReason::SocketBusy);
        }
        true
    }

    /// Whether an ICMP error is about one of our sockets. There is nothing to do: who sends UDP expects silence.
    pub(super) fn owns(&self, port: u16) -> bool {
        self.by_port.contains_key(&port) || self.closed.contains(&port)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.closed.expire(now);
    }
}
