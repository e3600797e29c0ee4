//! When a lease starts.

use ipsx_metering::UnixSeconds;
use serde::{Deserialize, Serialize};

use crate::offer::WeeklyHours;

/// How long ahead a start may be asked for, in seconds. The reservation that binds a deal lasts for 23 h; what is left
/// of it at the start must be enough to ask for the next one.
pub const LONGEST_AHEAD: u64 = 20 * 3_600;
/// A lease that starts later than this after the last moment for its signatures, in seconds, is prepaid.
pub const PREPAID_AHEAD: u64 = 60;

/// When a lease may start; at once, if both are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StartWindow {
    /// Not before this second.
    pub earliest: UnixSeconds,
    /// Not after this one.
    pub latest: UnixSeconds,
}

impl StartWindow {
    /// At once.
    pub const NOW: Self = Self {
        earliest: UnixSeconds(0),
        latest: UnixSeconds(0),
    };

    /// Whether it is at once.
    pub fn is_now(&self) -> bool {
        *self == Self::NOW
    }

    /// The first and the last second at which it may start, seen from `now`; none once the window is over.
    pub fn seconds(&self, now: UnixSeconds) -> Option<(UnixSeconds, UnixSeconds)> {
        if self.is_now() {
            return Some((now, now));
        }
        let first = self.earliest.max(now);
        (first <= self.latest).then_some((first, self.latest))
    }

    /// Each second at which leases of several offers may start together, seen from `now`: the first one, and each from which
    /// on others are for sale.
    pub(crate) fn together(&self, now: UnixSeconds) -> impl Iterator<Item = Self> + use<> {
        let at_once = self.is_now().then_some(Self::NOW);
        let window = self.seconds(now).filter(|_| !self.is_now());
        let seconds = window.into_iter().flat_map(|(first, last)| {
            let hours = (first.0 / 3_600 + 1..=last.0 / 3_600).map(|hour| hour * 3_600);
            std::iter::once(first.0).chain(hours)
        });
        let alone = |second| Self {
            earliest: UnixSeconds(second),
            latest: UnixSeconds(second),
        };
        at_once.into_iter().chain(seconds.map(alone))
    }

    /// Whether a start at `at` is what was asked for, seen from `now`; clocks may differ a little.
    pub fn allows(&self, at: UnixSeconds, now: UnixSeconds) -> bool {
        if self.is_now() {
            return at <= now.after(PREPAID_AHEAD);
        }
        (self.earliest..=self.latest).contains(&at)
    }

    /// The first second at which a lease of `length` seconds may start so that it lies in hours that are for sale.
    pub fn earliest_within(
        &self,
        hours: &WeeklyHours,
        length: u32,
        now: UnixSeconds,
    ) -> Option<UnixSeconds> {
        let (mut at, last) = self.seconds(now)?;
        while at <= last {
            match first_closed(hours, at, length) {
                None => return Some(at),
                Some(hour) => at = UnixSeconds((hour + 1) * 3_600),
            }
        }
        None
    }
}

/// The first hour, since 1970, that a lease touches and that is not for sale.
fn first_closed(hours: &WeeklyHours, start: UnixSeconds, length: u32) -> Option<u64> {
    if *hours == WeeklyHours::always() {
        return None;
    }
    let (first, last) = (
        start.0 / 3_600,
        start.after(u64::from(length).saturating_sub(1)).0 / 3_600,
    );
    // After a week every hour has been looked at.
    (first..=last.min(first + 167)).find(|hour| !hours.contains(UnixSeconds(hour * 3_600)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ipsx_metering::U256;
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-20 14:00 UTC, a Friday.
    const FRIDAY_14: UnixSeconds = UnixSeconds(1_795_183_200);

    fn starts(hours: &WeeklyHours, at: UnixSeconds, length: u32) -> bool {
        StartWindow::NOW
            .earliest_within(hours, length, at)
            .is_some()
    }

    #[test]
    fn a_lease_must_fit_into_the_hours_for_sale() {
        let friday_14_to_16 = WeeklyHours(U256::from(0b11u8) << (4 * 24 + 14));
        assert!(starts(&friday_14_to_16, FRIDAY_14, 7_200));
        assert!(!starts(&friday_14_to_16, FRIDAY_14, 7_201));
        assert!(starts(&friday_14_to_16, FRIDAY_14.after(7_195), 5));
        assert!(!starts(&friday_14_to_16, FRIDAY_14.after(7_196), 5));
        assert!(!starts(&friday_14_to_16, UnixSeconds(FRIDAY_14.0 - 1), 5));
    }

    #[test]
    fn a_lease_longer_than_a_week_needs_every_hour() {
        let month = 31 * 24 * 3_600;
        assert!(starts(&WeeklyHours::always(), FRIDAY_14, month));
        let all_but_monday_0 = WeeklyHours(WeeklyHours::always().0 ^ U256::from(1u8));
        assert!(!starts(&all_but_monday_0, FRIDAY_14, month));
        assert!(starts(&all_but_monday_0, FRIDAY_14, 3_600));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

        /// As trying every second says.
        #[test]
        fn it_starts_at_the_first_second_that_fits(
            open in any::<u32>(),
            earliest in 0u64..20_000,
            wide in 0u64..20_000,
            now in 0u64..30_000,
            length in 5u32..9_000,
        ) {
            let hours = WeeklyHours(U256::from(open) << (4 * 24 + 10));
            let at = |seconds| FRIDAY_14.after(seconds);
            let window = StartWindow { earliest: at(earliest), latest: at(earliest + wide) };
            let mut tried = (now.max(earliest)..=earliest + wide).map(at);
            let expected = tried.find(|start| {
                let mut seconds = (0..u64::from(length)).map(|second| start.after(second));
                seconds.all(|second| hours.contains(second))
            });
            prop_assert_eq!(window.earliest_within(&hours, length, at(now)), expected);
        }
    }
}
