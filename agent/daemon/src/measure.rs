//! Quantities as people read them.

/// Bytes with three significant digits or fewer, in binary units: `999 B`, `1.5 KiB`, `32 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut scale = 0;
    let mut unit = u128::from(count);
    let mut size: u128 = 1_024;
    while unit / size >= 1_024 && scale + 1 < UNITS.len() {
        size *= 1_024;
        scale += 1;
    }
    unit = unit * 10 / size;
    let name = UNITS[scale];
    if unit >= 1_000 {
        format!("{} {name}", unit / 10)
    } else {
        format!("{}.{} {name}", unit / 10, unit % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (count, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            (150 * 1_024, "150 KiB"),
            (32 << 20, "32.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
