//! Weekly availability as the command line takes it.

use ipsx_market::offer::WeeklyHours;
use ipsx_metering::U256;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Reads `always`, or hours of the week in UTC such as `mon-fri:18-24,sat-sun:0-24`.
///
/// Each part is a day or a range of days, a colon, and the hours from which and to which it holds.
pub fn parse(text: &str) -> Result<WeeklyHours, String> {
    if text == "always" {
        return Ok(WeeklyHours::always());
    }
    let mut hours = U256::ZERO;
    for part in text.split(',') {
        let (days, times) = part.trim().split_once(':').ok_or_else(|| hint(part))?;
        let (first, last) = range(days, day).ok_or_else(|| hint(part))?;
        let (from, to) = range(times, hour).ok_or_else(|| hint(part))?;
        if from >= to || !times.contains('-') {
            return Err(hint(part));
        }
        let mut current = first;
        loop {
            for hour in from..to {
                hours |= U256::from(1u8) << (current * 24 + hour);
            }
            if current == last {
                break;
            }
            current = (current + 1) % 7;
        }
    }
    Ok(WeeklyHours(hours))
}

fn range(text: &str, read: impl Fn(&str) -> Option<usize>) -> Option<(usize, usize)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((read(first)?, read(last)?))
}

fn day(text: &str) -> Option<usize> {
    DAYS.iter().position(|day| day.eq_ignore_ascii_case(text))
}

fn hour(text: &str) -> Option<usize> {
    text.parse().ok().filter(|hour| *hour <= 24)
}

fn hint(part: &str) -> String {
    format!(
        "{part:?} is no part of a schedule; write always, or days and hours (UTC) such as mon-fri:18-24,sat-sun:0-24"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use ipsx_metering::UnixSeconds;

    #[test]
    fn hours_are_those_of_the_week_in_utc() {
        assert_eq!(parse("always").unwrap(), WeeklyHours::always());
        assert_eq!(parse("mon-sun:0-24").unwrap(), WeeklyHours::always());
        let evenings = parse("mon-fri:18-24, sun:7-8").unwrap();
        // 2024-01-01 was a Monday.
        let monday = 1_704_067_200;
        let at = |day: u64, hour: u64| UnixSeconds(monday + day * 86_400 + hour * 3_600);
        assert!(evenings.contains(at(0, 18)) && evenings.contains(at(4, 23)));
        assert!(!evenings.contains(at(0, 17)) && !evenings.contains(at(5, 18)));
        assert!(evenings.contains(at(6, 7)) && !evenings.contains(at(6, 8)));
    }

    #[test]
    fn a_range_of_days_may_pass_the_end_of_the_week() {
        assert_eq!(
            parse("fri-mon:0-24"),
            parse("fri:0-24,sat:0-24,sun:0-24,mon:0-24")
        );
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in [
            "",
            "mon",
            "mon:8",
            "mon:8-8",
            "mon:9-8",
            "mon:0-25",
            "day:0-24",
            "mon:0-24,",
        ] {
            assert!(
                parse(text).unwrap_err().contains("mon-fri:18-24"),
                "{text:?}"
            );
        }
    }
}
