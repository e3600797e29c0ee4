//! Packets that arrived at another worker than theirs, handed over in batches.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use ipsx_tunnel_core::Arrival;

/// Bytes that may wait for one worker; more are dropped, as by a network.
const MAX_WAITING: usize = 4 << 20;

/// Emptied batches that an inbox keeps for whoever fills the next.
const MAX_SPARE: usize = 8;

/// Where a packet came from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// The interface: a packet with the interface's header.
    Tunnel,
    /// A datagram that arrived so.
    Network(Arrival),
}

/// Packets one after the other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    items: Vec<(Source, usize)>,
}

impl Batch {
    fn push(&mut self, source: Source, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.items.push((source, packet.len()));
    }

    /// Gives each packet to `take`, in the order in which they came; empty afterwards.
    pub(super) fn for_each(&mut self, mut take: impl FnMut(Source, &mut [u8])) {
        let mut rest = &mut self.bytes[..];
        for &(source, len) in &self.items {
            let (packet, after) = rest.split_at_mut(len);
            take(source, packet);
            rest = after;
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }
}

/// What waits for one worker.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Whether there is something; says it without the lock.
    waiting: AtomicBool,
    queue: Mutex<Queue>,
    waker: Arc<mio::Waker>,
}

#[derive(Debug, Default)]
struct Queue {
    full: Vec<Batch>,
    bytes: usize,
    spare: Vec<Batch>,
}

impl Inbox {
    pub(super) fn new(waker: Arc<mio::Waker>) -> Self {
        Self {
            waiting: AtomicBool::new(false),
            queue: Mutex::default(),
            waker,
        }
    }

    /// Puts a batch in, and takes an empty one for the next.
    fn put(&self, batch: &mut Batch) {
        let mut queue = self.lock();
        if queue.bytes + batch.bytes.len() > MAX_WAITING {
            tracing::trace!("a worker is behind; packets for it are dropped");
            batch.clear();
            return;
        }
        queue.bytes += batch.bytes.len();
        let empty = queue.spare.pop().unwrap_or_default();
        queue.full.push(std::mem::replace(batch, empty));
        drop(queue);
        // Once for all that comes until it looks.
        if !self.waiting.swap(true, Ordering::AcqRel) {
            let _ = self.waker.wake();
        }
    }

    /// Takes everything that waits into `to`, which gives its empty batches back.
    pub(super) fn take(&self, to: &mut Vec<Batch>) {
        if !self.waiting.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut queue = self.lock();
        while queue.spare.len() < MAX_SPARE
            && let Some(used) = to.pop()
        {
            queue.spare.push(used);
        }
        to.clear();
        queue.bytes = 0;
        std::mem::swap(to, &mut queue.full);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one worker gathers for the others.
#[derive(Debug)]
pub(super) struct Outbox {
    inboxes: Arc<[Inbox]>,
    batches: Vec<Batch>,
    bytes: usize,
}

impl Outbox {
    pub(super) fn new(inboxes: Arc<[Inbox]>) -> Self {
        Self {
            batches: inboxes.iter().map(|_| Batch::default()).collect(),
            inboxes,
            bytes: 0,
        }
    }

    /// Bytes gathered and not yet delivered.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, to: usize, source: Source, packet: &[u8]) {
        if let Some(batch) = self.batches.get_mut(to) {
            batch.push(source, packet);
            self.bytes += packet.len();
        }
    }

    /// Hands everything over.
    pub(super) fn deliver(&mut self) {
        if self.bytes == 0 {
            return;
        }
        self.bytes = 0;
        for (batch, inbox) in self.batches.iter_mut().zip(self.inboxes.iter()) {
            if !batch.items.is_empty() {
                inbox.put(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn inboxes(count: usize) -> (mio::Poll, Arc<[Inbox]>) {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let all = (0..count).map(|_| Inbox::new(Arc::clone(&waker)));
        (poll, all.collect())
    }

    #[test]
    fn what_is_handed_over_arrives_once_and_in_order() {
        let (_poll, inboxes) = inboxes(2);
        let from = Arrival::from(std::net::SocketAddr::from(([192, 0, 2, 1], 7)));
        let sender = std::thread::spawn({
            let inboxes = Arc::clone(&inboxes);
            move || {
                let mut outbox = Outbox::new(inboxes);
                for n in 0..10_000u32 {
                    outbox.push(1, Source::Network(from), &n.to_le_bytes());
                    if n % 7 == 0 {
                        outbox.push(1, Source::Tunnel, &[]);
                        outbox.deliver();
                    }
                }
                outbox.deliver();
            }
        });
        let (mut batches, mut expected) = (Vec::new(), 0u32);
        while expected < 10_000 {
            let ended = sender.is_finished();
            inboxes[1].take(&mut batches);
            let before = expected;
            for batch in &mut batches {
                batch.for_each(|source, packet| match source {
                    Source::Tunnel => assert!(packet.is_empty()),
                    Source::Network(arrival) => {
                        assert_eq!((arrival, &*packet), (from, &expected.to_le_bytes()[..]));
                        expected += 1;
                    }
                });
            }
            assert!(!ended || expected > before, "{expected} of 10000");
        }
        sender.join().unwrap();
    }

    #[test]
    fn a_worker_that_is_behind_does_not_fill_the_memory() {
        let (_poll, inboxes) = inboxes(2);
        let mut outbox = Outbox::new(Arc::clone(&inboxes));
        let packet = vec![1; 64 << 10];
        for _ in 0..1_000 {
            outbox.push(1, Source::Tunnel, &packet);
            outbox.deliver();
        }
        let mut batches = Vec::new();
        inboxes[1].take(&mut batches);
        assert_eq!(batches.len() * packet.len(), MAX_WAITING);
        // Empty ones go back and forth.
        inboxes[1].take(&mut batches);
        outbox.push(1, Source::Tunnel, &packet);
        outbox.deliver();
        inboxes[1].take(&mut batches);
        assert_eq!(batches.len(), 1);
        assert_eq!(inboxes[1].lock().spare.len(), MAX_SPARE);
    }
}
