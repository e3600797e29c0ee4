//! Durations as the command line takes them.

use ipsx_market::offer::{LONGEST_LEASE, SHORTEST_LEASE};

/// Reads seconds: a number with an optional unit `s`, `m`, `h` or `d`; within what a lease may last.
pub fn parse(text: &str) -> Result<u32, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale: u64 = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(hint(text)),
    };
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(scale));
    match seconds.and_then(|s| u32::try_from(s).ok()) {
        Some(seconds) if (SHORTEST_LEASE..=LONGEST_LEASE).contains(&seconds) => Ok(seconds),
        _ => Err(hint(text)),
    }
}

fn hint(text: &str) -> String {
    format!("{text:?} is no lease duration; write 5s to 31d, such as 90s, 10m, 2h or 7d")
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
        assert_eq!(format(7_500), "2h 5m");
        assert_eq!(format(0), "0s");
    }
}
