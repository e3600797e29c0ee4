//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use ipsx_metering::UnixSeconds;

/// Seconds since 1970 by this machine's clock.
pub(crate) fn unix_now() -> UnixSeconds {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixSeconds(since.as_secs())
}
