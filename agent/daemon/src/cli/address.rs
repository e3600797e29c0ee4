//! Addresses as the command line takes them: money that goes to a mistyped one is gone.

use ipsx_metering::Address;

/// Reads an address; in mixed case its checksum must hold (EIP-55).
pub(crate) fn parse(text: &str) -> Result<Address, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let address: Address = digits
        .parse()
        .map_err(|_| format!("{text} is no address; write 0x and 40 hexadecimal digits"))?;
    let mixed = digits.contains(|c: char| c.is_ascii_lowercase())
        && digits.contains(|c: char| c.is_ascii_uppercase());
    if mixed && address.to_checksum(None)[2..] != *digits {
        return Err(format!(
            "{text} has a wrong checksum: a digit is mistyped; copy the address again"
        ));
    }
    if address.is_zero() {
        return Err("nobody has the address 0".into());
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first example of EIP-55.
    const GOOD: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

    #[test]
    fn a_mistyped_address_is_refused() {
        for good in [GOOD, &GOOD[2..], &GOOD.to_lowercase()] {
            assert_eq!(parse(good).unwrap().to_string(), GOOD);
        }
        let swapped = GOOD.replace("aAeb", "aAbe");
        assert!(parse(&swapped).unwrap_err().contains("checksum"));
        for bad in [
            "",
            "0x",
            "0x12",
            &GOOD[..41],
            "me",
            &format!("0x{}", "0".repeat(40)),
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
