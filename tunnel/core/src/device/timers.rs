//! Which peer's timers are moved when.
//!
//! A peer is looked at when its session has something to do at the earliest, and soon after each time that something
//! happened to it. A peer that is away has no entry here at all: ten thousand of them cost nothing.

use std::time::{Duration, Instant};

use super::{Device, PeerId};

/// How long after a packet the timers are looked at: less than any of them is set to by one.
const AFTER_ACTIVITY: Duration = Duration::from_secs(1);

/// Least time between two looks at one peer.
const LEAST: Duration = Duration::from_millis(250);

impl Device {
    /// Moves the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.wake_ups.first()
            && at <= now
        {
            self.wake_ups.pop_first();
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.wake_at = None;
            }
            self.tick(id, now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next; never, while all peers are away.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake_ups.first().map(|&(at, _)| at)
    }

    /// Moves one peer's timers, and finds out when that is due again.
    pub(super) fn tick(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.session.set_time(now);
        let written = peer.session.tick(&mut self.scratch);
        if let (Some(len), Some(endpoint)) = (written, peer.endpoint) {
            peer.transfer.sent += len as u64;
            self.transmits.push(endpoint, &self.scratch[..len]);
        }
        if let Some(at) = peer.session.next_tick() {
            self.wake_up(id, at.max(now + LEAST));
        }
    }

    /// Takes care that the timers are looked at soon after something happened to a peer.
    pub(super) fn touch(&mut self, id: PeerId, now: Instant) {
        let at = now + AFTER_ACTIVITY;
        let planned = self.peers.get(&id).and_then(|peer| peer.wake_at);
        if planned.is_none_or(|planned| planned > at) {
            self.wake_up(id, at);
        }
    }

    /// Calls a peer now and then, from the beginning.
    pub(super) fn keep_alive(&mut self, id: PeerId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.wake(&self.identity, now);
            self.touch(id, now);
        }
    }

    fn wake_up(&mut self, id: PeerId, at: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Some(planned) = peer.wake_at.replace(at) {
            self.wake_ups.remove(&(planned, id));
        }
        self.wake_ups.insert((at, id));
    }
}
