//! The event loop of one worker: it moves the packets of its share of the peers.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipsx_tunnel_core::{
    Arrived, Device, DeviceConfig, Inbound, PrivateKey, Shard,
    offload::OFFLOAD_HEADER_LEN,
    uapi::{InterfaceUpdate, describe_peers},
};
use mio::{Events, Poll, Token};
use rand::{RngCore, rngs::OsRng};
use zeroize::Zeroizing;

use super::{
    BareError,
    handover::{Batch, Inbox, Outbox, Source},
    sockets::{Sockets, UDP_V4, UDP_V6},
};
use crate::tun::{Stop, Tun, send_raw};

const WAKE: Token = Token(2);
/// The first of the interface's tokens.
const TUN: Token = Token(3);

/// Packets or super-packets read from the interface before they are sent: together they fill the batches better.
const READS_PER_TURN: usize = 64;

/// Bytes to be sent at which a turn stops reading: two full batches, that stay in the processor's cache.
const BYTES_PER_TURN: usize = 128 << 10;

/// Turns between looks at everything but packets.
const TURNS_PER_POLL: usize = 8;

/// How often the interface itself is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Room that the device wants for what it writes itself: a handshake initiation.
const MIN_SLOT: usize = 148;

/// A change of the interface, or a question.
pub(super) enum Command {
    /// Another private key, or none: then nothing is sent or taken.
    Key(Option<PrivateKey>),
    /// Another mark on what is sent.
    Mark(u32),
    /// Other sockets.
    Sockets(Box<Sockets>),
    /// The update's peers.
    Peers(Arc<InterfaceUpdate>),
    /// How this worker's peers are doing, as [`describe_peers`] puts it.
    Describe,
}

/// A command, and where its answer goes: text for [`Command::Describe`], nothing for the others.
pub(super) struct Order {
    pub(super) command: Command,
    pub(super) answer: mpsc::Sender<io::Result<Zeroizing<String>>>,
}

/// What a worker is made with besides its queue and sockets.
pub(super) struct Place {
    pub(super) poll: Poll,
    pub(super) shard: Shard,
    pub(super) inboxes: Arc<[Inbox]>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) stop: Arc<AtomicBool>,
}

pub(super) struct Worker {
    place: Place,
    tun: Tun,
    sockets: Sockets,
    device: Device,
    has_key: bool,
    /// Packets for the other workers; none if there are no others.
    outbox: Option<Outbox>,
    /// Packets from them.
    handed_over: Vec<Batch>,
    next_look: Instant,
}

/// Makes a poll and what wakes it.
pub(super) fn new_poll() -> io::Result<(Poll, Arc<mio::Waker>)> {
    let poll = Poll::new()?;
    let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE)?);
    Ok((poll, waker))
}

