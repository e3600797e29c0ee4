//! Outgoing datagrams, gathered into batches that one system call can send.

use std::{collections::VecDeque, net::SocketAddr};

use crate::ecn::Ecn;

/// Most bytes in one batch: a UDP send is at most 65,507 bytes on IPv4.
const MAX_BATCH_BYTES: usize = 65_507;

/// Most datagrams in one batch: the limit of Linux's UDP_SEGMENT.
const MAX_BATCH_SEGMENTS: usize = 64;

/// Buffers kept for reuse.
const MAX_SPARE: usize = 64;

/// Datagrams to one destination, ready to be sent in one call.
#[derive(Debug)]
pub struct Transmit {
    /// Where to send.
    pub destination: SocketAddr,
    /// Length of every datagram but the last, which may be shorter.
    pub segment_size: usize,
    /// Their mark, one for all.
    pub ecn: Ecn,
    /// Whether it must not be cut to pieces on the way, so that the routers tell what the way takes. Then it is one
    /// datagram.
    pub whole: bool,
    /// The datagrams, and after them what an earlier batch left: clearing it each time would cost more than it is worth.
    buffer: Vec<u8>,
    len: usize,
    segments: usize,
    sealed: bool,
}

impl Transmit {
    fn takes(&self, destination: SocketAddr, ecn: Ecn, len: usize, max_segments: usize) -> bool {
        !self.sealed
            && self.ecn == ecn
            && self.destination == destination
            && len <= self.segment_size
            && self.segments < max_segments
            && self.len + len <= MAX_BATCH_BYTES
    }

    /// The datagrams, one after the other.
    pub fn contents(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// How many datagrams the batch holds.
    pub fn segments(&self) -> usize {
        self.segments
    }
}

/// First-in, first-out queue of batches with recycled buffers.
#[derive(Debug)]
pub(crate) struct TransmitQueue {
    batches: VecDeque<Transmit>,
    spare: Vec<Vec<u8>>,
    bytes: usize,
    max_segments: usize,
}

impl TransmitQueue {
    pub(crate) fn new() -> Self {
        Self {
            batches: VecDeque::new(),
            spare: Vec::new(),
            bytes: 0,
            max_segments: MAX_BATCH_SEGMENTS,
        }
    }

    /// Limits batches to what the socket can send at once.
    pub(crate) fn set_max_segments(&mut self, max_segments: usize) {
        self.max_segments = max_segments.clamp(1, MAX_BATCH_SEGMENTS);
    }

    /// Bytes waiting to be taken.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends one datagram of about `room` bytes: `write` fills a buffer of at least that size and returns the
    /// datagram's true length, which should be `expected` (0 for none).
    pub(crate) fn push_with(
        &mut self,
        destination: SocketAddr,
        ecn: Ecn,
        expected: usize,
        room: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let fits = self
            .batches
            .back()
            .is_some_and(|last| last.takes(destination, ecn, expected, self.max_segments));
        if !fits {
            let buffer = self.spare.pop().unwrap_or_default();
            self.batches.push_back(Transmit {
                destination,
                segment_size: expected,
                ecn,
                whole: false,
                buffer,
                len: 0,
                segments: 0,
                sealed: false,
            });
        }
        let Some(batch) = self.batches.back_mut() else {
            return;
        };
        let start = batch.len;
        if batch.buffer.len() < start + room {
            batch.buffer.resize(start + room, 0);
        }
        let len = write(&mut batch.buffer[start..start + room]).min(room);
        batch.len += len;
        if len == 0 {
            if batch.segments == 0 {
                self.drop_last();
            }
            return;
        }
        if start == 0 {
            batch.segment_size = len;
        }
        batch.segments += 1;
        batch.sealed = len < batch.segment_size;
        self.bytes += len;
        if len > batch.segment_size {
            self.split_last(start);
        }
    }

    /// Like [`push_with`](Self::push_with), for a datagram that must stay whole on the way.
    pub(crate) fn push_whole_with(
        &mut self,
        destination: SocketAddr,
        ecn: Ecn,
        expected: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        if let Some(last) = self.batches.back_mut() {
            last.sealed = true;
        }
        let before = self.batches.len();
        self.push_with(destination, ecn, expected, expected, write);
        if self.batches.len() > before
            && let Some(batch) = self.batches.back_mut()
        {
            (batch.whole, batch.sealed) = (true, true);
        }
    }

