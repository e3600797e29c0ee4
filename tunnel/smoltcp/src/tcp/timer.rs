//! When something has to be done without a segment coming in.

use super::rtt::RTTE_MAX_RTO;
use crate::time::{Duration, Instant};

/// When the socket wants to be polled.
#[derive(Debug, PartialOrd, Ord, PartialEq, Eq, Clone, Copy)]
pub(crate) enum PollAt {
    /// At once.
    Now,
    /// At this time.
    Time(Instant),
    /// Not before something comes in, or the socket is used.
    Ingress,
}

impl PollAt {
    pub(crate) fn into_time(self) -> Option<Instant> {
        match self {
            PollAt::Now => Some(Instant::ZERO),
            PollAt::Time(at) => Some(at),
            PollAt::Ingress => None,
        }
    }
}

pub(super) const CLOSE_DELAY: Duration = Duration::from_millis(10_000);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Timer {
    Idle,
    Retransmit {
        expires_at: Instant,
    },
    ZeroWindowProbe {
        expires_at: Instant,
        delay: Duration,
    },
    Close {
        expires_at: Instant,
    },
}

impl Timer {
    pub(super) fn new() -> Timer {
        Timer::Idle
    }

    pub(super) fn should_retransmit(&self, timestamp: Instant) -> bool {
        match *self {
            Timer::Retransmit { expires_at } if timestamp >= expires_at => true,
            _ => false,
        }
    }

    pub(super) fn should_close(&self, timestamp: Instant) -> bool {
        match *self {
            Timer::Close { expires_at } if timestamp >= expires_at => true,
            _ => false,
        }
    }

    pub(super) fn should_zero_window_probe(&self, timestamp: Instant) -> bool {
        match *self {
            Timer::ZeroWindowProbe { expires_at, .. } if timestamp >= expires_at => true,
            _ => false,
        }
    }

    pub(super) fn poll_at(&self) -> PollAt {
        match *self {
            Timer::Idle => PollAt::Ingress,
            Timer::ZeroWindowProbe { expires_at, .. } => PollAt::Time(expires_at),
            Timer::Retransmit { expires_at, .. } => PollAt::Time(expires_at),
            Timer::Close { expires_at } => PollAt::Time(expires_at),
        }
    }

    pub(super) fn set_for_idle(&mut self) {
        *self = Timer::Idle
    }

    pub(super) fn set_for_retransmit(&mut self, timestamp: Instant, delay: Duration) {
        match *self {
            Timer::Idle | Timer::Retransmit { .. } | Timer::ZeroWindowProbe { .. } => {
                *self = Timer::Retransmit {
                    expires_at: timestamp + delay,
                }
            }
            Timer::Close { .. } => (),
        }
    }

    pub(super) fn set_for_close(&mut self, timestamp: Instant) {
        *self = Timer::Close {
            expires_at: timestamp + CLOSE_DELAY,
        }
    }

    pub(super) fn set_for_zero_window_probe(&mut self, timestamp: Instant, delay: Duration) {
        *self = Timer::ZeroWindowProbe {
            expires_at: timestamp + delay,
            delay,
        }
    }

    pub(super) fn rewind_zero_window_probe(&mut self, timestamp: Instant) {
        if let Timer::ZeroWindowProbe { mut delay, .. } = *self {
            delay = (delay * 2).min(Duration::from_millis(RTTE_MAX_RTO as _));
            *self = Timer::ZeroWindowProbe {
                expires_at: timestamp + delay,
                delay,
            }
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Timer::Idle)
    }

    pub(super) fn is_zero_window_probe(&self) -> bool {
        matches!(self, Timer::ZeroWindowProbe { .. })
    }

    pub(super) fn is_retransmit(&self) -> bool {
        matches!(self, Timer::Retransmit { .. })
    }
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum AckDelayTimer {
    Idle,
    Waiting(Instant),
    Immediate,
}