impl Worker {
    pub(super) fn new(mut tun: Tun, mut sockets: Sockets, place: Place) -> Result<Self, BareError> {
        let now = Instant::now();
        let registry = place.poll.registry();
        tun.register(registry, TUN).map_err(BareError::Start)?;
        sockets.register(registry).map_err(BareError::Start)?;
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed)?;
        // A device always has a key; this one is never used, and replaced by the first that is given.
        let config = DeviceConfig::bare(PrivateKey::generate(&mut OsRng));
        let alone = place.inboxes.len() == 1;
        Ok(Self {
            device: Device::new_shard(config, seed, now, place.shard),
            outbox: (!alone).then(|| Outbox::new(Arc::clone(&place.inboxes))),
            handed_over: Vec::new(),
            has_key: false,
            tun,
            sockets,
            next_look: now,
            place,
        })
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
            let timeout = self.timeout();
            match self.place.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    UDP_V4 | UDP_V6 => self.sockets.take_event(event),
                    WAKE => {}
                    _ => self.tun.take_event(event),
                }
            }
            if self.place.stop.load(Ordering::Acquire) {
                return Ok(Stop::Empty);
            }
            while let Ok(order) = self.place.orders.try_recv() {
                let answer = self.obey(order.command);
                // Whoever asked may have given up.
                let _ = order.answer.send(answer);
            }
            if self.move_packets() == Err(Stop::Gone) {
                return Ok(Stop::Gone);
            }
        }
    }

    fn timeout(&self) -> Duration {
        if self.sockets.readable() || (self.tun.is_readable() && !self.sockets.blocked()) {
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
            if !self.sockets.readable() && (!self.tun.is_readable() || self.sockets.blocked()) {
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
            has_key,
            outbox,
            ..
        } = self;
        let mut result = Ok(());
        sockets.receive(|arrival, datagram| {
            if !*has_key || result.is_err() {
                return;
            }
            let slot = match tun.slot(datagram.len().max(MIN_SLOT)) {
                Ok(slot) => slot,
                Err(stop) => {
                    result = Err(stop);
                    return;
                }
            };
            match device.handle_sharded(arrival, datagram, now, slot) {
                Ok(Arrived::Here(Some(Inbound::Packet { packet, .. }))) => {
                    let len = packet.len();
                    tun.keep(len);
                }
                Ok(Arrived::Elsewhere(owner)) => {
                    if let Some(outbox) = outbox {
                        outbox.push(owner, Source::Network(arrival), datagram);
                    }
                }
                Ok(Arrived::Here(_)) => {}
                Err(reason) => tracing::trace!(from = %arrival.from, %reason, "datagram dropped"),
            }
        });
        result?;
        if self.outbox.is_some() {
            self.take_over(now)?;
        }
        // An interface has no use for the device's events.
        while self.device.poll_event().is_some() {}
        self.tun.flush()
    }

    /// Handles what the other workers found to be for this one.
    fn take_over(&mut self, now: Instant) -> Result<(), Stop> {
        if self.sockets.blocked() {
            return Ok(());
        }
        let Self {
            place,
            device,
            tun,
            has_key,
            handed_over,
            ..
        } = self;
        place.inboxes[place.shard.index()].take(handed_over);
        let mut result = Ok(());
        for batch in handed_over {
            batch.for_each(|source, packet| {
                if !*has_key || result.is_err() {
                    return;
                }
                let arrival = match source {
                    Source::Tunnel => return tun.answer(send_raw(device, packet, now)),
                    Source::Network(arrival) => arrival,
                };
                match tun.slot(packet.len().max(MIN_SLOT)) {
                    Ok(slot) => {
                        // What changed hands on the way is lost.
                        if let Ok(Arrived::Here(Some(Inbound::Packet { packet, .. }))) =
                            device.handle_forwarded(arrival, packet, now, slot)
                        {
                            let len = packet.len();
                            tun.keep(len);
                        }
                    }
                    Err(stop) => result = Err(stop),
                }
            });
        }
        result
    }

    /// From the interface to the network.
    fn transmit(&mut self, now: Instant) -> Result<(), Stop> {
        // Answers to handshakes and keepalives, and what was blocked.
        self.sockets.send_all(&mut self.device);
        if self.tun.is_readable() && !self.sockets.blocked() {
            for _ in 0..READS_PER_TURN {
                let gathered = self.outbox.as_ref().map_or(0, Outbox::bytes);
                if self.device.transmit_backlog() + gathered >= BYTES_PER_TURN {
                    break;
                }
                match self.read(now) {
                    Ok(()) => {}
                    Err(Stop::Empty) => break,
                    Err(Stop::Gone) => return Err(Stop::Gone),
                }
            }
            self.sockets.send_all(&mut self.device);
        }
        if let Some(outbox) = &mut self.outbox {
            outbox.deliver();
        }
        Ok(())
    }

    fn read(&mut self, now: Instant) -> Result<(), Stop> {
        let Some(outbox) = &mut self.outbox else {
            return self.tun.read_into(&mut self.device, now);
        };
        let raw = self.tun.read_raw()?;
        let packet = raw.get(OFFLOAD_HEADER_LEN..).unwrap_or_default();
        let owner = self.device.shard_of_packet(packet);
        if owner == self.place.shard.index() {
            let answer = send_raw(&mut self.device, raw, now);
            self.tun.answer(answer);
        } else {
            outbox.push(owner, Source::Tunnel, raw);
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> io::Result<Zeroizing<String>> {
        let now = Instant::now();
        match command {
            Command::Key(key) => {
                self.has_key = key.is_some();
                let used = key.unwrap_or_else(|| PrivateKey::generate(&mut OsRng));
                self.device.set_private_key(used, now);
            }
            Command::Mark(mark) => self.sockets.set_mark(mark)?,
            Command::Sockets(mut sockets) => {
                sockets.register(self.place.poll.registry())?;
                self.sockets = *sockets;
            }
            Command::Peers(update) => {
                if update.replace_peers {
                    self.device.remove_all_peers();
                }
                for peer in &update.peers {
                    self.device
                        .configure_peer(peer, now)
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                }
            }
            Command::Describe => {
                let since_epoch = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                return Ok(describe_peers(&self.device, |at| {
                    since_epoch.saturating_sub(now.saturating_duration_since(at))
                }));
            }
        }
        Ok(Zeroizing::default())
    }
}
