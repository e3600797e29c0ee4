//! A verifier's own arithmetic, in 256 bits: no sum of 128-bit amounts leaves them.

use ipsx_metering::{Amount, Prices, U256, Usage};

const GIB: U256 = U256::from_limbs([1 << 30, 0, 0, 0]);
const WHOLE: U256 = U256::from_limbs([10_000, 0, 0, 0]);

/// As many bits as sums need.
pub(super) fn wide(amount: Amount) -> U256 {
    U256::from(amount.0)
}

/// What usage costs: time, and each begun share of a GiB, rounded up once.
pub(super) fn cost(prices: &Prices, usage: &Usage) -> U256 {
    let time = U256::from(usage.secs) * wide(prices.per_second.0);
    let scaled =
        (U256::from(usage.bytes_up) + U256::from(usage.bytes_down)) * wide(prices.per_gib.0);
    let (whole, rest) = scaled.div_rem(GIB);
    time + whole + U256::from(u8::from(!rest.is_zero()))
}

/// The fee on a channel that went from `before` to `after` in all: the difference of two rounded totals.
pub(super) fn fee(before: U256, after: U256, fee_bps: u16) -> U256 {
    let until = |total: U256| total * U256::from(fee_bps) / WHOLE;
    until(after).saturating_sub(until(before))
}
