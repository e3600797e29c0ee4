//! When flows want attention, and which ended a moment ago.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

use ipsx_tunnel_core::packet;

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
    known: HashMap<K, Ending>,
    order: VecDeque<(Instant, K)>,
}

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Both sides had said that they were done, and it may have to be confirmed again.
    Orderly,
    /// It was broken off, or there was nothing to end.
    Abrupt,
}

impl Ending {
    /// Writes the answer to a late segment of a TCP flow that ended so; false if it needs none.
    pub(crate) fn answer(self, reply: &mut Vec<u8>, segment: &[u8]) -> bool {
        match self {
            Self::Orderly => packet::tcp_last_ack(reply, segment),
            Self::Abrupt => packet::tcp_reset(reply, segment),
        }
    }
}

/// How long an ended flow is remembered: twice the longest time a segment may live in practice.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How many ended flows are remembered, at most.
const MAX_REMEMBERED: usize = 16_384;

impl<K: Copy + Eq + Hash> Ended<K> {
    pub(crate) fn new() -> Self {
        Self {
            known: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn insert(&mut self, key: K, ending: Ending, now: Instant) {
        if self.known.insert(key, ending).is_none() {
            self.order.push_back((now + REMEMBERED, key));
        }
        while self.order.len() > MAX_REMEMBERED {
            self.forget_oldest();
        }
    }

    /// How the flow ended, if it is remembered.
    pub(crate) fn get(&self, key: &K) -> Option<Ending> {
        self.known.get(key).copied()
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.known.contains_key(key)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_in_order_and_not_early() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new();
        deadlines.push(start + Duration::from_secs(2), "later");
        deadlines.push(start + Duration::from_secs(1), "sooner");
        assert_eq!(deadlines.next(), Some(start + Duration::from_secs(1)));
        assert_eq!(deadlines.pop_due(start), None);
        assert_eq!(
            deadlines.pop_due(start + Duration::from_secs(3)),
            Some("sooner")
        );
        assert_eq!(
            deadlines.pop_due(start + Duration::from_secs(3)),
            Some("later")
        );
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn ended_flows_are_forgotten_after_a_minute_and_are_few() {
        let start = Instant::now();
        let mut ended = Ended::new();
        ended.insert(1, Ending::Orderly, start);
        ended.expire(start + Duration::from_secs(59));
        assert_eq!(ended.get(&1), Some(Ending::Orderly));
        ended.expire(start + REMEMBERED);
        assert!(!ended.contains(&1));
        for key in 0..=MAX_REMEMBERED {
            ended.insert(key, Ending::Abrupt, start);
        }
        assert!(!ended.contains(&0) && ended.contains(&MAX_REMEMBERED));
    }
}
