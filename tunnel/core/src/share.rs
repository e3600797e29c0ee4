//! How peers share what a device carries in one direction.
//!
//! A pool fills at the device's rate and is dealt out to the peers that have sent something, in proportion to their
//! weights. Whoever has enough gets no more, so that what one peer leaves is for the others (weighted max-min
//! fairness), and a peer alone has everything.

use std::time::{Duration, Instant};

use slab::Slab;

use crate::INNER_MTU;

const NANOS: u128 = 1_000_000_000;

/// What the pool holds at most, as time at its rate: a burst after a silence.
const POOL: Duration = Duration::from_millis(100);

/// What one peer holds at most, as time at the device's rate: with more, many idle peers could burst together.
const HAND: Duration = Duration::from_millis(1);

/// But never less than two full packets.
const SMALLEST_HAND: u128 = 2 * INNER_MTU as u128 * NANOS;

/// The pool is not dealt out before there is this much for each peer that wants some, on average. That bounds the work
/// per byte, however many peers there are.
const SMALLEST_DEAL: u64 = 64;

/// One direction of a device.
#[derive(Debug)]
pub(crate) struct Share {
    /// Bytes per second.
    rate: u64,
    /// Bytes times 10⁹, so that slow rates fill exactly.
    pool: u128,
    filled_at: Instant,
    members: Slab<Member>,
    /// Members whose hands are not full.
    wanting: Vec<usize>,
}

#[derive(Debug)]
struct Member {
    weight: u64,
    /// Bytes times 10⁹, so that small parts add up.
    hand: u128,
    wanting: bool,
}

impl Share {
    /// A full pool of `rate` bytes per second.
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        Self {
            rate,
            pool: most(rate),
            filled_at: now,
            members: Slab::new(),
            wanting: Vec::new(),
        }
    }

    /// Another rate; what is in the pool stays, as far as it holds it.
    pub(crate) fn set_rate(&mut self, rate: u64, now: Instant) {
        self.fill(now);
        self.rate = rate;
        self.pool = self.pool.min(most(rate));
    }

    /// Adds a peer and returns its number.
    pub(crate) fn join(&mut self, weight: u64) -> usize {
        self.members.insert(Member {
            weight: weight.max(1),
            hand: full(self.rate),
            wanting: false,
        })
    }

    /// Changes how much a peer gets beside the others.
    pub(crate) fn set_weight(&mut self, number: usize, weight: u64) {
        if let Some(member) = self.members.get_mut(number) {
            member.weight = weight.max(1);
        }
    }

    /// Takes a peer out.
    pub(crate) fn leave(&mut self, number: usize) {
        self.members.try_remove(number);
        self.wanting.retain(|&other| other != number);
    }

    /// Takes `bytes` for a peer if they are there.
    pub(crate) fn take(&mut self, number: usize, bytes: u64, now: Instant) -> bool {
        let holds = self.room(number, bytes, now) >= bytes;
        if let (true, Some(member)) = (holds, self.members.get_mut(number)) {
            member.hand -= u128::from(bytes) * NANOS;
            if !std::mem::replace(&mut member.wanting, true) {
                self.wanting.push(number);
            }
        }
        holds
    }

    /// How much a peer holds. The pool is only looked at when it holds less than `wanted`.
    pub(crate) fn room(&mut self, number: usize, wanted: u64, now: Instant) -> u64 {
        let hand = |share: &Self| share.members.get(number).map_or(0, |member| member.hand);
        if hand(self) < u128::from(wanted) * NANOS {
            self.deal(now);
        }
        u64::try_from(hand(self) / NANOS).unwrap_or(u64::MAX)
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        let gained = elapsed.as_nanos().saturating_mul(u128::from(self.rate));
        self.pool = self.pool.saturating_add(gained).min(most(self.rate));
    }

    /// Deals the pool out by weight until it is empty or every hand is full.
    fn deal(&mut self, now: Instant) {
        self.fill(now);
        loop {
            let enough = u128::from(SMALLEST_DEAL) * NANOS * self.wanting.len() as u128;
            if self.wanting.is_empty() || self.pool < enough.min(most(self.rate)) {
                return;
            }
            let full = full(self.rate);
            let members = &mut self.members;
            let weights: u128 = self
                .wanting
                .iter()
                .map(|&number| u128::from(members[number].weight))
                .sum();
            let pool = self.pool;
            self.wanting.retain(|&number| {
                let member = &mut members[number];
                let part = (pool / weights * u128::from(member.weight))
                    .min(full.saturating_sub(member.hand));
                member.hand += part;
                self.pool -= part;
                member.wanting = member.hand < full;
                member.wanting
            });
        }
    }
}

/// What a pool of this rate holds at most, but never less than one peer's hand.
fn most(rate: u64) -> u128 {
    (u128::from(rate) * POOL.as_nanos()).max(full(rate))
}

/// What a hand holds at most when the pool fills at this rate.
fn full(rate: u64) -> u128 {
    (u128::from(rate) * HAND.as_nanos()).max(SMALLEST_HAND)
}

#[cfg(test)]
mod tests;
