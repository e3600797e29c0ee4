//! The event loop of an interface.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipsx_tunnel_core::{
    Device, DeviceConfig, Inbound, PrivateKey,
    uapi::{InterfaceSettings, InterfaceUpdate, Request, UapiError, respond_done, respond_get},
};
use mio::{Events, Poll, Token};
use rand::{RngCore, rngs::OsRng};
use zeroize::Zeroizing;

use crate::{
    error::TunnelError,
    tun::{Stop, Tun},
};

use super::{
    BareError,
    control::Control,
    sockets::{Sockets, UDP_V4, UDP_V6},
};

const TUN: Token = Token(2);
const CONTROL: Token = Token(3);
const WAKE: Token = Token(4);

/// Packets or super-packets read from the interface before they are sent: together they fill the batches better.
const READS_PER_TURN: usize = 64;

/// Bytes to be sent at which a turn stops reading: two full batches, that stay in the processor's cache.
const BYTES_PER_TURN: usize = 128 << 10;

/// Turns between looks at everything but packets.
const TURNS_PER_POLL: usize = 8;

/// How often the interface itself is looked at.
const LOOK: Duration = Duration::from_secs(1);

pub(super) struct Loop {
    poll: Poll,
    waker: Arc<mio::Waker>,
    stop: Arc<AtomicBool>,
    tun: Tun,
    tun_readable: bool,
    sockets: Sockets,
    control: Control,
    device: Device,
    /// Without a key nothing is sent or taken.
    private_key: Option<PrivateKey>,
    next_look: Instant,
}

impl Loop {
    pub(super) fn new(name: &str) -> Result<Self, BareError> {
        let now = Instant::now();
        let tun = Tun::open(name)?;
        let poll = Poll::new().map_err(BareError::Start)?;
        let registry = poll.registry();
        tun.register(registry, TUN).map_err(BareError::Start)?;
        let waker = Arc::new(mio::Waker::new(registry, WAKE).map_err(BareError::Start)?);
        let sockets = Sockets::open(0, 0, registry)?;
        let control = Control::open(name, registry, CONTROL)?;
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed)?;
        // A device always has a key; this one is never used, and replaced by the first that is given.
        let unused = PrivateKey::generate(&mut OsRng);
        Ok(Self {
            waker,
            stop: Arc::default(),
            tun,
            tun_readable: true,
            sockets,
            control,
            device: Device::new(DeviceConfig::bare(unused), seed, now),
            private_key: None,
            next_look: now,
            poll,
        })
    }

    pub(super) fn waker(&self) -> Arc<mio::Waker> {
        Arc::clone(&self.waker)
    }

    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Runs until told to stop, or until the interface is deleted.
    pub(super) fn run(&mut self) -> Result<(), BareError> {
        match self.turn_until_stopped() {
            Ok(Stop::Gone) => Err(BareError::Gone(self.tun.name().to_owned())),
            Ok(Stop::Empty) => Ok(()),
            Err(error) => Err(BareError::Start(error)),
        }
    }

    fn turn_until_stopped(&mut self) -> io::Result<Stop> {
        let mut events = Events::with_capacity(64);
        loop {
            match self.poll.poll(&mut events, Some(self.timeout())) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    UDP_V4 | UDP_V6 => self.sockets.take_event(event),
                    TUN => self.tun_readable = true,
                    CONTROL => self.control.accept(self.poll.registry()),
                    WAKE => {}
                    client => self.serve(client),
                }
            }
            if self.stop.load(Ordering::Acquire) {
                return Ok(Stop::Empty);
            }
            if self.move_packets() == Err(Stop::Gone) {
                return Ok(Stop::Gone);
            }
        }
    }

    fn timeout(&self) -> Duration {
        if self.sockets.readable() || (self.tun_readable && !self.sockets.blocked()) {
            return Duration::ZERO;
        }
        let next = self.device.poll_timeout().unwrap_or(self.next_look);
        next.min(self.next_look)
            .saturating_duration_since(Instant::now())
    }

    fn move_packets(&mut self) -> Result<(), Stop> {
        for _ in 0..TURNS_PER_POLL {
            let now = Instant::now();
            if now >= self.next_look {
                self.next_look = now + LOOK;
                self.device.set_mtu(self.tun.mtu()?);
            }
            if self.device.poll_timeout().is_some_and(|at| at <= now) {
                self.device.handle_timeout(now);
            }
            self.receive(now)?;
            self.transmit(now)?;
            if !self.sockets.readable() && (!self.tun_readable || self.sockets.blocked()) {
                break;
            }
        }
        Ok(())
    }

    /// From the network to the interface.
    fn receive(&mut self, now: Instant) -> Result<(), Stop> {
        let Self {
            sockets,
            device,
            tun,
            private_key,
            ..
        } = self;
        let mut result = Ok(());
        sockets.receive(|arrival, datagram| {
            if private_key.is_none() || result.is_err() {
                return;
            }
            let slot = match tun.slot(datagram.len().max(MIN_SLOT)) {
                Ok(slot) => slot,
                Err(stop) => {
                    result = Err(stop);
                    return;
                }
            };
            match device.handle_datagram(arrival, datagram, now, slot) {
                Ok(Some(Inbound::Packet { packet, .. })) => {
                    let len = packet.len();
                    tun.keep(len);
                }
                Ok(Some(Inbound::Control { .. }) | None) => {}
                Err(reason) => tracing::trace!(from = %arrival.from, %reason, "datagram dropped"),
            }
        });
        // An interface has no use for the device's events.
        while self.device.poll_event().is_some() {}
        result.and_then(|()| self.tun.flush())
    }

    /// From the interface to the network.
    fn transmit(&mut self, now: Instant) -> Result<(), Stop> {
        // Answers to handshakes and keepalives, and what was blocked.
        self.sockets.send_all(&mut self.device);
        if !self.tun_readable || self.sockets.blocked() {
            return Ok(());
        }
        for _ in 0..READS_PER_TURN {
            if self.device.transmit_backlog() >= BYTES_PER_TURN {
                break;
            }
            match self.tun.read_into(&mut self.device, now) {
                Ok(()) => {}
                Err(Stop::Empty) => {
                    self.tun_readable = false;
                    break;
                }
                Err(Stop::Gone) => return Err(Stop::Gone),
            }
        }
        self.sockets.send_all(&mut self.device);
        Ok(())
    }

    fn serve(&mut self, client: Token) {
        let Self {
            control,
            device,
            sockets,
            private_key,
            poll,
            ..
        } = self;
        let registry = poll.registry();
        let now = Instant::now();
        control.serve(client, registry, |request| {
            let mut interface = Interface {
                device,
                sockets,
                private_key,
                registry,
                now,
            };
            interface.answer(request)
        });
    }
}

