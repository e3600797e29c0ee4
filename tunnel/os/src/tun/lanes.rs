//! The queues of an interface that one loop reads, a share of the connections in each: a connection that fills its
//! queue does not delay those in the others.
//!
//! The kernel's queue counts packets, and a super-packet is one: a single fast connection may have megabytes waiting in
//! it. With several queues the kernel keeps each connection to one: to that by which the last packet of its other
//! direction was written, or by a hash if there was none. So packets are written by a hash of their connection too, and
//! the queues are read in turns by bytes (deficit round robin, Shreedhar and Varghese 1995, with what a turn overdraws
//! forgotten).

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

use ipsx_tunnel_core::packet::flow_hash;
use mio::{Interest, Registry, Token, event::Event, unix::SourceFd};

use crate::sys::TunFile;

/// Queues of one loop: two connections share one with a probability of one in this many.
pub(super) const LANES: usize = 16;

/// Bytes read from a queue in its turn: one super-packet.
const TURN: usize = 64 << 10;

pub(super) struct Lanes {
    files: Vec<TunFile>,
    /// A bit for each queue that may have something to read.
    readable: u32,
    /// Whose turn it is, and what has been read in it.
    current: usize,
    taken: usize,
    /// The token of the first queue; the others follow.
    first: usize,
}

impl Lanes {
    /// Takes at least one queue and at most 32.
    pub(super) fn new(files: Vec<TunFile>) -> Self {
        Self {
            readable: u32::MAX >> (u32::BITS - files.len() as u32),
            files,
            current: 0,
            taken: 0,
            first: 0,
        }
    }

    pub(super) fn cuts_udp(&self) -> bool {
        self.files.iter().all(TunFile::cuts_udp)
    }

    pub(super) fn mtu(&self) -> io::Result<usize> {
        self.files[0].mtu()
    }

    /// Registers each queue with a token of its own, from `first` on.
    pub(super) fn register(&mut self, registry: &Registry, first: Token) -> io::Result<()> {
        self.first = first.0;
        for (token, file) in (first.0..).map(Token).zip(&self.files) {
            registry.register(&mut SourceFd(&file.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok(())
    }

    /// Notes what an event says, if it is of one of the queues.
    pub(super) fn take_event(&mut self, event: &Event) {
        let lane = event.token().0.wrapping_sub(self.first);
        if lane < self.files.len() {
            self.readable |= 1 << lane;
        }
    }

    /// Whether there may be something to read.
    pub(super) fn is_readable(&self) -> bool {
        self.readable != 0
    }

    /// Reads one packet with its header from the queue whose turn it is; `WouldBlock` once all are empty.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.is_readable() {
            if self.taken >= TURN || self.readable & (1 << self.current) == 0 {
                self.next_turn();
            }
            match self.files[self.current].read(buffer) {
                Ok(len) => {
                    self.taken += len;
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    self.readable &= !(1 << self.current);
                    if error.kind() != io::ErrorKind::WouldBlock {
                        return Err(error);
                    }
                }
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Goes on to the next queue that may have something; there is one.
    fn next_turn(&mut self) {
        self.taken = 0;
        let after = self.readable & (u32::MAX << self.current << 1);
        let next = if after == 0 { self.readable } else { after };
        self.current = next.trailing_zeros() as usize;
    }

    /// Writes one packet, its header first, that lies in pieces; the second of them begins with its IP header.
    pub(super) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let packet = pieces.get(1).map_or(&[][..], |piece| piece);
        let lane = (u64::from(flow_hash(packet)) * self.files.len() as u64) >> u32::BITS;
        self.files[lane as usize].write(pieces)
    }
}
