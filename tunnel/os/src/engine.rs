//! The event loop that both ends of a tunnel run, each on a thread of its own.

use std::{
    io,
    net::SocketAddr,
    ops::ControlFlow,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::{
    Device, DeviceEvent, DropCounts, INNER_MTU, Inbound, PeerId, Reflection, Transmit,
    offload::Segments,
};
use mio::{Events, Poll, Registry, Token, event::Event};
use rand::RngCore;

use crate::{error::TunnelError, link::Link, stack::Outgoing, udp::UdpIo};

const UDP: Token = Token(0);
const WAKE: Token = Token(1);

/// Tokens below this one belong to the engine.
pub(crate) const FIRST_FREE_TOKEN: usize = 2;

/// Receive calls per turn, so that a flood can't starve everything else.
const RECEIVES_PER_TURN: usize = 8;

/// Commands per turn.
const COMMANDS_PER_TURN: usize = 1024;

/// Bytes of finished datagrams at which flows stop making more.
const MAX_BACKLOG: usize = 512 * 1024;

/// What a role may use while it handles something.
pub(crate) struct Context<'a> {
    pub(crate) device: &'a mut Device,
    pub(crate) registry: &'a Registry,
    pub(crate) drops: &'a mut DropCounts,
    pub(crate) now: Instant,
}

impl Context<'_> {
    /// Sends an inner packet; the device counts what it refuses.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        let _ = self.device.handle_packet(packet, self.now);
    }

    /// How many full packets to a peer would pass its limits now: making more would only have them dropped.
    pub(crate) fn packets(&mut self, peer: PeerId) -> usize {
        let room = self.device.room(peer, self.now);
        usize::try_from(room).unwrap_or(usize::MAX) / INNER_MTU
    }

    /// Sends what a connection's stack wrote, cut to size.
    pub(crate) fn send_tcp(&mut self, outgoing: Outgoing<'_>) {
        let _ = match Segments::of_tcp(outgoing.packet, outgoing.segment_size) {
            Ok(segments) if segments.count() == 1 => {
                self.device.handle_packet(segments.packet(), self.now)
            }
            Ok(segments) => self.device.handle_segments(&segments, self.now),
            // The stack writes whole headers.
            Err(_) => return,
        };
    }

    /// Asks a reflector what a NAT shows of the socket, if it is time.
    pub(crate) fn ask(&mut self, reflection: &mut Reflection) {
        if let Some((reflector, question)) = reflection.handle_timeout(transaction, self.now) {
            self.device.send_stun(reflector, &question);
        }
    }

    /// Whether so much waits for the network that making more packets is pointless.
    pub(crate) fn congested(&self) -> bool {
        self.device.transmit_backlog() > MAX_BACKLOG
    }
}

/// A transaction id for a question by STUN.
pub(crate) fn transaction() -> [u8; 12] {
    let mut transaction = [0; 12];
    rand::rngs::OsRng.fill_bytes(&mut transaction);
    transaction
}

