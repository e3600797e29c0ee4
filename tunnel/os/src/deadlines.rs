//! When flows want attention, and which ended a moment ago.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// A queue of wake-up times. Entries are never taken back: whoever is woken looks whether it is really time.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
}

impl<K: Ord> Deadlines<K> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }

    pub(crate) fn push(&mut self, at: Instant, key: K) {
        self.heap.push(Reverse((at, key)));
    }

    /// The earliest time.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the earliest entry if its time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, key))| key)
    }
}

/// Flows that ended less than a minute ago. Packets of theirs that were still under way belong to them, so that
/// both ends of the tunnel count the same.
#[derive(Debug)]
pub(crate) struct Ended<K> {
    known: HashSet<K>,
    order: VecDeque<(Instant, K)>,
}

/// How long an ended flow is remembered: twice the longest time a segment may live in practice.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How many ended flows are remembered, at most.
const MAX_REMEMBERED: usize = 16_384;

impl<K: Copy + Eq + Hash> Ended<K> {
    pub(crate) fn new() -> Self {
        Self {
            known: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn insert(&mut self, key: K, now: Instant) {
        if self.known.insert(key) {
            self.order.push_back((now + REMEMBERED, key));
        }
        while self.order.len() > MAX_REMEMBERED {
            self.forget_oldest();
        }
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.known.contains(key)
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|&(until, _)| until <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.known.remove(&key);
        }
    }
}
