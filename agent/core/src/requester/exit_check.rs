//! When to look at the exit's address: before the second voucher, and then at times that nobody can foresee.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A failed look is repeated this often until the first one succeeds.
const RETRY: Duration = Duration::from_secs(1);
/// The first look must succeed within this time.
const PATIENCE: Duration = Duration::from_secs(15);
/// Later looks are this far apart, at random: from `0` to `1` seconds.
const GAP_SECS: (u64, u64) = (30, 300);

/// What was found out about the exit's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitSeen {
    /// A page reached through the tunnel answered that it saw this address.
    Address(IpAddr),
    /// The page could not be reached or understood.
    Nothing,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The first proof: payment may go on.
    Proven,
    /// Nothing new.
    Unchanged,
    /// Another address than was sold.
    Wrong(IpAddr),
    /// No proof within the time for it.
    Unknown,
}

/// Schedules the looks of one lease.
#[derive(Debug)]
pub(super) struct ExitCheck {
    sold: IpAddr,
    seed: u64,
    state: State,
    next: Option<Instant>,
    seen: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody can look: payment does not depend on it.
    Off,
    /// Traffic does not flow yet.
    Waiting,
    /// Must be proven by then.
    Unproven {
        until: Instant,
    },
    Proven,
}

impl ExitCheck {
    pub(super) fn new(sold: IpAddr, possible: bool, seed: u64) -> Self {
        let state = if possible { State::Waiting } else { State::Off };
        Self {
            sold,
            seed,
            state,
            next: None,
            seen: None,
        }
    }

    /// Traffic flows: the first look is due.
    pub(super) fn start(&mut self, now: Instant) {
        if self.state == State::Waiting {
            self.state = State::Unproven {
                until: now + PATIENCE,
            };
            self.next = Some(now);
        }
    }

    /// Whether vouchers after the first may be signed.
    pub(super) fn allows_payment(&self) -> bool {
        matches!(self.state, State::Off | State::Proven)
    }

    /// The last address that was seen.
    pub(super) fn seen(&self) -> Option<IpAddr> {
        self.seen
    }

    /// True when a look is due; its result must come back with [`Self::handle`].
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|at| now >= at);
        if due {
            self.next = None;
        }
        due
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let patience = match self.state {
            State::Unproven { until } => Some(until),
            _ => None,
        };
        self.next.into_iter().chain(patience).min()
    }

    pub(super) fn handle(&mut self, seen: ExitSeen, now: Instant) -> Verdict {
        match seen {
            ExitSeen::Address(address) => {
                self.seen = Some(address);
                if address != self.sold {
                    return Verdict::Wrong(address);
                }
                self.next = Some(now + self.gap());
                if self.state == State::Proven {
                    Verdict::Unchanged
                } else {
                    self.state = State::Proven;
                    Verdict::Proven
                }
            }
            ExitSeen::Nothing => {
                let wait = if self.state == State::Proven {
                    self.gap()
                } else {
                    RETRY
                };
                self.next = Some(now + wait);
                self.expire(now)
            }
        }
    }

    /// Whether the time for the first proof is over.
    pub(super) fn expire(&self, now: Instant) -> Verdict {
        match self.state {
            State::Unproven { until } if now >= until => Verdict::Unknown,
            _ => Verdict::Unchanged,
        }
    }

    fn gap(&mut self) -> Duration {
        let (shortest, longest) = GAP_SECS;
        Duration::from_secs(shortest + next_random(&mut self.seed) % (longest - shortest))
    }
}

/// The next number of a sequence that starts anywhere (splitmix64): unpredictable to who does not know the seed, good
/// enough to keep a provider from preparing for a look or inventing an echo.
pub(super) fn next_random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
