#![allow(clippy::disallowed_methods)]
use super::*;
use proptest::prelude::*;

fn hand(rate: u64) -> u64 {
    (full(rate) / NANOS) as u64
}

const WARM_UP: Duration = Duration::from_millis(500);

/// Every peer sends packets of `len` bytes as fast as it may, asking every `step`; what each got in `time`, once
/// the full pool of the beginning has gone to whoever came first.
fn saturate(rate: u64, weights: &[u64], len: u64, step: Duration, time: Duration) -> Vec<u64> {
    let start = Instant::now();
    let mut share = Share::new(rate, start);
    let numbers: Vec<_> = weights.iter().map(|&weight| share.join(weight)).collect();
    let mut got = vec![0; weights.len()];
    let mut now = start;
    while now - start < WARM_UP + time {
        // Whoever asks first must not get more for it: the order never changes.
        for (number, got) in numbers.iter().zip(&mut got) {
            while share.take(*number, len, now) {
                if now - start >= WARM_UP {
                    *got += len;
                }
            }
        }
        now += step;
    }
    got
}

#[test]
fn one_alone_has_everything() {
    let second = Duration::from_secs(1);
    let got = saturate(1_000_000, &[1], 1_400, Duration::from_millis(1), second);
    assert!((990_000..=1_010_000).contains(&got[0]), "{got:?}");
}

#[test]
fn what_one_leaves_is_for_the_others() {
    let start = Instant::now();
    let mut share = Share::new(1_000_000, start);
    let (modest, greedy) = (share.join(9), share.join(1));
    let (mut modest_got, mut greedy_got) = (0, 0);
    for millis in 0..10_000u64 {
        let now = start + Duration::from_millis(millis);
        // A tenth of what its weight would give it.
        if millis % 10 == 0 && share.take(modest, 900, now) {
            modest_got += 900;
        }
        while share.take(greedy, 1_400, now) {
            greedy_got += 1_400;
        }
    }
    assert_eq!(modest_got, 900 * 1_000, "the modest one is never refused");
    assert!((8_900_000..9_300_000).contains(&greedy_got), "{greedy_got}");
}

#[test]
fn those_who_leave_take_nothing_with_them() {
    let start = Instant::now();
    let mut share = Share::new(100_000, start);
    let (gone, stays) = (share.join(1_000), share.join(1));
    while share.take(gone, 1_000, start) {}
    share.leave(gone);
    assert!(!share.take(gone, 1, start));
    let mut got = 0;
    for millis in 0..1_000 {
        while share.take(stays, 500, start + Duration::from_millis(millis)) {
            got += 500;
        }
    }
    assert!(got >= 98_000, "{got}");
}

proptest! {
    /// Peers that all want more than there is get it in proportion to their weights.
    #[test]
    fn saturated_peers_get_their_parts(
        rate in 500_000u64..20_000_000,
        weights in proptest::collection::vec(1u64..20, 2..12),
        len in 40u64..1_420,
    ) {
        let time = Duration::from_secs(2);
        let got = saturate(rate, &weights, len, Duration::from_micros(500), time);
        let total: u64 = weights.iter().sum();
        let all: u64 = got.iter().sum();
        prop_assert!(all <= rate * 2 + 2 * hand(rate) * weights.len() as u64);
        prop_assert!(all >= rate * 2 * 97 / 100, "{all} of {rate} B/s in 2 s");
        for (got, weight) in got.iter().zip(&weights) {
            let fair = all * weight / total;
            prop_assert!(got.abs_diff(fair) <= fair / 20 + 2 * hand(rate), "{got}, not {fair}");
        }
    }

    /// Against a model that knows only the rate: no history of demands passes more than the rate, the pool and the
    /// hands allow, in any stretch of time.
    #[test]
    fn never_more_than_the_rate(
        rate in 1_000u64..5_000_000,
        steps in proptest::collection::vec((0usize..5, 0u64..20_000, 1u64..1_420), 1..400),
    ) {
        let start = Instant::now();
        let mut share = Share::new(rate, start);
        let numbers: Vec<_> = (1..=5).map(|weight| share.join(weight)).collect();
        let mut now = start;
        let mut passed: Vec<(Instant, u64)> = Vec::new();
        for (who, micros, len) in steps {
            now += Duration::from_micros(micros);
            if share.take(numbers[who], len, now) {
                passed.push((now, len));
            }
        }
        let at_once = u64::try_from(most(rate) / NANOS).unwrap_or(u64::MAX) + 5 * hand(rate) + 1;
        for (first, &(from, _)) in passed.iter().enumerate() {
            let mut sum = 0;
            for &(at, len) in &passed[first..] {
                sum += len;
                let allowed = at_once + ((at - from).as_nanos() * u128::from(rate) / NANOS) as u64;
                prop_assert!(sum <= allowed, "{sum} > {allowed}");
            }
        }
    }
}