    /// Appends one finished datagram that carries no mark.
    pub(crate) fn push(&mut self, destination: SocketAddr, datagram: &[u8]) {
        self.push_with(
            destination,
            Ecn::NotEct,
            datagram.len(),
            datagram.len(),
            |buffer| {
                buffer.copy_from_slice(datagram);
                datagram.len()
            },
        );
    }

    /// Takes the oldest batch.
    pub(crate) fn pop(&mut self) -> Option<Transmit> {
        let batch = self.batches.pop_front()?;
        self.bytes -= batch.len;
        Some(batch)
    }

    /// Gives a sent batch's buffer back.
    pub(crate) fn recycle(&mut self, transmit: Transmit) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(transmit.buffer);
        }
    }

    fn drop_last(&mut self) {
        if let Some(batch) = self.batches.pop_back() {
            self.recycle(batch);
        }
    }

    /// Moves the last datagram, written longer than announced, into a batch of its own.
    fn split_last(&mut self, start: usize) {
        let mut buffer = self.spare.pop().unwrap_or_default();
        let Some(batch) = self.batches.back_mut() else {
            return;
        };
        buffer.clear();
        buffer.extend_from_slice(&batch.buffer[start..batch.len]);
        batch.len = start;
        batch.segments -= 1;
        batch.sealed = true;
        let (destination, ecn, len) = (batch.destination, batch.ecn, buffer.len());
        self.batches.push_back(Transmit {
            destination,
            segment_size: len,
            ecn,
            whole: false,
            buffer,
            len,
            segments: 1,
            sealed: false,
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn equal_sizes_share_a_batch_and_a_short_one_seals_it() {
        let mut queue = TransmitQueue::new();
        for len in [100, 100, 60, 100] {
            queue.push(addr(1), &vec![1; len]);
        }
        let first = queue.pop().unwrap();
        assert_eq!(
            (first.segment_size, first.contents().len(), first.segments()),
            (100, 260, 3)
        );
        assert_eq!(queue.pop().unwrap().contents().len(), 100);
        assert!(queue.pop().is_none());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn what_must_stay_whole_goes_alone() {
        let mut queue = TransmitQueue::new();
        let fill = |buffer: &mut [u8]| buffer.len();
        queue.push(addr(1), &[1; 100]);
        queue.push_whole_with(addr(1), Ecn::NotEct, 100, fill);
        queue.push_whole_with(addr(1), Ecn::NotEct, 100, |_| 0);
        queue.push(addr(1), &[1; 100]);
        let batches: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|batch| (batch.whole, batch.segments()))
            .collect();
        assert_eq!(batches, [(false, 1), (true, 1), (false, 1)]);
    }

    proptest! {
        /// Whatever is pushed comes out in order, whole, with its mark, and in batches that a receiver splits the same way.
        #[test]
        fn batches_hold_exactly_what_was_pushed(
            pushes in proptest::collection::vec((0u16..3, 0u8..4, 1usize..1500, 0usize..3), 1..300),
            max_segments in 1usize..70,
        ) {
            let mut queue = TransmitQueue::new();
            queue.set_max_segments(max_segments);
            let mut sent = vec![Vec::new(); 3];
            for (i, &(port, mark, len, surprise)) in pushes.iter().enumerate() {
                // Now and then the datagram is longer or shorter than announced, or not written at all.
                let actual = match surprise { 0 => len, 1 => (len + 7).min(1500), _ => if len % 5 == 0 { 0 } else { len } };
                queue.push_with(addr(port), Ecn::from_bits(mark), len, 1600, |buffer| {
                    buffer[..actual].fill(i as u8);
                    actual
                });
                if actual > 0 {
                    sent[usize::from(port)].push((Ecn::from_bits(mark), vec![i as u8; actual]));
                }
            }
            let mut received = vec![Vec::new(); 3];
            while let Some(batch) = queue.pop() {
                prop_assert!(batch.segments() <= max_segments && batch.contents().len() <= MAX_BATCH_BYTES);
                let datagrams: Vec<_> = batch.contents().chunks(batch.segment_size).map(|datagram| (batch.ecn, datagram.to_vec())).collect();
                prop_assert_eq!(datagrams.len(), batch.segments());
                received[usize::from(batch.destination.port())].extend(datagrams);
                queue.recycle(batch);
            }
            prop_assert_eq!(sent, received);
            prop_assert_eq!(queue.bytes(), 0);
        }
    }
}
