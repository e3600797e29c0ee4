//! The TUN side: super-packets in, super-packets out.

mod lanes;

use std::{
    io::{self, IoSlice},
    num::NonZeroU8,
    ops::Range,
    time::Instant,
};

use ipsx_tunnel_core::{
    Device,
    offload::{MAX_IP_PACKET, Merger, OFFLOAD_HEADER_LEN, OffloadHeader, Segments},
};
use mio::{Registry, Token, event::Event};

use crate::sys::{self, TunFile};
use lanes::{LANES, Lanes};

/// Most characters of an interface's name (`IFNAMSIZ` of Linux, less the zero).
pub const LONGEST_INTERFACE_NAME: usize = 15;

/// MTU of a new interface: 1,500 less the outer IPv6, UDP and WireGuard headers.
const MTU: u16 = 1420;

/// Bytes of decrypted packets gathered before they are written: a few super-packets, that stay in the processor's
/// cache.
const ARENA: usize = 256 << 10;

/// Ranges of one super-packet, and its header.
const PIECES: usize = 65;

/// The most queues that the kernel gives one interface.
const MAX_QUEUES: usize = 256;

/// The interface with its buffers.
pub(crate) struct Tun {
    name: String,
    lanes: Lanes,
    input: Vec<u8>,
    arena: Vec<u8>,
    used: usize,
    merger: Merger,
}

/// Why an interface could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name is none that Linux takes.
    #[error(
        "{0:?} is no interface name: use 1 to 15 letters, digits, dots, dashes or underscores, such as wg0"
    )]
    Name(String),
    /// The process may not make interfaces.
    #[error(
        "making the interface {name} needs the capability CAP_NET_ADMIN: run this as root, or give it to the \
         program with `setcap cap_net_admin+ep`"
    )]
    Privilege {
        /// The interface.
        name: String,
    },
    /// The interface could not be made.
    #[error(
        "cannot make the interface {name}: {source}; choose a name that is free, and see that /dev/net/tun exists"
    )]
    Open {
        /// The interface.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// How reading or writing ended early.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There is nothing more at this time.
    Empty,
    /// The interface was deleted.
    Gone,
}

/// Refuses what is no interface's name.
pub(crate) fn check_name(name: &str) -> Result<(), TunError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if name.is_empty()
        || name.len() > LONGEST_INTERFACE_NAME
        || !name.chars().all(allowed)
        || name.starts_with('.')
    {
        return Err(TunError::Name(name.to_owned()));
    }
    Ok(())
}

impl Tun {
    pub(crate) fn open(name: &str) -> Result<Self, TunError> {
        check_name(name)?;
        let files =
            sys::open_tun_queues(name, MTU, LANES).map_err(|source| Self::failed(name, source))?;
        Ok(Self::new(name, files))
    }

    /// Like [`open`](Self::open) for several loops: the kernel keeps to one for each connection. One for a persistent
    /// interface that exists and has a single queue.
    pub(crate) fn open_shares(name: &str, count: NonZeroU8) -> Result<Vec<Self>, TunError> {
        check_name(name)?;
        let count = usize::from(count.get());
        let lanes = LANES.min(MAX_QUEUES / count);
        let mut files = sys::open_tun_queues(name, MTU, count * lanes)
            .map_err(|source| Self::failed(name, source))?
            .into_iter()
            .peekable();
        let mut shares = Vec::with_capacity(count);
        while files.peek().is_some() {
            shares.push(Self::new(name, files.by_ref().take(lanes).collect()));
        }
        Ok(shares)
    }

