//! Months and dates (UTC, proleptic Gregorian) of wall-clock seconds.

use std::fmt;
use std::str::FromStr;

use ipsx_metering::UnixSeconds;

/// A calendar month in UTC, written `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month {
    /// Such as 2026.
    pub year: u32,
    /// From 1 to 12.
    pub month: u32,
}

impl Month {
    /// The month that a time falls into.
    pub fn of(time: UnixSeconds) -> Self {
        let (year, month, _) = date(time);
        Self { year, month }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_month = || format!("{text:?} is no month; write year and month, such as 2026-11");
        let (year, month) = text.split_once('-').ok_or_else(no_month)?;
        if year.len() != 4 || month.len() != 2 {
            return Err(no_month());
        }
        let number = |part: &str| part.parse::<u32>().map_err(|_| no_month());
        let (year, month) = (number(year)?, number(month)?);
        if year < 1970 || !(1..=12).contains(&month) {
            return Err(no_month());
        }
        Ok(Self { year, month })
    }
}

/// `2026-11-20 17:30`.
pub(super) fn minute(time: UnixSeconds) -> String {
    let (year, month, day) = date(time);
    let second = time.0 % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}",
        second / 3_600,
        second / 60 % 60
    )
}

/// Year, month and day, by eras of 400 years that begin on 1 March: then leap days come last.
fn date(time: UnixSeconds) -> (u32, u32, u32) {
    const ERA_DAYS: u64 = 146_097;
    let days = time.0.min(UnixSeconds::MAX.0) / 86_400 + 719_468;
    let (era, of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    // Below 36813 for every time that the type holds.
    (year as u32, month as u32, day as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_come_out() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (951_868_800, "2000-03-01 00:00"),
            (1_793_491_199, "2026-10-31 23:59"),
            (1_793_491_200, "2026-11-01 00:00"),
            (4_107_542_400, "2100-03-01 00:00"),
        ] {
            assert_eq!(minute(UnixSeconds(seconds)), text);
        }
    }

    #[test]
    fn months_are_read_as_they_are_written() {
        assert_eq!(
            "2026-11".parse::<Month>().map(|m| m.to_string()),
            Ok("2026-11".into())
        );
        for text in [
            "2026-13", "2026-00", "26-11", "2026-1", "2026", "x-y", "1969-12", "+026-11",
        ] {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
    }
}
