//! Histories of a market that nobody thought of: what agents and requesters say, in any order.
//!
//! `IPSX_HISTORIES=100000` in the environment tries more of them.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads its switch, and fails by panicking"
)]

use ipsx_properties::check;

/// Numbers that are the same in each run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u8 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    }
}

#[test]
fn any_history_keeps_the_promises() {
    let histories = std::env::var("IPSX_HISTORIES").ok();
    let histories = histories.and_then(|text| text.parse().ok()).unwrap_or(400);
    let mut numbers = Numbers(0x1965_0815);
    for _ in 0..histories {
        let mut input = Vec::new();
        for _ in 0..usize::from(numbers.next()) {
            // Offers, requests and signatures come often, or nothing would go on for long; raw messages are for fuzzers.
            const ACTS: [u8; 22] = [
                1, 1, 10, 10, 2, 2, 2, 11, 11, 11, 12, 12, 3, 3, 4, 4, 5, 6, 8, 13, 14, 15,
            ];
            let act = ACTS[usize::from(numbers.next()) % ACTS.len()];
            // As many values as the act takes after whose it is.
            let values = match act {
                1 => 4,
                10 | 15 => 0,
                13 => 2,
                _ => 1,
            };
            input.extend([act, numbers.next()]);
            input.extend((0..values).map(|_| numbers.next() % 16));
        }
        // Printed if the history breaks a promise.
        println!("{input:02x?}");
        check("market", &input);
    }
}
