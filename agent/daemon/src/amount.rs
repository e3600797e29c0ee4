//! Amounts as people write them: whole tokens with a decimal point.

use ipsx_metering::Amount;

/// Decimals of the IPSX token: one token is 10^18 of its smallest units.
pub const DECIMALS: usize = 18;

/// What one token is called.
pub const SYMBOL: &str = "IPSX";

const UNIT: u128 = 10u128.pow(DECIMALS as u32);

/// The text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAmount {
    /// Not a decimal number.
    #[error("{0:?} is no amount; write whole tokens, such as 12 or 0.0035")]
    Malformed(String),
    /// Finer than the token's smallest unit.
    #[error("{0:?} has more than {DECIMALS} decimals, which the token cannot hold")]
    TooFine(String),
    /// Does not fit.
    #[error("{0:?} is more than any amount can be")]
    TooLarge(String),
}

/// Reads whole tokens with up to 18 decimals; `_` may group digits. Exact: nothing is rounded.
pub fn parse(text: &str) -> Result<Amount, NoAmount> {
    let malformed = || NoAmount::Malformed(text.into());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.replace('_', "");
    let (whole, fraction) = (digits(whole), digits(fraction));
    let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_number(&whole) || !is_number(&fraction) {
        return Err(malformed());
    }
    let significant = fraction.trim_end_matches('0');
    if significant.len() > DECIMALS {
        return Err(NoAmount::TooFine(text.into()));
    }
    let too_large = |_| NoAmount::TooLarge(text.into());
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(too_large)?
    };
    let fraction: u128 = format!("{significant:0<DECIMALS$}")
        .parse()
        .map_err(too_large)?;
    whole
        .checked_mul(UNIT)
        .and_then(|units| units.checked_add(fraction))
        .map(Amount)
        .ok_or_else(|| NoAmount::TooLarge(text.into()))
}

/// Whole tokens with every decimal that is not zero, for example `0.0035`.
pub fn format(amount: Amount) -> String {
    let (whole, fraction) = (amount.0 / UNIT, amount.0 % UNIT);
    if fraction == 0 {
        return whole.to_string();
    }
    let decimals = format!("{fraction:0DECIMALS$}");
    format!("{whole}.{}", decimals.trim_end_matches('0'))
}

/// Whole tokens with all 18 decimals, for example `0.003500000000000000`: lines up in columns.
pub fn fixed(amount: Amount) -> String {
    format!("{}.{:0DECIMALS$}", amount.0 / UNIT, amount.0 % UNIT)
}

/// [`format()`] of each, filled with spaces so that the decimal points line up when aligned to the right.
pub fn column(amounts: &[Amount]) -> Vec<String> {
    let texts: Vec<String> = amounts.iter().map(|amount| format(*amount)).collect();
    let decimals = |text: &str| text.find('.').map_or(0, |point| text.len() - point);
    let most = texts.iter().map(|text| decimals(text)).max().unwrap_or(0);
    texts
        .iter()
        .map(|text| format!("{text}{}", " ".repeat(most - decimals(text))))
        .collect()
}

/// [`format()`] with the token's name.
pub fn tokens(amount: Amount) -> String {
    format!("{} {SYMBOL}", format(amount))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_and_writes_exactly() {
        for (text, units) in [
            ("0", 0),
            ("1", UNIT),
            ("0.5", UNIT / 2),
            (".5", UNIT / 2),
            ("12.000000000000000001", 12 * UNIT + 1),
            ("1_000.10", 1_000 * UNIT + UNIT / 10),
            ("0.1000000000000000000000", UNIT / 10),
        ] {
            assert_eq!(parse(text).unwrap(), Amount(units), "{text}");
        }
        for units in [0, 1, UNIT - 1, UNIT, 35 * UNIT / 10_000, u128::MAX] {
            assert_eq!(parse(&format(Amount(units))).unwrap(), Amount(units));
        }
        assert_eq!(format(Amount(35 * UNIT / 10_000)), "0.0035");
    }

    #[test]
    fn columns_line_up() {
        let column = column(&[Amount(10 * UNIT), Amount(UNIT / 4), Amount(UNIT / 2)]);
        assert_eq!(column, ["10   ", "0.25", "0.5 "]);
        assert_eq!(fixed(Amount(35 * UNIT / 10_000)), "0.003500000000000000");
    }

    #[test]
    fn refuses_what_is_not_exact() {
        for text in ["", ".", "-1", "1e3", "1,5", "1.2.3", "abc", "_", "+1"] {
            assert!(
                matches!(parse(text), Err(NoAmount::Malformed(_))),
                "{text:?}"
            );
        }
        assert!(matches!(
            parse("0.0000000000000000001"),
            Err(NoAmount::TooFine(_))
        ));
        assert!(matches!(
            parse("340282366920938463464"),
            Err(NoAmount::TooLarge(_))
        ));
        assert!(matches!(parse(&"9".repeat(60)), Err(NoAmount::TooLarge(_))));
    }
}
