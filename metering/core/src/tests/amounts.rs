//! Amounts, slices and capacity against slow, obvious references.

use std::time::Duration;

use proptest::prelude::*;

use super::fixtures::terms;
use crate::*;

/// The amount due, by schoolbook arithmetic on decimal-free 512-bit halves: add the price of a second once for each
/// binary digit of the seconds, likewise for bytes, then count GiB by subtraction of powers of two.
fn slow_due(prices: &Prices, usage: &Usage) -> Option<u128> {
    let time = slow_product(prices.per_second.0.0, u128::from(usage.secs));
    let bytes = u128::from(usage.bytes_up) + u128::from(usage.bytes_down);
    let mut traffic = slow_product(prices.per_gib.0.0, bytes);
    let mut gib = Vec::new();
    // Long division by 2^30 of the little-endian bits, rounding up.
    let rest = traffic.iter().take(30).any(|bit| *bit);
    traffic.drain(..30.min(traffic.len()));
    gib.append(&mut traffic);
    if rest {
        gib = slow_sum(&gib, &[true]);
    }
    let sum = slow_sum(&time, &gib);
    if sum.iter().skip(128).any(|bit| *bit) {
        return None;
    }
    Some(
        sum.iter()
            .take(128)
            .enumerate()
            .map(|(place, bit)| u128::from(*bit) << place)
            .sum(),
    )
}

fn bits(mut number: u128) -> Vec<bool> {
    let mut bits = Vec::new();
    while number > 0 {
        bits.push(number % 2 == 1);
        number /= 2;
    }
    bits
}

fn slow_sum(a: &[bool], b: &[bool]) -> Vec<bool> {
    let mut sum = Vec::new();
    let mut carry = false;
    for place in 0..a.len().max(b.len()) + 1 {
        let digits = [
            a.get(place).copied().unwrap_or(false),
            b.get(place).copied().unwrap_or(false),
            carry,
        ];
        let ones = digits.iter().filter(|digit| **digit).count();
        sum.push(ones % 2 == 1);
        carry = ones >= 2;
    }
    sum
}

fn slow_product(a: u128, b: u128) -> Vec<bool> {
    let mut product = Vec::new();
    for (place, bit) in bits(b).into_iter().enumerate() {
        if bit {
            let mut shifted = vec![false; place];
            shifted.extend(bits(a));
            product = slow_sum(&product, &shifted);
        }
    }
    product
}

fn a_number() -> impl Strategy<Value = u128> {
    (any::<u128>(), 0u32..128).prop_map(|(number, shift)| number >> shift)
}

fn a_count() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(number, shift)| number >> shift)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn due_is_what_the_slow_way_says(
        per_second in a_number(),
        per_gib in a_number(),
        secs in a_count(),
        bytes_up in a_count(),
        bytes_down in a_count(),
    ) {
        let prices = Prices {
            per_second: PricePerSecond(Amount(per_second)),
            per_gib: PricePerGib(Amount(per_gib)),
        };
        let usage = Usage { secs, bytes_up, bytes_down };
        prop_assert_eq!(prices.due(&usage).ok().map(|due| due.0), slow_due(&prices, &usage));
    }

    #[test]
    fn a_slice_is_between_the_first_and_thirty_seconds(
        budget in 1u128..1_000_000_000,
        seconds in 1u64..10_000_000,
        paid in 0u128..1_000_000_000,
        round_trip in 0u64..20_000,
    ) {
        let terms = terms(1, 0, 0, seconds, budget);
        let slices = Slices::new(&terms, Duration::from_millis(round_trip));
        let full = budget.div_ceil(u128::from(seconds));
        let first_ms = u128::from((4 * round_trip + 1_000).clamp(2_000, 30_000));
        let first = (full * first_ms).div_ceil(1_000).min(budget);
        prop_assert_eq!(slices.first(), Amount(first));
        let next = (paid / 20).min(full * 30).max(first);
        prop_assert_eq!(slices.next(Amount(paid)), Amount(next));
        let time = slices.next_time(Amount(paid));
        prop_assert!(time >= slices.first_time() && time <= LONGEST_SLICE);
    }

    #[test]
    fn capacity_covers_a_third_of_the_time_paid(
        full in 1u128..1_000_000,
        budget in 1u128..1_000_000_000_000,
        before in 0u128..1_000_000,
        paid in 0u128..1_000_000_000_000,
    ) {
        let paid = paid.min(budget);
        let mut seconds = 60;
        // A third of the seconds paid, by counting them.
        while seconds < 600 && (seconds + 1) * 3 * full <= paid {
            seconds += 1;
        }
        let ahead = (seconds * full).min(budget - paid);
        prop_assert_eq!(
            capacity(Amount(full), Amount(budget), Amount(before + paid), Amount(paid)),
            Amount(before + paid + ahead)
        );
    }
}

#[test]
fn a_first_slice_grows_with_the_round_trip() {
    let at = |ms| first_slice(Duration::from_millis(ms)).as_millis();
    assert_eq!(at(0), 2_000);
    assert_eq!(at(250), 2_000);
    assert_eq!(at(300), 2_200);
    assert_eq!(at(60_000), 30_000);
    assert_eq!(first_slice(Duration::MAX), LONGEST_SLICE);
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let mut terms = terms(1, u128::MAX, 0, u64::MAX, u128::MAX);
    assert_eq!(terms.check(), Ok(()));
    let slices = Slices::new(&terms, Duration::MAX);
    assert_eq!(slices.next(Amount::MAX), Amount::MAX);
    assert_eq!(slices.for_seconds(u64::MAX), Amount::MAX);
    assert_eq!(
        capacity(Amount::MAX, Amount::MAX, Amount::MAX, Amount::ZERO),
        Amount::MAX
    );
    terms.prices.per_gib = PricePerGib(Amount::MAX);
    let usage = Usage {
        secs: u64::MAX,
        bytes_up: u64::MAX,
        bytes_down: u64::MAX,
    };
    assert_eq!(terms.due(&usage), Amount::MAX);
}

#[test]
fn terms_that_cannot_be_metered_are_refused() {
    let good = terms(1, 10, 1_000, 10, 1_000);
    assert_eq!(good.check(), Ok(()));
    let no_time = Terms {
        max_seconds: 0,
        ..good.clone()
    };
    assert_eq!(no_time.check(), Err(TermsError::NoTime(good.deal_id)));
    let no_budget = Terms {
        budget: Amount::ZERO,
        ..good.clone()
    };
    assert_eq!(no_budget.check(), Err(TermsError::NoBudget(good.deal_id)));
    let nobody = Terms {
        agent_key: Address::ZERO,
        ..good.clone()
    };
    assert_eq!(nobody.check(), Err(TermsError::ZeroAddress(good.deal_id)));
    let coarse = terms(1, 0, 1 << 40, 100, 100);
    assert!(matches!(coarse.check(), Err(TermsError::NoPacket { .. })));
}
