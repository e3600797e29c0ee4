//! The broker's clock. Everything that decides takes the time as an argument; this is where it comes from.

use std::time::{SystemTime, UNIX_EPOCH};

use ipsx_metering::UnixSeconds;

/// Seconds since 1970, now.
pub(crate) fn now() -> UnixSeconds {
    // A clock before 1970 is a broken one; every signed time would be refused, which is what should happen.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(since.map_or(0, |elapsed| elapsed.as_secs()))
}
