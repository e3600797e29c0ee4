// Copyright (c) 2019 Cloudflare, Inc. All rights reserved.
// SPDX-License-Identifier: BSD-3-Clause

//! The time stamp of an initiation, which is later than that of every one before.

use crate::noise::errors::WireGuardError;
use std::convert::TryInto;
use std::time::{Duration, Instant, SystemTime};

#[derive(Debug)]
/// This struct represents a 12 byte [Tai64N](https://cr.yp.to/libtai/tai64.html) timestamp
pub(super) struct Tai64N {
    secs: u64,
    nano: u32,
}

impl Tai64N {
    /// A zeroed out timestamp
    pub(super) fn zero() -> Tai64N {
        Tai64N { secs: 0, nano: 0 }
    }

    /// Parse a timestamp from a 12 byte u8 slice
    pub(super) fn parse(buf: &[u8; 12]) -> Result<Tai64N, WireGuardError> {
        if buf.len() < 12 {
            return Err(WireGuardError::InvalidTai64nTimestamp);
        }

        let (sec_bytes, nano_bytes) = buf.split_at(std::mem::size_of::<u64>());
        let secs = u64::from_be_bytes(sec_bytes.try_into().unwrap());
        let nano = u32::from_be_bytes(nano_bytes.try_into().unwrap());

        // WireGuard does not actually expect a Tai64N time stamp, just one that grows
        Ok(Tai64N { secs, nano })
    }

    /// Check if this timestamp represents a time that is chronologically after the time represented
    /// by the other timestamp
    pub(super) fn after(&self, other: &Tai64N) -> bool {
        (self.secs > other.secs) || ((self.secs == other.secs) && (self.nano > other.nano))
    }
}

#[derive(Debug)]
/// This struct computes a [Tai64N](https://cr.yp.to/libtai/tai64.html) timestamp from current system time
pub(super) struct TimeStamper {
    duration_at_start: Duration,
    instant_at_start: Instant,
    /// The latest time stamped; the next one is later, however fast they follow each other
    last: Duration,
}

impl TimeStamper {
    /// Create a new TimeStamper
    pub(super) fn new(now: Instant) -> TimeStamper {
        TimeStamper {
            duration_at_start: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap(),
            instant_at_start: now,
            last: Duration::ZERO,
        }
    }

    /// Take time reading and generate a 12 byte timestamp
    pub(super) fn stamp(&mut self, now: Instant) -> [u8; 12] {
        const TAI64_BASE: u64 = (1u64 << 62) + 37;
        let mut ext_stamp = [0u8; 12];
        let stamp = (now.duration_since(self.instant_at_start) + self.duration_at_start)
            .max(self.last + Duration::from_nanos(1));
        self.last = stamp;
        ext_stamp[0..8].copy_from_slice(&(stamp.as_secs() + TAI64_BASE).to_be_bytes());
        ext_stamp[8..12].copy_from_slice(&stamp.subsec_nanos().to_be_bytes());
        ext_stamp
    }
}