    fn failed(name: &str, source: io::Error) -> TunError {
        let name = name.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => TunError::Privilege { name },
            _ => TunError::Open { name, source },
        }
    }

    fn new(name: &str, files: Vec<TunFile>) -> Self {
        let lanes = Lanes::new(files);
        Self {
            name: name.to_owned(),
            merger: Merger::new(lanes.cuts_udp()),
            lanes,
            input: vec![0; OFFLOAD_HEADER_LEN + MAX_IP_PACKET],
            arena: vec![0; ARENA],
            used: 0,
        }
    }

    /// Registers with as many tokens as it has queues, the first of which is given: at most 32.
    pub(crate) fn register(&mut self, registry: &Registry, first: Token) -> io::Result<()> {
        self.lanes.register(registry, first)
    }

    /// Notes what an event says, if it is one of the interface.
    pub(crate) fn take_event(&mut self, event: &Event) {
        self.lanes.take_event(event);
    }

    /// Whether there may be something to read.
    pub(crate) fn is_readable(&self) -> bool {
        self.lanes.is_readable()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The interface's MTU, which anybody may change at any time.
    pub(crate) fn mtu(&self) -> Result<usize, Stop> {
        self.lanes.mtu().map_err(|_| Stop::Gone)
    }

    /// Reads one packet or super-packet and gives it to the device.
    pub(crate) fn read_into(&mut self, device: &mut Device, now: Instant) -> Result<(), Stop> {
        let answer = send_raw(device, self.read_raw()?, now);
        self.answer(answer);
        Ok(())
    }

    /// Reads one packet or super-packet and gives it to `take`, which may have a packet to answer with.
    pub(crate) fn read(
        &mut self,
        take: impl FnOnce(&Segments<'_>) -> Option<Vec<u8>>,
    ) -> Result<(), Stop> {
        let answer = with_segments(self.read_raw()?, take);
        self.answer(answer);
        Ok(())
    }

    /// Reads one packet or super-packet, with the interface's header before it.
    pub(crate) fn read_raw(&mut self) -> Result<&mut [u8], Stop> {
        match self.lanes.read(&mut self.input) {
            Ok(len) => Ok(&mut self.input[..len]),
            Err(error) => {
                self.judge(&error)?;
                Ok(&mut [])
            }
        }
    }

    /// Writes a packet for whoever sent what was read, if there is one.
    pub(crate) fn answer(&self, packet: Option<Vec<u8>>) {
        let Some(packet) = packet else { return };
        let header = OffloadHeader::default().to_bytes();
        let pieces = [IoSlice::new(&header), IoSlice::new(&packet)];
        if let Err(error) = self.lanes.write(&pieces) {
            tracing::trace!(%error, "the interface takes no packet");
        }
    }

    /// A buffer of at least `len` bytes for the next packet; what was gathered may have to be written first.
    pub(crate) fn slot(&mut self, len: usize) -> Result<&mut [u8], Stop> {
        if self.arena.len() - self.used < len {
            self.flush()?;
        }
        Ok(&mut self.arena[self.used..])
    }

    /// Keeps the packet of `len` bytes that was put into the last slot.
    pub(crate) fn keep(&mut self, len: usize) {
        let range: Range<usize> = self.used..self.used + len;
        self.used = range.end;
        self.merger.push(&self.arena, range);
    }

    /// Writes all kept packets, joined as far as they may be.
    pub(crate) fn flush(&mut self) -> Result<(), Stop> {
        if self.merger.is_empty() {
            return Ok(());
        }
        self.merger.finish(&mut self.arena);
        let mut result = Ok(());
        for merged in self.merger.merged() {
            let header = merged.header.to_bytes();
            let mut pieces = [IoSlice::new(&[]); PIECES];
            pieces[0] = IoSlice::new(&header);
            let mut count = 1;
            for (piece, range) in pieces[1..].iter_mut().zip(merged) {
                *piece = IoSlice::new(&self.arena[range]);
                count += 1;
            }
            if let Err(error) = self.lanes.write(&pieces[..count]) {
                result = self.judge(&error);
                if result == Err(Stop::Gone) {
                    break;
                }
                // A full queue, an interface that is down, or a packet the kernel does not take: dropped, as a
                // network may.
                tracing::trace!(%error, "the interface takes no packet");
                result = Ok(());
            }
        }
        self.merger.clear();
        self.used = 0;
        result
    }

    fn judge(&self, error: &io::Error) -> Result<(), Stop> {
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::Interrupted, _) => Ok(()),
            (_, Some(libc::EBADFD | libc::EBADF | libc::ENODEV)) => Err(Stop::Gone),
            _ => Err(Stop::Empty),
        }
    }
}

/// Gives a device what [`Tun::read_raw`] has read. Returns what is to be given to [`Tun::answer`].
pub(crate) fn send_raw(device: &mut Device, raw: &mut [u8], now: Instant) -> Option<Vec<u8>> {
    with_segments(raw, |segments| send(device, segments, now))
}

/// Gives a device what was read; a packet that is too long for the way to its peer is answered instead.
pub(crate) fn send(device: &mut Device, segments: &Segments<'_>, now: Instant) -> Option<Vec<u8>> {
    let too_big = device.too_big(segments, now);
    if too_big.is_none()
        && let Err(reason) = device.handle_segments(segments, now)
    {
        tracing::trace!(%reason, "packet dropped");
    }
    too_big
}

fn with_segments(
    raw: &mut [u8],
    take: impl FnOnce(&Segments<'_>) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let (header, packet) = raw.split_first_chunk_mut::<OFFLOAD_HEADER_LEN>()?;
    match OffloadHeader::from_bytes(header).and_then(|header| Segments::new(header, packet)) {
        Ok(segments) => take(&segments),
        Err(error) => {
            tracing::debug!(%error, "packet of the interface dropped");
            None
        }
    }
}