/// What one end of a tunnel does with what comes out of it.
pub(crate) trait Role: Send + 'static {
    /// What handles may ask.
    type Command: Send + 'static;

    /// Carries out a command; `Break` ends the loop.
    fn handle_command(&mut self, command: Self::Command, cx: &mut Context<'_>) -> ControlFlow<()>;

    /// Takes a packet or control datagram from a peer.
    fn handle_inbound(&mut self, inbound: Inbound<'_>, cx: &mut Context<'_>);

    /// Takes an event of the device.
    fn handle_event(&mut self, event: DeviceEvent, cx: &mut Context<'_>);

    /// Takes the readiness of a socket registered with a token from [`FIRST_FREE_TOKEN`] on.
    fn handle_io(&mut self, event: &Event, cx: &mut Context<'_>);

    /// Looks after everything whose time has come.
    fn handle_timeout(&mut self, cx: &mut Context<'_>);

    /// When `handle_timeout` is wanted next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Moves flows on by a bounded amount; true if some could go on at once.
    fn service(&mut self, cx: &mut Context<'_>) -> bool;
}

/// An event loop ready to run.
pub(crate) struct Engine<C> {
    poll: Poll,
    udp: UdpIo,
    commands: mpsc::Receiver<C>,
    device: Device,
    drops: DropCounts,
    /// A batch that the socket did not take.
    blocked: Option<Transmit>,
    readable: bool,
    buffer: Vec<u8>,
}

impl<C: Send + 'static> Engine<C> {
    pub(crate) fn new(device: Device, listen: SocketAddr) -> Result<(Self, Link<C>), TunnelError> {
        let mut udp = UdpIo::bind(listen)?;
        let poll = Poll::new().map_err(TunnelError::Start)?;
        udp.register(poll.registry(), UDP)
            .map_err(TunnelError::Start)?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE).map_err(TunnelError::Start)?);
        let (link, commands) = Link::new(waker);
        let engine = Self {
            poll,
            udp,
            commands,
            device,
            drops: DropCounts::default(),
            blocked: None,
            readable: true,
            buffer: vec![0; INNER_MTU + 1024],
        };
        Ok((engine, link))
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.udp.local_addr()
    }

    /// How many bytes one connection may have under way to this end.
    pub(crate) fn window(&self) -> usize {
        self.udp.window()
    }

    /// Where a role may register sockets before the loop runs.
    #[cfg(target_os = "linux")]
    pub(crate) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Marks all outer datagrams, for the host's routing rules.
    #[cfg(target_os = "linux")]
    pub(crate) fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.udp.set_mark(mark)
    }

    pub(crate) fn device(&mut self) -> &mut Device {
        &mut self.device
    }

    /// Runs the loop on a new thread until the role ends it.
    pub(crate) fn spawn<R: Role<Command = C>>(
        mut self,
        name: &str,
        mut role: R,
    ) -> Result<(), TunnelError> {
        let run = move || {
            if let Err(error) = self.run(&mut role) {
                tracing::error!(%error, "the tunnel's event loop failed and ends here");
            }
            // The sockets go first: whoever waits for the role's end may bind the same addresses again.
            drop(self);
            drop(role);
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .map(drop)
            .map_err(TunnelError::Start)
    }

    fn run<R: Role<Command = C>>(&mut self, role: &mut R) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut more = true;
        loop {
            let timeout = self.timeout(role, more);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    UDP => self.readable |= event.is_readable(),
                    WAKE => {}
                    _ => role.handle_io(event, &mut self.context(now)),
                }
            }
            if self.obey(role, now).is_break() {
                self.flush();
                return Ok(());
            }
            self.flush();
            self.receive(role, now);
            if self.device.poll_timeout().is_some_and(|at| at <= now) {
                self.device.handle_timeout(now);
            }
            if role.poll_timeout().is_some_and(|at| at <= now) {
                role.handle_timeout(&mut self.context(now));
            }
            more = role.service(&mut self.context(now));
            self.flush();
        }
    }

    fn context(&mut self, now: Instant) -> Context<'_> {
        Context {
            device: &mut self.device,
            registry: self.poll.registry(),
            drops: &mut self.drops,
            now,
        }
    }

    fn timeout<R: Role<Command = C>>(&self, role: &R, more: bool) -> Option<Duration> {
        // With a blocked socket there is nothing to hurry for: it will report when it takes more.
        if self.readable || (more && self.blocked.is_none()) {
            return Some(Duration::ZERO);
        }
        let next = [self.device.poll_timeout(), role.poll_timeout()]
            .into_iter()
            .flatten()
            .min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn obey<R: Role<Command = C>>(&mut self, role: &mut R, now: Instant) -> ControlFlow<()> {
        for _ in 0..COMMANDS_PER_TURN {
            match self.commands.try_recv() {
                Ok(command) => role.handle_command(command, &mut self.context(now))?,
                Err(mpsc::TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(mpsc::TryRecvError::Disconnected) => return ControlFlow::Break(()),
            }
        }
        // Some may be left, and their wake-up is spent: look again at once.
        self.readable = true;
        ControlFlow::Continue(())
    }

    fn receive<R: Role<Command = C>>(&mut self, role: &mut R, now: Instant) {
        for _ in 0..RECEIVES_PER_TURN {
            if !self.readable {
                return;
            }
            let Self {
                udp,
                device,
                drops,
                poll,
                buffer,
                ..
            } = self;
            let received = udp.receive(|arrival, datagram| {
                match device.handle_datagram(arrival, datagram, now, buffer) {
                    Ok(Some(inbound)) => {
                        role.handle_inbound(
                            inbound,
                            &mut Context {
                                device,
                                registry: poll.registry(),
                                drops,
                                now,
                            },
                        );
                    }
                    Ok(None) => {}
                    Err(reason) => {
                        tracing::trace!(from = %arrival.from, %reason, "datagram dropped")
                    }
                }
            });
            if received.is_err() {
                // Nothing there, or an ICMP error of an earlier send, which a tunnel ignores.
                self.readable = !matches!(received, Err(ref error) if error.kind() == io::ErrorKind::WouldBlock);
            }
            while let Some(event) = self.device.poll_event() {
                role.handle_event(event, &mut self.context(now));
            }
            self.flush();
        }
    }

    fn flush(&mut self) {
        while let Some(transmit) = self.blocked.take().or_else(|| self.device.poll_transmit()) {
            match self.udp.send(&transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = Some(transmit);
                    break;
                }
                Ok(Some(mtu)) => {
                    let destination = transmit.destination;
                    self.device.set_path_mtu(destination, mtu, Instant::now());
                }
                _ => {}
            }
            self.device.recycle(transmit);
        }
        self.device.set_max_segments(self.udp.max_segments());
    }
}