/// Room that the device wants for what it writes itself: a handshake initiation.
const MIN_SLOT: usize = 148;

/// What a request may read and change.
struct Interface<'l> {
    device: &'l mut Device,
    sockets: &'l mut Sockets,
    private_key: &'l mut Option<PrivateKey>,
    registry: &'l mio::Registry,
    now: Instant,
}

impl Interface<'_> {
    fn answer(&mut self, request: Result<Request, UapiError>) -> Zeroizing<String> {
        let errno = match request {
            Ok(Request::Get) => return self.describe(),
            Ok(Request::Set(update)) => match self.update(&update) {
                Ok(()) => 0,
                Err(error) => {
                    tracing::warn!(%error, "a change by the control socket failed");
                    error.raw_os_error().unwrap_or(libc::EIO)
                }
            },
            Err(error) => {
                tracing::warn!(%error, "a request on the control socket was refused");
                error.errno()
            }
        };
        Zeroizing::new(respond_done(errno))
    }

    fn describe(&self) -> Zeroizing<String> {
        let settings = InterfaceSettings {
            private_key: self.private_key.clone(),
            listen_port: self.sockets.port(),
            fwmark: self.sockets.mark(),
        };
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        respond_get(&settings, self.device, |at| {
            since_epoch.saturating_sub(self.now.saturating_duration_since(at))
        })
    }

    fn update(&mut self, update: &InterfaceUpdate) -> io::Result<()> {
        if let Some(key) = &update.private_key {
            self.set_key(key.as_ref());
        }
        if let Some(mark) = update.fwmark.filter(|&mark| mark != self.sockets.mark()) {
            self.sockets.set_mark(mark)?;
        }
        if let Some(port) = update
            .listen_port
            .filter(|&port| port == 0 || port != self.sockets.port())
        {
            *self.sockets = Sockets::open(port, self.sockets.mark(), self.registry).map_err(
                |error| match error {
                    BareError::Udp(TunnelError::Bind { source, .. }) => source,
                    other => io::Error::other(other),
                },
            )?;
        }
        if update.replace_peers {
            let all: Vec<_> = self.device.peers().map(|(id, _)| id).collect();
            for id in all {
                self.device.remove_peer(id);
            }
        }
        for peer in &update.peers {
            self.device
                .configure_peer(peer, self.now)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        }
        Ok(())
    }

    fn set_key(&mut self, key: Option<&PrivateKey>) {
        let bytes = |key: Option<&PrivateKey>| key.map(|key| *key.expose_bytes());
        if bytes(key) == bytes(self.private_key.as_ref()) {
            return;
        }
        *self.private_key = key.cloned();
        let used = key
            .cloned()
            .unwrap_or_else(|| PrivateKey::generate(&mut OsRng));
        self.device.set_private_key(used, self.now);
    }
}
