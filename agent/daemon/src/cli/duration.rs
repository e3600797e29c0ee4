//! Durations as the command line takes them.

use ipsx_market::check::MAX_REQUEST_SECONDS;
use ipsx_market::offer::{LONGEST_LEASE, SHORTEST_LEASE};
use ipsx_market::start::LONGEST_AHEAD;

/// Reads a lease's length in seconds.
pub fn parse(text: &str) -> Result<u32, String> {
    let lasts = |seconds: &u32| (SHORTEST_LEASE..=LONGEST_LEASE).contains(seconds);
    seconds(text).filter(lasts).ok_or_else(|| {
        format!("{text:?} is no lease duration; write 5s to 31d, such as 90s, 10m, 2h or 7d")
    })
}

/// Reads for how many seconds a request may rest: an hour less than a broker allows, since clocks differ.
pub fn parse_wait(text: &str) -> Result<u32, String> {
    let rests = |seconds: &u32| (1..=MAX_REQUEST_SECONDS - 3_600).contains(&u64::from(*seconds));
    seconds(text).filter(rests).ok_or_else(|| {
        format!("{text:?} is no time to wait; write 1s to 23h, such as 30s, 10m or 2h")
    })
}

/// Reads how many seconds ahead a lease may start: an hour less than a broker allows, since clocks differ.
pub fn parse_ahead(text: &str) -> Result<u32, String> {
    let is_allowed = |seconds: &u32| u64::from(*seconds) <= LONGEST_AHEAD - 3_600;
    seconds(text).filter(is_allowed).ok_or_else(|| {
        format!("{text:?} is no time ahead; write up to 19h, such as 90s, 30m or 2h")
    })
}

/// Reads every how many seconds another address is leased. Until the next lease is up and the one before has ended, two
/// are paid.
pub fn parse_rotation(text: &str) -> Result<u32, String> {
    let rotates = |seconds: &u32| (10..=LONGEST_LEASE).contains(seconds);
    seconds(text).filter(rotates).ok_or_else(|| {
        format!("{text:?} is no time to rotate after; write 10s to 31d, such as 60s, 10m or 2h")
    })
}

/// A number with an optional unit `s`, `m`, `h` or `d`.
fn seconds(text: &str) -> Option<u32> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale: u64 = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(scale)?;
    u32::try_from(seconds).ok()
}

/// Seconds as people read them, for example `2h 5m`.
pub fn format(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units {
        if rest >= size {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if parts.is_empty() {
        "0s".into()
    } else {
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_limits() {
        assert_eq!(parse("90"), Ok(90));
        assert_eq!(parse("10m"), Ok(600));
        assert_eq!(parse("31d"), Ok(LONGEST_LEASE));
        for text in [
            "4",
            "32d",
            "",
            "m",
            "1w",
            "-5",
            "1.5h",
            "99999999999999999999d",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert_eq!((parse_wait("1s"), parse_wait("23h")), (Ok(1), Ok(82_800)));
        assert!(parse_wait("0s").is_err() && parse_wait("24h").is_err());
        assert_eq!(format(7_500), "2h 5m");
        assert_eq!(format(0), "0s");
    }
}
