//! The internet checksum (RFC 1071).

/// Ones' complement sum of big-endian 16-bit words, folded to 16 bits; an odd last byte is padded with zero.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    // The sum does not depend on the byte order (RFC 1071, section 2), so wide words are added as the machine reads
    // them, and only the result is turned. Independent lanes let the compiler use vector registers.
    let mut lanes = [0u64; 16];
    let mut blocks = bytes.chunks_exact(64);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let mut words = blocks.remainder().chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u32::from(u16::from_be(fold(total)))
}

/// Folds a sum of words to 16 bits.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Sum of the pseudo-header (RFC 9293, RFC 8200) without its length: both addresses and the protocol number.
pub(super) fn pseudo_header(addresses: &[u8], protocol: u8) -> u32 {
    sum(addresses) + u32::from(protocol)
}

/// The checksum field for data that adds up to `sum`.
pub(super) fn finish(sum: u32) -> u16 {
    !fold(u64::from(sum))
}

/// The checksum field of UDP, where zero would mean that there is none.
pub(super) fn finish_udp(sum: u32) -> u16 {
    match finish(sum) {
        0 => 0xffff,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn obvious(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for (i, &byte) in bytes.iter().enumerate() {
            total += if i % 2 == 0 {
                u32::from(byte) << 8
            } else {
                u32::from(byte)
            };
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    proptest! {
        #[test]
        fn agrees_with_adding_byte_by_byte(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            prop_assert_eq!(sum(&bytes), u32::from(obvious(&bytes)));
        }
    }

    #[test]
    fn the_example_of_rfc_1071_and_the_largest_packet() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
        assert_eq!(
            sum(&vec![0xff; 65_535]),
            u32::from(obvious(&vec![0xff; 65_535]))
        );
        assert_eq!(finish_udp(0xffff), 0xffff);
        assert_eq!(finish(0xffff), 0);
    }
}
