//! What a peer's data may do, and what all peers share.

use std::time::Instant;

use super::{Device, PeerId};
use crate::{
    gate::{Direction, Gate, Rates, Refused},
    peer::Peer,
    share::Share,
};

impl Device {
    /// Changes what a peer's data may do; a new throttle starts with a full burst. False for an unknown peer.
    pub fn set_gate(&mut self, id: PeerId, gate: Gate, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        peer.gate.set(gate, self.config.side, now);
        true
    }

    /// Limits what all peers together may send and receive. When they want more, each gets its share by weight; what
    /// one does not use is for the others.
    pub fn set_capacity(&mut self, rates: Rates, now: Instant) {
        let (inbound, outbound) = rates.of(self.config.side);
        match &mut self.shares {
            Some(shares) => {
                shares.inbound.set_rate(inbound, now);
                shares.outbound.set_rate(outbound, now);
            }
            None => {
                let mut shares = Shares {
                    inbound: Share::new(inbound, now),
                    outbound: Share::new(outbound, now),
                };
                for peer in self.peers.values_mut() {
                    peer.share = shares.join();
                }
                self.shares = Some(shares);
            }
        }
    }

    /// Weights of a peer's shares; all peers start with the smallest. Of no effect before
    /// [`set_capacity`](Self::set_capacity). False for an unknown peer.
    pub fn set_weights(&mut self, id: PeerId, weights: Rates) -> bool {
        let Some(peer) = self.peers.get(&id) else {
            return false;
        };
        if let Some(shares) = &mut self.shares {
            let (inbound, outbound) = weights.of(self.config.side);
            shares.inbound.set_weight(peer.share, inbound);
            shares.outbound.set_weight(peer.share, outbound);
        }
        true
    }

    /// Bytes of packets to a peer that would pass its gate and its share now; a sender that waits when there are few
    /// loses nothing. `u64::MAX` without limits, and behind a closed gate, where waiting does not help.
    pub fn room(&mut self, id: PeerId, now: Instant) -> u64 {
        let Some(peer) = self.peers.get_mut(&id) else {
            return u64::MAX;
        };
        let gate = match peer.gate.gate() {
            Gate::Closed => return u64::MAX,
            Gate::Open => u64::MAX,
            Gate::Limited(limits) => limits.byte_limit.saturating_sub(peer.usage.bytes()),
        };
        let share = self.shares.as_mut().map_or(u64::MAX, |shares| {
            shares.outbound.room(peer.share, u64::MAX, now)
        });
        gate.min(share)
            .min(peer.gate.room(Direction::Outbound, now))
    }
}

/// Both directions of a device whose peers share what it carries.
pub(super) struct Shares {
    inbound: Share,
    outbound: Share,
}

impl Shares {
    /// Adds a peer; it has the same number in both.
    pub(super) fn join(&mut self) -> usize {
        let number = self.inbound.join(1);
        let same = self.outbound.join(1);
        debug_assert_eq!(number, same, "both see the same peers come and go");
        number
    }

    pub(super) fn leave(&mut self, number: usize) {
        self.inbound.leave(number);
        self.outbound.leave(number);
    }
}

/// Lets a data packet through a peer's gate and shares.
pub(super) fn pass(
    peer: &mut Peer,
    shares: &mut Option<Shares>,
    direction: Direction,
    bytes: usize,
    now: Instant,
) -> Result<(), Refused> {
    let (number, used) = (peer.share, peer.usage.bytes());
    let share = |bytes| match (shares, direction) {
        (None, _) => true,
        (Some(shares), Direction::Inbound) => shares.inbound.take(number, bytes, now),
        (Some(shares), Direction::Outbound) => shares.outbound.take(number, bytes, now),
    };
    peer.gate.pass(direction, bytes, used, share, now)
}
