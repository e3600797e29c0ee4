//! The operator's reservation: whether to believe it, and for how long.

use std::time::{Duration, Instant};

use crate::{Address, Amount, ChannelId, Domain, OperatorFault, Reservation, Signed, UnixSeconds};

/// The longest that a reservation may run from the block time at which it is accepted: 23 hours.
///
/// A withdrawal, revocation or key rotation takes effect on reservations that end more than 24 h after it.
pub const RESERVATION_LIFETIME: u64 = 23 * 3600;
/// A renewal is asked for when half the time is left, but no sooner than this before the end.
const RENEW_BEFORE: Duration = Duration::from_secs(3600);

/// What the chain says about a payer, all read at one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainView {
    /// The network's operator key.
    pub operator: Address,
    /// Time of the block.
    pub block_time: UnixSeconds,
    /// Last second at which the channel's voucher key counts.
    pub signer_valid_to: UnixSeconds,
    /// The highest cumulative amount that the chain would pay on this channel now:
    /// claimed + held + (balance − pending withdrawal).
    pub payable: Amount,
}

/// A reservation that was believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cover {
    pub(super) capacity: Amount,
    valid_until: UnixSeconds,
    /// When it lapses, on the caller's clock.
    lapses_at: Instant,
    pub(super) renew_at: Instant,
}

impl Cover {
    /// Believes `reservation`, or says what is wrong with it.
    ///
    /// It must cover `needed` and leave more than `reserve` of time, so that service can stop before it lapses.
    pub(super) fn check(
        reservation: &Signed<Reservation>,
        chain: &ChainView,
        (domain, expected): (&Domain, ChannelId),
        needed: Amount,
        reserve: Duration,
        now: Instant,
    ) -> Result<Self, OperatorFault> {
        let Reservation {
            channel_id,
            capacity,
            valid_until,
        } = reservation.message;
        if channel_id != expected {
            return Err(OperatorFault::WrongChannel {
                expected,
                found: channel_id,
            });
        }
        verify_operator(reservation, domain, chain.operator)?;
        let latest = chain.block_time.after(RESERVATION_LIFETIME);
        if valid_until > latest {
            return Err(OperatorFault::TooLong {
                valid_until,
                latest,
            });
        }
        if valid_until > chain.signer_valid_to {
            return Err(OperatorFault::OutlivesSigner {
                valid_until,
                signer_valid_to: chain.signer_valid_to,
            });
        }
        if capacity > chain.payable {
            return Err(OperatorFault::NotCovered {
                capacity,
                payable: chain.payable,
            });
        }
        if capacity < needed {
            return Err(OperatorFault::TooSmall { capacity, needed });
        }
        let time = Duration::from_secs(valid_until.since(chain.block_time));
        if time <= reserve {
            return Err(OperatorFault::TooShort {
                valid_until,
                block_time: chain.block_time,
            });
        }
        let lapses_at = now + time;
        Ok(Self {
            capacity,
            valid_until,
            lapses_at,
            renew_at: lapses_at - (time / 2).min(RENEW_BEFORE),
        })
    }

    /// Whether this one is to be used instead of `old`: it lasts longer, or as long with more capacity.
    pub(super) fn replaces(&self, old: &Self) -> bool {
        (self.valid_until, self.capacity) > (old.valid_until, old.capacity)
    }

    /// When service has to stop: `reserve` before it lapses.
    pub(super) fn stop_at(&self, reserve: Duration) -> Instant {
        self.lapses_at
            .checked_sub(reserve)
            .unwrap_or(self.lapses_at)
    }

    /// The chain's time is `block_time`: what is left can only be less than thought.
    pub(super) fn set_time(&mut self, block_time: UnixSeconds, now: Instant) {
        let left =
            Duration::from_secs(self.valid_until.since(block_time).min(RESERVATION_LIFETIME));
        self.lapses_at = self.lapses_at.min(now + left);
        self.renew_at = self.renew_at.min(self.lapses_at);
    }
}

fn verify_operator(
    reservation: &Signed<Reservation>,
    domain: &Domain,
    operator: Address,
) -> Result<(), OperatorFault> {
    reservation
        .verify(domain, operator)
        .map_err(|cause| OperatorFault::Signature {
            channel: reservation.message.channel_id,
            cause,
        })
}
