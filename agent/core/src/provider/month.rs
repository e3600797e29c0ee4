//! Traffic of the calendar month (UTC), against the provider's limit.

use ipsx_metering::UnixSeconds;
use serde::{Deserialize, Serialize};

/// Bytes carried in one month, for keeping across restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthTraffic {
    /// Months since January of the year 0.
    pub month: u32,
    /// Inner bytes, both directions, all leases.
    pub bytes: u64,
}

impl MonthTraffic {
    /// Adds bytes carried now; a new month starts from nothing.
    pub fn add(&mut self, bytes: u64, now: UnixSeconds) {
        self.turn(now);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Bytes that may still be carried this month.
    pub fn left(&self, limit: u64, now: UnixSeconds) -> u64 {
        match limit {
            u64::MAX => u64::MAX,
            _ if self.month == month_of(now) => limit.saturating_sub(self.bytes),
            _ => limit,
        }
    }

    fn turn(&mut self, now: UnixSeconds) {
        let month = month_of(now);
        if self.month != month {
            *self = Self { month, bytes: 0 };
        }
    }
}

/// Months since January of the year 0, by the Gregorian calendar.
fn month_of(time: UnixSeconds) -> u32 {
    // Years that start in March have their odd day at the end: then a month's start is a linear formula.
    // 719,468 days lie between 0000-03-01 and 1970-01-01; 146,097 days are 400 years.
    let days = time.0.min(UnixSeconds::MAX.0) / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    ((era * 400 + year_of_era) * 12 + months_since_march + 2) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_turn_at_midnight_utc() {
        let january_2024 = 2024 * 12;
        for (time, month) in [
            (0, 1970 * 12),
            (1_704_067_199, january_2024 - 1),
            (1_704_067_200, january_2024),
            (1_709_164_800, january_2024 + 1), // 2024-02-29
            (1_709_251_199, january_2024 + 1),
            (1_709_251_200, january_2024 + 2),
            (4_107_542_400, 2100 * 12 + 2), // 2100-03-01: 2100 is no leap year
            (4_107_542_399, 2100 * 12 + 1),
        ] {
            assert_eq!(month_of(UnixSeconds(time)), month, "{time}");
        }
    }

    #[test]
    fn a_new_month_has_its_whole_limit() {
        let mut traffic = MonthTraffic::default();
        let (january, february) = (UnixSeconds(1_704_067_200), UnixSeconds(1_706_745_600));
        traffic.add(60, january);
        traffic.add(30, january);
        assert_eq!(traffic.left(100, january), 10);
        assert_eq!(traffic.left(80, january), 0);
        assert_eq!(traffic.left(u64::MAX, january), u64::MAX);
        assert_eq!(traffic.left(100, february), 100);
        traffic.add(1, february);
        assert_eq!(traffic.left(100, february), 99);
    }
}
