//! Whether a time lies in a month, by counting days from 1970.

/// The first second of a month written `YYYY-MM` (UTC), and that of the next; `None` if it is no month.
pub(super) fn bounds(month: &str) -> Option<(u64, u64)> {
    let (year, number) = month.split_once('-')?;
    if year.len() != 4 || number.len() != 2 {
        return None;
    }
    let (year, number): (u64, usize) = (year.parse().ok()?, number.parse().ok()?);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let whole: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    let february = 28 + u64::from(leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(number.checked_sub(1)?)?;
    let first = whole + lengths[..number - 1].iter().sum::<u64>();
    (year >= 1970).then_some((first * 86_400, (first + length) * 86_400))
}
