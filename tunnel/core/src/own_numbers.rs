//! Hashing of numbers that this program chose.

use std::hash::{BuildHasher, Hasher};

/// Spreads numbers that nobody else chose, such as session indices: without an adversary who picks colliding keys, one
/// multiplication does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OwnNumbers;

/// State of [`OwnNumbers`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread(u64);

/// 2⁶⁴ divided by the golden ratio, odd: neighbours land far from each other.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl BuildHasher for OwnNumbers {
    type Hasher = Spread;

    fn build_hasher(&self) -> Spread {
        Spread(0)
    }
}

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(GOLDEN);
    }

    fn finish(&self) -> u64 {
        // The table takes low and high bits; a product's low bits depend on few of the number's.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_in_a_row_spread_over_low_and_high_bits() {
        let hashes: Vec<u64> = (0..4096u64).map(|n| OwnNumbers.hash_one(n)).collect();
        let distinct = |part: fn(u64) -> u64| {
            let parts: HashSet<u64> = hashes.iter().map(|&hash| part(hash)).collect();
            parts.len()
        };
        assert!(distinct(|hash| hash & 0xfff) > 2000);
        assert_eq!(distinct(|hash| hash >> 57), 128);
    }
}
